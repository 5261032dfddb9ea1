"""A supervisor at work: starts children, sees them end, starts them again within limits, or gives up.

The rules of this file (OTP, ``supervisor``):

* Children start in the order of their specs, each when the one before has run ``on_start``; they
  stop in reverse order, each with its own ``shutdown`` seconds.
* One task per supervisor takes one event at a time: a child's end, a restart whose time has come,
  a child to be started or stopped by hand.
* A budget that is spent ends the supervisor abnormally, which its parent sees as a crash.
* A stop wins over everything that waits: a start, a backoff.  Children that a strategy stopped wait
  with the one that failed, and one of them that is stopped meanwhile holds up none of the others.
* A child keeps its id through all its lives; each life has a ref of its own.
"""

from __future__ import annotations

import logging
import random
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import final

import anyio

from actors import ActorRef, ExitReason
from actors.cell.cell import Cell, CellOptions, Reaction
from actors.errors import ActorError, ActorStopped, ChildStartFailed, RestartLimitReached
from supervisor.cell_options import bounds_of
from supervisor.description import Description, describe_cell
from supervisor.environment import Environment
from supervisor.events import ActorCrashed, ActorRestarted, tell
from supervisor.handler_watch import HandlerWatch
from supervisor.policies import Policy
from supervisor.restarts import RestartWindow
from supervisor.tree.child import Answer, Child, Life
from supervisor.tree.specs import ChildSpec, SupervisorSpec
from supervisor.tree.strategies import AutoShutdown, Restart, plan, restarts

logger = logging.getLogger("supervisor")

TAKEN_BACK_WITHIN = 10.0
"""Seconds that a cancelled ``start_child`` waits for the end of what it has begun."""


@final
class Node:
    """One supervisor at work; to its parent it looks like a cell."""

    __slots__ = (
        "_born_at",
        "_children",
        "_environment",
        "_events",
        "_killed",
        "_on_exit",
        "_on_started",
        "_parker",
        "_policy",
        "_requests",
        "_stopping",
        "_supervisor",
        "_when_stopped",
        "_window",
        "error",
        "exit_reason",
        "id",
        "started",
        "stopped",
    )

    def __init__(
        self,
        environment: Environment,
        supervisor: SupervisorSpec,
        outer: Policy | None,
        *,
        name: str | None = None,
        on_started: Callable[[], None],
        on_exit: Callable[[Node], None],
    ) -> None:
        self._environment = environment
        self._supervisor = supervisor
        self._policy = (supervisor.policy or Policy()).over(outer)
        self._on_started = on_started
        self._on_exit = on_exit
        self._events: deque[Callable[[], Awaitable[None]]] = deque()
        self._requests: set[Answer] = set()
        self._parker = environment.runtime.backend.parker()
        self._stopping = False
        self._killed = False
        self._when_stopped: list[Callable[[], None]] = []
        self._window = RestartWindow(supervisor.limit)
        self._children = [Child(spec, self._policy) for spec in supervisor.children]
        self._born_at = environment.runtime.clock()
        self.id = name or supervisor.name or f"supervisor-{secrets.token_hex(4)}"
        self.started = False
        self.stopped = False
        self.exit_reason = ExitReason.NORMAL
        self.error: BaseException | None = None

    def __repr__(self) -> str:
        return f"<supervisor {self.id}>"

    # -- as a child ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Run from the start of the first child to the end of the last; the body of its task."""
        try:
            await self._start_all()
            if not self._stopping:
                self.started = True
                self._on_started()
            while not self._stopping:
                if self._events:
                    await self._events.popleft()()
                else:
                    await self._parker.park()
        except BaseException as error:
            if self._environment.runtime.ending:
                raise
            self._give_up(error)
        for child in reversed(self._children):
            await self._stop(child)
        self.stopped = True
        for answer in list(self._requests):
            answer.give(error=ActorStopped(f"{self!r} has ended"))
        self._on_exit(self)
        for call in self._when_stopped:
            call()

    def exit_with(self, reason: ExitReason) -> None:
        """Stop all children in reverse order and end for ``reason``; the first one stays."""
        if not self._stopping:
            self._stopping = True
            self.exit_reason = reason
            self._parker.wake()

    def kill(self) -> None:
        """The time for stopping is over: cancel the hooks of the children that are left."""
        self._killed = True
        for child in self._children:
            if child.life is not None:
                child.life.kill()
        self._parker.wake()

    def when_stopped(self, call: Callable[[], None]) -> None:
        """Call ``call`` when everything has ended; not at all when it has already."""
        if not self.stopped:
            self._when_stopped.append(call)

    def _give_up(self, error: BaseException) -> None:
        """End abnormally because of ``error``."""
        if not self._stopping:
            self.error = error
            logger.error("%r gives up: %s", self, error)
        self.exit_with(ExitReason.CRASH)

    # -- starting ------------------------------------------------------------------------------

    async def _start_all(self) -> None:
        for child in list(self._children):
            if self._stopping:
                return
            error = await self._start(child)
            if error is not None:
                self._give_up(error)

    async def _start(self, child: Child) -> ActorError | None:
        """Start a life of ``child`` and wait until it has begun; gives what went wrong."""
        child.waits_with = None
        child.started = False
        child.lives += 1
        child.born_at = self._environment.runtime.clock()
        try:
            life = self._make(child)
        except Exception as error:
            failed = ChildStartFailed(f"child {child.title!r} of {self!r} cannot be started: {error}")
            failed.__cause__ = error
            return failed
        child.life = life
        self._environment.runtime.spawn(life.run, name=f"{child.title} {life.id}")
        await self._environment.runtime.wait(
            self._parker, lambda: child.started or life.stopped or self._stopping, None
        )
        if life.stopped and not child.started and _failed(life):
            failed = ChildStartFailed(f"child {child.title!r} of {self!r} crashed while it started")
            failed.__cause__ = life.error
            return failed
        return None

    def _make(self, child: Child) -> Life:
        spec, environment = child.spec, self._environment

        def started(*_: object) -> None:
            child.started = True
            self._parker.wake()

        if not isinstance(spec.actor, type):
            return Node(
                environment,
                spec.actor,
                self._policy,
                name=child.id,
                on_started=started,
                on_exit=lambda node: self._exited(child, node),
            )
        actor, policy = spec.actor, child.policy
        cell = Cell(
            environment.runtime,
            lambda: actor(*spec.args),
            id=child.id,
            options=CellOptions(
                bounds=bounds_of(policy),
                overflow=policy.overflow,
                teardown=policy.timeouts.teardown,
                names=environment.registry,
                topics=environment.topics,
                on_crash=self._crashed,
                on_started=started,
                on_exit=lambda cell: self._exited(child, cell),
            ),
        )
        environment.registry.register(cell.id, cell)
        child.cells.add(cell)
        if policy.timeouts.handler is not None:
            child.watch = HandlerWatch(cell, policy.timeouts.handler)
        return cell

    def _crashed(self, cell: Cell, error: BaseException) -> Reaction:
        tell(self._environment.hooks, ActorCrashed(cell.ref, error))
        return Reaction.STOP

    # -- ends ----------------------------------------------------------------------------------

    def _exited(self, child: Child, life: Life) -> None:
        """Called by a life at its end, in its own task."""
        if isinstance(life, Cell):
            self._environment.registry.forget(life.id, life)
            self._environment.topics.forget(life)
            if life.leaks:
                logger.warning("%r left behind: %s", life.ref, ", ".join(life.leaks))
        if child.life is life:
            self._events.append(partial(self._child_ended, child, life))
        self._parker.wake()

    async def _child_ended(self, child: Child, life: Life) -> None:
        if child.life is not life:
            return  # it was stopped, and has ended for this supervisor already
        child.forget_life()
        if restarts(child.restart, abnormal=_failed(life)):
            await self._restart(child, life.exit_reason, life.error, life)
            return
        if child.restart is Restart.TEMPORARY or child.by_hand:
            self._children.remove(child)
        if child.spec.significant:
            self._significant_child_ended()

    def _significant_child_ended(self) -> None:
        rule = self._supervisor.auto_shutdown
        others = any(child.spec.significant and child.alive for child in self._children)
        if rule is AutoShutdown.ANY_SIGNIFICANT or (rule is AutoShutdown.ALL_SIGNIFICANT and not others):
            self.exit_with(ExitReason.SHUTDOWN)

    async def _restart(
        self, child: Child, reason: ExitReason, error: BaseException | None, life: Life | None = None
    ) -> None:
        """Do what the strategy says about a child that is to be started again, if the budgets allow it."""
        now = self._environment.runtime.clock()
        for owner, window in ((repr(self), self._window), (f"child {child.title!r}", child.window)):
            if not window.allow(now):
                spent = RestartLimitReached(
                    f"{owner} has no restarts left ({window.limit.count} within {window.limit.within} s are "
                    f"allowed): child {child.title!r} ended with {reason.value!r}"
                )
                spent.__cause__ = error
                self._give_up(spent)
                return
        if isinstance(life, Cell):
            tell(self._environment.hooks, ActorRestarted(life.ref, child.lives + 1))
        order = [one.restart for one in self._children]
        what = plan(self._supervisor.strategy, order, self._children.index(child))
        stop = [self._children[number] for number in what.stop]
        start = [self._children[number] for number in what.start]
        for sibling in stop:
            await self._stop(sibling)
            if sibling.restart is Restart.TEMPORARY:
                self._children.remove(sibling)
        for one in start:
            one.waits_with = start
        delay = child.backoff.next_delay(child.lived(now), random.random())
        if not delay:
            await self._start_again(start)
        else:
            self._environment.runtime.timers.after(delay, partial(self._restart_due, start))

    def _restart_due(self, children: list[Child]) -> None:
        self._events.append(partial(self._start_again, children))
        self._parker.wake()

    async def _start_again(self, children: list[Child]) -> None:
        for child in children:
            if self._stopping:
                return
            if child.waits_with is not children:
                continue  # stopped meanwhile, or part of a later plan
            error = await self._start(child)
            if error is not None:
                logger.warning("%s", error)
                child.forget_life()
                # The next event of all: what is still to start is in the plan that it leads to.
                self._events.appendleft(partial(self._restart, child, ExitReason.CRASH, error))
                return

    # -- stopping ------------------------------------------------------------------------------

    async def _stop(self, child: Child) -> None:
        """Stop the life of ``child``, or the restart that waits for its time."""
        child.waits_with = None
        life = child.life
        if life is None:
            return
        child.end_watch()
        runtime = self._environment.runtime
        patience = 0.0 if self._killed else child.spec.shutdown_seconds
        life.exit_with(ExitReason.SHUTDOWN)
        if isinstance(life, Cell):
            life.hook.spare()
        life.when_stopped(self._parker.wake)
        await runtime.wait(self._parker, lambda: life.stopped or self._killed, patience)
        if not life.stopped:
            if patience and not self._killed:
                logger.warning("child %r of %r did not stop within %s s", child.title, self, patience)
            life.kill()
        await runtime.wait(self._parker, lambda: life.stopped, None)
        child.forget_life()

    # -- by hand -------------------------------------------------------------------------------

    async def start_child(self, spec: ChildSpec) -> ActorRef:
        """Start a service behind the others; from any event loop.  Cancelled, it leaves no child."""
        answer = Answer()
        try:
            ref = await self._request(answer, partial(self._start_child, spec, answer))
        except BaseException:
            if answer.error is None:
                await self._take_back(answer)
            raise
        assert ref is not None, "a child that was started has a ref"
        return ref

    async def _take_back(self, answer: Answer) -> None:
        undo = Answer()
        if self._environment.runtime.call(self._withdraw, answer, undo):
            with anyio.move_on_after(TAKEN_BACK_WITHIN, shield=True):
                await undo.wait()

    def _withdraw(self, answer: Answer, undo: Answer) -> None:
        """Nobody waits for a start any more: forget it, end it, or stop what it has started."""
        event = answer.event
        if event is not None and event in self._events:
            self._requests.discard(answer)
            self._events.remove(event)
            undo.give()
        elif answer in self._requests:
            answer.undo = undo
            if answer.child is not None and answer.child.life is not None:
                answer.child.life.exit_with(ExitReason.SHUTDOWN)
                answer.child.life.kill()
        elif answer.ref is not None:
            self._take_request(undo, partial(self._stop_child, answer.ref, undo))
        else:
            undo.give()

    async def stop_child(self, ref: ActorRef) -> None:
        """Stop the service ``ref`` and forget its spec; from any event loop, and cancelled all the same."""
        answer = Answer()
        await self._request(answer, partial(self._stop_child, ref, answer))

    async def _request(self, answer: Answer, event: Callable[[], Awaitable[None]]) -> ActorRef | None:
        if not self._environment.runtime.call(self._take_request, answer, event):
            raise ActorStopped(f"{self!r} has ended with its event loop")
        return await answer.wait()

    def _take_request(self, answer: Answer, event: Callable[[], Awaitable[None]]) -> None:
        if self.stopped:
            answer.give(error=ActorStopped(f"{self!r} has ended"))
            return
        self._requests.add(answer)
        answer.event = event
        self._events.append(event)
        self._parker.wake()

    async def _start_child(self, spec: ChildSpec, answer: Answer) -> None:
        child = Child(spec, self._policy, by_hand=True)
        error: Exception | None
        try:
            self._supervisor.check_significant(spec)
            self._check_name(spec)
        except ValueError as wrong:
            error = wrong
        else:
            self._children.append(child)
            answer.child = child
            error = await self._start(child)
            if error is None and answer.undo is not None:
                error = ActorStopped(f"the start of {child.title!r} was given up")
            if error is not None:
                await self._stop(child)
                self._children.remove(child)
            elif self._stopping:
                error = ActorStopped(f"{self!r} is stopping")
        self._requests.discard(answer)
        answer.give(child.life.ref if error is None and isinstance(child.life, Cell) else None, error)

    def _check_name(self, spec: ChildSpec) -> None:
        """Raise ``ValueError`` for a name that somebody has, or will have when its restart is due."""
        if spec.name is None:
            return
        if any(spec.name in child.spec.names for child in self._children):
            raise ValueError(f"name: {spec.name!r} belongs to another child of {self!r}")
        if spec.name in self._environment.registry:
            raise ValueError(f"name: {spec.name!r} belongs to {self._environment.registry[spec.name]!r}")

    async def _stop_child(self, ref: ActorRef, answer: Answer) -> None:
        self._requests.discard(answer)
        for child in self._children:
            if ref._cell in child.cells:
                await self._stop(child)
                self._children.remove(child)
                break
        else:
            if ref.alive:
                answer.give(error=ValueError(f"{ref!r} is no child of {self!r}"))
                return
        answer.give(ref)

    # -- seeing it -----------------------------------------------------------------------------

    def describe(self) -> Description:
        """This supervisor and what is below it, as plain data."""
        now = self._environment.runtime.clock()
        children = []
        for child in self._children:
            life = child.life
            left = child.window.left(now)
            if life is None:
                kind = "service" if isinstance(child.spec.actor, type) else "supervisor"
                state = "waits for its restart" if child.waits_with is not None else "ended"
                children.append(
                    Description(child.title, kind, state, incarnation=child.lives, restarts_left=left)
                )
            elif isinstance(life, Node):
                children.append(replace(life.describe(), incarnation=child.lives))
            else:
                assert isinstance(life, Cell), "a child is one or the other"
                children.append(describe_cell(life, child.title, child.born_at, child.lives, left))
        return Description(
            self.id,
            "supervisor",
            "stopped" if self.stopped else "stopping" if self._stopping else "running",
            uptime=now - self._born_at,
            restarts_left=self._window.left(now),
            children=tuple(children),
        )


def _failed(life: Life) -> bool:
    """Tell whether a life ended abnormally: neither normally nor by a shutdown (OTP, ``supervisor``)."""
    return life.exit_reason not in (ExitReason.NORMAL, ExitReason.SHUTDOWN)
