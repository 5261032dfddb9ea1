"""Messages in pieces: what both lanes know of one that is incomplete, and how it is put together."""

from __future__ import annotations

from typing import final


@final
class Fragments:
    """The fragments that have come of a message whose last one has not."""

    __slots__ = ("pieces", "size", "text")

    def __init__(self, *, text: bool) -> None:
        self.pieces: list[bytes] = []
        self.size = 0
        """Bytes in all pieces."""
        self.text = text


def joined(pieces: list[bytes], *, text: bool) -> str | bytes:
    """The message that came in ``pieces``; raises ``UnicodeDecodeError`` for a text that is none."""
    payload = b"".join(pieces)
    return payload.decode() if text else payload
