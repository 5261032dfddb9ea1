"""What a crash of a connection means: ``CLOSE``, ``RESUME``, ``RESTART`` on the live socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
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
    Restarted,
)
from actors.cell.cell import Cell
from actors.dead_letters import DeadLetter
from actors.errors import HandlerTimeout, ResourceLost
from actors.testing import Client, ManualClock
from supervisor import Backoff, ChildSpec, OnCrash, Policy, RestartLimit, Server, Timeouts
from supervisor.events import ActorRestarted
from tests.memory import serving_in_memory
from tests.raw import BINARY, CONTINUATION, PING, PONG, TEXT, encode, encode_close, raw_client
from tests.witness import Witness, serving, until

CLOSE = Policy(heartbeat=None, crash=OnCrash.CLOSE)
RESUME = Policy(heartbeat=None, crash=OnCrash.RESUME)
RESTART = Policy(heartbeat=None, crash=OnCrash.RESTART, backoff=Backoff(initial=0.001, maximum=0.001))
IMPATIENT = Timeouts(teardown=0.2)
"""For where a hook runs into its end on purpose."""


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)  # the tracebacks of crashes that are wanted


class Boom(Exception):
    """What a hook raises when it is told to."""


class Phoenix(ConnectionActor):
    """Answers with how it came to life and how many messages it has had; crashes at ``boom``."""

    def __init__(self) -> None:
        self.had = 0
        self.born = "made"

    async def on_connect(self) -> None:
        self.born = "connected"

    async def on_restart(self, error: BaseException) -> None:
        self.born = f"restarted for {error}"

    async def on_message(self, message: str | bytes) -> None:
        if message == "boom":
            raise Boom(message)
        self.had += 1
        await self.send(f"{message!s}: {self.born}, {self.had}")

    async def on_info(self, message: Any) -> Any:
        if message == "boom":
            raise Boom(message)
        return f"{message}: {self.born}"


def letters_of(server: Server) -> list[DeadLetter]:
    """The dead letters of a server so far."""
    return list(server.site.runtime.dead_letters.last)


def cell_of(server: Server) -> Cell:
    """The cell of the only connection."""
    (ref,) = server.connections
    return ref._cell


def mailbox_of(server: Server) -> int:
    """How many messages wait for the only connection."""
    return server.tree.describe().children[1].children[0].mailbox


# -- the three policies ------------------------------------------------------------------------


async def test_close_says_1011_with_an_empty_reason_and_makes_no_second_instance() -> None:
    made = count()

    class Mortal(Phoenix):
        def __init__(self) -> None:
            super().__init__()
            next(made)

    async with serving(Mortal, policy=CLOSE) as (server, witness), raw_client(server) as client:
        await client.send("boom")

        assert await client.answer_close() == (1011, "")
        assert await client.rest() == []
        report = (await witness.one_closed()).report
        assert (report.exit_reason, report.initiator, report.clean) == (
            ExitReason.CRASH,
            Initiator.LOCAL,
            True,
        )
        assert next(made) == 1
        assert witness.of(ActorRestarted) == []
        assert letters_of(server) == [DeadLetter("boom", report_id(witness), "crashed")]


def report_id(witness: Witness) -> str:
    """The id of the only connection that has ended."""
    (closed,) = witness.closed
    return closed.id


async def test_resume_makes_the_message_a_dead_letter_and_keeps_the_state() -> None:
    async with serving(Phoenix, policy=RESUME) as (server, witness), raw_client(server) as client:
        await client.send_bytes(b"".join(encode(TEXT, one) for one in (b"a", b"boom", b"b", b"boom", b"c")))

        assert [(await client.frame()).text for _ in range(3)] == [
            "a: connected, 1",
            "b: connected, 2",
            "c: connected, 3",
        ]
        cell = cell_of(server)
        assert cell.incarnation_number == 1
        assert letters_of(server) == [DeadLetter("boom", cell.id, "crashed")] * 2
        assert [str(error) for error in witness.crashes] == ["boom", "boom"]
        assert witness.of(ActorRestarted) == []


@pytest.mark.every_runtime
async def test_restart_puts_a_new_instance_on_the_same_socket_with_the_same_id_and_ref() -> None:
    async with serving(Phoenix, policy=RESTART) as (server, witness), raw_client(server) as client:
        await client.send("a")
        assert (await client.frame()).text == "a: connected, 1"
        (ref,) = server.connections
        cell = ref._cell
        first, name = cell.actor, cell.id

        for incarnation in (2, 3, 4):
            await client.send("boom")
            await client.send("b")
            assert (await client.frame()).text == "b: restarted for boom, 1"
            assert cell.incarnation_number == incarnation

        assert list(server.connections) == [ref]
        assert server.registry[name] == ref
        assert cell.actor is not first
        assert cell.actor is not None
        assert (cell.actor.id, cell.actor.ref) == (name, ref)
        assert witness.of(ActorRestarted) == [ActorRestarted(ref, n) for n in (2, 3, 4)]
        assert witness.closed == []


@pytest.mark.every_runtime
async def test_the_queue_is_kept_in_order_through_every_crash() -> None:
    messages = [b"boom" if number % 5 == 2 else b"%d" % number for number in range(30)]
    limit = RestartLimit(count=100, within=100)
    policy = Policy(restarts=limit).over(RESTART)

    async with serving(Phoenix, policy=policy) as (server, witness), raw_client(server) as client:
        await client.send_bytes(b"".join(encode(TEXT, message) for message in messages))

        answers = [(await client.frame()).text.partition(":")[0] for _ in range(24)]
        assert answers == [message.decode() for message in messages if message != b"boom"]
        assert letters_of(server) == [DeadLetter("boom", cell_of(server).id, "crashed")] * 6
        assert len(witness.of(ActorRestarted)) == 6


async def test_told_messages_and_the_peers_keep_their_common_order_through_a_crash() -> None:
    gate = anyio.Event()

    class Gated(Phoenix):
        async def on_message(self, message: str | bytes) -> None:
            if message == "wait":
                await gate.wait()
                raise Boom
            await super().on_message(message)

        async def on_info(self, message: Any) -> None:
            await self.send(f"{message}: told")

    async with serving(Gated, policy=RESTART) as (server, _), raw_client(server) as client:
        await client.send("wait")
        await until(lambda: cell_of(server).hook.since is not None)
        for number in range(4):
            await client.send(f"{number}")
            await until(lambda number=number: mailbox_of(server) == 2 * number + 1)  # type: ignore[misc]  # bound early
            cell_of(server).ref.tell(number)

        gate.set()

        answers = [(await client.frame()).text for _ in range(8)]
        assert answers == [text for n in range(4) for text in (f"{n}: restarted for , {n + 1}", f"{n}: told")]


# -- wherever it comes from --------------------------------------------------------------------


@asynccontextmanager
async def group() -> AsyncIterator[anyio.abc.TaskGroup]:
    async with anyio.create_task_group() as task_group:
        yield task_group


async def fail() -> None:
    raise Boom("boom")


class Fragile(Phoenix):
    """Crashes in the way that the message names."""

    async def on_connect(self) -> None:
        await super().on_connect()
        if self.query_params.get("crash") == "connect":
            raise Boom("boom")

    async def on_message(self, message: str | bytes) -> None:
        if message == "task":
            self.spawn(fail)
        elif message == "task while a hook runs":
            self.spawn(fail)
            await anyio.sleep_forever()
        elif message == "resource":
            (await self.enter(group())).start_soon(fail)
        elif message == "timer":
            self.after(0, "boom", key="timer")
        elif message == "told":
            self.ref.tell("boom")
        elif message in RAISED:
            raise RAISED[str(message)]
        else:
            await super().on_message(message)


RAISED: dict[str, BaseException] = {
    "SystemExit": SystemExit("boom"),
    "KeyboardInterrupt": KeyboardInterrupt("boom"),
    "a foreign cancellation": asyncio.CancelledError("boom"),
    "a group": BaseExceptionGroup("boom", [Boom("boom")]),
}
WAYS = ["task", "task while a hook runs", "resource", "timer", "told", "boom", *RAISED]


@pytest.mark.parametrize("way", WAYS)
async def test_close_ends_the_connection_wherever_the_crash_comes_from(way: str) -> None:
    policy = Policy(timeouts=IMPATIENT).over(CLOSE)

    async with serving(Fragile, policy=policy) as (server, witness), raw_client(server) as client:
        await client.send(way)

        assert await client.answer_close() == (1011, "")
        assert (await witness.one_closed()).report.exit_reason is ExitReason.CRASH


@pytest.mark.parametrize("way", [way for way in WAYS if way != "task while a hook runs"])
async def test_resume_goes_on_wherever_the_crash_comes_from(way: str) -> None:
    async with serving(Fragile, policy=RESUME) as (server, witness), raw_client(server) as client:
        await client.send(way)
        await until(lambda: witness.crashes)
        await client.send("a")

        assert (await client.frame()).text == "a: connected, 1"
        assert cell_of(server).incarnation_number == 1
        assert len(witness.crashes) == 1


@pytest.mark.parametrize("way", WAYS)
async def test_restart_makes_one_new_instance_wherever_the_crash_comes_from(way: str) -> None:
    async with serving(Fragile, policy=RESTART) as (server, witness), raw_client(server) as client:
        await client.send(way)
        await until(lambda: witness.crashes)
        await client.send("a")

        answer = (await client.frame()).text
        assert answer.startswith("a: restarted for ")
        assert answer.endswith(", 1")
        assert cell_of(server).incarnation_number == 2
        assert len(witness.crashes) == 1


async def test_a_crash_of_a_task_cancels_the_running_hook_and_its_message_is_a_dead_letter() -> None:
    async with serving(Fragile, policy=RESTART) as (server, _), raw_client(server) as client:
        await client.send("task while a hook runs")
        await client.send("a")

        assert (await client.frame()).text == "a: restarted for boom, 1"
        assert letters_of(server) == [DeadLetter("task while a hook runs", cell_of(server).id, "crashed")]


async def test_a_lost_resource_is_the_error_of_the_restart() -> None:
    async with serving(Fragile, policy=RESTART) as (server, witness), raw_client(server) as client:
        await client.send("resource")
        await until(lambda: witness.crashes)

        assert isinstance(witness.crashes[0], ResourceLost)


async def test_a_crash_in_on_connect_is_followed_by_on_restart_and_not_by_a_second_on_connect() -> None:
    async with (
        serving(Fragile, policy=RESTART) as (server, _),
        raw_client(server, "/?crash=connect") as client,
    ):
        await client.send("a")

        assert (await client.frame()).text == "a: restarted for boom, 1"


async def test_the_first_instance_that_cannot_be_made_closes_under_every_policy() -> None:
    class Unborn(ConnectionActor):
        def __init__(self) -> None:
            raise Boom

    for policy in (CLOSE, RESUME, RESTART):
        async with serving(Unborn, policy=policy) as (server, witness), raw_client(server) as client:
            assert await client.answer_close() == (1011, "")
            assert (await witness.one_closed()).report.exit_reason is ExitReason.CRASH


# -- between two lives -------------------------------------------------------------------------


async def test_tasks_timers_and_resources_of_the_old_life_have_ended_before_the_new_one_begins() -> None:
    journal: list[str] = []

    class Owner(ConnectionActor):
        async def on_connect(self) -> None:
            await self.enter(self.resource("first"))
            await self.enter(self.resource("second"))
            self.spawn(self.work)
            self.every(0.001, "tick", key="beat")
            self.after(0.05, "too late", key="late")

        async def on_restart(self, error: BaseException) -> None:
            journal.append("on_restart")

        async def on_message(self, message: str | bytes) -> None:
            await until(lambda: "tick" in journal or mailbox_of(server))
            journal.clear()
            raise Boom

        async def on_info(self, message: Any) -> None:
            journal.append(message)

        async def work(self) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.01)
                journal.append("the task has ended")

        @asynccontextmanager
        async def resource(self, name: str) -> AsyncIterator[None]:
            yield
            await anyio.sleep(0.01)
            journal.append(f"the {name} resource has ended")

    async with serving(Owner, policy=RESTART) as (server, witness), raw_client(server) as client:
        await client.send("boom")
        await until(lambda: "on_restart" in journal)
        await anyio.sleep(0.06)  # longer than the old timers take: one that is left would show

        assert journal == [
            "the task has ended",
            "the second resource has ended",
            "the first resource has ended",
            "on_restart",
        ]
        await client.send_close()
        assert not (await witness.one_closed()).leaks


class Held(Phoenix):
    """Its old life ends when the test lets it."""

    let_go: anyio.Event

    async def on_connect(self) -> None:
        await super().on_connect()
        self.spawn(self.hold)

    async def hold(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await self.let_go.wait()


@pytest.mark.every_runtime
async def test_reading_is_paused_between_two_lives_and_nothing_is_lost() -> None:
    Held.let_go = anyio.Event()
    size, messages = 32 * 1024, 1000  # more than the kernel's buffers hold
    heard: list[int] = []

    class Counting(Held):
        async def on_message(self, message: str | bytes) -> None:
            if message == "boom":
                raise Boom
            heard.append(int(message[:8]))

    async with serving(Counting, policy=RESTART) as (server, _), raw_client(server) as client:
        cell: Any = cell_of(server)
        await client.send("boom")
        await until(lambda: not cell.reading)

        async with anyio.create_task_group() as task_group:

            async def pour() -> None:
                for number in range(messages):
                    await client.send(b"%08d" % number + bytes(size))

            task_group.start_soon(pour)
            for _ in range(200):  # turns of the event loop, in each of which a reader would read
                await anyio.lowlevel.checkpoint()
            one_read = 256 * 1024 // size
            assert cell.messages_in <= 1 + one_read
            assert heard == []
            Held.let_go.set()

        await until(lambda: len(heard) == messages)
        assert heard == list(range(messages))
        assert cell.incarnation_number == 2


async def test_asks_of_the_old_life_get_actor_stopped_and_later_ones_an_answer() -> None:
    Held.let_go = anyio.Event()
    gate = anyio.Event()
    failed: list[str] = []

    class Asked(Held):
        async def on_info(self, message: Any) -> Any:
            if message == "boom":
                await gate.wait()
            return await super().on_info(message)

    async def fails(ref: ActorRef, message: str) -> None:
        with pytest.raises(ActorStopped):
            await ref.ask(message, timeout=None)
        failed.append(message)

    async with serving(Asked, policy=RESTART) as (server, _), raw_client(server) as client:
        cell = cell_of(server)
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(fails, cell.ref, "boom")
            await until(lambda: cell.hook.since is not None)
            task_group.start_soon(fails, cell.ref, "queued")
            await until(lambda: mailbox_of(server) == 1)
            gate.set()
            await until(lambda: sorted(failed) == ["boom", "queued"])  # the old life has not even ended
            answers: list[Any] = []

            async def ask() -> None:
                answers.append(await cell.ref.ask("later", timeout=None))

            task_group.start_soon(ask)
            await until(lambda: mailbox_of(server) == 2)
            Held.let_go.set()

        assert answers == ["later: restarted for boom"]
        assert letters_of(server) == [
            DeadLetter("boom", cell.id, "crashed"),
            DeadLetter("queued", cell.id, "expired"),
        ]
        await client.send_close()


class Monitor(Actor):
    """Keeps what it is told about those that it monitors."""

    def __init__(self, told: list[Down | Restarted]) -> None:
        self.told = told

    async def on_info(self, message: Any) -> None:
        if isinstance(message, ActorRef):
            self.ref.monitor(message)
        else:
            self.told.append(message)


async def test_monitors_get_restarted_for_every_new_life_and_down_once_at_the_end() -> None:
    told: list[Any] = []
    children = [ChildSpec(Monitor, name="monitor", args=(told,))]

    async with (
        serving(Phoenix, policy=RESTART, children=children) as (server, witness),
        raw_client(server) as client,
    ):
        (ref,) = server.connections
        await server.registry["monitor"].ask(ref)
        for number in (1, 2):
            await client.send("boom")
            await until(lambda number=number: len(told) == number)  # type: ignore[misc]  # bound early
        await client.send_close(1000, "bye")
        closed = await witness.one_closed()
        await until(lambda: len(told) == 3)

    first, second, down = told
    assert [(one.ref, one.incarnation, str(one.error)) for one in (first, second)] == [
        (ref, 2, "boom"),
        (ref, 3, "boom"),
    ]
    assert down == Down(ref, ExitReason.NORMAL, None, closed.report)


# -- when a restart does not help --------------------------------------------------------------


class Doomed(Phoenix):
    """Cannot be brought back, in the way that the query names."""

    lives: dict[str, int]
    reports: list[CloseReport]

    def __init__(self) -> None:
        super().__init__()
        self.lives["made"] = self.lives.get("made", 0) + 1
        if self.lives["made"] > 1 and self.lives["fails in"] == 1:
            raise Boom

    async def on_restart(self, error: BaseException) -> None:
        if self.lives["fails in"] == 2:
            raise Boom
        if self.lives["fails in"] == 3:
            self.spawn(fail)
            await anyio.sleep_forever()

    async def on_close(self, report: CloseReport) -> None:
        self.reports.append(report)


@pytest.mark.parametrize(
    ("where", "fails_in"), [("__init__", 1), ("on_restart", 2), ("a task during on_restart", 3)]
)
async def test_a_crash_while_it_is_brought_back_closes_with_1011(where: str, fails_in: int) -> None:
    Doomed.lives, Doomed.reports = {"fails in": fails_in}, []
    policy = Policy(timeouts=IMPATIENT).over(RESTART)

    async with serving(Doomed, policy=policy) as (server, witness), raw_client(server) as client:
        await client.send_bytes(encode(TEXT, b"boom") + encode(TEXT, b"a"))

        assert await client.answer_close() == (1011, "")
        assert (await witness.one_closed()).report.exit_reason is ExitReason.CRASH
        assert Doomed.lives["made"] == 2
        assert [report.code for report in Doomed.reports] == [1011]
        assert [(letter.message, letter.reason) for letter in letters_of(server)] == [
            ("boom", "crashed"),
            ("a", "undelivered"),
        ]


async def test_a_spent_budget_closes_with_1011_and_what_is_queued_is_a_dead_letter() -> None:
    policy = Policy(restarts=RestartLimit(count=2, within=1000)).over(RESTART)

    async with serving(Phoenix, policy=policy) as (server, witness), raw_client(server) as client:
        await client.send_bytes(b"".join(encode(TEXT, one) for one in (b"boom", b"boom", b"boom", b"a")))

        assert await client.answer_close() == (1011, "")
        assert (await witness.one_closed()).report.undelivered == 1
        assert len(witness.of(ActorRestarted)) == 2
        assert [letter.reason for letter in letters_of(server)] == ["crashed"] * 3 + ["undelivered"]


async def test_crashes_at_one_time_cost_one_restart() -> None:
    policy = Policy(restarts=RestartLimit(count=2, within=1000)).over(RESTART)

    class Pair(Phoenix):
        async def on_message(self, message: str | bytes) -> None:
            if message == "two":
                self.spawn(fail)
                self.spawn(fail)
            await super().on_message(message)

    async with serving(Pair, policy=policy) as (server, witness), raw_client(server) as client:
        await client.send("two")
        await client.frame()
        await until(lambda: len(witness.crashes) == 2)
        await client.send("boom")
        await client.send("a")

        assert (await client.frame()).text == "a: restarted for boom, 1"
        assert cell_of(server).incarnation_number == 3


async def test_nobody_spends_a_neighbours_budget() -> None:
    policy = Policy(restarts=RestartLimit(count=2, within=1000)).over(RESTART)

    async with (
        serving(Phoenix, policy=policy) as (server, witness),
        raw_client(server) as neighbour,
        raw_client(server) as other,
    ):
        await neighbour.send("boom")
        for _ in range(3):
            await other.send("boom")
        assert await other.answer_close() == (1011, "")

        await neighbour.send("boom")
        await neighbour.send("a")
        assert (await neighbour.frame()).text == "a: restarted for boom, 1"
        assert len(witness.closed) == 1


# -- half a message ----------------------------------------------------------------------------


@pytest.mark.every_runtime
@pytest.mark.parametrize("policy", [RESUME, RESTART], ids=["resume", "restart"])
async def test_a_half_received_message_survives_a_crash(policy: Policy) -> None:
    async with serving(Phoenix, policy=policy) as (server, witness), raw_client(server) as client:
        last = encode(CONTINUATION, "-grün-".encode())
        await client.send_bytes(encode(TEXT, "grün-".encode(), fin=False) + last[:5])
        for number in (1, 2):
            cell_of(server).ref.tell("boom")
            await until(lambda number=number: len(witness.crashes) == number)  # type: ignore[misc]  # bound early
        await client.send_bytes(last[5:])

        assert (await client.frame()).text.startswith("grün--grün-: ")


@pytest.mark.every_runtime
async def test_a_ping_between_the_halves_is_answered_after_the_crash() -> None:
    async with serving(Phoenix, policy=RESTART) as (server, witness), raw_client(server) as client:
        await client.send_bytes(encode(TEXT, b"bo", fin=False))
        cell_of(server).ref.tell("boom")
        await until(lambda: witness.of(ActorRestarted))
        await client.send_bytes(encode(PING, b"?") + encode(CONTINUATION, b"om") + encode(BINARY, b"a"))

        pong, answer = await client.frame(), await client.frame()
        assert (pong.opcode, pong.payload) == (PONG, b"?")
        assert answer.text == "b'a': restarted for boom, 1"
        assert cell_of(server).incarnation_number == 3


# -- after the peer's end ----------------------------------------------------------------------


async def test_resume_handles_what_the_peer_sent_before_its_close_though_one_of_it_crashes() -> None:
    heard: list[str | bytes] = []

    class Listener(ConnectionActor):
        async def on_message(self, message: str | bytes) -> None:
            if message == "boom":
                raise Boom
            heard.append(message)

    async with serving(Listener, policy=RESUME) as (server, witness), raw_client(server) as client:
        messages = b"".join(encode(TEXT, one) for one in (b"a", b"boom", b"b"))
        await client.send_bytes(messages + encode_close(1000))

        report = (await witness.one_closed()).report
        assert heard == ["a", "b"]
        assert (report.undelivered, report.exit_reason, report.clean) == (0, ExitReason.NORMAL, True)
        assert [letter.reason for letter in letters_of(server)] == ["crashed"]


async def test_restart_needs_an_open_socket_what_follows_the_crash_is_undelivered() -> None:
    heard: list[str | bytes] = []

    class Listener(ConnectionActor):
        async def on_message(self, message: str | bytes) -> None:
            if message == "boom":
                raise Boom
            heard.append(message)

    async with serving(Listener, policy=RESTART) as (server, witness), raw_client(server) as client:
        messages = b"".join(encode(TEXT, one) for one in (b"a", b"boom", b"b"))
        await client.send_bytes(messages + encode_close(1000))

        report = (await witness.one_closed()).report
        assert heard == ["a"]
        assert report.undelivered == 1
        assert witness.of(ActorRestarted) == []


@pytest.mark.parametrize("policy", [CLOSE, RESUME, RESTART], ids=["close", "resume", "restart"])
async def test_a_crash_in_on_close_changes_nothing(policy: Policy) -> None:
    told: list[Any] = []
    children = [ChildSpec(Monitor, name="monitor", args=(told,))]

    class Last(ConnectionActor):
        async def on_close(self, report: CloseReport) -> None:
            raise Boom

    async with serving(Last, policy=policy, children=children) as (server, witness):
        async with raw_client(server) as client:
            (ref,) = server.connections
            await server.registry["monitor"].ask(ref)
            await client.send_close(1000)
            report = (await witness.one_closed()).report
            await until(lambda: told)

        assert told == [Down(ref, ExitReason.NORMAL, None, report)]
        assert [type(error) for error in witness.crashes] == [Boom]
        assert witness.of(ActorRestarted) == []


# -- on a clock that only the test moves -------------------------------------------------------


class Timed(Phoenix):
    """Takes note of when its instances begin."""

    clock: ManualClock
    births: list[float]

    async def on_restart(self, error: BaseException) -> None:
        self.births.append(self.clock())


@pytest.fixture
def clock() -> ManualClock:
    Timed.clock, Timed.births = ManualClock(), []
    return Timed.clock


async def wait_for_restart(client: Client, clock: ManualClock) -> float:
    """Crash, and give the seconds until the next instance is there."""
    lives, began = len(Timed.births), clock()
    await client.send("boom")
    while len(Timed.births) == lives:
        assert not client.cell.closing
        await clock.advance(0.05)
    return round(Timed.births[-1] - began, 6)


PATIENT = RestartLimit(count=100, within=1000)
DOUBLING = Backoff(initial=0.1, maximum=0.5, factor=2.0, jitter=0.0, reset_after=30.0)


async def test_the_first_restart_comes_at_once_and_each_further_one_waits_twice_as_long(
    clock: ManualClock,
) -> None:
    policy = Policy(backoff=DOUBLING, restarts=PATIENT).over(RESTART)

    async with serving_in_memory(Timed, clock, policy=policy) as memory:
        client = await memory.connect()

        waits = [await wait_for_restart(client, clock) for _ in range(6)]
        assert waits == [0.0, 0.1, 0.2, 0.4, 0.5, 0.5]


async def test_a_stable_time_makes_the_next_crash_the_first_again(clock: ManualClock) -> None:
    policy = Policy(backoff=DOUBLING, restarts=PATIENT).over(RESTART)

    async with serving_in_memory(Timed, clock, policy=policy) as memory:
        client = await memory.connect()
        for _ in range(3):
            await wait_for_restart(client, clock)

        await clock.advance(29.5)
        assert await wait_for_restart(client, clock) == 0.4
        await clock.advance(30.5)
        assert [await wait_for_restart(client, clock) for _ in range(2)] == [0.0, 0.1]


async def test_the_time_that_a_restart_waits_is_no_stable_time(clock: ManualClock) -> None:
    backoff = Backoff(initial=5.0, maximum=5.0, jitter=0.0, reset_after=4.0)
    policy = Policy(backoff=backoff, restarts=PATIENT).over(RESTART)

    async with serving_in_memory(Timed, clock, policy=policy) as memory:
        client = await memory.connect()

        assert [await wait_for_restart(client, clock) for _ in range(4)] == [0.0, 5.0, 5.0, 5.0]


@pytest.mark.parametrize(("within", "restarts"), [(4.875, 20), (5.0, 1)])
async def test_the_budget_is_a_sliding_window(clock: ManualClock, within: float, restarts: int) -> None:
    """Crashes every 4.875 s go on for ever where one may come in 4.875 s, and not where one may in 5."""
    policy = Policy(restarts=RestartLimit(count=1, within=within)).over(RESTART)

    async with serving_in_memory(Timed, clock, policy=policy) as memory:
        client = await memory.connect()
        while not client.cell.closing and len(Timed.births) < 20:
            await client.send("boom")
            await clock.advance(4.875)

        assert len(Timed.births) == restarts
        assert client.cell.closing is (restarts == 1)


async def test_a_close_wins_over_a_restart_that_waits_for_its_time(clock: ManualClock) -> None:
    backoff = Backoff(initial=60.0, maximum=60.0, jitter=0.0)
    policy = Policy(backoff=backoff).over(RESTART)

    async with serving_in_memory(Timed, clock, policy=policy) as memory:
        client = await memory.connect()
        await wait_for_restart(client, clock)
        await client.send("boom")
        await client.send("never")
        await clock.advance(1.0)
        assert memory.server.tree.describe().children[1].children[0].uptime == 0.0

        client.ref.close(1008, "enough")

        assert await client.closed() == (1008, "enough", True)
        assert len(Timed.births) == 1
        assert client.report is not None
        assert client.report.undelivered == 1


class Stuck(Phoenix):
    """Never ends its hook by itself, and with ``stubborn`` not even when it is cancelled."""

    go_on: anyio.Event

    async def on_message(self, message: str | bytes) -> None:
        if message == "stubborn":
            with anyio.CancelScope(shield=True):
                await self.go_on.wait()
        elif message == "hang":
            await anyio.sleep_forever()
        else:
            await super().on_message(message)


@pytest.mark.parametrize(
    ("policy", "answer"),
    [(RESUME, "a: connected, 1"), (RESTART, "a: restarted for ")],
    ids=["resume", "restart"],
)
async def test_a_hook_that_takes_too_long_is_cancelled_and_its_actor_lives_on(
    policy: Policy, answer: str
) -> None:
    policy = Policy(timeouts=Timeouts(handler=10)).over(policy)

    async with serving_in_memory(Stuck, policy=policy) as memory:
        client = await memory.connect()
        await client.send("hang")
        await memory.clock.advance(10.0)
        await client.send("a")

        text = await client.receive()
        assert str(text).startswith(answer)
        assert [type(error) for error in memory.witness.crashes] == [HandlerTimeout]
        assert [letter.message for letter in letters_of(memory.server)] == ["hang"]


@pytest.mark.parametrize("policy", [CLOSE, RESUME, RESTART], ids=["close", "resume", "restart"])
async def test_a_hook_that_refuses_its_cancellation_is_left_behind_and_1011_sent(policy: Policy) -> None:
    Stuck.go_on = anyio.Event()
    policy = Policy(timeouts=Timeouts(handler=1, teardown=5)).over(policy)

    async with serving_in_memory(Stuck, policy=policy) as memory:
        client = await memory.connect()
        await client.send("stubborn")
        await memory.clock.advance(20.0)

        assert await client.closed() == (1011, "", True)
        assert [type(error) for error in memory.witness.crashes] == [HandlerTimeout]
        assert memory.witness.closed[0].leaks == ("a hook of Stuck",)
        Stuck.go_on.set()
