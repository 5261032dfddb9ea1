"""``Actor``: hooks plain or async, one message at a time, and nothing before the first hook."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from actors import Actor, ActorMisuse, ActorStopped, ConnectionActor, Down, ExitReason
from actors.cell.cell import Reaction
from actors.testing import ManualClock, connected, settled, started

pytestmark = pytest.mark.every_runtime

DEADLINE = 20.0


class Plain(Actor):
    """Every hook is a plain function."""

    def __init__(self, journal: list[Any]) -> None:
        self.journal = journal

    def on_start(self) -> None:
        self.journal.append("on_start")

    def on_restart(self, error: BaseException) -> None:
        self.journal.append(f"on_restart {error}")

    def on_info(self, message: Any) -> Any:
        if isinstance(message, BaseException):
            raise message
        self.journal.append(message)
        return message

    def on_stop(self) -> None:
        self.journal.append("on_stop")


class Async(Actor):
    """Every hook is an async function, and waits."""

    def __init__(self, journal: list[Any]) -> None:
        self.journal = journal

    async def on_start(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.journal.append("on_start")

    async def on_restart(self, error: BaseException) -> None:
        await anyio.lowlevel.checkpoint()
        self.journal.append(f"on_restart {error}")

    async def on_info(self, message: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        if isinstance(message, BaseException):
            raise message
        self.journal.append(message)
        return message

    async def on_stop(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.journal.append("on_stop")


class Silent(Actor):
    """Overrides nothing."""


@pytest.mark.parametrize("actor", [Plain, Async])
async def test_hooks_may_be_plain_or_async(actor: Callable[..., Actor]) -> None:
    journal: list[Any] = []

    async with started(actor, journal) as ref:
        ref.tell("told")
        assert await ref.ask("asked") == "asked"

    assert journal == ["on_start", "told", "asked", "on_stop"]


@pytest.mark.parametrize("actor", [Plain, Async])
async def test_a_restarted_actor_begins_with_on_restart(actor: Callable[..., Actor]) -> None:
    clock, journal = ManualClock(), []

    async with started(actor, journal, clock=clock, crash=Reaction.RESTART) as ref:
        ref.tell(ValueError("boom"))
        ref.tell("behind it")
        await settled()

    assert journal == ["on_start", "on_stop", "on_restart boom", "behind it", "on_stop"]


async def test_a_resumed_actor_goes_on_as_if_the_message_had_not_come() -> None:
    journal: list[Any] = []

    async with started(Async, journal, crash=Reaction.RESUME) as ref:
        ref.tell(ValueError("boom"))
        assert await ref.ask("behind it") == "behind it"
        assert ref._cell.runtime.dead_letters.counts == {"crashed": 1}

    assert journal == ["on_start", "behind it", "on_stop"]


async def test_an_actor_without_hooks_answers_none() -> None:
    async with started(Silent) as ref:
        assert await ref.ask("anything") is None


async def test_messages_are_handled_one_at_a_time() -> None:
    class Careful(Actor):
        inside = 0

        async def on_info(self, message: int) -> int:
            self.inside += 1
            await anyio.lowlevel.checkpoint()
            assert self.inside == 1
            self.inside -= 1
            return message

    async with started(Careful) as ref, anyio.create_task_group() as task_group:
        for number in range(20):
            task_group.start_soon(ref.ask, number)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("boom"),
        KeyboardInterrupt(),
        SystemExit(1),
        GeneratorExit(),
        asyncio.CancelledError(),
        BaseExceptionGroup("several", [KeyboardInterrupt(), ValueError()]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_hook_raises_ends_its_actor_alone(error: BaseException) -> None:
    journal: list[Any] = []

    async with started(Async, []) as neighbour, started(Async, journal) as watcher:
        async with started(Plain, []) as ref:
            watcher.monitor(ref)
            with anyio.fail_after(DEADLINE), pytest.raises(ActorStopped):
                await ref.ask(error)
            await ref.wait_closed()
        await settled()

        assert await neighbour.ask("x") == "x"
        assert journal[1:] == [Down(ref, ExitReason.CRASH, error)]


async def test_an_actor_that_cannot_be_made_has_crashed() -> None:
    class Impossible(Actor):
        def __init__(self) -> None:
            raise ValueError("no room")

    async with started(Impossible) as ref:
        with anyio.fail_after(DEADLINE), pytest.raises(ActorStopped):
            await ref.ask("x")
        assert ref._cell.exit_reason is ExitReason.CRASH


async def test_stop_lets_the_running_hook_finish_and_leaves_the_rest() -> None:
    class Stopping(Async):
        async def on_info(self, message: Any) -> Any:
            if message == "stop":
                self.stop()
                await anyio.lowlevel.checkpoint()
            return await super().on_info(message)

    journal: list[Any] = []
    async with started(Stopping, journal) as ref:
        for message in ("one", "stop", "never"):
            ref.tell(message)
        with anyio.fail_after(DEADLINE):
            await ref.wait_closed()

        assert journal == ["on_start", "one", "stop", "on_stop"]
        assert ref._cell.runtime.dead_letters.counts == {"undelivered": 1}
        assert ref._cell.exit_reason is ExitReason.NORMAL


async def test_nothing_works_before_the_first_hook() -> None:
    class Hasty(Actor):
        def __init__(self) -> None:
            for name in ("id", "ref"):
                with pytest.raises(ActorMisuse, match="Hasty has not been started"):
                    getattr(self, name)
            with pytest.raises(ActorMisuse, match="not in __init__; start it with serve"):
                self.after(1, "x")

        async def on_info(self, message: object) -> object:
            return self.id, self.ref

    async with started(Hasty) as ref:
        assert await ref.ask("who") == ("Hasty", ref)


async def test_topics_need_a_supervisor() -> None:
    class Member(ConnectionActor):
        def on_connect(self) -> None:
            for call in (self.join, self.leave):
                with pytest.raises(ActorMisuse, match="topics need a supervisor"):
                    call("room")
            with pytest.raises(ActorMisuse, match="topics need a supervisor"):
                self.publish("room", "message")

    async with connected(Member) as client:
        assert await client.close() == (1000, "", True)
        assert client.crashes == []


async def test_a_hook_that_does_not_end_is_cancelled_after_the_teardown_timeout() -> None:
    clock, journal = ManualClock(), []

    class Hanging(Async):
        async def on_info(self, message: Any) -> Any:
            try:
                await anyio.sleep_forever()
            finally:
                self.journal.append("cancelled")

    async with started(Hanging, journal, clock=clock, teardown=2.0) as ref:
        ref.tell("hang")
        await settled()
        ref.stop()
        await clock.advance(1.9)
        assert journal == ["on_start"]
        await clock.advance(0.2)

        assert journal == ["on_start", "cancelled", "on_stop"]
        assert ref._cell.leaks == ()


async def test_a_hook_that_swallows_cancellation_is_left_behind_and_reported() -> None:
    clock, journal, release = ManualClock(), [], anyio.Event()

    class Stubborn(Async):
        async def on_info(self, message: Any) -> Any:
            with anyio.CancelScope(shield=True):
                await release.wait()

        async def on_stop(self) -> None:
            self.journal.append("on_stop")
            with anyio.CancelScope(shield=True):
                await release.wait()

    async with started(Stubborn, journal, clock=clock, teardown=2.0) as ref:
        ref.tell("hang")
        await settled()
        ref.stop()
        await clock.advance(10.0)

        assert not ref.alive
        assert ref._cell.leaks == (
            "a hook of " + Stubborn.__qualname__,
            "on_stop of " + Stubborn.__qualname__,
        )
        assert journal == ["on_start", "on_stop"]
        release.set()


@pytest.mark.parametrize("other", ["asyncio", "trio"])
async def test_send_on_another_thread_says_what_to_do_instead(other: str) -> None:
    async def elsewhere(actor: ConnectionActor) -> None:
        with pytest.raises(
            ActorMisuse, match=r"send\(\) belongs to the event loop's thread.* tell the actor"
        ):
            await actor.send("from elsewhere")
        with pytest.raises(ActorMisuse, match=r"cancel_timer\(\) belongs to the event loop's thread"):
            actor.cancel_timer("k")

    async with connected(ConnectionActor) as client:
        actor = client.actor
        with anyio.fail_after(DEADLINE):
            await anyio.to_thread.run_sync(lambda: anyio.run(elsewhere, actor, backend=other))
        await actor.send("from here")

        assert await client.receive() == "from here"
