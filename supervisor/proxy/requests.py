"""The requests on one connection, checked by RFC 9112 and passed on; no I/O.

The rules of this file:

* Only what is plainly right is passed on.  The first thing that is not is answered with an HTTP status, and
  is the last thing of its connection: Robyn ends the whole process at some of them.
* A head is passed on as it came (``heads``), a chunked body in chunks that are made here (``chunks``).
* Nothing is read behind a request that says that it is the last.
* What a client may ask our listener on a connection that it kept alive goes there: a WebSocket, and whether
  the server is ready.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import final

from actors.protocol.opening import MAX_HEAD, HandshakeRefused, asks_whether_ready, wants_websocket
from supervisor.proxy.chunks import LAST_CHUNK, Chunks, as_chunk
from supervisor.proxy.heads import is_plain, read_head

KEPT = 1024
"""Bytes of a head that a connection remembers."""


class Part(Enum):
    """The part of a request that comes next."""

    BETWEEN = auto()
    """Nothing of the next request is there."""
    HEAD = auto()
    """Some of its head is there."""
    BODY = auto()
    CHUNKS = auto()
    NOTHING = auto()
    """Whatever comes is not read: the last request was there."""


@final
class Requests:
    """The requests on one connection, checked and passed on; no I/O.

    Only an incomplete head, or an incomplete line of a chunked body, is ever kept, both bounded.
    """

    __slots__ = (
        "_chunks",
        "_head",
        "_last",
        "_max_body",
        "_plain",
        "_ready_path",
        "_searched",
        "begun",
        "body",
        "closing",
        "heads",
        "left",
        "part",
        "refused",
        "refused_head",
        "upgrade",
        "whole",
    )

    def __init__(self, ready_path: str | None = None, max_body: int | None = None) -> None:
        self.part = Part.BETWEEN
        self.begun = 0
        """How many requests were passed on, the last one perhaps in part."""
        self.whole = 0
        """How many of them are complete."""
        self.body = 0
        """Bytes of the body that is at hand, so far."""
        self.heads: deque[int] = deque()
        """The numbers of the HEAD requests among them; their answers have no body."""
        self.upgrade: bytes | None = None
        """The request for our listener, with what came behind it; set at most once, and the last."""
        self.refused: HandshakeRefused | None = None
        """What is to be answered, behind the answers to the whole ones; set at most once, and the last."""
        self.refused_head = False
        """Whether it is the answer to a HEAD request, and has no body."""
        self.closing = False
        """Whether the next request is the last one, which its head is made to say."""
        self._ready_path = ready_path
        self._max_body = max_body
        self._plain: bytes | None = None  # the last head that was passed on as it is
        self._head = b""
        self._searched = 0
        self.left = 0
        """Bytes of a body with a length that are still to come."""
        self._chunks: Chunks | None = None
        self._last = False

    @property
    def in_part(self) -> bool:
        """Tell whether a request was passed on that is not complete."""
        return self.begun > self.whole

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the client and give those that are to be passed on now."""
        if self.part is Part.BETWEEN:
            if not self.closing and (data == self._plain or self._is_plain(data)):
                self._begin(data)
                self.whole += 1
                return data
        elif self.left > len(data):
            self.left -= len(data)
            self.body += len(data)
            return data
        if self._head:
            data, self._head = self._head + data, b""
        passed: list[bytes] = []
        kept, in_part = 0, self.in_part
        try:
            start = 0
            while start < len(data) and self.part is not Part.NOTHING:
                start = self._take(data, start, passed)
                if not self.in_part:
                    kept, in_part = len(passed), False
        except HandshakeRefused as refused:
            # What was not passed on yet of the request that is not right does not have to be.
            self.refused_head = data.startswith(b"HEAD ", start) and not in_part
            del passed[kept:]
            if self.in_part and not in_part:
                self._take_back()
            self.refuse(refused)
        return b"".join(passed)

    def _is_plain(self, data: bytes) -> bool:
        """Tell whether ``data`` is passed on as it is; clients mostly ask in the same words again."""
        plain = is_plain(data) and not asks_whether_ready(data, self._ready_path)
        if plain and len(data) <= KEPT:
            self._plain = data
        return plain

    def end(self) -> None:
        """Take note that the client sends no more: a request that is not complete is none."""
        if self.part is not Part.BETWEEN:
            self.refuse(HandshakeRefused(400, "the request ends before it is complete"))

    def refuse(self, refused: HandshakeRefused) -> None:
        """Read no more, and let this be answered; what comes second does not count."""
        if self.part is not Part.NOTHING:
            self.part = Part.NOTHING
            self.refused = refused
            self._head = b""
            self.left = 0

    def _begin(self, head: bytes) -> None:
        if head.startswith(b"HEAD "):
            self.heads.append(self.begun)
        self.begun += 1

    def _take_back(self) -> None:
        self.begun -= 1
        if self.heads and self.heads[-1] == self.begun:
            self.heads.pop()

    def _take(self, data: bytes, start: int, passed: list[bytes]) -> int:
        """Deal with what is at ``start``, and give where the next thing is."""
        if self.part is Part.BODY:
            return self._body_data(data, start, passed)
        if self._chunks is not None:
            return self._chunked_data(self._chunks, data, start, passed)
        return self._head_data(data, start, passed)

    def _complete(self) -> None:
        self.whole += 1
        self.part = Part.NOTHING if self._last else Part.BETWEEN

    # -- heads ---------------------------------------------------------------------------------

    def _head_data(self, data: bytes, start: int, passed: list[bytes]) -> int:
        searched = start + self._searched
        while data.startswith(b"\r\n", start):  # ignored before a request (RFC 9112, section 2.2)
            start += 2
            searched = start
        end = data.find(b"\r\n\r\n", max(start, searched - 3)) + 4
        most = min(end if end > 3 else len(data), start + MAX_HEAD)
        if data.count(b"\n", searched, most) != data.count(b"\r\n", max(start, searched - 1), most):
            raise HandshakeRefused(400, "a line of the request's head does not end with CRLF")
        if max(end, len(data) if end < 4 else 0) - start > MAX_HEAD:
            in_first_line = data.find(b"\r\n", start, start + MAX_HEAD) < 0
            what = "target" if in_first_line else "head"
            raise HandshakeRefused(
                414 if in_first_line else 431, f"the {what} of the request has more than {MAX_HEAD} bytes"
            )
        if end < 4:
            self._head = data[start:]
            self._searched = len(self._head)
            self.part = Part.HEAD if self._head else Part.BETWEEN
            return len(data)
        self._searched = 0
        head = data[start:end]
        if wants_websocket(head) or asks_whether_ready(head, self._ready_path):
            self.part = Part.NOTHING
            self.upgrade = data[start:]
            return len(data)
        self._head_is_there(head, passed)
        return end

    def _head_is_there(self, data: bytes, passed: list[bytes]) -> None:
        head = read_head(data)
        if head.length is not None:
            self._check_size(head.length)
        self._last = head.last or self.closing
        if self.closing and not head.last:
            passed.append(head.data[:-2] + b"Connection: close\r\n\r\n")
        else:
            passed.append(head.data)
        self._begin(data)
        self.body = 0
        if head.length is None:
            self.part, self._chunks = Part.CHUNKS, Chunks()
        elif head.length:
            self.part, self.left = Part.BODY, head.length
        else:
            self._complete()

    def _check_size(self, size: int) -> None:
        if self._max_body is not None and size > self._max_body:
            raise HandshakeRefused(413, f"the body of a request has at most {self._max_body} bytes here")

    # -- bodies --------------------------------------------------------------------------------

    def _body_data(self, data: bytes, start: int, passed: list[bytes]) -> int:
        piece = data[start : start + self.left]
        passed.append(piece)
        self.body += len(piece)
        self.left -= len(piece)
        if not self.left:
            self._complete()
        return start + len(piece)

    def _chunked_data(self, chunks: Chunks, data: bytes, start: int, passed: list[bytes]) -> int:
        pieces: list[bytes] = []
        end = chunks.feed(data, start, pieces)
        payload = b"".join(pieces)
        self.body += len(payload)
        self._check_size(self.body)
        if payload:
            passed.append(as_chunk(payload))
        if chunks.over:
            passed.append(LAST_CHUNK)
            self._chunks = None
            self._complete()
        return end
