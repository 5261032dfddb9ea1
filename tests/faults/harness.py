"""One case of the fault suite: what a peer does, what it must get for that, and what must be left.

A case runs against a server with a neighbour, an honest connection.  After every case, whatever it
was: what came over the wire is what the case says, with one Close frame at most and nothing behind
it, and then the end; ``on_close`` ran once for every connection and its report says what was on the
wire; connections, registry, places, tasks, timers and sockets are back where they were; nothing was
logged as an error that the case does not name; the neighbour still echoes; the actors are gone.
"""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import anyio
import pytest

from actors import ActorRef, CloseReport, ConnectionActor, ExitReason
from supervisor import Admission, Limits, Policy, Route, Server, Timeouts
from supervisor.events import ConnectionOpened
from tests.raw import CLOSE, DEADLINE, PING, TEXT, Frame, RawClient, decode, encode, encode_close, raw_client
from tests.witness import Witness, open_sockets, running_tasks, serving, until

PARTINGS = ("eof", "reset")
"""Both ends of a stream, for an attacker who sends on while the server drops the connection."""


# -- what the server sends ---------------------------------------------------------------------


def frame(opcode: int, payload: bytes = b"") -> bytes:
    """The bytes of a frame of the server (RFC 6455, section 5.2)."""
    return encode(opcode, payload, masked=False)


def text(payload: str) -> bytes:
    """The bytes of a text message of the server."""
    return frame(TEXT, payload.encode())


def close(code: int | None, reason: str = "") -> bytes:
    """The bytes of a Close frame of the server."""
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason.encode())


def frames_of(wire: bytes, *, cut: bool = False) -> Iterator[Frame]:
    """The frames in ``wire``, all of them whole; with ``cut`` the last one need not be."""
    position = 0
    while (found := decode(wire, position, agreed=0x40)) is not None:
        one, position = found
        yield one
    assert cut or position == len(wire), f"a part of a frame at the end: {wire[position:]!r}"


def behind_pings(wire: bytes) -> bytes:
    """What is behind the pings of the heartbeat, which are numbered from 1; at least one is there."""
    number = 0
    while wire.startswith(ping := frame(PING, (number + 1).to_bytes(4, "big"))):
        wire, number = wire[len(ping) :], number + 1
    assert number, "no ping of the heartbeat"
    return wire


@dataclass(frozen=True)
class Answer:
    """An HTTP answer that refuses: its status, a part of its text, and fields that it must have."""

    status: int
    text: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, wire: bytes) -> None:
        """Check the whole answer: one status line, every field once, no byte behind the body."""
        head, _, body = wire.partition(b"\r\n\r\n")
        line, *lines = head.decode().split("\r\n")
        fields = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}
        assert len(fields) == len(lines), f"a field twice: {lines}"
        assert line.startswith(f"HTTP/1.1 {self.status} "), (line, body)
        assert int(fields["content-length"]) == len(body), f"more than the answer: {wire!r}"
        assert self.text in body.decode()
        assert fields["connection"] == "close"
        for name, value in self.fields.items():
            assert fields.get(name.lower()) == value, fields
        if self.status in (429, 503):
            assert int(fields["retry-after"]) >= 1


# -- actors ------------------------------------------------------------------------------------


class Watched(ConnectionActor):
    """Keeps count of what lives."""

    alive: ClassVar[weakref.WeakSet[Watched]]
    reports: ClassVar[list[CloseReport]]
    messages: ClassVar[list[str | bytes]]
    may_end: ClassVar[anyio.Event]
    """Set by an attack, for an actor that waits for it."""

    def __init__(self) -> None:
        Watched.alive.add(self)

    async def on_close(self, report: CloseReport) -> None:
        Watched.reports.append(report)

    @classmethod
    def begin(cls) -> None:
        """Begin a case."""
        Watched.alive = weakref.WeakSet()
        Watched.reports = []
        Watched.messages = []
        Watched.may_end = anyio.Event()


class Echo(Watched):
    async def on_message(self, message: str | bytes) -> None:
        await self.send(message)


class Sink(Watched):
    """Takes note of messages and says nothing."""

    async def on_message(self, message: str | bytes) -> None:
        Watched.messages.append(message)


class Closing(Watched):
    """Closes for a message."""

    async def on_message(self, message: str | bytes) -> None:
        self.close(4001, "ours")


NEIGHBOUR = Route(Echo, Policy(timeouts=Timeouts(), heartbeat=None, limits=Limits()))
"""Under no policy of a case."""


# -- cases -------------------------------------------------------------------------------------


class Scene:
    """A server under attack; what a case acts on."""

    server: Server
    witness: Witness
    client: RawClient
    """The attacker; its socket is closed at the end of the case."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.more: list[RawClient] = []
        self._caplog = caplog

    def logged(self) -> set[str]:
        """The loggers that have logged errors."""
        return loggers_of_errors(self._caplog)

    @property
    def attacked(self) -> ActorRef:
        """The actor of the attacker's connection, the last one that was opened."""
        return list(self.server.connections)[-1]

    async def dial(self) -> RawClient:
        """Another connection; closed at the end of the case."""
        client = await RawClient.dial(self.server)
        self.more.append(client)
        return client

    async def ended(self) -> None:
        """Wait until the server has done with a connection."""
        await until(lambda: self.witness.closed)

    async def refused(self) -> None:
        """Wait until the server has forgotten a connection that has not become a WebSocket."""
        await until(lambda: not self.server.site.upgrades and len(self.server.site.gate) == 1)


Attack = Callable[[Scene], Awaitable[object]]


@dataclass(frozen=True)
class Case:
    """One fault; see the module.

    ``attack`` gets the scene after the upgrade, or without it when ``upgrade`` is false.  ``wire`` is
    what must come from the server until the end of the stream, behind a 101: the bytes, or a function
    that checks them.  ``exit_reason`` is that of the connections, ``None`` when none is opened;
    ``reports`` are other fields of their close reports.  ``ends``: how the stream may end.  ``errors``:
    loggers that may log errors.  ``leaks``: what does not end.
    """

    name: str
    attack: Attack
    wire: bytes | Callable[[bytes], object] = b""
    exit_reason: ExitReason | None = None
    reports: Mapping[str, object] = field(default_factory=dict)
    upgrade: bool = True
    actor: type[ConnectionActor] = Echo
    policy: Policy | None = None
    admission: Admission | None = None
    ends: tuple[str, ...] = ("eof",)
    errors: tuple[str, ...] = ()
    leaks: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    receive_buffer: int | None = None


def parametrize(*cases: Case) -> pytest.MarkDecorator:
    """Run a test once for each case."""
    assert len({case.name for case in cases}) == len(cases), "two cases of one name"
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name.replace(" ", "_"))


def fails(name: str, attack: Attack | bytes, code: int, reason: str, **more: Any) -> Case:
    """A case whose connection the server fails, without waiting for the peer's Close frame."""
    if isinstance(attack, bytes):
        attack = sends(attack)
    return Case(name, attack, close(code, reason), ExitReason.of_code(code), **more)


def sends(*parts: bytes) -> Attack:
    """An attack that sends bytes; the server must end the connection."""

    async def attack(scene: Scene) -> None:
        for part in parts:
            await scene.client.send_bytes(part)

    return attack


def answers_the_close(*parts: bytes) -> Attack:
    """An attack that sends bytes; the server must close, and gets its Close frame back."""

    async def attack(scene: Scene) -> None:
        await sends(*parts)(scene)
        await close_of(scene.client)

    return attack


def survives(*parts: bytes, well: str = "well?") -> Attack:
    """What is no attack: after these bytes a message is still answered, and the peer closes."""

    async def attack(scene: Scene) -> None:
        await sends(*parts)(scene)
        await scene.client.send(well)
        while (await scene.client.frame()).payload != well.encode():
            pass
        await scene.client.send_close(1000)

    return attack


async def close_of(client: RawClient) -> None:
    """Read up to the server's Close frame, and send it back."""
    while (one := await client.frame()).opcode != CLOSE:
        pass
    await client.send_bytes(encode(CLOSE, one.payload))


async def drip(client: RawClient, parts: Iterable[bytes], pause: float = 0.01) -> None:
    """Send one part after the other, slowly, and read; until there are no more, or nobody takes them."""
    for part in parts:
        try:
            await client.send_bytes(part)
        except ConnectionError:
            return
        with anyio.move_on_after(pause):
            while await client.receive():
                pass
            await anyio.sleep_forever()


async def pour(client: RawClient, parts: Iterable[bytes]) -> None:
    """Send as much as the server takes, until it takes no more."""
    for part in parts:
        try:
            await client.send_bytes(part)
        except ConnectionError:
            return


async def flood(client: RawClient, parts: Iterable[bytes]) -> None:
    """Pour, and read meanwhile."""
    async with anyio.create_task_group() as both_ways:
        both_ways.start_soon(pour, client, parts)
        while await client.receive():
            pass


async def run(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    """Run one case and check everything."""
    scene = Scene(caplog)
    async with (
        serving({"/": case.actor, "/neighbour": NEIGHBOUR}, policy=case.policy, admission=case.admission) as (
            scene.server,
            scene.witness,
        ),
        watched(scene.server, scene.witness, caplog, errors=case.errors, leaks=case.leaks),
    ):
        scene.client = await RawClient.dial(scene.server, receive_buffer=case.receive_buffer)
        try:
            if case.upgrade:
                with anyio.fail_after(DEADLINE):
                    assert await scene.client.request("/", case.headers) == 101
            with anyio.fail_after(DEADLINE):
                await case.attack(scene)
            if scene.client.sock.fileno() >= 0:
                await scene.client.rest_of_bytes()
                assert scene.client.over in case.ends, scene.client.over
        finally:
            for client in (scene.client, *scene.more):
                client.close()
        check_wire(case, scene.client)
    check_reports(case, scene)
    scene.witness.events.clear()  # a crash holds the frames that it went through, and they the actor
    for record in caplog.records:
        record.args = record.exc_info = None
    gc.collect()
    assert not Watched.alive


def check_wire(case: Case, client: RawClient) -> None:
    """Check what came, and that a Close frame is the last of it."""
    wire = bytes(client.wire)
    if wire.startswith(b"HTTP/1.1 101 "):
        _, _, wire = wire.partition(b"\r\n\r\n")
    if callable(case.wire):
        case.wire(wire)
    else:
        assert wire == case.wire
    if not isinstance(case.wire, Answer):
        opcodes = [one.opcode for one in frames_of(wire, cut=callable(case.wire))]
        assert CLOSE not in opcodes[:-1], "frames behind a Close frame"


def check_reports(case: Case, scene: Scene) -> None:
    """Check that what the attacker's actor was told is what was on the wire."""
    reports = Watched.reports[:-1]  # the last one is the neighbour's
    if case.exit_reason is None:
        assert not reports
        return
    expected = {"exit_reason": case.exit_reason, **case.reports}
    if scene.client.over == "eof" and len(reports) == 1:
        _, _, wire = bytes(scene.client.wire).partition(b"\r\n\r\n")
        on_the_wire = [one.close for one in frames_of(wire, cut=True) if one.opcode == CLOSE]
        expected = {"sent": on_the_wire[0] if on_the_wire else None, **expected}
    for report in reports:
        assert {name: getattr(report, name) for name in expected} == expected


@asynccontextmanager
async def watched(
    server: Server,
    witness: Witness,
    caplog: pytest.LogCaptureFixture,
    *,
    errors: tuple[str, ...] = (),
    leaks: tuple[str, ...] = (),
) -> AsyncIterator[None]:
    """Open the neighbour; after the block check that only the neighbour is left, and that it is well."""
    Watched.begin()
    caplog.set_level(logging.ERROR)
    async with raw_client(server, "/neighbour") as neighbour:
        await echoes(neighbour)
        counts: list[Callable[[], object]] = [
            lambda: len(server.connections),
            lambda: len(server.registry),
            lambda: len(server.site.gate),
            lambda: len(server.site.upgrades),
            lambda: server.site.gate.known_addresses,
            lambda: len(server.site.runtime.timers),
            running_tasks,
            open_sockets,
        ]
        before = [count() for count in counts]

        yield

        await until(lambda: [count() for count in counts] == before)
        await echoes(neighbour)
        opened = [event.id for event in witness.of(ConnectionOpened)]
        assert sorted(event.id for event in witness.closed) == sorted(opened[1:])
        assert len(Watched.reports) == len(opened) - 1, "on_close runs once for every connection"
        assert tuple(leak for event in witness.closed for leak in event.leaks) == leaks
        await neighbour.send_bytes(encode_close())
        await neighbour.rest()
    strange = loggers_of_errors(caplog) - set(errors)
    assert not strange, [record.getMessage() for record in caplog.get_records("call")]


def loggers_of_errors(caplog: pytest.LogCaptureFixture) -> set[str]:
    """The loggers that have logged errors in this test."""
    return {record.name for record in caplog.get_records("call") if record.levelno >= logging.ERROR}


async def echoes(client: RawClient) -> None:
    """Check that a message comes back."""
    await client.send("still there?")
    assert (await client.frame()) == Frame(TEXT, b"still there?")
