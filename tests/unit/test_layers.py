"""Who imports whom, and that importing does nothing.

The rules are design §2's. Imports are read from the syntax tree, wherever they stand: at the top,
inside functions, under TYPE_CHECKING.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = {
    "events": {"events"},
    "fsm": {"events", "fsm"},
    "adapters": {"events", "adapters"},
    "app": {"events", "fsm", "adapters", "app", "proto"},
    "cli": {"events", "app", "cli"},
    "proto": {"proto"},
}
FOLDERS = {*LAYERS}
# What a pure layer may use besides its own: nothing that reads a file, a clock, a socket or dice.
PURE = {
    "events": {
        "abc", "ast", "collections", "contextlib", "dataclasses", "enum", "functools", "hashlib",
        "itertools", "math", "msgpack", "msgspec", "operator", "pydantic", "pydantic_core", "re",
        "struct", "types", "typing", "unicodedata",
    },
    "fsm": {
        "collections", "dataclasses", "enum", "functools", "html", "itertools", "re",
        "statemachine", "types", "typing",
    },
}  # fmt: skip


def files(layer: str) -> list[Path]:
    return [
        path
        for path in sorted((ROOT / layer).rglob("*.py"))
        if "gen" not in path.relative_to(ROOT).parts
    ]


def imported(path: Path, text: str | None = None) -> Iterator[str]:
    """Absolute dotted names of everything that the module imports, ours as edgereplica.…"""
    module = ("edgereplica", *path.relative_to(ROOT).with_suffix("").parts)
    for node in ast.walk(ast.parse(text if text is not None else path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module[: len(module) - node.level]
                base = ".".join((*package, base) if base else package)
            yield base
            # `from .. import fsm` names a module too.
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value


def _called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def layer_of(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == "edgereplica" and len(parts) > 1 else None


def crossing(layer: str, path: Path, text: str | None = None) -> list[str]:
    """Names that the module imports from where its layer may not."""
    allowed = LAYERS[layer]
    return [
        name
        for name in imported(path, text)
        if (found := layer_of(name)) is not None and found in FOLDERS and found not in allowed
    ]


@pytest.mark.parametrize("layer", LAYERS)
def test_each_layer_imports_only_what_it_may(layer: str) -> None:
    assert files(layer)
    wrong = {str(path): crossing(layer, path) for path in files(layer)}
    assert {path: names for path, names in wrong.items() if names} == {}


@pytest.mark.parametrize("layer", PURE)
def test_pure_layers_import_nothing_that_touches_the_world(layer: str) -> None:
    for path in files(layer):
        for name in imported(path):
            top = name.split(".")[0]
            assert top == "edgereplica" or top in PURE[layer], f"{path} imports {name}"


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        ("events", "from ..fsm import machine"),
        ("events", "from .. import fsm"),
        ("events", "import edgereplica.app.driver"),
        ("fsm", "def f():\n    from ..adapters.ports import Clock"),
        ("fsm", "if TYPE_CHECKING:\n    from ..app.driver import Driver"),
        ("adapters", "from ..app.settings import Settings"),
        ("cli", "from ..adapters.clock import SystemClock"),
        ("cli", "import importlib\nimportlib.import_module('edgereplica.fsm.machine')"),
    ],
)
def test_the_check_sees_an_import_that_is_not_allowed(layer: str, text: str) -> None:
    assert crossing(layer, ROOT / layer / "planted.py", text)


def sources() -> Iterator[Path]:
    """Every Python file of the repository, tests and benchmarks included."""
    for folder in (*LAYERS, "tests", "bench", "specs"):
        yield from (
            path
            for path in sorted((ROOT / folder).rglob("*.py"))
            if not {"gen", "node_modules"} & set(path.parts)
        )


def bare(path: Path, text: str | None = None) -> list[str]:
    return [name for name in imported(path, text) if name.split(".")[0] in FOLDERS]


def test_nothing_imports_a_folder_by_its_bare_name() -> None:
    """From the repository's root `import events` resolves too, as another module of the same."""
    found = {str(path): bare(path) for path in sources()}
    assert {path: names for path, names in found.items() if names} == {}
    for text in ("import events", "from app import driver", "import cli.main as m"):
        assert bare(ROOT / "tests" / "planted.py", text)


def modules_after(*imports: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after importing these."""
    code = (
        "import sys, json, importlib\n"
        "before = set(sys.modules)\n"
        f"[importlib.import_module(name) for name in {list(imports)!r}]\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert done.stderr == ""
    return set(json.loads(done.stdout))


HEAVY = {
    "aiosqlite", "argon2", "connectrpc", "httpx", "hypothesis", "litestar", "numpy", "obstore",
    "pydantic", "pydantic_settings", "structlog", "uvicorn", "websockets",
}  # fmt: skip
LIGHT = [
    "edgereplica",
    "edgereplica.cli.main",
    "edgereplica.cli.tree",
    "edgereplica.app.driver",
    "edgereplica.app.replay",
    "edgereplica.app.machines",
    "edgereplica.fsm.registry",
    "edgereplica.adapters.websocket_client",
    "edgereplica.app.replica",
]


@pytest.mark.parametrize("name", LIGHT)
def test_the_client_starts_without_the_server_s_libraries(name: str) -> None:
    assert HEAVY & modules_after(name) == set()


def test_the_command_line_starts_without_machines_and_network() -> None:
    loaded = modules_after("edgereplica.cli.main", "edgereplica.cli.tree")
    assert {"statemachine", "picows", "msgpack", "zstandard", "blake3", "sqlean"} & loaded == set()


def test_a_sync_is_read_without_the_command_tree() -> None:
    loaded = modules_after("edgereplica.cli.main", "edgereplica.cli.fast")
    assert {"typer", "edgereplica.cli.tree", "msgspec", "asyncio"} & loaded == set()


MUTE = """
import importlib, os, pathlib, sys, threading
def refuse(event, arguments):
    if event in ("socket.__new__", "subprocess.Popen", "os.system", "os.mkdir", "os.remove",
                 "os.rename", "sqlite3.connect"):
        raise RuntimeError(f"an import does {event} {arguments}")
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        raise RuntimeError(f"an import writes {arguments}")
sys.dont_write_bytecode = True
sys.addaudithook(refuse)
environment, handlers = dict(os.environ), sys.exc_info()
for name in sys.argv[1:]:
    importlib.import_module(name)
assert dict(os.environ) == environment, "an import changed the environment"
assert threading.active_count() == 1, "an import started a thread"
"""


def test_importing_does_nothing() -> None:
    """No file written, no socket, process or thread made, the environment left alone."""
    names = [
        ".".join(("edgereplica", *path.relative_to(ROOT).with_suffix("").parts))
        for layer in LAYERS
        for path in files(layer)
        if path.name not in ("__init__.py", "__main__.py")
    ]
    done = subprocess.run(
        [sys.executable, "-c", MUTE, *names], capture_output=True, text=True, cwd="/", check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == ""
