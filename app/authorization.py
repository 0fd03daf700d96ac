"""Who may call what: one table, from which the gates decide and the specification is written.

`RULES` has a row for every call of all services and for the two directions of a sync. A handler
gates itself with `authorize(session, call)`: no other place decides by a restriction, or to whom a
call is closed. Whose it is that a call names, only the use case can see when it looks it up;
`Rule.refuses` says what it answers then. What is another organization's answers like what does not
exist.

`specs/authorization.md` is `table()`; a test tries every cell against a real server.

python -m edgereplica.app.authorization [--check] specs/authorization.md
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from ..events.errors import InvalidArgument, PermissionDenied
from .tokens import Direction, VerifiedClaims

Names = Literal[
    "nothing",
    "login",
    "database",
    "member",
    "session",
    "token",
    "organization",
    "invitation",
    "synced database",
]
Answers = Mapping[str, str]

NAMES: Mapping[Names, Answers] = MappingProxyType(
    {
        "nothing": {"own": ""},
        "login": {
            "own": "a login that was begun for this, by this account where it takes one",
            "other": "one that was begun for the other purpose (to log in, to link)",
            "foreign": "one that another account began",
        },
        "database": {
            "own": "a database of the session's organization, the one that `database=own` names",
            "other": "another database of that organization",
            "foreign": "a database of another organization",
        },
        "member": {
            "own": "the caller itself, beside another admin",
            "other": "another member of the session's organization",
            "foreign": "a user who is no member of it",
        },
        "session": {
            "own": "another session of the caller",
            "other": "a session of another member of the organization",
            "foreign": "a session of a user elsewhere",
        },
        "token": {
            "own": "a sync token, session or invitation of the caller",
            "other": "such a token of another member, for the session's organization",
            "foreign": "such a token for another organization, be it a fellow member's",
        },
        "organization": {
            "own": "the session's organization",
            "other": "another organization that the caller is a member of",
            "foreign": "an organization that it is no member of",
        },
        "invitation": {
            "own": "an invitation for the caller's e-mail address",
            "other": "one for somebody else's",
            "foreign": "a session or sync token in its place",
        },
        "synced database": {
            "own": "the token's database is its organization's",
            "foreign": "the token's database is another organization's: no call issues such a "
            "token, so the test makes it with the server's key",
        },
    }
)
"""What calls name, and whose it can be: the words of a cell, in their order."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a call asks of its caller.

    `needs`: the token. `role`: the least role. `whole`: no narrowed session. `undirected` and
    `unbound`: no session narrowed to a direction, or to a database. `direction`: none narrowed to
    the other one. `refuses`: the answer by whose it is that the call names (`NAMES`), "ok" where it
    is silent; `refuses_member` instead of it for a member. `told`: the client says in its handshake
    which direction it means.
    """

    needs: Literal["nothing", "session", "sync push", "sync pull"] = "session"
    role: Literal["member", "admin"] = "member"
    whole: bool = False
    undirected: bool = False
    unbound: bool = False
    direction: Direction | None = None
    names: Names = "nothing"
    refuses: Answers = field(default_factory=dict)
    refuses_member: Answers | None = None
    told: bool = False


_DENIED, _NOT_FOUND = "permission_denied", "not_found"
_FOREIGN = {"foreign": _NOT_FOUND}
_ALL_BUT_OWN = {"other": _NOT_FOUND, "foreign": _NOT_FOUND}
_ALL_BUT_OWN_DENIED = {"other": _DENIED, "foreign": _DENIED}
_ANYBODY = Rule(needs="nothing")
_OWN_ACCOUNT = Rule(whole=True)


def _database(
    role: Literal["member", "admin"] = "member", direction: Direction | None = None
) -> Rule:
    """A call on a database. One that only an admin may make changes it: not with a direction."""
    return Rule(
        role=role,
        undirected=role == "admin",
        direction=direction,
        names="database",
        refuses=_FOREIGN,
    )


def _sync(direction: Direction, *, told: bool = False) -> Rule:
    needs: Literal["sync push", "sync pull"] = "sync push" if direction == "push" else "sync pull"
    return Rule(needs=needs, told=told, names="synced database", refuses=_FOREIGN)


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "Signup": _ANYBODY,
        "Login": _ANYBODY,
        "StartOAuth": _ANYBODY,
        "BeginOAuth (login)": _ANYBODY,
        "Whoami": Rule(),
        "ListDatabases": Rule(),
        "CreateDatabase": Rule(role="admin", undirected=True, unbound=True),
        "Logout": _OWN_ACCOUNT,
        "ListSessions": _OWN_ACCOUNT,
        "RevokeAllTokens": _OWN_ACCOUNT,
        "ChangePassword": _OWN_ACCOUNT,
        "BeginOAuth (link)": _OWN_ACCOUNT,
        "ListOrganizations": _OWN_ACCOUNT,
        "ListMembers": _OWN_ACCOUNT,
        "InviteMember": Rule(role="admin", whole=True),
        "CompleteOAuth": Rule(needs="nothing", names="login", refuses=_ALL_BUT_OWN_DENIED),
        "CompleteLink": Rule(whole=True, names="login", refuses=_ALL_BUT_OWN_DENIED),
        "DeleteDatabase": _database("admin"),
        "IssueSyncToken (push)": _database(direction="push"),
        "IssueSyncToken (pull)": _database(direction="pull"),
        "SetRetention": _database("admin"),
        "GetRetention": _database(),
        "SetMemberRole": Rule(role="admin", whole=True, names="member", refuses=_FOREIGN),
        "RemoveMember": Rule(
            whole=True, names="member", refuses=_FOREIGN, refuses_member=_ALL_BUT_OWN_DENIED
        ),
        "RevokeSession": Rule(whole=True, names="session", refuses=_ALL_BUT_OWN),
        "RevokeToken": Rule(
            whole=True, names="token", refuses=_FOREIGN, refuses_member=_ALL_BUT_OWN
        ),
        "SwitchOrganization": Rule(whole=True, names="organization", refuses=_FOREIGN),
        "AcceptInvitation": Rule(
            whole=True,
            names="invitation",
            refuses={"other": _DENIED, "foreign": "invalid_argument"},
        ),
        "sync push": _sync("push"),
        "sync pull": _sync("pull"),
        "sync push (told)": _sync("push", told=True),
        "sync pull (told)": _sync("pull", told=True),
    }
)

RESTRICTIONS = ("database=own", "direction=push", "direction=pull", "max_bytes", "max_version")
"""The caveats that narrow a session, one at a time."""
FAMILIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "admin": ("admin",),
        "member": ("member",),
        "narrowed admin": tuple(f"admin, {restriction}" for restriction in RESTRICTIONS),
        "narrowed member": tuple(f"member, {restriction}" for restriction in RESTRICTIONS),
        "push token": ("admin's push token", "member's push token"),
        "pull token": ("admin's pull token", "member's pull token"),
        "no rights": (
            "nobody",
            "former member",
            "former member's push token",
            "former member's pull token",
            "push token, direction=pull",
            "pull token, direction=push",
            "invitation",
        ),
    }
)
"""The callers, and what those are called together that the table need not tell apart."""
CALLERS = tuple(caller for family in FAMILIES.values() for caller in family)


def authorize(session: VerifiedClaims, call: str, database_id: str | None = None) -> None:
    """`PermissionDenied` unless `session` may make this call (on this database)."""
    rule = RULES[call]
    if rule.role == "admin" and session.role != "admin":
        raise PermissionDenied("only an admin of the organization may do this")
    if rule.whole and session.narrowed:
        raise PermissionDenied("a narrowed session may not do this: it needs a whole one")
    directed = session.direction is not None
    if directed and (rule.undirected or rule.direction not in {None, session.direction}):
        raise PermissionDenied(f"this session is restricted to {session.direction}")
    if session.database_id is not None and (
        rule.unbound or (rule.names == "database" and session.database_id != database_id)
    ):
        raise PermissionDenied("this session is restricted to another database")


def outcome(call: str, caller: str, whose: str = "own") -> str:
    """What the rules say: "ok" or the code of the refusal.

    `caller`: of `CALLERS`. `whose` it is that the call names: of `NAMES[rule.names]`.
    """
    rule = RULES[call]
    if rule.needs == "nothing":
        return rule.refuses.get(whose, "ok")
    if rule.needs == "session":
        if caller in FAMILIES["no rights"] or caller.endswith(" token"):
            return "unauthenticated"
        return _session_outcome(rule, caller, whose)
    if not caller.endswith(" token"):
        return "unauthenticated"
    return _sync_outcome(rule, caller, whose)


def _sync_outcome(rule: Rule, caller: str, whose: str) -> str:
    """A push token is for pushing only, whatever its bearer sends, and for its database only.

    What the client says in its handshake is compared with the token before anything is looked up.
    """
    wrong_way = rule.needs.removeprefix("sync ") not in caller
    if wrong_way and rule.told:
        return _DENIED
    if caller in FAMILIES["no rights"]:
        return "unauthenticated"
    return rule.refuses.get(whose, "nothing moves" if wrong_way else "ok")


def _session_outcome(rule: Rule, caller: str, whose: str) -> str:
    role, _, restriction = caller.partition(", ")
    direction = restriction.removeprefix("direction=") if "direction" in restriction else None
    bound = restriction == "database=own"
    if (
        (rule.role == "admin" and role != "admin")
        or (rule.whole and restriction)
        or (direction and (rule.undirected or rule.direction not in {None, direction}))
        or (bound and (rule.unbound or (rule.names == "database" and whose != "own")))
    ):
        return _DENIED
    member = role == "member" and rule.refuses_member is not None
    refuses = rule.refuses_member if member else rule.refuses
    return (refuses or {}).get(whose, "ok")


def whose_of(call: str) -> Sequence[str]:
    """Whose it can be that the call names: the words of its cells, in their order.

    A login that no account begins cannot be another account's.
    """
    words = tuple(NAMES[RULES[call].names])
    return words[:2] if call == "CompleteOAuth" else words


def cell(call: str, caller: str) -> str:
    """What the table says: one word if it is the same whosever it is that the call names."""
    said = [outcome(call, caller, whose) for whose in whose_of(call)]
    return said[0] if len(set(said)) == 1 else " / ".join(said)


def table() -> str:
    """The specification: every call by every caller, in Markdown."""
    lines = _INTRODUCTION.splitlines()
    for names, words in NAMES.items():
        calls = [call for call, rule in RULES.items() if rule.names == names]
        lines += ["", f"## Calls that name {_title(names)}", ""]
        if len(words) > 1:
            lines += [f"- *{word}*: {meaning}" for word, meaning in words.items()] + [""]
        columns = _columns(calls)
        lines += [f"| call | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
        for call in calls:
            said = (cell(call, callers[0]) for callers in columns.values())
            lines.append(f"| {call} | {' | '.join(said)} |")
    return "\n".join([*lines, "", *_END.splitlines()]) + "\n"


def _columns(calls: Sequence[str]) -> dict[str, list[str]]:
    """Callers that all of `calls` treat alike stand in one column, under their families' names."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for caller in CALLERS:
        alike.setdefault(tuple(cell(call, caller) for call in calls), []).append(caller)
    titles = {}
    for callers in alike.values():
        said = list(callers)
        for family, ones in FAMILIES.items():
            if set(ones) <= set(said):
                said[said.index(ones[0])] = family
                said = [one for one in said if one == family or one not in ones]
        titles["anybody" if len(callers) == len(CALLERS) else "<br>".join(said)] = callers
    return titles


def _title(names: Names) -> str:
    if names == "nothing":
        return "nothing of anybody's"
    return f"{'an' if names[0] in 'aeiou' else 'a'} {names}"


_INTRODUCTION = """\
# Who may do what

Generated from `app/authorization.py`; a test tries every cell of every caller against a server, and
looks that a refused call has changed nothing.

The columns are who calls; those that a table treats alike share one. *admin* and *member* are the
role of a session's user in the session's organization. A *narrowed* session carries a caveat:
`database=own`, `direction=push`, `direction=pull`, `max_bytes` or `max_version`. A *push token* or
*pull token* is a sync token, of an admin or of a member. *no rights* are: nobody (no token), a
member who was removed since and what sync tokens it had, a sync token with a caveat for the other
direction, and an invitation.

The cells say *ok* or the code of the refusal. Where it matters whose it is that a call names, they
say it for each case, in the order of the list above the table. What is another organization's
answers as what does not exist, word for word."""

_END = """\
In words: a sync token says the direction. A client that means the other one is refused in its
handshake if it says so (*told*: the header `X-EdgeReplica-Direction`, which this project's client
sends and the original's does not); else it is refused at its first frame that has no place there,
or gets nothing: *nothing moves*. All of that holds for both versions of the wire.

What the tables cannot say: the token that IssueSyncToken gives is narrowed as the session is;
ListDatabases shows a session narrowed to a database no other one; the last admin of an organization
can be neither removed nor made a member; an invitation is good once, and only while who invited is
an admin."""


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
