"""`edgereplica org`: organizations and their members."""

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from ..events.errors import NotFound
from .client import open_client, read_token
from .console import emit, emit_json, is_terminal, local_time, note, printable, table
from .root import JsonOption, ServerOption

if TYPE_CHECKING:
    from ..app.account_client import AccountClient, Member, Organization

org = typer.Typer(help="Organizations and their members.", no_args_is_help=True)

MemberArgument = Annotated[
    str, typer.Argument(metavar="MEMBER", help="The member's e-mail, or user id.")
]


class Role(StrEnum):
    admin = "admin"
    member = "member"


@org.command("list")
def list_(ctx: typer.Context, server: ServerOption = None, as_json: JsonOption = False) -> None:
    """List the organizations that you are a member of; * is the one you work in.

    \b
    Examples:
      edgereplica org list
    """
    found = open_client(ctx, server).own_account().list_organizations()
    if as_json:
        emit_json([entry.to_dict() for entry in found])
        return
    _print(
        ("ID", "", "ROLE", "NAME"),
        [
            (printable(o.id), "*" if o.current else "", printable(o.role), printable(o.name))
            for o in found
        ],
    )


@org.command("switch")
def switch(
    ctx: typer.Context,
    organization: Annotated[
        str, typer.Argument(metavar="ORG", help="The organization's id, or its name.")
    ],
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Work in another of your organizations from now on.

    \b
    Examples:
      edgereplica org switch ada@example.org
    """
    client = open_client(ctx, server)
    account = client.own_account()
    found = _organization(account.list_organizations(), organization)
    session = account.switch_organization(found.id)
    client.remember(session)
    if as_json:
        emit_json({**session.whoami.to_dict(), "server": client.server})
    else:
        emit(f"working in {found.name} as {session.whoami.role}")


@org.command("members")
def members(ctx: typer.Context, server: ServerOption = None, as_json: JsonOption = False) -> None:
    """List the members of the organization you work in.

    \b
    Examples:
      edgereplica org members
    """
    found = open_client(ctx, server).own_account().list_members()
    if as_json:
        emit_json([entry.to_dict() for entry in found])
        return
    _print(
        ("USER", "ROLE", "SINCE", "EMAIL"),
        [
            (
                printable(m.user_id),
                printable(m.role),
                local_time(m.added_at_unix),
                printable(m.email),
            )
            for m in found
        ],
    )


@org.command("invite")
def invite(
    ctx: typer.Context,
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="Whom to invite.")],
    role: Annotated[Role, typer.Option("--role", help="What they become.")] = Role.member,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print an invitation to the organization you work in.

    Give it to the person: it is good once, and only for the account of that e-mail address.
    `token revoke` takes it back.

    \b
    Examples:
      edgereplica org invite bob@example.org
      edgereplica org invite eve@example.org --role admin
    """
    made = open_client(ctx, server).own_account().invite_member(email, role.value)
    if as_json:
        emit_json(made.to_dict())
        return
    emit(made.invitation)
    note(f"valid until {local_time(made.exp_unix)}; they run `edgereplica org join`")


@org.command("join")
def join(
    ctx: typer.Context,
    invitation: Annotated[
        str | None, typer.Argument(metavar="[INVITATION]", show_default=False)
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", metavar="FILE", help="Read it from a file; - is standard input."),
    ] = None,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Accept an invitation.

    \b
    Examples:
      edgereplica org join --file invitation
      edgereplica org join "$INVITATION"
    """
    joined = (
        open_client(ctx, server).own_account().accept_invitation(read_token(invitation, file) or "")
    )
    if as_json:
        emit_json(joined.to_dict())
        return
    emit(f"joined {joined.name} as {joined.role}")
    note(f"hint: `edgereplica org switch {printable(joined.id)}` to work in it")


@org.command("role")
def role(
    ctx: typer.Context,
    member: MemberArgument,
    role: Annotated[Role, typer.Argument(metavar="ROLE", help="admin or member.")],
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a member an admin, or an admin a member.

    A member pushes and pulls, but neither creates nor deletes databases.

    \b
    Examples:
      edgereplica org role bob@example.org admin
    """
    account = open_client(ctx, server).own_account()
    changed = account.set_member_role(_member(account, member).user_id, role.value)
    if as_json:
        emit_json(changed.to_dict())
    else:
        emit(f"{changed.email} is {changed.role}")


@org.command("remove")
def remove(
    ctx: typer.Context,
    member: MemberArgument,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a membership (your own: leave), and every token it gave.

    \b
    Examples:
      edgereplica org remove bob@example.org
    """
    account = open_client(ctx, server).own_account()
    found = _member(account, member)
    account.remove_member(found.user_id)
    if as_json:
        emit_json({**found.to_dict(), "removed": True})
    else:
        emit(f"removed {found.email}")


def _member(account: "AccountClient", named: str) -> "Member":
    for member in account.list_members():
        if named in {member.user_id, member.email} or named.lower() == member.email.lower():
            return member
    raise NotFound(f"the organization has no member {named!r}", hint="`edgereplica org members`")


def _organization(found: "list[Organization]", named: str) -> "Organization":
    for organization in found:
        if named == organization.id:
            return organization
    matching = [organization for organization in found if organization.name == named]
    if len(matching) == 1:
        return matching[0]
    raise NotFound(f"you are in no organization {named!r}", hint="`edgereplica org list`")


def _print(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    if is_terminal(sys.stdout):
        for line in table(header, rows):
            emit(line)
    else:
        for row in rows:
            emit("  ".join(cell for cell in row if cell))
