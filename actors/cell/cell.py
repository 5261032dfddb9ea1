"""The cell runs one actor: its loop, its crash, and its teardown exactly once.

The rules of this file:

* One task per actor takes one message at a time; ``hook.since`` is set while a hook runs.
* Whatever a hook raises becomes an exit reason here; only the cancellation of the whole runtime
  passes.
* A hook that does not end when it must (it swallows cancellation) is left behind, reported as a
  leak, and the teardown is done by another task.
* The teardown runs once: timers, tasks, the last hook, resources, asks, dead letters, Down.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from types import CoroutineType
from typing import Any, Protocol

import anyio
import trio
from anyio.lowlevel import checkpoint

from actors.actor import Actor
from actors.backends import Waiter
from actors.cell import monitors
from actors.cell.hook import ABANDON_AFTER, RunningHook
from actors.cell.incarnation import FiredTimer, Incarnation, log_left_behind
from actors.cell.misuse import NO_AWAITABLE, take, taken
from actors.cell.monitors import Monitors
from actors.errors import ActorMisuse, ActorStopped, HandlerTimeout, MailboxFull, leaves_of
from actors.mailbox import DEFAULT_BOUNDS, EMPTY, Bounds, Mailbox, Marker, Overflow, PutResult, Told
from actors.messages import Close, CloseReport, ExitReason
from actors.ref import ActorRef, Asked, Closing
from actors.repeats import log_error
from actors.runtime import Runtime
from actors.tracebacks import forget_frames

logger = logging.getLogger("actors")

TURN = 32
"""Messages that an actor handles before the others get their turn, if no hook waits for anything."""
SLICE = 0.005
"""Seconds after which its turn ends all the same, behind the message at hand: what one costs is the peer's
choice."""
TURNS_OF_OTHERS = 4
"""Turns of the event loop that others get then: reading, waking, handling and writing an answer take one
each, and an actor that had a turn of its own in between would hold it up four times."""
LOOK_EACH = 4
"""Messages between two looks at the clock, until one of them has taken long."""
STOP = Marker(None)
"""In the control lane or behind the last message of the data lane: end the loop here."""


class Reaction(Enum):
    """The reaction to a crash; whoever made the cell decides."""

    STOP = auto()
    """The actor ends."""
    RESUME = auto()
    """The failing message is a dead letter, the state stays."""
    RESTART = auto()
    """A new instance takes over the mailbox."""


class CellState(Enum):
    """The state of an actor's life."""

    STARTING = auto()
    RUNNING = auto()
    STOPPING = auto()
    """The gate is shut; what is to end is ending."""
    TEARING_DOWN = auto()
    STOPPED = auto()


class Topics(Protocol):
    """Groups of actors under names; a supervisor provides them."""

    def join(self, topic: str, cell: Cell) -> None:
        """Let ``cell`` get what is published to ``topic``."""

    def leave(self, topic: str, cell: Cell) -> None:
        """Take ``join`` back."""

    def publish(self, topic: str, message: object) -> None:
        """Give ``message`` to every member; from any thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellOptions:
    """The options of a cell; many cells alike share one."""

    bounds: Bounds = DEFAULT_BOUNDS
    overflow: Overflow = Overflow.RAISE
    teardown: float | None = 5.0
    """Seconds that a running hook, and each step of the teardown, may take; ``None``: any time."""
    names: Mapping[str, ActorRef] | None = None
    """The live actors by their names; ``None`` without a supervisor."""
    topics: Topics | None = None
    """Where the actor joins topics; ``None`` without a supervisor."""
    most_topics: int | None = None
    """The number of topics that the actor may join; ``None``: any number."""
    on_crash: Callable[[Cell, BaseException], Reaction] | None = None
    """Says what is done about a crash; without it the actor ends."""
    restart_delay: Callable[[Cell], float] | None = None
    """Seconds to wait before the next incarnation."""
    on_started: Callable[[Cell], None] | None = None
    """Called when the first hook has run."""
    on_exit: Callable[[Cell], None] | None = None
    """Called at the end of the teardown."""


USUAL = CellOptions()

# A member of an enum that is looked up in its class costs as much as a call.
STARTING, RUNNING, STOPPING, TEARING_DOWN, STOPPED = CellState
ALIVE = (STARTING, RUNNING)
"""Nothing has ended the actor yet."""
_OVER = (TEARING_DOWN, STOPPED)


class Cell:
    """One actor at work.  For the thread of its event loop, but for what ``ActorRef`` calls."""

    __slots__ = (
        "__weakref__",
        "_asked",
        "_crash",
        "_incarnation",
        "_last_hook",
        "_make",
        "_options",
        "_parker",
        "_restarting",
        "_when_stopped",
        "actor",
        "error",
        "exit_reason",
        "hook",
        "id",
        "incarnation_number",
        "kind",
        "leaks",
        "mailbox",
        "monitors",
        "runtime",
        "state",
        "torn_down_at",
    )

    def __init__(
        self,
        runtime: Runtime,
        make: Callable[[], Actor],
        *,
        id: str,
        options: CellOptions = USUAL,
    ) -> None:
        self.runtime = runtime
        self.id = id
        self.mailbox = Mailbox(options.bounds)
        self.state = STARTING
        self.actor: Actor | None = None
        """The instance at work; ``None`` again at the end, when it is its owners' alone."""
        self.kind = "actor"
        """The name of the actor's class."""
        self.incarnation_number = 1
        self.exit_reason = ExitReason.NORMAL
        self.error: BaseException | None = None
        self.hook = RunningHook(runtime)
        # What stays empty in most actors is a tuple: an empty list takes as much as nine of these fields.
        self.leaks: tuple[str, ...] = ()
        self.torn_down_at: tuple[float, float] | None = None
        self.monitors: Monitors | None = None
        self._incarnation: Incarnation | None = None  # most actors need none
        self._make = make
        self._options = options
        self._restarting = False
        self._crash: BaseException | None = None  # what the next incarnation is for
        self._last_hook: anyio.CancelScope | None = None  # of the hook of the end, while it runs
        self._asked: Asked | None = None  # what the running hook is to answer
        self._parker = runtime.backend.parker()
        self._when_stopped: tuple[Callable[[], None], ...] = ()

    @property
    def ref(self) -> ActorRef:
        """The actor's address; not held here, or only the garbage collector could free the two."""
        return ActorRef(self)

    @property
    def incarnation(self) -> Incarnation:
        """The life that the actor has now, with its tasks, resources and timers."""
        if self._incarnation is None:
            over = self.state in _OVER
            self._incarnation = Incarnation(self, self.incarnation_number, ended=over)
        return self._incarnation

    @property
    def report(self) -> CloseReport | None:
        """The report of a connection that has ended; ``None`` before that, and for a service."""
        return None

    @property
    def most_topics(self) -> int | None:
        """The number of topics that the actor may join; ``None``: any number."""
        return self._options.most_topics

    @property
    def stopped(self) -> bool:
        """Tell whether the actor has ended and is torn down."""
        return self.state is STOPPED

    @property
    def names(self) -> Mapping[str, ActorRef]:
        """The live actors of the tree by their names."""
        names = self._options.names
        if names is None:
            raise ActorMisuse("names need a supervisor: serve(), supervise() or Supervisor")
        return names

    def join(self, topic: str) -> None:
        """Get what is published to ``topic``; from any thread."""
        self._topics.join(topic, self)

    def leave(self, topic: str) -> None:
        """Take ``join`` back; from any thread."""
        self._topics.leave(topic, self)

    def publish(self, topic: str, message: object) -> None:
        """Give ``message`` to every member of ``topic``; from any thread."""
        self._topics.publish(topic, message)

    @property
    def _topics(self) -> Topics:
        topics = self._options.topics
        if topics is None:
            raise ActorMisuse("topics need a supervisor: serve(), supervise() or Supervisor")
        return topics

    def monitor(self, other: ActorRef) -> None:
        """Get one ``Down`` when ``other`` ends."""
        monitors.monitor(self, other)

    def demonitor(self, other: ActorRef) -> None:
        """Take ``monitor`` back."""
        monitors.demonitor(self, other)

    def lives_in(self, incarnation: Incarnation) -> bool:
        """Tell whether ``incarnation`` is not one of the lives that are over."""
        return self._incarnation is incarnation

    def is_own_task(self, task: object) -> bool:
        """Tell whether ``task`` runs the actor's hooks, or belongs to its incarnation."""
        if task is None:
            return False
        return task is self.hook.task or (self._incarnation is not None and self._incarnation.owns(task))

    # -- the life ------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection  # as any task of the runtime
    async def run(self) -> None:
        """Run the actor from its first hook to the end of its teardown; the body of its task."""
        task = self.runtime.backend.current_task()
        fresh = True
        try:
            while True:
                scope = self.hook.begin(task)
                try:
                    with scope:
                        if fresh:
                            await self._begin_life()
                        if self.actor is not None:
                            await self._loop()
                except BaseException as error:
                    if self.runtime.ending:
                        raise
                    self.crash(error)
                if self._crash is not None:
                    self.hook.stop_timer()
                    fresh = await self._end_life()
                    if not fresh:
                        break
                elif scope.cancel_called and self.restartable:
                    self.hook.stop_timer()
                    fresh = False  # the hook was cancelled, and its actor goes on
                else:
                    break
            while self.state in ALIVE:
                await self._parker.park()
            if self.hook.task is task:
                self.hook.task = None
            await self._tear_down()
        except BaseException as error:
            self.runtime.failed(error)
        finally:
            self.runtime.ends(task)

    async def _begin_life(self) -> None:
        error, self._crash = self._crash, None
        if error is None and self._comes_too_late():
            return
        self._restarting = error is not None
        try:
            actor = self._make()
            actor._cell, actor._former_cell = self, None
            self.actor = actor
            self.kind = type(actor).__qualname__
        except BaseException as raised:
            self.hook_failed(raised)
        else:
            if error is not None:
                await self.call(self.actor.on_restart, error)
            else:
                if self.state is STARTING:
                    self.state = RUNNING
                hook = self._first_hook()
                if hook is not None:
                    await self.call(hook)
        self._restarting = False
        if self._crash is None and self.restartable:
            if error is not None:
                monitors.restarted(self, error)
            elif self._options.on_started is not None:
                self._options.on_started(self)

    def _comes_too_late(self) -> bool:
        """Tell whether the actor was ended before its first step, and there is nothing for it to do."""
        return self.state is not STARTING

    async def _loop(self) -> None:
        pop, clock = self.mailbox.pop, self.runtime.clock
        left, over_at, each = TURN, clock() + SLICE, LOOK_EACH
        look_at = TURN - 1  # the first message shows what they take
        while not self.hook.interrupted:
            message = pop()
            if message is EMPTY:
                await self._parker.park()  # holding no message: that one is the sentinel
                left, look_at, over_at = TURN, TURN - 1, clock() + SLICE
            elif message is STOP:
                return
            else:
                await self.dispatch(message)
                left -= 1
                if left > look_at:
                    continue
                if clock() >= over_at:
                    each = 1
                    await give_turns()
                elif left:
                    look_at = max(0, left - each)
                    continue
                else:
                    await checkpoint()
                left, look_at, over_at = TURN, TURN - 1, clock() + SLICE

    @property
    def restartable(self) -> bool:
        """Tell whether a crash may still lead to a new incarnation."""
        return self.state is RUNNING

    @property
    def goes_on(self) -> bool:
        """Tell whether a crash at this moment may be survived: not one before, in or besides a restart."""
        return self.actor is not None and not self._restarting and self.error is None and self._crash is None

    async def _end_life(self) -> bool:
        """End the incarnation that crashed, wait for the next one's time; tell whether it comes."""
        self.incarnation.cancel_timers()
        self.leaks += await self.incarnation.end_tasks(self._options.teardown)
        await self._run_hook_of_end()
        self.leaks += await self.incarnation.release(self._options.teardown)
        if self.actor is not None:
            self.actor._cell, self.actor._former_cell = None, self
        delay = 0.0 if self._options.restart_delay is None else self._options.restart_delay(self)
        await self.runtime.wait(self._parker, lambda: not self.restartable, delay)
        if not self.restartable:
            return False
        self._incarnation = None
        self.incarnation_number += 1
        return True

    async def dispatch(self, message: Any) -> None:
        """Give one message to its hook; one whose hook crashes becomes a dead letter."""
        actor = self.actor
        assert actor is not None, "a cell without an actor has crashed, and its lanes are empty"
        if not isinstance(message, Told):
            await self.call(actor.on_info, message)
            return
        if isinstance(message, Asked) and message.over:
            self.dead_letter(message, "expired")
            return
        if isinstance(message, FiredTimer):
            if message.cancelled:
                return
            self.incarnation.timer_handled(message)
        elif isinstance(message, Asked):
            self._asked = message
        self.hook.since = self.runtime.clock()
        try:
            answer = actor.on_info(message.message)
            if type(answer) is CoroutineType:
                answer = await answer
            elif type(answer) not in NO_AWAITABLE:
                answer = await taken(answer)
        except BaseException as error:
            if not self.harmless(error):
                self.dead_letter(message, "crashed")
            self.hook_failed(error)
        else:
            if isinstance(message, Asked) and not message.reply(answer):
                self.runtime.dead_letters.add(answer, self.id, "late reply")
        finally:
            self.hook.since = None
            self._asked = None

    async def call(self, hook: Callable[..., Any], *args: Any) -> None:
        """Run one hook, plain or async, that handles no message of the data lane."""
        self.hook.since = self.runtime.clock()
        try:
            result = hook(*args)
            if type(result) is CoroutineType:
                result = await result
            if result is not None:
                await take(self.actor, _name_of(hook), result)
        except BaseException as error:
            self.hook_failed(error)
        finally:
            self.hook.since = None

    def _first_hook(self) -> Callable[[], Any] | None:
        assert self.actor is not None
        return self.actor.on_start

    def harmless(self, error: BaseException) -> bool:
        """Tell whether a hook may raise ``error`` without having crashed."""
        return False

    def hook_failed(self, error: BaseException) -> None:
        """A hook raised ``error``: pass on the cancellation that we asked for, crash for the rest."""
        if self.hook.cancelled and _is_cancellation(error, self.runtime.cancelled):
            raise error
        if self.runtime.ending and isinstance(error, self.runtime.cancelled):
            raise error
        self.crash(error)

    def task_failed(self, error: BaseException) -> None:
        """A task or a resource of the incarnation raised ``error``."""
        if self.runtime.ending and isinstance(error, self.runtime.cancelled):
            raise error
        self.crash(error)
        if self._crash is error:
            self.kill(error)  # the running hook belongs to the incarnation that is over

    def failed_late(self, error: BaseException, name: str) -> None:
        """``name``, of a life that is over and had left it behind, raised ``error``: nobody crashes of it."""
        if self.runtime.ending and isinstance(error, self.runtime.cancelled):
            raise error
        if not self.harmless(error):
            log_error(logger, error, self.kind, "%s, left behind by an earlier life, failed", name)

    def crash(self, error: BaseException) -> None:
        """Do about ``error`` what whoever made the cell decides; while the actor ends, only tell."""
        if self.harmless(error):
            return
        reaction = Reaction.STOP if self._options.on_crash is None else self._options.on_crash(self, error)
        forget_frames(error)  # monitors and refs keep it
        if self.error is not None or self._crash is not None:
            return
        if reaction is Reaction.RESTART and self.goes_on and self.restartable:
            self._crash = error
            self.hook.interrupted = True
            self._fail_asks()
            self._parker.wake()
        elif not (reaction is Reaction.RESUME and self.goes_on):
            self._end_because(error)

    def _fail_asks(self) -> None:
        """Let nobody wait for an answer of the incarnation that is over."""
        for message in (self._asked, *self.mailbox.data):
            if isinstance(message, Asked):
                message.fail(ActorStopped(f"{self.ref!r} crashed before it answered"))

    def _end_because(self, error: BaseException) -> None:
        if self.state in ALIVE:
            self.error = error
            self.exit_with(reason_of(error))

    def stop(self) -> None:
        """End the actor normally after the running hook."""
        self.exit_with(ExitReason.NORMAL)

    def request_close(self, close: Close) -> Closing:
        """Close the actor's WebSocket: it has none."""
        raise ActorMisuse(f"{self.ref!r} has no WebSocket to close; stop() ends a service")

    def exit_with(self, reason: ExitReason) -> None:
        """End the actor for ``reason``; the first reason stays."""
        if self.state in ALIVE:
            self.exit_reason = reason
            self.end_loop()

    def end_loop(self) -> None:
        """Let no further message in or out of the mailbox; the running hook has the teardown timeout."""
        if self.state is STOPPED:
            return
        if self.state is not TEARING_DOWN:
            self.state = STOPPING
        self.mailbox.open = False
        self._clear()
        self.mailbox.put_control(STOP)
        self._parker.wake()
        self.hook.end_within(self._options.teardown, self._abandon_hook)

    def _clear(self) -> None:
        """Make dead letters of what is queued; an ask fails now, not after the running hook."""
        for message in self.mailbox.clear_data():
            self.dead_letter(message, "undelivered")

    def kill(self, error: BaseException | None = None) -> None:
        """Cancel the running hook now, because of ``error``; it has the teardown timeout to end."""
        if self.hook.since is not None:
            self.hook.cancel(self._options.teardown, partial(self._abandon_hook, error))
        elif self._last_hook is not None:
            self._last_hook.cancel()

    def _abandon_hook(self, error: BaseException | None = None) -> None:
        """The hook swallowed its cancellation, because of ``error``: go on without it."""
        if self.hook.since is None or self.hook.task is None:
            return
        if self.state is STOPPING:
            log_left_behind(f"a hook of {self.kind} {self.id}", self.hook.task)
            self.leaks += (f"a hook of {self.kind}",)
            self.hook.task = None
            if self._asked is not None:
                self._asked.fail(ActorStopped(f"{self.ref!r} has ended while it handled the message"))
            self.runtime.spawn(self._tear_down, name=f"teardown of {self.id}")
        elif error is not None:
            self._crash = None
            self._end_because(error)

    # -- the teardown --------------------------------------------------------------------------

    async def _tear_down(self) -> None:
        if self.state in _OVER:
            return
        self.state = TEARING_DOWN
        began = self.runtime.clock()
        self.mailbox.open = False
        self.hook.stop_timer()
        if self._incarnation is not None:
            self._incarnation.cancel_timers()
            self.leaks += await self._incarnation.end_tasks(self._options.teardown)
        await self._run_last_hook()
        if self._incarnation is not None:
            self.leaks += await self._incarnation.release(self._options.teardown)
        self.torn_down_at = (began, self.runtime.clock())
        self._finish()

    async def _run_last_hook(self) -> None:
        await self._run_hook_of_end()

    async def _run_hook_of_end(self) -> None:
        """Run what comes at the end of every incarnation."""
        actor = self.actor
        if actor is not None and type(actor).on_stop is not Actor.on_stop:
            await self.call_last(actor.on_stop)

    async def call_last(self, hook: Callable[..., Any], *args: Any) -> None:
        """Run a hook of the teardown in a task of its own, so that one that hangs is left behind."""
        hook_ended = False
        parker = self.runtime.backend.parker()
        scope = self._last_hook = anyio.CancelScope()

        async def run() -> None:
            nonlocal hook_ended
            self.hook.task = self.runtime.backend.current_task()
            try:
                with scope:
                    result = hook(*args)
                    if type(result) is CoroutineType:
                        result = await result
                    if result is not None:
                        await take(self.actor, _name_of(hook), result)
            except BaseException as error:
                if self._last_hook is scope:
                    self.crash(error)
                else:
                    self.failed_late(error, f"{_name_of(hook)} of {self.kind}")
            finally:
                hook_ended = True
                parker.wake()

        self.runtime.spawn(run, name=f"{_name_of(hook)} of {self.id}")
        if not await self.runtime.wait(parker, lambda: hook_ended, self._options.teardown):
            scope.cancel()
            title, patience = f"{_name_of(hook)} of {self.kind}", self._options.teardown
            logger.warning("%s %s takes more than %s s, and is cancelled", title, self.id, patience)
            if not await self.runtime.wait(parker, lambda: hook_ended, ABANDON_AFTER):
                log_left_behind(f"{title} {self.id}", self.hook.task)
                self.leaks += (title,)
        self._last_hook = None
        self.hook.task = None

    def _finish(self) -> None:
        self.state = STOPPED
        self._clear()
        self.mailbox.control.clear()
        if self.monitors is not None:
            monitors.stopped(self, self.monitors)
        if self._options.on_exit is not None:
            self._options.on_exit(self)
        calls, self._when_stopped = self._when_stopped, ()
        for call in calls:
            call()
        # Refs, reports and the actor may be kept for ever; what would make a cycle of them is let go.
        self.actor = self._incarnation = None

    async def wait_stopped(self) -> None:
        """Wait for the end of the teardown; from any event loop."""
        waiter = Waiter()
        if self.runtime.call(self._wake_when_stopped, waiter):
            try:
                await waiter.wait()
            finally:
                self.runtime.call(self._forget, waiter)

    def _wake_when_stopped(self, waiter: Waiter) -> None:
        if self.stopped:
            waiter.wake()
        else:
            self._when_stopped += (waiter.wake,)

    def _forget(self, waiter: Waiter) -> None:
        self._when_stopped = tuple(call for call in self._when_stopped if call != waiter.wake)

    def when_stopped(self, call: Callable[[], None]) -> None:
        """Call ``call`` at the end of the teardown; not at all when that is over already."""
        if not self.stopped:
            self._when_stopped += (call,)

    # -- the mailbox ---------------------------------------------------------------------------

    def put_control(self, message: object) -> None:
        """Put ``message`` into the control lane; an actor that is ending has no use for it."""
        if self.state in ALIVE:
            self.mailbox.put_control(message)
            self._parker.wake()

    def put_told(self, told: Told) -> None:
        """Put a told or asked message into the data lane; raises ``MailboxFull``."""
        result, overflow = self.mailbox.put_told(told), self._options.overflow
        if result is PutResult.FULL and overflow is Overflow.DROP_OLD and self.mailbox.could_hold(told):
            while result is PutResult.FULL and (oldest := self.mailbox.drop_oldest_told()) is not None:
                self.dead_letter(oldest, "overflow")
                result = self.mailbox.put_told(told)
        if result is PutResult.ADMITTED:
            self._parker.wake()
        elif result is PutResult.SHUT:
            self.dead_letter(told, "stopped")
        elif overflow is Overflow.RAISE:
            raise MailboxFull(
                f"{self.ref!r}: the mailbox holds {self.mailbox.told_messages} told messages"
                if self.mailbox.could_hold(told)
                else f"{self.ref!r}: the message is larger than what the mailbox may hold, "
                f"{self.mailbox.bounds.told_bytes} bytes"
            )
        else:
            self.dead_letter(told, "overflow")
            if overflow is Overflow.CLOSE:
                self.exit_with(ExitReason.OVERLOAD)

    def put_told_or_drop(self, told: Told) -> None:
        """``put_told`` for another thread, which cannot get the exception."""
        try:
            self.put_told(told)
        except MailboxFull:
            self.dead_letter(told, "overflow")

    def timer_fired(self, fired: FiredTimer) -> None:
        """Queue the firing of a timer; there is one at most per key, so bounds do not matter."""
        if self.mailbox.open:
            self.mailbox.put_marker(fired)
            self._parker.wake()

    def dead_letter(self, message: Any, reason: str) -> None:
        """Take note of a message that no hook will see, and fail the ask that it was."""
        if isinstance(message, Asked):
            why = f"{self.ref!r} did not take the message: {reason}"
            message.fail(MailboxFull(why) if reason == "overflow" else ActorStopped(why))
        if isinstance(message, Marker):
            return
        self.runtime.dead_letters.add(
            message.message if isinstance(message, Told) else message, self.id, reason
        )


async def give_turns() -> None:
    """Let the others have as many turns of the event loop as it takes them to answer a message."""
    for _ in range(TURNS_OF_OTHERS):
        await checkpoint()


def reason_of(error: BaseException) -> ExitReason:
    """The exit reason of an actor that crashed with ``error``."""
    return ExitReason.HANDLER_TIMEOUT if isinstance(error, HandlerTimeout) else ExitReason.CRASH


def _name_of(hook: Callable[..., Any]) -> str:
    return getattr(hook, "__name__", "a hook")  # a partialmethod has none


def _is_cancellation(error: BaseException, cancelled: type[BaseException]) -> bool:
    """Tell whether ``error`` is a cancellation, or a group with one in it."""
    return any(isinstance(leaf, cancelled) for leaf in leaves_of(error))
