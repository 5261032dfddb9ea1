"""Services beside connections: found by name, watched, asked, and never a reason for another's end."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from actors import (
    Actor,
    ActorMisuse,
    ActorRef,
    ActorStopped,
    AskTimeout,
    ConnectionActor,
    Down,
    ExitReason,
    MailboxFull,
    Overflow,
)
from actors.testing import connected, settled, started
from supervisor import Limits, Policy, Restart, Supervisor
from supervisor.events import ActorRestarted
from tests.raw import raw_client
from tests.trees import Part, hang, part, supervised
from tests.witness import serving, until


class Watcher(Part):
    """Monitors whom it is told to, and keeps what comes."""

    async def on_start(self) -> None:
        self.got: list[Any] = []

    async def on_info(self, message: Any) -> Any:
        if isinstance(message, ActorRef):
            self.ref.monitor(message)
        elif message == "got":
            return list(self.got)
        else:
            self.got.append(message)
        return None


class Client(ConnectionActor):
    """Passes what its peer says on to the service of that name, and answers with the answer."""

    async def on_message(self, message: str) -> None:
        name, _, text = message.partition(" ")
        service = self.find(name)
        if service is None:
            await self.send(f"nobody is called {name}")
        elif text == "watch":
            self.ref.monitor(service)
        else:
            try:
                await self.send(await service.ask(ValueError(text) if text == "crash" else text))
            except ActorStopped:
                await self.send("it has stopped")

    async def on_info(self, message: Any) -> None:
        if isinstance(message, Down):
            await self.send(f"{message.ref.id} is down: {message.reason.value}")


async def say(client: Any, text: str) -> str:
    await client.send(text)
    frame = await client.frame()
    return str(frame.text)


@pytest.mark.every_runtime
async def test_a_connection_reaches_a_service_by_its_name() -> None:
    branch = Supervisor([part("inner", [])])
    async with (
        serving(Client, children=[part("outer", []), branch]) as (server, _),
        raw_client(server) as client,
    ):
        assert await say(client, "outer hello") == "hello"
        assert await say(client, "inner hello") == "hello"
        assert await say(client, "other hello") == "nobody is called other"


@pytest.mark.every_runtime
async def test_a_connection_survives_the_crash_of_a_service_hears_of_it_and_finds_the_next_life() -> None:
    async with (
        serving(Client, children=[part("room", [])]) as (server, witness),
        raw_client(server) as client,
    ):
        old = server.registry["room"]
        await client.send("room watch")
        assert await say(client, "room hello") == "hello"
        await client.send("room crash")
        answers = {(await client.frame()).text, (await client.frame()).text}
        await until(lambda: "room" in server.registry)
        assert await say(client, "room hello again") == "hello again"
        assert server.registry["room"] != old

    assert answers == {"it has stopped", "room is down: crash"}
    assert [event.ref for event in witness.of(ActorRestarted)] == [old]


@pytest.mark.every_runtime
async def test_services_are_there_before_the_first_and_after_the_last_connection() -> None:
    class Greeted(ConnectionActor):
        async def on_connect(self) -> None:
            service = self.find("room")
            assert service is not None
            seen.append(await service.ask("hello"))

        async def on_close(self, report: object) -> None:
            service = self.find("room")
            assert service is not None
            seen.append(await service.ask("goodbye"))

    seen: list[str] = []

    async with serving(Greeted, children=[part("room", [])]) as (server, _):
        client = raw_client(server)
        async with client:
            await until(lambda: seen)

    assert seen == ["hello", "goodbye"]


async def test_names_need_a_tree() -> None:
    async def find(actor: Actor) -> object:
        return actor.find("anybody")

    async with started(Part, "a", []) as ref:
        with pytest.raises(ActorStopped):
            await ref.ask(find)
        assert isinstance(ref._cell.error, ActorMisuse)
    async with connected(Client) as client:
        await client.send("anybody hello")
        assert (await client.closed()).code == 1011


# -- monitors ----------------------------------------------------------------------------------


async def watched(tree: Any, name: str) -> ActorRef:
    """Let the watcher monitor a part, and give its ref."""
    ref: ActorRef = tree.registry[name]
    tree.registry["watcher"].tell(ref)
    await tree.registry["watcher"].ask("got")
    return ref


async def got(tree: Any) -> list[Any]:
    messages: list[Any] = await tree.registry["watcher"].ask("got")
    return messages


@pytest.mark.parametrize(
    ("told", "reason"), [("stop", ExitReason.NORMAL), (ValueError("boom"), ExitReason.CRASH)]
)
async def test_a_new_life_is_another_actor_to_monitors(told: Any, reason: ExitReason) -> None:
    children = [part("watcher", [], Watcher), part("a", [], restart=Restart.PERMANENT)]

    async with supervised(children) as (tree, _):
        old = await watched(tree, "a")
        if told == "stop":
            old.stop()
        else:
            old.tell(told)
        await until(lambda: tree.registry.get("a") not in (None, old))
        new = await watched(tree, "a")
        assert [(down.ref, down.reason) for down in await got(tree)] == [(old, reason)]

        await tree.stop_child(new)
        downs = await got(tree)
        assert [down.ref for down in downs] == [old, new], "one Down for each life"
        assert downs[1].reason is ExitReason.SHUTDOWN


async def test_a_down_carries_the_error_of_the_crash() -> None:
    error = ValueError("boom")

    async with supervised([part("watcher", [], Watcher), part("a", [])]) as (tree, _):
        (await watched(tree, "a")).tell(error)
        await until(lambda: "a" in tree.registry)
        await settled()
        (down,) = await got(tree)

        assert down.error is error
        assert down.report is None


async def test_a_monitor_of_the_name_of_a_dead_service_gets_its_down_at_once() -> None:
    async with supervised([part("watcher", [], Watcher), part("a", [])]) as (tree, _):
        ref = tree.registry["a"]
        await tree.stop_child(ref)
        tree.registry["watcher"].tell(ref)
        await settled()

        assert [down.ref for down in await got(tree)] == [ref]


async def test_the_end_of_a_monitor_leaves_nothing_with_the_monitored() -> None:
    async with supervised([part("watcher", [], Watcher), part("a", [])]) as (tree, _):
        ref = await watched(tree, "a")
        monitors = ref._cell.monitors
        assert monitors is not None
        assert len(monitors.by) == 1
        await tree.stop_child(tree.registry["watcher"])

        assert not monitors.by


# -- ask ---------------------------------------------------------------------------------------


async def test_an_ask_fails_at_once_when_the_service_crashes_stops_or_has_no_life() -> None:
    class Busy(Part):
        async def on_info(self, message: Any) -> Any:
            if message == "wait":
                await over.wait()
            return await super().on_info(message)

    over = anyio.Event()
    failed: list[str] = []

    async def ask(ref: ActorRef, message: Any) -> None:
        with pytest.raises(ActorStopped):
            await ref.ask(message, timeout=None)
        failed.append(str(message))

    async with supervised([part("a", [], Busy)]) as (tree, _), anyio.create_task_group() as task_group:
        ref = tree.registry["a"]
        ref.tell("wait")
        await settled()
        task_group.start_soon(ask, ref, ValueError("crashes"))
        await settled()
        task_group.start_soon(ask, ref, "queued behind")
        await settled()
        assert not failed
        over.set()
        await until(lambda: len(failed) == 2)
        await ask(ref, "no life")

    assert sorted(failed) == ["crashes", "no life", "queued behind"]


async def test_an_ask_that_waits_behind_a_hook_fails_as_soon_as_the_service_is_stopped() -> None:
    async with supervised([part("a", [])]) as (tree, _), anyio.create_task_group() as task_group:
        ref = tree.registry["a"]
        ref.tell(hang)
        await settled()
        task_group.start_soon(tree.stop_child, ref)
        with pytest.raises(ActorStopped):
            await ref.ask("queued")
        assert ref.alive
        ref._cell.kill()


async def test_a_service_that_asks_itself_is_told_so() -> None:
    async def ask_yourself(actor: Actor) -> Any:
        return await actor.ref.ask("anything")

    async with supervised([part("a", [])]) as (tree, witness):
        with pytest.raises(ActorStopped):
            await tree.registry["a"].ask(ask_yourself)

    (error,) = witness.crashes
    assert isinstance(error, ActorMisuse)
    assert "asks itself" in str(error)


async def test_an_ask_that_nobody_waits_for_any_more_is_skipped() -> None:
    class Slow(Part):
        async def on_info(self, message: Any) -> Any:
            self.journal.append(message)
            if message == "first":
                await over.wait()

    over = anyio.Event()
    journal: list[str] = []

    async with supervised([part("a", journal, Slow)]) as (tree, _):
        ref = tree.registry["a"]
        journal.clear()
        ref.tell("first")
        with pytest.raises(AskTimeout):
            await ref.ask("expired", timeout=0.001)
        ref.tell("last")
        over.set()
        await until(lambda: "last" in journal)

        assert journal == ["first", "last"]
        assert ref._cell.runtime.dead_letters.counts == {"expired": 1}


# -- mailboxes and policies --------------------------------------------------------------------


async def test_a_service_has_the_limits_of_its_spec() -> None:
    policy = Policy(limits=Limits(mailbox_messages=2))

    async with supervised([part("a", [], policy=policy), part("b", [])]) as (tree, _):
        for _ in range(2):
            tree.registry["a"].tell("fits")
        with pytest.raises(MailboxFull):
            tree.registry["a"].tell("too many")
        for _ in range(3):
            tree.registry["b"].tell("fits")


async def test_a_service_whose_overflow_rule_is_close_crashes_and_is_started_again() -> None:
    policy = Policy(limits=Limits(mailbox_messages=1), overflow=Overflow.CLOSE)

    async with supervised([part("watcher", [], Watcher), part("a", [], policy=policy)]) as (tree, _):
        old = await watched(tree, "a")
        for _ in range(2):
            old.tell("flood")
        await until(lambda: tree.registry.get("a") not in (None, old))

        assert [down.reason for down in await got(tree)] == [ExitReason.OVERLOAD]


async def test_a_branch_takes_the_policy_from_above_where_it_gives_none() -> None:
    outer = Policy(limits=Limits(mailbox_messages=1), overflow=Overflow.DROP_NEW)
    inner = Policy(overflow=Overflow.RAISE)

    async with supervised([Supervisor([part("a", [])], policy=inner), part("b", [])], policy=outer) as (
        tree,
        _,
    ):
        for name in "ab":
            tree.registry[name].tell("fits")
        with pytest.raises(MailboxFull):
            tree.registry["a"].tell("too many")
        tree.registry["b"].tell("dropped")


# -- what belongs to a life --------------------------------------------------------------------


async def test_what_a_life_owned_is_gone_before_the_next_one_begins() -> None:
    class Owner(Part):
        async def on_start(self) -> None:
            self.journal.append("starts")
            await self.enter(Resource())
            self.spawn(self.task)
            self.every(3600, "never")
            self.join("topic")

        async def task(self) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                self.journal.append("task ended")

        async def on_stop(self) -> None:
            self.journal.append("on_stop")

    class Resource:
        async def __aenter__(self) -> None:
            journal.append("entered")

        async def __aexit__(self, *_: object) -> None:
            journal.append("left")

    journal: list[str] = []

    async with supervised([part("a", journal, Owner)]) as (tree, _):
        ref = tree.registry["a"]
        await settled()
        ref.tell("queued is lost")
        ref.tell(ValueError("boom"))
        await until(lambda: journal.count("entered") == 2)
        await settled()
        assert len(tree._environment.topics) == 1
        assert list(tree._environment.topics._members["topic"].services) == [tree.registry["a"]._cell]

    life = ["starts", "entered", "task ended", "on_stop", "left"]
    assert journal == life * 2
    assert len(tree._environment.topics) == 0


async def test_the_queue_of_a_service_ends_with_its_life() -> None:
    async with supervised([part("a", [])]) as (tree, _):
        ref = tree.registry["a"]
        ref.tell(ValueError("boom"))
        ref.tell("queued")
        await until(lambda: tree.registry.get("a") not in (None, ref))

        letters = ref._cell.runtime.dead_letters
        assert letters.counts == {"crashed": 1, "undelivered": 1}
