"""The bytes of one connection in memory: for tests, and for driving an actor without a socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from actors.transports.asyncio import HIGH_WATER
from actors.transports.transport import NOBODY, Sink


@final
class MemoryTransport:
    """One end of a connection whose other end is a pair of functions.

    ``deliver`` gets what is written, ``hung_up`` is called once when this side ends or aborts.  The
    other end calls ``feed``, ``feed_eof`` and ``drop``.  ``stall`` lets the peer read no more.
    """

    __slots__ = (
        "_deliver",
        "_ended",
        "_held",
        "_hung_up",
        "_inbound",
        "_linger",
        "_lost",
        "_paused",
        "_reading",
        "_stalled",
        "aborted",
        "buffered",
        "congested",
        "gathering",
        "high_water",
        "sink",
        "written",
    )

    sink: Sink

    def __init__(
        self, deliver: Callable[[bytes], None], hung_up: Callable[[], None], high_water: int = HIGH_WATER
    ) -> None:
        self._deliver = deliver
        self._hung_up: Callable[[], None] | None = hung_up
        self.high_water = high_water
        self._inbound: list[bytes] = []  # an empty one is the end of the peer's side
        self._held: list[bytes] = []
        self._paused = False
        self._reading = False
        self._stalled = False
        self._ended = False
        self._linger = False
        self._lost = False
        self.aborted = False
        self.buffered = 0
        self.written = 0
        self.congested = False
        self.gathering = False  # who is woken may have waited for something

    # -- the other end -------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Bytes from the peer; kept while reading is paused."""
        if data:
            self._inbound.append(data)
            self._read()

    def feed_eof(self) -> None:
        """The peer ends its side; noticed behind the bytes that are kept."""
        self._inbound.append(b"")
        self._read()

    def drop(self) -> None:
        """The connection is gone."""
        if not self._lost:
            self._lost = self._ended = True
            self._held.clear()
            self.buffered = 0
            sink, self.sink = self.sink, NOBODY
            sink.lost()

    def stall(self, stalled: bool) -> None:
        """Let the peer stop reading, or read again: it sees neither bytes nor the end meanwhile."""
        self._stalled = stalled
        if not stalled:
            self.take(self.buffered)

    def take(self, size: int) -> None:
        """Let a peer that is stalled read ``size`` bytes of what waits for it."""
        while self._held and (size or not self._held[0]):
            data = self._held.pop(0)
            if len(data) > size:
                self._held.insert(0, data[size:])
                data = data[:size]
            size -= len(data)
            self.buffered -= len(data)
            self._deliver(data)
        if self._ended:
            self._finish()
        elif self.congested and self.buffered * 2 <= self.high_water:
            self.congested = False
            self._read()
            self.sink.writable()

    # -- called by the sink --------------------------------------------------------------------

    @property
    def descriptor(self) -> int | None:
        return None

    @property
    def peer(self) -> str:
        return "memory"

    @property
    def outstanding(self) -> int:
        return self.buffered

    def write(self, data: bytes) -> None:
        if self._ended:
            return
        self.written += len(data)
        if self._stalled:
            self._held.append(data)
            self.buffered += len(data)
            self.congested = self.buffered > self.high_water
        else:
            self._deliver(data)

    def gather(self) -> None:
        pass

    def write_frame(self, header: bytes, payload: bytes) -> None:
        self.write(header + payload)

    def flush(self) -> None:
        pass

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._read()

    def _read(self) -> None:
        if self._reading:  # the sink paused and resumed: the loop below goes on
            return
        self._reading = True
        while self._inbound and not self._lost and not self._paused and (self._ended or not self.congested):
            data = self._inbound.pop(0)
            if data:
                self.sink.data(data)
            else:
                self.sink.eof()
                if self._ended:
                    self.drop()
        self._reading = False

    def end(self, *, linger: bool) -> None:
        self._ended = True
        self._linger = linger
        self._finish()
        if linger:
            self._read()  # a full write buffer holds up nothing any more

    def _finish(self) -> None:
        if not self._stalled and self._hung_up is not None:
            hung_up, self._hung_up = self._hung_up, None
            hung_up()
        if not self._linger and not self._held:
            self.drop()

    def abort(self) -> None:
        self.aborted = True
        self._held.clear()
        self.end(linger=False)
