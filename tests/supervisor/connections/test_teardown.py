"""What an actor owns is gone when its report is delivered, whatever ended the connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import ClassVar

import anyio
import pytest

from actors import ActorRef, CloseReport, ConnectionActor, ExitReason, Initiator
from supervisor import Policy, Server, Timeouts
from supervisor.events import ConnectionClosed, Event
from tests.raw import CLOSE, DEADLINE, TEXT, RawClient, encode, encode_close, raw_client
from tests.witness import Witness, serving, until

pytestmark = pytest.mark.every_runtime

WHERE = ["on_connect", "on_message", "on_info", "timer", "task", "on_close", "resource"]
"""Where an ``Owner`` can do something bad, in the order in which one message leads there."""


class Boom(BaseException):
    pass


class Owner(ConnectionActor):
    """Owns a task, resources and a timer; at one place, named in its path, it does something bad."""

    journals: ClassVar[dict[str, list[str]]] = {}
    stuck: ClassVar[set[str]] = set()
    let_go: ClassVar[anyio.Event]

    async def on_connect(self) -> None:
        self.journal = self.journals.setdefault(self.id, [])
        await self.enter(self.resource("first"))
        await self.enter(self.plain_resource("second"))
        await self.enter(self.resource("third", "resource"))
        self.spawn(self.task)
        self.every(0.001, "beat")
        await until(lambda: "task runs" in self.journal)
        await self.send("ready")
        await self.bad_thing("on_connect")

    async def on_message(self, message: str) -> None:
        await self.bad_thing("on_message")
        self.ref.tell("told")

    async def on_info(self, message: str) -> None:
        if message == "told":
            await self.bad_thing("on_info")
            self.after(0, "timer")
        elif message == "timer":
            await self.bad_thing("timer")
            self.spawn(self.bad_thing, "task")
            if self.path_params["where"] in ("on_close", "resource"):
                self.close(4001, "done")

    async def on_close(self, report: CloseReport) -> None:
        self.journal.append("on_close")
        await self.bad_thing("on_close")

    async def bad_thing(self, where: str) -> None:
        if where == self.path_params["where"]:
            if self.path_params["what"] == "raise":
                raise Boom(where)
            self.stuck.add(self.id)
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                if self.path_params["what"] == "hang":
                    raise
                with anyio.CancelScope(shield=True):
                    await self.let_go.wait()

    async def task(self) -> None:
        self.journal.append("task runs")
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):  # its end takes a while
                await anyio.sleep(0.005)
            self.journal.append("task ends")

    @asynccontextmanager
    async def resource(self, name: str, where: str = "") -> AsyncIterator[None]:
        yield
        await anyio.sleep(0.005)
        self.journal.append(f"{name} closes")
        await self.bad_thing(where)

    @contextmanager
    def plain_resource(self, name: str) -> Iterator[None]:
        yield
        self.journal.append(f"{name} closes")


class Echo(ConnectionActor):
    async def on_message(self, message: str) -> None:
        await self.send(message)


ROUTES = {"/:where/:what": Owner, "/echo": Echo}
WHOLE_LIFE = [
    "task runs",
    "task ends",
    "on_close",
    "third closes",
    "second closes",
    "first closes",
    "reported, no timer left",
]


@pytest.fixture(autouse=True)
def no_journals() -> Iterator[None]:
    yield
    Owner.journals.clear()
    Owner.stuck.clear()


@asynccontextmanager
async def owners(
    *, close: float = DEADLINE, teardown: float = DEADLINE
) -> AsyncIterator[tuple[Server, Witness]]:
    """Serve ``Owner``; the delivery of a report is an entry of its journal."""
    policy = Policy(timeouts=Timeouts(close=close, teardown=teardown), heartbeat=None)

    def reported(event: Event) -> None:
        if isinstance(event, ConnectionClosed) and event.id in Owner.journals:
            left = (
                len(server.site.runtime.timers) - timers - len(server.connections)
            )  # each other one is watched
            Owner.journals[event.id].append(f"reported, {left or 'no'} timer left")

    Owner.let_go = anyio.Event()
    async with serving(ROUTES, hooks=[reported], policy=policy) as (server, witness):
        timers = len(server.site.runtime.timers)
        try:
            yield server, witness
        finally:
            Owner.let_go.set()


async def ready(client: RawClient) -> None:
    assert (await client.frame()).text == "ready"


# -- endings -----------------------------------------------------------------------------------

Act = Callable[[RawClient, ActorRef], Awaitable[object]]


async def closed_by_a_message(client: RawClient, ref: ActorRef) -> None:
    ref.close(4001, "done")
    assert await client.answer_close() == (4001, "done")


async def closed_behind_the_queue(client: RawClient, ref: ActorRef) -> None:
    ref.close(4001, "done", drain=True)
    assert await client.answer_close() == (4001, "done")


async def closed_after_a_notice(client: RawClient, ref: ActorRef) -> None:
    ref.close(4001, "done", notice="soon", grace=0.01)
    assert (await client.frame()).text == "soon"
    assert await client.answer_close() == (4001, "done")


async def peer_closes_within_the_grace(client: RawClient, ref: ActorRef) -> None:
    ref.close(4001, "done", notice="soon", grace=1000)
    await client.frame()
    await client.send_close(4002, "bye")


async def peer_ends_within_the_grace(client: RawClient, ref: ActorRef) -> None:
    ref.close(4001, "done", notice="soon", grace=1000)
    await client.frame()
    client.finish()


async def peer_closes(client: RawClient, ref: ActorRef) -> None:
    await client.send_close(4002, "bye")


async def peer_closes_behind_messages(client: RawClient, ref: ActorRef) -> None:
    await client.send_bytes(encode(TEXT, b"one") + encode(TEXT, b"two") + encode_close(4002, "bye"))


async def fin(client: RawClient, ref: ActorRef) -> None:
    client.finish()


async def fin_inside_of_a_frame(client: RawClient, ref: ActorRef) -> None:
    await client.send_bytes(encode(TEXT, b"half of it")[:-5])
    client.finish()


async def rst(client: RawClient, ref: ActorRef) -> None:
    client.reset()


async def rst_behind_messages(client: RawClient, ref: ActorRef) -> None:
    await client.send_bytes(encode(TEXT, b"one") * 3)
    client.reset()


async def silence_after_our_close(client: RawClient, ref: ActorRef) -> None:
    ref.close(4001, "done")
    await client.frame()


async def fin_after_our_close(client: RawClient, ref: ActorRef) -> None:
    ref.close(4001, "done")
    await client.frame()
    client.finish()


async def rst_after_our_close(client: RawClient, ref: ActorRef) -> None:
    ref.close(4001, "done")
    await client.frame()
    client.reset()


async def broken_frame(client: RawClient, ref: ActorRef) -> None:
    await client.send_bytes(b"\xff\xff")
    assert (await client.frame()).close[0] == 1002
    client.finish()


async def broken_frame_and_silence(client: RawClient, ref: ActorRef) -> None:
    await client.send_bytes(b"\xff\xff")
    assert (await client.frame()).close[0] == 1002


L, P, T = Initiator.LOCAL, Initiator.PEER, Initiator.TRANSPORT

ENDINGS: list[tuple[Act, int, Initiator, bool]] = [
    (closed_by_a_message, 4001, L, True),
    (closed_behind_the_queue, 4001, L, True),
    (closed_after_a_notice, 4001, L, True),
    (peer_closes_within_the_grace, 4002, P, True),
    (peer_ends_within_the_grace, 1006, T, False),
    (peer_closes, 4002, P, True),
    (peer_closes_behind_messages, 4002, P, True),
    (fin, 1006, T, False),
    (fin_inside_of_a_frame, 1006, T, False),
    (rst, 1006, T, False),
    (rst_behind_messages, 1006, T, False),
    (silence_after_our_close, 4001, L, False),
    (fin_after_our_close, 4001, L, False),
    (rst_after_our_close, 4001, L, False),
    (broken_frame, 1002, L, False),
    (broken_frame_and_silence, 1002, L, False),
]


@pytest.mark.parametrize(
    ("end", "code", "initiator", "clean"), ENDINGS, ids=[end.__name__ for end, *_ in ENDINGS]
)
async def test_all_is_gone_when_the_report_is_delivered(
    end: Act, code: int, initiator: Initiator, clean: bool
) -> None:
    close = 0.2 if "silence" in end.__name__ else DEADLINE
    async with owners(close=close) as (server, witness), raw_client(server, "/nowhere/nothing") as client:
        await ready(client)
        (ref,) = server.connections
        await end(client, ref)
        with anyio.fail_after(DEADLINE):
            report = await ref.wait_closed()

    assert Owner.journals == {ref.id: WHOLE_LIFE}
    assert (report.code, report.initiator, report.clean) == (code, initiator, clean)
    assert witness.closed[0].report is report
    assert witness.closed[0].leaks == ()
    assert witness.crashes == []


@pytest.mark.parametrize("where", WHERE)
async def test_all_is_gone_after_a_crash_anywhere(where: str) -> None:
    async with (
        owners() as (server, witness),
        raw_client(server, "/echo") as neighbour,
        raw_client(server, f"/{where}/raise") as client,
    ):
        await ready(client)
        await client.send("go")
        close = await client.answer_close()
        await client.rest()
        closed = await witness.one_closed()
        await neighbour.send("well?")
        assert (await neighbour.frame()).text == "well?"

    too_late = where in ("on_close", "resource")
    assert close == ((4001, "done") if too_late else (1011, ""))
    assert closed.report.exit_reason is (ExitReason.NORMAL if too_late else ExitReason.CRASH)
    assert Owner.journals == {closed.id: WHOLE_LIFE}
    assert closed.leaks == ()
    assert [str(error) for error in witness.crashes] == ([] if where == "resource" else [where])


# -- the end of the program --------------------------------------------------------------------


def cancelled(scope: anyio.CancelScope) -> None:
    scope.cancel()


def cancelled_natively(_: anyio.CancelScope) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


def interrupted(_: anyio.CancelScope) -> None:
    raise KeyboardInterrupt


def left(_: anyio.CancelScope) -> None:
    """The block just ends."""


@pytest.mark.parametrize("peer_answers", [True, False], ids=["answered", "silent"])
@pytest.mark.parametrize("leave", [cancelled, cancelled_natively, interrupted, left])
async def test_all_is_gone_when_the_program_ends(
    leave: Callable[[anyio.CancelScope], None], peer_answers: bool, anyio_backend_name: str
) -> None:
    if leave is cancelled_natively and anyio_backend_name == "trio":
        leave = cancelled  # there is no other way to cancel
    clients: list[RawClient] = []
    closes: list[tuple[int, str]] = []

    async def program() -> None:
        with anyio.CancelScope() as scope:
            async with owners(close=DEADLINE if peer_answers else 0.2, teardown=0.5) as (server, _):
                for target in ("/nowhere/nothing", "/nowhere/nothing", "/on_message/hang"):
                    clients.append(await RawClient.dial(server))
                    await clients[-1].request(target)
                    await ready(clients[-1])
                    await clients[-1].send("go")
                await until(lambda: Owner.stuck)
                leaving.set()
                leave(scope)
                if leave is not left:
                    await anyio.sleep_forever()

    async def peer() -> None:
        await leaving.wait()
        for client in clients:
            frames = [await client.answer_close()] if peer_answers else []
            frames += [frame.close for frame in await client.rest() if frame.opcode == CLOSE]
            closes.extend(frames)
            client.close()
        await over.wait()  # the tasks are counted

    leaving, over = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(peer)
        ended_by = await outcome(program)
        over.set()

    assert ended_by is {cancelled_natively: asyncio.CancelledError, interrupted: KeyboardInterrupt}.get(leave)
    assert closes == [(1001, "server shutting down")] * 3
    assert [journal[:-1] for journal in Owner.journals.values()] == [WHOLE_LIFE[:-1]] * 3


async def outcome(program: Callable[[], Awaitable[None]]) -> type[BaseException] | None:
    """Run ``program`` and say what it ended with."""
    try:
        await program()
    except BaseException as error:
        return type(error)
    return None


# -- what does not end -------------------------------------------------------------------------


@dataclass(frozen=True)
class Stuck:
    """Something of an actor that does not end when it must, and as what it is reported."""

    where: str
    what: str
    leak: str | None

    @property
    def path(self) -> str:
        return f"/{self.where}/{self.what}"


STUCK = [
    Stuck("on_connect", "hang", None),
    Stuck("on_message", "hang", None),
    Stuck("on_info", "hang", None),
    Stuck("timer", "hang", None),
    Stuck("task", "hang", None),
    Stuck("on_close", "hang", None),
    Stuck("resource", "hang", None),
    Stuck("on_connect", "swallow", "a hook of Owner"),
    Stuck("on_message", "swallow", "a hook of Owner"),
    Stuck("on_info", "swallow", "a hook of Owner"),
    Stuck("timer", "swallow", "a hook of Owner"),
    Stuck("task", "swallow", "Owner.bad_thing of "),
    Stuck("on_close", "swallow", "on_close of Owner"),
    Stuck("resource", "swallow", "_AsyncGeneratorContextManager of "),
]


async def test_what_does_not_end_is_cancelled_and_then_reported_and_the_server_goes_on() -> None:
    clients: dict[str, RawClient] = {}

    async def be_closed(stuck: Stuck, ref: ActorRef) -> None:
        client = clients[ref.id]
        await ready(client)
        await client.send("go")
        if stuck.where in WHERE[:5]:
            await until(lambda: ref.id in Owner.stuck)
            ref.close(4001, "done")
        assert await client.answer_close() == (4001, "done")
        assert await client.rest() == []

    async with owners(teardown=0.5) as (server, witness), AsyncExitStack() as open_clients:
        neighbour = await open_clients.enter_async_context(raw_client(server, "/echo"))
        of: dict[str, Stuck] = {}
        async with anyio.create_task_group() as task_group:
            for stuck in STUCK:
                known = set(server.connections)
                client = await open_clients.enter_async_context(raw_client(server, stuck.path))
                (ref,) = set(server.connections) - known
                clients[ref.id], of[ref.id] = client, stuck
                task_group.start_soon(be_closed, stuck, ref)
        await until(lambda: len(witness.closed) == len(STUCK))
        await neighbour.send("well?")
        answer = await neighbour.frame()
        crashes = witness.crashes

    assert answer.text == "well?"
    assert crashes == []
    closes = [closed for closed in witness.closed if closed.id in of]
    leaks = {of[closed.id]: closed.leaks for closed in closes}
    for stuck in STUCK:
        assert len(leaks[stuck]) == (stuck.leak is not None), f"{stuck}: {leaks[stuck]}"
        assert stuck.leak is None or leaks[stuck][0].startswith(stuck.leak)
    lives = {of[id]: journal for id, journal in Owner.journals.items()}
    assert {stuck: life[:-1] for stuck, life in lives.items()} == dict.fromkeys(STUCK, WHOLE_LIFE[:-1])
    assert all(closed.report.clean for closed in closes)
