"""The rule of a database over the wire; and that no service stands without the guards of others."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.integration.running import ADMIN_CALLS, PACKAGE, Running, run
from tests.integration.test_metrics import TOKEN, figures

ROOT = Path(__file__).parents[2]
SERVICES = {"AdminService": "Whoami", "AccountService": "ListSessions"} | {
    "RetentionService": "GetRetention"
}
"""A call of each service that needs a session."""


def test_a_rule_is_set_read_and_taken_back(tmp_path: Path) -> None:
    async def check(server: Running) -> None:
        session, _ = await server.signup("ann@example.org")
        database = await server.database(session)
        body: dict[str, Any] = {"databaseId": database}
        assert await server.ok("GetRetention", body, session) == {}
        rule = {"keepLast": 3, "keepDays": 7}
        assert await server.ok("SetRetention", body | rule, session) == rule
        assert await server.ok("GetRetention", body, session) == rule
        assert await server.ok("SetRetention", body, session) == {}
        for wrong in ({"keepLast": -1}, {"keepDays": 10**6}):
            code, _ = await server.call("SetRetention", body | wrong, session)
            assert code == "invalid_argument"
        code, _ = await server.call("SetRetention", {"databaseId": "nobody's"}, session)
        assert code == "not_found"
        other, _ = await server.signup("bob@example.org")
        assert (await server.call("GetRetention", body, other))[0] == "not_found"

    run(tmp_path, check)


def test_a_rule_set_again_writes_nothing(tmp_path: Path) -> None:
    """Or a loop of calls would grow a log that is never deleted from."""

    async def check(server: Running) -> None:
        session, _ = await server.signup("ann@example.org")
        body = {"databaseId": await server.database(session), "keepLast": 3}
        await asyncio.gather(*(server.ok("SetRetention", body, session) for _ in range(5)))
        before = (tmp_path / "data/edgereplica.db-wal").stat().st_size
        for _ in range(20):
            await server.ok("SetRetention", body, session)
        assert (tmp_path / "data/edgereplica.db-wal").stat().st_size == before

    run(tmp_path, check)


def test_every_service_there_is_has_a_call_here() -> None:
    written = "".join(path.read_text() for path in (ROOT / "proto").rglob("admin/v1/*.proto"))
    declared = {line.split()[1] for line in written.splitlines() if line.startswith("service ")}
    assert declared == set(SERVICES)
    assert SERVICES["AdminService"] in ADMIN_CALLS


@pytest.mark.parametrize("service", SERVICES)
def test_a_refused_call_of_any_service_is_counted(tmp_path: Path, service: str) -> None:
    """What counts refusals is the outermost of the guards, which stand in one row."""

    async def check(server: Running) -> None:
        answer = await server.http.post(f"{PACKAGE}{service}/{SERVICES[service]}", json={})
        assert answer.json()["code"] == "unauthenticated"
        metrics = await server.http.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"})
        assert figures(metrics.text)["edgereplica_refusals_total{unauthenticated,rpc}"] == 1

    run(tmp_path, check, metrics_token=TOKEN)
