"""`edgereplica admin reset-password`: for whoever holds a server's data directory."""

from typing import Annotated

import typer

from .console import emit, emit_json
from .root import JsonOption
from .server import DataDirOption


def reset_password(
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="The account's e-mail.")],
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give an account a new password; ends all its sessions and tokens.

    The server may be running. The password comes from EDGEREPLICA_NEW_PASSWORD, else from a hidden
    prompt (asked twice).

    \b
    Examples:
      edgereplica admin reset-password ada@example.org --data-dir /var/lib/edgereplica
    """
    from ..app.password_reset import reset_password as reset
    from ..app.settings import load_settings
    from .client import read_password

    password = read_password(
        twice=True, variable="EDGEREPLICA_NEW_PASSWORD", prompt="New password: "
    )
    reset(load_settings(data_dir=data_dir), email, password)
    if as_json:
        emit_json({"email": email, "reset": True})
    else:
        emit(f"reset the password of {email}; all its sessions and tokens have ended")
