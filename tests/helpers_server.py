"""A real `edgereplica serve` as a child process, and its administration over Connect JSON.

Stops only the process it started. Speaks plain HTTP through `urllib`, so that tests of the wire
do not depend on any client of ours.
"""

import json
import os
import select
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

SERVICE = "/edgereplica.admin.v1.AdminService/"
START_SECONDS_MAX = 30
STOP_SECONDS_MAX = 20
PASSWORD = "correct horse battery"


class AdminError(Exception):
    """The service refused: `code` is Connect's (`not_found`, …)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """This process's environment without settings of ours, at home in `home`."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("EDGEREPLICA_", "SESSION_", "XDG_"))
    }
    return kept | {"HOME": str(home), "PYTHONUNBUFFERED": "1"} | more


class ServerProcess:
    """`edgereplica serve --port 0`, ready to be talked to inside the `with`."""

    def __init__(
        self, data_dir: Path, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self._data_dir = data_dir
        self._arguments = arguments
        self._environment = environment
        self.base = ""
        self.log: list[str] = []

    def __enter__(self) -> Self:
        self._data_dir.mkdir(parents=True, exist_ok=True)
        self.log_path = self._data_dir.with_name(self._data_dir.name + ".log")
        edgereplica = Path(sys.executable).with_name("edgereplica")
        command = [str(edgereplica), "serve", "--port", "0", "--data-dir", str(self._data_dir)]
        environment = clean_environment(self._data_dir, **(self._environment or {}))
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *self._arguments],
                stdout=log,
                stderr=subprocess.PIPE,
                env=environment,
            )
        self.base = self._listening()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _listening(self) -> str:
        """The address from the line `listening on http://HOST:PORT` on standard error."""
        assert self.process.stderr is not None
        stream = self.process.stderr.fileno()
        os.set_blocking(stream, False)
        said = ""
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline and self.process.poll() is None:
            select.select([stream], [], [], 0.2)
            said += (self.process.stderr.read() or b"").decode()
            for line in said.splitlines(keepends=True):
                if "listening on " in line and line.endswith("\n"):
                    return line.split("listening on ", 1)[1].strip()
        self.process.kill()
        raise AssertionError(f"the server did not start: {said}")

    @property
    def sync_url(self) -> str:
        return self.base.replace("http", "ws", 1) + "/sync"


def call(base: str, method: str, body: Mapping[str, Any], token: str | None = None) -> Any:
    """One unary call of AdminService as Connect JSON; AdminError when it refuses."""
    headers = {"Content-Type": "application/json", "Connect-Protocol-Version": "1"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(
        base + SERVICE + method, json.dumps(body).encode(), headers, method="POST"
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as response:
            return json.load(response)
    except urllib.error.HTTPError as failure:
        said = json.load(failure)
        raise AdminError(said.get("code", "?"), said.get("message", "")) from None


@dataclass
class Account:
    """A signed-up user of a server."""

    base: str
    session_token: str

    @classmethod
    def signup(cls, base: str, email: str) -> Self:
        said = call(base, "Signup", {"email": email, "password": PASSWORD})
        return cls(base, said["sessionToken"])

    def create_database(self, name: str) -> str:
        said = call(self.base, "CreateDatabase", {"name": name}, self.session_token)
        return str(said["id"])

    def token(self, database_id: str, direction: str) -> str:
        """A sync token for `push` or `pull`."""
        body = {"databaseId": database_id, "direction": f"DIRECTION_{direction.upper()}"}
        return str(call(self.base, "IssueSyncToken", body, self.session_token)["token"])
