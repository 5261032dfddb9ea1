"""What a transport is: the bytes of one connection, whatever carries them.

A transport calls its ``sink`` on the event loop's thread and between two tasks' turns; it never
raises towards it.  ``lost`` is the last call of all, and comes exactly once.
"""

from __future__ import annotations

from typing import Protocol, final

LINGER_RATE = 4 * 1024 * 1024
"""Bytes a second that are read from a peer whose end alone is awaited: a flood costs little then."""
LINGER_PAUSE = 0.001
"""Seconds besides between two such reads."""


class Sink(Protocol):
    """The receiver of the bytes: the upgrade first, then the WebSocket."""

    def data(self, data: bytes) -> None:
        """Bytes came from the peer."""

    def eof(self) -> None:
        """The peer ended its side; nothing more comes from it."""

    def lost(self) -> None:
        """The connection is gone, by whatever side; nothing goes out any more."""

    def writable(self) -> None:
        """Senders may look again whether the transport is congested."""


@final
class Nobody:
    """The sink of a connection that is gone: so the transport and its last sink do not hold each other."""

    def data(self, data: bytes) -> None: ...
    def eof(self) -> None: ...
    def lost(self) -> None: ...
    def writable(self) -> None: ...


NOBODY = Nobody()


class Transport(Protocol):
    """The bytes of one connection."""

    sink: Sink
    congested: bool
    """Whether senders are to wait: the write buffer is above its high water mark, and reading stands
    still for it, or so much was written at once that it is the turn of others."""

    gathering: bool
    """Whether the event loop has not turned since ``gather``: all that happens meanwhile happens at once."""

    high_water: int
    """Bytes that are buffered before it is congested; twice as many at the most while it is not."""

    @property
    def peer(self) -> str:
        """The peer's address: ``host:port``, ``[host]:port`` or ``unix``."""

    @property
    def descriptor(self) -> int | None:
        """The number of the socket's descriptor; ``None`` where there is no socket."""

    written: int
    """Bytes written so far; those that are gathered perhaps only when they go out."""

    @property
    def buffered(self) -> int:
        """Bytes written and not yet taken by the kernel."""

    @property
    def outstanding(self) -> int:
        """Bytes of ``written`` that the peer's side has not got, as far as the system tells."""

    def write(self, data: bytes) -> None:
        """Queue ``data``; never blocks.  Nothing happens after ``end`` and ``abort``."""

    def gather(self) -> None:
        """Several writes are to come within this turn of the event loop: send them with one call."""

    def write_frame(self, header: bytes, payload: bytes) -> None:
        """Queue a large frame, as ``write`` would, but without a copy where that can be."""

    def flush(self) -> None:
        """Give the kernel what it takes now; what was written may otherwise wait for a turn of others."""

    def pause(self) -> None:
        """Stop reading: the peer is held up by TCP."""

    def resume(self) -> None:
        """Read again."""

    def end(self, *, linger: bool) -> None:
        """Send what is queued, then end TCP.

        With ``linger`` only our side is ended and reading goes on until the peer ends its own:
        closing a socket with unread bytes makes the kernel send RST, which may overtake what was
        written (RFC 1122, section 4.2.2.13).  It goes on slowly, at ``LINGER_RATE``.
        """

    def abort(self) -> None:
        """Drop the connection, with what is queued."""
