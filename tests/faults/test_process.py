"""What the process and the user's own code do to the connections: descriptors, clocks, hooks, signals."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import anyio
import pytest

from actors import CloseReport, ExitReason, Request
from supervisor import Heartbeat, Policy, Timeouts
from supervisor.admission.gate import LOOK_EVERY
from tests.faults.harness import (
    Answer,
    Attack,
    Case,
    Echo,
    Scene,
    Watched,
    answers_the_close,
    close,
    frames_of,
    parametrize,
    run,
    survives,
    text,
)
from tests.programs import program
from tests.raw import CLOSE, PING, PONG, TEXT, Frame, RawClient, encode, raw_client
from tests.witness import until

pytestmark = pytest.mark.every_runtime

LOGGED = ("supervisor",)
GO = encode(TEXT, b"go")


# -- descriptors -------------------------------------------------------------------------------


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Take all descriptors that the process may have, but ``count``."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 40, limits[1]))
    taken = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(count):
            os.close(taken.pop())
        yield
    finally:
        for one in taken:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def connects_when_few_are_left(scene: Scene) -> None:
    """One for the client and one for the server, of those that are kept free: it is seen soon."""
    with descriptors_left(4):
        for _ in range(LOOK_EVERY):
            client = await scene.dial()
            if await client.request() != 101:
                break
            await leaves(client)
            client.close()
        await client.rest_of_bytes()
        Answer(503, "no room")(bytes(client.wire))
        client.close()
    await connects_and_leaves(scene)


async def connects_when_none_is_left(scene: Scene) -> None:
    """The last one is the client's: nobody can accept it, and nobody is hurt by that."""
    with descriptors_left(1):
        client = await scene.dial()
        await until(lambda: scene.logged() or hung_up(client))
        await scene.client.send("still there?")
        assert (await scene.client.frame()).text == "still there?"
    if not hung_up(client):  # uvloop drops it at once
        assert await client.request() == 101
        await leaves(client)
    await connects_and_leaves(scene)


def hung_up(client: RawClient) -> bool:
    """Whether the server has ended the stream."""
    try:
        return not client.sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


async def connects_and_leaves(scene: Scene) -> None:
    client = await scene.dial()
    assert await client.request() == 101
    await leaves(client)
    await survives()(scene)


async def leaves(client: RawClient) -> None:
    await client.send_close(1000)
    assert await client.rest() == [Frame(CLOSE, b"\x03\xe8")]


@parametrize(
    Case(
        "few left", connects_when_few_are_left, text("well?") + close(1000), ExitReason.NORMAL, errors=LOGGED
    ),
    Case(
        "none left",
        connects_when_none_is_left,
        text("still there?") + text("well?") + close(1000),
        ExitReason.NORMAL,
        errors=("supervisor", "asyncio"),
    ),
)
async def test_descriptors(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


# -- time --------------------------------------------------------------------------------------


class Blocking(Echo):
    """Holds up the event loop, and everybody."""

    async def on_message(self, message: str | bytes) -> None:
        time.sleep(JUMP)  # noqa: ASYNC251  # it is the fault
        await super().on_message(message)


JUMP = 1.5
"""Seconds; more than any patience of ``LIVELY``."""
LIVELY = Policy(heartbeat=Heartbeat(interval=0.1, timeout=1.2), timeouts=Timeouts(handler=1.2))


async def blocks_the_loop(scene: Scene) -> None:
    """Another client's pong waits for longer than the heartbeat's timeout."""
    other = await scene.dial()
    assert await other.request() == 101
    ping = await other.frame()
    answer = threading.Timer(JUMP / 2, other.sock.send, [encode(PONG, ping.payload)])
    answer.start()
    await scene.client.send("block")
    async with anyio.create_task_group() as both:
        both.start_soon(is_alive_and_leaves, scene.client, [Frame(TEXT, b"block")])
        both.start_soon(is_alive_and_leaves, other, [])
    answer.join()


async def is_alive_and_leaves(client: RawClient, expected: list[Frame]) -> None:
    """Answer five more pings, and get what is expected meanwhile."""
    pings, others = 0, []
    while pings < 5 or len(others) < len(expected):
        one = await client.frame()
        if one.opcode == PING:
            pings += 1
            await client.send_bytes(encode(PONG, one.payload))
        else:
            others.append(one)
    assert others == expected
    await client.send_close(1000)
    assert (await client.rest())[-1] == Frame(CLOSE, b"\x03\xe8")


def pings_an_echo_and_1000(wire: bytes) -> None:
    others = [one for one in frames_of(wire) if one.opcode != PING]
    assert others == [Frame(TEXT, b"block"), Frame(CLOSE, b"\x03\xe8")]


@parametrize(
    Case(
        "blocks the loop",
        blocks_the_loop,
        pings_an_echo_and_1000,
        ExitReason.NORMAL,
        actor=Blocking,
        policy=LIVELY,
    ),
)
async def test_a_handler_that(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


SERVED = Path(__file__).with_name("served.py")


@pytest.fixture
def runtime(anyio_backend_name: str, anyio_backend_options: dict[str, object]) -> str:
    """The runtime of the test, for a program of its own."""
    return anyio_backend_name + ("+uvloop" if anyio_backend_options.get("use_uvloop") else "")


async def test_a_process_that_was_suspended_blames_nobody(runtime: str) -> None:
    """Its clock has jumped: the pongs that waited for it are not late."""
    with program(SERVED, runtime) as served:
        port = served.port(r"serving at (\d+)")
        async with raw_client(port) as one, raw_client(port) as other:
            pings = [await client.frame() for client in (one, other)]
            served.signal(signal.SIGSTOP)
            for client, ping in zip((one, other), pings, strict=True):
                await client.send_bytes(encode(PONG, ping.payload))
            await anyio.sleep(JUMP)  # the jump of the clock: the process is to be away for so long
            served.signal(signal.SIGCONT)
            async with anyio.create_task_group() as both:
                both.start_soon(is_alive_and_leaves, one, [])
                both.start_soon(is_alive_and_leaves, other, [])
        served.signal(signal.SIGTERM)
        assert served.status() == 0
        served.wait_for("nothing is left")


async def test_a_second_SIGTERM_changes_nothing_about_the_close(runtime: str) -> None:
    """A silent peer gets one Close frame, the end within the close timeout, and the program ends well."""
    with program(SERVED, runtime) as served:
        async with raw_client(served.port(r"serving at (\d+)")) as client:
            served.signal(signal.SIGTERM)
            served.wait_for("told to stop")
            served.signal(signal.SIGTERM)
            *pings, last = await client.rest()
            assert {one.opcode for one in pings} <= {PING}
            assert last == Frame(CLOSE, close(1001, "server shutting down")[2:])
        assert served.status() == 0
        served.wait_for("nothing is left")


# -- hooks -------------------------------------------------------------------------------------


class Swallowing(Watched):
    """Takes its cancellation for something else."""

    async def on_message(self, message: str | bytes) -> None:
        with suppress(BaseException):
            await anyio.sleep_forever()


class Refusing(Watched):
    """Goes on after its cancellation until the attack is over."""

    async def on_message(self, message: str | bytes) -> None:
        with anyio.CancelScope(shield=True):
            await Watched.may_end.wait()


IMPATIENT = Policy(timeouts=Timeouts(handler=0.1, teardown=0.1))


def until_the_server_gave_up(*parts: bytes) -> Attack:
    """The hook that will not end is left behind, and ends after its actor."""

    async def attack(scene: Scene) -> None:
        await answers_the_close(*parts)(scene)
        await scene.ended()
        Watched.may_end.set()

    return attack


@parametrize(
    Case(
        "swallows it and returns",
        answers_the_close(GO),
        close(1011),
        ExitReason.HANDLER_TIMEOUT,
        actor=Swallowing,
        policy=IMPATIENT,
        errors=LOGGED,
    ),
    Case(
        "swallows it and goes on",
        until_the_server_gave_up(GO),
        close(1011),
        ExitReason.HANDLER_TIMEOUT,
        actor=Refusing,
        policy=IMPATIENT,
        errors=LOGGED,
        leaks=("a hook of Refusing",),
    ),
)
async def test_a_handler_whose_cancellation(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


class Strange(BaseException):
    """Nothing that anybody expects."""


RAISED: dict[str, BaseException] = {
    "KeyboardInterrupt": KeyboardInterrupt(),
    "SystemExit": SystemExit(3),
    "GeneratorExit": GeneratorExit(),
    "a foreign CancelledError": asyncio.CancelledError(),
    "BaseException": Strange(),
    "a group of them": BaseExceptionGroup("several", [KeyboardInterrupt(), ValueError()]),
    "StopIteration": StopIteration(),
    "an Exception": ValueError("secret"),
}


def raising(hook: str, error: BaseException) -> type[Watched]:
    """A class whose ``hook`` raises."""

    async def fail(self: Watched, *args: object) -> None:
        raise type(error)(*error.args)

    return type("Raising", (Echo,), {hook: fail})


class FailingUpgrade(Echo):
    @classmethod
    async def on_upgrade(cls, request: Request) -> None:
        raise SystemExit(3)


@parametrize(
    *(
        Case(
            f"{name} in {hook}",
            answers_the_close(*parts),
            close(1011),
            ExitReason.CRASH,
            {"reason": ""},
            actor=raising(hook, error),
            errors=LOGGED,
        )
        for name, error in RAISED.items()
        for hook, parts in (("on_connect", ()), ("on_message", (GO,)))
    ),
    Case(
        "SystemExit in on_upgrade",
        lambda scene: scene.client.request(),
        Answer(500),
        upgrade=False,
        actor=FailingUpgrade,
        errors=LOGGED,
    ),
)
async def test_a_hook_that_raises(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


# -- teardown ----------------------------------------------------------------------------------


@asynccontextmanager
async def noted() -> Iterator[None]:
    """A resource that can be seen to come and go."""
    Watched.messages.append("opened")
    try:
        yield
    finally:
        Watched.messages.append("closed")


class RaisingAtTheEnd(Echo):
    async def on_close(self, report: CloseReport) -> None:
        await super().on_close(report)
        raise ValueError("secret")


class ExitingAtTheEnd(Echo):
    async def on_close(self, report: CloseReport) -> None:
        await super().on_close(report)
        raise SystemExit(3)


class HangingAtTheEnd(Echo):
    async def on_close(self, report: CloseReport) -> None:
        await super().on_close(report)
        await anyio.sleep_forever()


class StubbornAtTheEnd(Echo):
    async def on_close(self, report: CloseReport) -> None:
        await super().on_close(report)
        with anyio.CancelScope(shield=True):
            await Watched.may_end.wait()


class OpeningAtTheEnd(Echo):
    async def on_close(self, report: CloseReport) -> None:
        await super().on_close(report)
        await self.enter(noted())


async def opens_and_closes(scene: Scene) -> None:
    await survives()(scene)
    await scene.ended()
    assert Watched.messages == ["opened", "closed"]


async def ends_before_its_actor(scene: Scene) -> None:
    await survives()(scene)
    await scene.ended()
    Watched.may_end.set()


@parametrize(
    *(
        Case(
            name,
            attack,
            text("well?") + close(1000),
            ExitReason.NORMAL,
            actor=actor,
            policy=IMPATIENT,
            errors=errors,
            leaks=leaks,
        )
        for name, attack, actor, errors, leaks in (
            ("raises", survives(), RaisingAtTheEnd, LOGGED, ()),
            ("exits", survives(), ExitingAtTheEnd, LOGGED, ()),
            ("hangs", survives(), HangingAtTheEnd, (), ()),
            (
                "hangs and refuses its cancellation",
                ends_before_its_actor,
                StubbornAtTheEnd,
                (),
                ("on_close of StubbornAtTheEnd",),
            ),
            ("opens a resource", opens_and_closes, OpeningAtTheEnd, (), ()),
        )
    ),
)
async def test_a_teardown_that(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


# -- text that means something elsewhere ---------------------------------------------------------


class Broadcasting(Watched):
    """Gives what it gets to everybody."""

    async def on_connect(self) -> None:
        self.join("all")

    async def on_message(self, message: str | bytes) -> None:
        self.publish("all", message)


async def says_it_to_two(scene: Scene) -> None:
    """What closes a WebSocket of Robyn is a message here, for whoever gets it."""
    other = await scene.dial()
    assert await other.request() == 101
    await other.send("Connection closed")
    for client in (scene.client, other):
        assert await client.frame() == Frame(TEXT, b"Connection closed")
    await leaves(other)
    await survives()(scene)


@parametrize(
    *(
        Case(said, survives(well=said), text(said) + close(1000), ExitReason.NORMAL)
        for said in (
            "Connection closed",  # what Robyn 0.88 sends and obeys
            "server shutting down",
            "service restart",
            "heartbeat lost",
            "close",
            '{"type": "websocket.close", "code": 1000}',
            "\x03\xe8",
        )
    ),
    Case(
        "to everybody",
        says_it_to_two,
        text("Connection closed") + text("well?") + close(1000),
        ExitReason.NORMAL,
        actor=Broadcasting,
    ),
)
async def test_control_strings_are_text(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)
