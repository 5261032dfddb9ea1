"""The fast lane: plain data frames, unfragmented and uncompressed, read and written without the protocol.

Our pings and their pongs too, since that is all that happens on an idle connection, and whole Close frames,
so that a connection on which nothing else is said never needs a protocol; and small fragments, of which an
attack can have as many as it likes.

The rules of this file:

* Only while the sans-I/O protocol stands between two frames of an open connection without
  extensions; then it has nothing to remember, and skipping it changes nothing.
* What is not plainly such a frame is left to the protocol, which knows what to do about it: control
  frames, large fragments, a header that has not come whole, everything that breaks a rule.
* Between two fragments the protocol remembers how large their message is, and nothing else: it is told.
* A frame whose payload has not come whole belongs to the lane until it has: the protocol sees none of it.
* Layout of a frame: RFC 6455, section 5.2.
"""

from __future__ import annotations

from struct import Struct
from typing import final

from websockets.frames import EXTERNAL_CLOSE_CODES

from actors.codes import CloseCode
from actors.protocol.fragments import Fragments, joined

try:
    from websockets.speedups import apply_mask
except ImportError:  # a platform without the package's C code
    from websockets.utils import apply_mask

_TEXT = 0x81
_BINARY = 0x82
_BEGINNINGS = (0x01, 0x02)
_LAST = 0x80
_CONTINUATIONS = (0x00, _LAST)
_CLOSE = 0x88
CONTROL = 0x08
"""The bit of an opcode that control frames have (RFC 6455, section 5.5)."""
_MASKED = 0x80
_NO_STATUS = int(CloseCode.NO_STATUS_RECEIVED), ""
TEXT_HEADERS = tuple(bytes((_TEXT, length)) for length in range(126))
BINARY_HEADERS = tuple(bytes((_BINARY, length)) for length in range(126))
PING_SIZE = 4
"""Bytes in the payload of each of our pings."""
PING_HEADER = bytes((0x89, PING_SIZE))
_PONG_HEADER = bytes((0x8A, _MASKED | PING_SIZE))
_HEADER_16 = Struct("!BBH").pack
_HEADER_64 = Struct("!BBQ").pack
BATCH = 32
"""Messages that are read at once: whoever gets them may want no more."""
_ROWS = tuple(Struct(f"2s4s{length}s").iter_unpack for length in range(126))
"""By the length of a small payload: takes frames of one size apart, into header, key and payload."""
_WITHOUT_COPY = 4096
"""Bytes from which a view of a payload is cheaper than a copy of it."""


@final
class IncompleteFrame:
    """A plain data frame: its header, and what has come of its payload, unmasked."""

    __slots__ = ("_header", "_key", "_pieces", "missing")

    def __init__(self, header: bytes, length: int) -> None:
        self.missing = length
        """Bytes of the payload that are still to come."""
        self._header = header
        self._key = header[-4:]  # for the next byte on
        self._pieces: list[bytes] = []

    def take(self, data: bytes, position: int) -> int:
        """Take from ``position`` of ``data`` what belongs to the frame; give where what is left begins."""
        size = min(self.missing, len(data) - position)
        piece = apply_mask(memoryview(data)[position : position + size], self._key)
        if self._pieces and len(self._pieces[-1]) < _WITHOUT_COPY:
            self._pieces[-1] += piece  # a drip of objects would weigh many times what is in them
        else:
            self._pieces.append(piece)
        self._key = self._key[size % 4 :] + self._key[: size % 4]
        self.missing -= size
        return position + size

    @property
    def taken(self) -> int:
        """Bytes of the payload that have come."""
        return sum(map(len, self._pieces))

    def message(self) -> str | bytes:
        """The message, when nothing is missing; raises ``UnicodeDecodeError`` for a text that is none."""
        return joined(self._pieces, text=self._header[0] == _TEXT)

    def as_it_came(self) -> bytes:
        """Give the bytes of the frame that have come."""
        return self._header + apply_mask(b"".join(self._pieces), self._header[-4:])


def read_alone(data: bytes, max_message: int) -> str | bytes | None:
    """Give the message of a frame that is all of ``data``, as it mostly is; else ``None``."""
    size = len(data)
    if size < 6:
        return None
    first, length = data[0], data[1] - _MASKED
    if first != _TEXT and first != _BINARY:
        return None
    if length < 126:
        if size - 6 != length or length > max_message:
            return None
        payload: bytes = apply_mask(data[6:], data[2:6])
    else:
        start = 8 if length == 126 else 14
        length = int.from_bytes(data[2 : start - 4], "big")
        if size - start != length or length > max_message:
            return None
        payload = apply_mask(memoryview(data)[start:], data[start - 4 : start])
    if first == _BINARY:
        return payload
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None


def read_frames(
    data: bytes, max_message: int, position: int = 0
) -> tuple[list[str | bytes], int, IncompleteFrame | None]:
    """Give the messages at ``position`` of ``data``, ``BATCH`` at most, and where what is left begins.

    Also the frame behind them of which only a part is there.  None of both: what stands there is left to
    the protocol.
    """
    messages: list[str | bytes] = []
    incomplete = None
    size = len(data)
    while size - position >= 6 and len(messages) < BATCH:
        first, length = data[position], data[position + 1] - _MASKED
        if (first != _TEXT and first != _BINARY) or length < 0:
            break
        if length < 126:
            start = position + 6
        elif length == 126:
            start = position + 8
            length = int.from_bytes(data[position + 2 : position + 4], "big")
        else:
            start = position + 14
            length = int.from_bytes(data[position + 2 : position + 10], "big")
        end = start + length
        if length > max_message:
            break
        if end > size:
            if start <= size:
                incomplete = IncompleteFrame(data[position:start], length)
                position = incomplete.take(data, start)
            break
        if length < _WITHOUT_COPY:
            payload: bytes = apply_mask(data[start:end], data[start - 4 : start])
        else:
            payload = apply_mask(memoryview(data)[start:end], data[start - 4 : start])
        if first == _BINARY:
            messages.append(payload)
        else:
            try:
                messages.append(payload.decode())
            except UnicodeDecodeError:
                break
        if end < size and len(messages) == 1 and start - position == 6 and size - end >= 4 * (end - position):
            end = _read_row(data, end, data[position : position + 2], messages)
        position = end
    return messages, position, incomplete


def _read_row(data: bytes, position: int, header: bytes, messages: list[str | bytes]) -> int:
    """Add the messages of the small frames in a row that begin with ``header``: many cost half as much.

    Give where what is left begins.
    """
    if data[position : position + 2] != header:
        return position
    length = header[1] - _MASKED
    size = 6 + length
    frames = min(BATCH - len(messages), (len(data) - position) // size)
    row = memoryview(data)[position : position + frames * size]
    text = header[0] == _TEXT
    for begin, key, payload in _ROWS[length](row):
        if begin != header:
            break
        payload = apply_mask(payload, key)
        if text:
            try:
                payload = payload.decode()
            except UnicodeDecodeError:
                break
        messages.append(payload)
        position += size
    return position


def read_fragments(
    data: bytes, position: int, fragments: Fragments, max_message: int, max_fragments: int
) -> tuple[int, str | bytes | None]:
    """Add the small ones at ``position`` of ``data`` to the ``fragments`` of their message, if any came yet.

    Give where what is left begins, and the message if it has ended.
    """
    size, pieces = len(data), fragments.pieces
    while size - position >= 6 and len(pieces) < max_fragments:
        first, length = data[position], data[position + 1] - _MASKED
        if first not in (_CONTINUATIONS if pieces else _BEGINNINGS) or not 0 <= length < 126:
            break
        start = position + 6
        end = start + length
        if end > size or fragments.size + length > max_message:
            break
        payload = apply_mask(data[start:end], data[start - 4 : start])
        if first == _LAST:
            try:
                return end, joined([*pieces, payload], text=fragments.text)
            except UnicodeDecodeError:
                break
        pieces.append(payload)
        fragments.size += length
        position = end
    return position, None


def read_pong(data: bytes, position: int) -> bytes | None:
    """Give the payload of a pong as long as our pings, where it is all that is left of ``data``."""
    if len(data) - position != 6 + PING_SIZE or data[position : position + 2] != _PONG_HEADER:
        return None
    return apply_mask(data[position + 6 :], data[position + 2 : position + 6])


def read_close(data: bytes, position: int) -> tuple[bytes, tuple[int, str]] | None:
    """Give the Close frame at ``position``: its payload as it came, and code and reason.

    ``None``: it is left to the protocol.
    """
    size = len(data) - position - 6
    if size < 0 or data[position] != _CLOSE:
        return None
    length = data[position + 1] - _MASKED
    if not 0 <= length <= size or length > 125:
        return None
    if not length:
        return b"", _NO_STATUS
    start = position + 6
    payload = apply_mask(data[start : start + length], data[start - 4 : start])
    code = int.from_bytes(payload[:2], "big")
    if length == 1 or not (3000 <= code < 5000 or code in EXTERNAL_CLOSE_CODES):
        return None
    try:
        return payload, (code, payload[2:].decode())
    except UnicodeDecodeError:
        return None


def close_frame(payload: bytes) -> bytes:
    """A server's Close frame."""
    return bytes((_CLOSE, len(payload))) + payload


def header_of(length: int, *, text: bool) -> bytes:
    """The header of a server's frame with ``length`` bytes of payload."""
    if length < 126:
        return TEXT_HEADERS[length] if text else BINARY_HEADERS[length]
    first = _TEXT if text else _BINARY
    if length < 65_536:
        return _HEADER_16(first, 126, length)
    return _HEADER_64(first, 127, length)
