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
  itself has ended the program; one that was never ready in a place where none was has failed to start it.
* A start that fails later ends nobody else: when the machine cannot start a process, or when the new
  one does not come to serve while others do, it is tried again after a pause that grows.  The kernel
  spreads nothing to its place meanwhile.
* Everything that a child has to do has a deadline: to be ready, to answer its parent, to end.  A child
  that does not answer is replaced as on SIGHUP, one that does not end is killed.
* Silence is counted in looks, not in seconds: a parent that was stopped itself finds the answers there.
* A child whose parent is gone ends as if it had been told to.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, final

from supervisor.policies import Backoff, RestartLimit
from supervisor.restarts import BackoffClock, RestartWindow

logger = logging.getLogger("supervisor")

VARIABLE = "SUPERVISOR_PROCESS"
"""In the environment of a child: its tie to the parent and its listening sockets, as descriptors."""

# What the two say to each other, one byte each.
_READY = b"r"
_ANSWER = b"a"
_RETIRE = b"R"
_ASK = b"?"

LOOKS = 5
"""How often a child is asked within the time that it has for an answer."""
PARENT_WAITS = 5.0
"""Seconds that a process has to end itself at its deadline, and to say what it waited for."""
FAILURES = 3
"""Starts of a process that fail in a row, until its place is closed: who waits there would wait for long."""
KILLED_WITHIN = 5.0
"""Seconds until a process that was killed is given up: the kernel may keep it in a system call."""


# -- in a child ----------------------------------------------------------------------------------


@final
class Parent:
    """The parent as a child knows it: its sockets, and a tie that tells each of the other's end."""

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
        self._say(_READY)

    def listen(
        self, loop: asyncio.AbstractEventLoop, retire: Callable[[], None], gone: Callable[[], None]
    ) -> None:
        """Answer the parent; call ``retire`` when it says so, and ``gone`` when it has ended."""

        def read() -> None:
            data = _read(self._tie)
            if data is None:
                loop.remove_reader(self._tie)
                gone()
                return
            if _ASK in data:
                self._say(_ANSWER)
            if _RETIRE in data:
                retire()

        loop.add_reader(self._tie, read)

    def _say(self, word: bytes) -> None:
        with suppress(OSError):  # it is gone, which `listen` tells
            self._tie.send(word)


def _read(tie: socket.socket) -> bytes | None:
    """Read what the other one has said; ``None`` when it is gone."""
    try:
        return tie.recv(64) or None
    except ConnectionError:
        return None
    except OSError:  # nothing there, or no memory for it: it is tried again
        return b""


# -- in the parent -------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Seconds that a process has; ``None`` switches one off.

    ``ready``: to serve after its start.  ``answer``: to answer its parent while it serves.  ``retire``:
    to end when another one has its place.  ``end``: to end when it was told to; told a second time, and a
    third, it has the next one.
    """

    ready: float | None
    answer: float | None
    retire: float | None
    end: tuple[float | None, float | None, float | None]

    def end_when_told(self, times: int) -> float | None:
        """Give the seconds that a process has to end, once it was told ``times`` times."""
        return _later(self.end[min(times, len(self.end)) - 1])

    @property
    def end_when_retired(self) -> float | None:
        """The seconds that a process has to end, once another one has its place."""
        return _later(self.retire)


def _later(seconds: float | None) -> float | None:
    return None if seconds is None else seconds + PARENT_WAITS


@final
class _Child:
    """One process; made by ``_Place.start``."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], tie: socket.socket) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self.pid = process.pid
        self.name = f"{name} (pid {process.pid})"
        self.started_at = time.monotonic()
        self.serves = False
        self.began: asyncio.Future[bool] = loop.create_future()
        """Whether it came to serve: gives ``False`` when it ended before that."""
        self.ended: asyncio.Future[int] = loop.create_future()
        """Its exit status, or 128 and the number of the signal that ended it."""
        self.replaced: asyncio.Future[None] = loop.create_future()
        """Done when another one has its place."""
        self.told_to_end = False
        self.late = False
        """Whether it was not ready in time."""
        self._process = process
        self._tie = tie
        self._asked = False
        loop.add_reader(tie, self._read)

    def reap(self) -> None:
        """Take note of its end, if it has ended."""
        if self.ended.done() or self._process.poll() is None:
            return
        self._read()
        self._loop.remove_reader(self._tie)
        self._tie.close()  # a process that it has left behind may have the other end
        if not self.began.done():
            self.began.set_result(False)
        status = self._process.returncode
        if status < 0 and self.told_to_end and not self.serves:
            status = 0  # it did what it was told, before it could do so in its own way
        self.ended.set_result(128 - status if status < 0 else status or int(self.late))

    def retire(self) -> None:
        """Tell it that another one has taken its place."""
        self._say(_RETIRE)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it is still there."""
        try:
            self._process.send_signal(number)
        except OSError as error:
            logger.error("%s cannot be sent %s: %s", self.name, number.name, error.strerror)

    async def falls_silent(self, answer: float | None) -> bool:
        """Wait until it has not answered for ``answer`` seconds, while it serves.

        Gives ``False`` when it has ended or lost its place before that.
        """
        interval = None if answer is None else answer / LOOKS
        missed = 0
        while missed < LOOKS:
            await asyncio.wait((self.ended, self.replaced), timeout=interval, return_when="FIRST_COMPLETED")
            if self.ended.done() or self.replaced.done():
                return False
            missed = missed + 1 if self._asked else 0
            if self.serves:
                self._asked = True
                self._say(_ASK)  # again, too: the last one may not have got through
        return True

    def _say(self, word: bytes) -> None:
        with suppress(OSError):  # it has ended by itself
            self._tie.send(word)

    def _read(self) -> None:
        data = _read(self._tie)
        if data is None:
            self._loop.remove_reader(self._tie)
        elif data:
            self._asked = self._asked and _ANSWER not in data
            if _READY in data and not self.began.done():
                self.serves = True
                self.began.set_result(True)


@final
class _Place:
    """One of the places for a process, with the sockets that stay when the process changes."""

    def __init__(self, number: int, sockets: Sequence[socket.socket], limit: RestartLimit) -> None:
        self.name = f"process {number}"
        self.child: _Child
        self.changing = asyncio.Lock()
        self.served = False
        self.failed = 0
        """Starts in a row that did not come to serve."""
        self.window = RestartWindow(limit)
        self._backoff = BackoffClock(Backoff())
        self._sockets = sockets

    def start(self) -> _Child:
        """Start a process for this place; raises ``OSError``."""
        tie, other = socket.socketpair()
        with other:
            passed = [other.fileno(), *(one.fileno() for one in self._sockets)]
            try:
                # Not asyncio's, which has a thread for each process: one more thing that may not be had.
                process = subprocess.Popen(
                    [sys.executable, *sys.orig_argv[1:]],
                    env={**os.environ, VARIABLE: ",".join(map(str, passed))},
                    pass_fds=passed,
                    start_new_session=True,  # Ctrl-C is for the parent, which passes it on
                )
            except BaseException:
                tie.close()
                raise
        tie.setblocking(False)
        return _Child(self.name, process, tie)

    def close_door(self) -> None:
        """Listen no more, until a process of this place does it; on Linux, where that can be."""
        for one in self._sockets:
            with suppress(OSError):  # it does not listen
                one.shutdown(socket.SHUT_RD)

    def delay(self, lived: float) -> float:
        """Seconds to wait before the next start, after a process that has lived so long."""
        return self._backoff.next_delay(lived, random.random())


@final
class Processes:
    """The parent of a program's processes, one for each set of sockets in ``places``."""

    def __init__(
        self, places: Sequence[Sequence[socket.socket]], restarts: RestartLimit, deadlines: Deadlines
    ) -> None:
        self._places = [_Place(number, sockets, restarts) for number, sockets in enumerate(places, 1)]
        self._deadlines = deadlines
        self._children: set[_Child] = set()
        self._stopping: asyncio.Event
        self._times_told = 0
        self._end: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()  # event loops hold tasks weakly
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
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        try:
            if self._start_all():
                async with asyncio.TaskGroup() as group:
                    for place in self._places:
                        group.create_task(self._keep(place))
                    if all(await asyncio.gather(*(place.child.began for place in self._places))):
                        logger.info("%d processes serve; SIGHUP replaces them one by one", len(self._places))
        finally:
            self._stop()
            await asyncio.gather(*(asyncio.wait((child.ended,)) for child in self._children))
            await asyncio.gather(*self._tasks)
            if self._end is not None:
                self._end.cancel()
        return self._worst

    def _start_all(self) -> bool:
        """Start the first process of each place; a program that cannot be started says so and ends."""
        for place in self._places:
            try:
                place.child = self._start(place)
            except OSError as error:
                logger.error("%s cannot be started: %s", place.name, error)
                self._worst = 1
                return False
        return True

    # -- one place -----------------------------------------------------------------------------

    def _start(self, place: _Place) -> _Child:
        """Start a process; raises ``OSError``.  It has to be ready in time."""
        child = place.start()
        self._children.add(child)
        child.ended.add_done_callback(lambda _: self._children.discard(child))
        child.reap()  # its SIGCHLD may have come before it was known
        self._do(self._until_ready(child))
        return child

    async def _until_ready(self, child: _Child) -> None:
        """Wait until a process serves, and end one that does not in time."""
        within = self._deadlines.ready
        await asyncio.wait((child.began,), timeout=within)
        if not child.began.done():
            logger.error("%s is not ready within %g s (ready_within) and is ended", child.name, within)
            child.late = True
            child.signal(signal.SIGTERM)
            await self._ended(child, KILLED_WITHIN)

    async def _ended(self, child: _Child, within: float | None) -> None:
        """Wait for the end of a process that was told to, and kill it when it takes too long."""
        await asyncio.wait((child.ended,), timeout=within)
        if not child.ended.done():
            logger.error("%s has not ended within %g s and is killed", child.name, within)
            self._kill(child)
            await asyncio.wait((child.ended,), timeout=2 * KILLED_WITHIN)

    def _kill(self, child: _Child) -> None:
        child.signal(signal.SIGKILL)
        asyncio.get_running_loop().call_later(KILLED_WITHIN, self._give_up, child)

    def _give_up(self, child: _Child) -> None:
        """Let the others go on without the end of a process that the kernel does not let go."""
        child.reap()
        if not child.ended.done():
            logger.error("%s does not end although it was killed", child.name)
            if not child.began.done():
                child.began.set_result(False)
            child.ended.set_result(128 + signal.SIGKILL)

    async def _keep(self, place: _Place) -> None:
        """Keep a process in a place until the program ends."""
        while True:
            child = place.child
            silent = await child.falls_silent(self._deadlines.answer)
            if child.serves:
                place.served, place.failed = True, 0
            if self._stopping.is_set():
                await asyncio.wait((child.ended,))
            if silent and not child.ended.done():
                await self._replace_silent(place, child)
                continue
            if child.replaced.done():
                continue
            status = child.ended.result()
            if self._stopping.is_set() or not self._may_follow(place, child, status):
                self._worst = max(self._worst, status)
                self._stop()
                return
            async with place.changing:
                if not child.replaced.done():  # a replacement was under way
                    await self._start_again(place, time.monotonic() - child.started_at)
            if child is place.child:  # the program has been ended meanwhile
                return

    async def _start_again(self, place: _Place, lived: float) -> None:
        """Start a process in an empty place, as soon as the machine can, unless the program is ended."""
        while not await self._stopped_within(place.delay(lived)):
            try:
                place.child = self._start(place)
            except OSError as error:
                logger.error("%s cannot be started, which is tried again: %s", place.name, error)
                self._start_failed(place)
                lived = 0
            else:
                return

    def _start_failed(self, place: _Place) -> None:
        """Leave the new connections to the other places after a few failures in a row."""
        place.failed += 1
        if place.failed == FAILURES and self._one_serves():
            logger.error("%s is missing: new connections are left to the others meanwhile", place.name)
            place.close_door()

    def _one_serves(self) -> bool:
        return any(child.serves for child in self._children if not child.replaced.done())

    async def _stopped_within(self, delay: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), delay)
        return self._stopping.is_set()

    def _may_follow(self, place: _Place, child: _Child, status: int) -> bool:
        """Tell whether another process takes the place of one that ended without having been told to."""
        if status == 0 and child.serves:
            logger.info("%s has ended, and with it the program", child.name)
        elif not place.served:
            logger.error("%s ended with status %d before it served", child.name, status)
        elif not child.serves and self._one_serves():
            logger.error("%s ended with status %d before it served; it is tried again", child.name, status)
            self._start_failed(place)
            return True
        elif not place.window.allow(time.monotonic()):
            logger.error("%s ended with status %d; its restart limit is reached", child.name, status)
        else:
            logger.error("%s ended with status %d; another one takes its place", child.name, status)
            return True
        return False

    async def _replace_silent(self, place: _Place, child: _Child) -> None:
        logger.error(
            "%s has not answered for %g s (answer_within); another one takes its place",
            child.name,
            self._deadlines.answer,
        )
        if await self._replace(place, child) is not None:
            self._do(self._ended(child, self._deadlines.end_when_retired))
        elif not child.ended.done():
            await self._stopped_within(place.delay(0))

    async def _replace(self, place: _Place, silent: _Child | None = None) -> tuple[_Child, _Child] | None:
        """Let a new process take the place of an old one once it serves; give both, if it comes to that.

        ``silent``: the old one, which may have been replaced already.
        """
        async with place.changing:
            old = place.child
            if self._stopping.is_set() or silent not in (None, old):
                return None
            try:
                new = self._start(place)
            except OSError as error:
                logger.error("the new %s cannot be started; the old ones stay: %s", place.name, error)
                return None
            if not await new.began:
                logger.error("the new %s does not serve; the old ones stay", place.name)
                return None
            place.child = new
            place.served = True
            old.replaced.set_result(None)
        old.retire()
        return old, new

    # -- all places ----------------------------------------------------------------------------

    def _do(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _reap(self) -> None:
        for child in list(self._children):
            child.reap()

    def _pass_on(self, number: signal.Signals) -> None:
        """End the program: every process gets the signal, and has until its deadline."""
        self._stopping.set()
        self._times_told += 1
        for child in list(self._children):
            child.told_to_end = True
            child.signal(number)
        within = self._deadlines.end_when_told(self._times_told)
        if within is None:
            return
        loop = asyncio.get_running_loop()
        if self._end is None or loop.time() + within < self._end.when():
            if self._end is not None:
                self._end.cancel()
            self._end = loop.call_later(within, self._end_all, within)

    def _end_all(self, within: float) -> None:
        for child in list(self._children):
            logger.error("%s has not ended within %g s and is killed", child.name, within)
            self._kill(child)

    def _stop(self) -> None:
        if not self._stopping.is_set():
            self._pass_on(signal.SIGTERM)

    def _roll_soon(self) -> None:
        if self._stopping.is_set() or (self._rolling is not None and not self._rolling.done()):
            logger.warning("SIGHUP: the processes are being ended or replaced already")
        else:
            self._rolling = self._do(self._roll())

    async def _roll(self) -> None:
        """Replace the processes one after another; a new one that does not come to serve changes nothing."""
        logger.info("SIGHUP: replacing %d processes, one by one", len(self._places))
        for place in self._places:
            changed = await self._replace(place)
            if changed is None:
                return
            old, new = changed
            await self._ended(old, self._deadlines.end_when_retired)
            logger.info("%s: pid %d after %d", place.name, new.pid, old.pid)
        logger.info("%d processes have been replaced", len(self._places))
