"""The bytes of one connection on asyncio and uvloop: a ``Protocol``, no stream and no task."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import cast, final

from actors.transports.sendqueue import unacknowledged
from actors.transports.transport import LINGER_PAUSE, LINGER_RATE, NOBODY, Sink

HIGH_WATER = 64 * 1024


@final
class AsyncioTransport(asyncio.Protocol):
    """One accepted connection.  ``connected`` is called with it once; it sets the ``sink``.

    What is written within one turn of the event loop goes out with one call.  After ``wait_for_tls`` it
    exists before the event loop has a transport for it.
    """

    __slots__ = (
        "_at_once",
        "_before_tls",
        "_connected",
        "_ended",
        "_flush_at",
        "_full",
        "_gathering",
        "_hold_at",
        "_loop",
        "_lost",
        "_out",
        "_paused",
        "_peer",
        "_pending",
        "_slowed",
        "_stopped",
        "_stopping",
        "_transport",
        "_turned",
        "congested",
        "coupled",
        "gathering",
        "high_water",
        "sink",
        "written",
    )

    sink: Sink
    coupled: bool
    """Whether reading stands still while the write buffer is over its high water mark."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connected: Callable[[AsyncioTransport], object],
        high_water: int = HIGH_WATER,
    ) -> None:
        self._loop = loop
        self._connected = connected
        self.high_water = high_water
        self._transport: asyncio.Transport | None = None
        self._peer = "unix"
        self._before_tls: tuple[socket.socket, Callable[[], object]] | None = None
        self._out: list[bytes] = []
        self._pending = 0
        self._gathering = False  # what is written waits for the end of the turn of the event loop
        self._at_once: Callable[[bytes], object] | None = None  # writes without gathering here
        self.written = 0
        self._flush_at = high_water  # of what waits for the end of the turn
        self._hold_at = high_water  # of what is written; then something has come, or senders are held up
        self._turned = False  # something has come: the event loop has turned
        self._full = False  # the event loop says that the peer does not keep up
        self._paused = False
        self._stopping = False
        self._stopped = False  # the event loop reads nothing
        self._ended = False
        self._lost = False
        self._slowed: asyncio.TimerHandle | None = None
        self.congested = False
        self.coupled = True
        self.gathering = False

    def wait_for_tls(self, sock: socket.socket, abandon: Callable[[], object]) -> None:
        """Take part before the handshake on ``sock`` is done, which ``abandon`` ends.

        What is written meanwhile goes out behind it.
        """
        self._before_tls = sock, abandon
        with suppress(OSError):  # gone already: the handshake will tell
            self._peer = format_address(sock.getpeername())
        self._connected(self)

    def tls_is_over(self) -> None:
        """The handshake has ended; if it has failed, this is the end."""
        if self._before_tls is not None:
            self._before_tls[0].close()
            self._before_tls = None
            self.connection_lost(None)

    def hand_over(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Let ``protocol`` have the connection, with what is queued; gives the event loop's transport."""
        transport = self._transport
        assert transport is not None, "connected"
        self.flush()
        self._apply_reading()
        transport.set_protocol(protocol)
        return transport

    def take_back(self) -> None:
        """Be the protocol again, for an open connection whose other protocol did not pause it."""
        transport = self._transport
        assert transport is not None, "handed over"
        transport.set_write_buffer_limits(high=self.high_water)
        transport.set_protocol(self)
        self._full = self.congested = transport.get_write_buffer_size() > self.high_water
        self._stopped = True  # for all that is known here
        self._paused = False
        self._apply_reading()

    # -- called by the event loop --------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        transport.set_write_buffer_limits(high=self.high_water)
        if self._before_tls is not None:
            self._before_tls = None
            if self._ended:
                self.end(linger=False)
            else:
                self.flush()
                self._apply_reading()
            return
        self._peer = format_address(transport.get_extra_info("peername"))
        # uvloop gathers what is written within a turn by itself; but TLS makes a record of every write.
        if not isinstance(self._loop, asyncio.BaseEventLoop):
            self._at_once = transport.write
        self._connected(self)

    def data_received(self, data: bytes) -> None:
        if self._stopping:  # libuv reads again within a turn what fills its buffer
            self._apply_reading()
        self._turned = True
        self.sink.data(data)
        if self._ended:
            self._read_on_slowly(len(data))

    def _read_on_slowly(self, size: int) -> None:
        transport = self._transport
        assert transport is not None, "it has read"
        if not self._lost and not transport.is_closing():
            self._stopped = True
            transport.pause_reading()
            delay = LINGER_PAUSE + size / LINGER_RATE
            self._slowed = self._loop.call_later(delay, self._apply_reading)

    def eof_received(self) -> bool:
        # A half-closed socket stays usable, a half-closed TLS session does not exist (RFC 8446, 6.1).
        assert self._transport is not None
        usable = self._transport.get_extra_info("ssl_object") is None  # a closed transport cannot tell
        self.sink.eof()
        return usable

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._end_writing()
        self._out.clear()
        self._pending = 0
        if self._slowed is not None:
            self._slowed.cancel()
        sink, self.sink = self.sink, NOBODY
        sink.lost()

    def pause_writing(self) -> None:
        self._full = self.congested = True
        self._apply_reading()

    def resume_writing(self) -> None:
        self._full = False
        self._apply_reading()
        self._hold_up_senders()

    def _hold_up_senders(self) -> None:
        """Let one who sends without end wait for two turns of the event loop.

        Others want to run, and what the peer has sent, its Close frame perhaps, or that it is gone, is seen
        in the first turn and told in the second: before the buffer is filled again.
        """
        self.congested = True
        self._loop.call_soon(self._loop.call_soon, self._let_senders_go_on)

    def _let_senders_go_on(self) -> None:
        if not self._lost:
            self.congested = self._full
            self.sink.writable()

    # -- called by the sink --------------------------------------------------------------------

    @property
    def peer(self) -> str:
        return self._peer

    @property
    def descriptor(self) -> int | None:
        if self._before_tls is not None:
            return self._before_tls[0].fileno()
        sock = None if self._transport is None else self._transport.get_extra_info("socket")
        return None if sock is None else int(sock.fileno())

    @property
    def buffered(self) -> int:
        in_kernel_queue = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return self._pending + in_kernel_queue

    @property
    def outstanding(self) -> int:
        if self._transport is None or self._lost:
            return 0
        return self._transport.get_write_buffer_size() + unacknowledged(self.descriptor)

    def write(self, data: bytes) -> None:
        if self._gathering:
            self._out.append(data)
            self._pending = pending = self._pending + len(data)
            if pending > self._flush_at:
                self.flush()  # the event loop may say that the peer does not keep up, or it is others' turn
        elif self._at_once is not None:
            self._at_once(data)
            if self.written > self._hold_at and not self.congested:
                self._give_turn()
            self.written += len(data)
        elif not self._ended:
            self._gather()
            self.write(data)

    def _spend(self, size: int) -> None:
        """As in ``write``, of which every message would feel the call."""
        if self.written > self._hold_at and not self.congested:
            self._give_turn()
        self.written += size

    def _give_turn(self) -> None:
        """Much was written at once: hold up the senders, unless others have had their turn meanwhile."""
        self._hold_at = self.written + self.high_water
        if self._turned:
            self._turned = False
        else:
            self._hold_up_senders()

    def write_frame(self, header: bytes, payload: bytes) -> None:
        if self._gathering or self._at_once is None or self._transport is None:
            self.write(header)
            self.write(payload)
            return
        self._transport.writelines((header, payload))
        self._spend(len(header) + len(payload))

    def gather(self) -> None:
        if not self._ended:
            self.gathering = True
            self._gather()

    def _gather(self) -> None:
        if not self._gathering:
            self._gathering = True
            self._flush_at = self.high_water if self.congested or self.written <= self._hold_at else -1
            self._loop.call_soon(self._flush_soon)

    def _flush_soon(self) -> None:
        self._gathering = self.gathering = False
        self.flush()

    def flush(self) -> None:
        out = self._out
        if out and self._transport is not None and not self._lost:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self._pending = 0
            self._transport.write(data)
            self._spend(len(data))
            self._flush_at = self.high_water if self.congested or self.written <= self._hold_at else -1

    def pause(self) -> None:
        # Nothing is read before the next turn of the event loop, and often resume() comes within this one.
        self._paused = True
        if not self._stopping:
            self._stopping = True
            self._loop.call_soon(self._stop_reading)

    def _stop_reading(self) -> None:
        self._stopping = False
        self._apply_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._apply_reading()

    def _apply_reading(self) -> None:
        stop = self._paused or (self.coupled and self._full and not self._ended)
        transport = self._transport
        if stop is self._stopped or transport is None or self._lost or transport.is_closing():
            return
        self._stopped = stop
        if stop:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def end(self, *, linger: bool) -> None:
        transport = self._transport
        if transport is None or self._lost:
            self._ended = True
            return
        self.flush()
        self._end_writing()
        if linger and transport.can_write_eof():
            self._apply_reading()
            transport.write_eof()
        else:
            transport.close()

    def _end_writing(self) -> None:
        self._ended = True
        self._gathering = self.gathering = False
        self._at_once = None

    def abort(self) -> None:
        self._end_writing()
        self._out.clear()
        self._pending = 0
        if self._before_tls is not None:
            self._before_tls[1]()
        elif self._transport is not None and not self._lost:
            self._transport.abort()


def format_address(address: object) -> str:
    """Write a socket address as people do: ``host:port``, ``[host]:port``, or ``unix``."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[0], address[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return "unix"
