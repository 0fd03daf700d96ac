"""What stands in deploy/, as far as it can be checked without Docker and systemd."""

import configparser
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from edgereplica.app.settings import Settings
from edgereplica.cli.tree import app

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
OTHERS = {"PGPASSWORD"}
"""Variables that libpq reads; those of obstore begin with AWS_."""


@pytest.fixture
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


def settings() -> set[str]:
    fields = Settings.model_fields.items()
    return {str(field.validation_alias or name.upper()) for name, field in fields}


def instructions() -> list[tuple[str, str]]:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def serve_options() -> set[str]:
    group = typer.main.get_command(app)
    command = group.commands["serve"]  # type: ignore[attr-defined]
    return {option for parameter in command.params for option in parameter.opts}


def test_the_servers_are_equal_and_have_known_settings(compose: dict[str, Any]) -> None:
    services = compose["services"]
    one, two = services["server-1"], services["server-2"]
    assert one == two, "any of them serves any client"
    unknown = {
        name
        for name in one["environment"]
        if name not in settings() | OTHERS and not name.startswith("AWS_")
    }
    assert unknown == set()
    assert one["read_only"]
    assert one["cap_drop"] == ["ALL"]


def test_every_image_is_pinned_and_every_service_known(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        image = service["image"]
        assert "build" in service or re.search(r":[^:]*\d", image), f"{name}: {image} has no tag"
        assert set(service.get("depends_on", ())) <= set(services)
    for use in (v for s in services.values() for v in s.get("volumes", ())):
        source = use.split(":")[0]
        assert source in compose["volumes"] or (DEPLOY / source).is_file(), source
    upstreams = re.search(r"reverse_proxy (.*) {", (DEPLOY / "Caddyfile").read_text())
    assert upstreams
    assert upstreams[1].split() == [f"{n}:8787" for n in services if n.startswith("server-")]


def test_no_secret_has_a_default(compose: dict[str, Any]) -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    asked = set(re.findall(r"\$\{(\w+):\?", text))
    example = dict(
        line.split("=", 1)
        for line in (DEPLOY / "example.env").read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )
    assert asked == {name for name, value in example.items() if not value}
    assert set(re.findall(r"\$\{(\w+)", text)) == set(example)
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|_KEY$", name):
                assert "${" in value, name


def test_the_image_runs_as_nobody_in_particular_and_copies_what_it_installs() -> None:
    said = instructions()
    assert [rest for word, rest in said if word == "USER"] == ["10001"]
    assert said[-2] == ("ENTRYPOINT", '["edgereplica"]')
    command = re.findall(r'"([^"]+)"', dict(said)["CMD"])
    assert command[0] == "serve"
    assert {word for word in command if word.startswith("--")} <= serve_options()
    kept = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    links = {link.name for link in (ROOT / "src" / "edgereplica").iterdir() if link.is_symlink()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = links | {"src", "pyproject.toml", project["readme"], *project["license-files"]}
    assert kept == needed
    assert "postgres" in project["optional-dependencies"]


def test_the_unit_calls_a_command_that_exists() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=")
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string((DEPLOY / "edgereplica.service").read_text())
    program, command, *words = shlex.split(unit["Service"]["ExecStart"])
    assert (Path(program).name, command) == ("edgereplica", "serve")
    assert {word for word in words if word.startswith("--")} <= serve_options()
    directory = unit["Service"]["StateDirectory"]
    assert words[words.index("--data-dir") + 1] == f"/var/lib/{directory}"
