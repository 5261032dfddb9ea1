"""What a message weighs: for bounds in bytes, where somebody else chose what is in it.

Bytes count as bytes, text as characters, a large number as its bytes, and every item of a container,
or of a dataclass, eight more.  That is about what it takes on the wire; in memory it may be several
times as much, so what is to be kept for long is kept as it came.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

ITEM = 8

_FLAT = (str, bytes, bytearray)
_WITHOUT_PARTS = frozenset((int, float, complex, bool, type(None)))
_ROWS = frozenset((list, tuple, set, frozenset, deque))


def size_of(message: object, most: int) -> int:
    """Give the size that ``message`` counts for; no more than about ``most`` of it is looked at.

    An object of another kind counts nothing: it may know the whole program.
    """
    kind = type(message)
    if kind in _WITHOUT_PARTS:
        return 0 if kind is not int else message.bit_length() // 64 * ITEM  # type: ignore[attr-defined]  # it is one
    return len(message) if isinstance(message, _FLAT) else _weigh(message, most)[0]


def is_small(message: object, most: int) -> bool:
    """Tell whether ``message`` is known to count no more than ``most``: it has no parts of another kind."""
    if isinstance(message, _FLAT):
        return len(message) <= most
    size, known = _weigh(message, most)
    return known and size <= most


def _weigh(message: object, most: int) -> tuple[int, bool]:
    """The size, and whether everything in it could be counted."""
    size, known = 0, True
    waiting = [message]
    while waiting and size <= most:  # also the end of what contains itself
        one = waiting.pop()
        kind = type(one)
        if isinstance(one, _FLAT):
            size += len(one)
        elif kind is int:
            size += one.bit_length() // 64 * ITEM  # type: ignore[attr-defined]  # the line above says so
        elif isinstance(one, dict):
            size += 2 * ITEM * len(one)
            waiting += *one, *one.values()
        elif kind in _ROWS or isinstance(one, tuple):
            size += ITEM * len(one)  # type: ignore[arg-type]  # rows have a length
            if size <= most:
                waiting += one  # type: ignore[arg-type]  # as above
        elif kind not in _WITHOUT_PARTS and not isinstance(one, Enum):
            fields = getattr(kind, "__dataclass_fields__", None)
            if fields is None:
                known = False
            else:
                size += ITEM * len(fields)
                waiting += [getattr(one, name, None) for name in fields]
    return size, known
