"""Drive an actor in a test: without a socket, and with a clock that only the test moves.

The client end speaks real frames, and the actor runs in the same cell as on a server::

    async with connected(Chat, query={"token": "secret"}) as client:
        await client.send("hello")
        assert await client.receive() == "hello"
        client.ref.close(1008, "Session expired")
        assert await client.closed() == (1008, "Session expired", True)

A policy is a supervisor's and has no effect here; what a cell takes of it is an option.

``connected``, ``started``, ``serve`` and ``Supervisor`` work in tests and in fixtures that ``yield``
inside of them, with each of the usual plugins:

* anyio's (``@pytest.mark.anyio``, or ``anyio_mode = "auto"``), on asyncio and trio;
* pytest-asyncio (``@pytest_asyncio.fixture``), whose fixtures are set up and torn down in other tasks
  than the test.  An error that ends the tree comes out of the fixture's end and does not cancel the
  test.  A fixture and the tests that use it need the same event loop: give both the same
  ``loop_scope``;
* pytest-trio (``trio_mode = true``), whose fixtures and tests each have a task of their own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import CoroutineType
from typing import Any, NamedTuple, final
from urllib.parse import urlencode

import anyio
from anyio.lowlevel import checkpoint
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import CLOSED, CONNECTING, OPEN
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from actors.actor import Actor
from actors.backends import Waiter, current_backend
from actors.cell.cell import Cell, CellOptions, Reaction
from actors.cell.connection_cell import ConnectionCell, ConnectionOptions
from actors.cell.hook import ABANDON_AFTER
from actors.cell.misuse import taken
from actors.codecs import choose_codec, offered_subprotocols
from actors.codes import CloseCode
from actors.connection import ConnectionActor
from actors.messages import CloseReport, ExitReason, Refusal
from actors.protocol.opening import Handshake, HandshakeRefused, Opening
from actors.protocol.websocket import NO_LIMIT, WebSocket, WireLimits, wire_logger
from actors.ref import ActorRef
from actors.runtime import Runtime
from actors.timers import Timers
from actors.transports.asyncio import HIGH_WATER
from actors.transports.memory import MemoryTransport

logger = logging.getLogger("actors")

DEADLINE = 10.0
"""Seconds of real time after which a client gives up waiting, so that no test hangs."""


@final
class ManualClock:
    """Seconds that pass when the test says so; one clock may be given to several actors."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now
        self._driven: list[Timers] = []

    def __call__(self) -> float:
        return self._now

    def drive(self, timers: Timers) -> None:
        """Let ``advance`` fire the timers of a ``Runtime`` that has this clock; nobody runs them then."""
        self._driven.append(timers)

    def release(self, timers: Timers) -> None:
        """Take ``drive`` back."""
        self._driven.remove(timers)

    async def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass, stopping at each deadline until all that is due has been done."""
        end = self._now + seconds
        await settled()
        while (look := min((timers.next_look for timers in self._driven), default=math.inf)) <= end:
            self._now = max(self._now, look)
            for timers in self._driven:
                timers.fire()
            await settled()
        self._now = end

    async def jump(self, seconds: float) -> None:
        """Let ``seconds`` pass at once, as if the process had stood still: what was due comes late."""
        await settled()
        self._now += seconds
        await self.advance(0.0)


async def settled() -> None:
    """Wait until every other task waits for something."""
    for _ in range(20):  # mostly enough, and on asyncio the next line looks only every 0.1 s
        await checkpoint()
    await anyio.wait_all_tasks_blocked()


class Closed(NamedTuple):
    """The end of a WebSocket for the client, as in a browser's ``CloseEvent``."""

    code: int
    reason: str
    clean: bool


@final
class Client:
    """The client end of a connection; made by ``connected``."""

    cell: ConnectionCell

    def __init__(self, protocol: ClientProtocol, high_water: int) -> None:
        self.answers = True
        """Whether pings and Close frames of the actor's side are answered."""
        self.crashes: list[BaseException] = []
        """What the actor's hooks, tasks and resources raised."""
        self.frames: list[Frame] = []
        """Every frame that came, control frames too."""
        self.transport = MemoryTransport(self._arrived, lambda: self._arrived(b""), high_water)
        self._ended: object = None
        self._protocol = protocol
        self._wire: list[bytes] = []
        self._came = anyio.Event()
        self._news = anyio.Event()
        self._messages: list[str | bytes] = []
        self._fragments: list[Frame] = []

    @property
    def ref(self) -> ActorRef:
        """The actor's address."""
        return self.cell.ref

    @property
    def actor(self) -> Any:
        """The actor itself, also when it has ended."""
        return self.cell.actor or self._ended

    def _keep(self, cell: Cell) -> None:
        """The actor has ended, and its cell lets go of it."""
        self._ended = cell.actor

    @property
    def report(self) -> CloseReport | None:
        """The close report; complete when ``closed`` has returned."""
        return self.cell.report

    async def send(self, message: str | bytes) -> None:
        """Send a message in one frame."""
        if isinstance(message, str):
            self._protocol.send_text(message.encode())
        else:
            self._protocol.send_binary(message)
        self._feed(self._protocol.data_to_send())
        await checkpoint()

    def feed(self, data: bytes) -> None:
        """Send bytes as they are; ``b""`` ends the client's side of TCP."""
        if data:
            self.transport.feed(data)
        else:
            self.transport.feed_eof()

    def drop(self) -> None:
        """Lose the connection without a Close frame, as with RST."""
        self.transport.drop()
        self._arrived(b"")

    def stall(self) -> None:
        """Read no more: what the actor sends piles up, and in the end its ``send`` waits."""
        self.transport.stall(True)

    def unstall(self) -> None:
        """Read again."""
        self.transport.stall(False)

    async def receive(self) -> str | bytes:
        """Give the next message; raises ``anyio.EndOfStream`` when none is to come."""
        await self.until(lambda: bool(self._messages) or self._protocol.state is CLOSED)
        if not self._messages:
            raise anyio.EndOfStream
        return self._messages.pop(0)

    async def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> Closed:
        """Close as a client does, unless that has begun, and wait for the end."""
        if self._protocol.state is OPEN:
            self._protocol.send_close(code, reason)
            self._feed(self._protocol.data_to_send())
        return await self.closed()

    async def closed(self) -> Closed:
        """Wait for the end of the connection and of the actor's teardown; say how it ended."""
        protocol = self._protocol
        await self.until(lambda: protocol.state is CLOSED)
        with anyio.fail_after(DEADLINE):
            await self.cell.wait_stopped()
        answered = self.answers or not protocol.close_rcvd_then_sent
        clean = protocol.close_rcvd is not None and protocol.close_sent is not None and answered
        return Closed(int(protocol.close_code or 0), protocol.close_reason or "", clean)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition()`` holds; it is looked at whenever something came."""
        with anyio.fail_after(DEADLINE):
            while not condition():
                await self._news.wait()

    async def run(self) -> None:
        """Read what comes and answer it, until cancelled."""
        while True:
            while self._wire:
                self._take(self._wire.pop(0))
            self._news.set()
            self._came, self._news = anyio.Event(), anyio.Event()
            await self._came.wait()

    def _arrived(self, data: bytes) -> None:
        self._wire.append(data)
        self._came.set()

    def _take(self, data: bytes) -> None:
        protocol = self._protocol
        if data:
            protocol.receive_data(data)
        else:
            protocol.receive_eof()
        for event in protocol.events_received():
            if isinstance(event, Frame):
                self._frame(event)
        answer = protocol.data_to_send()
        if self.answers or not data:
            self._feed(answer)

    def _frame(self, frame: Frame) -> None:
        self.frames.append(frame)
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._fragments.append(frame)
            if frame.fin:
                whole = b"".join(fragment.data for fragment in self._fragments)
                self._messages.append(whole.decode() if self._fragments[0].opcode is Opcode.TEXT else whole)
                self._fragments.clear()

    def _feed(self, written: list[bytes]) -> None:
        for data in written:
            self.feed(data)


@final
class Head(Opening):
    """The opening of a connection whose head is looked at later."""

    head: bytes

    def asked(self, head: bytes) -> None:
        """Keep the head."""
        self.head = head

    def gone(self) -> None:
        """Nobody minds."""


@asynccontextmanager
async def connected(
    actor: type[ConnectionActor],
    *,
    path: str = "/",
    query: Mapping[str, str] | None = None,
    path_params: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    subprotocols: Sequence[str] = (),
    max_message: int | None = 1024 * 1024,
    high_water: int = HIGH_WATER,
    clock: ManualClock | None = None,
    crash: Reaction = Reaction.STOP,
    **limits: Any,
) -> AsyncIterator[Client]:
    """Open a WebSocket to a new ``actor`` and give its client end.

    ``path``, ``query``, ``headers`` and ``subprotocols`` are the client's; ``path_params`` are what a
    route finds.  ``limits`` are those of ``ConnectionOptions``: ``close``, ``teardown``, ``bounds``,
    ``overflow``, ``send_limit``.  Raises ``websockets.exceptions.InvalidStatus`` when the upgrade is
    refused.  Leaving the block drops a connection that is still open, and awaits the teardown.
    """
    offer = [Subprotocol(name) for name in subprotocols] or None
    uri = parse_uri(f"ws://memory{path}?{urlencode(query or {})}".rstrip("?"))
    protocol = ClientProtocol(uri, subprotocols=offer, max_size=None, logger=wire_logger)
    http_request = protocol.connect()
    http_request.headers.update(headers or {})
    client = Client(protocol, high_water)
    opening = client.transport.sink = Head(client.transport)
    client.feed(http_request.serialize())
    async with running(clock) as runtime:
        runtime.spawn(client.run, name="client")
        try:
            handshake = Handshake(opening.head, client=client.transport.peer)
            spoken = tuple(actor.subprotocols) or offered_subprotocols(actor.codec)
            request = handshake.negotiate(spoken, path_params or {})
            answer: Any = actor.on_upgrade(request)
            if type(answer) is CoroutineType:
                answer = await answer
            elif answer is not None:
                answer = await taken(answer)
            if isinstance(answer, Refusal):
                raise HandshakeRefused(answer.status, answer.reason, answer.headers)
        except HandshakeRefused as refused:
            opening.refuse(refused)
            await client.until(lambda: protocol.handshake_exc is not None)
            assert protocol.handshake_exc is not None
            raise protocol.handshake_exc from None
        codec = choose_codec(actor.codec, request.subprotocol)
        client.cell = cell = ConnectionCell(
            runtime,
            actor,
            id=actor.__name__,
            request=request,
            codec=codec,
            options=ConnectionOptions(on_crash=logged(crash, client.crashes), on_exit=client._keep, **limits),
        )
        client.transport.write(handshake.accept())
        wire_limits = WireLimits(NO_LIMIT if max_message is None else max_message)
        cell.websocket = WebSocket(client.transport, handshake.protocol, cell, runtime.clock, wire_limits)
        client.transport.sink = cell.websocket
        runtime.start(cell.run, name=cell.id)
        try:
            await client.until(lambda: protocol.state is not CONNECTING)
            yield client
        finally:
            client.drop()
            await ended(cell, clock)


@asynccontextmanager
async def started(
    actor: Callable[..., Actor],
    *args: object,
    clock: ManualClock | None = None,
    crash: Reaction = Reaction.STOP,
    **limits: Any,
) -> AsyncIterator[ActorRef]:
    """Start the service ``actor(*args)`` and give its ref; leaving the block stops it.

    ``limits`` are those of ``CellOptions``: ``teardown``, ``bounds``, ``overflow``.  A crash is logged.
    """
    async with running(clock) as runtime:
        cell = Cell(
            runtime,
            lambda: actor(*args),
            id=actor.__name__,
            options=CellOptions(on_crash=logged(crash, []), **limits),
        )
        runtime.start(cell.run, name=cell.id)
        try:
            yield cell.ref
        finally:
            cell.exit_with(ExitReason.SHUTDOWN)
            await ended(cell, clock)


@asynccontextmanager
async def running(clock: ManualClock | None = None) -> AsyncIterator[Runtime]:
    """Give a runtime whose time is ``clock``'s, or the real one; leaving the block cancels its tasks.

    A cancellation of the block alone reaches none of them, so that they can be ended in order.
    """
    begun, over, host_over = Waiter(), Waiter(), Waiter()
    runtime: Runtime | None = None

    async def host() -> None:
        nonlocal runtime
        try:
            async with anyio.create_task_group() as task_group:
                runtime = Runtime(task_group, clock)
                if clock is None:
                    runtime.spawn(runtime.timers.run, name="timers")
                else:
                    clock.drive(runtime.timers)
                begun.wake()
                await over.wait()
                task_group.cancel_scope.cancel()
        finally:
            if clock is not None and runtime is not None:
                clock.release(runtime.timers)
            host_over.wake()

    # In a task of nobody, and in no scope of the block: a fixture may leave it in another task.
    current_backend().start_apart(host, "runtime")
    with anyio.CancelScope(shield=True):  # takes a turn
        await begun.wait()
    assert runtime is not None, "made before the wake"
    try:
        yield runtime
    finally:
        over.wake()
        with anyio.move_on_after(ABANDON_AFTER, shield=True):
            await host_over.wait()
        if not host_over.woken:
            logger.error("what does not end when it is cancelled is left behind: %s", runtime.busy())


async def ended(cell: Cell, clock: ManualClock | None) -> None:
    """Wait for the end of a teardown, and let the time pass that it takes."""
    with anyio.move_on_after(DEADLINE, shield=True):
        while clock is not None and not cell.stopped:
            await clock.advance(1.0)
        await cell.wait_stopped()


def logged(reaction: Reaction, crashes: list[BaseException]) -> Callable[[Cell, BaseException], Reaction]:
    """Make the ``on_crash`` of a cell that takes note of a crash and reacts as the test says."""

    def crashed(cell: Cell, error: BaseException) -> Reaction:
        crashes.append(error)
        logger.error("%r crashed", cell.ref, exc_info=error)
        return reaction

    return crashed
