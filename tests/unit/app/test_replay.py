"""A recorded session runs again to the same effects, and carries no page of anybody's."""

import asyncio
import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import fake_ends as fakes
from tests.exploring import examples, explore
from tests.fake_ends import FakeDatabase, FakeFile
from tests.strategies import V2_MESSAGES

from edgereplica.adapters.memory_transport import memory_pair
from edgereplica.app.driver import CODECS, Driver
from edgereplica.app.replay import FileRecorder, ReplayReport, replay
from edgereplica.events.errors import InvalidArgument, LocalFileError
from edgereplica.events.messages import PageData
from edgereplica.events.recording import ElidedBytes, decode_event, encode
from edgereplica.events.session import Event, MessageReceived, PagesLoaded, PagesRead
from edgereplica.fsm.client_pull import ClientPull
from edgereplica.fsm.client_push import ClientPush
from edgereplica.fsm.machine import Machine
from edgereplica.fsm.registry import MACHINES, make_machine
from edgereplica.fsm.server_pull import ServerPull
from edgereplica.fsm.server_push import ServerPush

CANARY = b"\xca\xfe\xba\xbe" * 128


async def _session(
    directory: Path, wire: int, client: tuple[Machine, Any], server: tuple[Machine, Any], plan: Any
) -> None:
    near, far = memory_pair()
    recorders = [
        FileRecorder(directory / name, machine)
        for name, (machine, _) in (("client", client), ("server", server))
    ]
    driver = Driver(*client, near, codec=CODECS[wire], recorder=recorders[0])
    serving = Driver(*server, far, recorder=recorders[1])
    async with asyncio.timeout(20), asyncio.TaskGroup() as both:
        both.create_task(driver.run(plan))
        both.create_task(serving.run())
    for recorder in recorders:
        recorder.close()


def record_push(directory: Path, wire: int) -> None:
    file = FakeFile(pages=[CANARY, bytes(512), CANARY[::-1]])
    asyncio.run(
        _session(
            directory,
            wire,
            (ClientPush(wire), fakes.PushClientEnd(file)),
            (ServerPush(), fakes.PushServerEnd(FakeDatabase())),
            file.push_plan(message="nightly"),
        )
    )


def record_pull(directory: Path, wire: int) -> None:
    database, file = FakeDatabase(), FakeFile(pages=[CANARY, CANARY])
    database.commit(512, [CANARY, bytes(512), CANARY[::-1]])
    asyncio.run(
        _session(
            directory,
            wire,
            (ClientPull(wire), fakes.PullClientEnd(file, speaks_v1=wire == 1)),
            (ServerPull(), fakes.PullServerEnd(database)),
            file.pull_plan(),
        )
    )


@pytest.mark.parametrize("record", [record_push, record_pull])
@pytest.mark.parametrize("wire", [1, 2])
def test_a_recorded_session_runs_again_the_same(tmp_path: Path, record: Any, wire: int) -> None:
    record(tmp_path, wire)
    names = []
    for end in ("client", "server"):
        report = replay(tmp_path / end)
        assert report.same, report.difference
        assert report.difference is None
        assert report.events > 4
        names.append(report.machine)
        text = (tmp_path / end).read_text()
        for page in (CANARY, CANARY[::-1], bytes(512)):
            assert page.hex() not in text
            assert page[:32].hex() * 2 not in text
        assert stat.S_IMODE((tmp_path / end).stat().st_mode) == 0o600
    assert names in (["client_push", "server_push"], ["client_pull", "server_pull"])


def test_a_machine_that_does_something_else_is_found(tmp_path: Path) -> None:
    record_push(tmp_path, 2)
    lines = (tmp_path / "server").read_text().splitlines()
    line = json.loads(lines[3])
    line["effects"] = [*line["effects"], {"type": "AbandonPush"}]
    (tmp_path / "server").write_text("\n".join([*lines[:3], json.dumps(line), *lines[4:], ""]))
    report = replay(tmp_path / "server")
    assert not report.same
    assert report.events == 3
    assert report.difference is not None
    assert report.difference.startswith("event 3: ")
    assert "AbandonPush" in report.difference
    assert report.to_dict()["same"] is False


def test_changed_page_data_is_a_difference(tmp_path: Path) -> None:
    """Content is left out, but its hash is compared."""
    record_push(tmp_path, 2)
    text = (tmp_path / "client").read_text()
    loaded = next(line for line in text.splitlines() if '"PagesLoaded"' in line)
    data = json.loads(loaded)["event"]["data"]["blake2b"]
    changed = loaded.replace(data, "0" * 16, 1)
    (tmp_path / "client").write_text(text.replace(loaded, changed))
    assert not replay(tmp_path / "client").same


def test_a_refused_event_is_recorded_and_refused_again(tmp_path: Path) -> None:
    situation = next(s for s in explore("server_push", 2) if s.state == "receiving")
    machine, path = make_machine("server_push", 2), tmp_path / "r"
    recorder = FileRecorder(path, machine)
    for event in situation.path:
        recorder.record(event, machine.handle(event))
    recorder.refuse(situation.path[0], InvalidArgument("x"))
    recorder.close()
    report = replay(path)
    assert not report.same
    assert "invalid_argument" in (report.difference or "")
    path.write_text(path.read_text().replace("invalid_argument", "protocol_violation"))
    assert replay(path).same


def test_the_line_that_a_killed_process_left_half_is_ignored(tmp_path: Path) -> None:
    record_push(tmp_path, 2)
    whole = replay(tmp_path / "client")
    text = (tmp_path / "client").read_text()
    (tmp_path / "client").write_text(text[:-20])
    assert replay(tmp_path / "client") == ReplayReport(
        "client_push", 2, whole.events - 1, same=True
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "hello\n",
        "[]\n",
        "{}\n",
        '{"format": "edgereplica-session", "version": 2}\n',
        '{"format": "edgereplica-session", "version": 1, "machine": "coffee"}\n',
        '{"format": "edgereplica-session", "version": 1, "machine": "client_push", '
        '"wire_version": "2"}\n',
        '{"format": "edgereplica-session", "version": 1, "machine": "server_push"}\n{}\n',
        '{"format": "edgereplica-session", "version": 1, "machine": "server_push"}\n'
        '{"event": {"type": "Machine"}}\n',
        '{"format": "edgereplica-session", "version": 1, "machine": "server_push"}\n'
        '{"event": {"type": "MessageReceived", "message": 7}}\n',
        '{"format": "edgereplica-session", "version": 1, "machine": "server_push"}\n'
        '{"event": {"type": "PeerLost", "nonsense": 7}}\n',
        '{"format": "edgereplica-session", "version": 1, "machine": "server_push"}\n'
        + "[" * 100_000
        + "\n",
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r").write_text(text)
    with pytest.raises(InvalidArgument):
        replay(tmp_path / "r")


def test_a_file_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(LocalFileError):
        replay(tmp_path)
    with pytest.raises(LocalFileError):
        FileRecorder(tmp_path, make_machine("server_push", 2))


@pytest.mark.parametrize("wire", [1, 2])
def test_every_event_survives_the_way_through_json(wire: int) -> None:
    for event in examples(wire):
        again = decode_event(json.loads(json.dumps(encode(event))))
        assert type(again) is type(event)
        assert encode(again) == encode(event)


@settings(max_examples=300, deadline=None)
@given(V2_MESSAGES.map(MessageReceived))
def test_every_message_survives_the_way_through_json(event: Event) -> None:
    assert encode(decode_event(json.loads(json.dumps(encode(event))))) == encode(event)


@pytest.mark.parametrize("name", MACHINES)
def test_every_effect_can_be_recorded(name: str, tmp_path: Path) -> None:
    for situation in explore(name, 2)[::3]:
        machine = make_machine(name, 2)
        recorder = FileRecorder(tmp_path / "r", machine)
        for event in situation.path:
            recorder.record(event, machine.handle(event))
        recorder.close()
        assert replay(tmp_path / "r").same


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "map", "hex", "length", "blake2b", "message", "windows", "runs"]
            ),
            inner | st.sampled_from(["MessageReceived", "PageData", "PageHashes", "PagesRead"]),
            max_size=4,
        )
    ),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(JSON)
def test_any_json_is_an_event_or_refused(untrusted: Any) -> None:
    try:
        decode_event(untrusted)
    except InvalidArgument as error:
        assert error.message


def test_content_is_left_out_to_the_last_byte_and_what_is_short_stays() -> None:
    assert encode(bytes(64)) == {"hex": "00" * 64}
    assert encode(bytes(65)) == {
        "length": 65,
        "blake2b": hashlib.blake2b(bytes(65), digest_size=8).hexdigest(),
    }
    page_data = encode(PageData(((1, 1),), "raw", b"x"))
    assert page_data["data"] == {
        "length": 1,
        "blake2b": hashlib.blake2b(b"x", digest_size=8).hexdigest(),
    }


def _answered(data: object) -> dict[str, Any]:
    """An event with what a recording says of its data."""
    message = {**encode(PageData(((1, 1),), "raw", b"x")), "data": data}
    return {"type": "MessageReceived", "message": message}


@pytest.mark.parametrize(
    ("length", "blake2b"),
    [(-1, "00"), (True, "00"), (1.5, "00"), (-1, None), (1, None), ("1", "00")],
)
def test_what_stands_for_bytes_has_a_length_and_a_hash(length: object, blake2b: object) -> None:
    with pytest.raises(InvalidArgument) as refused:
        decode_event(_answered({"length": length, "blake2b": blake2b}))
    words = "elided bytes without length or hash"
    assert refused.value.message == f"not a recorded event: ValueError({words!r})"


def test_no_bytes_can_be_left_out_too() -> None:
    loaded = encode(PagesLoaded(((1, 1),), "raw", b"x"))
    again = decode_event({**loaded, "data": {"length": 0, "blake2b": "00"}})
    assert isinstance(again, PagesLoaded)
    assert len(again.data) == 0


def test_what_cannot_be_recorded_or_is_no_event_is_named() -> None:
    with pytest.raises(TypeError, match=r"^a set cannot be recorded$"):
        encode({1})
    for untrusted, words in (
        (7, "not a recorded event"),
        (_answered({"hex": ""}), "not a recorded event: page data without pages"),
    ):
        with pytest.raises(InvalidArgument) as refused:
            decode_event(untrusted)
        assert refused.value.message == words


def test_elided_bytes_have_a_length_and_nothing_else() -> None:
    elided = ElidedBytes(70_000, "ab" * 8)
    assert len(elided) == 70_000
    assert bool(elided)
    assert not ElidedBytes(0, "")
    assert bytes.__len__(elided) == 0
    assert encode(elided) == {"length": 70_000, "blake2b": "ab" * 8}
    assert "70000" in repr(elided)


def test_page_data_is_left_out_however_short_it_is() -> None:
    """Compressed, a page of zeros has fewer bytes than a hash; other short bytes stay."""
    for event in (
        PagesLoaded(((1, 1),), "zstd", b"secret"),
        PagesRead(((1, 1),), "zstd", b"secret"),
    ):
        assert b"secret".hex() not in json.dumps(encode(event))
    assert encode(b"x" * 64) == {"hex": "78" * 64}
    assert "hex" not in encode(b"x" * 65)
