"""A drain under a virtual clock: when each connection is closed, and how the report counts them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import CloseReport, ConnectionActor, ExitReason
from actors.codecs import JsonCodec
from actors.messages import Close
from actors.runtime import Runtime
from actors.testing import Client, ManualClock, connected, running
from supervisor import DrainReport, serve
from supervisor.connections.drain import Draining
from supervisor.events import DrainEnded, DrainProgress, DrainStarted
from tests.raw import RawClient, raw_client
from tests.witness import Witness, serving, until

RESTART = Close(1012, "service restart", exit_reason=ExitReason.DRAIN)


class Echo(ConnectionActor):
    async def on_message(self, message: str) -> None:
        await self.send(message)


class Slow(Echo):
    """Takes three seconds to say goodbye, after the handshake."""

    async def on_close(self, report: CloseReport) -> None:
        gone = anyio.Event()
        timers = self._own_cell.runtime.timers
        timers.after(3.0, gone.set)
        await gone.wait()


class Drained:
    """A drain at work beside the test; made by ``draining``."""

    def __init__(self, clock: ManualClock, clients: Sequence[Client]) -> None:
        self.clients = clients
        self.clock = clock
        self.began = clock()
        self.witness = Witness()
        self.report: DrainReport | None = None
        self.scope = anyio.CancelScope()

    async def run(self, runtime: Runtime, close: Close, within: float, spread: float) -> None:
        with self.scope:
            cells = [client.cell for client in self.clients]
            self.drain = Draining(
                runtime, cells, close=close, within=within, spread=spread, hooks=[self.witness]
            )
            self.report = await self.drain.run()

    @property
    def closing(self) -> int:
        return sum(client.cell.closing for client in self.clients)

    async def closes(self, seconds: float, step: float) -> list[float]:
        """Let time pass; give the seconds of the drain at which each close began, to one step."""
        times: list[float] = []
        while self.clock() - self.began < seconds:
            await self.clock.advance(step)
            times += [self.clock() - self.began] * (self.closing - len(times))
        return times

    def counts(self) -> tuple[int, int, int, int]:
        assert self.report is not None, "the drain has not ended"
        return self.report.total, self.report.clean, self.report.timed_out, self.report.aborted


@asynccontextmanager
async def draining(
    *actors: type[ConnectionActor],
    saying: Close = RESTART,
    within: float = 30.0,
    spread: float = 10.0,
    deaf: int = 0,
    **limits: Any,
) -> AsyncIterator[Drained]:
    """Drain a connection of each of ``actors``, the first ``deaf`` of which answer no Close frame."""
    clock = ManualClock()
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(connected(actor, clock=clock, **limits)) for actor in actors
        ]
        for client in clients[:deaf]:
            client.answers = False
        drained = Drained(clock, clients)
        async with running(clock) as runtime, anyio.create_task_group() as task_group:
            task_group.start_soon(drained.run, runtime, saying, within, spread)
            await clock.advance(0)
            yield drained
            drained.scope.cancel()


# -- when --------------------------------------------------------------------------------------


async def test_the_closes_are_spread_over_the_spread_and_no_longer() -> None:
    async with draining(*[Echo] * 60, spread=10) as drained:
        times = await drained.closes(10, step=0.5)
        await drained.clock.advance(0)

        assert len(times) == 60
        halves = sum(time <= 5 for time in times)
        assert 10 <= halves <= 50, "uniform: a thousand runs see no such half once"
        assert len(set(times)) > 10
        assert drained.counts() == (60, 60, 0, 0)


async def test_each_client_sees_code_and_reason_and_a_clean_end() -> None:
    async with draining(Echo, Echo) as drained:
        await drained.clock.advance(10)
        for client in drained.clients:
            assert await client.closed() == (1012, "service restart", True)
            assert client.report is not None
            assert client.report.exit_reason is ExitReason.DRAIN


async def test_a_spread_that_is_longer_than_the_drain_is_cut_to_it() -> None:
    async with draining(*[Echo] * 20, within=5, spread=1000) as drained:
        await drained.clock.advance(5)

        assert drained.counts() == (20, 20, 0, 0)


async def test_without_a_spread_all_are_closed_at_once() -> None:
    async with draining(*[Echo] * 5, spread=0) as drained:
        assert drained.counts() == (5, 5, 0, 0)
        assert drained.report is not None
        assert drained.report.seconds == 0


async def test_a_drain_of_nothing_is_over_at_once() -> None:
    async with draining() as drained:
        assert drained.report == DrainReport(total=0, clean=0, timed_out=0, aborted=0, seconds=0)


async def test_the_drain_lasts_until_the_last_teardown() -> None:
    async with draining(Slow, spread=0) as drained:
        await drained.clock.advance(2.9)
        assert drained.report is None
        await drained.clock.advance(0.2)

        assert drained.report is not None
        assert drained.report.seconds == pytest.approx(3)


# -- who does not go ---------------------------------------------------------------------------


async def test_who_does_not_answer_until_the_close_timeout_has_timed_out() -> None:
    async with draining(Echo, Echo, Echo, deaf=1, spread=0, close=4.0) as drained:
        await drained.clock.advance(4)

        assert drained.counts() == (3, 2, 1, 0)


async def test_who_is_still_there_at_the_end_is_aborted() -> None:
    async with draining(Echo, Echo, deaf=1, within=3, spread=0, close=60.0) as drained:
        await drained.clock.advance(2.9)
        assert drained.report is None
        await drained.clock.advance(0.1)

        assert drained.counts() == (2, 1, 0, 1)
        assert drained.clients[0].transport.aborted
        assert not drained.clients[1].transport.aborted
        report = drained.clients[0].report
        assert report is not None
        assert (report.sent, report.clean) == ((1012, "service restart"), False)


async def test_with_no_time_at_all_everybody_still_gets_the_close_frame_of_the_drain() -> None:
    async with draining(Echo, deaf=1, within=0) as drained:
        await drained.clock.advance(0)

        assert drained.counts() == (1, 0, 0, 1)
        report = drained.clients[0].report
        assert report is not None
        assert (report.sent, report.exit_reason) == ((1012, "service restart"), ExitReason.DRAIN)


async def test_who_closed_cleanly_and_is_still_tearing_down_at_the_end_was_not_aborted() -> None:
    async with draining(Slow, Echo, within=1, spread=0) as drained:
        await drained.clock.advance(5)

        assert drained.counts() == (2, 2, 0, 0)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@given(st.lists(st.sampled_from(["good", "deaf", "gone", "slow"]), max_size=5), st.sampled_from([1, 3, 9]))
async def test_everybody_is_counted_once_whatever_they_do(kinds: list[str], within: float) -> None:
    clock = ManualClock()
    async with AsyncExitStack() as stack:
        clients = []
        for kind in kinds:
            actor = Slow if kind == "slow" else Echo
            client = await stack.enter_async_context(connected(actor, clock=clock, close=5.0))
            client.answers = kind not in ("deaf", "gone")
            clients.append(client)
        drained = Drained(clock, clients)
        async with running(clock) as runtime, anyio.create_task_group() as task_group:
            task_group.start_soon(drained.run, runtime, RESTART, within, 0.0)
            await clock.advance(0.5)
            for kind, client in zip(kinds, clients, strict=True):
                if kind == "gone":
                    client.drop()
            await clock.advance(20)

    deaf, gone = kinds.count("deaf"), kinds.count("gone")
    timed_out, aborted = (gone + deaf, 0) if within > 5 else (gone, deaf)
    assert drained.counts() == (len(kinds), len(kinds) - deaf - gone, timed_out, aborted)


# -- a notice ----------------------------------------------------------------------------------


async def test_a_notice_comes_first_and_who_then_goes_by_itself_is_clean() -> None:
    notice = Close(1012, "service restart", notice="going down", grace=5.0, exit_reason=ExitReason.DRAIN)
    async with draining(Echo, Echo, saying=notice, spread=0) as drained:
        polite, other = drained.clients
        assert await polite.receive() == "going down"
        assert await other.receive() == "going down"
        assert await polite.close(1000, "bye") == (1000, "bye", True)
        await drained.clock.advance(4.9)
        assert not other.cell.closing
        await drained.clock.advance(0.2)

        assert await other.closed() == (1012, "service restart", True)
        assert drained.counts() == (2, 2, 0, 0)


class Json(Echo):
    codec = "json"


async def test_a_notice_that_no_frame_can_carry_is_an_error_and_no_connection_hangs() -> None:
    async with serving(Echo) as (server, witness), raw_client(server) as client:
        with pytest.raises(ValueError, match="codec 'raw' cannot send this str"):
            await server.drain(notice="\ud800")
        assert not witness.of(DrainStarted)

        await client.send("still there?")
        assert (await client.frame()).text == "still there?"


@pytest.mark.parametrize("notice", ["\ud800", {"going": "down"}, {1}, float("nan")])
async def test_a_notice_that_one_of_the_codecs_cannot_encode_is_an_error_before_anything_closes(
    notice: object,
) -> None:
    async with (
        serving({"/": Json, "/raw": Echo}) as (server, witness),
        raw_client(server) as json,
        raw_client(server, "/raw") as raw,
    ):
        with pytest.raises((TypeError, ValueError), match=r"codec '(raw|json)'"):
            await server.drain(notice=notice)

        assert server.ready
        assert not witness.of(DrainStarted)
        await json.send('"a"')
        await raw.send("b")
        assert (await json.frame()).text == '"a"'
        assert (await raw.frame()).text == "b"


async def test_a_notice_is_encoded_once_for_each_codec() -> None:
    made: list[object] = []

    class Counting(JsonCodec):
        def encode(self, message: object) -> str:
            made.append(message)
            return super().encode(message)

    class Counted(Echo):
        codec = Counting()

    notice = Close(1012, "", notice="going", grace=0)
    async with draining(Counted, Counted, Echo, saying=notice, spread=0) as drained:
        await drained.clock.advance(1)

        assert [await client.receive() for client in drained.clients] == ['"going"', '"going"', "going"]
        assert made == ["going"]


async def test_a_notice_that_cannot_be_encoded_is_an_error_and_the_server_goes_on() -> None:
    async with serving(Echo) as (server, _), raw_client(server) as client:
        with pytest.raises(TypeError, match="codec 'raw' sends str or bytes"):
            await server.drain(notice={"going": "down"})

        await client.send("still there?")
        assert (await client.frame()).text == "still there?"
        async with raw_client(server):
            await until(lambda: len(server.connections) == 2)


# -- in a hurry --------------------------------------------------------------------------------


async def test_a_drain_in_a_hurry_closes_everybody_now_and_waits_no_longer_than_told() -> None:
    async with draining(*[Echo] * 5, deaf=1, within=30, spread=30, close=60.0) as drained:
        drained.drain.hurry(2.0)
        await drained.clock.advance(1.9)
        assert drained.closing == 5
        assert drained.report is None
        await drained.clock.advance(0.2)

        assert drained.counts() == (5, 4, 0, 1)


async def test_a_hurry_gives_nobody_more_time() -> None:
    async with draining(Echo, deaf=1, within=3, spread=0, close=60.0) as drained:
        drained.drain.hurry(100.0)
        await drained.clock.advance(3)

        assert drained.counts() == (1, 0, 0, 1)


async def test_a_hurry_after_the_end_changes_nothing() -> None:
    async with draining(Echo, Slow, deaf=2, within=1, spread=0, close=60.0) as drained:
        await drained.clock.advance(2)
        drained.drain.hurry(0.5)
        await drained.clock.advance(5)

        assert drained.counts() == (2, 0, 0, 2)


async def test_a_hurry_waits_for_no_grace() -> None:
    notice = Close(1012, "service restart", notice="going down", grace=60.0)
    async with draining(Echo, saying=notice, spread=0) as drained:
        assert await drained.clients[0].receive() == "going down"
        assert not drained.clients[0].cell.closing

        drained.drain.hurry(5.0)

        assert await drained.clients[0].closed() == (1012, "service restart", True)


# -- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"within": None}, TypeError, "^within: "),
        ({"within": -1}, ValueError, "^within: "),
        ({"within": float("nan")}, ValueError, "^within: "),
        ({"within": float("inf")}, ValueError, "^within: "),
        ({"within": True}, TypeError, "^within: "),
        ({"spread": None}, TypeError, "^spread: "),
        ({"spread": "10"}, TypeError, "^spread: "),
        ({"code": 1005}, ValueError, "^code: "),
        ({"code": "1012"}, TypeError, "^code: "),
        ({"reason": "x" * 124}, ValueError, "^reason: "),
    ],
    ids=str,
)
async def test_an_option_that_cannot_work_is_named_and_the_server_goes_on(
    options: dict[str, Any], error: type[Exception], match: str
) -> None:
    async with serving(Echo) as (server, _), raw_client(server) as client:
        with pytest.raises(error, match=match):
            await server.drain(**options)

        assert server.accepting
        await client.send("still there?")
        assert (await client.frame()).text == "still there?"


# -- cancellation, and what is told ------------------------------------------------------------


async def test_a_cancelled_drain_closes_nobody_more_and_aborts_nobody() -> None:
    async with draining(*[Echo] * 30, within=30, spread=20) as drained:
        await drained.clock.advance(10)
        gone = drained.closing
        assert 0 < gone < 30
        drained.scope.cancel()
        await drained.clock.advance(100)

        assert drained.closing == gone
        assert drained.report is None
        for client in drained.clients:
            if not client.cell.closing:
                await client.send("still there?")
                assert await client.receive() == "still there?"


@pytest.fixture
def as_late_as_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of every connection is the end of the spread."""
    monkeypatch.setattr("random.uniform", lambda low, high: high)


@pytest.mark.usefixtures("as_late_as_possible")
async def test_after_a_cancelled_drain_new_connections_are_welcome_again() -> None:
    async with serving(Echo) as (server, _), raw_client(server) as client:
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(server.drain, 60, 60)
            await until(lambda: not server.ready)
            task_group.cancel_scope.cancel()

        assert server.ready
        async with raw_client(server) as new:
            for one in (client, new):
                await one.send("welcome?")
                assert (await one.frame()).text == "welcome?"


@pytest.mark.usefixtures("as_late_as_possible")
@pytest.mark.parametrize("other", ["at work", "done"])
async def test_a_cancelled_drain_lets_nobody_in_beside_another_one_or_after_it(other: str) -> None:
    async with serving(Echo) as (server, _), anyio.create_task_group() as task_group:
        client = await RawClient.dial(server)
        assert await client.request("/") == 101
        if other == "at work":
            task_group.start_soon(server.drain, 60, 60)
        else:
            client.close()
            await server.drain()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await server.drain(60, 60)

        await until(lambda: not server.ready)
        with contextlib.closing(await RawClient.dial(server)) as new:
            assert await new.request("/") == 503
        client.close()
        task_group.cancel_scope.cancel()


async def test_two_drains_at_once_agree_and_both_end() -> None:
    witness = Witness()
    async with serve({"/": Echo}, hooks=[witness]) as server, raw_client(server) as client:
        await until(lambda: len(server.connections) == 1)
        reports: list[DrainReport] = []

        async def drain(reason: str) -> None:
            reports.append(await server.drain(spread=0, reason=reason))

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(drain, "one of two")
            task_group.start_soon(drain, "one of two")
            assert await client.answer_close() == (1012, "one of two")
            await client.rest()

    assert [(report.total, report.clean) for report in reports] == [(1, 1), (1, 1)]


async def test_hooks_are_told_of_the_begin_the_progress_and_the_end() -> None:
    async with draining(Echo, Echo, deaf=1, within=3.5, spread=0, close=60.0) as drained:
        await drained.clock.advance(10)

        assert drained.witness.events == [
            DrainStarted(2, 3.5, 0),
            DrainProgress(2, 1, 1.0),
            DrainProgress(2, 1, 2.0),
            DrainProgress(2, 1, 3.0),
            DrainEnded(DrainReport(total=2, clean=1, timed_out=0, aborted=1, seconds=3.5)),
        ]
