"""What one client does on one connection; made by the grammar, or written down in the corpus."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class End(Enum):
    """How a client ends its connection."""

    CLOSE = "close"
    """It reads what comes, until the server ends or is quiet for a while."""
    HALF = "half"
    """It ends its side behind the last byte, and reads."""
    RESET = "reset"
    """It drops TCP behind the last byte, and reads nothing."""


@dataclass(frozen=True)
class Case:
    """The bytes of a client, in the pieces in which they are sent, and how it ends."""

    parts: tuple[bytes, ...]
    end: End = End.CLOSE

    @property
    def data(self) -> bytes:
        """All bytes."""
        return b"".join(self.parts)

    @property
    def size(self) -> tuple[int, int]:
        """What a smaller case has less of."""
        return len(self.data), len(self.parts)

    def __str__(self) -> str:
        parts = ", ".join(repr(part) for part in self.parts)
        return f"Case(({parts},), End.{self.end.name})"
