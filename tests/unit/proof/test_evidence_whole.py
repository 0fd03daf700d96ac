"""No long check replaces its row in `specs/evidence.md` with that of a smaller run."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from proof import prove, running, simulate
from proof.controls import __main__ as controls
from proof.evidence import PAGE, Evidence
from proof.hostile.checks import CHECKS as HOSTILE
from proof.torture.checks import CHECKS as TORTURE


def refused(main: Callable[[list[str]], int], *words: str) -> bool:
    """Whether a command line of these words is wrong usage."""
    try:
        main(list(words))
    except SystemExit as ended:
        return ended.code == 2
    return False


def test_every_long_check_demands_another_page_for_less(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[Path] = []

    @contextmanager
    def noted(*_: object, page: Path, **__: object) -> Iterator[Evidence]:
        ran.append(page)
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for module in (running, prove, simulate):
        monkeypatch.setattr(module, "measured", noted)
    monkeypatch.setattr(controls, "run", lambda _flaws, _jobs, page: ran.append(page) or {})
    smaller: dict[Callable[[list[str]], int], list[list[str]]] = {
        partial(running.main, "torture", TORTURE, ""): [["--scale", "0.99"], ["--scale", "0"]],
        partial(running.main, "hostile", HOSTILE, ""): [["--scale", "0.5", "frames"]],
        prove.main: [["--steps", "49999"], ["--storage", "memory", "--steps", "22499"]],
        simulate.main: [["--seeds", "99999"], ["--first", "7", "--seeds", "1"]],
        controls.main: [["no-history", "--page", str(PAGE)]],
    }
    for main, runs in smaller.items():
        for words in runs:
            assert refused(main, *words), words
    assert ran == []
    whole: dict[Callable[[list[str]], int], list[list[str]]] = {
        partial(running.main, "torture", TORTURE, ""): [[], ["--scale", "2", "idle"]],
        prove.main: [[], ["--storage", "memory", "--steps", "22500"]],
        simulate.main: [[], ["--first", "7"]],
        controls.main: [[]],
    }
    for main, runs in whole.items():
        for words in runs:
            assert not refused(main, *words), words
    assert set(ran) == {PAGE}
    ran.clear()
    other = str(tmp_path / "page.md")
    for main, runs in smaller.items():
        for words in runs:
            assert not refused(main, *words, "--page", other), words
    assert set(ran) == {Path(other)}
