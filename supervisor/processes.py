"""Several processes on one port: a parent that runs the program N times, and each child's tie to it.

The rules of this file:

* The parent opens the listening sockets, one set for each place, and keeps them open: a connection
  that waits in the queue of a process which ends is accepted by the one that takes its place.  The
  kernel spreads new connections over the places (SO_REUSEPORT).
* A child is the program itself, started afresh with the same arguments, so that a replacement runs
  the code that is on the disk now.  It finds its sockets and its parent by an environment variable.
* The parent passes SIGINT and SIGTERM on.  SIGHUP replaces the children one after another: the new
  one has to be ready before the old one is told to retire.
* A child that crashes is started again within the restart limit.  One that ends with status 0 by
  itself has ended the program; one that was never ready has failed to start it.
* A child whose parent is gone ends as if it had been told to.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import final

from supervisor.listeners import BACKLOG, bind_tcp, resolve
from supervisor.policies import Backoff, RestartLimit
from supervisor.restarts import BackoffClock, RestartWindow

logger = logging.getLogger("supervisor")

VARIABLE = "SUPERVISOR_PROCESS"
"""In the environment of a child: its tie to the parent and its listening sockets, as descriptors."""

_READY = b"ready"
_RETIRE = b"retire"


def bind_places(host: str, port: int, count: int) -> list[list[socket.socket]]:
    """Bind and listen ``count`` times on every address of ``host``; all on the same port.

    Raises ``OSError`` naming the port when somebody else has it.
    """
    probes = bind_tcp(host, port)  # without SO_REUSEPORT, with which another program might share the port
    port = probes[0].getsockname()[1]
    for probe in probes:
        probe.close()
    places: list[list[socket.socket]] = []
    try:
        for _ in range(count):
            places.append([])
            for family, address in resolve(host, port):
                listener = socket.socket(family, socket.SOCK_STREAM)
                places[-1].append(listener)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.bind(address)
                listener.listen(BACKLOG)
                listener.setblocking(False)
    except OSError:
        close_places(places)
        raise
    return places


def close_places(places: Sequence[Sequence[socket.socket]]) -> None:
    """Close every socket."""
    for place in places:
        for listener in place:
            listener.close()


# -- in a child ----------------------------------------------------------------------------------


@final
class Parent:
    """What a child has from its parent: its sockets, and a tie that tells each of the other's end."""

    def __init__(self, tie: socket.socket, sockets: list[socket.socket]) -> None:
        self.sockets = sockets
        self._tie = tie

    @classmethod
    def of_this_process(cls) -> Parent | None:
        """Find the parent, if this process is a child; what it starts itself is none."""
        told = os.environ.pop(VARIABLE, None)
        if told is None:
            return None
        sockets = [socket.socket(fileno=int(descriptor)) for descriptor in told.split(",")]
        for one in sockets:
            one.set_inheritable(False)
            one.setblocking(False)
        return cls(sockets[0], sockets[1:])

    def tell_ready(self) -> None:
        """Let the parent know that this process serves."""
        with suppress(OSError):  # it is gone, which `listen` tells
            self._tie.send(_READY)

    def listen(
        self, loop: asyncio.AbstractEventLoop, retire: Callable[[], None], gone: Callable[[], None]
    ) -> None:
        """Call ``retire`` when the parent says so, and ``gone`` when it has ended."""

        def read() -> None:
            try:
                data = self._tie.recv(64)
            except ConnectionError:
                data = b""
            if data:
                retire()
            else:
                loop.remove_reader(self._tie)
                gone()

        loop.add_reader(self._tie, read)


# -- in the parent -------------------------------------------------------------------------------


@final
class _Child:
    """One process; made by ``_Place.start``."""

    def __init__(self, process: Process, tie: socket.socket) -> None:
        self.process = process
        self.started_at = time.monotonic()
        self.serves = False
        self.began = asyncio.create_task(self._wait_ready())
        """Whether it came to serve: gives ``False`` when it ended before that."""
        self._tie = tie
        self._told_to_end = False

    async def _wait_ready(self) -> bool:
        with suppress(ConnectionError):
            self.serves = bool(await asyncio.get_running_loop().sock_recv(self._tie, 64))
        return self.serves

    def retire(self) -> None:
        """Tell it that another one has taken its place."""
        with suppress(OSError):  # it has ended by itself
            self._tie.send(_RETIRE)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it is still there."""
        self._told_to_end = True
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def wait(self) -> int:
        """Wait for its end; its exit status, or 128 and the number of the signal that ended it."""
        status = await self.process.wait()
        await self.began
        self._tie.close()
        if status < 0 and self._told_to_end and not self.serves:
            return 0  # it did what it was told, before it could do so in its own way
        return status if status >= 0 else 128 - status


@final
class _Place:
    """One of the places for a process, with the sockets that stay when the process changes."""

    def __init__(self, number: int, sockets: Sequence[socket.socket], limit: RestartLimit) -> None:
        self.number = number
        self.child: _Child
        self.changing = asyncio.Lock()
        self.served = False
        self.window = RestartWindow(limit)
        self.backoff = BackoffClock(Backoff())
        self._sockets = sockets

    async def start(self) -> _Child:
        """Start a process for this place."""
        tie, other = socket.socketpair()
        tie.setblocking(False)
        with other:
            passed = [other.fileno(), *(one.fileno() for one in self._sockets)]
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *sys.orig_argv[1:],
                env={**os.environ, VARIABLE: ",".join(map(str, passed))},
                pass_fds=passed,
                start_new_session=True,  # Ctrl-C is for the parent, which passes it on
            )
        return _Child(process, tie)


@final
class Processes:
    """The parent of a program's processes, one for each set of sockets in ``places``."""

    def __init__(self, places: Sequence[Sequence[socket.socket]], restarts: RestartLimit) -> None:
        self._places = [_Place(number, sockets, restarts) for number, sockets in enumerate(places, 1)]
        self._ends: dict[_Child, asyncio.Task[int]] = {}
        self._stopping: asyncio.Event
        self._rolling: asyncio.Task[None] | None = None
        self._worst = 0

    def run(self) -> int:
        """Run the processes until the last one has ended; gives the worst of their exit statuses."""
        return asyncio.run(self._run())

    async def _run(self) -> int:
        loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._pass_on, number)
        loop.add_signal_handler(signal.SIGHUP, self._roll_soon)
        try:
            async with asyncio.TaskGroup() as group:
                for place in self._places:
                    place.child = await self._start(place)
                    group.create_task(self._keep(place))
                if all(await asyncio.gather(*(place.child.began for place in self._places))):
                    logger.info("%d processes serve; SIGHUP replaces them one by one", len(self._places))
        finally:
            self._stop()
            await asyncio.gather(*self._ends.values())
            if self._rolling is not None:
                await self._rolling
        return self._worst

    # -- one place -----------------------------------------------------------------------------

    async def _start(self, place: _Place) -> _Child:
        child = await place.start()
        self._ends[child] = asyncio.create_task(self._until_ended(child))
        if self._stopping.is_set():
            child.signal(signal.SIGTERM)
        return child

    async def _until_ended(self, child: _Child) -> int:
        try:
            return await child.wait()
        finally:
            del self._ends[child]

    async def _keep(self, place: _Place) -> None:
        """Keep a process in a place until the program ends."""
        while True:
            child = place.child
            status = await child.wait()
            place.served |= child.serves
            if child is not place.child:
                continue  # it was replaced
            if self._stopping.is_set() or not self._may_follow(place, child, status):
                self._worst = max(self._worst, status)
                self._stop()
                return
            async with place.changing:
                if child is place.child:  # and no replacement was under way
                    delay = place.backoff.next_delay(time.monotonic() - child.started_at, random.random())
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._stopping.wait(), delay)
                    place.child = await self._start(place)

    def _may_follow(self, place: _Place, child: _Child, status: int) -> bool:
        """Whether another process takes the place of one that ended without having been told to."""
        name = f"process {place.number} (pid {child.process.pid})"
        if status == 0:
            logger.info("%s has ended, and with it the program", name)
        elif not place.served:
            logger.error("%s ended with status %d before it served", name, status)
        elif not place.window.allow(time.monotonic()):
            logger.error("%s ended with status %d; its restart limit is reached", name, status)
        else:
            logger.error("%s ended with status %d; another one takes its place", name, status)
            return True
        return False

    # -- all places ----------------------------------------------------------------------------

    def _pass_on(self, number: signal.Signals) -> None:
        """End the program: every process gets the signal."""
        self._stopping.set()
        for child in list(self._ends):
            child.signal(number)

    def _stop(self) -> None:
        if not self._stopping.is_set():
            self._pass_on(signal.SIGTERM)

    def _roll_soon(self) -> None:
        if self._stopping.is_set() or (self._rolling is not None and not self._rolling.done()):
            logger.warning("SIGHUP: the processes are being ended or replaced already")
        else:
            self._rolling = asyncio.create_task(self._roll())

    async def _roll(self) -> None:
        """Replace the processes one after another; a new one that does not come to serve changes nothing."""
        logger.info("SIGHUP: replacing %d processes, one by one", len(self._places))
        for place in self._places:
            async with place.changing:
                new = await self._start(place)
                if not await new.began:
                    logger.error("the new process %d does not serve; the old ones stay", place.number)
                    return
                old, place.child = place.child, new
            old.retire()
            await old.wait()
            logger.info("process %d: pid %d after %d", place.number, new.process.pid, old.process.pid)
        logger.info("%d processes have been replaced", len(self._places))
