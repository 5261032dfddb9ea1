"""Two things at one moment, a hundred times each, in another order every time.

Whatever happens in a round: each side sends one Close frame at most and nothing behind it, ``on_close``
runs once, the monitor gets one Down, and what it says is what was on the wire.
"""

from __future__ import annotations

import logging
import random
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from actors import (
    Actor,
    ActorRef,
    ActorStopped,
    CloseReport,
    ConnectionActor,
    Down,
    ExitReason,
    Initiator,
)
from supervisor import Admission, Backoff, ChildSpec, OnCrash, Policy, RestartLimit, Server
from tests.raw import CLOSE, DEADLINE, Frame, RawClient, raw_client
from tests.witness import Witness, serving, until

ROUNDS = 100

chance = random.Random()
"""Seeded with the number of the round."""


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)  # the tracebacks of crashes that are wanted


async def turns() -> None:
    """Let the others run for a while."""
    for _ in range(chance.randrange(12)):
        await anyio.lowlevel.checkpoint()


class Boom(Exception):
    """What a hook raises when it is told to."""


class Racer(ConnectionActor):
    """Crashes at ``boom``; everything that it does between two lives takes a while."""

    policy = Policy(
        heartbeat=None,
        crash=OnCrash.RESTART,
        restarts=RestartLimit(count=1000, within=1000),
        backoff=Backoff(initial=0.001, maximum=0.001),
    )

    async def on_connect(self) -> None:
        self.spawn(self.linger)

    async def on_restart(self, error: BaseException) -> None:
        self.spawn(self.linger)
        await turns()

    async def linger(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await turns()

    async def on_message(self, message: str | bytes) -> None:
        await turns()
        if message == "boom":
            raise Boom
        await self.send(message)

    async def on_info(self, message: Any) -> Any:
        await turns()
        if message == "boom":
            raise Boom
        return message

    async def on_close(self, report: CloseReport) -> None:
        reports.append(report)
        await turns()


class Lasting(Racer):
    policy = Policy(crash=OnCrash.RESUME).over(Racer.policy)


class Mortal(Racer):
    policy = Policy(crash=OnCrash.CLOSE).over(Racer.policy)


class Member(Racer):
    """Joins and leaves a topic, and says so before or after it is one."""

    async def on_message(self, message: str | bytes) -> None:
        if message == "leave":
            self.leave("topic")
        await super().on_message(message)
        if message == "join":
            self.join("topic")


POLICIES = {"/restart": Racer, "/resume": Lasting, "/close": Mortal}
reports: list[CloseReport] = []
"""What ``on_close`` got in this round."""


class Watcher(Actor):
    """Monitors whom it is told of, and keeps what it hears of each, until it is told to forget it."""

    def __init__(self, heard: dict[ActorRef, list[Any]]) -> None:
        self.heard = heard

    async def on_info(self, message: Any) -> None:
        if isinstance(message, ActorRef):
            self.ref.monitor(message)
        elif isinstance(message, tuple):
            (ref,) = message
            self.ref.demonitor(ref)
            self.heard.pop(ref, None)
        else:
            self.heard.setdefault(message.ref, []).append(message)


Party = Callable[["Round"], Awaitable[object]]
"""Somebody who acts on the connection of a round."""


class Round:
    """One connection, and what came of it."""

    def __init__(self, server: Server, client: RawClient, ref: ActorRef) -> None:
        self.server = server
        self.client = client
        self.ref = ref
        self.we_closed = False
        self.frames: list[Frame] = []

    # -- the parties ---------------------------------------------------------------------------

    async def boom(self) -> None:
        """Crash by a message of the peer, a told one, or both."""
        way = chance.randrange(3)
        if way != 0:
            self.ref.tell("boom")
        if way != 1 and not self.we_closed:
            await self.client.send("boom")

    async def peer_closes(self) -> None:
        """Close as the client does."""
        self.we_closed = True
        await self.client.send_close(4001, "peer")

    async def close(self) -> None:
        """Close as the program does, from here or from a thread."""
        if chance.randrange(2):
            self.ref.close(4000, "program", drain=bool(chance.randrange(2)))
        else:
            threading.Thread(target=self.ref.close, args=(4000, "program")).start()

    async def next_life(self) -> None:
        """In half of the rounds wait until the next life begins: its ``on_restart`` takes a while."""
        if chance.randrange(2):
            await until(lambda: self.ref._cell.incarnation_number > 1)
            await turns()

    async def close_later(self) -> None:
        """Close as the program does, during the restart or just after it."""
        await self.next_life()
        await self.close()

    async def peer_closes_later(self) -> None:
        """Close as the client does, during the restart or just after it."""
        await self.next_life()
        await self.peer_closes()

    async def late_monitor(self) -> None:
        """Monitor at some moment."""
        self.server.registry["late"].tell(self.ref)

    async def fickle_monitor(self) -> None:
        """Monitor, take it back and monitor again."""
        for message in (self.ref, (self.ref,), self.ref):
            self.server.registry["fickle"].tell(message)
            await turns()

    # -- the end -------------------------------------------------------------------------------

    async def end(self) -> None:
        """Read to the end of the stream, and answer the server's Close."""
        while not self.frames or self.frames[-1].opcode != CLOSE:
            self.frames.append(await self.client.frame())
        if not self.we_closed:
            await self.client.send_close(*self.closed_with)
        assert await self.client.rest() == [], "nothing comes behind a Close frame"
        assert self.client.over == "eof"

    @property
    def closed_with(self) -> tuple[int, str]:
        """What the server's Close frame said."""
        return self.frames[-1].close

    def check(self, heard: list[Any]) -> None:
        """What holds after every round."""
        (self.report,) = reports
        *restarts, down = heard
        assert (down.ref, down.report) == (self.ref, self.report)
        assert [restarted.incarnation for restarted in restarts] == list(range(2, len(restarts) + 2))
        assert self.report.sent == self.closed_with
        assert self.report.clean
        assert (self.report.code, self.report.reason) == (
            self.report.sent if self.report.initiator is Initiator.LOCAL else self.report.received
        )
        self.restarts = len(restarts)


class Arena:
    """A server for many rounds; made by ``arena``."""

    def __init__(self, server: Server, witness: Witness, heard: dict[str, dict[ActorRef, list[Any]]]) -> None:
        self.server = server
        self.witness = witness
        self.heard = heard
        """What each who monitors has heard of each connection."""

    async def play(self, path: str, *parties: Party, then: Party | None = None) -> AsyncIterator[Round]:
        """Let all parties act at once, a hundred times, and give each round when all is over."""
        heard = self.heard["watcher"]
        for number in range(ROUNDS):
            chance.seed(number)
            reports.clear()
            ended = len(self.witness.closed)
            async with raw_client(self.server, path) as client:
                client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                (ref,) = self.server.connections
                await self.server.registry["watcher"].ask(ref)
                one = Round(self.server, client, ref)
                async with anyio.create_task_group() as task_group:
                    for party in chance.sample(parties, len(parties)):
                        task_group.start_soon(self.act, one, party)
                if then is not None:
                    await then(one)
                await one.end()
            await until(lambda ended=ended: len(self.witness.closed) > ended)  # type: ignore[misc]  # bound early
            await until(lambda ref=ref: any(type(one) is Down for one in heard.get(ref, ())))  # type: ignore[misc]  # as above
            one.check(heard[ref])
            yield one

    @staticmethod
    async def act(one: Round, party: Party) -> None:
        await turns()
        await party(one)


@asynccontextmanager
async def arena() -> AsyncIterator[Arena]:
    """A server with three who monitor; in the end each has had one Down of each whom it monitored."""
    heard: dict[str, dict[ActorRef, list[Any]]] = {"watcher": {}, "late": {}, "fickle": {}}
    children = [ChildSpec(Watcher, name=name, args=(heard[name],)) for name in heard]
    admission = Admission(breaker=None)  # so many crashes would shut the gate

    async with serving({**POLICIES, "/member": Member}, children=children, admission=admission) as (
        server,
        witness,
    ):
        yield Arena(server, witness, heard)
    for heard_by_one in heard.values():
        for messages in heard_by_one.values():
            assert sum(isinstance(message, Down) for message in messages) == 1


async def test_a_close_during_a_restart() -> None:
    lives: Counter[int] = Counter()

    async with arena() as here:
        async for one in here.play("/restart", Round.boom, Round.close_later):
            assert one.closed_with == (4000, "program")
            lives[one.restarts] += 1

    assert len(lives) > 1, "the rounds differ"


async def test_the_peers_close_during_a_restart() -> None:
    lives: Counter[int] = Counter()

    async with arena() as here:
        async for one in here.play("/restart", Round.boom, Round.peer_closes_later):
            assert one.closed_with == (4001, "peer")
            assert (one.report.initiator, one.report.exit_reason) == (Initiator.PEER, ExitReason.NORMAL)
            lives[one.restarts] += 1

    assert len(lives) > 1, "the rounds differ"


async def test_a_crash_during_a_close() -> None:
    ends: Counter[tuple[int, str]] = Counter()

    async with arena() as here:
        async for one in here.play("/close", Round.boom, Round.close):
            assert (one.report.exit_reason is ExitReason.CRASH) is (one.report.code == 1011)
            ends[one.closed_with] += 1

    assert set(ends) == {(4000, "program"), (1011, "")}


@pytest.mark.parametrize("path", POLICIES)
async def test_closes_of_both_sides_and_a_crash(path: str) -> None:
    ends: Counter[tuple[int, str]] = Counter()

    async with arena() as here:
        async for one in here.play(path, Round.boom, Round.close, Round.peer_closes):
            ends[one.closed_with] += 1

    crash = {(1011, "")} if path == "/close" else set()
    assert set(ends) <= {(4000, "program"), (4001, "peer")} | crash
    assert len(ends) > 1, "the rounds differ"


@pytest.mark.parametrize("path", POLICIES)
async def test_an_ask_during_a_crash_is_answered_or_fails(path: str) -> None:
    outcomes: Counter[str] = Counter()

    async def ask(one: Round) -> None:
        for number in range(5):
            await turns()
            try:
                with anyio.fail_after(DEADLINE):
                    assert await one.ref.ask(number, timeout=None) == number
            except ActorStopped:
                outcomes["failed"] += 1
            else:
                outcomes["answered"] += 1

    async with arena() as here:
        async for _ in here.play(path, ask, ask, Round.boom, then=Round.peer_closes):
            pass

    assert outcomes.total() == ROUNDS * 10
    assert outcomes["answered"]
    assert bool(outcomes["failed"]) is (path != "/resume")


@pytest.mark.parametrize("end", [Round.close, Round.peer_closes], ids=["close", "peer"])
async def test_a_monitor_during_the_death_gets_one_down(end: Party) -> None:
    async with arena() as here:
        async for one in here.play("/close", Round.late_monitor, Round.fickle_monitor, Round.boom, end):
            for name in ("late", "fickle"):
                await until(lambda name=name, one=one: one.ref in here.heard[name])  # type: ignore[misc]  # bound early
                assert [type(message) for message in here.heard[name][one.ref]] == [Down]


async def publish(one: Round) -> None:
    """Publish from here and from a thread, again and again."""
    for number in range(20):
        if chance.randrange(2):
            one.server.publish("topic", f"here {number}")
        else:
            threading.Thread(target=one.server.publish, args=("topic", f"there {number}")).start()
        await anyio.lowlevel.checkpoint()


async def come_and_go(one: Round) -> None:
    """Join, leave and crash at any moment."""
    for message in ("join", "leave", "join", "boom", "leave"):
        await one.client.send(message)
        await turns()


async def test_what_is_published_reaches_members_only_and_in_order() -> None:
    reached = 0

    async with arena() as here:
        async for one in here.play("/member", publish, publish, come_and_go, then=Round.peer_closes):
            member = False
            for frame in one.frames[:-1]:
                if frame.text in ("join", "leave"):
                    member = frame.text == "join"
                else:
                    assert member, [frame.text for frame in one.frames[:-1]]
                    reached += 1
            assert len(here.server.site.environment.topics) == 0

    assert reached
