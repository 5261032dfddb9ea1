"""Refs: tell, ask, close and monitor, from the same event loop, another one, and any thread."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import pytest

from actors import (
    Actor,
    ActorMisuse,
    ActorRef,
    ActorStopped,
    AskTimeout,
    CloseReport,
    ConnectionActor,
    Down,
    ExitReason,
    MailboxFull,
    Restarted,
)
from actors.cell.cell import Reaction
from actors.mailbox import Bounds, Overflow
from actors.runtime import Runtime
from actors.testing import ManualClock, connected, settled, started
from tests.raw import DEADLINE
from tests.witness import until

pytestmark = pytest.mark.every_runtime

T = TypeVar("T")


class Keeper(Actor):
    """Keeps what it gets, in order; runs what can be called."""

    def __init__(self, seen: list[Any] | None = None) -> None:
        self.seen: list[Any] = [] if seen is None else seen

    async def on_info(self, message: Any) -> Any:
        if callable(message):
            answer = message(self)
            return await answer if hasattr(answer, "__await__") else answer
        self.seen.append(message)
        return f"answer to {message}"


class Socket(ConnectionActor, Keeper):
    """The same with a WebSocket."""


class Busy:
    """An actor whose hook runs until ``finish``."""

    def __init__(self, ref: ActorRef, seen: list[Any]) -> None:
        self.ref, self.seen = ref, seen
        self.finish = anyio.Event()

    @property
    def dead_letters(self) -> list[tuple[Any, str]]:
        runtime: Runtime = self.ref._cell.runtime
        return [(letter.message, letter.reason) for letter in runtime.dead_letters.last]

    async def finished(self) -> None:
        self.finish.set()
        await settled()


@asynccontextmanager
async def busy(*, crash: Reaction = Reaction.STOP, **limits: Any) -> AsyncIterator[Busy]:
    seen: list[Any] = []
    async with started(Keeper, seen, crash=crash, **limits) as ref:
        one = Busy(ref, seen)
        ref.tell(lambda actor: one.finish.wait())
        await settled()
        yield one
        one.finish.set()


async def in_thread(function: Callable[..., T], *args: Any, **options: Any) -> T:
    """Run ``function`` on another thread and wait for it."""
    with anyio.fail_after(DEADLINE):
        return await anyio.to_thread.run_sync(partial(function, *args, **options))


# -- tell --------------------------------------------------------------------------------------


async def test_told_messages_arrive_in_order_from_here_and_from_a_thread() -> None:
    seen: list[Any] = []

    async with started(Keeper, seen) as ref:
        for number in range(100):
            ref.tell(number)
        await in_thread(lambda: [ref.tell(number) for number in range(100, 200)])
        assert await ref.ask("last") == "answer to last"

    assert seen == [*range(200), "last"]


async def test_a_message_for_an_actor_that_has_ended_is_a_dead_letter() -> None:
    async with started(Keeper) as ref:
        pass

    ref.tell("late")
    await in_thread(ref.tell, "later")

    letters = ref._cell.runtime.dead_letters
    await settled()
    assert [letter.message for letter in letters.last] == ["late", "later"]
    assert letters.counts == {"stopped": 2}
    assert not ref.alive


@pytest.mark.parametrize("other", ["asyncio", "trio"])
async def test_an_actor_of_an_event_loop_that_has_ended_is_gone(other: str) -> None:
    async def main() -> ActorRef:
        async with started(Keeper) as ref:
            return ref

    ref = await in_thread(anyio.run, main, backend=other)

    ref.tell("late")
    ref.stop()
    with pytest.raises(ActorStopped, match="has ended with its event loop"):
        await ref.ask("late")
    assert await ref.wait_closed() is None
    assert ref._cell.runtime.dead_letters.counts == {"stopped": 1}


# -- ask ---------------------------------------------------------------------------------------


async def test_an_ask_gives_what_the_hook_returns() -> None:
    async with started(Keeper) as ref:
        assert await ref.ask("x") == "answer to x"
        assert await ref.ask(lambda actor: None) is None


@pytest.mark.parametrize("other", ["asyncio", "trio"])
async def test_an_ask_from_another_event_loop_is_answered(other: str) -> None:
    async def main() -> list[str]:
        return [await ref.ask(number) for number in range(50)]

    async with started(Keeper) as ref:
        answers = await in_thread(anyio.run, main, backend=other)

    assert answers == [f"answer to {number}" for number in range(50)]


async def test_an_ask_that_takes_too_long_times_out_and_its_late_answer_is_dropped() -> None:
    async with busy() as actor:
        slow = anyio.Event()
        with pytest.raises(AskTimeout, match=r"no answer within 0\.01 s") as raised:
            await actor.ref.ask("expired", timeout=0.01)
        assert isinstance(raised.value, TimeoutError)
        await actor.finished()
        assert actor.seen == [], "nobody waits for it any more"

        with pytest.raises(AskTimeout):
            await actor.ref.ask(lambda _: slow.wait(), timeout=0.01)
        slow.set()
        await settled()
        assert await actor.ref.ask("next") == "answer to next"

        assert [reason for _, reason in actor.dead_letters] == ["expired", "late reply"]


async def test_an_ask_that_is_cancelled_is_skipped() -> None:
    async with busy() as actor:
        with anyio.move_on_after(0.01) as scope:
            await actor.ref.ask("given up", timeout=None)
        assert scope.cancelled_caught
        await actor.finished()

        assert actor.seen == []


async def test_an_ask_fails_at_once_when_the_actor_has_ended_is_ending_or_crashes() -> None:
    errors: list[str] = []

    async def ask(ref: ActorRef, message: Any) -> None:
        with anyio.fail_after(DEADLINE), pytest.raises(ActorStopped) as raised:
            await ref.ask(message, timeout=None)
        errors.append(str(raised.value).partition("message: ")[2])

    def crash(actor: Keeper) -> None:
        raise ValueError("boom")

    async with busy() as actor:
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(ask, actor.ref, "queued")
            await settled()
            actor.ref.stop()
            await settled()
            assert errors == ["undelivered"], "not only after the running hook"
            await ask(actor.ref, "while it stops")
            actor.finish.set()
        await ask(actor.ref, "after the end")
    assert errors == ["undelivered", "stopped", "stopped"]

    errors.clear()
    async with busy() as actor, anyio.create_task_group() as task_group:
        task_group.start_soon(ask, actor.ref, crash)
        await settled()
        task_group.start_soon(ask, actor.ref, "behind the crash")
        await settled()
        actor.finish.set()
    assert sorted(errors) == ["crashed", "undelivered"]


async def test_an_ask_to_a_connection_fails_as_soon_as_its_close_has_begun() -> None:
    async with connected(Socket) as client:
        client.answers = False
        client.ref.close()

        with anyio.fail_after(DEADLINE), pytest.raises(ActorStopped):
            await client.ref.ask("late", timeout=None)


async def test_asking_oneself_is_an_error_and_not_a_deadlock() -> None:
    async def ask_oneself(actor: Keeper) -> str:
        with pytest.raises(ActorMisuse, match="an actor that asks itself waits for ever"):
            await actor.ref.ask("x")
        with pytest.raises(ActorMisuse, match="an actor cannot wait for its own end"):
            await actor.ref.wait_closed()
        return "goes on"

    async with started(Keeper) as ref:
        assert await ref.ask(ask_oneself) == "goes on"


# -- a full mailbox ----------------------------------------------------------------------------

FULL = Bounds(told_messages=2, told_bytes=10)


async def test_a_full_mailbox_raises() -> None:
    async with busy(bounds=FULL) as actor:
        actor.ref.tell("1")
        actor.ref.tell("2")

        with pytest.raises(MailboxFull, match="holds 2 told messages"):
            actor.ref.tell("3")
        with pytest.raises(MailboxFull):
            await actor.ref.ask("4")
        await in_thread(actor.ref.tell, "5")
        await settled()
        assert actor.dead_letters == [("5", "overflow")]
        await actor.finished()

        assert actor.seen == ["1", "2"]


async def test_an_ask_from_another_event_loop_learns_that_the_mailbox_is_full() -> None:
    async def main() -> None:
        with pytest.raises(MailboxFull):
            await actor.ref.ask("3")

    async with busy(bounds=FULL) as actor:
        actor.ref.tell("1")
        actor.ref.tell("2")
        await in_thread(anyio.run, main)


async def test_bytes_fill_a_mailbox_too() -> None:
    async with busy(bounds=FULL) as actor:
        actor.ref.tell("x" * 10)

        with pytest.raises(MailboxFull):
            actor.ref.tell("y")
        actor.ref.tell(None)


async def test_drop_new_keeps_what_was_there_first() -> None:
    async with busy(bounds=FULL, overflow=Overflow.DROP_NEW) as actor:
        for number in "1234":
            actor.ref.tell(number)
        with pytest.raises(MailboxFull):
            await actor.ref.ask("5")
        await actor.finished()

        assert actor.seen == ["1", "2"]
        assert actor.dead_letters == [("3", "overflow"), ("4", "overflow"), ("5", "overflow")]


async def test_drop_old_keeps_what_came_last() -> None:
    async with busy(bounds=FULL, overflow=Overflow.DROP_OLD) as actor:
        for number in "1234":
            actor.ref.tell(number)
        await actor.finished()

        assert actor.seen == ["3", "4"]


@pytest.mark.parametrize("large", ["x" * 11, [[], []], {"a": "x"}])
async def test_drop_old_drops_nothing_for_a_message_that_fits_not_even_alone(large: object) -> None:
    async with busy(bounds=FULL, overflow=Overflow.DROP_OLD) as actor:
        actor.ref.tell("1")
        actor.ref.tell("2")
        actor.ref.tell(large)
        await actor.finished()

        assert actor.seen == ["1", "2"]
        assert actor.dead_letters == [(large, "overflow")]


async def test_a_message_larger_than_the_mailbox_is_refused_as_such() -> None:
    async with busy(bounds=FULL) as actor:
        with pytest.raises(MailboxFull, match="larger than what the mailbox may hold, 10 bytes"):
            actor.ref.tell(["x" * 3])
        with pytest.raises(MailboxFull, match="larger than what the mailbox may hold"):
            await actor.ref.ask({"key": 1})
        await actor.finished()


async def test_what_a_codec_made_of_a_message_counts_towards_the_bound_in_bytes() -> None:
    async with busy(bounds=Bounds(told_messages=100, told_bytes=100), overflow=Overflow.DROP_NEW) as actor:
        for _ in range(3):
            actor.ref.tell([[] for _ in range(6)])
        await actor.finished()

        assert actor.seen == [[[]] * 6] * 2
        assert len(actor.dead_letters) == 1


async def test_close_ends_the_connection_with_1013() -> None:
    go_on = anyio.Event()
    async with connected(Socket, bounds=FULL, overflow=Overflow.CLOSE) as client:
        client.ref.tell(lambda actor: go_on.wait())
        await settled()
        for number in "123":
            client.ref.tell(number)
        go_on.set()

        assert await client.closed() == (1013, "", True)
        assert client.report.exit_reason is ExitReason.OVERLOAD


# -- close and stop ----------------------------------------------------------------------------


async def test_a_close_from_a_thread_can_be_awaited_on_another_event_loop() -> None:
    async def main() -> CloseReport:
        return await client.ref.close(4001, "from elsewhere")

    async with connected(Socket) as client:
        report = await in_thread(anyio.run, main)

        assert (report.code, report.reason, report.clean) == (4001, "from elsewhere", True)
        assert await client.closed() == (4001, "from elsewhere", True)
        assert await client.ref.wait_closed() == report


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"code": 1005}, ValueError, "code: 1005 cannot be sent"),
        ({"code": True}, TypeError, "code: "),
        ({"code": "1000"}, TypeError, "code: "),
        ({"reason": "é" * 62}, ValueError, "reason: 124 bytes"),
        ({"reason": "\ud800"}, ValueError, "reason: not encodable"),
        ({"grace": -1}, ValueError, "grace: "),
        ({"notice": 5}, TypeError, "codec 'raw' sends str or bytes, not int"),
    ],
)
async def test_a_close_that_cannot_be_done_leaves_the_connection_as_it_was(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    async with connected(Socket) as client:
        with pytest.raises(error, match=message):
            client.ref.close(**options)

        assert await client.ref.ask("x") == "answer to x"
        await client.ref.ask(lambda actor: actor.send("still open"))
        assert await client.receive() == "still open"


async def test_a_service_has_nothing_to_close_and_a_connection_is_stopped_with_1000() -> None:
    async with started(Keeper) as ref:
        with pytest.raises(ActorMisuse, match=r"has no WebSocket to close; stop\(\) ends a service"):
            ref.close()

    async with connected(Socket) as client:
        await in_thread(client.ref.stop)

        assert await client.closed() == (1000, "", True)


@pytest.mark.parametrize("actor", [Keeper, Socket])
async def test_an_actor_can_stop_itself_from_another_thread(actor: type[Actor]) -> None:
    async def stop(actor: Any) -> None:
        await in_thread(actor.stop)

    async with connected(Socket) if actor is Socket else started(Keeper) as one:
        ref = one if actor is Keeper else one.ref
        ref.tell(stop)

        with anyio.fail_after(DEADLINE):
            await ref.wait_closed()


async def test_a_ref_says_whose_it_is_and_is_its_own_key() -> None:
    async with started(Keeper) as ref, started(Keeper) as other:
        await settled()
        assert repr(ref) == "<ActorRef Keeper Keeper>"
        assert {ref: 1}[ref] == 1
        assert ref != other


# -- monitors ----------------------------------------------------------------------------------


async def test_a_monitor_gets_exactly_one_down() -> None:
    seen: list[Any] = []

    async with started(Keeper, seen) as watcher, connected(Socket) as client:
        watcher.monitor(client.ref)
        watcher.monitor(client.ref)
        await client.close(4002, "bye")
        await settled()

        assert seen == [Down(client.ref, ExitReason.NORMAL, None, client.report)]


async def test_monitoring_a_dead_actor_tells_at_once() -> None:
    seen: list[Any] = []

    async with started(Keeper, seen) as watcher:
        async with started(Keeper) as dead:
            pass
        watcher.monitor(dead)
        await settled()

    assert seen == [Down(dead, ExitReason.SHUTDOWN)]


@pytest.mark.parametrize("other", ["asyncio", "trio"])
async def test_actors_of_two_event_loops_monitor_each_other(other: str) -> None:
    seen: list[Any] = []
    theirs: list[ActorRef] = []
    monitored, over = anyio.Event(), anyio.Event()

    async def main() -> list[Any]:
        their_seen: list[Any] = []
        async with started(Keeper, their_seen) as ref:
            theirs.append(ref)
            ref.monitor(target)
            ref._cell.runtime.call(watcher.monitor, ref)
            watcher.tell(lambda actor: monitored.set())
            await until(lambda: bool(their_seen))
        return their_seen

    async with started(Keeper, seen) as watcher:
        async with anyio.create_task_group() as task_group:

            async def their_loop() -> None:
                nonlocal their_seen
                their_seen = await in_thread(anyio.run, main, backend=other)
                over.set()

            their_seen: list[Any] = []
            async with started(Keeper) as target:
                task_group.start_soon(their_loop)
                with anyio.fail_after(DEADLINE):
                    await monitored.wait()
            await over.wait()
        watcher.monitor(theirs[0])  # its event loop has ended
        await settled()

    assert their_seen == [Down(target, ExitReason.SHUTDOWN)]
    assert seen == [Down(theirs[0], ExitReason.SHUTDOWN)] * 2


async def test_demonitor_takes_back_a_down_that_is_not_delivered_yet() -> None:
    async with busy() as watcher:
        async with started(Keeper) as early, started(Keeper) as late:
            watcher.ref.monitor(early)
            watcher.ref.monitor(late)
            watcher.ref.demonitor(early)
        watcher.ref.demonitor(late)  # its Down waits in the control lane
        await watcher.finished()

        assert watcher.seen == []


async def test_a_down_overtakes_queued_messages() -> None:
    async with busy() as watcher:
        watcher.ref.tell("queued before")
        async with started(Keeper) as target:
            watcher.ref.monitor(target)
        await watcher.finished()

        assert watcher.seen == [Down(target, ExitReason.SHUTDOWN), "queued before"]


async def test_a_down_carries_the_crash() -> None:
    seen: list[Any] = []
    error = ValueError("boom")

    def crash(actor: Keeper) -> None:
        raise error

    async with started(Keeper, seen) as watcher, started(Keeper) as target:
        watcher.monitor(target)
        target.tell(crash)
        await settled()

    assert seen == [Down(target, ExitReason.CRASH, error)]


async def test_monitors_are_told_of_a_restart_and_stay() -> None:
    clock, seen, error = ManualClock(), [], ValueError("boom")

    def crash(actor: Keeper) -> None:
        raise error

    async with started(Keeper, seen, clock=clock) as watcher:
        async with started(Keeper, clock=clock, crash=Reaction.RESTART) as target:
            watcher.monitor(target)
            target.tell(crash)
            await settled()
        await settled()

    assert seen == [Restarted(target, 2, error), Down(target, ExitReason.SHUTDOWN)]


@pytest.mark.parametrize("timeout", ["5", True, -1, math.nan, math.inf, [], 10**400])
async def test_an_ask_with_a_timeout_that_is_none_raises_before_anything_is_sent(timeout: Any) -> None:
    seen: list[Any] = []

    async with started(Keeper, seen) as ref:
        with pytest.raises((TypeError, ValueError), match="timeout: seconds, zero or more, or None"):
            await ref.ask("never", timeout=timeout)
        assert await ref.ask("then", timeout=None) == "answer to then"

    assert seen == ["then"]


@pytest.mark.parametrize("delay", ["5", True, None, math.nan, math.inf, -1])
async def test_a_timer_with_a_delay_that_is_none_raises_and_leaves_the_one_with_its_key(delay: Any) -> None:
    clock = ManualClock()

    async with connected(Socket, clock=clock) as client:
        actor = client.actor
        actor.after(1, lambda actor: actor.close(4000), key="k")
        with pytest.raises((TypeError, ValueError), match="delay: seconds, zero or more"):
            actor.after(delay, "never", key="k")
        with pytest.raises((TypeError, ValueError), match="interval: seconds, more than zero"):
            actor.every(delay, "never", key="k")
        with pytest.raises(ValueError, match="interval: seconds, more than zero, not 0"):
            actor.every(0, "never", key="k")
        await clock.advance(2)

        assert (await client.closed()).code == 4000
