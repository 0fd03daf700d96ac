"""The drawings of the machines as files: written to `specs/machines/`, and checked there.

python -m edgereplica.app.machines [--check] specs/machines
"""

import sys
from pathlib import Path

from ..events.errors import InvalidArgument
from ..fsm import diagrams

SUFFIXES = {"mermaid": "mmd", "dot": "dot", "table": "md"}


def export(style: str, machine: str | None = None) -> dict[str, str]:
    """Drawings by machine name; `style` is mermaid, dot, svg or table."""
    return diagrams.export(style, machine)


def drawings() -> dict[str, str]:
    """What `specs/machines/` holds: text by file name."""
    return {
        f"{name}.{suffix}": text
        for style, suffix in SUFFIXES.items()
        for name, text in export(style).items()
    }


def write(directory: Path) -> list[Path]:
    """Write every drawing and remove those of machines that are no more; the files written."""
    directory.mkdir(parents=True, exist_ok=True)
    wanted = drawings()
    for old in _drawn(directory):
        if old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        (directory / name).write_text(text, encoding="utf-8")
    return [directory / name for name in wanted]


def stale(directory: Path) -> list[str]:
    """Names of files that are missing, outdated or left over; none when all is as generated."""
    wanted = drawings()
    found = {path.name: path.read_text(encoding="utf-8") for path in _drawn(directory)}
    return sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))


def _drawn(directory: Path) -> list[Path]:
    return [path for suffix in SUFFIXES.values() for path in sorted(directory.glob(f"*.{suffix}"))]


def main(arguments: list[str]) -> int:
    check = "--check" in arguments
    directories = [Path(a) for a in arguments if a != "--check"]
    if len(directories) != 1:
        raise InvalidArgument("name one directory")
    if not check:
        write(directories[0])
        return 0
    outdated = stale(directories[0])
    if outdated:
        sys.stderr.write(f"stale: {', '.join(outdated)}; run `make generate`\n")
    return 1 if outdated else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
