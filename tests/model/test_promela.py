"""The Promela model and the machines have the same transitions, guards and actions, both ways.

What the model proves is checked by `make model-check`; here only that it is still a model of these
machines, and, where spin and a C compiler are installed, that its least instance holds and that the
flaws which matter most break it.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from proof import model_check, promela
from proof.model_check import (
    FLAWS,
    SESSIONS,
    SESSIONS_QUICK,
    ModelCheckFailed,
    check_flaw,
    check_honest,
    missing_tools,
    not_exhaustive,
    unmade_moves,
)
from proof.promela import (
    MAIN,
    Model,
    Move,
    declared_guards,
    declared_moves,
    disagreements,
    model_texts,
    read_model,
)

from edgereplica.fsm.diagrams import Step, steps
from edgereplica.fsm.machine import Machine
from edgereplica.fsm.registry import MACHINES
from edgereplica.fsm.server_push import ServerPush

TEXTS = model_texts()
TEXT = "".join(TEXTS.values())


@pytest.fixture
def model() -> Model:
    return read_model(TEXTS)


@pytest.fixture
def declared() -> Counter[Move]:
    return declared_moves(MACHINES)


def test_the_model_is_of_these_machines(model: Model, declared: Counter[Move]) -> None:
    assert disagreements(model, declared, declared_guards(MACHINES)) == []
    # Not because nothing was read.
    assert {move.machine for move in model.moves.values()} == set(MACHINES)
    assert {name.split()[0] for name in model.guards} == set(MACHINES)
    assert model.unmodelled.total() + len(set(model.moves.values())) == declared.total()


def test_no_transition_of_a_machine_can_be_lost(model: Model, declared: Counter[Move]) -> None:
    for move in declared:
        fewer = declared.copy()
        fewer[move] -= 1
        assert disagreements(model, +fewer), f"{move} was dropped unnoticed"


def test_no_transition_of_a_machine_can_be_renamed(model: Model, declared: Counter[Move]) -> None:
    for move in declared:
        for changed in (
            move._replace(event=f"{move.event}_again"),
            move._replace(source=f"{move.source}_again"),
            move._replace(target="refused" if move.target != "refused" else "lost"),
            move._replace(words=f"{move.words} "),
        ):
            other = declared.copy()
            other[move] -= 1
            other[changed] += 1
            assert disagreements(model, +other), f"{move} became {changed} unnoticed"


def _changed(monkeypatch: pytest.MonkeyPatch, change: Callable[[list[Step]], list[Step]]) -> None:
    monkeypatch.setattr(promela, "steps", lambda machine: change(steps(machine)))


def test_no_guard_or_action_can_be_dropped_or_renamed(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = 0
    for machine in MACHINES.values():
        for step in steps(machine):
            others = [replace(step, guards=(*step.guards, "in_a_hurry"))]
            others += [replace(step, actions=(*step.actions, "look_away"))]
            others += [replace(step, guards=(f"not {step.guards[0]}",))] if step.guards else []
            others += [replace(step, guards=())] if step.guards else []
            others += [replace(step, actions=())] if step.actions else []
            for other in others:
                _changed(
                    monkeypatch,
                    lambda now, old=step, new=other: [new if s == old else s for s in now],
                )
                assert disagreements(model, declared_moves(MACHINES)), f"{step} became {other}"
                tried += 1
    assert tried > 3 * len(steps(ServerPush))


def test_the_transitions_of_an_event_cannot_be_tried_in_another_order(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unguarded one in front would always be taken."""

    def rivals(now: list[Step], step: Step) -> list[Step]:
        return [s for s in now if (s.source, s.event) == (step.source, step.event)]

    for machine in MACHINES.values():
        for step in steps(machine):
            if len(rivals(steps(machine), step)) > 1:
                _changed(
                    monkeypatch,
                    lambda now, last=step: (
                        [*(s for s in now if s != last), last]
                        if rivals(now, last)[-1:] != [last]
                        else [last, *(s for s in now if s != last)]
                    ),
                )
                assert disagreements(model, declared_moves(MACHINES)), f"{step} was moved"


class _Hasty(ServerPush):
    """A push is committed before its last page."""

    def nothing_outstanding(self) -> bool:
        """No page is missing, ever."""
        return True


def test_a_guard_cannot_ask_something_else(model: Model, declared: Counter[Move]) -> None:
    with_hasty: Mapping[str, type[Machine]] = {**MACHINES, "server_push": _Hasty}
    assert declared_moves(with_hasty) == declared
    (found,) = disagreements(model, declared, declared_guards(with_hasty))
    assert found.startswith("GUARD server_push nothing_outstanding asks 'True', in the model 'not ")


@pytest.mark.parametrize("name", sorted(declared_guards(MACHINES)))
def test_no_guard_is_passed_over(model: Model, declared: Counter[Move], name: str) -> None:
    guards = declared_guards(MACHINES)
    assert disagreements(model, declared, guards | {name: "True"})
    assert disagreements(model, declared, {k: v for k, v in guards.items() if k != name})
    assert disagreements(model, declared, guards | {f"{name}_too": "True"})


@pytest.mark.parametrize(
    "added",
    [
        Step("streaming", "page_data", "streaming", True, (), ()),
        Step("comparing", "complete", "delivered", False, ("nothing_to_send",), ()),
        # The very transition once more, under another guard.
        Step("comparing", "complete", "streaming", False, ("in_a_hurry",), ()),
        Step("comparing", "pages_read", "comparing", True, ("in_a_hurry",), ()),
    ],
    ids=lambda step: step.label,
)
def test_no_transition_can_be_added_to_a_machine(
    model: Model, monkeypatch: pytest.MonkeyPatch, added: Step
) -> None:
    def with_one_more(machine: type) -> list[Step]:
        return [*steps(machine), added] if machine is MACHINES["server_pull"] else steps(machine)

    monkeypatch.setattr(promela, "steps", with_one_more)
    assert disagreements(model, declared_moves(MACHINES))


def _without_a_move(text: str) -> str:
    lines = [line for line in text.splitlines() if "push_committed, committed)" not in line]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "change",
    [
        _without_a_move,
        lambda text: text.replace("settling, pages_staged, committing)", "settling, staged, lost)"),
        lambda text: text.replace("MOVE(client_pull, applying,", "MOVE(client_pull, receiving,"),
        lambda text: text.replace("UNMODELLED server_push receiving complete in_sync", "none"),
        lambda text: text.replace("announcing|finishing ranges_differ", "announcing ranges_differ"),
        lambda text: text.replace(" * UNMODELLED", " * UNMODELLED oauth_login a b c: d\n * N", 1),
        lambda text: text.replace(
            " * UNMODELLED", " * UNMODELLED server_pull opening pull_opened in_sync: x\n *", 1
        ),
        lambda text: text.replace("[nothing_outstanding] / count_and", "/ count_and"),
        lambda text: text.replace(" /* / request_missing */", ""),
        lambda text: text.replace("\n            /* 1 [roots_equal] / note_head_and_close */", ""),
        lambda text: text.replace("GUARD server_push conflicts: ", "GUARD server_push conflict: "),
        lambda text: text.replace("and not e.windows and not\n *     self", "or not\n *     self"),
        # A move that only a planted flaw makes is none.
        lambda text: text.replace(
            "        MOVE(server_pull, comparing, complete, streaming) /* / send_rest */\n",
            "#ifdef FLAW\n"
            "        MOVE(server_pull, comparing, complete, streaming) /* / send_rest */\n"
            "#endif\n",
        ),
    ],
)
def test_the_model_cannot_gain_lose_or_rename_a_move(
    change: Callable[[str], str], declared: Counter[Move]
) -> None:
    changed = change(TEXT)
    assert changed != TEXT
    assert disagreements(read_model({MAIN: changed}), declared, declared_guards(MACHINES))


@pytest.mark.parametrize(
    "line",
    [
        "    MOVE(server_push, opening, push_opened)",
        "    :: a -> MOVE(server_pull, a, b, c); MOVE(server_pull, c, d, e)",
        " * UNMODELLED server_push opening push_opened in_sync",
    ],
)
def test_a_line_that_cannot_be_read_is_not_passed_over(line: str) -> None:
    with pytest.raises(ValueError, match=f"{MAIN}:2: "):
        read_model({MAIN: f"\n{line}\n"})


def test_every_flaw_is_in_the_model_and_breaks_promises_of_it(model: Model) -> None:
    for flaw in FLAWS:
        assert f"#ifdef {flaw.name}\n" in TEXT or f"#ifndef {flaw.name}\n" in TEXT
        assert flaw.promises
        assert model.promised.issuperset(flaw.promises)
        assert flaw.sessions in range(SESSIONS_QUICK, SESSIONS + 1)


def test_every_promise_has_a_flaw_that_breaks_it(model: Model) -> None:
    assert {promise for flaw in FLAWS for promise in flaw.promises} == model.promised
    # One that is not declared could not be looked at by itself, nor one that nobody tells of.
    assert set(re.findall(r"\w+", _declared_promises())) == model.promised
    told = (promela.FOLDER / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z_]+)` \|", told, re.MULTILINE)) == model.promised


def test_every_flaw_is_told_of() -> None:
    told = (promela.FOLDER / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in told.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row)} == {
        flaw.name for flaw in FLAWS
    }


def _declared_promises() -> str:
    """The list of them in the model, where `-DONLY` looks them up."""
    (listed,) = re.findall(r"mtype = \{([^}]*\bno_deadlock\b[^}]*)\}", TEXT)
    return str(listed)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "Full statespace search for:\nunreached in proctype A\nWarning: Search not completed",
        "Full statespace search for:\nunreached in proctype A\nerror: max search depth too small",
        "Full statespace search for:\nunreached in proctype A\npan: reached -DMEMLIM bound",
        "Bit statespace search for:\nunreached in proctype A",
    ],
)
def test_a_search_that_left_something_out_is_not_taken_for_a_proof(said: str) -> None:
    assert not_exhaustive(said)


def test_without_spin_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("sys.argv", ["model_check"])
    assert model_check.main() == 1
    assert "apt-get install spin gcc" in capsys.readouterr().err


with_spin = pytest.mark.skipif(
    missing_tools() is not None,
    reason=f"the tie is checked, the search of its states is not: {missing_tools()}",
)


@with_spin
def test_the_least_instance_holds_and_the_worst_flaws_break_it(
    tmp_path: Path, model: Model
) -> None:
    honest = check_honest(tmp_path, SESSIONS_QUICK)
    assert honest.states > 100_000
    # One move needs a client's second session; the full check makes it.
    assert [line.split(": ")[1] for line in unmade_moves(model, honest)] == [
        "client_push examining content_hashed unchanged 1 [content_equal] / close_in_sync"
    ]
    flaws = {flaw.name: flaw for flaw in FLAWS}
    for name in ("COMMIT_EARLY", "NO_CAS"):
        for promise in flaws[name].promises:
            run = check_flaw(tmp_path, flaws[name], promise)
            assert "server_push settling -pages_staged-> committing" in run.trail
    with pytest.raises(ModelCheckFailed, match=r"COMMIT_EARLY .* breaks None"):
        check_flaw(tmp_path, flaws["COMMIT_EARLY"], "a_pull_is_one_version")


@with_spin
def test_a_flaw_may_need_two_sessions(tmp_path: Path) -> None:
    (flaw,) = (flaw for flaw in FLAWS if flaw.sessions > SESSIONS_QUICK)
    check_flaw(tmp_path, flaw, flaw.promises[0])
    with pytest.raises(ModelCheckFailed, match="breaks None"):
        check_flaw(tmp_path, replace(flaw, sessions=SESSIONS_QUICK), flaw.promises[0])


@with_spin
def test_a_model_that_breaks_a_promise_is_reported_with_its_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = TEXTS | {MAIN: f"#define COMMIT_EARLY\n{TEXTS[MAIN]}"}
    monkeypatch.setattr(model_check, "model_texts", lambda: broken)
    with pytest.raises(ModelCheckFailed, match="breaks no_torn_version:\nclient ") as failure:
        check_honest(tmp_path / "runs", SESSIONS_QUICK)
    assert "server_push settling -pages_staged-> committing" in str(failure.value)
