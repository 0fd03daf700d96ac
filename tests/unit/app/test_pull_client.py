"""Where a pull keeps pages for an existing file until it has all of them."""

from pathlib import Path

import pytest

from edgereplica.app import pull_client
from edgereplica.app.pull_client import Spool
from edgereplica.events.errors import LocalFileError

BATCH = 1000


def batch(number: int) -> memoryview:
    return memoryview(number.to_bytes(2, "big") * (BATCH // 2))


@pytest.mark.parametrize("batches", [0, 1, 3, 4, 20])
def test_pieces_come_back_in_the_order_of_arrival(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    monkeypatch.setattr(pull_client, "PULLED_BYTES_IN_MEMORY_MAX", 3 * BATCH)
    spool = Spool(tmp_path)
    for number in range(batches):
        spool.write(1000 - number, batch(number))
    found = [(first, bytes(data)) for first, data in spool.pieces()]
    assert found == [(1000 - number, bytes(batch(number))) for number in range(batches)]
    assert found == [(first, bytes(data)) for first, data in spool.pieces()], "a second time"
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_only_so_much_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull_client, "PULLED_BYTES_IN_MEMORY_MAX", 3 * BATCH)
    spool = Spool(tmp_path)
    kept = [batch(number) for number in range(8)]
    for number, data in enumerate(kept):
        spool.write(number, data)
        if number >= 3:
            data.release()  # what is in the file is not asked for again
    assert [bytes(data) for _, data in spool.pieces()] == [bytes(batch(n)) for n in range(8)]
    spool.close()


def test_a_folder_without_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull_client, "PULLED_BYTES_IN_MEMORY_MAX", BATCH)
    spool = Spool(tmp_path / "gone")
    spool.write(1, batch(1))
    with pytest.raises(LocalFileError):
        spool.write(2, batch(2))
    spool.close()
