"""The life of one Robyn process: our server in Robyn's event loop, from its startup to the exit.

What is relied on in Robyn 0.88 (``src/server.rs``): it listens already when it runs its startup
handler, and accepts once that returns; an async startup handler runs in a task of its event loop, on
the main thread; an exception out of the loop, KeyboardInterrupt too, makes it call the shutdown
handler and then ``exit(0)`` of C, unless a plain shutdown handler raises.  Its HTTP server installs
signal handlers of its own once it accepts, and accepts nothing more after a signal.

The end: it is told to (a signal, its parent) -> ready is false, and every HTTP request is the last one of
its connection -> the WebSockets are drained -> nothing more is accepted -> the HTTP answers that are
still to come -> ``server.stop`` -> Robyn's shutdown handler -> status 0.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import final

from robyn import Robyn
from robyn.events import Events
from robyn.robyn import FunctionInfo

from supervisor.connections.drain import Drain
from supervisor.listening.server import Server
from supervisor.proxy.forwarder import Forwarder
from supervisor.robyn.patience import Overtime, Patience
from supervisor.robyn.processes import Parent
from supervisor.robyn.tcp_info import until_answered

logger = logging.getLogger("supervisor")

RETIRING = Drain(spread=0)
"""How a process drains whose place another one has, when a signal drains nothing."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LOOK_EVERY = 0.005
_LOOKS = 2000


@final
class Life:
    """Between Robyn's startup and its exit: our server in Robyn's event loop."""

    def __init__(
        self,
        app: Robyn,
        server: Server,
        http: Forwarder,
        parent: Parent | None,
        drain: Drain | None,
        patience: Patience,
        environment: Mapping[str, str],
        announcement: str,
    ) -> None:
        self._server = server
        self._http = http
        self._parent = parent
        self._drain = drain
        self._seconds = patience
        self._overtime: Overtime | None = None
        self._environment = environment
        self._announcement = announcement
        self._users_startup: FunctionInfo | None = app.event_handlers.get(Events.STARTUP)
        self._users_shutdown: FunctionInfo | None = app.event_handlers.get(Events.SHUTDOWN)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: asyncio.Task[None] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._background: list[asyncio.Task[None]] = []  # event loops hold tasks weakly
        self._times_told = 0
        self._deadline = 0.0
        self._patience: asyncio.Timeout | None = None
        self._dropping = False
        self._ending = False
        self._failure: BaseException | None = None

    # -- the begin -----------------------------------------------------------------------------

    async def startup(self) -> None:
        """Robyn's startup handler: the user's first, so that what it opens is there for the actors.

        When something fails it does not return, so that Robyn does not come up.
        """
        self._loop = loop = asyncio.get_running_loop()
        self._overtime = Overtime(loop)
        self._starting = asyncio.current_task()
        os.environ.update(self._environment)
        self._http.start()
        started = asyncio.Event()
        try:
            if (users := self._users_startup) is not None:
                await (users.handler() if users.is_async else asyncio.to_thread(users.handler))
        except BaseException as error:
            self._failed(error)
            self._end_loop_soon()
        else:
            self._serving = loop.create_task(self._serve(started), name="supervisor.serve")
        await started.wait()
        if self._parent is not None:
            self._parent.listen(loop, self._retire, self._orphaned)
        ours: list[bytes] = []
        if threading.current_thread() is threading.main_thread():
            self._listen_to_signals(loop)
            ours = _handlers_in_force()
        self._background.append(loop.create_task(self._announce(loop, ours)))

    async def _announce(self, loop: asyncio.AbstractEventLoop, ours: list[bytes]) -> None:
        """Say that it serves, once Robyn does and the signals are ours.

        The parent hears it when the pump is there as well: clients that the old process sends away come
        back at once, and their connections would stay with this process.
        """
        if ours:
            await self._take_back_signals(loop, ours)
        logger.info("%s", self._announcement)
        if self._parent is not None:
            await self._http.started()
            self._parent.tell_ready()

    async def _serve(self, started: asyncio.Event) -> None:
        try:
            async with self._server.running():
                started.set()
                try:
                    await self._server.serve_forever(signals=False)
                finally:
                    self._has(self._seconds.without_drain)
        except BaseException as error:
            self._failed(error)
        self._http.abort()
        if not self._ending:
            self._end_loop_soon()

    def _failed(self, error: BaseException) -> None:
        if not isinstance(error, KeyboardInterrupt) and not self._ending:
            self._failure = error

    # -- the end -------------------------------------------------------------------------------

    def _listen_to_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._told_to_end, number.name)

    async def _take_back_signals(self, loop: asyncio.AbstractEventLoop, ours: list[bytes]) -> None:
        """Wait until Robyn's HTTP server has put its signal handlers over ours, and put ours over them.

        It would accept nothing more after a signal, while the WebSockets are drained.
        """
        for _ in range(_LOOKS):
            await asyncio.sleep(_LOOK_EVERY)
            if all(one != other for one, other in zip(ours, _handlers_in_force(), strict=True)):
                break
        self._listen_to_signals(loop)

    def over(self) -> None:
        """Let the process go on after ``start``."""
        if self._overtime is not None:
            self._overtime.over()

    def _has(self, seconds: float | None) -> None:
        """Leave ``seconds`` to this process to end."""
        assert self._overtime is not None, "it has begun"
        self._overtime.begin(seconds)

    def _orphaned(self) -> None:
        self._told_to_end("the parent process is gone")

    def _told_to_end(self, by: str) -> None:
        self._times_told += 1
        self._has(self._seconds.when_told(self._times_told))
        drain, open_now = self._drain, len(self._server.connections)
        if self._times_told == 1 and drain is not None:
            logger.info("%s: draining; once more leaves %g s, a third time drops all", by, drain.hurry)
            self._wind_down(drain, retiring=False)
        elif self._times_told == 1:
            logger.info("%s: closing %d connections; another one drops them", by, open_now)
            self._server.stop()
        elif self._times_told == 2 and drain is not None:
            logger.warning("%s again: %d connections have %g s", by, open_now, drain.hurry)
            self._hurry(drain.hurry)
        else:
            logger.warning("%s again: dropping %d connections", by, open_now)
            self._dropping = True
            _interrupt()

    def _retire(self) -> None:
        """Another process has taken the place of this one: leave the new connections to it."""
        if not self._times_told:
            self._times_told = 1
            drain = self._drain or RETIRING
            self._has(self._seconds.when_retired(drain))
            logger.info("another process takes the place of this one: draining")
            self._wind_down(drain, retiring=True)

    def _wind_down(self, drain: Drain, *, retiring: bool) -> None:
        assert self._loop is not None, "it runs this"
        self._deadline = self._loop.time() + drain.within
        self._background.append(self._loop.create_task(self._end_gracefully(drain, retiring)))

    async def _end_gracefully(self, drain: Drain, retiring: bool) -> None:
        server = self._server
        try:
            if retiring:
                await server.stop_listening()
                await self._http.settle()
            self._http.last_answers()
            await server.drain(drain.within, drain.spread, drain.code, drain.reason, drain.notice)
            await server.stop_listening()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._deadline) as self._patience:
                    if server.site.forward is None:
                        await until_answered(self._http.address[1])
                    await self._http.finish()
            self._patience = None
        except Exception:
            logger.exception("the drain failed: closing every connection now")
        finally:
            server.stop()

    def _hurry(self, within: float) -> None:
        assert self._loop is not None, "it runs this"
        self._deadline = min(self._deadline, self._loop.time() + within)
        self._server.hurry(within)
        if self._patience is not None:
            self._patience.reschedule(self._deadline)

    def _end_loop_soon(self) -> None:
        assert self._loop is not None, "it runs this"
        self._loop.call_soon(_interrupt)

    def shutdown(self) -> None:
        """Robyn's shutdown handler, after the end of the event loop: the user's, after our server.

        What it raises comes out of ``start``; otherwise Robyn ends the process without Python's own
        ending, so what is buffered is written here.
        """
        self._ending = True
        if self._loop is not None and self._serving is not None:
            if not self._serving.done() and not self._dropping:  # something else than us ended the loop
                self._serving.cancel()
                with suppress(asyncio.CancelledError, KeyboardInterrupt):
                    self._loop.run_until_complete(self._serving)
            if (users := self._users_shutdown) is not None:
                result = users.handler()
                if users.is_async:
                    self._loop.run_until_complete(result)
        self._http.abort()
        if self._failure is not None:
            # A thread of Robyn may wait for this task for ever, and panics if Python's ending destroys it.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._starting))
            raise self._failure
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # closed, or not there at all
                stream.flush()


def _handlers_in_force() -> list[bytes]:
    """The addresses of the C functions that the kernel calls: each the begin of a ``struct sigaction``."""
    action = ctypes.create_string_buffer(512)
    handlers = []
    for number in _SIGNALS:
        ctypes.CDLL(None).sigaction(int(number), None, action)
        handlers.append(action.raw[: ctypes.sizeof(ctypes.c_void_p)])
    return handlers


def _interrupt() -> None:
    """End the event loop that calls this."""
    raise KeyboardInterrupt
