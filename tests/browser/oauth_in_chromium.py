"""The pages of a login in a real browser: run by `make test-browser`, not by `make test`.

Screenshots for a person to look at go to build/browser.
"""

import re
import shlex
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest
from tests.browser.chromium import Page, chromium
from tests.helpers_server import ServerProcess
from tests.identity_provider.provider import IdentityProvider, identity_provider
from tests.integration.test_cli_accounts import User

SCREENSHOTS = Path(__file__).parents[2] / "build" / "browser"
BOTH = pytest.mark.parametrize("provider", ["github", "google"])


@dataclass
class World:
    idp: IdentityProvider
    server: ServerProcess
    user: User
    page: Page


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with identity_provider() as idp:
        idp.clock = time.time()
        settings = idp.environment(f"http://127.0.0.1:{port}")
        arguments = ("--port", str(port))
        with (
            ServerProcess(tmp_path / "data", *arguments, environment=settings) as server,
            chromium(tmp_path / "profile") as page,
        ):
            page.size(1000, 700)
            yield World(idp, server, User(tmp_path / "ann", server.base), page)


@BOTH
def test_a_click_and_the_copied_command_log_in(world: World, provider: str) -> None:
    page = world.page
    page.open(world.user.ok("oauth", "start", provider))
    page.until("!!document.getElementById('allow')")
    page.click("allow")
    page.until("!!document.getElementById('command')")
    assert page.run("location.search") == "", "the code is not left in the address bar"
    assert page.run("getComputedStyle(document.querySelector('pre')).borderRadius") == "8px"
    for scheme in ("light", "dark"):
        page.scheme(scheme)
        page.screenshot(SCREENSHOTS / f"callback-{provider}-{scheme}.png")
    page.size(360, 700)
    assert page.run("document.documentElement.scrollWidth") <= 360
    page.screenshot(SCREENSHOTS / f"callback-{provider}-narrow.png")
    origin = world.server.base
    page.command(
        "Browser.grantPermissions",
        permissions=["clipboardReadWrite", "clipboardSanitizedWrite"],
        origin=origin,
    )
    page.click("copy")
    page.until("document.getElementById('copy').textContent === 'Copied'")
    copied = page.run("navigator.clipboard.readText()")
    assert copied == page.run("document.getElementById('command').textContent")
    assert page.complaints == []
    program, *words = shlex.split(copied)
    assert program == "edgereplica"
    assert "logged in as octo@example.org" in world.user.ok(*words)


@BOTH
def test_a_click_logs_in_the_program_that_waits(world: World, provider: str) -> None:
    page = world.page
    command, url = world.user.wait_for_browser("oauth", "login", provider)
    page.open(url)
    page.until("!!document.getElementById('allow')")
    page.click("allow")
    page.until("document.title === 'You can close this page'")
    page.screenshot(SCREENSHOTS / f"loopback-{provider}.png")
    out, err = command.communicate(timeout=30)
    assert command.returncode == 0, err
    assert "logged in as octo@example.org" in out
    assert page.complaints == []


def test_a_refusal_is_shown_and_runs_nothing(world: World) -> None:
    page = world.page
    page.open(world.user.ok("oauth", "start", "github"))
    page.until("!!document.getElementById('deny')")
    page.click("deny")
    text = page.until("document.querySelector('pre') && document.querySelector('pre').innerText")
    assert text == "access_denied: The user said <b>no</b>"
    page.screenshot(SCREENSHOTS / "callback-denied.png")
    hostile = {
        "error": "<img src=x onerror='document.title=1'><script>document.title=2</script>",
        "error_description": "</pre><svg onload=alert(1)>",
    }
    page.open(f"{world.server.base}/oauth/google/callback?{urlencode(hostile)}")
    page.until("document.title.startsWith('Google')")
    assert page.run("document.querySelectorAll('img, svg, script').length") == 0


def test_the_policy_forbids_what_slips_in(world: World) -> None:
    """Even if escaping failed: nothing inline runs, and nothing is loaded or framed."""
    page = world.page
    page.open(f"{world.server.base}/oauth/github/callback?state={'a' * 64}&code=abc")
    page.until("!!document.getElementById('command')")
    page.run(
        "document.body.insertAdjacentHTML('beforeend', "
        "`<img src=x onerror='document.title=\"run\"'><iframe src='/healthz'></iframe>`)"
    )
    page.until("document.querySelector('img').complete")
    assert page.run("document.title") != "run"
    assert page.run("fetch('/healthz').then(() => 'loaded', () => 'forbidden')") == "forbidden"
    said = " ".join(page.complaints)
    assert len(re.findall("Content Security Policy", said)) >= 2
