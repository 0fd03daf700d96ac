"""Who may call what: one table, from which the gates decide and the specification is written.

`RULES` has a row for every call of both services and for the two directions of a sync. A handler
gates itself with `authorize(session, call)`; nothing else decides by role or by restriction. Whose
database or organization is meant is not said here: what is another organization's answers like what
does not exist.

`specs/authorization.md` is `table()`; a test tries every cell against a real server.

python -m edgereplica.app.authorization [--check] specs/authorization.md
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from ..events.errors import InvalidArgument, PermissionDenied
from .tokens import VerifiedClaims


@dataclass(frozen=True, slots=True)
class Rule:
    """What a call asks of its caller.

    `needs`: the token. `role`: the least role. `whole`: no narrowed session. `undirected` and
    `unbound`: no session narrowed to a direction, or to a database.
    """

    needs: Literal["nothing", "session", "sync push", "sync pull"] = "session"
    role: Literal["member", "admin"] = "member"
    whole: bool = False
    undirected: bool = False
    unbound: bool = False
    names_database: bool = False


_OWN_ACCOUNT = Rule(whole=True)
_ADMIN_OF_MEMBERS = Rule(role="admin", whole=True)

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "Signup": Rule(needs="nothing"),
        "Login": Rule(needs="nothing"),
        "StartOAuth": Rule(needs="nothing"),
        "CompleteOAuth": Rule(needs="nothing"),
        "Whoami": Rule(),
        "ListDatabases": Rule(),
        "CreateDatabase": Rule(role="admin", undirected=True, unbound=True),
        "DeleteDatabase": Rule(role="admin", undirected=True, names_database=True),
        "IssueSyncToken": Rule(names_database=True),
        "SetRetention": Rule(role="admin", undirected=True, names_database=True),
        "GetRetention": Rule(names_database=True),
        "BeginOAuth (login)": Rule(needs="nothing"),
        "BeginOAuth (link)": _OWN_ACCOUNT,
        "CompleteLink": _OWN_ACCOUNT,
        "Logout": _OWN_ACCOUNT,
        "ListSessions": _OWN_ACCOUNT,
        "RevokeSession": _OWN_ACCOUNT,
        "RevokeToken": _OWN_ACCOUNT,
        "RevokeAllTokens": _OWN_ACCOUNT,
        "ChangePassword": _OWN_ACCOUNT,
        "ListOrganizations": _OWN_ACCOUNT,
        "SwitchOrganization": _OWN_ACCOUNT,
        "AcceptInvitation": _OWN_ACCOUNT,
        "ListMembers": Rule(whole=True),
        "InviteMember": _ADMIN_OF_MEMBERS,
        "SetMemberRole": _ADMIN_OF_MEMBERS,
        "RemoveMember": Rule(whole=True),
        "sync push": Rule(needs="sync push", names_database=True),
        "sync pull": Rule(needs="sync pull", names_database=True),
    }
)

CALLERS = (
    "nobody",
    "admin",
    "member",
    "admin, database=own",
    "admin, direction=push",
    "admin, direction=pull",
    "admin, max_bytes",
    "push token",
    "pull token",
    "push token, direction=pull",
    "invitation",
)
"""The columns of the table. Restrictions stand behind the role whose session they narrow."""


def authorize(session: VerifiedClaims, call: str, database_id: str | None = None) -> None:
    """`PermissionDenied` unless `session` may make this call (on this database)."""
    rule = RULES[call]
    if rule.role == "admin" and session.role != "admin":
        raise PermissionDenied("only an admin of the organization may do this")
    if rule.whole and session.narrowed:
        raise PermissionDenied("a narrowed session may not do this: it needs a whole one")
    if rule.undirected and session.direction is not None:
        raise PermissionDenied(f"this session is restricted to {session.direction}")
    if session.database_id is not None and (
        rule.unbound or (rule.names_database and session.database_id != database_id)
    ):
        raise PermissionDenied("this session is restricted to another database")


def outcome(call: str, caller: str, *, own: bool = True) -> str:
    """What the rules say: "ok" or the code of the refusal.

    `own`: whether the database that the call names is one of the caller's organization.
    """
    rule = RULES[call]
    if rule.needs == "nothing":
        return "ok"
    if rule.needs.startswith("sync"):
        if caller in {"push token", "pull token"}:
            return _sync_outcome(rule, caller, own=own)
        return "unauthenticated"
    if not caller.startswith(("admin", "member")):
        return "unauthenticated"
    return _session_outcome(rule, caller, own=own)


def _sync_outcome(rule: Rule, caller: str, *, own: bool) -> str:
    """A push token is for pushing only, whatever its bearer sends, and for its database only.

    The client does not say which direction it means: the token does. So a client that means the
    other one is refused at its first frame that has no place there, or simply gets nothing.
    """
    if not own:
        return "not_found"
    return "ok" if rule.needs.endswith(caller.partition(" ")[0]) else "nothing moves"


def _session_outcome(rule: Rule, caller: str, *, own: bool) -> str:
    role, _, restriction = caller.partition(", ")
    directed = restriction.startswith("direction")
    bound = restriction.startswith("database")
    if (
        (rule.role == "admin" and role != "admin")
        or (rule.whole and restriction)
        or (rule.undirected and directed)
        or (bound and (rule.unbound or (rule.names_database and not own)))
    ):
        return "permission_denied"
    if rule.names_database and not own:
        return "not_found"
    return "ok"


def table() -> str:
    """The specification: every call by every caller, in Markdown."""
    lines = [
        "# Who may do what",
        "",
        "Generated from `app/authorization.py`; a test tries every cell against a server.",
        "",
        "*nobody* sends no token. *admin* and *member* are the role of a session's user in the",
        "session's organization; behind a comma, the caveat that narrows that session. Where a",
        "call names a database, the second word is for one of another organization, which answers",
        "like one that does not exist. IssueSyncToken by a session narrowed to one direction is",
        "*ok* for that direction, and the token it gives is narrowed as the session is. *nothing",
        "moves*: the token says the direction, so a client that means the other one is refused at",
        "its first frame that has no place there, or gets nothing.",
        "",
        f"| call | {' | '.join(CALLERS)} |",
        f"|---|{'---|' * len(CALLERS)}",
    ]
    for call, rule in RULES.items():
        cells = []
        for caller in CALLERS:
            said = [outcome(call, caller)]
            if rule.names_database and (other := outcome(call, caller, own=False)) != said[0]:
                said.append(other)
            cells.append(" / ".join(said))
        lines.append(f"| {call} | {' | '.join(cells)} |")
    lines += [
        "",
        "What the table cannot say: a member removes only itself with RemoveMember; RevokeToken",
        "and RevokeSession answer *not_found* for what belongs to another user, but an admin may",
        "revoke any token of the organization; the last admin of an organization can be neither",
        "removed nor made a member.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    check = "--check" in arguments
    paths = [Path(argument) for argument in arguments if argument != "--check"]
    if len(paths) != 1:
        raise InvalidArgument("name one file")
    if not check:
        paths[0].write_text(table(), encoding="utf-8")
        return 0
    stale = not paths[0].exists() or paths[0].read_text(encoding="utf-8") != table()
    if stale:
        sys.stderr.write(f"stale: {paths[0].name}; run `make generate`\n")
    return int(stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
