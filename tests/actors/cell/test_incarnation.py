"""What one life of an actor owns: tasks, resources and timers, and how they end.

Through real cells: a service (``Probe``) and a connection (``Socket``), which do what they are asked.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from actors import Actor, ActorMisuse, ActorRef, ActorStopped, CloseReport, ConnectionActor, ResourceLost
from actors.cell.cell import Reaction
from actors.mailbox import Bounds, Overflow
from actors.testing import Client, ManualClock, connected, settled, started

pytestmark = pytest.mark.every_runtime

DEADLINE = 20.0


class Probe(Actor):
    """Runs the functions that it is told, and keeps every other message."""

    def __init__(self, journal: list[Any] | None = None) -> None:
        self.journal: list[Any] = [] if journal is None else journal

    async def on_info(self, message: Any) -> Any:
        if not callable(message):
            self.journal.append(message)
            return None
        answer = message(self)
        return await answer if hasattr(answer, "__await__") else answer

    async def on_stop(self) -> None:
        self.journal.append("on_stop")

    # -- what the tests let it own -------------------------------------------------------------

    async def task(self, name: str) -> None:
        try:
            self.journal.append(f"{name} runs")
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):  # its end takes a while
                await anyio.lowlevel.checkpoint()
            self.journal.append(f"{name} ends")

    @asynccontextmanager
    async def resource(self, name: str) -> AsyncIterator[str]:
        self.journal.append(f"{name} opens")
        try:
            yield name
        finally:
            with anyio.CancelScope(shield=True):  # its end takes a while
                await anyio.lowlevel.checkpoint()
            self.journal.append(f"{name} closes")

    @contextmanager
    def plain_resource(self, name: str) -> Iterator[str]:
        self.journal.append(f"{name} opens")
        yield name
        self.journal.append(f"{name} closes")

    @asynccontextmanager
    async def group(self, name: str) -> AsyncIterator[anyio.abc.TaskGroup]:
        """A context manager with a task group inside, as clients of databases have."""
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(self.task, name)
            await anyio.wait_all_tasks_blocked()
            yield task_group
            task_group.cancel_scope.cancel()


class Socket(ConnectionActor, Probe):
    """The same with a WebSocket."""

    def __init__(self) -> None:
        self.journal: list[Any] = []

    async def on_close(self, report: CloseReport) -> None:
        self.journal.append("on_close")

    async def on_message(self, message: Any) -> None:
        raise ValueError(message)


async def own_everything(actor: Probe) -> None:
    actor.spawn(actor.task, "task")
    await actor.enter(actor.resource("first"))
    await actor.enter(actor.plain_resource("second"))
    await actor.enter(actor.group("group"))
    actor.every(0.001, "beat", key="beat")
    await anyio.wait_all_tasks_blocked()
    actor.journal.clear()


LAST = ["task ends", "on_close", "group ends", "second closes", "first closes"]


async def close_locally(client: Client) -> None:
    client.ref.close(1001)


async def close_with_drain(client: Client) -> None:
    client.ref.close(1001, drain=True)


async def crash_in_a_handler(client: Client) -> None:
    await client.send("boom")


async def crash_in_a_task(client: Client) -> None:
    async def fail() -> None:
        raise BaseExceptionGroup("boom", [KeyboardInterrupt()])

    client.ref.tell(lambda actor: actor.spawn(fail))


async def close_by_the_peer(client: Client) -> None:
    await client.close(4000)


async def end_of_stream(client: Client) -> None:
    client.feed(b"")


async def reset(client: Client) -> None:
    client.drop()


async def broken_protocol(client: Client) -> None:
    client.feed(b"\xff\xff")


async def silence_after_our_close(client: Client) -> None:
    client.answers = False
    client.ref.close()


ENDINGS = [
    close_locally,
    close_with_drain,
    crash_in_a_handler,
    crash_in_a_task,
    close_by_the_peer,
    end_of_stream,
    reset,
    broken_protocol,
    silence_after_our_close,
]


@pytest.mark.parametrize("end", ENDINGS)
async def test_whatever_ends_a_connection_all_is_gone_in_order_when_the_report_is_delivered(
    end: Callable[[Client], Any],
) -> None:
    clock = ManualClock()

    async with connected(Socket, clock=clock) as client:
        await client.ref.ask(own_everything)
        actor = client.actor
        await end(client)
        await clock.advance(10.0)
        with anyio.fail_after(DEADLINE):
            report = await client.ref.wait_closed()
        journal = [entry for entry in actor.journal if entry != "beat"]

        assert journal == LAST
        assert report == client.report
        await clock.advance(10.0)
        assert "beat" not in actor.journal[-len(LAST) :], "timers end first"
        assert client.cell.leaks == ()
        assert len(client.cell.runtime.timers) == 0


async def test_a_service_ends_in_the_same_order() -> None:
    journal: list[Any] = []

    async with started(Probe, journal) as ref:
        await ref.ask(own_everything)

    journal = [entry for entry in journal if entry != "beat"]
    assert journal == ["task ends", "on_stop", "group ends", "second closes", "first closes"]


# -- tasks -------------------------------------------------------------------------------------


async def test_a_task_gets_its_arguments_and_does_not_hold_up_the_actor() -> None:
    async with started(Probe) as ref:
        await ref.ask(lambda actor: actor.spawn(actor.task, "one"))
        await ref.ask(lambda actor: actor.spawn(actor.task, "two"))
        await settled()

        assert sorted(await ref.ask(lambda actor: actor.journal)) == ["one runs", "two runs"]


async def test_a_task_that_ends_by_itself_is_forgotten() -> None:
    async with started(Probe) as ref:
        for _ in range(10):
            await ref.ask(lambda actor: actor.spawn(anyio.lowlevel.checkpoint))
        await settled()

        assert ref._cell.incarnation._tasks == set()


async def test_a_task_spawned_just_before_the_end_does_not_begin() -> None:
    journal: list[Any] = []

    def spawn_and_stop(actor: Probe) -> None:
        actor.spawn(actor.task, "late")
        actor.stop()

    async with started(Probe, journal) as ref:
        ref.tell(spawn_and_stop)
        with anyio.fail_after(DEADLINE):
            await ref.wait_closed()

    assert journal in (["on_stop"], ["late runs", "late ends", "on_stop"])


async def test_a_task_that_swallows_cancellation_is_reported_as_a_leak_and_left_behind() -> None:
    clock, release = ManualClock(), anyio.Event()

    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            await release.wait()

    async with connected(Socket, clock=clock, teardown=2.0) as client:
        await client.ref.ask(lambda actor: actor.spawn(stubborn))
        await settled()
        client.ref.close()
        await clock.advance(1.9)
        assert client.ref.alive
        await clock.advance(0.2)

        assert not client.ref.alive
        (leak,) = client.cell.leaks
        assert leak.endswith("stubborn of Socket")
        assert client.actor.journal == ["on_close"]
        release.set()


# -- resources ---------------------------------------------------------------------------------


async def test_enter_gives_what_the_context_manager_gives() -> None:
    async with started(Probe) as ref:
        assert await ref.ask(lambda actor: actor.enter(actor.resource("async"))) == "async"
        assert await ref.ask(lambda actor: actor.enter(actor.plain_resource("plain"))) == "plain"


async def test_enter_raises_what_entering_raises_and_nothing_is_left() -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        raise LookupError("no such database")
        yield

    async def attempt(actor: Probe) -> str:
        with pytest.raises(LookupError, match="no such database"):
            await actor.enter(broken())
        return "goes on"

    async with started(Probe) as ref:
        assert await ref.ask(attempt) == "goes on"
        assert ref._cell.incarnation._resources == []


async def test_enter_takes_context_managers_only() -> None:
    async def attempt(actor: Any) -> None:
        with pytest.raises(TypeError, match="enter: a context manager is needed, not int"):
            await actor.enter(5)

    async with started(Probe) as ref:
        await ref.ask(attempt)


async def test_a_cancelled_enter_undoes_what_was_begun() -> None:
    async def attempt(actor: Probe) -> None:
        @asynccontextmanager
        async def slow() -> AsyncIterator[None]:
            actor.journal.append("begins")
            try:
                await anyio.sleep_forever()
                yield
            finally:
                actor.journal.append("undone")

        with anyio.CancelScope() as scope:
            actor.spawn(cancel_when_blocked, scope)
            await actor.enter(slow())
        assert scope.cancelled_caught

    async def cancel_when_blocked(scope: anyio.CancelScope) -> None:
        await anyio.wait_all_tasks_blocked()
        scope.cancel()

    async with started(Probe) as ref:
        await ref.ask(attempt)
        await settled()

        assert await ref.ask(lambda actor: actor.journal) == ["begins", "undone"]
        assert ref._cell.incarnation._resources == []


async def test_an_enter_cancelled_at_the_moment_it_succeeds_is_no_crash() -> None:
    async def attempt(actor: Probe) -> None:
        @asynccontextmanager
        async def opens_too_late() -> AsyncIterator[None]:
            scope.cancel()
            yield
            actor.journal.append("closes")

        with anyio.CancelScope() as scope:
            await actor.enter(opens_too_late())

    async with started(Probe) as ref:
        await ref.ask(attempt)
        await settled()

        assert ref.alive


async def test_a_resource_that_ends_by_itself_crashes_its_actor() -> None:
    async def lose(actor: Socket) -> None:
        task_group = await actor.enter(actor.group("group"))
        await anyio.wait_all_tasks_blocked()
        task_group.start_soon(fail)

    async def fail() -> None:
        raise OSError("connection to the database lost")

    async with connected(Socket) as client:
        client.ref.tell(lose)

        assert await client.closed() == (1011, "", True)
        (crash,) = client.crashes
        assert isinstance(crash, ResourceLost)
        assert isinstance(crash.__cause__, BaseExceptionGroup)
        assert client.actor.journal == ["group runs", "group ends", "on_close"]


async def test_a_resource_whose_leaving_raises_is_logged_and_the_others_are_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        yield
        raise OSError("on leaving")

    journal: list[Any] = []
    async with started(Probe, journal) as ref:
        await ref.ask(lambda actor: actor.enter(actor.resource("first")))
        await ref.ask(lambda actor: actor.enter(broken()))

    assert journal == ["first opens", "on_stop", "first closes"]
    assert [record.getMessage() for record in caplog.records] == [
        "leaving _AsyncGeneratorContextManager of Probe failed"
    ]


async def test_a_resource_that_hangs_is_cancelled_after_the_teardown_timeout_and_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = ManualClock()

    @asynccontextmanager
    async def hangs() -> AsyncIterator[None]:
        yield
        await anyio.sleep_forever()

    async with connected(Socket, clock=clock, teardown=2.0) as client:
        await client.ref.ask(lambda actor: actor.enter(actor.resource("first")))
        await client.ref.ask(lambda actor: actor.enter(hangs()))
        client.ref.close()
        await clock.advance(1.9)
        assert client.ref.alive
        await clock.advance(0.2)

        assert not client.ref.alive
        assert client.cell.leaks == ()  # it ended when it was cancelled
        assert "_AsyncGeneratorContextManager of Socket takes more than 2.0 s to leave" in caplog.text
        assert client.actor.journal == ["first opens", "on_close", "first closes"]


async def test_a_resource_can_be_entered_in_the_last_hook() -> None:
    class Late(Probe):
        async def on_stop(self) -> None:
            await self.enter(self.resource("late"))

    journal: list[Any] = []
    async with started(Late, journal):
        await settled()

    assert journal == ["late opens", "late closes"]


# -- timers ------------------------------------------------------------------------------------


@asynccontextmanager
async def ticking() -> AsyncIterator[tuple[ManualClock, ActorRef, list[Any]]]:
    clock, journal = ManualClock(), []
    async with started(Probe, journal, clock=clock) as ref:
        yield clock, ref, journal


async def test_after_delivers_once_and_not_before_its_time() -> None:
    async with ticking() as (clock, ref, journal):
        await ref.ask(lambda actor: actor.after(5.0, "late"))
        await ref.ask(lambda actor: actor.after(0.0, "at once"))

        await clock.advance(4.9)
        assert journal == ["at once"]
        await clock.advance(0.1)
        assert journal == ["at once", "late"]
        await clock.advance(100.0)
        assert journal == ["at once", "late"]
        assert ref._cell.incarnation._timers == {}


async def test_a_key_has_one_timer_and_without_a_key_each_has_its_own() -> None:
    async with ticking() as (clock, ref, journal):
        await ref.ask(lambda actor: actor.after(1.0, "replaced", key="k"))
        assert await ref.ask(lambda actor: actor.after(2.0, "kept", key="k")) == "k"
        keys = await ref.ask(lambda actor: [actor.after(1.0, "anonymous") for _ in range(2)])

        await clock.advance(3.0)

        assert journal == ["anonymous", "anonymous", "kept"]
        assert keys[0] != keys[1]


async def test_cancelling_takes_back_a_timer_and_its_queued_firing() -> None:
    async with ticking() as (clock, ref, journal):
        go_on = anyio.Event()
        await ref.ask(lambda actor: actor.after(1.0, "never", key="pending"))
        await ref.ask(lambda actor: actor.after(1.0, "never", key="queued"))
        await ref.ask(lambda actor: actor.every(1.0, "never", key="each"))
        assert await ref.ask(lambda actor: actor.cancel_timer("pending"))
        ref.tell(lambda actor: go_on.wait())
        ref.tell(lambda actor: actor.journal.append([actor.cancel_timer(k) for k in ("queued", "each")]))
        await clock.advance(1.0)
        # Both firings stand behind the messages now: let a hook ahead of them cancel them.
        assert len(ref._cell.mailbox) == 3
        go_on.set()
        await clock.advance(10.0)

        assert journal == [[True, True]]
        assert not await ref.ask(lambda actor: actor.cancel_timer("queued"))


async def test_every_skips_the_beats_that_an_actor_is_behind() -> None:
    async with ticking() as (clock, ref, journal):
        go_on = anyio.Event()
        await ref.ask(lambda actor: actor.every(1.0, "beat"))
        await clock.advance(3.5)
        assert journal == ["beat"] * 3

        ref.tell(lambda actor: go_on.wait())
        await clock.advance(100.0)
        assert len(ref._cell.mailbox) == 1, "one beat waits, the others are skipped"
        go_on.set()
        await clock.advance(0.0)
        assert len(journal) == 5, "the beat that waited, and at once the one that was missed"
        await clock.advance(2.0)
        assert len(journal) == 7


async def test_a_timer_can_replace_and_cancel_itself_in_its_own_handler() -> None:
    class Countdown(Probe):
        async def on_info(self, message: Any) -> Any:
            if message == 0:
                self.cancel_timer("beat")
            elif isinstance(message, int):
                self.after(1.0, message - 1, key="count")
            return await super().on_info(message)

    clock, journal = ManualClock(), []
    async with started(Countdown, journal, clock=clock) as ref:
        await ref.ask(lambda actor: actor.every(0.9, "beat", key="beat"))
        await ref.ask(lambda actor: actor.after(1.0, 3, key="count"))
        await clock.advance(100.0)

        assert [entry for entry in journal if entry != "beat"] == [3, 2, 1, 0]
        assert journal[-1] == 0


async def test_a_full_mailbox_loses_no_firing() -> None:
    clock, journal = ManualClock(), []
    bounds = Bounds(told_messages=2)
    async with started(Probe, journal, clock=clock, bounds=bounds, overflow=Overflow.DROP_OLD) as ref:
        go_on = anyio.Event()
        await ref.ask(lambda actor: actor.every(1.0, "beat"))
        ref.tell(lambda actor: go_on.wait())
        await clock.advance(1.0)
        for number in range(5):
            ref.tell(number)
        go_on.set()
        await clock.advance(2.0)

        assert [entry for entry in journal if entry == "beat"] == ["beat"] * 3
        assert journal[-3:].count("beat") == 2, "and the next ones follow"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda actor: actor.after(-1, "x"), "delay: seconds, zero or more, not -1"),
        (lambda actor: actor.after(float("nan"), "x"), "delay: seconds, zero or more, not nan"),
        (lambda actor: actor.every(0, "x"), "interval: seconds, more than zero, not 0"),
        (lambda actor: actor.every(-1, "x"), "seconds, .* not -1"),
    ],
)
async def test_a_time_that_cannot_be_is_an_error_and_no_timer_is_lost(
    call: Callable[[Probe], object], message: str
) -> None:
    def attempt(actor: Probe) -> None:
        with pytest.raises(ValueError, match=message):
            call(actor)

    async with ticking() as (clock, ref, journal):
        await ref.ask(lambda actor: actor.after(1.0, "kept", key="k"))
        await ref.ask(attempt)
        await clock.advance(1.0)

        assert journal == ["kept"]


# -- the end -----------------------------------------------------------------------------------


async def test_nothing_can_be_begun_any_more_in_an_incarnation_that_has_ended() -> None:
    class Late(Probe):
        async def on_stop(self) -> None:
            for begin in (lambda: self.spawn(self.task, "x"), lambda: self.after(1, "x")):
                with pytest.raises(ActorStopped, match="incarnation 1 of Late has ended"):
                    begin()
            self.journal.append("refused")

    journal: list[Any] = []
    async with started(Late, journal) as ref:
        actor = await ref.ask(lambda actor: actor)

    assert journal == ["refused"]
    with pytest.raises(ActorStopped):
        await actor.enter(actor.resource("x"))


async def test_another_thread_is_told_that_this_belongs_to_the_event_loop() -> None:
    errors: list[str] = []

    def attempt(actor: Probe) -> None:
        for begin in (lambda: actor.spawn(actor.task, "x"), lambda: actor.after(1, "x")):
            with pytest.raises(ActorMisuse) as raised:
                begin()
            errors.append(str(raised.value).partition(" belongs")[0])

    async with started(Probe) as ref:
        actor = await ref.ask(lambda actor: actor)
        thread = threading.Thread(target=attempt, args=(actor,))
        thread.start()
        thread.join()

    assert errors == ["spawn()", "after()"]


async def test_a_restart_ends_what_the_old_incarnation_owned_before_the_new_one_begins() -> None:
    clock, journal = ManualClock(), []

    class Phoenix(Probe):
        async def on_restart(self, error: BaseException) -> None:
            self.journal.append(f"restarted for {error}")

    def fail(actor: Probe) -> None:
        raise ValueError("boom")

    async with started(Phoenix, journal, clock=clock, crash=Reaction.RESTART) as ref:
        await ref.ask(own_everything)
        with pytest.raises(ActorStopped):
            await ref.ask(fail)
        await clock.advance(10.0)

        last = ["on_stop" if entry == "on_close" else entry for entry in LAST]
        assert journal == [*last, "restarted for boom"]
        assert ref._cell.incarnation_number == 2
        assert len(ref._cell.runtime.timers) == 0


# -- a life that is over -----------------------------------------------------------------------


class Stubborn(Socket):
    """Owns a task that does not end when it is cancelled, only when the test says so, with an error."""

    old: list[Stubborn]
    go_on: anyio.Event
    ended: anyio.Event

    async def on_connect(self) -> None:
        Stubborn.old, Stubborn.go_on, Stubborn.ended = [self], anyio.Event(), anyio.Event()
        begun = anyio.Event()
        self.spawn(self.refuse, begun)
        await begun.wait()

    async def refuse(self, begun: anyio.Event) -> None:
        go_on, ended = self.go_on, self.ended
        begun.set()
        with anyio.CancelScope(shield=True):
            await go_on.wait()
        ended.set()
        raise ValueError("late")

    async def on_restart(self, error: BaseException) -> None:
        self.journal.append("restarted")


@asynccontextmanager
async def second_life() -> AsyncIterator[tuple[Client, Stubborn, ManualClock]]:
    """A connection in its second life, and the instance of the first, a task of which still runs."""
    clock = ManualClock()
    async with connected(Stubborn, clock=clock, crash=Reaction.RESTART, teardown=1.0) as client:
        await clock.advance(0.0)
        await client.send("boom")
        await clock.advance(10.0)
        assert client.actor.journal == ["restarted"]
        (old,) = Stubborn.old
        try:
            yield client, old, clock
        finally:
            Stubborn.go_on.set()
            await Stubborn.ended.wait()
            await settled()


async def test_a_task_of_an_earlier_life_that_fails_late_crashes_nobody_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with second_life() as (client, _old, _):
        crashes = len(client.crashes)
        caplog.clear()

        Stubborn.go_on.set()
        await Stubborn.ended.wait()
        await settled()

        assert len(client.crashes) == crashes
        assert client.cell.incarnation_number == 2
        assert client.ref.alive
        (record,) = caplog.records
        assert "refuse" in record.getMessage()
        assert "left behind by an earlier life, failed" in record.getMessage()
        assert "ValueError: late" in caplog.text


async def test_an_instance_whose_life_is_over_reaches_nothing_of_the_next_one() -> None:
    async with second_life() as (client, old, clock):
        for begin in (
            lambda: old.spawn(old.task, "x"),
            lambda: old.after(0, "after"),
            lambda: old.every(1, "every"),
            lambda: old.join("topic"),
            lambda: old.leave("topic"),
        ):
            with pytest.raises((ActorStopped, ActorMisuse), match=r"is over|topics need"):
                begin()
        with pytest.raises(ActorStopped, match="the life of this Stubborn is over"):
            await old.enter(old.resource("x"))
        with pytest.raises(ActorStopped, match="another instance has taken its place"):
            await old.send("from the past")
        client.actor.after(1, "mine", key="k")
        assert old.cancel_timer("k") is False
        await clock.advance(2)

        assert client.actor.journal == ["restarted", "mine"]
        assert client.cell._incarnation is not None
        assert not client.cell._incarnation._tasks
        await client.actor.send("from the present")
        assert await client.receive() == "from the present"


async def test_what_any_other_actor_could_do_an_instance_of_an_earlier_life_can_too() -> None:
    async with second_life() as (client, old, _):
        assert (old.id, old.ref) == (client.actor.id, client.ref)
        assert old.request is client.actor.request
        assert (old.query_params, old.path_params, old.round_trip) == ({}, {}, None)

        old.close(4002, "from the past")

        assert await client.closed() == (4002, "from the past", True)


async def test_a_resource_of_an_earlier_life_that_fails_late_crashes_nobody() -> None:
    clock, go_on, left = ManualClock(), anyio.Event(), anyio.Event()

    @asynccontextmanager
    async def stubborn() -> AsyncIterator[None]:
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await go_on.wait()
            left.set()
            raise ValueError("late")

    async with connected(Socket, clock=clock, crash=Reaction.RESTART, teardown=1.0) as client:
        client.ref.tell(lambda actor: actor.enter(stubborn()))
        await clock.advance(0.0)
        await client.send("boom")
        await clock.advance(10.0)
        assert client.cell.incarnation_number == 2
        crashes = len(client.crashes)

        go_on.set()
        await left.wait()
        await settled()

        assert len(client.crashes) == crashes
        assert client.ref.alive
