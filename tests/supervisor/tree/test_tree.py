"""Supervisors at work: what starts, stops and starts again, in which order, and when one gives up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import anyio
import anyio.to_thread
import pytest

from actors import Actor, ActorRef, ActorStopped, ConnectionActor, ExitReason, HandlerTimeout
from actors.testing import ManualClock, settled
from supervisor import (
    AutoShutdown,
    Backoff,
    ChildSpec,
    ChildStartFailed,
    Policy,
    Restart,
    RestartLimit,
    RestartLimitReached,
    Strategy,
    Supervisor,
    Timeouts,
    Tree,
)
from supervisor.events import ActorRestarted
from tests.trees import Journal, Part, hang, part, stop_yourself, supervised, supervised_by_clock
from tests.witness import until

PERMANENT, TRANSIENT, TEMPORARY = Restart.PERMANENT, Restart.TRANSIENT, Restart.TEMPORARY
ANY, ALL = AutoShutdown.ANY_SIGNIFICANT, AutoShutdown.ALL_SIGNIFICANT
PLENTY = RestartLimit(count=1000, within=1000.0)


def starts(names: str) -> Journal:
    return [f"{name} starts" for name in names]


def stops(names: str) -> Journal:
    return [f"{name} stops" for name in names]


# -- order -------------------------------------------------------------------------------------


async def test_children_start_in_order_each_after_the_one_before_and_stop_in_reverse() -> None:
    class Slow(Part):
        async def on_start(self) -> None:
            self.journal.append(f"{self.name} is asked to start")
            await settled()
            await super().on_start()

        async def on_stop(self) -> None:
            self.journal.append(f"{self.name} is asked to stop")
            await settled()
            await super().on_stop()

    journal: Journal = []

    async with supervised([part(name, journal, Slow) for name in "abc"]) as (tree, _):
        assert list(tree.registry) == ["a", "b", "c"]

    assert journal == [
        *(f"{name} {step}" for name in "abc" for step in ("is asked to start", "starts")),
        *(f"{name} {step}" for name in "cba" for step in ("is asked to stop", "stops")),
    ]


async def test_a_branch_starts_and_stops_as_one_child() -> None:
    journal: Journal = []
    branch = Supervisor([part("b", journal), Supervisor([part("c", journal)]), part("d", journal)])

    async with supervised([part("a", journal), branch, part("e", journal)]):
        assert journal == starts("abcde")
        journal.clear()

    assert journal == stops("edcba")


async def test_a_supervisor_runs_without_children_and_again_after_its_block() -> None:
    journal: Journal = []
    supervisor = Supervisor([part("a", journal)])

    async with supervised():
        pass
    for _ in range(2):
        async with supervisor as tree:
            assert await tree.registry["a"].ask("hello") == "hello"

    assert journal == (starts("a") + stops("a")) * 2


async def test_a_supervisor_runs_one_block_at_a_time() -> None:
    supervisor = Supervisor()

    async with supervisor:
        with pytest.raises(RuntimeError, match="runs already"):
            await supervisor.__aenter__()


# -- restart type x exit reason x strategy x restart type of the siblings -----------------------


async def crash_in_a_task(actor: Actor) -> None:
    async def fail() -> None:
        raise ValueError("of a task")

    actor.spawn(fail)


@dataclass(frozen=True)
class Exit:
    """A way for a child to end by itself."""

    told: Any
    reason: ExitReason
    abnormal: bool = True
    takes: float = 0.0


EXITS = {
    "stops itself": Exit(stop_yourself, ExitReason.NORMAL, abnormal=False),
    "crashes": Exit(ValueError("boom"), ExitReason.CRASH),
    "exits the program": Exit(SystemExit(0), ExitReason.CRASH),
    "crashes in a task": Exit(crash_in_a_task, ExitReason.CRASH),
    "takes too long": Exit(hang, ExitReason.HANDLER_TIMEOUT, takes=1.0),
}
TOUCHED = {Strategy.ONE_FOR_ONE: "b", Strategy.ONE_FOR_ALL: "abc", Strategy.REST_FOR_ONE: "bc"}
MATRIX = list(product(Restart, EXITS, Strategy, Restart))


@pytest.mark.parametrize(
    ("restart", "how", "strategy", "siblings"),
    MATRIX,
    ids=["-".join(str(getattr(one, "name", one)) for one in case).replace(" ", "_") for case in MATRIX],
)
async def test_what_follows_the_end_of_a_child(
    restart: Restart, how: str, strategy: Strategy, siblings: Restart
) -> None:
    clock, journal, exit = ManualClock(), [], EXITS[how]  # type: ManualClock, Journal, Exit
    again = restart is PERMANENT or (restart is TRANSIENT and exit.abnormal)
    touched = TOUCHED[strategy] if again else "b"
    stopped = [name for name in reversed(touched) if name != "b"]
    started = [name for name in touched if again and (name == "b" or siblings is not TEMPORARY)]
    children = [
        part("a", journal, restart=siblings),
        part("b", journal, restart=restart, policy=Policy(timeouts=Timeouts(handler=1.0))),
        part("c", journal, restart=siblings),
    ]

    async with supervised_by_clock(clock, children, strategy=strategy) as (tree, witness):
        before = dict(tree.registry)
        journal.clear()
        before["b"].tell(exit.told)
        await clock.advance(exit.takes)
        after = dict(tree.registry)

        assert journal == [*stops("b"), *stops("".join(stopped)), *starts("".join(started))]
        assert set(after) == {"a", "b", "c"} - set(touched) | set(started)
        assert {name for name, ref in after.items() if ref == before[name]} == {"a", "b", "c"} - set(touched)
        assert before["b"]._cell.exit_reason is exit.reason
        assert len(witness.crashes) == exit.abnormal
        assert [event.incarnation for event in witness.of(ActorRestarted)] == [2] * again


async def test_two_children_that_crash_at_once_are_one_restart_of_all() -> None:
    journal: Journal = []
    children = [part(name, journal) for name in "abc"]

    async with supervised(children, strategy=Strategy.ONE_FOR_ALL, limit=RestartLimit(count=1)) as (tree, _):
        journal.clear()
        for name in "ac":
            tree.registry[name].tell(ValueError("boom"))
        await until(lambda: journal[-3:] == starts("abc"))

        assert sorted(journal[:-3]) == stops("abc")


# -- names -------------------------------------------------------------------------------------


async def test_a_name_is_released_before_a_restart_takes_it_again() -> None:
    class Witnessed(Part):
        async def on_start(self) -> None:
            if trees:
                seen.append((trees[0].registry["a"] == self.ref, old.alive))

        async def on_stop(self) -> None:
            released.append(trees[0].registry["a"] == old)

    trees: list[Tree] = []
    seen: list[tuple[bool, bool]] = []
    released: list[bool] = []

    async with supervised([part("a", [], Witnessed)]) as (tree, _):
        trees.append(tree)
        old = tree.registry["a"]
        old.tell(ValueError("boom"))
        await until(lambda: seen)
        new = tree.registry["a"]

    assert seen == [(True, False)]
    assert released == [True, False], "the name is the actor's until the end of its teardown"
    assert new != old
    assert new.id == old.id == "a"


# -- how long a stop takes ---------------------------------------------------------------------


class Hanging(Part):
    """Notes when its hooks are cancelled."""

    async def on_stop(self) -> None:
        if self.name == "hangs in on_stop":
            await note_cancelled(self)


async def note_cancelled(actor: Part) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        actor.journal.append(f"cancelled at {actor._cell.runtime.clock()}")


@pytest.mark.parametrize(
    ("where", "shutdown", "after"),
    [
        ("hangs in on_info", 0, 0.0),
        ("hangs in on_info", 2.0, 2.0),
        ("hangs in on_info", 20.0, 20.0),
        ("hangs in on_info", None, None),
        ("hangs in on_stop", 0, 5.0),
        ("hangs in on_stop", 2.0, 2.0),
        ("hangs in on_stop", 20.0, 5.0),
        ("hangs in on_stop", None, 5.0),
    ],
)
async def test_a_stop_waits_for_the_shutdown_seconds_of_its_child(
    where: str, shutdown: float | None, after: float | None
) -> None:
    clock, journal = ManualClock(0.0), []  # type: ManualClock, Journal

    async with supervised_by_clock(clock, [part(where, journal, Hanging, shutdown=shutdown)]) as (tree, _):
        ref = tree.registry[where]
        if where == "hangs in on_info":
            ref.tell(note_cancelled)
            await settled()
        journal.clear()
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(tree.stop_child, ref)
            await clock.advance(100.0)

            assert journal == ([] if after is None else [f"cancelled at {after}"])
            assert ref.alive is (after is None)
            ref._cell.kill()  # the one that would wait for ever


async def test_each_child_has_its_own_patience() -> None:
    clock, journal = ManualClock(0.0), []  # type: ManualClock, Journal
    patience = {"a": 3.0, "b": 0.0, "c": 2.0}

    async with supervised_by_clock(
        clock, [part(name, journal, Hanging, shutdown=seconds) for name, seconds in patience.items()]
    ) as (tree, _):
        for ref in tree.registry.values():
            ref.tell(note_cancelled)
        await settled()
        journal.clear()

    assert journal == ["cancelled at 2.0", "cancelled at 2.0", "cancelled at 5.0"]


async def test_the_patience_with_a_branch_ends_that_with_its_children() -> None:
    clock, journal = ManualClock(0.0), []  # type: ManualClock, Journal
    branch = Supervisor([part(name, journal, Hanging, shutdown=None) for name in "ab"])

    async with supervised_by_clock(clock, [ChildSpec(branch, shutdown=4.0)]) as (tree, _):
        for ref in tree.registry.values():
            ref.tell(note_cancelled)
        await settled()
        journal.clear()

    assert journal == ["cancelled at 4.0", "cancelled at 4.0"]


async def test_a_hook_that_swallows_its_cancellation_is_left_behind_and_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def swallow(actor: Actor) -> None:
        while not over.is_set():
            with anyio.CancelScope(shield=True):
                await over.wait()

    over = anyio.Event()
    clock = ManualClock()

    async with supervised_by_clock(clock, [part("a", [], shutdown=1.0), part("b", [])]) as (tree, _):
        tree.registry["a"].tell(swallow)
        await settled()
        await tree.registry["b"].ask("others go on")
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(tree.stop_child, tree.registry["a"])
            await clock.advance(30.0)
        over.set()

    assert "left behind: a hook of Part" in caplog.text


# -- starts that fail --------------------------------------------------------------------------


class FailsToStart(Part):
    async def on_start(self) -> None:
        raise LookupError("not there")


class NeverMade(Part):
    def __init__(self, *_: Any) -> None:
        raise LookupError("not there")


@pytest.mark.parametrize("actor", [FailsToStart, NeverMade])
@pytest.mark.parametrize("nested", [False, True])
async def test_a_child_that_cannot_be_started_ends_those_before_it_and_says_why(
    actor: type[Part], nested: bool
) -> None:
    journal: Journal = []
    failing: Any = part("c", journal, actor)
    if nested:
        failing = Supervisor([part("b", journal), failing], name="branch")

    with pytest.raises(ChildStartFailed) as caught:
        async with supervised([part("a", journal), failing, part("d", journal)]):
            pytest.fail("the block is not entered")

    assert [line for line in journal if "c" not in line] == (
        [*starts("ab"), *stops("ba")] if nested else [*starts("a"), *stops("a")]
    )
    causes, error = [], caught.value  # type: list[str], BaseException | None
    while error is not None:
        causes.append(str(error))
        error = error.__cause__
    assert causes[-1] == "not there"
    assert "'c'" in causes[-2]


async def test_a_child_that_stops_itself_in_its_first_hook_has_started_and_ended() -> None:
    class Brief(Part):
        async def on_start(self) -> None:
            await super().on_start()
            self.stop()

    journal: Journal = []

    async with supervised([part("a", journal, Brief), part("b", journal)]) as (tree, _):
        assert list(tree.registry) == ["b"]

    assert journal == [*starts("a"), *stops("a"), *starts("b"), *stops("b")]


class StartsAtThird(Part):
    """Its second and third start fail."""

    async def on_start(self) -> None:
        await super().on_start()
        if self.journal.count(f"{self.name} starts") in (2, 3):
            raise LookupError("not yet")


async def test_a_restart_that_fails_is_a_crash_counts_and_is_tried_again_after_a_wait() -> None:
    clock, journal = ManualClock(), []  # type: ManualClock, Journal
    policy = Policy(backoff=Backoff(initial=1.0, jitter=0.0))
    children = [part("a", journal), part("b", journal, StartsAtThird, policy=policy), part("c", journal)]

    async with supervised_by_clock(
        clock, children, strategy=Strategy.REST_FOR_ONE, limit=RestartLimit(count=3, within=100.0)
    ) as (tree, _):
        journal.clear()
        journal += ["b starts"]
        tree.registry["b"].tell(ValueError("boom"))
        await clock.advance(0.0)
        assert journal[1:] == ["b stops", "c stops", "b starts", "b stops"]
        await clock.advance(0.999)
        assert journal[5:] == []
        await clock.advance(0.001)
        assert journal[5:] == ["b starts", "b stops"]
        await clock.advance(2.0)
        assert journal[7:] == ["b starts", "c starts"]
        assert tree.describe().restarts_left == 0


async def test_a_sibling_that_fails_to_start_again_is_the_one_that_is_tried_again() -> None:
    clock, journal = ManualClock(), []  # type: ManualClock, Journal
    children = [part("a", journal), part("b", journal, StartsAtThird), part("c", journal)]

    async with supervised_by_clock(clock, children, strategy=Strategy.REST_FOR_ONE, limit=PLENTY) as (
        tree,
        _,
    ):
        journal[:] = ["b starts"]
        tree.registry["a"].tell(ValueError("boom"))
        await clock.advance(1.0)

    assert journal == [
        "b starts",
        *stops("acb"),
        *("a starts", "b starts", "b stops"),
        *("b starts", "b stops"),
        *("b starts", "c starts"),
        *stops("cba"),
    ]


# -- budgets -----------------------------------------------------------------------------------


AT_ONCE = Policy(restarts=PLENTY, backoff=Backoff(reset_after=0.001))
"""No restart waits, where nothing crashes twice at one time."""


async def crash(clock: ManualClock, tree: Tree, name: str) -> None:
    tree.registry[name].tell(ValueError("boom"))
    await clock.advance(0.0)


@pytest.mark.parametrize(
    ("count", "gap", "crashes"),
    [(0, 1.0, 1), (1, 4.9, 2), (1, 5.0, None), (2, 4.9, None), (3, 1.0, 4), (3, 1.25, 4), (4, 1.25, None)],
)
async def test_the_budget_of_a_supervisor_is_counted_exactly_at_the_edge_of_its_window(
    count: int, gap: float, crashes: int | None
) -> None:
    """All crashes are survived, or all but the last of ``crashes``; 1.25 is exact in floating point."""
    clock = ManualClock(0.0)
    survived = 0
    child = part("a", [], policy=AT_ONCE)

    async def program() -> None:
        nonlocal survived
        async with supervised_by_clock(clock, [child], limit=RestartLimit(count=count, within=5.0)) as (
            tree,
            _,
        ):
            for _ in range(30):
                await crash(clock, tree, "a")
                survived += 1
                await clock.advance(gap)

    if crashes is None:
        await program()
        assert survived == 30
    else:
        with pytest.raises(RestartLimitReached, match="no restarts left"):
            await program()
        assert survived == crashes - 1


async def test_the_budget_of_a_child_is_its_own() -> None:
    clock = ManualClock()
    policy = Policy(restarts=RestartLimit(count=2, within=30.0), backoff=AT_ONCE.backoff)
    children = [part(name, [], policy=policy) for name in "ab"]

    with pytest.raises(RestartLimitReached, match="child 'a' has no restarts left") as caught:  # noqa: PT012
        async with supervised_by_clock(clock, children, limit=PLENTY) as (tree, _):
            for name in "abab":
                await crash(clock, tree, name)
                await clock.advance(1.0)
            await crash(clock, tree, "a")
            pytest.fail("the block is cancelled")

    assert str(caught.value.__cause__) == "boom"


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("levels", [1, 2, 3])
async def test_a_spent_budget_escalates_through_every_level(levels: int, count: int) -> None:
    class Doomed(Part):
        async def on_start(self) -> None:
            await super().on_start()
            self.ref.tell(ValueError("boom"))

    clock, journal = ManualClock(), []  # type: ManualClock, Journal
    limit = RestartLimit(count=count, within=1000.0)
    children: list[Any] = [part("a", journal, Doomed)]
    for _ in range(levels - 1):
        children = [Supervisor(children, limit=limit)]

    with pytest.raises(RestartLimitReached) as caught:
        async with supervised_by_clock(clock, children, limit=limit):
            await clock.advance(1000.0)

    assert journal.count("a starts") == journal.count("a stops") == (count + 1) ** levels
    error: BaseException | None = caught.value
    for _ in range(levels):
        assert isinstance(error, RestartLimitReached)
        error = error.__cause__
    assert repr(error) == "ValueError('boom')"


async def test_a_branch_that_gives_up_is_logged_and_started_again_as_a_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal: Journal = []
    limit = RestartLimit(count=0)
    branch = Supervisor([part("b", journal), part("c", journal)], limit=limit, name="branch")

    async with supervised([part("a", journal), branch]) as (tree, _):
        journal.clear()
        tree.registry["b"].tell(ValueError("boom"))
        await until(lambda: journal[-2:] == starts("bc"))

    assert journal[:4] == ["b stops", "c stops", "b starts", "c starts"]
    assert "<supervisor branch> gives up" in caplog.text


async def test_the_budgets_of_two_branches_do_not_touch_each_other() -> None:
    clock = ManualClock()
    limit = RestartLimit(count=2, within=100.0)
    branches = [Supervisor([part(name, [], policy=AT_ONCE)], limit=limit, name=name * 2) for name in "ab"]

    async with supervised_by_clock(clock, branches, limit=RestartLimit(count=0)) as (tree, _):
        for name in "abab":
            await crash(clock, tree, name)
            await clock.advance(1.0)

        assert [branch.restarts_left for branch in tree.describe().children] == [0, 0]


# -- waiting for a restart ---------------------------------------------------------------------

WAITS = Policy(backoff=Backoff(initial=1.0, jitter=0.0))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def crash_twice(clock: ManualClock, tree: Tree, name: str) -> ActorRef:
    """Let a child wait for its second restart; give the ref of its last life."""
    await crash(clock, tree, name)
    ref = tree.registry[name]
    await crash(clock, tree, name)
    assert name not in tree.registry
    return ref


async def test_the_restart_of_all_waits_with_the_one_that_crashed(clock: ManualClock) -> None:
    journal: Journal = []
    children = [part(name, journal, policy=WAITS) for name in "abc"]

    async with supervised_by_clock(clock, children, strategy=Strategy.ONE_FOR_ALL) as (tree, _):
        await crash_twice(clock, tree, "b")
        assert {child.state for child in tree.describe().children} == {"waits for its restart"}
        journal.clear()
        await clock.advance(0.999)
        assert journal == []
        await clock.advance(0.001)
        assert journal == starts("abc")


async def test_a_crash_during_the_wait_of_another_child_makes_one_plan_of_both(clock: ManualClock) -> None:
    journal: Journal = []
    children = [part(name, journal, policy=WAITS) for name in "abc"]

    async with supervised_by_clock(clock, children, strategy=Strategy.REST_FOR_ONE, limit=PLENTY) as (
        tree,
        _,
    ):
        await crash_twice(clock, tree, "b")
        journal.clear()
        await crash(clock, tree, "a")
        assert journal == [*stops("a"), *starts("abc")]
        await clock.advance(10.0)
        assert journal == [*stops("a"), *starts("abc")], "the time of the old plan brings nothing"


async def test_a_child_stopped_while_it_waits_does_not_come_back_and_holds_up_no_sibling(
    clock: ManualClock,
) -> None:
    journal: Journal = []
    children = [part(name, journal, policy=WAITS) for name in "abc"]

    async with supervised_by_clock(clock, children, strategy=Strategy.REST_FOR_ONE, limit=PLENTY) as (
        tree,
        _,
    ):
        ref = await crash_twice(clock, tree, "a")
        await tree.stop_child(ref)
        journal.clear()
        await clock.advance(100.0)

        assert journal == starts("bc")
        assert list(tree.registry) == ["b", "c"]


async def test_a_stop_of_the_tree_does_not_wait_for_a_restart(clock: ManualClock) -> None:
    journal: Journal = []

    async with supervised_by_clock(clock, [part("a", journal, policy=WAITS)]) as (tree, _):
        await crash_twice(clock, tree, "a")
        journal.clear()
        before = clock()

    assert journal == []
    assert clock() == before


async def test_a_start_that_hangs_until_its_timeout_is_no_stable_life(clock: ManualClock) -> None:
    class Hangs(Part):
        async def on_start(self) -> None:
            await super().on_start()
            if self.journal.count("a starts") > 1:
                await anyio.sleep_forever()

    journal: Journal = []
    policy = Policy(
        timeouts=Timeouts(handler=30.0), backoff=Backoff(initial=5.0, jitter=0.0, reset_after=30.0)
    )

    async with supervised_by_clock(clock, [part("a", journal, Hangs, policy=policy)]) as (tree, witness):
        await crash(clock, tree, "a")
        journal.clear()
        await clock.advance(30.0)
        assert isinstance(witness.crashes[-1], HandlerTimeout)
        await clock.advance(4.999)
        assert journal == stops("a")


# -- significant children ----------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Children by name, what happens to them, and whether their supervisor goes on after it."""

    rule: AutoShutdown
    children: dict[str, tuple[Restart, bool]]
    happens: str
    goes_on: bool
    strategy: Strategy = Strategy.ONE_FOR_ONE


SIGNIFICANT, PLAIN = (TRANSIENT, True), (TRANSIENT, False)
AUTO_SHUTDOWN = {
    "any: the first one ends": Case(ANY, {"a": SIGNIFICANT, "b": SIGNIFICANT}, "a stops", False),
    "any: another child ends": Case(ANY, {"a": SIGNIFICANT, "b": PLAIN}, "b stops", True),
    "any: one crashes and is started again": Case(ANY, {"a": SIGNIFICANT}, "a crashes", True),
    "any: a temporary one crashes": Case(ANY, {"a": (TEMPORARY, True), "b": PLAIN}, "a crashes", False),
    "any: one is stopped by hand": Case(ANY, {"a": SIGNIFICANT, "b": PLAIN}, "a is stopped", True),
    "any: one is stopped for a sibling": Case(
        ANY, {"a": PLAIN, "b": (TEMPORARY, True)}, "a crashes", True, Strategy.ONE_FOR_ALL
    ),
    "all: the first one ends": Case(ALL, {"a": SIGNIFICANT, "b": SIGNIFICANT}, "a stops", True),
    "all: the last one ends": Case(
        ALL, {"a": SIGNIFICANT, "b": SIGNIFICANT, "c": PLAIN}, "a stops, b stops", False
    ),
    "all: the last one ends after one stopped by hand": Case(
        ALL, {"a": SIGNIFICANT, "b": SIGNIFICANT}, "a is stopped, b stops", False
    ),
    "all: only others end": Case(ALL, {"a": SIGNIFICANT, "b": PLAIN}, "b stops", True),
    "all: the other one waits for its restart": Case(
        ALL, {"a": SIGNIFICANT, "b": SIGNIFICANT}, "b crashes, b crashes, a stops", True
    ),
    "all: the other one waits with a sibling": Case(
        ALL,
        {"a": SIGNIFICANT, "b": PLAIN, "c": SIGNIFICANT},
        "b crashes, b crashes, a stops",
        True,
        Strategy.REST_FOR_ONE,
    ),
    "never: everybody ends": Case(AutoShutdown.NEVER, {"a": PLAIN, "b": PLAIN}, "a stops, b stops", True),
}


async def happen(clock: ManualClock, tree: Tree, event: str) -> None:
    name, _, what = event.partition(" ")
    ref = tree.registry[name]
    if what == "is stopped":
        await tree.stop_child(ref)
    else:
        ref.tell(stop_yourself if what == "stops" else ValueError("boom"))
    await clock.advance(0.0)


@pytest.mark.parametrize(
    "case", AUTO_SHUTDOWN.values(), ids=[name.replace(" ", "_") for name in AUTO_SHUTDOWN]
)
async def test_significant_children_end_their_supervisor(clock: ManualClock, case: Case) -> None:
    journal: Journal = []
    children = [
        part(name, journal, restart=restart, significant=significant, policy=WAITS)
        for name, (restart, significant) in case.children.items()
    ]
    goes_on = False

    async with supervised_by_clock(clock, children, strategy=case.strategy, auto_shutdown=case.rule) as (
        tree,
        _,
    ):
        for event in case.happens.split(", "):
            await happen(clock, tree, event)
        goes_on = True

    assert goes_on is case.goes_on
    for name in case.children:
        assert journal.count(f"{name} starts") == journal.count(f"{name} stops")


@pytest.mark.parametrize(("restart", "lives"), [(PERMANENT, 2), (TRANSIENT, 1), (TEMPORARY, 1)])
async def test_the_shutdown_of_a_branch_is_no_crash_to_the_one_above(
    clock: ManualClock, restart: Restart, lives: int
) -> None:
    journal: Journal = []
    branch = Supervisor([part("a", journal), part("b", journal, significant=True)], auto_shutdown=ANY)

    async with supervised_by_clock(clock, [ChildSpec(branch, restart=restart)]) as (tree, _):
        await happen(clock, tree, "b stops")

        assert journal == [*starts("ab"), *stops("ba"), *starts("ab" * (lives - 1))]


async def test_a_significant_branch_ends_the_one_above_with_it() -> None:
    inner = Supervisor([part("a", [], significant=True)], auto_shutdown=ANY)
    branch = ChildSpec(inner, restart=TRANSIENT, significant=True)

    async with supervised([branch], auto_shutdown=ALL) as (tree, _):
        tree.registry["a"].stop()
        await anyio.sleep_forever()


async def test_the_end_of_the_root_leaves_the_block_without_an_error() -> None:
    with anyio.CancelScope() as around:
        async with supervised([part("a", [], significant=True)], auto_shutdown=ANY) as (tree, _):
            tree.registry["a"].stop()
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()
        left = True

    assert left
    assert not around.cancelled_caught


# -- children by hand --------------------------------------------------------------------------


async def test_a_child_by_hand_starts_behind_the_others_and_stops_before_them(clock: ManualClock) -> None:
    journal: Journal = []

    async with supervised_by_clock(clock, [part("a", journal)], strategy=Strategy.REST_FOR_ONE) as (tree, _):
        ref = await tree.start_child(part("b", journal))
        assert journal == starts("ab")
        assert tree.registry["b"] == ref
        journal.clear()
        await crash(clock, tree, "a")
        assert journal == [*stops("ab"), *starts("ab")]
        journal.clear()

    assert journal == stops("ba")


async def test_a_child_by_hand_is_forgotten_when_it_has_ended_for_good(clock: ManualClock) -> None:
    async with supervised_by_clock(clock) as (tree, _):
        for restart, told in ((TRANSIENT, stop_yourself), (TEMPORARY, ValueError("boom"))):
            (await tree.start_child(part("a", [], restart=restart))).tell(told)
            await clock.advance(0.0)

            assert tree.describe().children == ()
        await tree.start_child(part("a", []))


@pytest.mark.parametrize("life", ["the first", "the last", "the waiting"])
async def test_a_child_is_stopped_by_the_ref_of_any_of_its_lives(clock: ManualClock, life: str) -> None:
    journal: Journal = []

    async with supervised_by_clock(clock, limit=PLENTY) as (tree, _):
        first = await tree.start_child(ChildSpec(Part, args=("a", journal), policy=WAITS))
        await crash(clock, tree, first.id)
        last = tree.registry[first.id]
        if life == "the waiting":
            await crash(clock, tree, first.id)
        await tree.stop_child(first if life == "the first" else last)
        await tree.stop_child(first)
        await clock.advance(100.0)

        assert journal == [*starts("a"), *stops("a"), *starts("a"), *stops("a")]
        assert tree.describe().children == ()


async def test_the_ref_of_one_that_had_the_name_before_stops_nobody_else() -> None:
    async with supervised() as (tree, _), Supervisor([part("a", [])]) as other:
        old = await tree.start_child(part("a", []))
        await tree.stop_child(old)
        new = await tree.start_child(part("a", []))

        await tree.stop_child(old)
        with pytest.raises(ValueError, match="is no child of"):
            await tree.stop_child(other.registry["a"])

        assert new.alive
        assert other.registry["a"].alive


async def test_a_static_child_that_ended_keeps_its_name_until_it_is_stopped() -> None:
    async with supervised([part("a", [])]) as (tree, _):
        ref = tree.registry["a"]
        ref.stop()
        await until(lambda: tree.describe().children[0].state == "ended")

        with pytest.raises(ValueError, match=r"^name: 'a' "):
            await tree.start_child(part("a", []))
        await tree.stop_child(ref)
        await tree.start_child(part("a", []))


async def test_a_name_is_taken_while_its_child_waits_for_a_restart(clock: ManualClock) -> None:
    branch = Supervisor([part("c", [], policy=WAITS)])

    async with supervised_by_clock(clock, [part("a", [], policy=WAITS), branch]) as (tree, _):
        await tree.start_child(part("b", [], policy=WAITS))
        for name in "abc":
            await crash(clock, tree, name)
        await clock.advance(10.0)
        for name in "ac":
            await crash_again_and_expect_a_taken_name(clock, tree, name)


async def crash_again_and_expect_a_taken_name(clock: ManualClock, tree: Tree, name: str) -> None:
    await crash(clock, tree, name)
    assert name not in tree.registry
    with pytest.raises(ValueError, match=f"^name: {name!r}"):
        await tree.start_child(part(name, []))


@pytest.mark.parametrize("actor", [FailsToStart, NeverMade])
async def test_a_child_by_hand_that_cannot_be_started_leaves_nothing(actor: type[Part]) -> None:
    async with supervised() as (tree, _):
        with pytest.raises(ChildStartFailed) as caught:
            await tree.start_child(part("a", [], actor))

        assert repr(caught.value.__cause__) == "LookupError('not there')"
        assert tree.describe().children == ()
        await tree.start_child(part("a", []))


async def test_children_are_started_and_stopped_from_another_event_loop() -> None:
    async def thread_of(actor: Actor) -> int:
        return threading.get_ident()

    async def elsewhere(tree: Tree) -> None:
        ref = await tree.start_child(part("a", journal))
        assert await ref.ask(thread_of) != threading.get_ident()
        await tree.stop_child(ref)

    journal: Journal = []

    async with supervised() as (tree, _):
        await anyio.to_thread.run_sync(anyio.run, elsewhere, tree)

        assert journal == [*starts("a"), *stops("a")]


async def test_a_tree_that_has_ended_starts_nothing_more() -> None:
    async with supervised([part("a", [])]) as (tree, _):
        ref = tree.registry["a"]

    with pytest.raises(ActorStopped, match="has ended"):
        await tree.start_child(part("b", []))
    with pytest.raises(ActorStopped, match="has ended"):
        await tree.stop_child(ref)


async def test_a_child_of_somebody_else_is_not_stopped() -> None:
    async with supervised([Supervisor([part("a", [])])]) as (tree, _):
        with pytest.raises(ValueError, match="is no child of"):
            await tree.stop_child(tree.registry["a"])

        assert await tree.registry["a"].ask("alive") == "alive"


@pytest.mark.parametrize(
    ("option", "spec"),
    [
        ("significant", ChildSpec(Part, significant=True)),
        ("spec", ChildSpec(Supervisor())),
        ("spec", Part),
    ],
)
async def test_a_spec_that_cannot_be_started_by_hand_is_an_error_that_names_the_option(
    option: str, spec: Any
) -> None:
    async with supervised() as (tree, _):
        with pytest.raises((TypeError, ValueError), match=f"^{option}: "):
            await tree.start_child(spec)


# -- written down ------------------------------------------------------------------------------


class Socket(ConnectionActor):
    pass


BAD: list[tuple[str, Callable[[], object]]] = [
    ("strategy", lambda: Supervisor(strategy="one_for_all")),  # type: ignore[arg-type]
    ("limit", lambda: Supervisor(limit=(3, 5))),  # type: ignore[arg-type]
    ("auto_shutdown", lambda: Supervisor(auto_shutdown=True)),  # type: ignore[arg-type]
    ("policy", lambda: Supervisor(policy={})),  # type: ignore[arg-type]
    ("hooks", lambda: Supervisor(hooks=print)),  # type: ignore[arg-type]
    ("name", lambda: Supervisor(name="")),
    ("children", lambda: Supervisor(ChildSpec(Part))),  # type: ignore[arg-type]
    ("children", lambda: Supervisor([ChildSpec(Part, name="a"), ChildSpec(Part, name="a")])),
    ("children", lambda: Supervisor([ChildSpec(Part, name="a"), Supervisor([ChildSpec(Part, name="a")])])),
    ("children", lambda: Supervisor([ChildSpec(Part, name="a"), ChildSpec(Supervisor(name="a"))])),
    ("significant", lambda: Supervisor([ChildSpec(Part, significant=True)])),
    ("significant", lambda: ChildSpec(Part, restart=PERMANENT, significant=True)),
    ("significant", lambda: ChildSpec(Supervisor(), significant=True)),
    ("actor", lambda: ChildSpec(Part("a", []))),  # type: ignore[arg-type]
    ("actor", lambda: Supervisor(["a"])),  # type: ignore[list-item]
    ("actor", lambda: ChildSpec(Socket)),
    ("name", lambda: ChildSpec(Part, name="")),
    ("name", lambda: ChildSpec(Part, name=7)),  # type: ignore[arg-type]
    ("args", lambda: ChildSpec(Part, args=["a"])),  # type: ignore[arg-type]
    ("args, policy", lambda: ChildSpec(Supervisor(), args=("a",))),
    ("args, policy", lambda: ChildSpec(Supervisor(), policy=Policy())),
    ("restart", lambda: ChildSpec(Part, restart="always")),  # type: ignore[arg-type]
    ("shutdown", lambda: ChildSpec(Part, shutdown=-1)),
    ("shutdown", lambda: ChildSpec(Part, shutdown="5")),  # type: ignore[arg-type]
    ("policy", lambda: ChildSpec(Part, policy=Timeouts())),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("option", "make"), BAD, ids=[f"{option}-{n}" for n, (option, _) in enumerate(BAD)])
def test_what_contradicts_itself_is_an_error_that_names_the_option(
    option: str, make: Callable[[], object]
) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{option}: "):
        make()


@pytest.mark.parametrize(
    ("spec", "restart", "shutdown"),
    [(ChildSpec(Part), TRANSIENT, 5.0), (ChildSpec(Supervisor()), PERMANENT, None)],
)
def test_a_service_is_transient_and_a_branch_is_permanent_and_has_time(
    spec: ChildSpec, restart: Restart, shutdown: float | None
) -> None:
    assert (spec.restart, spec.shutdown_seconds) == (restart, shutdown)


def test_a_branch_is_called_as_its_supervisor() -> None:
    branch = Supervisor(name="branch")

    assert ChildSpec(branch).name == "branch"
    assert ChildSpec(branch, name="another").name == "another"
    assert Supervisor([branch, ChildSpec(Part, name="a")]).names == ("branch", "a")
