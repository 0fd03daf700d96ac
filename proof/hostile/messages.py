"""Well-formed frames that say hostile things, in every situation of every machine."""

from random import Random
from typing import Any

import msgpack

from proof.running import Counts, Job

from .machine_floods import FLOODS, flood_machine
from .meter import Meter
from .victims import Victims, decode

STEP = 200

# Numbers at which a bound may be off by one, and values of the wrong type.
_NUMBERS = (0, 1, 2, 3, 4, 511, 512, 4096, 65_535, 65_536, 65_537, 67_108_864, 67_108_865,
            0xFFFF_FFFE, 0xFFFF_FFFF, 1 << 32, (1 << 63) - 1, (1 << 64) - 1, -1)  # fmt: skip
_WRONG: tuple[Any, ...] = (None, True, 1.5, "", "x" * 40, b"", b"\0" * 31, b"\0" * 32, [], {}, [[]])
_KEYS: dict[int, dict[str, tuple[str, ...]]] = {
    1: {
        "hello": ("protocol_version", "page_size", "max_page"),
        "hello_reply": ("protocol_version", "page_size", "max_page"),
        "page_hash": ("page_no", "hash"),
        "page_hash_batch": ("start_page", "end_page", "combined_hash"),
        "request_page": ("page_no",),
        "request_pages": ("page_numbers",),
        "hash_mismatch": ("page_no",),
        "hash_mismatch_batch": ("page_numbers",),
        "page_data": ("page_no", "data"),
        "page_data_batch": ("pages",),
        "complete": (),
        "sync_complete": ("pages_transferred", "bytes_transferred"),
        "error": ("message",),
    },
    2: {
        "hello": ("page_size", "page_count", "base", "base_root", "root", "at", "force",
                  "features"),
        "hello_reply": ("page_size", "page_count", "head", "root", "base_known", "pages_changed",
                        "limits", "database", "author"),
        "page_hash_batch": ("ranges",),
        "page_hashes": ("windows",),
        "request_pages": ("runs",),
        "hash_mismatch_batch": ("runs",),
        "page_data_batch": ("runs", "codec", "data"),
        "complete": ("page_count", "root", "force", "message"),
        "sync_complete": ("pages_transferred", "bytes_transferred", "version", "root"),
        "head_changed": ("version", "root", "page_count"),
        "error": ("code", "message", "retryable", "details"),
    },
}  # fmt: skip
_KINDS = sorted({*_KEYS[1], *_KEYS[2]})


def _value(key: str, dice: Random) -> Any:
    if dice.random() < 0.03:
        return dice.choice(_WRONG)
    match key:
        case "hash" | "combined_hash" | "root" | "base_root":
            return dice.choice((b"\x01", b"\0", b"\xdd")) * 32
        case "data":
            return bytes(512 * dice.choice((0, 1, 2, 3))) + bytes(dice.choice((0, 0, 0, 1)))
        case "codec":
            return dice.choice(("raw", "zstd", "raw", "raw", "lz4"))
        case "page_numbers":
            return [dice.choice(_NUMBERS[:8]) for _ in range(dice.choice((0, 1, 3, 2000)))]
        case "pages":
            page = {"page_no": dice.choice(_NUMBERS[:6]), "data": bytes(512)}
            return [page] * dice.choice((0, 1, 2, 50))
        case "windows":
            return [
                [dice.choice((0, 1, 1, 2, 5, 0xFFFF_FFFF)), b"\xdd" * 32 * dice.randrange(4)]
                for _ in range(dice.choice((0, 1, 1, 2, 3)))
            ]
        case "runs":
            return _runs(dice)
        case "ranges":
            return [[*run, b"\xdd" * 32] for run in _runs(dice)]
        case "page_size":
            return dice.choice((512, 512, 512, 4096, 0, 500, 131_072))
        case "code" | "message" | "author" | "database":
            return dice.choice(("", "conflict", "x" * 60, "x" * 5000))
        case "force" | "retryable" | "base_known":
            return dice.random() < 0.5
        case "features":
            return dice.choice(([], ["a"], ["a"] * 1000))
        case "limits" | "details":
            return dice.choice(({}, {"a": 1}, {str(n): n for n in range(500)}))
        case "at":
            return dice.choice((None, 0, 1, 2, 1 << 63, 0.0, -1.0, 1e300, float("nan")))
        case "protocol_version":
            return dice.choice((1, 1, 1, 0, 2))
    return dice.choice(_NUMBERS) if dice.random() < 0.4 else dice.randrange(5)


def _runs(dice: Random) -> list[list[Any]]:
    """Runs in order and out of it, overlapping, backwards, endless."""
    found = []
    at = dice.choice((0, 1, 1, 1, 1, 1))
    for _ in range(dice.choice((0, 1, 1, 2, 300))):
        last = at + dice.choice((0, 0, 1, 2, 70_000))
        found.append([at, last] if dice.random() < 0.97 else [last, at - 1])
        at = last + dice.choice((1, 2, 3, 4, 0))
    if dice.random() < 0.05:
        found.append([1, dice.choice(_NUMBERS)])
    return found


def hostile_frame(version: int, dice: Random) -> bytes:
    """A frame of any kind, now and then one of the other version's, a key missing or too many."""
    keys = _KEYS[version]
    kind = dice.choice(_KINDS if dice.random() < 0.05 else list(keys))
    data = {
        ("runs" if key == "windows" else key): _value(key, dice)
        for key in keys.get(kind, ())
        if dice.random() < 0.97
    }
    if dice.random() < 0.02:
        data["more"] = [1] * 100
    try:
        return bytes([version]) + bytes(msgpack.packb({"kind": kind, "data": data}))
    except OverflowError:
        return bytes([version])


def messages(job: Job) -> Counts:
    """`job.count` frames of every kind in any order, each for a machine of any role; and floods."""
    dice = job.dice
    names = ("messages", "undecodable", "accepted by a machine", "refused by a machine",
             "floods", "messages in floods", "pages in floods", "answers to floods")  # fmt: skip
    found = Counts(dict.fromkeys(names, 0))
    victims = Victims(dice, everything=job.share > 0.05)
    meter = Meter()
    while found["messages"] < job.count:
        version = dice.choice((1, 2))
        found["messages"] += 1
        if found["messages"] % STEP == 0:
            job.step(STEP)
        message = decode(hostile_frame(version, dice))
        if message is None:
            found["undecodable"] += 1
        else:
            victims.tell(version, message, found)
    for flood in FLOODS[job.part :: job.parts]:
        flood_machine(*flood, job.share, found)
    found["situations of machines"] = len(victims.situations_met)
    found["changed by a refusal"] = 0
    found["most KiB grown"] = meter.require_grown("machines")
    return found
