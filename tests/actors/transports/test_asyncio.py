"""The transport on asyncio and uvloop, over a pair of sockets and over a wire that writes down its calls."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from anyio.lowlevel import checkpoint

from actors.transports.asyncio import AsyncioTransport
from tests.conftest import EVERY_RUNTIME

pytestmark = pytest.mark.parametrize("anyio_backend", EVERY_RUNTIME[:-1], scope="module")


class Wire(asyncio.Transport):
    """The event loop's transport: writes down what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[object] = []

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def write(self, data: Any) -> None:
        self.calls.append(data)

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")

    def abort(self) -> None:
        self.calls.append("abort")

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.calls.append(protocol)


class Sink:
    """Keeps what comes, and does what the test says with it."""

    def __init__(self) -> None:
        self.came = b""
        self.on_data: Callable[[], object] = lambda: None

    def data(self, data: bytes) -> None:
        self.came += data
        self.on_data()

    def eof(self) -> None:
        pass

    def lost(self) -> None:
        pass

    def writable(self) -> None:
        pass


def on_a(wire: Wire) -> AsyncioTransport:
    """A transport on ``wire``, in the running event loop."""
    transport = AsyncioTransport(asyncio.get_running_loop(), lambda _: None)
    transport.sink = Sink()
    transport.connection_made(wire)
    return transport


async def turns(count: int = 3) -> None:
    """Let the event loop turn."""
    for _ in range(count):
        await checkpoint()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, peers = socket.socketpair()
    ours.setblocking(False)
    with ours, peers:
        yield ours, peers


async def test_who_pauses_and_resumes_within_a_turn_does_not_trouble_the_event_loop() -> None:
    wire = Wire()
    transport = on_a(wire)

    for _ in range(3):
        transport.pause()
        transport.resume()
    await turns()

    assert wire.calls == []


async def test_a_pause_that_stays_is_one_and_so_is_its_end() -> None:
    wire = Wire()
    transport = on_a(wire)

    transport.pause()
    transport.resume()
    transport.pause()
    await turns()
    transport.pause()
    await turns()
    transport.resume()
    transport.resume()

    assert wire.calls == ["pause", "resume"]


async def test_nothing_more_is_read_after_a_pause_however_much_has_come(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, peers = pair
    sink, loop = Sink(), asyncio.get_running_loop()
    made: list[AsyncioTransport] = []
    transport = AsyncioTransport(loop, made.append)
    transport.sink = sink

    def pause_and_have_more_to_read() -> None:
        transport.pause()
        peers.sendall(b"two")

    sink.on_data = pause_and_have_more_to_read
    wire, _ = await loop.create_connection(lambda: transport, sock=ours)
    peers.sendall(b"one")
    while not sink.came:
        await checkpoint()
    await turns(10)
    held = sink.came
    sink.on_data = lambda: None
    transport.resume()
    while sink.came == held:
        await checkpoint()
    wire.close()
    await turns()

    assert made == [transport]
    assert (held, sink.came) == (b"one", b"onetwo")


async def test_whoever_takes_the_connection_over_finds_it_paused_and_later_calls_leave_it_alone() -> None:
    wire = Wire()
    transport, other = on_a(wire), asyncio.Protocol()

    transport.pause()
    transport.hand_over(other)
    wire.resume_reading()
    await turns()
    transport.take_back()

    assert wire.calls == ["pause", other, "resume", transport, "resume"]


async def test_writes_that_are_announced_go_out_with_one_call_within_the_turn() -> None:
    wire = Wire()
    transport = on_a(wire)
    seen: list[list[object]] = []

    asyncio.get_running_loop().call_soon(lambda: [transport.write(b"a"), transport.write(b"b")])
    transport.gather()
    transport.gather()
    asyncio.get_running_loop().call_soon(lambda: seen.append(wire.calls.copy()))
    await turns()

    assert seen == [[b"ab"]]
    assert transport.buffered == 0


async def test_it_is_known_whether_the_event_loop_has_turned_since_an_announcement() -> None:
    wire = Wire()
    transport = on_a(wire)
    seen: list[bool] = []

    def look() -> None:
        seen.append(transport.gathering)

    transport.write(b"not announced")
    look()
    await turns()
    asyncio.get_running_loop().call_soon(look)
    transport.gather()
    asyncio.get_running_loop().call_soon(look)
    await turns()
    transport.gather()
    transport.abort()
    look()

    assert seen == [False, True, False, False]


async def test_an_announcement_without_writes_changes_nothing() -> None:
    wire = Wire()
    transport = on_a(wire)

    transport.gather()
    await turns()
    transport.write(b"later")
    await turns()

    assert wire.calls == [b"later"]


async def test_gathered_writes_are_counted_and_held_up_over_the_high_water_mark() -> None:
    wire = Wire()
    transport = on_a(wire)

    transport.gather()
    transport.write(b"x" * 60_000)
    buffered = transport.buffered
    transport.write(b"y" * 60_000)
    transport.write(b"z")
    congested = transport.congested
    await turns(5)

    assert (buffered, congested, transport.congested) == (60_000, True, False)
    written = b"".join(map(bytes, wire.calls))  # type: ignore[call-overload]
    assert written == b"x" * 60_000 + b"y" * 60_000 + b"z"


async def test_nothing_is_written_after_an_abort_gathered_or_not() -> None:
    wire = Wire()
    transport = on_a(wire)

    transport.gather()
    transport.write(b"lost")
    transport.abort()
    transport.write(b"late")
    transport.gather()
    transport.write(b"later")
    await turns()

    assert wire.calls == ["abort"]
