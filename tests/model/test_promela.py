"""The Promela model and the machines' declared tables name the same transitions, both ways.

What the model proves is checked by `make model-check`; here only that it is still a model of these
machines, and, where spin and a C compiler are installed, that its least instance holds and that the
flaws which matter most break it.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from proof import model_check, promela
from proof.model_check import (
    FLAWS,
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
    declared_moves,
    disagreements,
    model_texts,
    read_model,
)

from edgereplica.fsm.diagrams import Step, steps
from edgereplica.fsm.registry import MACHINES

TEXTS = model_texts()
TEXT = "".join(TEXTS.values())


@pytest.fixture
def model() -> Model:
    return read_model(TEXTS)


@pytest.fixture
def declared() -> Counter[Move]:
    return declared_moves(MACHINES)


def test_the_model_is_of_these_machines(model: Model, declared: Counter[Move]) -> None:
    assert disagreements(model, declared) == []
    # Not because nothing was read.
    assert {move.machine for move in model.moves.values()} == set(MACHINES)
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
        ):
            other = declared.copy()
            other[move] -= 1
            other[changed] += 1
            assert disagreements(model, +other), f"{move} became {changed} unnoticed"


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
        # A move that only a planted flaw makes is none.
        lambda text: text.replace(
            "        MOVE(server_pull, comparing, complete, streaming)\n",
            "#ifdef FLAW\n        MOVE(server_pull, comparing, complete, streaming)\n#endif\n",
        ),
    ],
)
def test_the_model_cannot_gain_lose_or_rename_a_move(
    change: Callable[[str], str], declared: Counter[Move]
) -> None:
    changed = change(TEXT)
    assert changed != TEXT
    assert disagreements(read_model({MAIN: changed}), declared)


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
    promises = {*model.promises.values(), "no_deadlock"}
    for flaw in FLAWS:
        assert f"#ifdef {flaw.name}\n" in TEXT or f"#ifndef {flaw.name}\n" in TEXT
        assert promises.issuperset(flaw.promises)


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


with_spin = pytest.mark.skipif(missing_tools() is not None, reason=missing_tools() or "")


@with_spin
def test_the_least_instance_holds_and_the_worst_flaws_break_it(
    tmp_path: Path, model: Model
) -> None:
    honest = check_honest(tmp_path, SESSIONS_QUICK)
    assert honest.states > 100_000
    # One move needs a client's second session; the full check makes it.
    assert [line.split(": ")[1] for line in unmade_moves(model, honest)] == [
        "client_push examining content_hashed unchanged"
    ]
    flaws = {flaw.name: flaw for flaw in FLAWS}
    for name in ("COMMIT_EARLY", "NO_CAS"):
        trail = check_flaw(tmp_path, flaws[name]).trail
        assert "server_push settling -pages_staged-> committing" in trail


@with_spin
def test_a_model_that_breaks_a_promise_is_reported_with_its_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = TEXTS | {MAIN: f"#define COMMIT_EARLY\n{TEXTS[MAIN]}"}
    monkeypatch.setattr(model_check, "model_texts", lambda: broken)
    with pytest.raises(ModelCheckFailed, match="breaks no_torn_version:\nclient ") as failure:
        check_honest(tmp_path / "runs", SESSIONS_QUICK)
    assert "server_push settling -pages_staged-> committing" in str(failure.value)
