"""The WebSocket without I/O: messages out of bytes, and what goes on the wire in which order."""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.protocol.websocket import LARGE, NO_LIMIT, STEP, TURN, WebSocket, WireLimits, frame_of
from actors.transports.memory import MemoryTransport
from tests.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    decode,
    encode,
    encode_close,
)


class Conversation:
    """A WebSocket with a receiver that keeps what it is told, and a peer that keeps what it gets."""

    def __init__(self, max_message: int = 1024, **limits: Any) -> None:
        self.now = 100.0
        self.told: list[str | bytes] = []
        self.ends: list[str] = []
        self.hurried: list[int] = []
        """How many messages had been told each time that they were to be handled at once."""
        self.turns: list[int] = []
        """How many messages had been told each time that it was the turn of others."""
        self.wire = bytearray()
        self.room: int | None = None
        """How many messages more there is room for, before the receiver pauses."""
        self.transport = MemoryTransport(self.wire.extend, lambda: None)
        wire_limits = WireLimits(max_message, **limits)
        self.websocket = WebSocket(self.transport, None, self, lambda: self.now, wire_limits)
        self.transport.sink = self.websocket

    def received(self, message: str | bytes) -> None:
        self.told.append(message)
        if self.room is not None:
            self.room -= 1
            if self.room <= 0:
                self.websocket.pause()

    def received_many(self, messages: list[str | bytes], size: int) -> None:
        assert sum(map(len, messages)) <= size
        for message in messages:
            self.received(message)

    def hurry(self, now: float) -> None:
        self.hurried.append(len(self.told))

    def give_way(self) -> None:
        self.turns.append(len(self.told))

    def peer_closed(self) -> None:
        self.ends.append("peer closed")

    def failed(self) -> None:
        self.ends.append("failed")

    def ended(self) -> None:
        self.ends.append("ended")

    def writable(self) -> None:
        self.ends.append("writable")

    def feed(self, *data: bytes) -> None:
        for one in data:
            self.transport.feed(one)
            taken = 0
            while taken < len(self.turns):
                taken = len(self.turns)
                self.websocket.read_on()

    @property
    def frames(self) -> list[Frame]:
        """What is on the wire, all of it whole."""
        frames, position = [], 0
        while (found := decode(self.wire, position)) is not None:
            frame, position = found
            frames.append(frame)
        assert position == len(self.wire)
        return frames

    @property
    def close_frame(self) -> tuple[int, str]:
        """Code and reason of our Close frame, the last one on the wire."""
        return self.frames[-1].close


@pytest.fixture
def conversation() -> Conversation:
    return Conversation()


# -- messages ----------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
MESSAGES = st.lists(TEXTS | st.binary(max_size=40), max_size=6)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut ``data`` into pieces, at places taken modulo its length."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[begin:end] for begin, end in pairwise(places)]


def frames_of(message: str | bytes, cuts: list[int]) -> list[bytes]:
    """The frames of ``message``, in fragments with a ping between any two of them."""
    payload = message.encode() if isinstance(message, str) else message
    pieces = cut(payload, cuts) or [b""]
    opcodes = [TEXT if isinstance(message, str) else BINARY, *[CONTINUATION] * len(pieces)]
    frames = []
    for number, piece in enumerate(pieces):
        frames.append(encode(opcodes[number], piece, fin=number == len(pieces) - 1))
        if number < len(pieces) - 1:
            frames.append(encode(PING, bytes([number])))
    return frames


@given(MESSAGES, st.lists(st.integers(0, 40), max_size=3), st.lists(st.integers(0, 10_000), max_size=8))
def test_messages_come_whole_and_in_order_however_they_are_fragmented_and_split(
    messages: list[str | bytes], fragments: list[int], splits: list[int]
) -> None:
    conversation = Conversation()
    wire = b"".join(frame for message in messages for frame in frames_of(message, fragments))

    conversation.feed(*cut(wire, splits))

    assert conversation.told == messages
    assert conversation.ends == []
    assert {frame.opcode for frame in conversation.frames} <= {PONG}
    assert conversation.websocket.assembling_since is None


@given(
    MESSAGES,
    st.lists(st.integers(0, 40), max_size=2),
    st.lists(st.integers(0, 10_000), max_size=6),
    st.integers(1, 3),
)
def test_a_receiver_that_pauses_gets_nothing_more_until_it_resumes_and_loses_nothing(
    messages: list[str | bytes], fragments: list[int], splits: list[int], room: int
) -> None:
    conversation = Conversation()
    wire = b"".join(frame for message in messages for frame in frames_of(message, fragments))
    conversation.websocket.pause()
    conversation.feed(*cut(wire, splits))
    assert conversation.told == []

    for turn in range(1, len(messages) + 1):
        conversation.room = room
        conversation.websocket.resume()
        least = min(len(messages), turn * room)
        assert conversation.told == messages[: len(conversation.told)]
        assert len(conversation.told) >= least

    assert conversation.told == messages


def test_a_receiver_that_is_full_gets_no_more_than_one_step_of_small_frames() -> None:
    conversation = Conversation()
    conversation.room = 1
    wire = b"".join(encode(TEXT, b"") for _ in range(10)) + b"".join(
        frame for _ in range(2000) for frame in frames_of("ab", [1])
    )

    conversation.feed(wire)

    assert 1 <= len(conversation.told) <= 10 + STEP // 6


@pytest.mark.parametrize("size", [0, 1, 125, 126, 4095, 4096, 65_535, 65_536, 100_000])
@pytest.mark.parametrize("kind", [str, bytes])
def test_a_message_of_any_size_goes_out_in_one_frame(kind: type[str | bytes], size: int) -> None:
    conversation = Conversation()
    message: str | bytes = "x" * size if kind is str else b"x" * size

    conversation.websocket.send(message)
    conversation.websocket.send_frame(frame_of(message), conversation.now)

    opcode = TEXT if kind is str else BINARY
    assert conversation.frames == [Frame(opcode, b"x" * size)] * 2


def test_much_at_once_is_handled_at_once_when_all_of_it_is_taken_apart() -> None:
    conversation = Conversation(max_message=NO_LIMIT)

    conversation.feed(encode(BINARY, bytes(LARGE)) + encode(TEXT, b"behind") + encode_close())
    assert (conversation.hurried, conversation.ends) == ([2], ["peer closed"])
    conversation.feed(encode(TEXT, b"a little"))

    assert conversation.hurried == [2]


# -- the turns of others -----------------------------------------------------------------------

FRAGMENTED = b"".join(
    [
        encode(TEXT, b"x", fin=False),
        encode(CONTINUATION, b"", fin=False) * (TURN - 2),
        encode(CONTINUATION, b"y"),
    ]
)
"""A message of as many fragments as are taken in one turn."""


def test_many_frames_are_taken_apart_in_turns_and_nothing_is_read_meanwhile() -> None:
    conversation = Conversation()

    conversation.transport.feed(FRAGMENTED * 4)
    conversation.transport.feed(encode(TEXT, b"behind"))
    assert conversation.turns in ([1], [2])
    while len(conversation.told) < 4:
        before = len(conversation.told)
        conversation.websocket.read_on()
        assert len(conversation.told) <= before + 2

    assert conversation.told == ["xy"] * 4 + ["behind"]


def test_whole_messages_that_are_only_counted_are_taken_in_turns_too() -> None:
    conversation = Conversation()
    conversation.websocket.send_close(1000, "")

    conversation.transport.feed(encode(TEXT, b"") * 2 * TURN)

    assert TURN <= conversation.turns[0] < 2 * TURN


def test_who_gave_way_reads_on_only_when_it_is_its_turn_and_the_receiver_has_room() -> None:
    conversation = Conversation()
    websocket = conversation.websocket
    conversation.transport.feed(FRAGMENTED * 3)
    told = conversation.told.copy()
    assert len(told) < 3

    websocket.pause()
    websocket.resume()
    assert conversation.told == told, "it is the turn of others"
    websocket.pause()
    websocket.read_on()
    assert conversation.told == told, "the receiver has no room"
    websocket.resume()

    assert len(conversation.told) > len(told)


@pytest.mark.parametrize("end", ["our close", "drop"])
def test_the_end_may_come_while_it_is_the_turn_of_others(end: str) -> None:
    conversation = Conversation()
    conversation.transport.feed(FRAGMENTED * 2 + encode_close(1000))

    if end == "drop":
        conversation.transport.drop()
    else:
        conversation.websocket.send_close(1000, "")
    for _ in range(4):
        conversation.websocket.read_on()

    assert conversation.ends == (["ended"] if end == "drop" else ["peer closed"])


# -- control frames ----------------------------------------------------------------------------


def test_a_ping_is_answered_with_its_payload_and_so_is_the_next(conversation: Conversation) -> None:
    conversation.feed(encode(PING, b"one"))
    assert conversation.frames == [Frame(PONG, b"one")]
    conversation.feed(encode(PING, b"two") + encode(PING, b"three"))

    assert conversation.frames[1:] == [Frame(PONG, b"two"), Frame(PONG, b"three")]


def test_a_ping_of_ours_knows_its_pong_and_how_long_it_took(conversation: Conversation) -> None:
    websocket = conversation.websocket
    assert (websocket.round_trip, websocket.ping_sent_at) == (None, None)

    websocket.ping()
    websocket.ping()
    first, second = conversation.frames
    assert first.payload != second.payload
    conversation.now += 0.5
    conversation.feed(encode(PONG, first.payload), encode(PONG, b"unasked"), encode(PONG))
    assert websocket.round_trip is None
    conversation.feed(encode(PONG, second.payload))
    conversation.now += 5
    conversation.feed(encode(PONG, second.payload))

    assert (websocket.round_trip, websocket.ping_sent_at) == (0.5, None)


def test_control_frames_over_their_rate_fail_the_connection() -> None:
    conversation = Conversation(control_rate=1.0, control_burst=3)

    conversation.feed(*[encode(PING)] * 3)
    assert conversation.ends == []
    conversation.now += 1.0
    conversation.feed(encode(PING))
    assert conversation.ends == []
    conversation.feed(encode(PONG))

    assert conversation.ends == ["failed"]
    assert conversation.close_frame == (1008, "too many control frames")


def test_fragments_over_their_number_fail_the_connection_empty_ones_too() -> None:
    conversation = Conversation(max_fragments=3)

    conversation.feed(encode(TEXT, b"", fin=False), *[encode(CONTINUATION, b"", fin=False)] * 2)
    assert conversation.ends == []
    conversation.feed(encode(CONTINUATION, b"", fin=True))

    assert (conversation.told, conversation.ends) == ([], ["failed"])
    assert conversation.close_frame == (1009, "more than 3 fragments")


# -- what breaks the protocol ------------------------------------------------------------------

ILLEGAL: dict[str, tuple[list[bytes], int]] = {
    "a frame without a mask": ([encode(TEXT, b"x", masked=False)], 1002),
    "a reserved bit": ([encode(TEXT, b"x", rsv=0b100)], 1002),
    "an unknown data opcode": ([encode(0x3, b"x")], 1002),
    "an unknown control opcode": ([encode(0xB, b"x")], 1002),
    "a continuation of nothing": ([encode(CONTINUATION, b"x")], 1002),
    "a message inside a message": ([encode(TEXT, b"x", fin=False), encode(TEXT, b"y")], 1002),
    "a control frame in fragments": ([encode(PING, b"x", fin=False)], 1002),
    "a control frame that is too long": ([encode(PING, b"x" * 126)], 1002),
    "text that is no UTF-8": ([encode(TEXT, b"\xff")], 1007),
    "a surrogate": ([encode(TEXT, b"\xed\xa0\x80")], 1007),
    "UTF-8 cut at the end": ([encode(TEXT, "é".encode()[:1])], 1007),
    "fragments that make no UTF-8": (
        [encode(TEXT, b"\xc3", fin=False), encode(CONTINUATION, b"x")],
        1007,
    ),
    "a message that is too big": ([encode(BINARY, b"x" * 1025)], 1009),
    "fragments that are too big": (
        [encode(BINARY, b"x" * 1000, fin=False), encode(CONTINUATION, b"x" * 25)],
        1009,
    ),
    "a length of 63 bits": ([b"\x82\xff" + struct.pack("!Q", 2**63 - 1) + bytes(4)], 1009),
    "a Close frame of one byte": ([encode(CLOSE, b"x")], 1002),
    "a Close frame with 1005": ([encode_close(1005)], 1002),
    "a Close frame with 999": ([encode_close(999)], 1002),
    "a reason that is no UTF-8": ([encode(CLOSE, struct.pack("!H", 1000) + b"\xff")], 1007),
}


@pytest.mark.parametrize(("data", "code"), ILLEGAL.values(), ids=ILLEGAL)
def test_what_breaks_the_protocol_is_reported_once_and_answered_with_its_code(
    conversation: Conversation, data: list[bytes], code: int
) -> None:
    conversation.feed(encode(TEXT, b"before"), *data)
    conversation.feed(encode(TEXT, b"behind"), encode(PING), encode_close())

    assert conversation.told == ["before"]
    assert conversation.ends == ["failed"]
    assert [frame.opcode for frame in conversation.frames] == [CLOSE]
    assert conversation.close_frame[0] == code


def test_a_character_may_be_cut_between_two_fragments(conversation: Conversation) -> None:
    euro = "€".encode()

    conversation.feed(encode(TEXT, euro[:1], fin=False), encode(CONTINUATION, euro[1:]))

    assert conversation.told == ["€"]


@given(st.binary(max_size=64))
def test_any_bytes_at_all_end_in_at_most_one_close_frame_with_nothing_behind_it(data: bytes) -> None:
    conversation = Conversation()

    conversation.feed(data)
    conversation.transport.feed_eof()

    assert conversation.ends.count("failed") + conversation.ends.count("peer closed") <= 1
    assert conversation.ends[-1] == "ended"
    closes = [index for index, frame in enumerate(conversation.frames) if frame.opcode == CLOSE]
    assert closes in ([], [len(conversation.frames) - 1])


# -- Close frames ------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [None, 1000, 1001, 3000, 4999])
def test_the_close_of_a_peer_is_answered_with_its_own_code_and_reported_once(
    conversation: Conversation, code: int | None
) -> None:
    reason = "" if code is None else "bye"
    conversation.feed(encode_close(code, reason))
    conversation.feed(encode_close(4000, "again"), encode(TEXT, b"behind"))

    expected = (1005, "") if code is None else (code, "bye")
    assert conversation.websocket.received == expected
    assert conversation.websocket.sent is not None
    assert conversation.frames[0].close == (expected[0], reason)
    assert len(conversation.frames) == 1
    assert (conversation.ends, conversation.told) == (["peer closed"], [])


def test_the_answer_to_our_close_is_reported_and_not_answered(conversation: Conversation) -> None:
    conversation.websocket.send_close(1008, "Session expired")
    assert conversation.ends == []
    assert conversation.websocket.received is None
    conversation.feed(encode_close(1008, "Session expired"))

    assert conversation.frames == [Frame(CLOSE, struct.pack("!H", 1008) + b"Session expired")]
    assert conversation.ends == ["peer closed"]
    assert conversation.websocket.sent == conversation.websocket.received == (1008, "Session expired")


def test_nothing_follows_our_close_frame_no_pong_and_no_ping(conversation: Conversation) -> None:
    conversation.websocket.send_close(1000, "")
    conversation.feed(encode(PING, b"are you there?"))
    conversation.websocket.ping()

    assert [frame.opcode for frame in conversation.frames] == [CLOSE]


def test_messages_that_cross_our_close_frame_still_come(conversation: Conversation) -> None:
    conversation.websocket.send_close(1000, "")
    conversation.feed(encode(TEXT, b"sent before I saw it"), encode_close(1000))

    assert conversation.told == ["sent before I saw it"]
    assert conversation.ends == ["peer closed"]


def test_a_pong_goes_out_ahead_of_the_answer_to_a_close(conversation: Conversation) -> None:
    conversation.feed(encode(PING, b"last") + encode_close(1000))

    assert [frame.opcode for frame in conversation.frames] == [PONG, CLOSE]


def test_every_ping_is_answered_while_the_peer_reads(conversation: Conversation) -> None:
    pings = [bytes([number]) * 10 for number in range(10)]
    conversation.feed(b"".join(encode(PING, ping) for ping in pings))

    assert [(frame.opcode, frame.payload) for frame in conversation.frames] == [
        (PONG, ping) for ping in pings
    ]


def test_only_the_latest_ping_is_answered_while_the_peer_does_not_read(conversation: Conversation) -> None:
    conversation.transport.congested = True
    conversation.websocket.data(b"".join(encode(PING, bytes([number])) for number in range(10)))

    assert [(frame.opcode, frame.payload) for frame in conversation.frames] == [(PONG, b"\x09")]


@pytest.mark.parametrize("size", [1, 500])
def test_a_close_between_two_fragments_is_a_close_like_any_other(
    conversation: Conversation, size: int
) -> None:
    conversation.feed(encode(TEXT, b"x" * size, fin=False), encode_close(1000))

    assert conversation.ends == ["peer closed"]
    assert [frame.close for frame in conversation.frames] == [(1000, "")]
    assert conversation.websocket.unfinished


def test_a_close_between_two_fragments_answers_ours(conversation: Conversation) -> None:
    conversation.feed(encode(TEXT, b"x", fin=False))
    conversation.websocket.send_close(1001, "")
    conversation.feed(encode_close(1001))

    assert conversation.ends == ["peer closed"]


# -- the end of the stream ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "end", [lambda one: one.transport.feed_eof(), lambda one: one.transport.drop()], ids=["FIN", "RST"]
)
def test_the_end_of_the_stream_is_told_and_is_no_close(
    conversation: Conversation, end: Callable[[Conversation], None]
) -> None:
    conversation.feed(encode(TEXT, b"half")[:-1])
    end(conversation)

    assert conversation.ends == ["ended"]
    assert conversation.told == []
    assert (conversation.websocket.sent, conversation.websocket.received) == (None, None)


def test_what_was_kept_for_a_receiver_that_paused_comes_before_the_end(conversation: Conversation) -> None:
    conversation.room = 1
    conversation.feed(b"".join(frame for text in ("one", "two") for frame in frames_of(text, [1])))
    conversation.room = None

    conversation.transport.drop()

    assert (conversation.told, conversation.ends) == (["one", "two"], ["ended"])


def test_room_in_the_transport_is_passed_on(conversation: Conversation) -> None:
    conversation.websocket.writable()

    assert conversation.ends == ["writable"]


# -- the times that a policy looks at ----------------------------------------------------------


def test_every_byte_is_life_and_only_messages_are_use(conversation: Conversation) -> None:
    websocket = conversation.websocket
    assert (websocket.opened_at, websocket.last_received, websocket.last_message) == (100, 100, 100)

    conversation.now = 101.0
    conversation.feed(encode(PING))
    assert (websocket.last_received, websocket.last_message) == (101, 100)
    conversation.now = 102.0
    conversation.feed(encode(TEXT, b"hello"))
    assert (websocket.last_received, websocket.last_message) == (102, 102)
    conversation.now += 1
    websocket.send_frame(frame_of("hello"), conversation.now)
    assert (websocket.last_received, websocket.last_message) == (102, 103)


HALF = encode(TEXT, b"half")
HEADER = 6


@pytest.mark.parametrize(
    ("parts", "last"),
    [
        ([HALF[:1]], HALF[1:]),
        ([HALF[:2], HALF[2:5], HALF[5:HEADER], HALF[HEADER:-1]], HALF[-1:]),
        ([HALF[:HEADER]], HALF[HEADER:]),
        ([encode(TEXT, b"ha", fin=False), encode(PING)], encode(CONTINUATION, b"lf")),
    ],
    ids=["one byte", "a drip", "a header", "fragments"],
)
def test_a_message_is_known_to_be_incomplete_since_its_first_byte(
    conversation: Conversation, parts: list[bytes], last: bytes
) -> None:
    for part in parts:
        conversation.now += 1
        conversation.feed(part)
        assert conversation.websocket.assembling_since == 101
    conversation.feed(last)

    assert conversation.websocket.assembling_since is None
    assert conversation.told == ["half"]


@pytest.mark.parametrize("fragmented", [False, True])
def test_a_stream_that_never_stops_between_two_messages_is_no_slow_one(
    conversation: Conversation, fragmented: bool
) -> None:
    message = encode(TEXT, b"ha", fin=False) + encode(CONTINUATION, b"lf") if fragmented else HALF
    wire = message * 20
    for index in range(1, len(wire), len(message)):
        conversation.now += 1
        conversation.feed(wire[max(0, index - len(message)) : index])
        assert conversation.websocket.assembling_since == conversation.now

    conversation.feed(wire[-len(message) + 1 :])

    assert conversation.websocket.assembling_since is None
    assert conversation.told == ["half"] * 20


@pytest.mark.parametrize("place", [2, HEADER])
def test_the_rest_of_a_frame_is_not_taken_for_a_frame_though_it_looks_like_one(
    conversation: Conversation, place: int
) -> None:
    looks_like_a_frame = encode(TEXT, b"")
    key = looks_like_a_frame[:4]
    payload = bytes(byte ^ key[index % 4] for index, byte in enumerate(looks_like_a_frame))
    head = bytes([0x82, 0x80 | len(looks_like_a_frame)])

    for part in cut(head + key + looks_like_a_frame, [place]):
        conversation.feed(part)

    assert conversation.told == [payload]
    assert conversation.ends == []
