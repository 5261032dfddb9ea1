"""Peers that say nothing, vanish, or talk on when everything is said."""

from __future__ import annotations

from itertools import repeat

import anyio
import pytest

from actors import ExitReason, Initiator
from supervisor import Heartbeat, Policy, Timeouts
from tests.faults.harness import (
    PARTINGS,
    Attack,
    Case,
    Closing,
    Scene,
    Watched,
    close,
    drip,
    flood,
    frame,
    parametrize,
    run,
    sends,
    text,
)
from tests.raw import CONTINUATION, PING, TEXT, encode

pytestmark = pytest.mark.every_runtime

SOON = Policy(timeouts=Timeouts(close=0.2))
LOUD = "x" * 60_000


class Pouring(Watched):
    """Sends for a message more than any buffer holds."""

    async def on_message(self, message: str | bytes) -> None:
        while True:
            await self.send(LOUD)


# -- after our Close ---------------------------------------------------------------------------


async def until_nothing_goes_out(scene: Scene) -> None:
    """Wait until neither the kernel nor the peer takes any more."""
    transport, looks = scene.attacked._cell.websocket.transport, 0
    while looks < 50:
        looks = looks + 1 if transport.congested else 0
        await anyio.sleep(0.001)


async def reads_nothing_at_all(scene: Scene) -> None:
    """The window is closed, and our Close frame stands behind what was sent before."""
    await scene.client.send("go")
    await until_nothing_goes_out(scene)
    scene.attacked.close(4001, "ours")
    await scene.ended()


async def floods(scene: Scene) -> None:
    await scene.client.send("close")
    await scene.client.frame()
    await flood(scene.client, repeat(encode(TEXT, b"x" * 1000) + encode(PING, b"x")))


async def drips(scene: Scene) -> None:
    await scene.client.send("close")
    await scene.client.frame()
    await drip(scene.client, repeat(encode(TEXT, b"x")))


async def ends_its_side(scene: Scene) -> None:
    await scene.client.send("close")
    await scene.client.frame()
    scene.client.finish()


async def resets(scene: Scene) -> None:
    await scene.client.send("close")
    await scene.client.frame()
    scene.client.reset()
    await scene.ended()


def only_data(wire: bytes) -> None:
    """What the kernel had taken, and no Close frame, for which there was no room."""
    assert wire
    assert (text(LOUD) * 1000).startswith(wire)


OURS = {"initiator": Initiator.LOCAL, "clean": False, "sent": (4001, "ours"), "received": None}


@parametrize(
    Case(
        "silence",
        sends(encode(TEXT, b"close")),
        close(4001, "ours"),
        ExitReason.NORMAL,
        OURS,
        actor=Closing,
        policy=SOON,
    ),
    Case(
        "silence with a zero window",
        reads_nothing_at_all,
        only_data,
        ExitReason.NORMAL,
        OURS,
        actor=Pouring,
        policy=SOON,
        ends=PARTINGS,
        receive_buffer=4096,
    ),
    Case(
        "a flood",
        floods,
        close(4001, "ours"),
        ExitReason.NORMAL,
        OURS | {"messages_in": 1},
        actor=Closing,
        policy=SOON,
        ends=PARTINGS,
    ),
    Case(
        "a drip",
        drips,
        close(4001, "ours"),
        ExitReason.NORMAL,
        OURS | {"messages_in": 1},
        actor=Closing,
        policy=SOON,
        ends=PARTINGS,
    ),
    Case("FIN", ends_its_side, close(4001, "ours"), ExitReason.NORMAL, OURS, actor=Closing),
    Case("RST", resets, close(4001, "ours"), ExitReason.NORMAL, OURS, actor=Closing),
)
async def test_after_our_close(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


# -- without a Close ---------------------------------------------------------------------------


def finishes(*parts: bytes) -> Attack:
    async def attack(scene: Scene) -> None:
        await sends(*parts)(scene)
        scene.client.finish()

    return attack


def drops(*parts: bytes) -> Attack:
    async def attack(scene: Scene) -> None:
        await sends(*parts)(scene)
        scene.client.reset()
        await scene.ended()

    return attack


async def drops_while_we_send(scene: Scene) -> None:
    await scene.client.send("go")
    await until_nothing_goes_out(scene)
    scene.client.reset()
    await scene.ended()


LOST = {
    "initiator": Initiator.TRANSPORT,
    "code": 1006,
    "clean": False,
    "sent": None,
    "received": None,
}
FRAME = encode(TEXT, b"x" * 1000)


@parametrize(
    *(
        Case(f"{name} {where}", attack(*parts), b"", ExitReason.CONNECTION_LOST, LOST)
        for name, attack in (("FIN", finishes), ("RST", drops))
        for where, parts in {
            "between two frames": (),
            "in a header": (FRAME[:1],),
            "in a frame": (FRAME[:500],),
            "between two fragments": (encode(TEXT, b"x", fin=False),),
            "in a continuation": (encode(TEXT, b"x", fin=False), encode(CONTINUATION, b"xx")[:-1]),
        }.items()
    ),
    Case(
        "RST while we send",
        drops_while_we_send,
        b"",
        ExitReason.CONNECTION_LOST,
        LOST,
        actor=Pouring,
        receive_buffer=4096,
    ),
)
async def test_no_close_at_all(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


# -- nothing at all ----------------------------------------------------------------------------


@parametrize(
    Case(
        "no pong",
        sends(),
        frame(PING, bytes([0, 0, 0, 1])) + close(1011, "heartbeat lost"),
        ExitReason.HEARTBEAT_LOST,
        policy=Policy(timeouts=Timeouts(close=0.2), heartbeat=Heartbeat(interval=0.05, timeout=0.1)),
    ),
    Case(
        "idle",
        sends(),
        close(1001, "idle timeout"),
        ExitReason.IDLE,
        policy=Policy(timeouts=Timeouts(close=0.2, idle=0.1)),
    ),
    Case(
        "a frame that does not go on",
        sends(FRAME[:500]),
        close(1008, "message took too long to arrive"),
        ExitReason.POLICY_VIOLATION,
        policy=Policy(timeouts=Timeouts(close=0.2, assembly=0.1)),
    ),
    Case(
        "a byte now and then",
        lambda scene: drip(scene.client, (bytes([byte]) for byte in FRAME)),
        close(1008, "message took too long to arrive"),
        ExitReason.POLICY_VIOLATION,
        policy=Policy(timeouts=Timeouts(close=0.2, assembly=0.1)),
        ends=PARTINGS,
    ),
)
async def test_silence(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)
