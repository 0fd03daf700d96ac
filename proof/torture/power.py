"""Power loss: what was written and not synced may be gone, in any combination.

The system calls of a real server in a push (`power_server`), and of a real client in a pull
(`power_client`), are recorded (`syscalls`); at random moments of a recording, the disk that a power
loss may leave is made (`disks`) and looked at as its owner would: the server starts on it, the
client goes on with it. Here is what both have in common: recordings and their images. An image in
which nothing is lost shows nothing, and is none.
"""

import os
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from proof.running import Counts

from .disks import Disk, Image
from .syscalls import Note, Recorder, RecordingFailed

DRAWS_MAX: Final = 30
"""An image in which nothing is lost is drawn again; after so many there is nothing to lose."""
BARREN_MAX: Final = 5
"""Recordings in a row of which no image can be made."""
NAMING: Final = ("create", "link", "rename", "unlink")
"""Steps that a commit often consists of: the power fails behind one of them every third time; every
sixth time when all is done, because what was acknowledged must be durable by then."""
LOST: Final = "with something lost"
DONE: Final = "when all was done"
STAGED: Final = "with staged segments"
RESUMED: Final = "with a push resumed"


@dataclass
class Recording:
    """What stood in the folder, and what was then done to it. `acknowledged`: after so many notes,
    the value is known to be durable."""

    disk: Disk
    notes: list[Note]
    acknowledged: list[tuple[int, Any]]

    def images(self, count: int, dice: Random) -> Iterator[tuple[int, Image]]:
        """(notes until the power failed, what is left), of moments at which something can be lost,
        and in each image something is: `count`, or fewer, for not every write changes anything."""
        moments = sorted(self._moments(count, dice))
        at = 0
        for moment in moments:
            while at < moment:
                self.disk.follow(self.notes[at])
                at += 1
            for _ in range(DRAWS_MAX):
                image = self.disk.image(dice)
                if self.disk.has_lost(image):
                    yield moment, image
                    break

    def _moments(self, count: int, dice: Random) -> Iterator[int]:
        played = deepcopy(self.disk)
        any_, named = [], []
        for at, note in enumerate(self.notes, 1):
            played.follow(note)
            if played.may_lose():
                any_.append(at)
                if note.what in NAMING:
                    named.append(at)
        end = any_[-1:] if any_[-1:] == [len(self.notes)] else []
        for _ in range(count if any_ else 0):
            yield dice.choice(
                (
                    dice.choice(end or any_),
                    *dice.choices(named or any_, k=2),
                    *dice.choices(any_, k=3),
                )
            )


def lacks(counts: Counts) -> list[str]:
    """What a full count of images must have met. What one of the checks does not count it need not
    have met."""
    untouched = counts["images"] - counts[LOST]
    return [
        f"no image {name}"
        for name in (STAGED, RESUMED, DONE)
        if name in counts and not counts[name]
    ] + ([f"{untouched} images in which nothing was lost"] if untouched else [])


def bounded(barren: int, gave: bool) -> int:
    """How many recordings in a row gave no image, with this one."""
    if not gave and barren + 1 == BARREN_MAX:
        raise RecordingFailed(f"of {BARREN_MAX} recordings nothing can be lost")
    return 0 if gave else barren + 1


def checked(
    root: Path, recorder: Recorder, disk: Disk, acknowledged: list[tuple[int, Any]]
) -> Recording:
    """The recording, if no write has passed it unseen."""
    played = deepcopy(disk)
    for note in recorder.notes:
        played.follow(note)
    played.require(root)
    return Recording(disk, recorder.notes, acknowledged)


def restore(image: Image, root: Path) -> None:
    """Write the image under `root`, with the times that files had."""
    root.mkdir()
    folders = {"", *image.folders}
    for folder in sorted(image.folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, data in image.files.items():
        if name.rpartition("/")[0] in folders:
            (root / name).write_bytes(data)
            (root / name).chmod(0o600)
            os.utime(root / name, ns=(image.mtimes[name], image.mtimes[name]))
