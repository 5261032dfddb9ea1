"""Both lanes see the same messages and reach the same state, for any bytes in any split.

What an incomplete frame has brought is kept by the lane that began it; it is the same in both, too.
"""

from __future__ import annotations

import random
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import ProtocolError
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import CLOSING, OPEN, SERVER

from actors.protocol.fastlane import BATCH, PING_SIZE, header_of, read_alone, read_close, read_frames
from actors.protocol.websocket import Framing, WebSocket, WireLimits, frame_of
from actors.transports.memory import MemoryTransport

MAX_MESSAGE = 300


class Recorder:
    """A receiver that writes down what it is told."""

    def __init__(self) -> None:
        self.log: list[object] = []
        self.waits = False

    def received(self, message: str | bytes) -> None:
        self.log.append(message)

    def received_many(self, messages: list[str | bytes], size: int) -> None:
        assert sum(map(len, messages)) <= size
        for message in messages:
            self.received(message)

    def hurry(self, now: float) -> None:
        pass

    def give_way(self) -> None:
        self.waits = True

    def peer_closed(self) -> None:
        self.log.append("peer closed")

    def failed(self) -> None:
        self.log.append("failed")

    def ended(self) -> None:
        self.log.append("ended")

    def writable(self) -> None:
        self.log.append("writable")


def run(
    chunks: list[bytes],
    *,
    fast: bool,
    made_already: bool = True,
    close_at: int = -1,
    eof: bool = False,
) -> tuple[object, ...]:
    """Feed ``chunks`` through one lane, one a second, and give all that can be seen from outside.

    Our own Close frame goes out ahead of the chunk ``close_at``, if the conversation is not over by then.
    """
    recorder, wire = Recorder(), bytearray()
    now = 1.0
    transport = MemoryTransport(wire.extend, lambda: None)
    websocket = WebSocket(
        transport,
        Framing(SERVER) if made_already else None,
        recorder,
        lambda: now,
        WireLimits(MAX_MESSAGE, max_fragments=5, control_rate=1.0, control_burst=6),
    )
    if not fast:
        websocket._plain = websocket._between_frames = False
    websocket.ping()
    for number, chunk in enumerate(chunks):
        now += 1.0
        if number == close_at and websocket.sent is None:
            websocket.send_close(4001, "ours")
        websocket.data(chunk)
        while recorder.waits:
            recorder.waits = False
            websocket.read_on()
    needed, incomplete = websocket._protocol, websocket._incomplete
    if needed is None:  # then it would be where a new one is that has only seen the Close frames
        state: tuple[object, ...] = (OPEN if websocket.sent is None else CLOSING, b"", None)
    else:
        state = needed.state, bytes(needed.reader.buffer), needed.current_size
    if websocket._fragments is not None and state[0] is OPEN:
        assert websocket._fragments.size == sum(map(len, websocket._fragments.pieces)) == state[2]
    if incomplete is not None:  # of which the protocol would have taken the header
        state = state[0], incomplete.as_it_came()[len(incomplete._header) :], None
    state += websocket.assembling_since, websocket.ping_sent_at, websocket.round_trip
    if eof:
        websocket.eof()
    return recorder.log, bytes(wire), state, websocket.sent, websocket.received


def masked(opcode: Opcode, payload: bytes, **bits: bool) -> bytes:
    return Frame(opcode, payload, **bits).serialize(mask=True)


def in_a_row(opcode: Opcode, length: int, count: int, broken: int) -> bytes:
    """Frames of one length; in one of them, if there are so many, is no UTF-8."""
    texts = [str(number).zfill(length)[:length].encode() for number in range(count)]
    return b"".join(
        masked(opcode, b"\xff" * length if number == broken else text) for number, text in enumerate(texts)
    )


payloads = st.one_of(
    st.binary(max_size=20),
    st.text(max_size=20).map(str.encode),
    st.sampled_from([b"", b"x" * 125, b"x" * 126, b"x" * MAX_MESSAGE, b"x" * (MAX_MESSAGE + 1), b"\xff"]),
)
data_frames = st.builds(masked, st.sampled_from([Opcode.TEXT, Opcode.BINARY]), payloads)
fragments = st.builds(
    masked, st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.CONT]), payloads, fin=st.booleans()
)
rows = st.builds(
    in_a_row,
    st.sampled_from([Opcode.TEXT, Opcode.BINARY]),
    st.one_of(st.integers(0, 4), st.integers(124, 127)),
    st.integers(2, 2 * BATCH + 2),
    st.integers(0, 100),
)
controls = st.builds(masked, st.sampled_from([Opcode.PING, Opcode.PONG]), st.binary(max_size=125))
answers = st.just(masked(Opcode.PONG, (1).to_bytes(PING_SIZE, "big")))
closes = st.builds(
    masked,
    st.just(Opcode.CLOSE),
    st.one_of(
        st.sampled_from([b"", b"\x03", b"\x03\xe8", b"\x03\xe8bye", b"\x0f\xa1" + b"x" * 123]),  # 1000, 4001
        st.sampled_from([b"\x03\xe7", b"\x03\xed", b"\x03\xee", b"\x13\x88"]),  # 999, 1005, 1006, 5000
        st.sampled_from([b"\x03\xe8\xff", b"\x03\xe8\xc3"]),  # no UTF-8
        st.binary(max_size=125),
    ),
)
unmasked = st.binary(max_size=10).map(lambda payload: Frame(Opcode.TEXT, payload).serialize(mask=False))
not_minimal = st.binary(min_size=1, max_size=20).map(
    lambda payload: b"\x82\xfe" + len(payload).to_bytes(2, "big") + bytes(4) + payload
)
streams = st.lists(
    st.one_of(data_frames, data_frames, data_frames, fragments, controls, answers, closes, unmasked,
              not_minimal, st.binary(max_size=12)),
    max_size=12,
).map(b"".join)  # fmt: skip


def split(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(stream) + 1) for cut in cuts} | {0, len(stream)})
    return [stream[start:end] for start, end in pairwise(places)]


@settings(max_examples=1000, deadline=None)
@given(
    streams,
    st.lists(st.integers(min_value=0), max_size=8),
    st.integers(-1, 8),
    st.booleans(),
    st.booleans(),
)
def test_both_lanes_agree_on_any_bytes_in_any_split(
    stream: bytes, cuts: list[int], close_at: int, eof: bool, made_already: bool
) -> None:
    chunks = split(stream, cuts)

    fast = run(chunks, fast=True, made_already=made_already, close_at=close_at, eof=eof)

    assert fast == run(chunks, fast=False, close_at=close_at, eof=eof)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(rows, max_size=3).map(b"".join),
    st.lists(st.integers(min_value=0), max_size=8),
    st.integers(-1, 8),
    st.booleans(),
)
def test_both_lanes_agree_on_frames_of_one_length_in_any_split(
    stream: bytes, cuts: list[int], close_at: int, made_already: bool
) -> None:
    chunks = split(stream, cuts)

    fast = run(chunks, fast=True, made_already=made_already, close_at=close_at)

    assert fast == run(chunks, fast=False, close_at=close_at)


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x0f\xa1" + b"x" * 123])
def test_a_close_frame_needs_no_protocol_on_either_side(payload: bytes) -> None:
    transport = MemoryTransport(bytearray().extend, lambda: None)
    websocket = WebSocket(transport, None, Recorder(), lambda: 1.0, WireLimits(MAX_MESSAGE))

    websocket.send_close(4001, "ours")
    websocket.data(masked(Opcode.TEXT, b"crosses it") + masked(Opcode.CLOSE, payload))

    assert websocket.sent == (4001, "ours")
    assert websocket.received is not None
    assert websocket._protocol is None


@pytest.mark.parametrize("reason", [b"", b"why", b"\xc3", b"x" * 123])
def test_a_close_frame_is_read_as_the_protocol_reads_it_or_left_to_it(reason: bytes) -> None:
    for code in range(0x10000):
        payload = code.to_bytes(2, "big") + reason
        try:
            close = Close.parse(payload)
        except (ProtocolError, UnicodeDecodeError):
            expected = None
        else:
            expected = payload, (close.code, close.reason)
        frame = masked(Opcode.CLOSE, payload)

        assert read_close(frame, 0) == expected


@settings(max_examples=1000, deadline=None)
@given(
    st.one_of(
        st.builds(masked, st.sampled_from(Opcode), st.binary(max_size=125)),
        st.builds(lambda text: masked(Opcode.TEXT, text.encode()), st.text(max_size=140)),
        st.builds(lambda size: masked(Opcode.BINARY, bytes(size)), st.integers(4090, 4102)),
        st.builds(lambda size: masked(Opcode.TEXT, b"x" * size), st.integers(65_530, 65_540)),
        st.binary(max_size=140),
    ),
    st.sampled_from([0, 63, 124, 125, 126, 4096, 65_535, 65_536, 1 << 20]),
)
def test_a_frame_that_comes_alone_is_read_as_among_others(data: bytes, max_message: int) -> None:
    messages, end, _ = read_frames(data, max_message)
    alone = len(messages) == 1 and end == len(data)

    assert read_alone(data, max_message) == (messages[0] if alone else None)


@settings(max_examples=300, deadline=None)
@given(streams, st.booleans())
def test_both_lanes_agree_on_bytes_that_come_one_by_one_and_end_anywhere(stream: bytes, eof: bool) -> None:
    chunks = [stream[index : index + 1] for index in range(len(stream))]

    assert run(chunks, fast=True, eof=eof) == run(chunks, fast=False, eof=eof)


small = st.sampled_from([b"", b"x", b"\xc3", b"\xa9"])
fragmented = st.builds(
    lambda opcode, first, rest, last: b"".join(
        [masked(opcode, first, fin=False)]
        + [masked(Opcode.CONT, one, fin=False) for one in rest]
        + ([] if last is None else [masked(Opcode.CONT, last)])
    ),
    st.sampled_from([Opcode.TEXT, Opcode.BINARY]),
    small,
    st.lists(st.one_of(small, small, payloads), max_size=6),
    st.one_of(st.none(), small),
)
"""Messages of up to as many fragments as are allowed, and more; some have no end."""


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.one_of(fragmented, fragmented, controls, data_frames, fragments), max_size=6).map(b"".join),
    st.lists(st.integers(min_value=0), max_size=8),
    st.integers(-1, 8),
    st.booleans(),
)
def test_both_lanes_agree_on_fragments_in_any_split(
    stream: bytes, cuts: list[int], close_at: int, eof: bool
) -> None:
    chunks = split(stream, cuts)

    fast = run(chunks, fast=True, close_at=close_at, eof=eof)

    assert fast == run(chunks, fast=False, close_at=close_at, eof=eof)


@given(st.one_of(st.text(), st.binary()))
def test_a_written_frame_is_that_of_the_protocol(message: str | bytes) -> None:
    opcode = Opcode.TEXT if isinstance(message, str) else Opcode.BINARY
    payload = message.encode() if isinstance(message, str) else message

    assert frame_of(message) == Frame(opcode, payload).serialize(mask=False)


@pytest.mark.parametrize("length", [0, 125, 126, 65_535, 65_536])
@pytest.mark.parametrize("text", [True, False])
def test_the_header_of_every_length_is_that_of_the_protocol(length: int, text: bool) -> None:
    opcode = Opcode.TEXT if text else Opcode.BINARY

    assert (
        header_of(length, text=text) == Frame(opcode, b"x" * length).serialize(mask=False)[: -length or None]
    )


@pytest.mark.parametrize("length", [0, 125, 126, 4095, 4096, 65_535, 65_536, 100_000])
def test_whole_frames_of_every_length_are_read(length: int) -> None:
    frame = masked(Opcode.BINARY, bytes(length))

    messages, position, incomplete = read_frames(frame + frame + frame[:5], 1 << 20)

    assert messages == [bytes(length)] * 2
    assert position == 2 * len(frame)
    assert incomplete is None, "the header has not come whole"


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
@pytest.mark.parametrize("length", [0, 1, 64, 125, 126])
@pytest.mark.parametrize("count", [2, BATCH - 1, BATCH, BATCH + 1])
@pytest.mark.parametrize(
    "behind", [b"", b"\x81", masked(Opcode.BINARY, b"another"), masked(Opcode.PING, b"")]
)
def test_frames_of_one_length_in_a_row_are_read_as_any_others(
    opcode: Opcode, length: int, count: int, behind: bytes
) -> None:
    row = in_a_row(opcode, length, count, -1)
    size = len(row) // count
    alone: list[str | bytes] = []
    for start in range(0, len(row), size):
        alone += read_frames(row[start : start + size], 1000)[0]

    messages, end, incomplete = read_frames(row + behind, 1000)

    another = [b"another"] if len(behind) > 6 and count < BATCH else []
    assert messages == alone[:BATCH] + another
    assert end == min(count, BATCH) * size + (len(behind) if another else 0)
    assert incomplete is None
    assert read_frames(row[: size + size // 2], 1000)[0] == alone[:1]


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
@pytest.mark.parametrize(("length", "header"), [(1, 6), (125, 6), (126, 8), (65_535, 8), (65_536, 14)])
def test_a_frame_is_incomplete_from_the_end_of_its_header_on_and_goes_on_where_it_stopped(
    length: int, header: int, opcode: Opcode
) -> None:
    payload = bytes(index % 128 for index in range(length))
    frame = masked(opcode, payload)

    assert read_frames(frame[: header - 1], 1 << 20) == ([], 0, None)
    messages, position, incomplete = read_frames(frame[:header], 1 << 20)

    assert (messages, position) == ([], header)
    assert incomplete is not None
    assert incomplete.missing == length
    data = b"behind it" + frame[header:] + b"next"
    assert incomplete.take(data, len(b"behind it")) == len(data) - len(b"next")
    assert incomplete.missing == 0
    assert incomplete.message() == (payload.decode() if opcode is Opcode.TEXT else payload)


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_a_frame_that_drips_in_weighs_what_has_come_of_it(size: int) -> None:
    payload = random.Random(0).randbytes(100_000)
    frame = masked(Opcode.BINARY, payload)
    _, _, incomplete = read_frames(frame[:14], 1 << 20)
    assert incomplete is not None

    for position in range(14, len(frame) - size, size):
        incomplete.take(frame[position : position + size], 0)
        if position % 10_000 < size:
            weight = sum(map(sys.getsizeof, [incomplete._pieces, *incomplete._pieces]))
            assert weight <= 1.05 * (position + size) + 1000
    incomplete.take(frame[-incomplete.missing :], 0)

    assert incomplete.message() == payload
    assert incomplete.as_it_came() == frame


def test_a_frame_over_the_limit_is_left_to_the_protocol_whole_or_not() -> None:
    frame = masked(Opcode.BINARY, bytes(11))

    assert read_frames(frame, 10) == read_frames(frame[:-1], 10) == ([], 0, None)
    assert read_frames(b"\x82\xff" + b"\xff" * 12, sys.maxsize) == ([], 0, None)


def test_messages_keep_their_kind() -> None:
    stream = masked(Opcode.TEXT, b"a") + masked(Opcode.BINARY, b"a")

    messages, _, _ = read_frames(stream, 10)

    assert messages == ["a", b"a"]
    assert [type(message) for message in messages] == [str, bytes]
