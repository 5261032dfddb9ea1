"""A chunked body taken apart (RFC 9112, section 7.1); no I/O.

Extensions and trailers are checked and dropped.
"""

from __future__ import annotations

import re
from typing import final

from actors.protocol.opening import MAX_FIELDS, MAX_HEAD, HandshakeRefused
from supervisor.proxy.heads import FIELDS

_MAX_LINE = 4096
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[\t ]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")


@final
class Chunks:
    """One chunked body; only an incomplete line is ever kept."""

    __slots__ = ("_behind_chunk", "_left", "_line", "_trailer", "_trailer_bytes", "over")

    def __init__(self) -> None:
        self.over = False
        """Whether all of it was there."""
        self._left = 0
        self._line = bytearray()
        self._behind_chunk = False
        self._trailer = 0  # its lines, with the one that was the last chunk's size
        self._trailer_bytes = 0

    def feed(self, data: bytes, start: int, into: list[bytes]) -> int:
        """Put what ``data`` has of the payload from ``start`` on into ``into``, and give where it ends.

        Raises ``HandshakeRefused`` for the first thing that is not right.
        """
        size = len(data)
        while start < size and not self.over:
            if self._left:
                end = min(start + self._left, size)
                into.append(data[start:end])
                self._left -= end - start
                self._behind_chunk = not self._left
                start = end
                continue
            end = data.find(b"\n", start) + 1 or size
            line = data[start:end]
            start = end
            if self._line:
                line = bytes(self._line) + line
                self._line.clear()
            if self._behind_chunk and not b"\r\n".startswith(line):
                raise HandshakeRefused(400, "a chunk of the body has another size than it says")
            if len(line) > _MAX_LINE:
                raise HandshakeRefused(400, f"a line between chunks has more than {_MAX_LINE} bytes")
            if not line.endswith(b"\n"):
                self._line += line
            elif self._behind_chunk:
                self._behind_chunk = False
            elif self._trailer:
                self._trailer_line(line)
            else:
                self._left = self._size(line)
                # Most chunks are there as a whole.
                end = start + self._left
                if self._left and data.startswith(b"\r\n", end):
                    into.append(data[start:end])
                    self._left = 0
                    start = end + 2
        return start

    def _size(self, line: bytes) -> int:
        found = _SIZE.fullmatch(line)
        if found is None:
            raise HandshakeRefused(400, "the size of a chunk is malformed")
        size = int(found[1], 16)
        self._trailer = int(not size)
        return size

    def _trailer_line(self, line: bytes) -> None:
        if line == b"\r\n":
            self.over = True
            return
        if FIELDS.fullmatch(line) is None:
            raise HandshakeRefused(400, "a trailer of the request is malformed")
        self._trailer += 1
        self._trailer_bytes += len(line)
        if self._trailer > MAX_FIELDS + 1 or self._trailer_bytes > MAX_HEAD:
            raise HandshakeRefused(431, f"the trailers are more than {MAX_FIELDS}, or {MAX_HEAD} bytes")


def as_chunk(payload: bytes) -> bytes:
    """One chunk; ``payload`` is not empty, which would be the last one."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


LAST_CHUNK = b"0\r\n\r\n"
