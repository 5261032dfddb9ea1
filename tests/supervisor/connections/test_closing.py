"""A close on a real wire: exactly once, the first one wins, in order with the messages around it."""

from __future__ import annotations

import random
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from actors import (
    Actor,
    ActorMisuse,
    ActorRef,
    CloseReport,
    ConnectionActor,
    ConnectionClosing,
    Down,
    ExitReason,
    Initiator,
)
from actors.testing import connected
from supervisor import ChildSpec, Heartbeat, Policy, Timeouts
from tests.raw import CLOSE, TEXT, Frame, RawClient, encode, encode_close, raw_client
from tests.witness import serving, until

pytestmark = pytest.mark.every_runtime


class Echo(ConnectionActor):
    async def on_message(self, message: str | bytes) -> None:
        await self.send(message)


def closes_of(frames: list[Frame]) -> list[tuple[int, str]]:
    return [frame.close for frame in frames if frame.opcode == CLOSE]


# -- exactly once ------------------------------------------------------------------------------

TASKS = 100


class Round:
    """One connection that everybody closes at once: who asked for it, and what came of it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.asked: list[tuple[int, str]] = []  # in the order of the event loop's thread
        self.reports: list[CloseReport] = []
        self.thread_may_go = threading.Event()
        self.peer_closed_with: list[tuple[int, str]] = []
        self.thread: threading.Thread | None = None

    async def turns(self) -> None:
        """Let the others run for a while."""
        for _ in range(self.random.randrange(4)):
            await anyio.lowlevel.checkpoint()


class Watcher(Actor):
    """Keeps the Down of every connection that it is told of."""

    def __init__(self, downs: list[Down]) -> None:
        self.downs = downs

    async def on_info(self, message: Any) -> None:
        if isinstance(message, ActorRef):
            self.ref.monitor(message)
            self.ref.monitor(message)  # a second time changes nothing
        elif isinstance(message, Down):
            self.downs.append(message)


class Contested(ConnectionActor):
    """Closed by a hundred tasks, a timer, a handler and a second thread."""

    policy = Policy(heartbeat=None)
    rounds: dict[str, Round]
    watcher: ActorRef

    async def on_connect(self) -> None:
        self.round = self.rounds[self.path_params["seed"]]
        self.watcher.tell(self.ref)
        self.go = anyio.Event()
        self.after(self.round.random.choice([0.001, 0.002, 0.005]), "close")
        for number in range(TASKS):
            self.spawn(self.close_when_told, number)
        self.round.thread = threading.Thread(target=self.close_from_thread, args=(self.ref,))
        self.round.thread.start()

    async def close_when_told(self, number: int) -> None:
        await self.go.wait()
        self.close_as(4000 + number, f"task {number}")

    def close_from_thread(self, ref: ActorRef) -> None:
        self.round.thread_may_go.wait()
        ref.close(4200, "thread")

    def close_as(self, code: int, reason: str) -> None:
        self.round.asked.append((code, reason))
        self.close(code, reason)

    async def on_message(self, message: str | bytes) -> None:
        steps = [
            self.go.set,
            self.round.thread_may_go.set,
            lambda: self.close_as(4100, "handler"),
        ]
        self.round.random.shuffle(steps)
        for step in steps:
            step()
            await self.round.turns()

    async def on_info(self, message: object) -> None:
        self.close_as(4300, "timer")

    async def on_close(self, report: CloseReport) -> None:
        self.round.reports.append(report)


async def contest(client: RawClient, round: Round) -> list[Frame]:
    """Start the race, close too, now or a little later, and answer whoever was faster."""

    async def send_close(code: int, reason: str) -> None:
        if not round.peer_closed_with:
            round.peer_closed_with.append((code, reason))
            await client.send_close(code, reason)

    async def race() -> None:
        await round.turns()
        await send_close(4400, "peer")

    when = round.random.choice(["at once", "soon", "when the server did"])
    async with anyio.create_task_group() as task_group:
        if when == "at once":
            round.peer_closed_with.append((4400, "peer"))
            await client.send_bytes(encode(TEXT, b"go") + encode_close(4400, "peer"))
        else:
            await client.send("go")
        if when == "soon":
            task_group.start_soon(race)
        frame = await client.frame()
        await send_close(*frame.close)
        rest = await client.rest()
    return [frame, *rest]


async def contest_rounds(count: int) -> set[int]:
    """Run ``count`` rounds and check each; give the codes that won."""
    rounds = {str(seed): Round(seed) for seed in range(count)}
    downs: list[Down] = []
    winners: set[int] = set()

    async with serving(
        {"/:seed": Contested}, children=[ChildSpec(Watcher, name="watcher", args=(downs,))]
    ) as (server, witness):
        Contested.rounds, Contested.watcher = rounds, server.registry["watcher"]
        for seed, round in rounds.items():
            async with raw_client(server, f"/{seed}") as client:
                frames = await contest(client, round)
                await until(lambda: len(witness.closed) == int(seed) + 1)  # noqa: B023  # within the loop's turn
                round.thread_may_go.set()
                await until(lambda: round.thread is not None and not round.thread.is_alive())  # noqa: B023
            report = witness.closed[-1].report

            assert frames == [frames[-1]], f"round {seed}: one frame, our Close, and then the end"
            assert frames[0].close == report.sent
            assert round.peer_closed_with == [report.received]
            assert client.over == "eof"
            assert report.clean
            assert round.reports == [report]
            if report.initiator is Initiator.LOCAL:
                assert (report.code, report.reason) == report.sent
                assert report.sent in [*round.asked[:1], (4200, "thread")]
            else:
                assert report.initiator is Initiator.PEER
                assert report.sent == report.received == (4400, "peer") == (report.code, report.reason)
            winners.add(report.code)
        await until(lambda: len(downs) >= count)
        reports = [closed.report for closed in witness.closed]
        assert witness.crashes == []

    assert [down.report for down in downs] == reports
    return winners


async def test_everybody_closes_at_once_and_it_happens_exactly_once() -> None:
    winners = await contest_rounds(200)

    assert len(winners) > 1, "the rounds differ, and so do those who win them"


# -- the first one wins ------------------------------------------------------------------------


class ClosedBy(ConnectionActor):
    """Closes in the way that the message names."""

    async def on_message(self, message: str | bytes) -> None:
        if message == "handler":
            self.close(4001, "handler")
        elif message == "task":
            self.spawn(self.close_as, "task")
        elif message == "timer":
            self.after(0, "timer")
        elif message == "thread":
            threading.Thread(target=self.ref.close, args=(4001, "thread")).start()
        elif message == "crash":
            raise LookupError("a detail that stays here")

    async def close_as(self, who: str) -> None:
        self.close(4001, who)

    def on_info(self, message: str) -> None:
        self.close(4001, message)


@pytest.mark.parametrize("who", ["handler", "task", "timer", "thread"])
async def test_the_first_close_wins_and_the_later_ones_share_its_report(who: str) -> None:
    shared: list[CloseReport] = []

    async def share(closing: Any) -> None:
        shared.append(await closing)

    async with serving(ClosedBy) as (server, witness), raw_client(server) as client:
        await client.send(who)
        close = await client.frame()
        (ref,) = server.connections
        late = [
            ref.close(4002, "late"),
            ref.close(4003, "late", drain=True),
            ref.close(4004, "late", notice="late"),
        ]
        thread = threading.Thread(target=lambda: late.append(ref.close(4005, "late")))
        thread.start()
        thread.join()
        async with anyio.create_task_group() as task_group:
            for closing in late:
                task_group.start_soon(share, closing)
            await client.send_close(4006, "crossing")
            rest = await client.rest()
        report = (await witness.one_closed()).report

    assert close.close == (4001, who)
    assert rest == []
    assert report.initiator is Initiator.LOCAL
    assert (report.code, report.reason) == report.sent == (4001, who)
    assert report.received == (4006, "crossing")
    assert report.clean
    assert shared == [report] * 4


async def test_a_close_after_the_peers_changes_nothing() -> None:
    async with serving(ClosedBy) as (server, witness), raw_client(server) as client:
        (ref,) = server.connections
        await client.send_close(4001, "peer")
        await until(lambda: not ref.alive or witness.closed)
        report = await ref.close(4002, "late")
        frames = await client.rest()

    assert closes_of(frames) == [(4001, "peer")]
    assert report is witness.closed[0].report
    assert report.initiator is Initiator.PEER
    assert (report.code, report.reason) == (4001, "peer")


async def test_a_crash_says_1011_and_no_detail_and_wins_over_what_follows() -> None:
    async with serving(ClosedBy) as (server, witness), raw_client(server) as client:
        await client.send("crash")
        close = await client.answer_close()
        rest = await client.rest()
        report = (await witness.one_closed()).report

    assert close == (1011, "")
    assert rest == []
    assert report.exit_reason is ExitReason.CRASH
    assert [str(error) for error in witness.crashes] == ["a detail that stays here"]


async def test_an_immediate_close_sends_a_pending_one_now() -> None:
    class Drained(ConnectionActor):
        async def on_message(self, message: str | bytes) -> None:
            self.close(4001, "first", drain=True)
            self.close(4002, "second")

    async with serving(Drained) as (server, witness), raw_client(server) as client:
        await client.send_bytes(encode(TEXT, b"one") + encode(TEXT, b"two") + encode(TEXT, b"three"))
        close = await client.answer_close()
        report = (await witness.one_closed()).report

    assert close == (4001, "first")
    assert report.undelivered == 2


@pytest.mark.parametrize(
    ("code", "reason"), [(1005, ""), (1006, ""), (999, ""), (5000, ""), (1000, "x" * 124), (1000, "é" * 62)]
)
async def test_an_illegal_close_raises_and_leaves_the_connection_as_it_was(code: int, reason: str) -> None:
    class Careless(ConnectionActor):
        async def on_message(self, message: str | bytes) -> None:
            with pytest.raises(ValueError, match=r"^(code|reason): "):
                self.close(code, reason)
            await self.send(message)

    async with serving(Careless) as (server, witness), raw_client(server) as client:
        await client.send("still here")
        echo = await client.frame()
        await client.send_close(1000)
        frames = await client.rest()
        report = (await witness.one_closed()).report

    assert echo.text == "still here"
    assert closes_of(frames) == [(1000, "")]
    assert report.initiator is Initiator.PEER


@pytest.mark.parametrize(
    ("code", "reason"),
    [(None, ""), (1000, ""), (1001, "bye"), (3999, ""), (4999, "x" * 123), (1000, "é" * 61)],
)
async def test_the_peers_close_is_answered_with_its_own_code_and_reason(
    code: int | None, reason: str
) -> None:
    async with serving(Echo) as (server, witness), raw_client(server) as client:
        await client.send_close(code, reason)
        frames = await client.rest()
        report = (await witness.one_closed()).report

    assert len(frames) == 1
    assert closes_of(frames) == [(code or 1005, reason)]
    assert report.received == (code or 1005, reason)
    assert (report.code, report.reason, report.clean) == (code or 1005, reason, True)
    assert report.exit_reason is ExitReason.NORMAL


# -- in order with the messages ----------------------------------------------------------------


def burst(count: int) -> bytes:
    return b"".join(encode(TEXT, str(number).encode()) for number in range(count))


async def test_a_close_goes_behind_what_was_sent_and_ahead_of_what_is_queued() -> None:
    class Hasty(ConnectionActor):
        async def on_message(self, message: str | bytes) -> None:
            await self.send("answer")
            self.close(4001, "enough")
            with pytest.raises(ConnectionClosing) as refused:
                await self.send("too late")
            assert (refused.value.code, refused.value.reason) == (4001, "enough")

    async with serving(Hasty) as (server, witness), raw_client(server) as client:
        await client.send_bytes(burst(5))
        frames = [await client.frame(), await client.frame()]
        await client.send_bytes(burst(2) + encode_close(4001))
        rest = await client.rest()
        report = (await witness.one_closed()).report

    assert frames[0].text == "answer"
    assert frames[1].close == (4001, "enough")
    assert rest == []
    assert report.messages_in == 5
    assert report.messages_out == 1
    assert report.undelivered == 4 + 2
    assert witness.crashes == []


@pytest.mark.parametrize("end", ["close", "fin"])
@pytest.mark.parametrize("count", [5, 100])
async def test_what_the_peer_sent_before_its_end_is_handled_in_order(end: str, count: int) -> None:
    handled: list[str] = []

    class Slow(ConnectionActor):
        async def on_message(self, message: str) -> None:
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            handled.append(message)

        async def on_close(self, report: CloseReport) -> None:
            handled.append("on_close")

    async with serving(Slow) as (server, witness), raw_client(server) as client:
        await client.send_bytes(burst(count) + (encode_close(4001, "bye") if end == "close" else b""))
        if end == "fin":
            client.finish()
        frames = await client.rest()
        report = (await witness.one_closed()).report

    assert handled == [*map(str, range(count)), "on_close"]
    assert report.messages_in == count
    assert report.undelivered == 0
    if end == "close":
        assert closes_of(frames) == [(4001, "bye")]
        assert (report.initiator, report.clean) == (Initiator.PEER, True)
    else:
        assert frames == []
        assert (report.initiator, report.code, report.clean) == (Initiator.TRANSPORT, 1006, False)
        assert report.exit_reason is ExitReason.CONNECTION_LOST


async def test_a_handler_that_answers_after_the_peers_end_is_no_crash() -> None:
    async with serving(Echo) as (server, witness), raw_client(server) as client:
        await client.send_bytes(burst(10) + encode_close(4001, "bye"))
        frames = await client.rest()
        closed = await witness.one_closed()

    assert closes_of(frames) == [(4001, "bye")]
    assert frames[-1].opcode == CLOSE
    assert witness.crashes == []
    assert closed.report.exit_reason is ExitReason.NORMAL


# -- drain and notice --------------------------------------------------------------------------


async def test_a_draining_close_handles_the_queued_messages_and_their_answers_go_first() -> None:
    class Draining(ConnectionActor):
        async def on_message(self, message: str) -> None:
            if message == "0":
                self.close(4001, "done", drain=True)
            await anyio.lowlevel.checkpoint()
            await self.send(f"answer {message}")

    async with serving(Draining) as (server, witness), raw_client(server) as client:
        await client.send_bytes(burst(20))
        answers = [await client.frame() for _ in range(20)]
        close = await client.answer_close()
        rest = await client.rest()
        report = (await witness.one_closed()).report

    assert [answer.text for answer in answers] == [f"answer {number}" for number in range(20)]
    assert close == (4001, "done")
    assert rest == []
    assert report.undelivered == 0
    assert report.clean


async def test_awaiting_a_draining_close_in_an_own_hook_raises_and_the_close_goes_on() -> None:
    misuse: list[str] = []

    class Impatient(ConnectionActor):
        async def on_message(self, message: str) -> None:
            try:
                await self.close(4001, "done", drain=True)
            except ActorMisuse as error:
                misuse.append(str(error))

    async with serving(Impatient) as (server, witness), raw_client(server) as client:
        await client.send("go")
        close = await client.answer_close()
        report = (await witness.one_closed()).report

    assert len(misuse) == 1
    assert close == (4001, "done")
    assert report.clean
    assert witness.crashes == []


async def test_a_notice_goes_first_and_the_close_after_the_grace() -> None:
    class Polite(ConnectionActor):
        async def on_message(self, message: str) -> None:
            self.close(4001, "time is up", notice="closing soon", grace=0.05)

    async with serving(Polite) as (server, witness), raw_client(server) as client:
        await client.send("go")
        notice = await client.frame()
        close = await client.answer_close()
        report = (await witness.one_closed()).report

    assert notice.text == "closing soon"
    assert close == (4001, "time is up")
    assert report.initiator is Initiator.LOCAL
    assert report.handshake_took >= 0.05


async def test_a_peer_that_closes_within_the_grace_is_the_one_who_closed() -> None:
    class Polite(ConnectionActor):
        async def on_message(self, message: str) -> None:
            self.close(4001, "time is up", drain=True, notice="closing soon", grace=1000)
            await self.send("first")

    async with serving(Polite) as (server, witness), raw_client(server) as client:
        await client.send("go")
        frames = [await client.frame(), await client.frame()]
        await client.send_close(4002, "I go")
        rest = await client.rest()
        report = (await witness.one_closed()).report

    assert [frame.text for frame in frames] == ["first", "closing soon"]
    assert closes_of(rest) == [(4002, "I go")]
    assert report.sent == report.received == (4002, "I go") == (report.code, report.reason)
    assert report.initiator is Initiator.PEER
    assert report.clean


# -- the report --------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["on_connect", "on_message", "on_info", "task", "on_close"])
async def test_awaiting_the_close_in_an_own_hook_gives_the_report_after_the_handshake(where: str) -> None:
    trace: list[Any] = []

    class Awaits(ConnectionActor):
        async def close_and_wait(self) -> None:
            report = await self.close(4001, where)
            trace.append(report)

        async def on_connect(self) -> None:
            if where == "on_connect":
                await self.close_and_wait()

        async def on_message(self, message: str) -> None:
            if where == "on_message":
                await self.close_and_wait()
            elif where == "on_info":
                self.ref.tell("go")
            elif where == "task":
                self.spawn(self.close_and_wait)
            else:
                self.close(4001, where)

        async def on_info(self, message: str) -> None:
            await self.close_and_wait()

        async def on_close(self, report: CloseReport) -> None:
            if where == "on_close":
                await self.close_and_wait()
            trace.append("on_close")

    async with serving(Awaits) as (server, witness), raw_client(server) as client:
        await client.send("go")
        close = await client.frame()
        await until(lambda: server.connections)
        before_the_answer = list(trace)
        await client.send_close(4001)
        report = (await witness.one_closed()).report

    assert close.close == (4001, where)
    assert before_the_answer == []
    assert trace == [trace[0], "on_close"]
    assert (trace[0].code, trace[0].clean) == (report.code, report.clean) == (4001, True)


class Owner(ConnectionActor):
    """Owns a resource whose end takes some turns."""

    trace: list[str]

    async def on_connect(self) -> None:
        await self.enter(self.resource())

    @asynccontextmanager
    async def resource(self) -> AsyncIterator[None]:
        yield
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        self.trace.append("released")


async def test_awaiting_the_close_from_outside_waits_for_the_teardown() -> None:
    Owner.trace = trace = []

    async with serving(Owner) as (server, witness), raw_client(server) as client:
        (ref,) = server.connections
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(client.answer_close)
            report = await ref.close(4001, "outside")
        left = list(server.registry), list(server.connections), ref.alive

    assert trace == ["released"]
    assert left == ([], [], False)
    assert report is witness.closed[0].report
    assert (report.code, report.clean) == (4001, True)


@pytest.mark.parametrize("other", ["asyncio", "trio"])
async def test_awaiting_the_close_on_another_threads_event_loop_waits_for_the_teardown(other: str) -> None:
    Owner.trace = trace = []
    seen: list[Any] = []

    async def close(ref: ActorRef) -> None:
        seen.append(await ref.close(4001, "elsewhere"))
        seen.append((list(trace), ref.alive))

    async with serving(Owner) as (server, witness), raw_client(server) as client:
        (ref,) = server.connections
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(client.answer_close)
            await anyio.to_thread.run_sync(lambda: anyio.run(close, ref, backend=other))

    assert seen == [witness.closed[0].report, (["released"], False)]
    assert seen[0].sent == (4001, "elsewhere")


async def test_a_silent_peer_does_not_hold_the_report_up_for_longer_than_the_close_timeout() -> None:
    class Short(ConnectionActor):
        policy = Policy(timeouts=Timeouts(close=0.1), heartbeat=Heartbeat())

    async with serving(Short) as (server, _), raw_client(server) as client:
        (ref,) = server.connections
        report = await ref.close(4001, "anybody there?")
        frames = await client.rest()

    assert closes_of(frames) == [(4001, "anybody there?")]
    assert (report.sent, report.received, report.clean) == ((4001, "anybody there?"), None, False)
    assert (report.code, report.initiator) == (4001, Initiator.LOCAL)
    assert report.handshake_took >= 0.1


class Codec:
    """Makes of a message what the test says, or raises it."""

    name = "odd"

    def __init__(self, made: Any) -> None:
        self.made = made

    def encode(self, message: object) -> Any:
        if message == "fine":
            return "fine"
        if isinstance(self.made, BaseException):
            raise self.made
        return self.made

    def decode(self, data: str | bytes) -> str | bytes:
        return data


@pytest.mark.parametrize(
    ("codec", "notice", "error", "message"),
    [
        ("raw", "\ud800", ValueError, "codec 'raw' cannot send this str: .*surrogates"),
        ("raw", {}, TypeError, "codec 'raw' sends str or bytes"),
        ("json", "\ud800", ValueError, "codec 'json' cannot send"),
        ("json", float("nan"), ValueError, "codec 'json' cannot send"),
        ("json", {1, 2}, TypeError, "codec 'json' cannot send"),
        ("msgpack", "\ud800", ValueError, "codec 'msgpack' cannot send"),
        (Codec("\ud800"), 1, ValueError, "codec 'odd' cannot send this int"),
        (Codec(None), 1, TypeError, "codec 'odd' makes NoneType of this int"),
        (Codec(memoryview(b"x")), 1, TypeError, "codec 'odd' makes memoryview of this int"),
        (Codec(LookupError("broken")), 1, LookupError, "broken"),
    ],
)
@pytest.mark.parametrize("drain", [False, True])
async def test_a_notice_that_cannot_be_sent_is_the_callers_error_and_the_connection_goes_on(
    codec: Any, notice: object, error: type[Exception], message: str, drain: bool
) -> None:
    class Talker(ConnectionActor):
        async def on_message(self, message: object) -> None:
            await self.send("fine")

    Talker.codec = codec
    async with connected(Talker) as client:
        with pytest.raises(error, match=message):
            client.ref.close(4000, "going", notice=notice, drain=drain)
        with pytest.raises(error, match=message):
            client.actor.close(4000, "going", notice=notice, drain=drain)

        assert client.cell.mailbox.open
        await client.send(b"\xa1a" if codec == "msgpack" else '"hello"')
        assert await client.receive() in ("fine", '"fine"', b"\xa4fine")
        client.ref.close(4001, "gone", notice="fine", grace=0)
        assert await client.closed() == (4001, "gone", True)
