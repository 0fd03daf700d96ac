"""The machines by name: for diagrams, recordings and tests that must reach all of them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..events.errors import InvalidArgument
from .client_pull import ClientPull
from .client_push import ClientPush
from .database_lifecycle import DatabaseLifecycle
from .machine import Machine, StrictMachine
from .oauth_login import OAuthLogin
from .server_pull import ServerPull
from .server_push import ServerPush

MACHINES: Mapping[str, type[Machine]] = MappingProxyType(
    {
        "client_push": ClientPush,
        "client_pull": ClientPull,
        "server_push": ServerPush,
        "server_pull": ServerPull,
    }
)
"""The machines of a sync session: these can be recorded and replayed."""

DRAWN: Mapping[str, type[StrictMachine[Any]]] = MappingProxyType(
    {**MACHINES, "oauth_login": OAuthLogin, "database_lifecycle": DatabaseLifecycle}
)
"""Every machine, as `fsm export` knows it."""


def machine_class(name: str) -> type[Machine]:
    """The machine called `name`; `InvalidArgument` if there is none."""
    try:
        return MACHINES[name]
    except KeyError:
        raise InvalidArgument(
            f"there is no machine {name!r}", hint=f"one of {', '.join(MACHINES)}"
        ) from None


def drawn_class(name: str) -> type[StrictMachine[Any]]:
    """The machine called `name`, of a sync session or not; `InvalidArgument` if there is none."""
    try:
        return DRAWN[name]
    except KeyError:
        raise InvalidArgument(
            f"there is no machine {name!r}", hint=f"one of {', '.join(DRAWN)}"
        ) from None


def name_of(machine: Machine) -> str:
    return next(name for name, kind in MACHINES.items() if type(machine) is kind)


def make_machine(name: str, wire_version: int) -> Machine:
    """A fresh machine. Only a client is told the wire version; a server hears it in hello."""
    kind = machine_class(name)
    if issubclass(kind, ClientPush | ClientPull):
        return kind(wire_version)
    return kind()
