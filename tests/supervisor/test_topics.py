"""Topics: joined, left and published to from anywhere; encoded once; a slow member holds up nobody."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from actors import Actor, ActorMisuse, ConnectionActor, ExitReason
from actors.codecs import Codec, JsonCodec, RawCodec
from actors.dead_letters import DeadLetter
from supervisor import Backoff, ChildSpec, Limits, OnCrash, Policy, RestartLimit, Server, Supervisor, Timeouts
from tests.memory import serving_in_memory
from tests.raw import CLOSE, RawClient, raw_client
from tests.witness import serving, until

QUIET = Policy(heartbeat=None)


class Member(ConnectionActor):
    """Does what the message says: ``join``, ``leave``, ``publish`` or ``boom``; says when it is done."""

    policy = QUIET

    async def on_message(self, message: Any) -> None:
        word, _, rest = str(message).partition(" ")
        if word == "join":
            self.join(rest)
        elif word == "leave":
            self.leave(rest)
        elif word == "publish":
            self.publish("topic", rest)
        elif word == "boom":
            raise ValueError("boom")
        await self.send(f"done {word}")


class Service(Actor):
    """Joins at its start, keeps what it gets, publishes what it is asked to."""

    def __init__(self, got: list[Any]) -> None:
        self.got = got

    async def on_start(self) -> None:
        self.join("topic")

    async def on_info(self, message: Any) -> None:
        if isinstance(message, tuple):
            self.publish("topic", *message)
        else:
            self.got.append(message)


async def tell(client: RawClient, message: str) -> None:
    """Send a message and wait until it is done."""
    await client.send(message)
    assert (await client.frame()).text == f"done {message.partition(' ')[0]}"


def topics_of(server: Server) -> Any:
    """The table of topics; it has a length."""
    return server.site.environment.topics


# -- from anywhere -----------------------------------------------------------------------------


async def publish_here(server: Server, message: str) -> None:
    server.publish("topic", message)


async def publish_from_a_thread(server: Server, message: str) -> None:
    await anyio.to_thread.run_sync(server.publish, "topic", message)


async def publish_from_a_thread_as_a_connection(server: Server, message: str) -> None:
    connection = next(iter(server.connections))
    await anyio.to_thread.run_sync(connection._cell.actor.publish, "topic", message)  # type: ignore[union-attr]  # it lives


async def publish_from_a_service(server: Server, message: str) -> None:
    await server.registry["service"].ask((message,))


async def publish_from_a_connection(server: Server, message: str) -> None:
    async with raw_client(server) as client:
        await tell(client, f"publish {message}")


@pytest.mark.parametrize(
    "publish",
    [
        publish_here,
        publish_from_a_thread,
        publish_from_a_thread_as_a_connection,
        publish_from_a_service,
        publish_from_a_connection,
    ],
)
async def test_what_is_published_reaches_every_member_and_nobody_else(publish: Any) -> None:
    got: list[Any] = []
    children = [ChildSpec(Service, name="service", args=(got,))]

    async with (
        serving(Member, children=children) as (server, _),
        raw_client(server) as first,
        raw_client(server) as second,
        raw_client(server) as outsider,
    ):
        for client in (first, second):
            await tell(client, "join topic")
        await tell(outsider, "join another")

        for number in range(3):
            await publish(server, f"news {number}")

        for client in (first, second):
            assert [(await client.frame()).text for _ in range(3)] == ["news 0", "news 1", "news 2"]
        await until(lambda: got == ["news 0", "news 1", "news 2"])
        await tell(outsider, "leave another")


async def test_a_publisher_that_joined_gets_it_too() -> None:
    async with serving(Member) as (server, _), raw_client(server) as client:
        await tell(client, "join topic")
        await client.send("publish news")

        assert [(await client.frame()).text for _ in range(2)] == ["news", "done publish"]


async def test_joining_twice_is_once_and_leaving_twice_too() -> None:
    async with serving(Member) as (server, _), raw_client(server) as client:
        await tell(client, "join topic")
        await tell(client, "join topic")
        server.publish("topic", "news")
        assert (await client.frame()).text == "news"

        await tell(client, "leave topic")
        assert len(topics_of(server)) == 0
        await tell(client, "leave topic")
        server.publish("topic", "news")
        await tell(client, "join topic")


async def test_a_thread_can_join_and_leave_for_an_actor() -> None:
    async with serving(Member) as (server, _), raw_client(server) as client:
        await tell(client, "hello")  # it has begun
        (ref,) = server.connections
        actor: Any = ref._cell.actor

        await anyio.to_thread.run_sync(actor.join, "topic")
        await until(lambda: len(topics_of(server)) == 1)
        server.publish("topic", "news")
        assert (await client.frame()).text == "news"

        await anyio.to_thread.run_sync(actor.leave, "topic")
        await until(lambda: len(topics_of(server)) == 0)


async def test_topics_work_without_a_websocket() -> None:
    got: list[Any] = []

    async with Supervisor([ChildSpec(Service, name="service", args=(got,))]) as tree:
        tree.publish("topic", "news")
        tree.publish("nobody's", "news")
        await until(lambda: got == ["news"])


# -- encoded once ------------------------------------------------------------------------------


class Counting:
    """A codec that counts what it encodes."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.name = codec.name
        self.encoded = 0

    def encode(self, message: object) -> str | bytes:
        self.encoded += 1
        return self.codec.encode(message)

    def decode(self, data: str | bytes) -> object:
        return self.codec.decode(data)


class Joined(ConnectionActor):
    policy = QUIET

    async def on_connect(self) -> None:
        self.join("topic")


class InJson(Joined):
    codec = Counting(JsonCodec())


class InText(Joined):
    codec = Counting(RawCodec())


async def test_a_message_is_encoded_once_for_each_codec_however_many_members_there_are() -> None:
    InJson.codec.encoded = InText.codec.encoded = 0

    async with (
        serving({"/json": InJson, "/text": InText}) as (server, witness),
        anyio.create_task_group() as task_group,
    ):
        heard: list[str] = []

        async def listen(path: str) -> None:
            async with raw_client(server, path) as client:
                heard.append((await client.frame()).text)

        for path in ["/json"] * 5 + ["/text"] * 7:
            task_group.start_soon(listen, path)
        await witness.opened(12)
        await until(lambda: all(ref._cell.hook.since is None for ref in server.connections))
        await until(lambda: len(topics_of(server)._members.get("topic", ())) == 12)
        server.publish("topic", "news")
        await until(lambda: len(heard) == 12)

        assert sorted(heard) == ['"news"'] * 5 + ["news"] * 7
        assert (InJson.codec.encoded, InText.codec.encoded) == (1, 1)


async def test_a_message_that_one_codec_cannot_encode_reaches_nobody() -> None:
    async with (
        serving({"/json": InJson, "/text": InText}) as (server, _),
        raw_client(server, "/json") as first,
        raw_client(server, "/text") as second,
    ):
        await until(lambda: len(topics_of(server)._members.get("topic", ())) == 2)

        with pytest.raises(TypeError, match="codec 'raw' sends str or bytes"):
            server.publish("topic", {"for": "json only"})
        server.publish("topic", "for both")

        assert (await first.frame()).text == '"for both"'
        assert (await second.frame()).text == "for both"


async def test_a_message_that_cannot_be_encoded_is_logged_when_it_comes_from_a_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(InJson) as (server, _), raw_client(server) as client:
        await until(lambda: len(topics_of(server)) == 1)

        await anyio.to_thread.run_sync(server.publish, "topic", object())
        await until(lambda: caplog.records)
        await anyio.to_thread.run_sync(server.publish, "topic", "news")

        assert (await client.frame()).text == '"news"'
        (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert record.name == "actors"
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], TypeError)


# -- slow members ------------------------------------------------------------------------------

CHUNK = "x" * 16 * 1024


@pytest.mark.every_runtime
async def test_a_member_that_does_not_read_is_closed_with_1013_and_the_others_get_everything() -> None:
    policy = Policy(heartbeat=None, timeouts=Timeouts(close=0.2), limits=Limits(send_limit=256 * 1024))

    class Listener(Joined):
        pass

    Listener.policy = policy
    async with (
        serving(Listener) as (server, witness),
        raw_client(server, receive_buffer=4096) as slow,
        raw_client(server) as first,
        raw_client(server) as second,
    ):
        await until(lambda: len(topics_of(server)._members.get("topic", ())) == 3)
        published = 0
        while not witness.closed:
            server.publish("topic", f"{published} {CHUNK}")
            for client in (first, second):
                assert (await client.frame()).text == f"{published} {CHUNK}"
            published += 1

        (closed,) = witness.closed
        assert closed.report.exit_reason is ExitReason.OVERLOAD
        assert closed.report.sent == (1013, "reads too slowly")
        assert 256 * 1024 // len(CHUNK) - 1 <= closed.report.messages_out < published
        await slow.rest_of_bytes()  # what was in the kernel's buffers, and then the end
        assert len(server.connections) == 2


async def test_a_member_that_takes_nothing_is_closed_a_second_after_its_send_limit_is_passed() -> None:
    limit = 10 * (len(CHUNK) + 4)  # a frame of this size has a header of four bytes

    class Listener(Joined):
        policy = Policy(heartbeat=None, limits=Limits(send_limit=limit, send_stall=None))

    async with serving_in_memory(Listener) as memory:
        client = await memory.connect()
        await memory.clock.advance(0)
        client.stall()

        for _ in range(12):
            memory.server.publish("topic", CHUNK)
        await memory.clock.advance(0.9)
        assert not client.cell.closing
        await memory.clock.advance(0.2)
        assert client.cell.closing
        memory.server.publish("topic", "and after it")

        client.unstall()
        assert await client.closed() == (1013, "reads too slowly", True)
        messages = [await client.receive() for _ in range(12)]
        assert messages == [CHUNK] * 12
        with pytest.raises(anyio.EndOfStream):
            await client.receive()


async def test_a_service_whose_mailbox_is_full_makes_dead_letters_and_holds_up_nobody() -> None:
    gate = anyio.Event()

    class Busy(Service):
        async def on_info(self, message: Any) -> None:
            await gate.wait()
            await super().on_info(message)

    got: list[Any] = []
    policy = Policy(limits=Limits(mailbox_messages=2))
    children = [ChildSpec(Busy, name="busy", args=(got,), policy=policy)]

    async with serving(Joined, children=children) as (server, _), raw_client(server) as client:
        await until(lambda: len(topics_of(server)._members["topic"]) == 2)
        server.publish("topic", "0")
        await until(lambda: server.registry["busy"]._cell.hook.since is not None)
        for number in range(1, 5):
            server.publish("topic", f"{number}")

        assert [(await client.frame()).text for _ in range(5)] == ["0", "1", "2", "3", "4"]
        assert list(server.site.runtime.dead_letters.last) == [
            DeadLetter("3", "busy", "overflow"),
            DeadLetter("4", "busy", "overflow"),
        ]
        gate.set()
        await until(lambda: got == ["0", "1", "2"])


# -- membership --------------------------------------------------------------------------------


async def end_by_the_peer(client: RawClient, server: Server) -> None:
    await client.send_close()


async def end_by_reset(client: RawClient, server: Server) -> None:
    client.reset()


async def end_of_stream(client: RawClient, server: Server) -> None:
    client.finish()


async def end_by_close(client: RawClient, server: Server) -> None:
    next(iter(server.connections)).close(4000)
    await client.answer_close()


async def end_by_crash(client: RawClient, server: Server) -> None:
    await client.send("boom")
    await client.answer_close()


async def end_by_drain(client: RawClient, server: Server) -> None:
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(partial(server.drain, within=10, spread=0))
        await client.answer_close()


@pytest.mark.parametrize(
    "end", [end_by_the_peer, end_by_reset, end_of_stream, end_by_close, end_by_crash, end_by_drain]
)
async def test_membership_leaves_with_the_connection_whatever_ends_it(end: Any) -> None:
    async with serving(Member) as (server, witness), raw_client(server) as client:
        await tell(client, "join topic")
        await tell(client, "join another")
        assert len(topics_of(server)) == 2

        await end(client, server)
        await witness.one_closed()

        assert len(topics_of(server)) == 0
        server.publish("topic", "to nobody")


@pytest.mark.parametrize("policy", [OnCrash.RESUME, OnCrash.RESTART], ids=["resume", "restart"])
async def test_membership_lives_through_a_crash_that_the_connection_survives(policy: OnCrash) -> None:
    class Survivor(Member):
        policy: Any = None

    Survivor.policy = Policy(heartbeat=None, crash=policy)
    async with serving(Survivor) as (server, witness), raw_client(server) as client:
        await tell(client, "join topic")
        await client.send("boom")
        await until(lambda: witness.crashes)
        server.publish("topic", "news")

        assert (await client.frame()).text == "news"
        await tell(client, "leave topic")


async def test_a_restarted_service_joins_anew_and_its_old_membership_is_gone() -> None:
    class Brittle(Service):
        async def on_info(self, message: Any) -> None:
            if message == "boom":
                raise ValueError("boom")
            await super().on_info(message)

    got: list[Any] = []
    async with Supervisor([ChildSpec(Brittle, name="service", args=(got,))]) as tree:
        old = tree.registry["service"]
        tree.publish("topic", "boom")
        await until(lambda: tree.registry.get("service", old) != old)
        await tree.registry["service"].ask("has begun")
        tree.publish("topic", "news")

        await until(lambda: got == ["has begun", "news"])


async def test_whoever_joins_in_its_last_hook_has_left_when_it_is_gone() -> None:
    class Late(Member):
        async def on_close(self, report: object) -> None:
            self.join("topic")

    async with serving(Late) as (server, witness), raw_client(server) as client:
        await client.send_close()
        await witness.one_closed()

        assert len(topics_of(server)) == 0


# -- all at once -------------------------------------------------------------------------------


class Restless(Member):
    """Joins at once, and from then on may leave, crash, or close at any moment."""

    policy = Policy(
        heartbeat=None,
        crash=OnCrash.RESTART,
        restarts=RestartLimit(count=1000, within=1000),
        backoff=Backoff(initial=0.001, maximum=0.001),
    )

    async def on_connect(self) -> None:
        self.join("topic")

    async def on_info(self, message: Callable[[Restless], object]) -> None:
        message(self)


ACTS: list[Callable[[Restless], object]] = [
    lambda actor: actor.leave("topic"),
    lambda actor: actor.join("topic"),
    lambda actor: actor.close(4000, "enough"),
    lambda actor: actor.publish("topic", "own 0"),
    lambda actor: 1 // 0,
]


async def test_a_hundred_rounds_of_publishing_while_members_leave_close_and_crash(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)  # the tracebacks of crashes that are wanted
    chance = random.Random(7)
    members, received = 5, 0

    async with serving(Restless) as (server, witness):

        async def listen() -> None:
            nonlocal received
            async with raw_client(server) as client:
                last: dict[str, int] = {}
                while (frame := await client.frame()).opcode != CLOSE:
                    who, _, number = frame.text.partition(" ")
                    assert who == "own" or int(number) > last.get(who, -1), "in the order of publishing"
                    last[who] = int(number)
                    received += 1
                await client.send_close(*frame.close)
                assert await client.rest() == [], "nothing behind a Close frame"

        for number in range(100):
            before = len(witness.closed)
            async with anyio.create_task_group() as task_group:
                for _ in range(members):
                    task_group.start_soon(listen)
                await witness.opened(before + members)
                thread = threading.Thread(
                    target=lambda: [server.publish("topic", f"thread {count}") for count in range(10)]
                )
                thread.start()
                for count in range(10):
                    server.publish("topic", f"here {count}")
                    for ref in chance.sample(list(server.connections), min(3, len(server.connections))):
                        ref.tell(chance.choice(ACTS))
                    for _ in range(chance.randrange(5)):
                        await anyio.lowlevel.checkpoint()
                await anyio.to_thread.run_sync(thread.join)
                for ref in server.connections:
                    ref.close(4001, "the round is over")
            await until(lambda before=before: len(witness.closed) == before + members)  # type: ignore[misc]  # bound early
            assert len(topics_of(server)) == 0, number

    assert received > 1000


# -- names that a peer chooses -----------------------------------------------------------------


class Chooser(ConnectionActor):
    """Joins what the peer names, and says what went wrong."""

    async def on_message(self, message: str) -> None:
        try:
            self.join(message)
        except (ActorMisuse, ValueError) as error:
            await self.send(f"{type(error).__name__}: {error}")
        else:
            await self.send("joined")


async def test_a_peer_cannot_make_its_connection_join_topics_without_end() -> None:
    policy = Policy(limits=Limits(topics=3))
    async with serving(Chooser, policy=policy) as (server, _), raw_client(server) as client:
        for name in ("a", "b", "c", "a"):
            await client.send(name)
            assert (await client.frame()).text == "joined"

        await client.send("d")
        assert "has joined 3 topics, as many as Limits(topics=) allows" in (await client.frame()).text
        await client.send("x" * 1025)
        assert (await client.frame()).text.startswith("ValueError: topic: a name of at most 1024 characters")
        assert len(server._root._environment.topics) == 3


async def test_the_name_of_a_topic_is_text() -> None:
    async with serving(Chooser) as (server, _), raw_client(server) as client:
        await client.send("a")
        assert (await client.frame()).text == "joined"
        (cell,) = server.site.connections.cells()

        with pytest.raises(TypeError, match="topic: a name, a str, not 5"):
            cell.actor.join(5)
