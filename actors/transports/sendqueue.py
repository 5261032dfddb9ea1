"""What the kernel still holds of the bytes that it took from us."""

from __future__ import annotations

import struct

try:
    import termios
    from fcntl import ioctl
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]

_INT = struct.Struct("i")


def unacknowledged(descriptor: int | None) -> int:
    """Bytes in the send queue of a socket that the peer's side has not got (tcp(7), unix(7): ``SIOCOUTQ``).

    0 where the system does not tell.  A megabyte may wait there, seconds of a slow line, so that only
    this says whether the peer goes on reading.
    """
    if descriptor is None or descriptor < 0 or termios is None:
        return 0
    try:
        (size,) = _INT.unpack(ioctl(descriptor, termios.TIOCOUTQ, bytes(_INT.size)))
    except OSError:  # no socket, or one of a system that does not tell
        return 0
    return int(size)
