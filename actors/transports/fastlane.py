"""The fast lane: whole, unfragmented, uncompressed data frames, read and written without the protocol.

The rules of this file:

* Only while the sans-I/O protocol stands between two frames of an open connection without
  extensions; then it has nothing to remember, and skipping it changes nothing.
* What is not plainly such a frame, complete and right, is left to the protocol, which knows what to
  do about it: control frames, fragments, incomplete frames, everything that breaks a rule.
* Layout of a frame: RFC 6455, section 5.2.
"""

from __future__ import annotations

from struct import Struct

try:
    from websockets.speedups import apply_mask
except ImportError:  # a platform without the package's C code
    from websockets.utils import apply_mask

_TEXT = 0x81
_BINARY = 0x82
_MASKED = 0x80
_TEXT_HEADERS = tuple(bytes((_TEXT, length)) for length in range(126))
_BINARY_HEADERS = tuple(bytes((_BINARY, length)) for length in range(126))
_HEADER_16 = Struct("!BBH").pack
_HEADER_64 = Struct("!BBQ").pack
_WITHOUT_COPY = 4096
"""Bytes from which a view of a payload is cheaper than a copy of it."""


def read_frames(data: bytes, max_message: int) -> tuple[list[str | bytes], int]:
    """Give the messages at the beginning of ``data``, and where what is left to the protocol begins."""
    messages: list[str | bytes] = []
    position, size = 0, len(data)
    while size - position >= 6:
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
        if end > size or length > max_message:
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
        position = end
    return messages, position


def header_of(length: int, *, text: bool) -> bytes:
    """The header of a server's frame with ``length`` bytes of payload."""
    if length < 126:
        return _TEXT_HEADERS[length] if text else _BINARY_HEADERS[length]
    first = _TEXT if text else _BINARY
    if length < 65_536:
        return _HEADER_16(first, 126, length)
    return _HEADER_64(first, 127, length)
