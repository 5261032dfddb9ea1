"""Every order of what can happen to a connection, up to a depth: no counterexample is known.

A world is the real ``ConnectionCell`` on the memory transport, with a clock of its own that only the test
moves.  A schedule is a row of events; when it is through, the connection is left to its deadlines, and its
books are checked: at most one Close frame each way and nothing behind it, one ``on_close``, one report that
says what was on the wire, one ``Down`` for a monitor, every message admitted handled or a dead letter, no
timer, no task and no byte left.

Many worlds go in lock-step through one event loop.  A schedule is not made longer when its connection has
been gone for one event, and an event that cannot happen (a peer that has ended says nothing) is left out;
so "every order" is every order of what can happen: with everything settled between two events, and with no
task running in between.  CI looks up to depth 3, up to 4 where a crash is the end, and at a sample of longer
ones.  Deeper ones take their time; up to depth 5 there is no counterexample::

    SCHEDULES_DEPTH=5 python -m pytest -m soak -s tests/actors/cell/test_schedules.py
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import anyio
import pytest
from anyio.abc import TaskGroup

from actors import ConnectionActor, Down
from actors.cell import monitors
from actors.cell.cell import Cell, Reaction
from actors.cell.connection_cell import ConnectionCell, ConnectionOptions
from actors.closing import ClosingState, Signal
from actors.codecs import RawCodec
from actors.dead_letters import DeadLetter
from actors.errors import ActorStopped, ConnectionClosing, HandlerTimeout
from actors.mailbox import Bounds
from actors.messages import Close, CloseReport, Initiator
from actors.protocol.websocket import NO_LIMIT, WebSocket, WireLimits, frame_of
from actors.request import Request
from actors.runtime import Runtime
from actors.testing import settled
from actors.transports.memory import MemoryTransport
from tests.raw import TEXT, encode, encode_close

TOGETHER = 400
"""Worlds that go in lock-step."""
HIGH_WATER = 64
"""Bytes from which the peer does not keep up."""
PATIENCE = 3.0
"""Seconds that pass with a deadline."""
AT_MOST = 60
"""Looks at the clock until every deadline must have passed."""


class Event(Enum):
    """What can happen to a connection."""

    CLOSE = "close"
    DRAIN = "close with drain"
    NOTICE = "close with a notice"
    PEER_CLOSE = "the peer's Close"
    RUBBISH = "rubbish"
    EOF = "end of stream"
    LOST = "connection lost"
    CRASH = "crash"
    CANCEL = "cancellation"
    TELL = "told message"
    DATA = "message of the peer"
    TIMER = "timer"
    CONGEST = "congestion begins"
    PROGRESS = "progress"
    UNCONGEST = "congestion ends"
    DEADLINE = "deadline"

    def __repr__(self) -> str:
        return f"Event.{self.name}"


Schedule = tuple[Event, ...]


class Subject(ConnectionActor):
    """Answers the peer, and crashes when it is told to."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.instances += 1

    async def on_message(self, message: str) -> None:
        try:
            await self.send(message * 30)
        except ConnectionClosing:  # no crash: the message is handled
            self.world.handled.append(message)
            raise
        self.world.handled.append(message)

    def on_info(self, message: object) -> None:
        if message == "crash":
            raise RuntimeError("crash")
        if message != "timer":
            self.world.handled.append(str(message))

    def on_close(self, report: CloseReport) -> None:
        self.world.closes.append(report)


class Watcher:
    """Monitors the connection."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.stopped = False
        self.monitors: Any = None
        self.got: list[object] = []

    def put_control(self, message: object) -> None:
        self.got.append(message)


class World:
    """One connection, its peer, and its clock."""

    def __init__(
        self,
        task_group: TaskGroup,
        schedule: Schedule,
        reaction: Reaction,
        make: Callable[..., ConnectionCell] = ConnectionCell,
    ) -> None:
        self.schedule = schedule
        self.now = 1000.0
        self.wire = bytearray()
        self.hung_up = 0
        self.handled: list[str] = []
        self.closes: list[CloseReport] = []
        self.exits: list[Cell] = []
        self.instances = 0
        self.crashes_told = 0
        self.fed = 0
        self.told = 0
        self.stalled = False
        self.peer_closed = False
        self.peer_ended = False
        self.gone_for = 0
        """Events since the end."""
        runtime = self.runtime = Runtime(task_group, lambda: self.now)
        self.letters: list[DeadLetter] = []
        runtime.dead_letters.subscribe(self.letters.append)
        self.transport = MemoryTransport(self.wire.extend, self._hang_up, HIGH_WATER)
        self.cell = make(
            runtime,
            partial(Subject, self),
            id="subject",
            request=Request("/"),
            codec=RawCodec(),
            options=ConnectionOptions(
                bounds=Bounds(2, 1000, 8, 1000),
                close=10.0,
                teardown=5.0,
                on_crash=lambda cell, error: reaction,
                on_exit=self.exits.append,
            ),
        )
        self.cell.websocket = WebSocket(
            self.transport, None, self.cell, runtime.clock, WireLimits(NO_LIMIT, NO_LIMIT)
        )
        self.transport.sink = self.cell.websocket
        self.watcher = Watcher(runtime)
        monitors.monitor(self.watcher, self.cell.ref)  # type: ignore[arg-type]  # of a cell, what they use
        runtime.start(self.cell.run, name="subject")

    def _hang_up(self) -> None:
        self.hung_up += 1

    def can(self, event: Event) -> bool:
        """Whether ``event`` can happen now."""
        if event in (Event.PEER_CLOSE, Event.RUBBISH, Event.DATA, Event.EOF):
            silent = self.peer_ended or (self.peer_closed and event is Event.PEER_CLOSE)
            return not silent
        if event is Event.LOST:
            return not self.peer_ended
        if event is Event.CONGEST:
            return not self.stalled
        if event in (Event.PROGRESS, Event.UNCONGEST):
            return self.stalled
        if event is Event.CANCEL:
            return self.cell.hook.since is not None
        if event is Event.TIMER:
            return self.cell.actor is not None
        return True

    def do(self, event: Event) -> None:
        """Let ``event`` happen."""
        self.gone_for += self.cell.stopped
        _DO[event](self)

    def close(self) -> None:
        self.cell.request_close(Close(4001, "closed"))

    def drain(self) -> None:
        self.cell.request_close(Close(4002, "drained", drain=True))

    def notice(self) -> None:
        self.cell.request_close(Close(4003, "noticed", notice="soon", grace=5.0))

    def peer_close(self) -> None:
        self.peer_closed = True
        self.transport.feed(encode_close(1000))

    def rubbish(self) -> None:
        self.transport.feed(encode(TEXT, b"rubbish", rsv=7))

    def eof(self) -> None:
        self.peer_ended = True
        self.transport.feed_eof()

    def lost(self) -> None:
        self.peer_ended = True
        self.transport.drop()

    def crash(self) -> None:
        self.crashes_told += 1
        self.cell.ref.tell("crash")

    def cancel(self) -> None:
        error = HandlerTimeout("cancelled")
        self.cell.crash(error)
        self.cell.kill(error)

    def tell(self) -> None:
        self.told += 1
        self.cell.ref.tell(f"t{self.told}")

    def data(self) -> None:
        self.fed += 1
        self.transport.feed(encode(TEXT, f"d{self.fed}".encode()))

    def timer(self) -> None:
        actor = self.cell.actor
        assert actor is not None
        try:
            actor.after(0.0, "timer")
        except ActorStopped:
            return
        self.pass_time(0.0)

    def congest(self) -> None:
        self.stalled = True
        self.transport.stall(True)
        self.cell.publish_frame(frame_of("x" * 100), self.now)

    def progress(self) -> None:
        self.transport.take(70)

    def uncongest(self) -> None:
        self.stalled = False
        self.transport.stall(False)

    def deadline(self) -> None:
        self.pass_time(PATIENCE)

    def pass_time(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        end = self.now + seconds
        while (look := self.runtime.timers.next_look) <= end:
            self.now = max(self.now, look)
            self.runtime.timers.fire()
        self.now = end


_DO = {
    Event.CLOSE: World.close,
    Event.DRAIN: World.drain,
    Event.NOTICE: World.notice,
    Event.PEER_CLOSE: World.peer_close,
    Event.RUBBISH: World.rubbish,
    Event.EOF: World.eof,
    Event.LOST: World.lost,
    Event.CRASH: World.crash,
    Event.CANCEL: World.cancel,
    Event.TELL: World.tell,
    Event.DATA: World.data,
    Event.TIMER: World.timer,
    Event.CONGEST: World.congest,
    Event.PROGRESS: World.progress,
    Event.UNCONGEST: World.uncongest,
    Event.DEADLINE: World.deadline,
}


# -- the books ---------------------------------------------------------------------------------


def frames_of(wire: bytes) -> Iterator[tuple[int, bytes]]:
    """The small frames of a server: opcode and payload."""
    position = 0
    while position < len(wire):
        first, length = wire[position], wire[position + 1]
        start = position + 2
        if length == 126:
            length, start = int.from_bytes(wire[start : start + 2], "big"), start + 2
        assert first & 0xF0 == 0x80, "whole frames, no mask"
        assert start + length <= len(wire), "the last frame is whole"
        yield first & 0x0F, bytes(wire[start : start + length])
        position = start + length


def check(world: World) -> None:
    """Check the books of a connection that has been left to its deadlines."""
    cell, report = world.cell, world.cell.report
    assert cell.stopped, f"not torn down: {cell.state}, {cell._closing_state}"
    assert report is not None
    assert world.exits == [cell], "one exit"
    assert len(world.closes) == 1, "one on_close"
    assert world.closes == [report], "and with the report"

    downs = [message for message in world.watcher.got if isinstance(message, Down)]
    assert len(downs) == 1, "one Down"
    assert downs[0].report == report

    wire = bytes(world.wire)
    cut_off = world.transport.aborted or world.peer_ended
    try:
        frames = list(frames_of(wire))
    except (AssertionError, IndexError):
        assert world.stalled or cut_off, "only a peer that reads a part gets half a frame"
        frames = []
    codes = [payload for opcode, payload in frames if opcode == 8]
    assert len(codes) <= 1, "one Close frame"
    if codes:
        assert frames[-1][0] == 8, "nothing behind the Close frame"
        sent = (int.from_bytes(codes[0][:2], "big"), codes[0][2:].decode()) if codes[0] else (1005, "")
        assert report.sent == sent
    elif report.sent is not None:
        assert cut_off or world.stalled, "said to be sent, and it was not"

    first = {Initiator.LOCAL: report.sent, Initiator.PEER: report.received, Initiator.TRANSPORT: None}
    assert (report.code, report.reason) == (first[report.initiator] or (1006, "")), "what the report says"
    assert report.clean is (report.sent is not None and report.received is not None)

    letters = [str(letter.message) for letter in world.letters]
    told = {f"t{number}" for number in range(1, world.told + 1)}
    assert sorted(told) == sorted(one for one in world.handled + letters if one[0] == "t"), "told, once"
    data = [one for one in world.handled + letters if one[0] == "d"]
    assert len(data) == len(set(data)) == report.messages_in, "admitted is handled or a dead letter, once"
    undelivered = sum(letter.reason == "undelivered" for letter in world.letters)
    assert undelivered <= report.undelivered <= undelivered + world.fed - report.messages_in
    assert letters.count("crash") == world.crashes_told, "what the actor crashes of is a dead letter"

    assert not len(cell.mailbox)
    assert cell.actor is None
    assert cell.hook.task is None
    assert not world.runtime.busy(), "no task of the actor"
    assert not cell._writers
    assert not cell._wire_waiters
    assert world.transport._lost, "TCP has ended"
    assert pending(world.runtime) == 0, "no timer"


def pending(runtime: Runtime) -> int:
    """How many deadlines are still to come."""
    return len(runtime.timers)


# -- in lock-step ------------------------------------------------------------------------------


class Outcome(NamedTuple):
    schedule: Schedule
    possible: bool
    """Whether its last event could happen."""
    goes_on: bool
    """Whether a longer one says more."""


async def run(
    schedules: Iterable[Schedule],
    reaction: Reaction = Reaction.STOP,
    *,
    at_once: bool = False,
    make: Callable[..., ConnectionCell] = ConnectionCell,
) -> list[Outcome]:
    """Run ``schedules``, check the books of each, and say what became of them.

    ``at_once``: all of a schedule happens within one turn of the event loop, and no task runs in between.
    """
    outcomes: list[Outcome] = []
    wrong = ""
    remaining = iter(schedules)
    while batch := list(islice(remaining, TOGETHER)):
        async with anyio.create_task_group() as task_group:
            worlds = [World(task_group, schedule, reaction, make) for schedule in batch]
            await settled()
            possible = dict.fromkeys(worlds, True)
            for step in range(max(map(len, batch))):
                for world in worlds:
                    if step < len(world.schedule):
                        event = world.schedule[step]
                        possible[world] = world.can(event)
                        if possible[world]:
                            world.do(event)
                if not at_once:
                    await settled()
            await settled()
            outcomes += [
                Outcome(world.schedule, possible[world], world.gone_for == 0 and possible[world])
                for world in worlds
            ]
            await run_out(worlds)
            for world in worlds:
                try:
                    check(world)
                except AssertionError as error:
                    wrong = f"{world.schedule!r}, {reaction}, at_once={at_once}: {error}"
                    break
            task_group.cancel_scope.cancel()
        assert not wrong, wrong
    return outcomes


async def run_out(worlds: list[World]) -> None:
    """Leave every connection to its deadlines; the peer does nothing more, and in the end it is gone."""
    for world in worlds:
        if world.stalled and not world.transport._lost:
            world.uncongest()
    for look in range(AT_MOST):
        await settled()
        left = [world for world in worlds if not world.cell.stopped]
        if not left:
            break
        for world in left:
            if world.cell._closing_state is ClosingState.OPEN:
                world.close()
            world.pass_time(1.0 if look < AT_MOST - 2 else 3600.0)
    for world in worlds:
        world.pass_time(3600.0)  # what is pending now is nobody's any more
    await settled()


async def explore(depth: int, reaction: Reaction, *, at_once: bool = False) -> int:
    """Run every schedule up to ``depth``; give how many there were."""
    frontier: list[Schedule] = [()]
    ran = 0
    for _ in range(depth):
        schedules = ((*schedule, event) for schedule in frontier for event in Event)
        outcomes = [one for one in await run(schedules, reaction, at_once=at_once) if one.possible]
        ran += len(outcomes)
        frontier = [one.schedule for one in outcomes if one.goes_on]
    return ran


def sample(seed: int, count: int, length: int) -> list[Schedule]:
    """Random schedules; the same ones for the same seed."""
    rng = random.Random(seed)
    return [tuple(rng.choices(list(Event), k=length)) for _ in range(count)]


# -- the tests ---------------------------------------------------------------------------------


async def test_every_schedule_of_four_events_keeps_its_books() -> None:
    assert await explore(4, Reaction.STOP) > 10_000


@pytest.mark.parametrize("at_once", [False, True], ids=["one after the other", "at once"])
@pytest.mark.parametrize("reaction", list(Reaction))
async def test_every_schedule_of_three_events_keeps_its_books(reaction: Reaction, *, at_once: bool) -> None:
    assert await explore(3, reaction, at_once=at_once) > 1000


@pytest.mark.parametrize("at_once", [False, True], ids=["one after the other", "at once"])
@pytest.mark.parametrize("reaction", list(Reaction))
async def test_a_sample_of_long_schedules_keeps_its_books(reaction: Reaction, *, at_once: bool) -> None:
    await run(sample(len(reaction.name), 400, 8), reaction, at_once=at_once)


@pytest.mark.soak
@pytest.mark.parametrize("at_once", [False, True], ids=["one after the other", "at once"])
@pytest.mark.parametrize("reaction", list(Reaction))
async def test_every_schedule_up_to_a_great_depth_keeps_its_books(
    reaction: Reaction, *, at_once: bool
) -> None:
    depth = int(os.environ.get("SCHEDULES_DEPTH", "5"))
    ran = await explore(depth, reaction, at_once=at_once)
    print(f"\n{reaction.name}: no counterexample in {ran} schedules up to depth {depth}")


# -- the check can fail ------------------------------------------------------------------------


class ClosesTwice(ConnectionCell):
    def close(self, close: Close) -> None:
        super().close(close)
        if self.closing:
            self.websocket.transport.write(b"\x88\x00")


class LosesMessages(ConnectionCell):
    def received_many(self, messages: list[str | bytes], size: int) -> None:
        super().received_many(messages, size)
        if self.mailbox.open:
            self.mailbox.data.clear()


class EndsTwice(ConnectionCell):
    async def _run_last_hook(self) -> None:
        await super()._run_last_hook()
        await super()._run_last_hook()


class LeavesTimer(ConnectionCell):
    def _finish(self) -> None:
        super()._finish()
        self.runtime.timers.after(1e9, self._clear)


class TellsNobody(ConnectionCell):
    def _finish(self) -> None:
        self.monitors = None
        super()._finish()


class NeverEnds(ConnectionCell):
    def _signal(self, signal: Signal) -> None:
        if signal is not Signal.DEADLINE:
            super()._signal(signal)


class ReportsAnotherCode(ConnectionCell):
    def close(self, close: Close) -> None:
        super().close(close)
        if self.closing:
            self.websocket.sent = (4999, "")


class LeavesTcpOpen(ConnectionCell):
    def _signal(self, signal: Signal) -> None:
        if signal is Signal.DEADLINE:
            self._wire_ended()
        else:
            super()._signal(signal)


@pytest.mark.parametrize(
    "make",
    [
        ClosesTwice,
        LosesMessages,
        EndsTwice,
        LeavesTimer,
        TellsNobody,
        NeverEnds,
        ReportsAnotherCode,
        LeavesTcpOpen,
    ],
)
async def test_a_cell_that_is_wrong_in_one_place_has_a_counterexample(make: type[ConnectionCell]) -> None:
    schedules = [(first, second) for first in Event for second in Event]

    with pytest.raises(AssertionError):
        await run(schedules, make=make)
