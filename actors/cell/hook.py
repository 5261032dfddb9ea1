"""The hook of an actor that runs now: since when, where it waits, and its end when it must not go on.

The rules of this file:

* Whoever runs a hook sets ``since``: a call for every message would cost too much.
* A hook that must end is cancelled, now or when its time is over; one that still runs when another
  time is over is abandoned, and its cell goes on without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import anyio

from actors.frames import place, waiting_frame
from actors.runtime import Runtime
from actors.timers import Timer


@final
class RunningHook:
    """The hook that an actor's task runs, and the means to end it; made once, for all its hooks."""

    __slots__ = ("_runtime", "_scope", "_timer", "interrupted", "sent_at", "since", "task", "waits_for_peer")

    def __init__(self, runtime: Runtime) -> None:
        self.since: float | None = None
        """When the hook began, on the runtime's clock; ``None`` between hooks."""
        self.sent_at = 0.0
        """When a send went through that was not at once: the hook gets on."""
        self.waits_for_peer = False
        """Whether the hook waits for the peer to take what was sent."""
        self.interrupted = False
        """Whether a crash or a cancellation ends the loop: the hook has the teardown timeout."""
        self.task: object = None
        """The task that runs hooks; ``None`` when there is none, or the hook is left behind in it."""
        self._runtime = runtime
        self._scope: anyio.CancelScope | None = None  # made in the task: anyio needs one to know its backend
        self._timer: Timer | None = None

    def begin(self, task: object) -> anyio.CancelScope:
        """Let ``task`` run hooks from now on, in the scope that this gives."""
        self.task = task
        self.interrupted = False
        scope = self._scope = self._runtime.backend.scope()
        return scope

    def where(self) -> str | None:
        """Give the place where the hook waits, as ``file:line in function``; ``None`` between hooks."""
        if self.since is None or self.task is None:
            return None
        frame = waiting_frame(self.task)
        return None if frame is None else place(frame)

    @property
    def cancelled(self) -> bool:
        """Tell whether the hook, or one before it in the same scope, was cancelled."""
        return self._scope is not None and self._scope.cancel_called

    def end_within(self, seconds: float | None, abandon: Callable[[], None]) -> None:
        """Cancel the hook if it still runs in ``seconds``; call ``abandon`` when that does not end it."""
        if self.since is not None:
            self._set_timer(seconds, lambda: self.cancel(ABANDON_AFTER, abandon))

    def cancel(self, patience: float | None, abandon: Callable[[], None]) -> None:
        """Cancel the hook now; call ``abandon`` when that has not ended it in ``patience`` seconds."""
        if self.since is not None and self._scope is not None:
            self.interrupted = True
            self._scope.cancel()
            self._set_timer(patience, abandon)

    def spare(self) -> None:
        """Let the hook take its time: whoever ends the actor has another patience with it."""
        if not self.cancelled:
            self.stop_timer()

    def stop_timer(self) -> None:
        """The hook has ended: cancel and abandon nothing."""
        if self._timer is not None:
            self._timer.cancel()

    def _set_timer(self, delay: float | None, call: Callable[[], None]) -> None:
        self.stop_timer()
        if delay is not None:
            self._timer = self._runtime.timers.after(delay, call)


ABANDON_AFTER = 1.0
"""Seconds that what was cancelled after the teardown timeout has to end, before it is left behind."""
