"""Tokens at the doors of a running server: narrowed, revoked in the middle of a push, rotated."""

import base64
import secrets
from pathlib import Path

import pytest
from tests.helpers_server import Account, AdminError, ServerProcess, call
from tests.integration.running import Running, database_of, narrowed, run
from tests.interop import v1_peer

from edgereplica import Replica
from edgereplica.app.replica import AsyncReplica
from edgereplica.events.errors import (
    LimitExceeded,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)

PROTOCOLS = pytest.mark.parametrize("protocol", [1, 2])
PAGE = b"SQLite format 3\0".ljust(4096, b"x")


def replica(world: Running, path: Path, token: str, protocol: int = 2) -> AsyncReplica:
    return AsyncReplica(path, server=world.url, token=token, protocol=protocol, retries=0)


async def heads(world: Running, session: str, database: str) -> int:
    """How many versions there are: what a pull of everything is told."""
    token = await world.sync_token(session, database, "pull")
    return (await v1_peer.pull(world.sync_url, token)).reply["max_page"]


@PROTOCOLS
def test_max_bytes_bounds_what_is_pushed_and_pulled(tmp_path: Path, protocol: int) -> None:
    async def check(world: Running) -> None:
        session, _ = await world.signup("ann@example.org")
        database = await world.database(session)
        push = await world.sync_token(session, database, "push")
        pull = await world.sync_token(session, database, "pull")
        file = database_of(tmp_path / "app.db", rows=7)
        size = file.stat().st_size
        short = narrowed(push, f"max_bytes={size - 1}", f"max_bytes={10 * size}")
        with pytest.raises(Exception, match="at most") as refused:
            await replica(world, file, short, protocol).push()
        assert protocol == 1 or isinstance(refused.value, LimitExceeded)
        assert await heads(world, session, database) == 0
        await replica(world, file, narrowed(push, f"max_bytes={size}"), protocol).push()
        assert await heads(world, session, database) == size // 4096
        copy = tmp_path / "copy.db"
        with pytest.raises(Exception, match="at most"):
            await replica(world, copy, narrowed(pull, f"max_bytes={size - 1}"), protocol).pull()
        assert not copy.exists()
        await replica(world, copy, narrowed(pull, f"max_bytes={size}"), protocol).pull()
        assert copy.read_bytes()[100:] == file.read_bytes()[100:]

    run(tmp_path, check)


def test_max_version_bounds_what_is_read_and_made(tmp_path: Path) -> None:
    async def check(world: Running) -> None:
        session, _ = await world.signup("ann@example.org")
        database = await world.database(session)
        push = await world.sync_token(session, database, "push")
        pull = await world.sync_token(session, database, "pull")
        file = database_of(tmp_path / "app.db")
        for _ in range(2):
            await replica(world, file, narrowed(push, "max_version=2")).push()
            database_of(file)
        with pytest.raises(PermissionDenied, match="up to 2"):
            await replica(world, file, narrowed(push, "max_version=2")).push()
        with pytest.raises(PermissionDenied, match="up to 1"):
            await replica(world, file, narrowed(push, "max_version=1")).push(force=True)
        await replica(world, file, push).push()
        one = tmp_path / "one.db"
        result = await replica(world, one, narrowed(pull, "max_version=1")).pull()
        assert result.version == 1
        with pytest.raises(PermissionDenied, match="up to 1"):
            await replica(world, one, narrowed(pull, "max_version=1")).pull(at=2)
        await replica(world, file, push).push(force=True)
        for at in (3, 99, 0.5):  # there, not yet, and before all of them
            with pytest.raises((PermissionDenied, NotFound)) as refused:
                await replica(world, one, narrowed(pull, "max_version=1")).pull(at=at)
            assert isinstance(refused.value, NotFound) == isinstance(at, float)
            assert "3" not in refused.value.message, "what it may not learn of"
        nothing = narrowed(pull, "max_version=0")
        assert (await replica(world, tmp_path / "zero.db", nothing).pull()).version == 0

    run(tmp_path, check)


@pytest.mark.parametrize("how", ["token", "session", "all", "password", "member"])
def test_a_push_whose_token_is_revoked_meanwhile_does_not_commit(tmp_path: Path, how: str) -> None:
    async def check(world: Running) -> None:
        owner, who = await world.signup("ann@example.org")
        database = await world.database(owner)
        pusher, member = owner, who
        if how == "member":
            joining, member = await world.signup("bob@example.org")
            made = await world.ok("InviteMember", {"email": "bob@example.org"}, owner)
            await world.ok("AcceptInvitation", {"invitation": made["invitation"]}, joining)
            switched = await world.ok("SwitchOrganization", {"orgId": who["orgId"]}, joining)
            pusher = switched["sessionToken"]
        token = await world.sync_token(pusher, database, "push")
        async with v1_peer.session(world.sync_url, token) as peer:
            await peer.hello(max_page=1)
            await peer.announce(1, PAGE)
            assert await peer.receive() == ("request_page", {"page_no": 1})
            match how:
                case "token":
                    copy = narrowed(token, "max_bytes=1")
                    await world.ok("RevokeToken", {"token": copy}, owner)
                case "session":
                    other = await world.login("ann@example.org")
                    listed = (await world.ok("ListSessions", {}, owner))["sessions"]
                    (current,) = [entry["id"] for entry in listed if entry.get("current")]
                    await world.ok("RevokeSession", {"sessionId": current}, other)
                case "all":
                    await world.ok("RevokeAllTokens", {}, owner)
                case "password":
                    body = {"oldPassword": "correct horse battery", "newPassword": "another one"}
                    await world.ok("ChangePassword", body, owner)
                case "member":
                    await world.ok("RemoveMember", {"userId": member["userId"]}, owner)
            await peer.send("page_data", page_no=1, data=PAGE)
            await peer.send("complete")
            ending = await peer.ending()
        assert ending.error is not None
        assert "revoked" in ending.error or "no longer a member" in ending.error
        password = "another one" if how == "password" else "correct horse battery"
        login = await world.ok("Login", {"email": "ann@example.org", "password": password})
        assert await heads(world, login["sessionToken"], database) == 0

    run(tmp_path, check)


def test_a_revoked_token_opens_nothing_and_says_so(tmp_path: Path) -> None:
    async def check(world: Running) -> None:
        session, _ = await world.signup("ann@example.org")
        database = await world.database(session)
        token = await world.sync_token(session, database, "push")
        await world.ok("RevokeToken", {"token": token}, session)
        await world.ok("RevokeToken", {"token": token}, session)
        for held in (token, narrowed(token, "max_bytes=99")):
            with pytest.raises(Unauthenticated, match="revoked"):
                await replica(world, database_of(tmp_path / "app.db"), held).push()
        code, _ = await world.call("RevokeToken", {"token": token[:-1] + "A"}, session)
        assert code == "invalid_argument"
        other, _ = await world.signup("bob@example.org")
        mine = await world.sync_token(session, database, "pull")
        assert (await world.call("RevokeToken", {"token": mine}, other))[0] == "not_found"
        assert await heads(world, session, database) == 0, "and it still opens"

    run(tmp_path, check)


def test_an_admin_revokes_what_a_member_holds(tmp_path: Path) -> None:
    async def check(world: Running) -> None:
        admin, who = await world.signup("ann@example.org")
        database = await world.database(admin)
        joining, _ = await world.signup("bob@example.org")
        made = await world.ok("InviteMember", {"email": "bob@example.org"}, admin)
        await world.ok("AcceptInvitation", {"invitation": made["invitation"]}, joining)
        switched = await world.ok("SwitchOrganization", {"orgId": who["orgId"]}, joining)
        member = switched["sessionToken"]
        held = await world.sync_token(member, database, "pull")
        admins = await world.sync_token(admin, database, "pull")
        assert (await world.call("RevokeToken", {"token": admins}, member))[0] == "not_found"
        await world.ok("RevokeToken", {"token": held}, admin)
        with pytest.raises(Unauthenticated):
            await replica(world, tmp_path / "x.db", held).pull()
        assert (await world.call("RevokeToken", {"token": joining}, admin))[0] == "not_found"

    run(tmp_path, check)


def test_sessions_say_when_and_from_where(tmp_path: Path) -> None:
    async def check(world: Running) -> None:
        session, who = await world.signup("ann@example.org")
        world.http.headers["user-agent"] = "a\u00e9gent ".encode().decode("latin-1") + "x" * 500
        second = await world.login("ann@example.org")
        listed = (await world.ok("ListSessions", {}, second))["sessions"]
        assert [entry.get("current", False) for entry in listed] == [True, False]
        assert all(entry["address"] == "127.0.0.1" for entry in listed)
        assert len(listed[0]["agent"]) == 200
        assert {entry["orgId"] for entry in listed} == {who["orgId"]}
        assert all(int(e["expiresAtUnix"]) - int(e["openedAtUnix"]) >= 86_399 for e in listed)
        await world.ok("Logout", {}, session)
        assert len((await world.ok("ListSessions", {}, second))["sessions"]) == 1

    run(tmp_path, check)


def key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def test_the_rotation_of_docs_tokens_md(tmp_path: Path) -> None:
    """Old and new keys side by side; then the old one goes, and with it what it signed."""
    old, new = key(), key()
    data, file = tmp_path / "data", database_of(tmp_path / "app.db")

    def serving(keys: str) -> ServerProcess:
        return ServerProcess(data, environment={"SESSION_KEY": keys})

    with serving(old) as server:
        before = Account.signup(server.base, "ann@example.org")
        database = before.create_database("main")
        push = before.token(database, "push")
        Replica(file, server=server.base, token=push).push()
    with serving(f"{new},{old}") as server:
        assert call(server.base, "Whoami", {}, before.session_token)
        database_of(file)
        Replica(file, server=server.base, token=push).push()
        body = {"email": "ann@example.org", "password": "correct horse battery"}
        after = call(server.base, "Login", body)["sessionToken"]
    with serving(new) as server:
        assert call(server.base, "Whoami", {}, after)
        with pytest.raises(AdminError, match="not signed by this server"):
            call(server.base, "Whoami", {}, before.session_token)
        with pytest.raises(Unauthenticated):
            Replica(file, server=server.base, token=push, retries=0).pull()
        fresh = Account(server.base, after).token(database, "pull")
        assert Replica(tmp_path / "copy.db", server=server.base, token=fresh).pull().version == 2
