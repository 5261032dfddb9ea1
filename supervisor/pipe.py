"""Plain HTTP on the public port: piped between a client and Robyn's own listener, asyncio only.

The rules of this file:

* Bytes are passed on as they come, both ways, and not gathered: a side that does not keep up pauses
  the other one.
* Requests are read only so far as to see where the next one begins.  A client may ask for a
  WebSocket on a connection that it kept alive (aiohttp does, and so do reverse proxies): Robyn then
  finishes what it has, and the connection goes to the server of WebSockets.
* What is not plainly framed (RFC 9112, section 6) is passed on unread until the connection ends:
  Robyn judges it, and no WebSocket is looked for behind it.
* The client's end is passed on as a half-close, which Robyn answers by finishing its response.
  Robyn's end ends the client, after all that Robyn sent; Robyn's loss is the client's loss.
"""

from __future__ import annotations

import asyncio
import logging
import re
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, final

from actors.timers import Timer
from actors.transports.asyncio import AsyncioTransport
from actors.transports.opening import HandshakeRefused, HeadReader, refusal, wants_websocket
from actors.transports.transport import Transport
from supervisor.upgrade import Upgrade

if TYPE_CHECKING:
    from supervisor.server import Server

logger = logging.getLogger("supervisor")

CONNECT_TIMEOUT = 10.0
"""Seconds that Robyn has to take a connection."""

_MAX_LINE = 4096
_HEAD = re.compile(
    rb"(?!CONNECT )[A-Z]+ [^\x00-\x20]+ HTTP/1\.1\r\n"
    rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\x00\r\n]*\r\n)*\r\n"
)
_FRAMING_FIELDS = re.compile(
    rb"\r\n(content-length|transfer-encoding|upgrade):[ \t]*([^\r\n]*?)[ \t]*(?=\r\n)", re.IGNORECASE
)
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00\r\n]*)?\r\n")


class Part(Enum):
    """The part of a request that comes next."""

    HEAD = auto()
    BODY = auto()
    CHUNK_SIZE = auto()
    CHUNK = auto()
    TRAILER = auto()
    UNREAD = auto()
    """Anything, until the end of the connection."""


@final
class Requests:
    """The requests on one connection, as far as to see where each begins; no I/O.

    Only an incomplete head and the line of a chunk's size are ever kept, both bounded.
    """

    __slots__ = ("_head", "_left", "_line", "part", "upgrade")

    def __init__(self) -> None:
        self.part = Part.HEAD
        self.upgrade: bytes | None = None
        """The request for a WebSocket, with what came behind it; set at most once, and the last."""
        self._head = HeadReader()
        self._line = bytearray()
        self._left = 0

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the client and give those that are to be passed on now."""
        if self.part is Part.UNREAD:
            return data
        if self._left > len(data):
            self._left -= len(data)
            return data
        passed: list[bytes] = []
        while data and self.upgrade is None:
            data = self._take(data, passed)
        return b"".join(passed)

    def _take(self, data: bytes, passed: list[bytes]) -> bytes:
        """Deal with the begin of ``data`` and give what is left of it."""
        if self.part is Part.HEAD:
            return self._head_data(data, passed)
        if self.part is Part.BODY or self.part is Part.CHUNK:
            return self._body_data(data, passed)
        if self.part is Part.CHUNK_SIZE or self.part is Part.TRAILER:
            return self._line_data(data, passed)
        passed.append(data)
        return b""

    def _head_data(self, data: bytes, passed: list[bytes]) -> bytes:
        try:
            head = self._head.feed(data)
        except HandshakeRefused:  # too long
            self.part = Part.UNREAD
            passed.append(self._head.rest())
            return b""
        if head is None:
            return b""
        rest = self._head.rest()
        self._head = HeadReader()
        if wants_websocket(head):
            self.upgrade = head + rest
            return b""
        passed.append(head)
        self.part, self._left = framing_of(head)
        return rest

    def _body_data(self, data: bytes, passed: list[bytes]) -> bytes:
        passed.append(data[: self._left])
        rest = data[self._left :]
        self._left = max(0, self._left - len(data))
        if not self._left:
            self.part = Part.HEAD if self.part is Part.BODY else Part.CHUNK_SIZE
        return rest

    def _line_data(self, data: bytes, passed: list[bytes]) -> bytes:
        end = data.find(b"\n") + 1 or len(data)
        self._line += data[:end]
        passed.append(data[:end])
        if self._line.endswith(b"\n"):
            self._line_ended(bytes(self._line))
            self._line.clear()
        elif len(self._line) > _MAX_LINE:
            self.part = Part.UNREAD
        return data[end:]

    def _line_ended(self, line: bytes) -> None:
        if self.part is Part.TRAILER:
            self.part = Part.HEAD if line == b"\r\n" else Part.TRAILER
            return
        found = _CHUNK_SIZE.fullmatch(line)
        size = -1 if found is None else int(found[1], 16)
        if size > 0:
            self.part, self._left = Part.CHUNK, size + len(b"\r\n")
        else:
            self.part = Part.TRAILER if size == 0 else Part.UNREAD


def framing_of(head: bytes) -> tuple[Part, int]:
    """What comes behind ``head``, and the bytes of a body; everything unusual is left unread."""
    if _HEAD.fullmatch(head) is None:
        return Part.UNREAD, 0
    fields = _FRAMING_FIELDS.findall(head)
    if not fields:
        return Part.HEAD, 0
    name, value = fields[0][0].lower(), fields[0][1]
    if len(fields) == 1 and name == b"transfer-encoding" and value.lower() == b"chunked":
        return Part.CHUNK_SIZE, 0
    if len(fields) == 1 and name == b"content-length" and value.isdigit() and len(value) <= 15:
        size = int(value)
        return (Part.BODY, size) if size else (Part.HEAD, 0)
    return Part.UNREAD, 0


class PipeState(Enum):
    """How far a pipe is."""

    CONNECTING = auto()
    OPEN = auto()
    CLIENT_ENDED = auto()
    """The client ended its side; Robyn still answers."""
    UPGRADING = auto()
    """The client asks for a WebSocket: Robyn was told that nothing more comes, and finishes."""
    ROBYN_ENDED = auto()
    """All is sent; the client's end is awaited, what it still sends is thrown away."""
    OVER = auto()


@final
class Pipe:
    """One client's connection and the one to Robyn; the sink of the client's."""

    __slots__ = (
        "_client",
        "_deadline",
        "_early",
        "_early_eof",
        "_pipes",
        "_requests",
        "_robyn",
        "_state",
        "_unsent",
    )

    def __init__(self, pipes: Pipes, client: AsyncioTransport, data: bytes) -> None:
        self._pipes = pipes
        self._client = client
        self._robyn: AsyncioTransport | None = None
        self._requests = Requests()
        self._state = PipeState.CONNECTING
        self._early = data
        self._early_eof = False
        self._deadline: Timer | None
        self._unsent = 0
        client.sink = self
        client.coupled = False  # the two directions have nothing to do with each other
        client.pause()
        runtime = pipes.server.runtime
        self._deadline = runtime.timers.after(CONNECT_TIMEOUT, partial(self._unreachable, "no answer"))
        runtime.spawn(self._connect, name="pipe to Robyn")

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(
                partial(AsyncioTransport, loop, self._connected), *self._pipes.address
            )
        except OSError as error:
            self._unreachable(error.strerror or str(error))

    def _unreachable(self, why: str) -> None:
        if self._state is PipeState.CONNECTING:
            logger.error("Robyn is not reachable at %s:%d: %s", *self._pipes.address, why)
            self._client.write(refusal(HandshakeRefused(502, "the application is not reachable")))
            self._end_client()

    def _connected(self, robyn: AsyncioTransport) -> None:
        self._robyn = robyn
        robyn.sink = _FromRobyn(self)
        robyn.coupled = False
        if self._state is not PipeState.CONNECTING:
            robyn.abort()
            return
        self._state = PipeState.OPEN
        self._stop_deadline()
        self._client.resume()
        early, self._early = self._early, b""
        self.data(early)
        if self._early_eof:
            self.eof()

    def abort(self) -> None:
        """Drop both connections."""
        self._over()
        self._client.abort()
        if self._robyn is not None:
            self._robyn.abort()

    # -- from the client -----------------------------------------------------------------------

    def data(self, data: bytes) -> None:
        """Pass on what belongs to plain requests."""
        robyn = self._robyn
        if robyn is None:
            self._early += data  # one read's worth: reading is paused
        elif self._state is PipeState.OPEN:
            passed = self._requests.feed(data)
            if passed:
                robyn.write(passed)
            if self._requests.upgrade is not None:
                self._state = PipeState.UPGRADING
                self._client.pause()
                robyn.end(linger=True)
            elif robyn.congested:
                self._client.pause()

    def eof(self) -> None:
        """Let Robyn see a half-close, and answer what it has."""
        if self._state is PipeState.CONNECTING:
            self._early_eof = True
        elif self._state is PipeState.OPEN:
            assert self._robyn is not None, "an open pipe has both sides"
            self._state = PipeState.CLIENT_ENDED
            self._robyn.end(linger=True)
        elif self._state is PipeState.ROBYN_ENDED:
            self._client.end(linger=False)
        elif self._state is PipeState.UPGRADING:
            self.abort()

    def lost(self) -> None:
        """Nobody is left to answer."""
        self._over()
        if self._robyn is not None:
            self._robyn.abort()

    def writable(self) -> None:
        """Read Robyn's answer again."""
        if self._robyn is not None:
            self._robyn.resume()

    # -- from Robyn ----------------------------------------------------------------------------

    def answered(self, data: bytes) -> None:
        """Pass on a part of an answer."""
        assert self._robyn is not None, "it called"
        self._client.write(data)
        if self._client.congested:
            self._robyn.pause()

    def robyn_keeps_up(self) -> None:
        """Read from the client again."""
        if self._state is PipeState.OPEN:
            self._client.resume()

    def robyn_ended(self) -> None:
        """All answers are there: end the client, or give it the WebSocket that it asks for."""
        assert self._robyn is not None, "it called"
        self._robyn.end(linger=False)
        if self._state is PipeState.UPGRADING:
            request = self._requests.upgrade
            assert request is not None, "what the state says"
            self._over()
            self._client.coupled = True
            self._client.resume()
            Upgrade(self._pipes.server, self._client)
            self._client.sink.data(request)
        elif self._state is PipeState.CLIENT_ENDED:
            self._over_when_lost()
            self._client.end(linger=False)
        elif self._state is PipeState.OPEN:
            self._end_client()

    def robyn_lost(self) -> None:
        """Pass on a loss without an end: an answer may be incomplete."""
        if self._state in (PipeState.OPEN, PipeState.CLIENT_ENDED, PipeState.UPGRADING):
            self.abort()

    # -- the end -------------------------------------------------------------------------------

    def _end_client(self) -> None:
        """Send the rest and our end, and give the client time to read it (RFC 9112, section 9.6)."""
        self._over_when_lost()
        self._client.end(linger=True)
        self._client.resume()

    def _over_when_lost(self) -> None:
        self._stop_deadline()
        self._state = PipeState.ROBYN_ENDED
        self._unsent = self._client.buffered
        self._start_deadline()

    def _start_deadline(self) -> None:
        pipes = self._pipes
        timeout = pipes.server.policy.timeouts.close
        if timeout is not None:
            self._deadline = pipes.server.runtime.timers.after(timeout, self._time_is_over)

    def _time_is_over(self) -> None:
        """Give up a client that neither takes what is left for it nor ends its side."""
        before, self._unsent = self._unsent, self._client.buffered
        if self._unsent < before:
            self._start_deadline()
        else:
            self.abort()

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _over(self) -> None:
        self._state = PipeState.OVER
        self._stop_deadline()
        self._pipes.open.discard(self)


@final
class _FromRobyn:
    """The sink of the connection to Robyn."""

    __slots__ = ("_pipe",)

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def data(self, data: bytes) -> None:
        self._pipe.answered(data)

    def eof(self) -> None:
        self._pipe.robyn_ended()

    def lost(self) -> None:
        self._pipe.robyn_lost()

    def writable(self) -> None:
        self._pipe.robyn_keeps_up()


@final
class Pipes:
    """The pipes of one server to the listener at ``address``; its ``plain_http``."""

    __slots__ = ("address", "open", "server")

    def __init__(self, server: Server, address: tuple[str, int]) -> None:
        self.server = server
        self.address = address
        self.open: set[Pipe] = set()

    def __call__(self, client: Transport, data: bytes) -> None:
        """Pipe one client whose first bytes, the whole head of a request, are ``data``."""
        assert isinstance(client, AsyncioTransport), "Robyn's event loop is one of asyncio"
        self.open.add(Pipe(self, client, data))

    def abort(self) -> None:
        """Drop every connection that is piped."""
        for pipe in list(self.open):
            pipe.abort()
