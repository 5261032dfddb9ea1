"""Fragmented messages without an end, of too many parts, and too slow."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, repeat

import anyio
import pytest

from actors import ExitReason
from supervisor import Heartbeat, Policy, Timeouts
from tests.faults.harness import (
    PARTINGS,
    Attack,
    Case,
    Scene,
    behind_pings,
    close,
    drip,
    fails,
    flood,
    parametrize,
    run,
    text,
)
from tests.raw import CONTINUATION, PING, PONG, TEXT, encode

pytestmark = pytest.mark.every_runtime

FIRST = encode(TEXT, b"x", fin=False)
EMPTY_FIRST = encode(TEXT, fin=False)
EMPTY = encode(CONTINUATION, fin=False)
ONE_BYTE = encode(CONTINUATION, b"x", fin=False)
LARGE = encode(CONTINUATION, b"x" * 60_000, fin=False)
TOO_MANY = "more than 1024 fragments"
TOO_LARGE = "frame with 60000 bytes after reading 1020001 bytes exceeds limit of 1048576 bytes"
TOO_LONG = "message took too long to arrive"

IMPATIENT = Policy(timeouts=Timeouts(assembly=0.3, close=0.2), heartbeat=Heartbeat(interval=0.03, timeout=5))


async def ends_after_the_echo(scene: Scene) -> None:
    await scene.client.send_bytes(FIRST + ONE_BYTE * 1022 + encode(CONTINUATION, b"x"))
    await scene.client.frame()
    await scene.client.send_close(1000)


@parametrize(
    fails("100 000 empty", EMPTY_FIRST + EMPTY * 100_000, 1009, TOO_MANY),
    fails("100 000 empty behind one", FIRST + EMPTY * 100_000, 1009, TOO_MANY),
    fails("200 000 of one byte", FIRST + ONE_BYTE * 200_000, 1009, TOO_MANY),
    fails("1025", FIRST + ONE_BYTE * 1024, 1009, TOO_MANY),
    Case(
        "1024",
        ends_after_the_echo,
        text("x" * 1024) + close(1000),
        ExitReason.NORMAL,
    ),
    fails(
        "over the size in two",
        encode(TEXT, b"x" * 2**19, fin=False) + encode(CONTINUATION, b"x" * (2**19 + 1)),
        1009,
        "frame with 524289 bytes after reading 524288 bytes exceeds limit of 1048576 bytes",
    ),
)
async def test_fragments(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


def without_an_end(first: bytes, other: bytes) -> Attack:
    """A message that goes on for as long as the server reads."""
    return lambda scene: flood(scene.client, chain([first], repeat(other)))


@parametrize(
    *(
        fails(
            name,
            without_an_end(FIRST, other),
            1009,
            reason,
            policy=Policy(timeouts=Timeouts(close=0.2)),
            ends=PARTINGS,
        )
        for name, other, reason in (
            ("empty", EMPTY * 1000, TOO_MANY),
            ("of one byte", ONE_BYTE * 1000, TOO_MANY),
            (
                "large",
                LARGE,
                "frame with 60000 bytes after reading 1020001 bytes exceeds limit of 1048576 bytes",
            ),
        )
    ),
)
async def test_endless_fragments(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    """The server closes, and waits no longer than the close timeout for the end of it."""
    await run(case, caplog)


async def drips_in_a_frame(scene: Scene) -> None:
    """A frame of 1 MiB, byte by byte: no pong can be sent, every byte is a sign of life."""
    frame = encode(TEXT, b"x" * 2**20)
    await drip(scene.client, (frame[at : at + 1] for at in range(len(frame))))


async def drips_fragments(scene: Scene) -> None:
    await answers_pings_between(scene, chain([FIRST], repeat(ONE_BYTE)))


async def pauses_between_fragments(scene: Scene) -> None:
    await answers_pings_between(scene, [FIRST])


async def answers_pings_between(scene: Scene, fragments: Iterable[bytes]) -> None:
    """Send fragments slowly, with every ping answered, until the server closes."""
    client = scene.client
    async with anyio.create_task_group() as both_ways:

        async def send() -> None:
            for fragment in fragments:
                await client.send_bytes(fragment)
                await anyio.sleep(0.005)

        both_ways.start_soon(send)
        while (one := await client.frame()).opcode == PING:
            await client.send_bytes(encode(PONG, one.payload))
        both_ways.cancel_scope.cancel()


def too_slow(wire: bytes) -> None:
    assert behind_pings(wire) == close(1008, TOO_LONG)


@parametrize(
    *(
        Case(
            name,
            attack,
            too_slow,
            ExitReason.POLICY_VIOLATION,
            {"clean": False},
            policy=IMPATIENT,
            ends=PARTINGS,
        )
        for name, attack in (
            ("inside of a frame of 1 MiB", drips_in_a_frame),
            ("in fragments with pongs answered", drips_fragments),
            ("a pause in a message with pongs answered", pauses_between_fragments),
        )
    ),
)
async def test_a_slow_drip(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)
