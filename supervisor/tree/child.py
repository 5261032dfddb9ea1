"""A child of a supervisor as its node knows it, and the answer to who started it."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Protocol, final
from weakref import WeakSet

from actors import ActorRef, ExitReason
from actors.backends import Waiter
from actors.cell.cell import Cell
from supervisor.handler_watch import HandlerWatch
from supervisor.policies import Policy
from supervisor.restarts import BackoffClock, RestartWindow
from supervisor.tree.specs import ChildSpec
from supervisor.tree.strategies import Restart


class Life(Protocol):
    """The life of a child: the cell of a service, or a supervisor at work."""

    id: str
    exit_reason: ExitReason
    error: BaseException | None

    @property
    def stopped(self) -> bool:
        """Tell whether it has ended."""

    async def run(self) -> None:
        """Run it from its start to its end."""

    def exit_with(self, reason: ExitReason, /) -> None:
        """End it for ``reason``, after what it is at."""

    def kill(self) -> None:
        """End it now."""

    def when_stopped(self, call: Callable[[], None], /) -> None:
        """Call ``call`` when it has ended."""


@final
class Child:
    """One child of a supervisor: its spec, its life now, and its past."""

    __slots__ = (
        "backoff",
        "born_at",
        "by_hand",
        "cells",
        "id",
        "life",
        "lives",
        "policy",
        "spec",
        "started",
        "waits_with",
        "watch",
        "window",
    )

    def __init__(self, spec: ChildSpec, outer: Policy, *, by_hand: bool = False) -> None:
        self.spec = spec
        self.by_hand = by_hand
        self.id = spec.name or f"{self.title}-{secrets.token_hex(4)}"
        self.policy = (spec.policy or Policy()).over(outer)
        self.life: Life | None = None
        self.lives = 0
        self.born_at = 0.0
        self.started = False
        self.window = RestartWindow(self.policy.restarts)
        self.backoff = BackoffClock(self.policy.backoff)
        self.waits_with: list[Child] | None = None
        """Those that are started again together with it, in this order; ``None`` when it does not wait."""
        self.cells: WeakSet[Cell] = WeakSet()
        """Those of all its lives, as far as somebody has their refs."""
        self.watch: HandlerWatch | None = None

    @property
    def restart(self) -> Restart:
        """The rule by which it is started again."""
        assert self.spec.restart is not None, "a spec fills it in"
        return self.spec.restart

    @property
    def alive(self) -> bool:
        """Tell whether it runs, or will when its time comes."""
        return self.life is not None or self.waits_with is not None

    @property
    def title(self) -> str:
        """The name that messages give it."""
        actor = self.spec.actor
        return self.spec.name or (actor.__name__ if isinstance(actor, type) else "supervisor")

    def forget_life(self) -> None:
        """Its life has ended, and this supervisor has seen it."""
        self.life = None
        self.end_watch()

    def end_watch(self) -> None:
        """Measure its hooks no more."""
        if self.watch is not None:
            self.watch.cancel()
            self.watch = None

    def lived(self, now: float) -> float:
        """Seconds of the life that ended ``now``; none when it did not get through its start."""
        return now - self.born_at if self.started else 0.0


@final
class Answer:
    """The answer to a request to a supervisor; awaited from any event loop."""

    __slots__ = ("_waiter", "child", "error", "event", "ref", "undo")

    def __init__(self) -> None:
        self._waiter = Waiter()
        self.ref: ActorRef | None = None
        self.error: BaseException | None = None
        self.event: Callable[[], Awaitable[None]] | None = None
        """What the supervisor is to do."""
        self.child: Child | None = None
        """The child that is being started."""
        self.undo: Answer | None = None
        """Who waits until a start that was given up has left nothing."""

    def give(self, ref: ActorRef | None = None, error: BaseException | None = None) -> None:
        """Let the waiting task go on."""
        self.ref, self.error = ref, error
        self._waiter.wake()
        if self.undo is not None:
            self.undo.give()

    async def wait(self) -> ActorRef | None:
        """Wait for the answer; raises the error that it was given."""
        await self._waiter.wait()
        if self.error is not None:
            raise self.error
        return self.ref
