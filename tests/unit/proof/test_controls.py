"""The controls themselves: each flaw can be planted today, and mutants are made of every target."""

import pytest
from proof.controls.flaws import FLAWS, Flaw
from proof.controls.mutants import TARGETS, mutants
from proof.evidence import ROOT


@pytest.mark.parametrize("flaw", FLAWS, ids=lambda flaw: flaw.name)
def test_a_flaw_has_its_place_and_its_check(flaw: Flaw) -> None:
    assert (ROOT / flaw.file).read_text().count(flaw.old) == 1
    assert flaw.new != flaw.old
    for selection in flaw.check:
        if selection.startswith("tests/"):
            assert (ROOT / selection.split("::")[0]).exists()


def test_names_are_unique() -> None:
    assert len({flaw.name for flaw in FLAWS}) == len(FLAWS)


@pytest.mark.parametrize("file", TARGETS)
def test_every_target_has_mutants_that_differ_from_it(file: str) -> None:
    found = list(mutants(file))
    assert len(found) > 20
    assert len({mutant.text for mutant in found}) > len(found) * 0.9
    for mutant in found[::10]:
        compile(mutant.text, file, "exec")
