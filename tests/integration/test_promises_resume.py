"""Cut, killed, hung: nothing is seen of it, and the next push sends only what is missing."""

import asyncio
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.helpers_cutting import CuttingProxy, Fault
from tests.helpers_local import python
from tests.helpers_server import START_SECONDS_MAX, ServerProcess
from tests.helpers_sync import User, dump, execute, make_notes, sessions_ended, wait_for

from edgereplica.adapters.websocket_client import connect
from edgereplica.app import sample_database
from edgereplica.events.errors import EdgeReplicaError
from edgereplica.events.limits import SEGMENT_BYTES_MAX

MIB = 1024 * 1024
# A pull that is killed as soon as it calls what argv[2] names: before or after it changed the file.
KILLED_PULL = """
import os, sys
from edgereplica import Replica
from edgereplica.app import pull_client, pull_session
path, moment, server, token, *at = sys.argv[1:]
def die(*_, **__):
    os.kill(os.getpid(), 9)
if moment == "before":
    pull_client.apply_version = pull_client.FreshFile.install = die
elif moment == "between its names":
    pull_client.FreshFile.abandon = die
else:
    remove = pull_session.Sidecar.remove
    pull_session.Sidecar.remove = lambda at: die() if str(at).endswith("-pulled") else remove(at)
    save = pull_session.save_sidecar
    pull_session.save_sidecar = lambda at, **more: die() if str(at) == path else save(at, **more)
Replica(path, server=server, token=token).pull(at=int(at[0]) if at else None)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("resume") / "data") as running:
        yield running


@pytest.fixture
def user(server: ServerProcess, tmp_path: Path) -> User:
    return User(tmp_path, server.base)


def elsewhere(user: User, file: Path) -> Path:
    """The same database on another machine: another directory, and no trace of the first push."""
    place = user.home / "elsewhere"
    place.mkdir()
    shutil.copy(file, place / "copy.db")
    return place / "copy.db"


def check_resumed(done: dict[str, Any], least: int) -> None:
    assert done["outcome"] == "pushed"
    assert done["pages_resumed"] >= least
    assert done["pages_sent"] + done["pages_resumed"] == done["pages_changed"]
    assert done["bytes_sent"] < (done["pages_sent"] + 200) * done["page_size"] * 1.05


def hung_push(user: User, proxy: CuttingProxy, file: Path) -> Any:
    push = user.start("push", file, "--compress", "never", EDGEREPLICA_SERVER=proxy.base)
    assert proxy.reached.wait(START_SECONDS_MAX)
    return push


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_a_client_killed_in_mid_push_has_sent_nothing_in_vain(
    user: User, server: ServerProcess, tmp_path: Path, where: str
) -> None:
    file = tmp_path / "app.db"
    sample_database.create(file, 6 * MIB)
    ended = sessions_ended(server)
    with CuttingProxy(user.base, Fault("stall", 3 * MIB)) as proxy:
        push = hung_push(user, proxy, file)
        push.kill()
        push.communicate()
    wait_for(lambda: sessions_ended(server) > ended, "the server saw the end of the session")
    assert user.ok("status", file)["head"] == 0, "half a push is visible"
    again = elsewhere(user, file) if where == "elsewhere" else file
    done = user.ok("push", again, "--compress", "never")
    check_resumed(done, MIB // 4096)
    said = user.run("push", again).stdout
    assert said.startswith("unchanged: version 1")
    user.ok("pull", tmp_path / "pulled.db")
    assert dump(tmp_path / "pulled.db") == dump(file)


def test_a_server_killed_in_mid_push_keeps_its_full_segments(user: User, tmp_path: Path) -> None:
    file, data = tmp_path / "app.db", tmp_path / "data"
    sample_database.create(file, 20 * MIB)
    with ServerProcess(data) as server:
        user = User(tmp_path, server.base)
        with CuttingProxy(server.base, Fault("stall", 18 * MIB)) as proxy:
            push = user.start(
                "push", file, "--compress", "never", "--json", "--retries", "0",
                EDGEREPLICA_SERVER=proxy.base,
            )  # fmt: skip
            assert proxy.reached.wait(START_SECONDS_MAX)
            wait_for(lambda: staged_segments(data) > 0, "a segment is staged")
            server.process.kill()
            server.process.wait()
            said, complaint = push.communicate(timeout=START_SECONDS_MAX)
        assert (push.returncode, said) == (5, ""), complaint
    with ServerProcess(data) as server:
        user.base = server.base
        assert user.ok("status", file)["head"] == 0
        done = user.ok("push", file, "--compress", "never")
        check_resumed(done, SEGMENT_BYTES_MAX // 4096 // 2)
        user.ok("pull", tmp_path / "pulled.db")
    assert dump(tmp_path / "pulled.db") == dump(file)


def staged_segments(data: Path) -> int:
    (repo,) = data.glob("*.db")
    with closing(sqlite3.connect(repo, timeout=30)) as db:
        (count,) = db.execute("SELECT count(*) FROM staged_segments").fetchone()
    return int(count)


@pytest.mark.parametrize("action", ["cut", "reset", "half_close"])
def test_a_cut_push_is_retried_visibly_in_the_same_process(
    user: User, tmp_path: Path, action: Any
) -> None:
    file = tmp_path / "app.db"
    sample_database.create(file, 2 * MIB)
    with CuttingProxy(user.base, Fault(action, MIB)) as proxy:
        done = user.run("push", file, "--compress", "never", EDGEREPLICA_SERVER=proxy.base)
        assert done.returncode == 0, done.stderr
        assert "attempt 1 of 5" in done.stderr
        assert proxy.connections == 2
    assert "pushed version 1" in done.stdout
    user.ok("pull", tmp_path / "pulled.db")
    assert dump(tmp_path / "pulled.db") == dump(file)


@pytest.mark.parametrize("action", ["cut", "reset", "half_close"])
def test_a_handshake_cut_at_any_byte_is_a_lost_connection(user: User, action: Any) -> None:
    """A client once died of an assertion where the first bytes of the answer were cut."""

    async def attempt(at: int) -> str:
        with CuttingProxy(user.base, Fault(action, at, upwards=False)) as proxy:
            url = proxy.base.replace("http", "ws") + "/sync"
            try:
                await (await connect(url, user.tokens["pull"], "pull")).close(1000, "")
            except EdgeReplicaError as error:
                return error.code
            return "connected"

    async def scenario() -> set[str]:
        return {await attempt(at) for at in range(0, 200, 8)}

    assert asyncio.run(scenario()) <= {"network", "connected"}


def test_a_push_whose_acknowledgement_is_lost_is_one_version(user: User, tmp_path: Path) -> None:
    """The commit happened, its answer never came: the retry finds its own content at the head."""
    file = tmp_path / "app.db"
    make_notes(file)
    with CuttingProxy(user.base, record=True) as proxy:
        user.ok("push", file, EDGEREPLICA_SERVER=proxy.base)
        everything = len(proxy.links[0].down)
    execute(file, "UPDATE notes SET stamp = 2")
    with CuttingProxy(user.base, Fault("cut", everything - 20, upwards=False)) as proxy:
        done = user.ok("push", file, EDGEREPLICA_SERVER=proxy.base)
    assert done["version"] in (2, None) or done["outcome"] == "unchanged"
    assert user.ok("status", file)["head"] == 2
    assert user.ok("status", file)["push"] == "nothing"


def test_a_pull_cut_anywhere_leaves_the_file_and_the_next_one_succeeds(
    user: User, tmp_path: Path
) -> None:
    file, replica = tmp_path / "app.db", tmp_path / "replica.db"
    sample_database.create(file, 2 * MIB)
    user.ok("push", file)
    with CuttingProxy(user.base, Fault("cut", MIB, upwards=False)) as proxy:
        code, error = user.refused("pull", replica, "--retries", "0", EDGEREPLICA_SERVER=proxy.base)
        assert (code, error["code"]) == (5, "network")
        assert [p.name for p in tmp_path.glob("replica*")] == []
        proxy.expect(Fault("cut", MIB, upwards=False))
        done = user.run("pull", replica, EDGEREPLICA_SERVER=proxy.base)
        assert done.returncode == 0, done.stderr
        assert "attempt 1 of 5" in done.stderr
    assert dump(replica) == dump(file)


def test_a_client_killed_in_mid_pull_leaves_no_file_and_no_lock(user: User, tmp_path: Path) -> None:
    file, replica = tmp_path / "app.db", tmp_path / "replica.db"
    sample_database.create(file, 2 * MIB)
    user.ok("push", file)
    with CuttingProxy(user.base, Fault("stall", MIB, upwards=False)) as proxy:
        pull = user.start("pull", replica, EDGEREPLICA_SERVER=proxy.base)
        assert proxy.reached.wait(START_SECONDS_MAX)
        pull.kill()
        pull.communicate()
    assert not replica.exists()
    user.ok("pull", replica)
    assert dump(replica) == dump(file)
    left = {p.name for p in tmp_path.glob("replica*")}
    assert left <= {"replica.db", "replica.db-edgereplica", "replica.db-wal", "replica.db-shm"}


@pytest.mark.parametrize("mode", ["wal", "delete"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_pull_killed_around_its_transaction_is_no_local_change(
    user: User, tmp_path: Path, moment: str, mode: str
) -> None:
    """Killed before it wrote its sidecar, a pull once left pages that the next pull took for
    changes made here, and refused to overwrite."""
    file, replica = tmp_path / "app.db", tmp_path / "replica.db"
    make_notes(file)
    execute(file, f"PRAGMA journal_mode = {mode}")
    user.ok("push", file)
    user.ok("pull", replica)
    for pushed_since in (False, True):
        old = dump(replica)
        execute(file, "UPDATE notes SET stamp = stamp + 1")
        user.ok("push", file)
        new = dump(file)
        with python(KILLED_PULL, replica, moment, user.base, user.tokens["pull"]) as pull:
            assert pull.wait() == -9
        assert dump(replica) == (old if moment == "before" else new)
        if pushed_since:
            execute(file, "UPDATE notes SET text = 'later' WHERE id = 7")
            user.ok("push", file)
        user.ok("pull", replica)
        assert dump(replica) == dump(file)
        assert list(tmp_path.glob("replica.db-pulled*")) == []
    execute(file, "UPDATE notes SET text = 'theirs' WHERE id = 9")
    user.ok("push", file)
    with python(KILLED_PULL, replica, moment, user.base, user.tokens["pull"]) as pull:
        assert pull.wait() == -9
    execute(replica, "UPDATE notes SET text = 'mine' WHERE id = 8")
    changed = dump(replica)
    execute(file, "UPDATE notes SET text = 'theirs' WHERE id = 10")
    user.ok("push", file)
    assert user.refused("pull", replica)[1]["code"] == "unpushed_changes"
    assert dump(replica) == changed


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_pull_of_an_older_version_killed_around_its_transaction_is_no_newer_base(
    user: User, tmp_path: Path, moment: str
) -> None:
    """The application writes before the next sync: once its push undid the versions between."""
    file = tmp_path / "app.db"
    make_notes(file)
    for stamp in (1, 2, 3):
        execute(file, f"UPDATE notes SET stamp = {stamp}")
        user.ok("push", file)
    with python(KILLED_PULL, file, moment, user.base, user.tokens["pull"], 1) as pull:
        assert pull.wait() == -9
    if moment == "before":
        assert user.ok("push", file)["outcome"] == "unchanged"
        return
    execute(file, "UPDATE notes SET text = 'mine' WHERE id = 8")
    code, error = user.refused("push", file)
    assert (code, error["code"], error["details"]["base"]) == (3, "conflict", None)
    assert user.ok("status", file)["head"] == 3


@pytest.mark.parametrize("kind", ["new file", "new page size"])
@pytest.mark.parametrize("moment", ["before", "between its names", "after"])
def test_a_pull_killed_around_a_whole_file_is_no_local_change(
    user: User, tmp_path: Path, moment: str, kind: str
) -> None:
    """As in place: the file once had no history with the database when the head had moved on."""
    file, replica = tmp_path / "app.db", tmp_path / "pulled" / "replica.db"
    replica.parent.mkdir()
    make_notes(file)
    execute(file, "PRAGMA journal_mode = delete")
    user.ok("push", file)
    if kind == "new page size":
        user.ok("pull", replica)
        execute(file, "PRAGMA page_size = 1024; VACUUM")
        user.ok("push", file)
    with python(KILLED_PULL, replica, moment, user.base, user.tokens["pull"]) as pull:
        assert pull.wait() == -9
    execute(file, "UPDATE notes SET text = 'later' WHERE id = 7")
    user.ok("push", file)
    user.ok("pull", replica)
    assert dump(replica) == dump(file)
    left = {path.name for path in replica.parent.iterdir()}
    assert left == {"replica.db", "replica.db-edgereplica"}


def test_what_a_killed_pull_wrote_aside_is_removed_by_the_next_sync(
    user: User, tmp_path: Path
) -> None:
    """Also by one that has nothing to do: a second name of the file once stayed for good."""
    file, replica = tmp_path / "app.db", tmp_path / "pulled" / "replica.db"
    replica.parent.mkdir()
    make_notes(file)
    user.ok("push", file)
    moment = "between its names"
    with python(KILLED_PULL, replica, moment, user.base, user.tokens["pull"]) as pull:
        assert pull.wait() == -9
    assert (replica.parent / "replica.db-edgereplica-tmp").exists()
    assert user.ok("pull", replica)["outcome"] == "unchanged"
    left = {path.name for path in replica.parent.iterdir()}
    assert left <= {"replica.db", "replica.db-edgereplica", "replica.db-wal", "replica.db-shm"}
