"""The judgement of a mutation run: what is explained, what is stale, what is not good enough."""

from pathlib import Path

import pytest
from proof.controls import mutants
from proof.controls.mutants import FILES, TESTS, Outcome, faults, lay_out, listed, run, table
from proof.controls.survivors import Reason, Survivor, explained, from_diff, reasons
from proof.evidence import ROOT

A = Survivor("a.py", "f", "return 1", "return 2")
B = Survivor("a.py", "C.g", 'raise X("a | b")', "")
WHY_A = Reason("a.py", "f", "because", "return 2")


def test_a_reason_is_for_its_file_its_function_and_its_change() -> None:
    for reason, explains in (
        (WHY_A, True),
        (Reason("a.py", "f", "because"), True),
        (Reason("b.py", "f", "because"), False),
        (Reason("a.py", "g", "because"), False),
        (Reason("a.py", "f", "because", "return 3"), False),
    ):
        whys, stale = explained([A], [reason])
        assert whys == {A: "because" if explains else ""}
        assert stale == ([] if explains else [reason])


def test_a_diff_is_read() -> None:
    diff = "--- a.py\n+++ a.py\n@@ -1,3 +1,3 @@\n def f():\n-    return 1\n+    return 2\n"
    assert from_diff("a.py", "f", diff) == A
    left_out = "--- a.py\n+++ a.py\n def g():\n-    raise X(\n-        1)\n"
    assert from_diff("a.py", "g", left_out) == Survivor("a.py", "g", "raise X( 1)", "")


GOOD = Outcome("a.py", killed=18, timeouts=1, undecided=(), survivors=(A, B))


@pytest.mark.parametrize(
    ("outcome", "whys", "stale", "say"),
    [
        (GOOD, {A: "because", B: "so"}, [], ""),
        (GOOD, {A: "because", B: ""}, [], 'unexplained: a.py C.g: raise X("a | b")  ->  \n'),
        (GOOD, {}, [WHY_A], "stale reason: a.py f return 2: because\n"),
        (Outcome("a.py", 17, 0, (), (A, B)), {}, [], "89.5 % killed, at least 90 % should be\n"),
        (Outcome("a.py", 18, 0, (("f_1", -9),), (A,)), {}, [], "ended neither way: f_1, -9\n"),
        (Outcome("a.py", 0, 0, (), ()), {}, [], "0.0 % killed, at least 90 % should be\n"),
    ],
)
def test_what_keeps_a_run_from_passing(
    outcome: Outcome, whys: dict[Survivor, str], stale: list[Reason], say: str
) -> None:
    assert faults([outcome], whys, stale) == say


def test_the_figures_are_of_each_file_and_of_all() -> None:
    other = Outcome("b.py", 10, 0, (), ())
    assert table([GOOD, other]).splitlines()[2:] == [
        "| a.py | 20 | 18 | 1 | 2 | 0 | 90.0 |",
        "| b.py | 10 | 10 | 0 | 0 | 0 | 100.0 |",
        "| all | 30 | 28 | 1 | 2 | 0 | 93.3 |",
    ]


def test_the_list_names_every_survivor_and_its_reason() -> None:
    page = listed([GOOD], {A: "because", B: ""})
    assert "| `f` | `` return 1 `` | `` return 2 `` | because |" in page
    assert r'| `C.g` | `` raise X("a \| b") `` | (left out) | **unexplained** |' in page


def test_the_reasons_can_be_read_and_are_of_the_files() -> None:
    for reason in reasons():
        assert reason.file in FILES
        assert reason.why
        name = reason.function.split(".")[-1]
        assert f"def {name}(" in (ROOT / reason.file).read_text()


def test_a_reason_with_another_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "reasons.toml"
    path.write_text('[[reason]]\nfile = "a.py"\nfunction = "f"\nwhy = "w"\nwhen = "now"\n')
    with pytest.raises(TypeError):
        reasons(path)


def test_files_and_tests_are_there() -> None:
    for name in (*FILES, *TESTS):
        assert (ROOT / name).exists()


def test_the_copy_has_the_package_in_one_place(tmp_path: Path) -> None:
    lay_out(tmp_path, ["events/wire.py"], TESTS)
    for file in FILES:
        assert (tmp_path / "src/edgereplica" / file).read_bytes() == (ROOT / file).read_bytes()
    assert not [path for path in (tmp_path / "src").rglob("*") if path.is_symlink()]
    assert (
        'only_mutate = ["src/edgereplica/events/wire.py"]'
        in (tmp_path / "pyproject.toml").read_text()
    )


def test_an_unknown_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutants, "run", lambda *_: pytest.fail("something was mutated"))
    monkeypatch.setattr(mutants, "record", lambda *_: pytest.fail("something was mutated"))
    for words in (["events/nothing.py"], ["--help"]):
        with pytest.raises(SystemExit):
            mutants.main(words)


def test_the_mutants_of_one_file_are_made_and_killed(tmp_path: Path) -> None:
    """The short profile of `make mutants`: a small file, and no tests but its own."""
    tests = ["tests/unit/fsm/test_registry.py"]
    (registry,) = run(["fsm/registry.py"], 1, tmp_path / "all", tests)
    assert registry.undecided == ()
    assert registry.survivors == ()
    assert registry.killed == registry.total > 20
    (lives, *_) = run(
        ["fsm/registry.py"],
        1,
        tmp_path / "none",
        [f"{tests[0]}::test_only_a_client_is_told_the_wire_version"],
    )
    assert lives.survivors
