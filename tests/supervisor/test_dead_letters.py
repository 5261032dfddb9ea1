"""Every message that no handler saw is a dead letter with its reason, and nothing else is one."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from actors import ActorStopped, AskTimeout, ConnectionActor, MailboxFull, Overflow
from actors.testing import Client, settled
from supervisor import Limits, OnCrash, Policy
from tests.memory import MemoryServer, serving_in_memory
from tests.raw import BINARY, TEXT, encode, encode_close


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)  # the tracebacks of crashes that are wanted


class Subject(ConnectionActor):
    """Waits at its gate at ``wait``, crashes at ``boom``."""

    codec = "json"
    gate: anyio.Event

    async def on_connect(self) -> None:
        Subject.gate = anyio.Event()

    async def on_message(self, message: Any) -> None:
        await self.on_info(message)

    async def on_info(self, message: Any) -> Any:
        if message == "wait":
            await self.gate.wait()
        elif message == "boom":
            raise ValueError(message)
        elif message == "timer":
            self.after(0.0, "tick")
            await self.gate.wait()
        return "answer"


def say(client: Client, *words: str) -> None:
    """Send JSON strings in one piece."""
    client.feed(b"".join(encode(TEXT, f'"{word}"'.encode()) for word in words))


async def hook_crashes(client: Client, memory: MemoryServer) -> None:
    say(client, "boom")
    client.ref.tell("boom")


async def close_overtakes(client: Client, memory: MemoryServer) -> None:
    say(client, "wait", "a", "b")
    await settled()
    client.ref.tell("c")
    client.ref.close()


async def told_to_the_dead(client: Client, memory: MemoryServer) -> None:
    await client.close()
    client.ref.tell("a")
    with pytest.raises(ActorStopped):
        await client.ref.ask("b")


async def told_while_closing(client: Client, memory: MemoryServer) -> None:
    say(client, "wait")
    await settled()
    client.ref.close(drain=True)
    client.ref.tell("a")


async def refused_by_the_codec(client: Client, memory: MemoryServer) -> None:
    client.feed(encode(TEXT, b"{no json") + encode(BINARY, b"\xff"))


async def given_up_before_its_turn(client: Client, memory: MemoryServer) -> None:
    say(client, "wait")
    await settled()
    with pytest.raises(AskTimeout):
        await client.ref.ask("a", timeout=0)
    Subject.gate.set()


async def answered_too_late(client: Client, memory: MemoryServer) -> None:
    with anyio.move_on_after(DEADLINE) as scope:
        async with anyio.create_task_group() as task_group:

            async def give_up() -> None:
                await settled()
                scope.cancel()

            task_group.start_soon(give_up)
            await client.ref.ask("wait", timeout=None)
    Subject.gate.set()


DEADLINE = 20.0
Provoke = Callable[[Client, MemoryServer], Awaitable[None]]
REASONS: list[tuple[Provoke, list[tuple[Any, str]]]] = [
    (hook_crashes, [('"boom"', "crashed"), ("boom", "crashed")]),
    (close_overtakes, [('"a"', "undelivered"), ('"b"', "undelivered"), ("c", "undelivered")]),
    (told_to_the_dead, [("a", "stopped"), ("b", "stopped")]),
    (told_while_closing, [("a", "stopped")]),
    (refused_by_the_codec, [("{no json", "refused by the codec"), (b"\xff", "undelivered")]),
    (given_up_before_its_turn, [("a", "expired")]),
    (answered_too_late, [("answer", "late reply")]),
]


@pytest.mark.parametrize(("provoke", "letters"), REASONS, ids=[provoke.__name__ for provoke, _ in REASONS])
async def test_a_message_that_no_handler_sees_is_a_dead_letter_with_its_reason(
    provoke: Provoke, letters: list[tuple[Any, str]]
) -> None:
    policy = Policy(heartbeat=None, crash=OnCrash.RESUME)

    async with serving_in_memory(Subject, policy=policy) as memory:
        client = await memory.connect()
        await settled()
        await provoke(client, memory)
        await settled()
        Subject.gate.set()
        await settled()

        found = memory.server.site.runtime.dead_letters.last
        assert [(letter.message, letter.reason) for letter in found] == letters
        assert {letter.recipient for letter in found} == {client.ref.id}


@pytest.mark.parametrize(
    ("overflow", "dead", "open_"),
    [
        (Overflow.RAISE, [], True),
        (Overflow.DROP_NEW, [("2", "overflow")], True),
        (Overflow.DROP_OLD, [("0", "overflow")], True),
        (Overflow.CLOSE, [("2", "overflow"), ("0", "undelivered"), ("1", "undelivered")], False),
    ],
    ids=lambda value: value.name if isinstance(value, Overflow) else "",
)
async def test_what_a_full_mailbox_does_with_a_message(
    overflow: Overflow, dead: list[tuple[str, str]], open_: bool
) -> None:
    policy = Policy(heartbeat=None, overflow=overflow, limits=Limits(mailbox_messages=2))

    async with serving_in_memory(Subject, policy=policy) as memory:
        client = await memory.connect()
        say(client, "wait")
        await settled()
        for number in ("0", "1"):
            client.ref.tell(number)

        if overflow is Overflow.RAISE:
            with pytest.raises(MailboxFull):
                client.ref.tell("2")
        else:
            client.ref.tell("2")

        found = memory.server.site.runtime.dead_letters.last
        assert [(letter.message, letter.reason) for letter in found] == dead
        assert client.cell.closing is not open_
        Subject.gate.set()


async def test_a_drain_that_is_overtaken_and_a_timer_that_is_queued_are_nobodys_messages() -> None:
    async with serving_in_memory(Subject, policy=Policy(heartbeat=None)) as memory:
        client = await memory.connect()
        say(client, "timer")
        await memory.clock.advance(0.0)
        say(client, "a")
        client.ref.close(4000, "in time", drain=True)
        assert len(client.cell.mailbox) == 3

        client.ref.close()

        Subject.gate.set()
        assert await client.closed() == (4000, "in time", True)
        assert [letter.message for letter in memory.server.site.runtime.dead_letters.last] == ['"a"']
        assert client.report is not None
        assert client.report.undelivered == 1


async def test_what_comes_after_a_close_is_counted_and_no_dead_letter() -> None:
    async with serving_in_memory(Subject, policy=Policy(heartbeat=None)) as memory:
        client = await memory.connect()
        client.answers = False
        client.ref.close()
        await settled()

        say(client, "a", "b")
        client.feed(encode_close(1000))

        await client.closed()
        assert client.report is not None
        assert (client.report.undelivered, client.report.messages_in) == (2, 0)
        assert not memory.server.site.runtime.dead_letters.last
