"""Seeing a tree: as plain data, as text, and where a hook is stuck."""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
from typing import Any

import anyio
import pytest

from actors import Actor, ConnectionActor, HandlerTimeout
from actors.testing import ManualClock, settled
from supervisor import (
    Backoff,
    Description,
    OnCrash,
    Policy,
    Restart,
    RestartLimit,
    Supervisor,
    Timeouts,
)
from tests.raw import raw_client
from tests.trees import Part, hang, part, stop_yourself, supervised_by_clock
from tests.witness import serving, until


async def stuck_here(actor: Actor) -> None:
    await anyio.sleep_forever()


def place_of(function: Any) -> str:
    """File, line and name of the one await in ``function``, as a report says it."""
    lines, first = inspect.getsourcelines(function)
    line = next(number for number, text in enumerate(lines) if "sleep_forever" in text)
    return f"{__file__}:{first + line} in {function.__name__}"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(0.0)


async def test_a_tree_is_described_with_everything_about_its_children(clock: ManualClock) -> None:
    limit = RestartLimit(count=2, within=60.0)
    waits = Policy(restarts=RestartLimit(count=4, within=60.0), backoff=Backoff(initial=5.0, jitter=0.0))
    children = [
        part("idle", []),
        part("busy", []),
        Supervisor([part("crashed", [], policy=waits)], name="branch", limit=limit),
        part("ended", []),
    ]

    async with supervised_by_clock(clock, children, name="root") as (tree, _):
        tree.registry["ended"].tell(stop_yourself)
        for _ in range(2):
            tree.registry["crashed"].tell(ValueError("boom"))
            await settled()
        await clock.advance(1.0)
        tree.registry["busy"].tell(stuck_here)
        await settled()
        for _ in range(3):
            tree.registry["busy"].tell("queued")
        await clock.advance(1.5)

        described = tree.describe()

    idle, busy, branch, ended = described.children
    assert described == Description(
        "root", "supervisor", "running", uptime=2.5, restarts_left=3, children=described.children
    )
    assert idle == Description("idle", "service", "running", uptime=2.5, restarts_left=5)
    assert busy == dataclasses.replace(
        idle, name="busy", mailbox=3, handling_for=1.5, waits_at=place_of(stuck_here)
    )
    assert branch == Description(
        "branch", "supervisor", "running", uptime=2.5, restarts_left=0, children=branch.children
    )
    assert branch.children == (
        Description("crashed", "service", "waits for its restart", incarnation=2, restarts_left=2),
    )
    assert ended == Description("ended", "service", "ended", restarts_left=5)


async def test_a_restart_is_a_new_incarnation_with_an_uptime_of_its_own(clock: ManualClock) -> None:
    branch = Supervisor([part("a", [])], name="branch", limit=RestartLimit(count=0))

    async with supervised_by_clock(clock, [branch, part("b", [])]) as (tree, _):
        await clock.advance(10.0)
        for name in "ab":
            tree.registry[name].tell(ValueError("boom"))
        await clock.advance(3.0)

        described = [(one.name, one.incarnation, one.uptime) for one in tree.describe().children]

    assert described == [("branch", 2, 3.0), ("b", 2, 3.0)]


async def test_a_tree_that_starts_or_stops_says_so(clock: ManualClock) -> None:
    class Looks(Part):
        async def on_stop(self) -> None:
            states.append([tree.describe().state, *(one.state for one in tree.describe().children)])

    states: list[list[str]] = []

    async with supervised_by_clock(clock, [part("a", []), part("b", [], Looks)]) as (tree, _):
        pass

    assert states == [["stopping", "running", "tearing down"]]
    assert tree.describe().state == "stopped"


async def test_a_description_is_plain_data(clock: ManualClock) -> None:
    async with supervised_by_clock(clock, [part("a", []), Supervisor([part("b", [])])]) as (tree, _):
        described = tree.describe()

    assert json.loads(json.dumps(dataclasses.asdict(described)))["children"][0]["name"] == "a"
    with pytest.raises(dataclasses.FrozenInstanceError):
        described.state = "stopped"  # type: ignore[misc]  # what is to fail


async def test_a_description_prints_as_an_indented_tree(clock: ManualClock) -> None:
    waits = Policy(backoff=Backoff(initial=5.0))
    branch = Supervisor([part("crashed", [], policy=waits)], name="branch")
    children = [branch, part("busy", []), part("gone", [], restart=Restart.TEMPORARY)]

    async with supervised_by_clock(clock, children, name="root") as (tree, _):
        for _ in range(2):
            tree.registry["crashed"].tell(ValueError("boom"))
            await settled()
        tree.registry["gone"].tell(stop_yourself)
        tree.registry["busy"].tell(stuck_here)
        await clock.advance(0.5)
        tree.registry["busy"].tell("queued")

        text = str(tree.describe())

    assert text.splitlines() == [
        "root (supervisor): running, 0.5 s, incarnation 1, 3 restarts left",
        "  branch (supervisor): running, 0.5 s, incarnation 1, 1 restart left",
        "    crashed (service): waits for its restart, 0.0 s, incarnation 2, 0 waiting, 3 restarts left",
        "  busy (service): running, 0.5 s, incarnation 1, 1 waiting, 5 restarts left, "
        f"in a hook for 0.5 s at {place_of(stuck_here)}",
    ]


class Counter(ConnectionActor):
    policy = Policy(crash=OnCrash.RESTART, restarts=RestartLimit(count=7))

    async def on_message(self, message: str) -> None:
        if message == "crash":
            raise ValueError("boom")
        await stuck_here(self)


@pytest.mark.every_runtime
async def test_a_server_describes_its_services_and_its_connections() -> None:
    async with (
        serving({"/rooms/:room": Counter}, children=[part("a", [])]) as (server, witness),
        raw_client(server, "/rooms/7") as client,
    ):
        await client.send("crash")
        await until(lambda: witness.crashes)
        await client.send("hang")
        await until(lambda: server.tree.describe().children[1].children[0].waits_at)
        described = server.tree.describe()
        (ref,) = server.connections
        ref._cell.kill()

    services, connections = described.children
    (connection,) = connections.children
    assert [described.name, services.name, connections.name] == ["server", "services", "connections"]
    assert [one.name for one in services.children] == ["a"]
    assert connection.name == f"Counter {ref.id} /rooms/7"
    assert (connection.kind, connection.state, connection.incarnation) == ("connection", "running", 2)
    assert (connection.restarts_left, connection.waits_at) == (6, place_of(stuck_here))


# -- a stuck handler ---------------------------------------------------------------------------


async def test_a_stuck_hook_of_a_service_is_reported_with_the_place_it_waits_at(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    policy = Policy(timeouts=Timeouts(handler=30.0))

    async with supervised_by_clock(clock, [part("a", [], policy=policy)]) as (tree, witness):
        tree.registry["a"].tell(stuck_here)
        await clock.advance(29.999)
        assert not witness.crashes
        await clock.advance(0.001)

    (error,) = witness.crashes
    assert isinstance(error, HandlerTimeout)
    assert str(error) == f"a hook ran for more than 30.0 s; it waits at {place_of(stuck_here)}"
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert record.getMessage() == "<ActorRef Part a> crashed"
    assert str(error) in caplog.text


async def test_a_hook_that_waits_in_a_library_is_reported_where_its_author_looks_for_it(
    clock: ManualClock,
) -> None:
    class Waits(Part):
        async def on_start(self) -> None:
            await super().on_start()
            self.lock = anyio.Event()

        async def on_info(self, message: Any) -> Any:
            await self.lock.wait()  # sleep_forever

    async with supervised_by_clock(clock, [part("a", [], Waits)]) as (tree, _):
        tree.registry["a"].tell("wait")
        await settled()
        (described,) = tree.describe().children
        tree.registry["a"]._cell.kill()

    assert described.waits_at == place_of(Waits.on_info)


async def test_between_two_hooks_nothing_waits(clock: ManualClock) -> None:
    async with supervised_by_clock(clock, [part("a", [])]) as (tree, _):
        tree.registry["a"].tell(hang)
        await settled()
        assert tree.describe().children[0].waits_at is not None
        tree.registry["a"]._cell.kill()
        await settled()

        (described,) = tree.describe().children
        assert (described.handling_for, described.waits_at) == (None, None)
