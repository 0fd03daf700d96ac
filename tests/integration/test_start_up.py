"""What a sync loads. A small sync is mostly its imports, so each of them must be meant.

No time decides here: the modules are counted and named.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.helpers_server import ServerProcess
from tests.helpers_sync import User, make_notes

PACKAGES = {
    "aiofastnet", "async_timeout", "blake3", "edgereplica", "msgpack", "msgspec", "multidict",
    "picows", "python_socks", "sqlean", "statemachine", "typing_extensions", "xxhash", "zstandard",
}  # fmt: skip
"""What a sync may load besides the standard library."""
UNCHANGED_OWN_MODULES_MAX = 60
"""Of `edgereplica`, for a push that finds nothing changed."""
UNCHANGED_MODULES_MAX = 400
NEVER = {"email", "http.client", "sqlite3", "tomli_w", "typer", "urllib.request"}

RUN = """
import json, sys
from edgereplica.cli.main import main
sys.argv[0] = "edgereplica"
try:
    main()
finally:
    outside = {
        name.partition(".")[0]
        for name, module in list(sys.modules.items())
        if "site-packages" in str(getattr(module, "__file__", "") or "")
    }
    print(json.dumps([sorted(sys.modules), sorted(outside)]), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("start-up") / "data") as running:
        yield running


def loaded_by(user: User, way: str, file: Path, outcome: str) -> tuple[set[str], set[str]]:
    """All modules of that sync, and the packages from outside."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *user.command(way, file)[1:], "--json"],
        capture_output=True, text=True, check=True, env=user.environment(way),
    )  # fmt: skip
    assert json.loads(done.stdout)["outcome"] == outcome
    modules, outside = json.loads(done.stderr.splitlines()[-1])
    return set(modules), set(outside) - {"distutils-precedence", "_distutils_hack"}


def test_a_sync_loads_what_it_is_known_to_need(server: ServerProcess, tmp_path: Path) -> None:
    user = User(tmp_path, server.base)
    file, copy = tmp_path / "app.db", tmp_path / "copy.db"
    make_notes(file)
    for way, path, outcome in (
        ("push", file, "pushed"),
        ("push", file, "unchanged"),
        ("pull", copy, "pulled"),
        ("pull", copy, "unchanged"),
    ):
        modules, outside = loaded_by(user, way, path, outcome)
        assert outside <= PACKAGES, (way, outcome)
        assert modules & NEVER == set(), (way, outcome)
        if outcome == "unchanged":
            own = {name for name in modules if name.startswith("edgereplica")}
            assert len(own) <= UNCHANGED_OWN_MODULES_MAX, sorted(own)
            assert len(modules) <= UNCHANGED_MODULES_MAX, sorted(modules)
