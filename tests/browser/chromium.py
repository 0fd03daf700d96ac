"""A headless Chromium, driven through its DevTools protocol with nothing but a WebSocket.

`make test-browser` says what to install. Each browser has a profile of its own and ends with its
`with`.
"""

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

START_SECONDS_MAX = 60
PATIENCE_SECONDS = 20


class Page:
    """One tab."""

    def __init__(self, connection: ClientConnection, session: str) -> None:
        self._connection = connection
        self._session = session
        self._numbers = 0
        self.complaints: list[str] = []
        """What the console said: exceptions, and what the page's policy forbade."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")
        # A tab without focus has no clipboard.
        self.command("Emulation.setFocusEmulationEnabled", enabled=True)

    def click(self, identity: str) -> None:
        """A real click of the mouse in the middle of an element."""
        box = f"document.getElementById({identity!r}).getBoundingClientRect()"
        at = self.run(f"(r => ({{x: r.x + r.width / 2, y: r.y + r.height / 2}}))({box})")
        for kind in ("mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    def command(self, method: str, **parameters: Any) -> Any:
        self._numbers += 1
        message = {
            "id": self._numbers,
            "sessionId": self._session,
            "method": method,
            "params": parameters,
        }
        self._connection.send(json.dumps(message))
        while True:
            answer = json.loads(self._connection.recv(PATIENCE_SECONDS))
            self._hear(answer)
            if answer.get("id") == self._numbers and answer.get("sessionId") == self._session:
                assert "error" not in answer, answer
                return answer["result"]

    def _hear(self, event: dict[str, Any]) -> None:
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(event["params"]["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded":
            entry = event["params"]["entry"]
            # A browser asks for an icon that nobody named, and says that a page was a 4xx.
            if entry.get("source") != "network":
                self.complaints.append(str(entry))

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        said = self.command(
            "Runtime.evaluate",
            expression=script,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    def open(self, url: str) -> None:
        self.command("Page.navigate", url=url)

    def until(self, script: str) -> Any:
        """Wait until an expression is true; its value."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if value := self.run(script):
                return value
        raise AssertionError(f"never true: {script}; at {self.run('document.body.innerText')}")

    def size(self, width: int, height: int) -> None:
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def scheme(self, value: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": value}
        self.command("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        data = self.command("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program, "Chromium is not installed (`apt-get install chromium`)"
    profile.mkdir(parents=True, exist_ok=True)
    arguments = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "about:blank",
    ]
    with (profile / "log").open("wb") as log:
        browser = subprocess.Popen([program, *arguments], stdout=log, stderr=log)
    try:
        with connect(_address(browser, profile), max_size=None, proxy=None) as connection:
            connection.send(json.dumps({"id": 0, "method": "Target.getTargets"}))
            targets = _answer(connection, 0)["targetInfos"]
            target = next(t["targetId"] for t in targets if t["type"] == "page")
            attach = {"targetId": target, "flatten": True}
            message = {"id": 1, "method": "Target.attachToTarget", "params": attach}
            connection.send(json.dumps(message))
            yield Page(connection, _answer(connection, 1)["sessionId"])
    finally:
        browser.terminate()
        browser.wait(START_SECONDS_MAX)


def _answer(connection: ClientConnection, number: int) -> Any:
    while True:
        answer = json.loads(connection.recv(PATIENCE_SECONDS))
        if answer.get("id") == number and "sessionId" not in answer:
            return answer["result"]


def _address(browser: "subprocess.Popen[bytes]", profile: Path) -> str:
    """Chromium writes the port that it took, and the path of its socket, into its profile."""
    file = profile / "DevToolsActivePort"
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        assert browser.poll() is None, (profile / "log").read_text(errors="replace")
        if file.exists() and len(lines := file.read_text().split()) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
    raise AssertionError("Chromium did not start")
