"""SIGTERM and SIGINT for servers that wait for their end, taken from nobody and given back.

The rules of this file:

* One handler for all servers of the process, there from the first that asks to the last that ends.
* A signal is taken on the main thread only, and only from those who would just end the program: the
  system, Python, asyncio's and trio's runners.  Whoever has a handler of his own keeps it.
* What a signal means is decided on the event loop.  The third one is given back and sent once more.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, final

from actors.backends import Backend
from supervisor.stall import StallWatch

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_RUNNERS = ("asyncio.runners", "trio._core._ki")
"""The modules of the handlers with which event loops turn Ctrl-C into ``KeyboardInterrupt``."""


@final
class Signals:
    """The signals of one server; made on the thread of its event loop."""

    def __init__(self, backend: Backend, told: Callable[[str, int], None]) -> None:
        self.times = 0
        """How many came."""
        self._backend = backend
        self._told = told
        self._watch = StallWatch(backend)

    def take(self) -> None:
        """Get the signals that nobody else has, until ``give_back``."""
        if threading.current_thread() is not threading.main_thread():
            return
        _servers.append(self)
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if number not in _before and _only_ends(handler):
                _before[number] = handler
                signal.signal(number, _handle)

    def give_back(self) -> None:
        """Get no more signals; the last one gives the handlers back."""
        self._watch.end()
        if self in _servers:
            _servers.remove(self)
            if not _servers:
                _give_back()

    def came(self, number: int) -> None:
        """Tell the server; called by the handler of the signal, between any two steps of the program."""
        self.times += 1
        if self.times == 1:
            # Not threading.Thread: the program may be in the middle of starting one, and have its lock.
            _thread.start_new_thread(self._watch.watch, ())
        try:
            self._backend.call_from_thread(self._told, signal.Signals(number).name, self.times)
        except RuntimeError:
            _again(number)  # its event loop has ended without it


_servers: list[Signals] = []
_before: dict[int, Any] = {}
"""The handlers that were there before ours."""


def _only_ends(handler: Any) -> bool:
    """Tell whether a handler does no more than to end the program."""
    function = handler.func if isinstance(handler, partial) else handler
    return (
        handler is signal.SIG_DFL
        or handler is signal.default_int_handler
        or getattr(function, "__module__", None) in _RUNNERS
    )


def _handle(number: int, frame: FrameType | None) -> None:
    if any(server.times >= 2 for server in _servers):
        _again(number)
    else:
        for server in list(_servers):
            server.came(number)


def _give_back() -> None:
    for number, handler in _before.items():
        if signal.getsignal(number) is _handle:  # else somebody has it from us
            signal.signal(number, handler)
    _before.clear()


def _again(number: int) -> None:
    """Let a signal do what it would have done without us."""
    _give_back()
    os.kill(os.getpid(), number)
