"""The pump: a process of its own for the pipes, which shares no lock of Python's with Robyn.

Robyn's threads need that lock for every request, as our event loop does; taken in turns for every
read, it costs both more than their work.  The rules of this file:

* Our listener accepts and reads the first request.  What is plain HTTP goes to the pump: the
  descriptor, with what was read, as one message.  What the pump cannot take stays with the server:
  it is not there yet or any more, the socket between the two is full, or the first read was large.
* A connection that asks for a WebSocket later comes back the same way.
* The pump ends when the server's process does, and at nothing else: signals are the server's.
* When it ends by itself its connections are lost, and another one is started.

``channel`` is the socket between the two processes, ``pumping`` what runs in the other one.
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
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, final

from actors.transports.asyncio import AsyncioTransport
from supervisor.channel import MOST, Channel, Word, connect
from supervisor.policies import Backoff
from supervisor.restarts import BackoffClock

if TYPE_CHECKING:
    from supervisor.server import Server

logger = logging.getLogger("supervisor")

# mallopt(3): every read of a large answer took fresh memory of the kernel, and gave it back after the write.
_MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(4 * 1024 * 1024), "MALLOC_MMAP_THRESHOLD_": str(1024 * 1024)}


@final
class Pump:
    """The pump of a server; ``given_back`` gets the source of every pipe that is over."""

    def __init__(self, server: Server, address: tuple[str, int], given_back: Callable[[str], None]) -> None:
        self._server = server
        self._address = address
        self._given_back = given_back
        self._channel: Channel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._sources: Counter[str] = Counter()
        self._request = b""
        self._ready = False
        self._served = False
        self._closing = False
        self._stopped = False
        self._started_at = 0.0
        self._backoff = BackoffClock(Backoff())
        self.began = asyncio.Event()
        """Set once the first one is ready, or has ended before it was."""
        self._finished = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether there is one that takes connections."""
        return self._ready

    @property
    def pid(self) -> int | None:
        """The number of its process, the last one's."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process; it is used once it says that it is ready."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            given = {
                "channel": theirs.fileno(),
                "address": self._address,
                "ready_path": self._server.ready_path,
                "keep_alive": self._server.keep_alive,
                "timeouts": asdict(self._server.policy.timeouts),
                "limits": asdict(self._server.policy.limits),
            }
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "supervisor.pumping", json.dumps(given)],
                    env={**os.environ, **_MALLOC, "PYTHONPATH": os.pathsep.join(sys.path)},
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C is for the server
                )
            except OSError as error:
                ours.close()
                self._failed(f"cannot be started: {error}")
                return
        self._started_at = time.monotonic()
        self._channel = Channel(ours, self._got, self._ended)

    def take(self, client: AsyncioTransport, data: bytes, source: str | None) -> bool:
        """Give a client away; ``False`` when that cannot be done, and it stays here."""
        message = b"%b\n%b" % ((source or "").encode(), data)
        if not self._ready or self._channel is None or len(message) > MOST:
            return False
        if not self._channel.offer(Word.PIPE, message, client.descriptor):
            return False
        if source is not None:
            self._sources[source] += 1
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

    def _got(self, word: Word, data: bytes, sent: socket.socket | None) -> None:
        if word is Word.READY:
            logger.info("HTTP goes through the pump, process %d", self.pid)
            self._ready = self._served = True
            self.began.set()
            if self._closing:
                self.last_answers()
        elif word is Word.PART:
            self._request += data
        elif word is Word.UPGRADE:
            request, self._request = self._request + data, b""
            if sent is None:
                logger.error("the process has no descriptor left for a connection, which is lost")
            else:
                self._server.runtime.spawn(self._serve, sent, request, name="connection")
        elif word is Word.ENDED:
            self._over(data.decode())
        elif word is Word.FINISHED:
            self._finished.set()

    async def _serve(self, sent: socket.socket, request: bytes) -> None:
        def connected(transport: AsyncioTransport) -> None:
            self._server.take_back(transport, request)

        await connect(sent, connected, self._server.policy.limits.send_high_water)

    def _over(self, source: str) -> None:
        self._sources[source] -= 1
        if not self._sources[source]:
            del self._sources[source]
        self._given_back(source)

    def _ended(self) -> None:
        """Take note of its end, whoever brought that about."""
        channel, process = self._channel, self._process
        assert channel is not None, "it was there"
        assert process is not None, "it was there"
        channel.close()
        process.kill()
        status = process.wait()
        self._ready, self._channel, self._request = False, None, b""
        for source in list(self._sources.elements()):
            self._over(source)
        self._finished.set()
        if not self._stopped:
            self._failed(f"(pid {process.pid}) ended with status {status}")

    def _failed(self, why: str) -> None:
        """Let another one follow, unless there never was one that was ready."""
        logger.error(
            "the pump %s; %s", why, "another one follows" if self._served else "HTTP goes on without"
        )
        self.began.set()
        if self._served:
            delay = self._backoff.next_delay(time.monotonic() - self._started_at, random.random())
            asyncio.get_running_loop().call_later(delay, self._start_again)

    def _start_again(self) -> None:
        if not self._stopped:
            self.start()
