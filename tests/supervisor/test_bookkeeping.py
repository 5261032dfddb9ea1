"""Random programs: whatever happens in whatever order, every message is accounted for.

A program is a list of steps of the peers, of other actors, of the clock and of the supervisor.  After
it and the end of the server:

* every admitted message was handled or is a dead letter, and not both;
* each side sent one Close frame at most, and nothing behind it;
* ``on_close`` ran once for each connection, and every monitor got one Down;
* nothing of an actor was alive when its Down came, and nothing of it ran afterwards;
* no ask waits any more, and one that got an answer was handled.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.frames import Opcode
from websockets.protocol import OPEN

from actors import (
    Actor,
    ActorError,
    ActorRef,
    CloseReport,
    ConnectionActor,
    ConnectionClosing,
    Down,
    MailboxFull,
    Overflow,
    Restarted,
)
from actors.dead_letters import DeadLetter
from actors.testing import Client, settled
from supervisor import (
    Backoff,
    ChildSpec,
    Heartbeat,
    Limits,
    OnCrash,
    Policy,
    RestartLimit,
    Timeouts,
)
from tests.memory import MemoryServer, serving_in_memory
from tests.raw import CONTINUATION, PING, TEXT, encode


class Boom(Exception):
    """What a hook raises when it is told to."""


class Book:
    """What happened to the messages of one connection; each is a word and a number of its own."""

    def __init__(self) -> None:
        self.sent = 0
        """Messages that the peer has sent."""
        self.told: set[str] = set()
        """Messages that actors have told or asked."""
        self.refused: set[str] = set()
        """Those that a full mailbox has refused."""
        self.handled: Counter[str] = Counter()
        self.answered: set[str] = set()
        self.asks = 0
        """Asks that wait."""
        self.alive = 0
        """Hooks, tasks and resources."""
        self.dead = False
        """Whether the Down has come."""
        self.closes: list[CloseReport] = []
        self.half = False
        """Whether the peer has sent the first half of a message."""
        self.over = False
        """Whether the peer has sent its Close or gone away."""


class Subject(ConnectionActor):
    """Does what the word of a message says."""

    books: dict[str, Book]
    gate: anyio.Event

    @property
    def book(self) -> Book:
        return self.books[self.query_params["name"]]

    async def on_connect(self) -> None:
        await self.begin()

    async def on_restart(self, error: BaseException) -> None:
        await self.begin()

    async def begin(self) -> None:
        with self.living():
            self.spawn(self.work)
            await self.enter(self.resource())
            self.every(7.0, "tick", key="beat")

    def living(self) -> Any:
        return Living(self.book)

    async def work(self) -> None:
        with self.living():
            await anyio.sleep_forever()

    async def fail(self) -> None:
        with self.living():
            raise Boom

    @asynccontextmanager
    async def resource(self) -> AsyncIterator[None]:
        with self.living():
            yield

    async def on_message(self, message: str | bytes) -> None:
        await self.handle(str(message))

    async def on_info(self, message: Any) -> Any:
        if isinstance(message, (Down, Restarted)) or message == "tick":
            return None
        await self.handle(message)
        return ("answer", message)

    async def handle(self, message: str) -> None:
        with self.living():
            try:
                await self.obey(message.partition(" ")[0])
            except ConnectionClosing:
                self.book.handled[message] += 1
                raise
            self.book.handled[message] += 1

    async def obey(self, word: str) -> None:
        if word == "boom":
            raise Boom
        if word == "task":
            self.spawn(self.fail)
        elif word == "slow":
            await self.gate.wait()
        elif word == "send":
            await self.send("x" * 40_000)
        elif word == "timer":
            self.after(1.0, "tick")
        elif word == "close":
            self.close(4000, "own")
        elif word == "wait":
            await self.close(4002, "awaited")
        elif word == "stop":
            self.stop()

    async def on_close(self, report: CloseReport) -> None:
        with self.living():
            self.book.closes.append(report)


class Living:
    """Counts what is alive, and nothing may begin after the Down."""

    def __init__(self, book: Book) -> None:
        self.book = book

    def __enter__(self) -> None:
        assert not self.book.dead, "something runs after the Down"
        self.book.alive += 1

    def __exit__(self, *_: object) -> None:
        self.book.alive -= 1


class Monitor(Actor):
    """Takes note of every Down, and of what is alive then."""

    def __init__(self, downs: Counter[str], alive: list[int]) -> None:
        self.downs = downs
        self.alive = alive

    async def on_info(self, message: Any) -> None:
        if isinstance(message, tuple):
            way, ref = message
            (self.ref.monitor if way == "monitor" else self.ref.demonitor)(ref)
        elif isinstance(message, Down):
            self.downs[message.ref.id] += 1
            book = Subject.books[message.ref._cell.request.query_params["name"]]  # type: ignore[attr-defined]  # a connection
            book.dead = True
            self.alive.append(book.alive)


# -- programs ----------------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["note", "note", "boom", "boom", "task", "slow", "send", "timer", "close", "wait", "stop"]
)
WHO = st.integers(0, 1)
STEPS = st.one_of(
    st.tuples(st.just("say"), WHO, WORDS),
    st.tuples(st.just("say"), WHO, WORDS),
    st.tuples(st.just("tell"), WHO, WORDS),
    st.tuples(st.just("ask"), WHO, WORDS),
    st.tuples(
        st.just("peer"),
        WHO,
        st.sampled_from(
            ["half", "rest", "ping", "nonsense", "close", "drop", "eof", "stall", "unstall", "deaf"]
        ),
    ),
    st.tuples(
        st.just("close"), WHO, st.sampled_from(["now", "drain", "notice", "drain with notice", "stop"])
    ),
    st.tuples(st.sampled_from(["monitor", "demonitor"]), WHO, st.just("")),
    st.tuples(st.just("gate"), WHO, st.just("")),
    st.tuples(st.just("advance"), WHO, st.sampled_from([0.0, 0.05, 1.0, 6.0, 11.0])),
    st.tuples(st.just("turns"), WHO, st.integers(1, 4)),
    st.tuples(st.just("drain"), WHO, st.just("")),
)
POLICIES = st.builds(
    Policy,
    crash=st.sampled_from(OnCrash),
    overflow=st.sampled_from(Overflow),
    restarts=st.builds(RestartLimit, count=st.integers(0, 3), within=st.just(100.0)),
    backoff=st.sampled_from([Backoff(initial=0.05, maximum=0.05), Backoff(initial=3, maximum=3)]),
    heartbeat=st.sampled_from([None, Heartbeat(interval=5, timeout=5)]),
    limits=st.just(Limits(inbound_messages=2, mailbox_messages=3)),
    timeouts=st.just(Timeouts(handler=10, close=5, teardown=3)),
)
PROGRAMS = st.lists(STEPS, max_size=30)


class Run:
    """One program at work."""

    def __init__(self, memory: MemoryServer, clients: list[Client]) -> None:
        self.memory = memory
        self.clients = clients
        self.number = 0

    async def step(self, name: str, who: int, what: Any) -> None:
        client, book = self.clients[who], Subject.books[str(who)]
        if name == "say" and not book.over:
            book.sent += 1
            client.feed(encode(TEXT, self.token(what).encode()))
        elif name == "tell":
            self.tell(client.ref, book, self.token(what))
        elif name == "ask":
            self.memory.server.site.runtime.spawn(self.ask, client.ref, book, self.token(what), name="ask")
            await anyio.lowlevel.checkpoint()
        elif name == "peer":
            self.peer(client, book, what)
        elif name == "close":
            self.close(client.ref, what)
        elif name in ("monitor", "demonitor"):
            self.memory.server.registry["fickle"].tell((name, client.ref))
        elif name == "gate":
            Subject.gate.set()
            Subject.gate = anyio.Event()
        elif name == "advance":
            await self.memory.clock.advance(what)
        elif name == "turns":
            for _ in range(what):
                await anyio.lowlevel.checkpoint()
        elif name == "drain":
            self.memory.server.site.runtime.spawn(self.drain, name="drain")

    def token(self, word: str) -> str:
        self.number += 1
        return f"{word} {self.number}"

    def tell(self, ref: ActorRef, book: Book, message: str) -> None:
        book.told.add(message)
        try:
            ref.tell(message)
        except MailboxFull:
            book.refused.add(message)

    async def ask(self, ref: ActorRef, book: Book, message: str) -> None:
        book.told.add(message)
        book.asks += 1
        try:
            assert await ref.ask(message, timeout=None) == ("answer", message)
        except MailboxFull as error:
            if "did not take" not in str(error):  # refused, and no dead letter
                book.refused.add(message)
        except ActorError:
            pass
        else:
            book.answered.add(message)
        finally:
            book.asks -= 1

    def peer(self, client: Client, book: Book, what: str) -> None:
        if what == "stall":
            client.stall()
        elif what == "unstall":
            client.unstall()
        elif what == "deaf":
            client.answers = False
        elif what == "drop":
            book.over = True
            client.drop()
        elif book.over:
            return
        elif what == "half" and not book.half:
            book.half = True
            client.feed(encode(TEXT, b"note", fin=False))
        elif what == "rest" and book.half:
            book.half = False
            book.sent += 1
            client.feed(encode(CONTINUATION, f" {self.token('')}".encode()))
        elif what == "ping":
            client.feed(encode(PING, b"?"))
        elif what == "nonsense":
            book.over = True
            client.feed(encode(0x3))
        elif what == "close":
            book.over = True
            if client._protocol.state is OPEN:
                client._protocol.send_close(4001, "peer")
                client._feed(client._protocol.data_to_send())
        elif what == "eof":
            book.over = True
            client.feed(b"")

    def close(self, ref: ActorRef, what: str) -> None:
        if what == "stop":
            ref.stop()
        else:
            notice = "notice" if "notice" in what else None
            ref.close(4003, what, drain="drain" in what, notice=notice, grace=2.0)

    async def drain(self) -> None:
        await self.memory.server.drain(within=10, spread=2)


async def run(program: list[tuple[str, int, Any]], policy: Policy) -> None:
    """Run a program and check the books."""
    Subject.books = {"0": Book(), "1": Book()}
    Subject.gate = anyio.Event()
    downs: dict[str, Counter[str]] = {"constant": Counter(), "fickle": Counter()}
    alive: list[int] = []
    letters: list[DeadLetter] = []
    roomy = Policy(limits=Limits())
    children = [ChildSpec(Monitor, name=name, args=(downs[name], alive), policy=roomy) for name in downs]

    async with serving_in_memory(Subject, policy=policy, children=children) as memory:
        memory.server.site.runtime.dead_letters.subscribe(letters.append)
        clients = [await memory.connect(f"/?name={name}") for name in Subject.books]
        for client in clients:
            memory.server.registry["constant"].tell(("monitor", client.ref))
        await settled()
        one = Run(memory, clients)
        for step in program:
            await one.step(*step)
        Subject.gate.set()
        for client in clients:
            client.unstall()
        await settled()
        # the server closes what is left, on the way out

    for client, book in zip(clients, Subject.books.values(), strict=True):
        check(client, book, [letter for letter in letters if letter.recipient == client.ref.id])
        assert downs["constant"][client.ref.id] == 1
        calls = Counter(step[0] for step in program if step[1] == clients.index(client))
        least = min(calls["monitor"], 1) if not calls["demonitor"] else 0
        assert least <= downs["fickle"][client.ref.id] <= calls["monitor"]
    assert not any(alive), "something lived at the Down"
    assert not memory.witness.closed[0].leaks
    assert not memory.witness.closed[1].leaks


def check(client: Client, book: Book, letters: list[DeadLetter]) -> None:
    """Check the books of one connection."""
    assert book.alive == 0
    assert book.asks == 0
    (report,) = book.closes

    dead = Counter(str(letter.message) for letter in letters if letter.reason != "late reply")
    assert "None" not in dead, letters
    accounted = book.handled + dead
    assert set(accounted.values()) <= {1}, "handled or a dead letter, and once"
    told = {message for message in accounted if message in book.told}
    assert told == book.told - book.refused
    assert not book.refused & set(accounted)
    assert book.answered <= set(book.handled)
    said = accounted.total() - len(told)
    assert said == report.messages_in
    undelivered = sum(letter.reason == "undelivered" for letter in letters)
    # One that was cut off by the peer's Close is not sent, and counted.
    assert undelivered <= report.undelivered <= undelivered + book.sent + book.half - said

    closes = [frame for frame in client.frames if frame.opcode is Opcode.CLOSE]
    assert closes == client.frames[-1:] or not closes
    if closes:
        assert report.sent is not None
    assert report.clean is (report.sent is not None and report.received is not None)


PROPERTY = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    logging.disable(logging.CRITICAL)  # the tracebacks of crashes that are wanted
    yield
    logging.disable(logging.NOTSET)


@given(PROGRAMS, POLICIES)
@settings(PROPERTY, max_examples=150)
async def test_every_message_of_a_random_program_is_accounted_for(
    program: list[tuple[str, int, Any]], policy: Policy
) -> None:
    await run(program, policy)


@pytest.mark.soak
@given(st.lists(STEPS, max_size=80), POLICIES)
@settings(PROPERTY, max_examples=4000)
async def test_every_message_of_many_long_random_programs_is_accounted_for(
    program: list[tuple[str, int, Any]], policy: Policy
) -> None:
    await run(program, policy)
