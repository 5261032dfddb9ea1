"""Whole connections after the handshake: any bytes in any split, while the actor and the time go on.

Whatever comes, the connection ends once, what goes out are whole frames with one Close at most and
nothing behind it, no hook and no callback fails, and no task, timer or message is left.

``python -m pytest -m soak tests/supervisor/test_fuzz.py`` runs for minutes.
"""

from __future__ import annotations

import logging
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.protocol import SERVER

from actors import CloseReport, ConnectionActor, Request
from actors.cell.cell import Cell, Reaction
from actors.cell.connection_cell import ConnectionCell, ConnectionOptions
from actors.codecs import RawCodec
from actors.errors import HandlerTimeout
from actors.mailbox import Bounds
from actors.messages import Close
from actors.protocol.compression import BoundedDeflateFactory
from actors.protocol.websocket import Framing, WebSocket, wire_logger
from actors.testing import ManualClock, running, settled
from actors.transports.memory import MemoryTransport
from supervisor import Heartbeat, Limits, Policy, Timeouts
from supervisor.cell_options import wire_limits_of
from supervisor.connections.watch import Watch
from tests.raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, decode, encode
from tests.witness import running_tasks

LONGEST = 200.0
"""Seconds of the manual clock within which every connection of this file ends."""
KEY = b"\x12\x00\xff\x34"
POLICY = Policy(
    timeouts=Timeouts(idle=50.0, lifetime=150.0, assembly=5.0, handler=9.0, close=4.0, teardown=2.0),
    heartbeat=Heartbeat(interval=7.0, timeout=6.0),
    limits=Limits(
        max_message=300,
        max_fragments=5,
        inbound_messages=4,
        inbound_bytes=400,
        send_high_water=200,
        send_limit=1000,
        send_stall=3.0,
        control_rate=1.0,
        control_burst=6,
        message_rate=5.0,
        message_burst=8,
    ),
)


class Asked(Exception):
    """The peer asked for a crash."""


class Obedient(ConnectionActor):
    """Echoes, and does what a message says."""

    reports: list[CloseReport]

    async def on_message(self, message: str | bytes) -> None:
        word = message[:5] if isinstance(message, str) else message[:5].decode("latin-1")
        if word == "crash":
            raise Asked
        if word == "close":
            self.close(4000, "as you say")
        elif word == "drain":
            self.close(4001, drain=True, notice="going", grace=1.0)
        elif word == "sleep":
            await anyio.sleep_forever()
        await self.send(message)

    async def on_restart(self, error: BaseException) -> None: ...

    async def on_close(self, report: CloseReport) -> None:
        self.request.state["reports"].append(report)


# -- what a peer does --------------------------------------------------------------------------


@dataclass(frozen=True)
class Wait:
    """Let seconds pass."""

    seconds: float


@dataclass(frozen=True)
class Do:
    """``stall`` and ``unstall`` reading, ``eof``, ``drop``; ``close`` and ``abort`` are the server's."""

    what: str


Step = bytes | Wait | Do

payloads = st.one_of(
    st.binary(max_size=20),
    st.text(max_size=20).map(str.encode),
    st.sampled_from(
        [b"", b"crash", b"close", b"drain", b"sleep", b"x" * 125, b"x" * 126, b"x" * 300, b"\xff"]
    ),
    st.just(b"x" * 301),
)
data_frames = st.builds(
    encode, st.sampled_from([TEXT, BINARY]), payloads, key=st.sampled_from([KEY, bytes(4)])
)
fragments = st.builds(
    encode, st.sampled_from([TEXT, BINARY, CONTINUATION]), payloads, fin=st.booleans(), key=st.just(KEY)
)
controls = st.builds(encode, st.sampled_from([PING, PONG]), st.binary(max_size=126), key=st.just(KEY))
closes = st.builds(
    lambda code, reason: encode(CLOSE, struct.pack("!H", code) + reason, key=KEY),
    st.sampled_from([0, 999, 1000, 1001, 1004, 1005, 1006, 1015, 1016, 2999, 3000, 4999, 5000, 65535]),
    st.sampled_from([b"", b"bye", b"\xc3", b"x" * 123, b"x" * 124]),
)
odd_frames = st.builds(
    encode,
    st.integers(0, 15),
    st.binary(max_size=130),
    fin=st.booleans(),
    rsv=st.integers(0, 7),
    masked=st.booleans(),
    key=st.just(KEY),
)
lengths = st.builds(
    lambda first, length: bytes([first, 0xFF]) + struct.pack("!Q", length) + KEY,
    st.sampled_from([0x81, 0x82, 0x02, 0x89]),
    st.sampled_from([0, 125, 65535, 65536, 2**31, 2**63 - 1, 2**63, 2**64 - 1]),
)


def deflated(payload: bytes, fin: bool) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    packed = packer.compress(payload * 40) + packer.flush(zlib.Z_SYNC_FLUSH)
    return encode(BINARY, packed[:-4], fin=fin, rsv=0b100, key=KEY)


packed_frames = st.builds(deflated, payloads, st.booleans())


@st.composite
def connections(draw: st.DrawFn) -> list[Step]:
    """Frames, right ones and others, a few bytes of them changed, in pieces, with steps in between."""
    frames = draw(
        st.lists(
            st.one_of(
                data_frames, data_frames, data_frames, fragments, fragments, controls, closes, packed_frames,
                odd_frames, lengths, st.binary(max_size=12),
            ),
            max_size=14,
        )
    )  # fmt: skip
    stream = bytearray(b"".join(frames))
    for place, byte in draw(st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(0, 255)), max_size=3)):
        if stream:
            stream[place % len(stream)] = byte
    cuts = draw(st.lists(st.integers(0, 1 << 12), max_size=8))
    edges = sorted({cut % (len(stream) + 1) for cut in cuts} | {0, len(stream)})
    steps: list[Step] = [bytes(stream[start:end]) for start, end in pairwise(edges)]
    others = st.one_of(
        st.builds(Wait, st.sampled_from([0.0, 0.5, 3.0, 6.5, 20.0])),
        st.builds(Do, st.sampled_from(["stall", "unstall", "eof", "drop", "close", "abort"])),
    )
    for place, step in draw(st.lists(st.tuples(st.integers(0, 20), others), max_size=5)):
        steps.insert(place % (len(steps) + 1), step)
    return steps


# -- what a server does with it ----------------------------------------------------------------


class Errors(logging.Handler):
    """Keeps the errors that are logged."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def no_errors() -> Iterator[None]:
    """Fail when an error is logged."""
    handler = Errors()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
    assert not handler.records, [record.getMessage() for record in handler.records]


def server_frames(wire: bytes, *, whole: bool) -> list[Frame]:
    """The frames that a server sent; ``whole``: no part of one is left over."""
    frames, at = [], 0
    while (found := decode(wire, at, agreed=0x40)) is not None:
        frame, at = found
        frames.append(frame)
    assert at == len(wire) or not whole, f"a part of a frame at the end: {wire[at:]!r}"
    return frames


def check_wire(wire: bytes) -> None:
    """Whole frames, messages that are put together rightly, and one Close at most, at the end."""
    frames = server_frames(wire, whole=True)
    opcodes = [frame.opcode for frame in frames]
    assert CLOSE not in opcodes[:-1], f"something behind a Close frame: {opcodes}"
    assert set(opcodes) <= {TEXT, BINARY, CLOSE, PING, PONG}
    assert all(frame.fin for frame in frames), "a server of this library sends no fragments"
    if opcodes and opcodes[-1] == CLOSE:
        code, reason = frames[-1].close
        assert code in (1000, 1001, 1002, 1003, 1005, *range(1007, 1015), *range(3000, 5000))
        assert len(reason.encode()) <= 123


async def run(steps: list[Step], reaction: Reaction, *, compressed: bool) -> None:
    """Take one connection from its first frame to its end, and check everything."""
    clock, wire, ends, crashes = ManualClock(), bytearray(), list[None](), list[BaseException]()
    reports: list[CloseReport] = []
    tasks = running_tasks()

    def crashed(_: Cell, error: BaseException) -> Reaction:
        crashes.append(error)
        return reaction

    with no_errors(), anyio.fail_after(20):
        async with running(clock) as runtime:
            limits = POLICY.limits
            transport = MemoryTransport(wire.extend, lambda: ends.append(None), limits.send_high_water)
            protocol = None
            if compressed:
                protocol = Framing(SERVER, logger=wire_logger)
                _, inner = BoundedDeflateFactory().process_request_params(
                    [("client_max_window_bits", None)], []
                )
                protocol.extensions = [inner]
            cell = ConnectionCell(
                runtime,
                Obedient,
                id="fuzzed",
                request=Request("/", state={"reports": reports}),
                codec=RawCodec(),
                options=ConnectionOptions(
                    bounds=Bounds(limits.inbound_messages, limits.inbound_bytes),
                    close=POLICY.timeouts.close,
                    teardown=POLICY.timeouts.teardown,
                    send_limit=limits.send_limit,
                    message_rate=limits.message_rate,
                    message_burst=limits.message_burst,
                    on_crash=crashed,
                    restart_delay=lambda _: 0.1,
                    on_exit=lambda _: watch.cancel(),
                ),
            )
            cell.websocket = transport.sink = WebSocket(
                transport, protocol, cell, clock, wire_limits_of(POLICY)
            )
            watch = Watch(cell, POLICY)
            runtime.spawn(cell.run, name="fuzzed")
            for step in steps:
                if isinstance(step, bytes):
                    transport.feed(step)
                    await settled()
                elif isinstance(step, Wait):
                    await clock.advance(step.seconds)
                elif step.what == "close":
                    cell.close(Close(4002, "enough"))
                elif step.what == "abort":
                    cell.abort()
                else:
                    {
                        "stall": lambda: transport.stall(True),
                        "unstall": lambda: transport.stall(False),
                        "eof": transport.feed_eof,
                        "drop": transport.drop,
                    }[step.what]()
            end = clock() + LONGEST
            while not cell.stopped:
                assert clock() < end, "it does not end"
                await clock.advance(5.0)

            assert len(reports) == 1
            assert len(cell.mailbox) == 0
            assert len(runtime.timers) == 0
            assert not cell.leaks
            assert all(isinstance(error, (Asked, HandlerTimeout)) for error in crashes), crashes
            assert len(ends) <= 1
            check_wire(bytes(wire))
    assert running_tasks() == tasks


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=connections(), reaction=st.sampled_from(Reaction), compressed=st.booleans())
async def test_no_bytes_and_no_order_of_events_break_a_connection(
    steps: list[Step], reaction: Reaction, compressed: bool
) -> None:
    await run(steps, reaction, compressed=compressed)


SOAK = 330.0
"""Seconds of the long run on each runtime."""


@pytest.mark.soak
def test_nothing_breaks_a_connection_for_minutes(
    anyio_backend_name: str, anyio_backend_options: dict[str, Any]
) -> None:
    examples = 0

    @settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
    @given(steps=connections(), reaction=st.sampled_from(Reaction), compressed=st.booleans())
    def one_round(steps: list[Step], reaction: Reaction, compressed: bool) -> None:
        nonlocal examples
        examples += 1
        portal.call(partial(run, steps, reaction, compressed=compressed))

    end = time.monotonic() + SOAK
    with start_blocking_portal(anyio_backend_name, anyio_backend_options) as portal:
        while time.monotonic() < end:
            one_round()
    print(f"{anyio_backend_name}: {examples} connections")
