"""Where a v1 peer can sync: the in-test server, and the real one in a process of its own."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import pytest
from tests.helpers_server import Account, ServerProcess
from tests.interop.v1_server import Database, V1Server


@dataclass(frozen=True)
class Target:
    """A fresh, empty database and the tokens for it."""

    url: str
    push: str
    pull: str


class Service(Protocol):
    def fresh(self) -> Target: ...


class PeerService:
    def __init__(self, server: V1Server) -> None:
        self._server = server
        self._names = map(str, itertools.count())

    def fresh(self) -> Target:
        name = next(self._names)
        self._server.databases[name] = Database()
        return Target(self._server.url, f"push:{name}", f"pull:{name}")


class RealService:
    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._account = Account.signup(server.base, "peer@example.org")
        self._names = (f"database-{n}" for n in itertools.count())

    def fresh(self) -> Target:
        account = self._account
        database = account.create_database(next(self._names))
        push, pull = account.token(database, "push"), account.token(database, "pull")
        return Target(self._server.sync_url, push, pull)


@pytest.fixture(scope="session", params=["peer", "edgereplica"])
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Each test of v1 runs against the server written from the specification alone and against
    the real one: what only one of them passes is a fault of the test or of the server."""
    if request.param == "peer":
        with V1Server() as server:
            yield PeerService(server)
    else:
        with ServerProcess(tmp_path_factory.mktemp("server") / "data") as process:
            yield RealService(process)


@pytest.fixture
def target(service: Service) -> Target:
    return service.fresh()
