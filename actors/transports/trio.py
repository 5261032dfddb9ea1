"""The bytes of one connection on trio: one task that reads and one that writes."""

from __future__ import annotations

import os
from typing import final

import trio

from actors.transports.asyncio import HIGH_WATER, format_address
from actors.transports.sendqueue import unacknowledged
from actors.transports.transport import LINGER_PAUSE, LINGER_RATE, NOBODY, Sink
from actors.wakeup import TrioParker

READ_SIZE = 64 * 1024 + 14
"""Bytes of one read: a message of 64 KiB with its header."""
LARGE = 4096
"""Bytes from which a write does not wait for others that could go out with it."""
TLS_PART = 64 * 1024
"""Bytes that are encrypted at once; how many of them the kernel has taken cannot be seen."""


@final
class TrioTransport:
    """One accepted connection over a trio stream, plain or TLS.

    ``run`` reads and is the body of the connection's task; ``write_out`` is the body of another one.
    The ``sink`` is set before ``run`` reads.
    """

    __slots__ = (
        "_at_once",
        "_ended",
        "_linger",
        "_lost",
        "_out",
        "_paused",
        "_peer",
        "_reader",
        "_stream",
        "_writer",
        "buffered",
        "congested",
        "gathering",
        "high_water",
        "sink",
        "written",
    )

    sink: Sink

    def __init__(
        self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream], high_water: int = HIGH_WATER
    ) -> None:
        self._stream = stream
        self.high_water = high_water
        try:
            self._peer = format_address(self._socket.getpeername())
        except OSError:  # the peer is gone already: reading will tell
            self._peer = ""
        self._reader = TrioParker()
        self._writer = TrioParker()
        self._out = bytearray()  # not a list: small frames would weigh fifteen times what they are
        self._at_once = 0  # bytes written without the writer since something came or it had its turn
        self._paused = False
        self._ended = False
        self._linger = False
        self._lost = False
        self.buffered = 0
        self.written = 0
        self.congested = False
        self.gathering = False  # who is woken may have waited for something

    @property
    def _socket(self) -> trio.socket.SocketType:
        stream = self._stream
        return (stream.transport_stream if isinstance(stream, trio.SSLStream) else stream).socket

    @property
    def peer(self) -> str:
        return self._peer

    @property
    def descriptor(self) -> int | None:
        return self._socket.fileno()

    # -- the two tasks -------------------------------------------------------------------------

    async def run(self) -> None:
        """Read until the end of the stream; the caller sees to it that ``write_out`` runs too."""
        stream = self._stream
        try:
            if isinstance(stream, trio.SSLStream):
                await stream.do_handshake()
            while True:
                while self._paused or (self.congested and not self._ended):
                    await self._reader.park()
                data = await stream.receive_some(READ_SIZE)
                size = len(data)
                if not size:
                    break
                self._at_once = 0
                self.sink.data(bytes(data))
                del data  # or the task would hold it while it waits for more
                if self._ended and not self._lost:
                    await trio.sleep(LINGER_PAUSE + size / LINGER_RATE)
            self.sink.eof()
            while not self._lost:  # the writer may still have something to send
                await self._reader.park()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            _forget(error)
        finally:
            self._gone()

    async def write_out(self) -> None:
        """Write what is queued, and end TCP when it is asked for."""
        stream = self._stream
        eof_sent = False
        try:
            while True:
                if self._out:
                    data, self._out = self._out, bytearray()
                    await self._write_all(data)
                    del data  # as above
                elif self._lost or (self._ended and not self._linger):
                    break
                else:
                    if self._ended and not eof_sent and isinstance(stream, trio.SocketStream):
                        eof_sent = True
                        await stream.send_eof()
                        continue
                    await self._writer.park()
            await stream.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
            _forget(error)
        finally:
            self._gone()

    async def _write_all(self, data: bytearray) -> None:
        """Write ``data``, and tell with each part that the kernel takes: it may be seconds until the next."""
        stream = self._stream
        with memoryview(data) as view:
            start = 0
            while start < len(data):
                if isinstance(stream, trio.SSLStream):
                    with view[start : start + TLS_PART] as part:
                        await stream.send_all(part)
                        sent = len(part)
                else:
                    with view[start:] as part:
                        sent = await stream.socket.send(part)
                start += sent
                self.buffered -= sent
                self._at_once = 0
                if self.congested and self.buffered * 2 <= self.high_water:
                    self.congested = False
                    self._reader.wake()
                    self.sink.writable()

    def _gone(self) -> None:
        """Close the socket, let both tasks end, and tell the sink once."""
        self._ended = True
        self._out.clear()
        self._socket.close()
        if not self._lost:
            self._lost = True
            self._reader.wake()
            self._writer.wake()
            sink, self.sink = self.sink, NOBODY
            sink.lost()

    # -- called by the sink --------------------------------------------------------------------

    @property
    def outstanding(self) -> int:
        return 0 if self._lost else self.buffered + unacknowledged(self.descriptor)

    def write(self, data: bytes) -> None:
        size = len(data)
        if size >= LARGE:
            self.write_frame(b"", data)
        elif not self._ended:  # as ``_queue``: every message would feel the call
            self._out += data
            self.written += size
            self.buffered = buffered = self.buffered + size
            if buffered > self.high_water:
                self.congested = True
            self._writer.wake()

    def _queue(self, data: bytes | memoryview) -> None:
        if self._ended:
            return
        size = len(data)
        self._out += data
        self.written += size
        self.buffered += size
        if self.buffered > self.high_water:
            self.congested = True
        self._writer.wake()

    def gather(self) -> None:
        pass  # what is written before the writer's turn goes out together in any case

    def write_frame(self, header: bytes, payload: bytes) -> None:
        if self._ended:
            return
        sent = self._write_at_once(header, payload)
        if sent == 0:
            self._queue(header)
            self._queue(payload)
        elif sent < len(header) + len(payload):
            self._queue(memoryview(header + payload)[sent:])

    def flush(self) -> None:
        if 0 < self.buffered == len(self._out):  # nothing is in the writer's hands
            self.buffered = 0
            sent = self._write_at_once(self._out)
            del self._out[:sent]
            self.buffered = len(self._out)
            self.written -= sent  # it was counted when it was queued

    def _write_at_once(self, *data: bytes | bytearray) -> int:
        """Give the kernel what it takes now, without a copy and the writer's turn; gives how much that was.

        One who sends without end gets nowhere with this: it must wait for the turns of others.
        """
        if self.buffered or self._at_once > self.high_water or isinstance(self._stream, trio.SSLStream):
            return 0
        try:
            sent = os.writev(self._socket.fileno(), data)
        except OSError:  # there is no room, or the connection is gone: the writer will see
            return 0
        self._at_once += sent
        self.written += sent
        return sent

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._reader.wake()

    def end(self, *, linger: bool) -> None:
        if not self._lost:
            # A half-closed TLS session does not exist (RFC 8446, section 6.1).
            self._linger = linger and isinstance(self._stream, trio.SocketStream)
            self._ended = True
            self._reader.wake()
            self._writer.wake()

    def abort(self) -> None:
        self._gone()


def _forget(error: BaseException | None) -> None:
    """Let go of the stack of ``error``: on Python 3.12 ``contextlib`` leaves the two in a cycle."""
    while error is not None:
        error.__traceback__ = None
        error = error.__context__
