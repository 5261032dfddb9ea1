"""Where one HTTP request on a connection ends and the next one begins (RFC 9112, section 6); no I/O.

Requests are read only so far as to see that.  What is not plainly framed is unread until the connection
ends: the one who answers judges it, and no WebSocket is looked for behind it.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import final

from actors.transports.opening import HandshakeRefused, HeadReader, wants_websocket
from supervisor.upgrade import asks_whether_ready

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

    __slots__ = ("_begun", "_head", "_left", "_line", "_ready_path", "closing", "part", "upgrade")

    def __init__(self, ready_path: str | None = None) -> None:
        self.part = Part.HEAD
        self.upgrade: bytes | None = None
        """The request for our listener, with what came behind it; set at most once, and the last."""
        self.closing = False
        """Whether the next request is the last one, which its head is made to say."""
        self._ready_path = ready_path
        self._head = HeadReader()
        self._begun = False
        self._line = bytearray()
        self._left = 0

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the client and give those that are to be passed on now."""
        if self.part is Part.HEAD and not self._begun and not self.closing and is_plain(data):
            if not asks_whether_ready(data, self._ready_path):
                return data
        elif self.part is Part.UNREAD:
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
        self._begun = head is None
        if head is None:
            return b""
        rest = self._head.rest()
        self._head = HeadReader()
        if wants_websocket(head) or asks_whether_ready(head, self._ready_path):
            self.upgrade = head + rest
            return b""
        self.part, self._left = framing_of(head)
        if self.closing and self.part is not Part.UNREAD:
            head = head[:-2] + b"Connection: close\r\n\r\n"
        passed.append(head)
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


def is_plain(data: bytes) -> bool:
    """Whether ``data`` is the head of one request without a body, and no more: what most reads bring.

    Where none of these words is, nobody sees a body, whatever else is wrong with the head.
    """
    line_end = data.find(b"\r\n")
    if data.find(b"\r\n\r\n", line_end) != len(data) - 4 or data[line_end - 9 : line_end] != b" HTTP/1.1":
        return False
    text = data.lower()
    return not (
        b"content-length" in text or b"transfer-encoding" in text or b"upgrade" in text or b"connect " in text
    )


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
