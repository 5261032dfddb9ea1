"""Too much of what is allowed: control frames, messages that nobody reads, and full mailboxes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import anyio
import pytest

from actors import ExitReason
from actors.protocol.websocket import STEP
from supervisor import Heartbeat, Limits, Policy, Timeouts
from tests.faults.harness import (
    PARTINGS,
    Attack,
    Case,
    Echo,
    Scene,
    Watched,
    behind_pings,
    close,
    close_of,
    fails,
    flood,
    frames_of,
    parametrize,
    pour,
    run,
    sends,
    survives,
    text,
)
from tests.raw import CLOSE, PING, PONG, TEXT, Frame, encode
from tests.witness import until

pytestmark = pytest.mark.every_runtime

TOO_MANY = "too many control frames"
SLOW = "reads too slowly"
LOUD = "x" * 60_000


def numbered(opcode: int, count: int) -> bytes:
    """Control frames of 125 bytes that tell their numbers."""
    return b"".join(encode(opcode, number.to_bytes(125, "big")) for number in range(count))


# -- control frames ----------------------------------------------------------------------------


def few_pongs_and_1008(wire: bytes) -> None:
    *pongs, last = frames_of(wire)
    assert last == Frame(CLOSE, close(1008, TOO_MANY)[2:])
    assert len(in_order(pongs)) <= 41 + STEP // 131  # those that came with the one too many


def the_latest_pong(wire: bytes) -> None:
    """No more pongs than pings, and the last ping is answered."""
    *pongs, well, last = frames_of(wire)
    assert (well, last) == (Frame(TEXT, b"well?"), Frame(CLOSE, b"\x03\xe8"))
    numbers = in_order(pongs)
    assert numbers[-1] == 19_999


def in_order(pongs: list[Frame]) -> list[int]:
    """The numbers of the pings that were answered: each once, none before an earlier one."""
    numbers = [int.from_bytes(one.payload, "big") for one in pongs]
    assert {one.opcode for one in pongs} <= {PONG}
    assert numbers == sorted(set(numbers))
    return numbers


async def reads_nothing_for_a_while(scene: Scene) -> None:
    await scene.client.send_bytes(numbered(PING, 20_000))
    await survives()(scene)


async def answers_pings_wrongly(scene: Scene) -> None:
    """Whoever sends anything is alive, whatever it is."""
    for _ in range(5):
        assert (await scene.client.frame()).opcode == PING
        await scene.client.send_bytes(encode(PONG, b"wrong"))
    await scene.client.send_close(1000)


def pinged_and_1000(wire: bytes) -> None:
    assert behind_pings(wire) == close(1000)


async def floods_on(scene: Scene) -> None:
    """What comes behind a failure costs little: not much more of it is read than the buffers hold."""
    sent = 0

    def frames() -> Iterator[bytes]:
        nonlocal sent
        while True:
            yield PONGS
            sent += len(PONGS)

    await flood(scene.client, frames())
    assert sent < 32 << 20


PONGS = numbered(PONG, 500)


@parametrize(
    Case(
        "pongs behind the failure",
        floods_on,
        close(1008, TOO_MANY),
        ExitReason.POLICY_VIOLATION,
        policy=Policy(timeouts=Timeouts(close=0.5)),
        ends=PARTINGS,
    ),
    Case(
        "pings without reading",
        sends(numbered(PING, 20_000)),
        few_pongs_and_1008,
        ExitReason.POLICY_VIOLATION,
    ),
    Case(
        "pings without reading and without a limit",
        reads_nothing_for_a_while,
        the_latest_pong,
        ExitReason.NORMAL,
        policy=Policy(limits=Limits(control_rate=None)),
    ),
    fails("unsolicited pongs", numbered(PONG, 20_000), 1008, TOO_MANY),
    fails("empty pongs", encode(PONG) * 20_000, 1008, TOO_MANY),
    fails("empty pongs in a message", encode(TEXT, b"x", fin=False) + encode(PONG) * 20_000, 1008, TOO_MANY),
    Case(
        "a few unsolicited pongs",
        survives(numbered(PONG, 40)),
        text("well?") + close(1000),
        ExitReason.NORMAL,
    ),
    Case(
        "wrong pongs",
        answers_pings_wrongly,
        pinged_and_1000,
        ExitReason.NORMAL,
        policy=Policy(heartbeat=Heartbeat(interval=0.03, timeout=5)),
    ),
)
async def test_control_frames(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


# -- nobody reads ------------------------------------------------------------------------------


class Member(Watched):
    """Gets what is published."""

    async def on_connect(self) -> None:
        self.join("news")
        Watched.messages.append("joined")


class Flooded(Echo):
    """Answers a message with several."""

    async def on_message(self, message: str | bytes) -> None:
        for _ in range(10):
            await self.send(message)


async def is_published_to(scene: Scene, times: int = 200) -> None:
    await until(lambda: Watched.messages)
    for _ in range(times):
        scene.server.publish("news", LOUD)


async def reads_nothing(scene: Scene) -> None:
    await is_published_to(scene)
    await scene.ended()


async def reads_too_late(scene: Scene) -> None:
    await is_published_to(scene)
    await until(lambda: any(ref._cell.closing for ref in scene.server.connections))
    await close_of(scene.client)


async def reads_a_little(scene: Scene) -> None:
    await is_published_to(scene)
    await scene.client.frame()
    await scene.ended()


async def asks_for_more_than_it_reads(scene: Scene) -> None:
    """What it sends is not read any more either: TCP holds it up."""
    async with anyio.create_task_group() as pouring:
        pouring.start_soon(pour, scene.client, repeat(encode(TEXT, LOUD.encode())))
        await scene.ended()
        pouring.cancel_scope.cancel()


def whole_messages_and_1013(wire: bytes) -> None:
    count = len(wire) // len(text(LOUD))
    assert wire == text(LOUD) * count + close(1013, SLOW)


def a_part(wire: bytes) -> None:
    """What the kernel had taken of the messages, and nothing else."""
    assert wire
    assert (text(LOUD) * 1000).startswith(wire)


STALLED = {"clean": False, "sent": (1013, SLOW), "received": None}
LIMITED = Policy(timeouts=Timeouts(close=0.2))
TIMED = Policy(timeouts=Timeouts(close=0.2), limits=Limits(send_limit=None, send_stall=0.2))


@parametrize(
    *(
        Case(
            name,
            attack,
            a_part,
            ExitReason.OVERLOAD,
            STALLED,
            actor=actor,
            policy=policy,
            ends=PARTINGS,
            receive_buffer=4096,
        )
        for name, attack, actor, policy in (
            ("published, over the limit", reads_nothing, Member, LIMITED),
            ("published, over the time", reads_nothing, Member, TIMED),
            ("published, and a little is read", reads_a_little, Member, LIMITED),
            ("asked for", asks_for_more_than_it_reads, Flooded, TIMED),
        )
    ),
    Case(
        "published, and read at last",
        reads_too_late,
        whole_messages_and_1013,
        ExitReason.OVERLOAD,
        {"clean": True, "sent": (1013, SLOW)},
        actor=Member,
        receive_buffer=4096,
    ),
)
async def test_a_reader_that_stalls(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


# -- a full mailbox ----------------------------------------------------------------------------


class Busy(Echo):
    """Takes its time for the first message."""

    async def on_message(self, message: str | bytes) -> None:
        await Watched.may_end.wait()
        await super().on_message(message)


def answers_a_ping(*, behind: bool) -> Attack:
    """The pong is there in time; that for long nobody reads, it or what follows, is not the peer's fault."""

    async def attack(scene: Scene) -> None:
        client, clock = scene.client, scene.server.site.runtime.clock
        pong = encode(PONG, (await client.frame()).payload)
        half = encode(TEXT, b"x") * 5
        await client.send_bytes(half if behind else pong + half)
        await until(lambda: not scene.attacked._cell.reading)
        await client.send_bytes(half + pong if behind else half)
        began = clock()
        await until(lambda: clock() > began + 2 * HEARTBEAT.timeout)
        Watched.may_end.set()
        pings, echoes = 0, 0
        while echoes < 10 or pings < 3:
            if (one := await client.frame()).opcode == PING:
                pings += 1
                await client.send_bytes(encode(PONG, one.payload))
            else:
                echoes += 1
        await client.send_close(1000)

    return attack


def all_the_echoes(wire: bytes) -> None:
    frames = [one for one in frames_of(wire) if one.opcode != PING]
    assert frames == [Frame(TEXT, b"x")] * 10 + [Frame(CLOSE, b"\x03\xe8")]


HEARTBEAT = Heartbeat(interval=0.05, timeout=0.5)


@parametrize(
    *(
        Case(
            f"with a pong {'behind' if behind else 'in front of'} the data",
            answers_a_ping(behind=behind),
            all_the_echoes,
            ExitReason.NORMAL,
            {"messages_in": 10},
            actor=Busy,
            policy=Policy(limits=Limits(inbound_messages=2), heartbeat=HEARTBEAT),
        )
        for behind in (True, False)
    ),
)
async def test_a_full_mailbox(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)
