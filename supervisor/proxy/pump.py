"""The pump: a process of its own for the pipes, which shares no lock of Python's with Robyn.

Robyn's threads need that lock for every request, as our event loop does; taken in turns for every
read, it costs both more than their work.  The rules of this file:

* Our listener accepts and reads the first request.  What is plain HTTP goes to the pump: the
  descriptor, with what was read, as one message.  What the pump cannot take stays with the server:
  it is not there yet or any more, the socket between the two is full, or the first read was large.
* A connection that asks for a WebSocket later comes back the same way.
* The pump ends when the server's process does, and at nothing else: signals are the server's.
* When it ends by itself its connections are lost, and another one is started.
* One that is not ready in time or does not answer any more is killed: what it has would hang for ever.
  Its silence is counted in looks, so that it is not blamed when it is this process that was stopped.
* When the machine cannot start one for a moment, it is tried again.

``channel`` is the socket between the two processes, ``pump_process`` what runs in the other one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import final

from actors.repeats import others, repeats
from actors.transports.asyncio import AsyncioTransport
from supervisor.listening.site import Site
from supervisor.policies import Backoff
from supervisor.proxy.channel import MOST, ROOM, Channel, Word, connect
from supervisor.restarts import BackoffClock

logger = logging.getLogger("supervisor")

LOOK_EVERY = 2.0
"""Seconds between two looks at the pump, each with a question if it has answered the last one."""
LOOKS = 5
"""Looks that find nothing new of a pump, until it is taken for hung."""
LOOKS_AT_THE_START = 30
KILLED_WITHIN = 1.0
"""Seconds that the kernel has to end a killed pump, until it is left alone."""

# mallopt(3): every read of a large answer took fresh memory of the kernel, and gave it back after the write.
_MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(4 * 1024 * 1024), "MALLOC_MMAP_THRESHOLD_": str(1024 * 1024)}


@final
class Pump:
    """The pump of a server.

    ``upgrade`` gets a client that comes back, with its request and its number; ``ended`` the number of every
    other pipe that is over.
    """

    def __init__(
        self,
        site: Site,
        address: tuple[str, int],
        upgrade: Callable[[AsyncioTransport, bytes, int], None],
        ended: Callable[[int], None],
    ) -> None:
        self._site = site
        self._address = address
        self._upgrade = upgrade
        self._pipe_ended = ended
        self._channel: Channel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._piped: set[int] = set()
        self._request = b""
        self._ready = False
        self._served = False
        self._closing = False
        self._stopped = False
        self._started_at = 0.0
        self._missed = 0
        self._asked = False
        self._looking: asyncio.TimerHandle | None = None
        self._backoff = BackoffClock(Backoff())
        self.began = asyncio.Event()
        """Set once the first one is ready, or has ended before it was."""
        self._finished = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Tell whether there is one that takes connections."""
        return self._ready

    @property
    def pid(self) -> int | None:
        """The number of its process, the last one's."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process; it is used once it says that it is ready."""
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            self._failed(f"cannot be started: {error}", again=True)
            return
        with theirs:
            given = {
                "channel": theirs.fileno(),
                "address": self._address,
                "ready_path": self._site.ready_path,
                "keep_alive": self._site.keep_alive,
                "timeouts": asdict(self._site.policy.timeouts),
                "limits": asdict(self._site.policy.limits),
            }
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "supervisor.proxy.pump_process", json.dumps(given)],
                    env={**os.environ, **_MALLOC, "PYTHONPATH": os.pathsep.join(sys.path)},
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C is for the server
                )
            except OSError as error:
                ours.close()
                self._failed(f"cannot be started: {error}", again=True)
                return
        self._started_at = time.monotonic()
        self._channel = Channel(ours, self._got, self._ended)
        self._missed, self._asked = 0, False
        self._look_later()

    def take(self, client: AsyncioTransport, data: bytes, source: str | None, number: int) -> bool:
        """Give a client away; ``False`` when that cannot be done, and it stays here."""
        message = b"%d %b\n%b" % (number, (source or "").encode(), data)
        if not self._ready or self._channel is None or len(message) > MOST:
            return False
        if not self._channel.offer(Word.PIPE, message, client.descriptor):
            return False
        self._piped.add(number)
        client.abort()  # it is this process's descriptor that is closed, not the connection
        return True

    def last_answers(self) -> None:
        """Let every request be the last one of its connection from now on."""
        self._closing = True
        if self._channel is not None:
            self._channel.send(Word.LAST_ANSWERS)

    def finish(self) -> None:
        """Begin to end the connections, each behind the answers that are to come."""
        self._finished.clear()
        if self._channel is None:
            self._finished.set()
        else:
            self._channel.send(Word.FINISH)

    async def finished(self) -> None:
        """Wait until it has no connections any more."""
        await self._finished.wait()

    def stop(self) -> None:
        """End it, with all its connections."""
        self._stopped = True
        self.began.set()
        if self._channel is not None:
            self._ended()

    def _look_later(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)

    def _look(self) -> None:
        """Ask whether it is at work, and end one that has said nothing for too long."""
        assert self._channel is not None, "its end ends the looks"
        self._missed += 1
        if self._missed > (LOOKS if self._ready else LOOKS_AT_THE_START):
            self._ended("does not answer")
            return
        if self._ready and not self._asked:
            self._asked = self._channel.offer(Word.ASK, b"")
        self._look_later()

    def _got(self, word: Word, data: bytes, sent: socket.socket | None) -> None:
        self._missed = 0
        if word is Word.READY:
            logger.info("HTTP goes through the pump, process %d", self.pid)
            self._ready = self._served = True
            self.began.set()
            if self._closing:
                self.last_answers()
        elif word is Word.PART:
            self._request += data
            if len(self._request) > ROOM:
                logger.error("the pump sends a request without an end")
                self._ended()
        elif word is Word.UPGRADE:
            line, _, request = (self._request + data).partition(b"\n")
            self._request = b""
            self._piped.discard(number := int(line))
            self._site.runtime.spawn(self._serve, sent, request, number, name="connection")
        elif word is Word.ENDED:
            self._over(int(data))
        elif word is Word.FINISHED:
            self._finished.set()
        elif word is Word.ANSWER:
            self._asked = False

    async def _serve(self, sent: socket.socket | None, request: bytes, number: int) -> None:
        served = False

        def connected(transport: AsyncioTransport) -> None:
            nonlocal served
            served = True
            self._upgrade(transport, request, number)

        if sent is None:
            if (left_out := repeats.due("no descriptor")) is not None:
                text = "the process has no descriptor left for a connection, which is lost%s"
                logger.error(text, others(left_out))
        else:
            await connect(sent, connected, self._site.policy.limits.send_high_water)
        if not served:
            self._pipe_ended(number)

    def _over(self, number: int) -> None:
        self._piped.discard(number)
        self._pipe_ended(number)

    def _ended(self, why: str | None = None) -> None:
        """Take note of its end, whoever brought that about."""
        channel, process = self._channel, self._process
        if self._looking is not None:
            self._looking.cancel()
        assert channel is not None, "it was there"
        assert process is not None, "it was there"
        channel.close()
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(KILLED_WITHIN)
        self._ready, self._channel, self._request = False, None, b""
        for number in list(self._piped):
            self._over(number)
        self._finished.set()
        if not self._stopped:
            self._failed(f"(pid {process.pid}) {why or f'ended with status {process.returncode}'}")

    def _failed(self, why: str, *, again: bool = False) -> None:
        """Let another one follow if there was one that was ready, or ``again`` when none could be started."""
        lived = 0.0 if again else time.monotonic() - self._started_at  # nothing lived if nothing was started
        again = again or self._served
        logger.error("the pump %s; %s", why, "another one follows" if again else "HTTP goes on without")
        self.began.set()
        if again:
            delay = self._backoff.next_delay(lived, random.random())
            asyncio.get_running_loop().call_later(delay, self._start_again)

    def _start_again(self) -> None:
        if not self._stopped:
            self.start()
