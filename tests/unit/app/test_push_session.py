"""What a push believes of a server's refusal."""

import pytest

from edgereplica.app.push_session import runs_within


@pytest.mark.parametrize(
    ("said", "runs"),
    [
        ([[1, 4], [6, 6]], ((1, 4), (6, 6))),
        # Naming the tables of so many pages once took four gigabytes.
        ([[3, 4_294_967_294]], ((3, 10),)),
        ([[1, 1], [11, 12]], ((1, 1),)),
        ([[4, 1]], ()),
        ([[1.0, float("inf")]], ()),
        ([[1]], ()),
        ({"a": 1}, ()),
        ("1", ()),
        (None, ()),
    ],
)
def test_changed_runs_are_those_of_the_file(
    said: object, runs: tuple[tuple[int, int], ...]
) -> None:
    assert runs_within(said, 10) == runs
