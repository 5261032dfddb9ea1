"""The answers of Robyn on one connection, read so far as to see where each one ends; no I/O.

Something of ours, a refusal, must neither overtake an answer nor be put into the middle of one.
"""

from __future__ import annotations

import re
from collections import deque
from typing import final

from actors.protocol.opening import HandshakeRefused
from supervisor.proxy.chunks import Chunks

_MAX_HEAD = 1024 * 1024
_USUAL = re.compile(rb"HTTP/1\.1 (?:200|404) [^\r]*\r\ncontent-length: ([0-9]{1,15})\r\n")
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])[ \r]")
_LENGTH = re.compile(rb"\r\n(content-length: *([0-9]+)|transfer-encoding: *chunked) *(?=\r)", re.IGNORECASE)


@final
class Answers:
    """The answers to the requests of one connection; of those in ``heads``, by number, without a body."""

    __slots__ = ("_chunks", "_endless", "_head", "_heads", "_left", "last", "whole")

    def __init__(self, heads: deque[int]) -> None:
        self.whole = 0
        """How many are complete."""
        self.last = False
        """Whether Robyn said that it answers nothing behind the one that is at hand."""
        self._heads = heads
        self._head = b""
        self._left = 0
        self._chunks: Chunks | None = None
        self._endless = False

    @property
    def between(self) -> bool:
        """Tell whether nothing of another one was there yet."""
        return not (self._left or self._head or self._chunks is not None or self._endless)

    def feed(self, data: bytes) -> None:
        """Take note of what Robyn sends."""
        if self._left > len(data):
            self._left -= len(data)
        elif not (self._endless or self._is_usual(data)):
            self._read(data)

    def _is_usual(self, data: bytes) -> bool:
        """Take note of a whole answer that came alone, as most do; ``False`` when it is none."""
        usual = _USUAL.match(data)
        if usual is None or self._heads or not self.between:
            return False
        end = data.find(b"\r\n\r\n") + 4
        if end + int(usual[1]) != len(data) or data.find(b"\r\nconnection:", 0, end) > 0:
            return False
        self.whole += 1
        return True

    def _read(self, data: bytes) -> None:
        start = 0
        while start < len(data) and not self._endless:
            if self._left:
                taken = min(self._left, len(data) - start)
                start += taken
                self._left -= taken
                self.whole += not self._left
            elif self._chunks is not None:
                start = self._chunked(self._chunks, data, start)
            else:
                start = self._begin(data, start)

    def _chunked(self, chunks: Chunks, data: bytes, start: int) -> int:
        try:
            start = chunks.feed(data, start, [])
        except HandshakeRefused:
            self._endless = True
        if chunks.over:
            self._chunks = None
            self.whole += 1
        return start

    def _begin(self, data: bytes, start: int) -> int:
        """Read the head that begins at ``start``, and give where it ends."""
        data, before = self._head + data[start:] if self._head or start else data, start - len(self._head)
        self._head = b""
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            self._head, self._endless = data, len(data) > _MAX_HEAD
            return before + len(data)
        status = _STATUS.match(data)
        if status is None:
            self._endless = True
        elif status[1] >= b"200":
            self.last = data.find(b"\r\nconnection: close\r\n", 0, end) > 0
            self._body(status[1], _LENGTH.search(data, 0, end))
        return before + end

    def _body(self, status: bytes, length: re.Match[bytes] | None) -> None:
        """Take note of what comes behind a head (RFC 9112, section 6.3)."""
        if self._heads and self._heads[0] == self.whole:
            self._heads.popleft()
            self.whole += 1
        elif status in (b"204", b"304"):
            self.whole += 1
        elif length is None:
            self._endless = True
        elif length[2] is None:
            self._chunks = Chunks()
        else:
            self._left = int(length[2])
            self.whole += not self._left
