"""Damaged frames against the codecs; what is a message all the same goes to a machine."""

from random import Random

from tests.wire_vectors import V1_VECTORS, V2_VECTORS

from edgereplica.app.driver import CODECS
from proof.running import Counts, Job

from .victims import Victims, decode

STEP = 500


def good_frames() -> list[bytes]:
    """Every frame of the vectors: each kind of both versions, with and without its options."""
    return [
        frame
        for version, vectors in ((1, V1_VECTORS), (2, V2_VECTORS))
        for vector in vectors
        for frame in CODECS[version].encode(vector.message)
    ]


def damaged(job: Job) -> Counts:
    """`job.count` frames with bits flipped or the end cut off; a fifth more with other damage.

    A frame that the damage happens to leave as it was does not count.
    """
    good, dice = good_frames(), job.dice
    names = ("bits flipped", "cut off", "bytes exchanged", "two frames joined",
             "undecodable", "messages all the same", "accepted by a machine",
             "refused by a machine")  # fmt: skip
    found = Counts(dict.fromkeys(names, 0))
    victims = Victims(dice, everything=job.share > 0.05)
    done = 0
    while done < job.count:
        whole = dice.choice(good)
        kind, frame = _damage(whole, good, dice)
        if frame == whole:
            continue
        found[kind] += 1
        if kind in ("bits flipped", "cut off"):
            done += 1
            if done % STEP == 0:
                job.step(STEP)
        message = decode(frame)
        if message is None:
            found["undecodable"] += 1
            continue
        found["messages all the same"] += 1
        victims.tell(frame[0], message, found)
    found["situations of machines"] = len(victims.situations_met)
    found["changed by a refusal"] = 0
    return found


def _damage(whole: bytes, good: list[bytes], dice: Random) -> tuple[str, bytes]:
    frame = bytearray(whole)
    chance = dice.random()
    if chance < 0.55:
        for _ in range(dice.choice((1, 1, 2, 8))):
            frame[dice.randrange(len(frame))] ^= 1 << dice.randrange(8)
        return "bits flipped", bytes(frame)
    if chance < 0.8:
        del frame[dice.randrange(len(frame)) :]
        return "cut off", bytes(frame)
    if chance < 0.9:
        frame[dice.randrange(len(frame))] = dice.randrange(256)
        return "bytes exchanged", bytes(frame)
    other = dice.choice(good)
    frame[dice.randrange(len(frame)) :] = other[dice.randrange(len(other)) :]
    return "two frames joined", bytes(frame)
