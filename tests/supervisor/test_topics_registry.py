"""The topics of one tree: who is a member, and that no member's trouble is another's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import Actor, ConnectionActor
from actors.cell.cell import Cell, CellOptions
from actors.mailbox import Bounds
from actors.testing import Client, ManualClock, connected, running, settled
from supervisor.topics import Topics

TOPICS = ["news", "sport", "weather"]


class Text(ConnectionActor):
    async def on_message(self, message: str) -> None:
        self.publish("news", message)


class Json(ConnectionActor):
    codec = "json"


class Service(Actor):
    def on_start(self) -> None:
        self.got: list[object] = []

    def on_info(self, message: object) -> None:
        self.got.append(message)


@asynccontextmanager
async def room(*actors: type[ConnectionActor], **limits: Any) -> AsyncIterator[tuple[Topics, list[Client]]]:
    """Open connections that share topics, though each has a runtime of its own."""
    clock = ManualClock()
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(connected(actor, clock=clock, **limits)) for actor in actors
        ]
        async with running(clock) as runtime:
            topics = Topics(runtime)
            for client in clients:
                client.cell._options = replace(client.cell._options, topics=topics)
                client.cell.when_stopped(lambda cell=client.cell: topics.forget(cell))
            yield topics, clients


@asynccontextmanager
async def service(topics: Topics, bounds: Bounds) -> AsyncIterator[Cell]:
    """Run a service whose mailbox holds what ``bounds`` say."""
    async with running() as runtime:
        cell = Cell(runtime, Service, id="service", options=CellOptions(bounds=bounds))
        runtime.spawn(cell.run, name="service")
        await settled()
        yield cell


# -- membership --------------------------------------------------------------------------------

CHANGES = st.lists(
    st.tuples(st.sampled_from(["join", "leave", "forget"]), st.integers(0, 2), st.sampled_from(TOPICS))
)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@given(CHANGES)
async def test_members_are_what_joins_leaves_and_ends_make_of_them(
    changes: list[tuple[str, int, str]],
) -> None:
    members: dict[str, set[int]] = {topic: set() for topic in TOPICS}
    async with running() as runtime:
        topics = Topics(runtime)
        cells = [Cell(runtime, Service, id=str(number)) for number in range(3)]

        for change, number, topic in changes:
            if change == "join":
                topics.join(topic, cells[number])
                members[topic].add(number)
            elif change == "leave":
                topics.leave(topic, cells[number])
                members[topic].discard(number)
            else:
                topics.forget(cells[number])
                for joined in members.values():
                    joined.discard(number)

        assert len(topics) == sum(bool(joined) for joined in members.values())
        for topic in TOPICS:
            topics.publish(topic, topic)
        for number, cell in enumerate(cells):
            expected = sorted(topic for topic in TOPICS if number in members[topic])
            assert sorted(told.message for told in cell.mailbox.data) == expected
        for cell in cells:
            topics.forget(cell)
        assert len(topics) == 0


async def test_an_actor_that_has_ended_joins_nothing() -> None:
    async with room(Text) as (topics, (client,)):
        await client.close()

        topics.join("news", client.cell)

        assert len(topics) == 0


async def test_a_member_that_ends_leaves_every_topic() -> None:
    async with room(Text, Text) as (topics, (first, second)):
        for topic in TOPICS:
            first.actor.join(topic)
        second.actor.join("news")
        assert len(topics) == 3

        await first.close()

        assert len(topics) == 1
        topics.publish("news", "hello")
        assert await second.receive() == "hello"


async def test_who_never_joined_leaves_without_an_error() -> None:
    async with room(Text, Text) as (topics, (first, second)):
        first.actor.join("news")

        second.actor.leave("news")
        second.actor.leave("sport")
        first.actor.leave("news")
        first.actor.leave("news")

        assert len(topics) == 0


# -- publishing --------------------------------------------------------------------------------


async def test_members_get_what_is_published_in_order_the_publisher_too_and_others_nothing() -> None:
    async with room(Text, Text, Text) as (_, (first, second, stranger)):
        first.actor.join("news")
        second.actor.join("news")
        for message in ("one", "two"):
            await first.send(message)

        for member in (first, second):
            assert (await member.receive(), await member.receive()) == ("one", "two")
        await settled()
        assert stranger.frames == []


async def test_a_message_is_encoded_once_for_each_codec_and_counted_for_each_member() -> None:
    encoded: list[object] = []

    class Counted:
        name = "counted"

        def encode(self, message: object) -> str:
            encoded.append(message)
            return f"<{message}>"

        def decode(self, data: str | bytes) -> object:
            return data

    class Own(ConnectionActor):
        codec = Counted()

    async with room(Own, Own, Json) as (topics, clients):
        for client in clients:
            client.actor.join("news")

        topics.publish("news", "hello")

        assert [await client.receive() for client in clients] == ["<hello>", "<hello>", '"hello"']
        assert encoded == ["hello"]
        assert [client.cell.messages_out for client in clients] == [1, 1, 1]


async def test_what_one_codec_cannot_encode_is_an_error_before_anybody_got_it() -> None:
    async with room(Json, Text) as (topics, clients):
        for client in clients:
            client.actor.join("news")

        with pytest.raises(TypeError, match="codec 'raw' sends str or bytes"):
            topics.publish("news", {"a": 1})

        await settled()
        assert [client.frames for client in clients] == [[], []]


async def test_a_member_that_is_closing_gets_nothing_more_and_the_others_do() -> None:
    async with room(Text, Text) as (topics, (closing, other)):
        closing.answers = False
        for client in (closing, other):
            client.actor.join("news")
        closing.ref.close(1000)

        topics.publish("news", "hello")

        assert await other.receive() == "hello"
        await closing.until(lambda: bool(closing.frames))
        assert [frame.opcode for frame in closing.frames] == [8]
        assert closing.cell.messages_out == 0


async def test_a_member_whose_queue_only_grows_is_closed_and_the_others_get_it_all() -> None:
    async with room(Text, Text, send_limit=1000) as (topics, (slow, other)):
        for client in (slow, other):
            client.actor.join("news")
        slow.stall()

        for _ in range(100):
            topics.publish("news", "x" * 100)  # each in a turn of its own
            await settled()
        slow.unstall()

        assert await slow.closed() == (1013, "reads too slowly", True)
        assert 1000 < 102 * slow.cell.messages_out < 4500
        assert [await other.receive() for _ in range(100)] == ["x" * 100] * 100


async def test_a_service_may_be_a_member_and_what_it_has_no_room_for_is_a_dead_letter() -> None:
    async with room(Text) as (topics, (client,)), service(topics, Bounds(told_messages=2)) as cell:
        client.actor.join("news")
        topics.join("news", cell)

        for message in ("one", "two", "three"):
            topics.publish("news", message)

        assert [await client.receive() for _ in range(3)] == ["one", "two", "three"]
        await settled()
        assert cell.actor.got == ["one", "two"]  # type: ignore[union-attr]  # it has one
        assert [letter.message for letter in cell.runtime.dead_letters.last] == ["three"]
        topics.forget(cell)


async def test_anybody_may_publish_from_any_thread() -> None:
    async with room(Text) as (topics, (client,)):
        client.actor.join("news")

        await anyio.to_thread.run_sync(topics.publish, "news", "from afar")

        assert await client.receive() == "from afar"


async def test_nobody_hears_what_is_published_to_nobody() -> None:
    async with room(Text) as (topics, (client,)):
        topics.publish("news", "hello")
        await settled()

        assert client.frames == []
        assert len(topics) == 0
