"""The mailbox of one actor: two lanes, bounded in count and size.

The rules of this file:

* Control overtakes data, is never dropped and never waits.
* Inbound messages (from the wire) are never refused while the gate is open: when there is no room
  left the mailbox says so and nothing more is read or taken apart, so what is over the bound is at
  most one batch of the fast lane.
* Told messages (from other actors, threads, timers) are refused by the overflow rule.
* Once the gate is shut nothing is admitted to the data lane any more.
* Sizes are those of ``actors.sizes``: bytes, characters, and what containers of them count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, final


class Overflow(Enum):
    """The rule for a told message when the mailbox is full."""

    RAISE = "raise"
    """``tell`` raises ``MailboxFull`` (the default)."""
    DROP_NEW = "drop new"
    """The new message becomes a dead letter."""
    DROP_OLD = "drop old"
    """The oldest told message becomes a dead letter and makes room."""
    CLOSE = "close"
    """The connection is closed with 1013."""


class PutResult(Enum):
    """The result of putting a message."""

    ADMITTED = auto()
    FULL = auto()
    """Not admitted: there is no room for a told message."""
    SHUT = auto()
    """Not admitted: the gate is shut."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of a mailbox: messages, and bytes or characters of text."""

    inbound_messages: int = 32
    inbound_bytes: int = 2 * 1024 * 1024
    told_messages: int = 1024
    told_bytes: int = 1024 * 1024


DEFAULT_BOUNDS = Bounds()


class Told:
    """A message in the data lane that did not come from the wire."""

    __slots__ = ("message", "size")

    def __init__(self, message: Any, size: int = 0) -> None:
        self.message = message
        self.size = size


class Marker(Told):
    """An entry of the data lane that is nobody's message: never dropped, never a dead letter."""

    __slots__ = ()


EMPTY = object()
"""What ``Mailbox.pop`` gives when there is nothing."""
_UNUSED: deque[Any] = deque(maxlen=0)
"""The data lane that never held anything: an empty deque takes more than half a kilobyte."""


@final
class Mailbox:
    """Two lanes of messages for one actor; for the thread of its event loop only."""

    __slots__ = (
        "_bytes_put",
        "bounds",
        "control",
        "data",
        "half",
        "open",
        "told_bytes",
        "told_messages",
    )

    def __init__(self, bounds: Bounds = DEFAULT_BOUNDS) -> None:
        self.bounds = bounds
        self.half = bounds.inbound_messages // 2
        """With more inbound messages than this ``may_resume`` need not be asked."""
        self.control: list[Any] = []
        self.data = _UNUSED
        self.open = True
        self._bytes_put = 0  # what is queued from the wire, with what was taken since the last look
        self.told_messages = 0
        self.told_bytes = 0

    def __len__(self) -> int:
        return len(self.control) + len(self.data)

    def put_control(self, message: object) -> None:
        """Add to the control lane; always succeeds."""
        self.control.append(message)

    def put_inbound(self, messages: Collection[str | bytes], size: int) -> bool:
        """Add messages from the wire, of ``size`` or less together; tell whether there is room for more."""
        data, bounds = self.data, self.bounds
        if data:
            self._bytes_put += size
        else:
            self._bytes_put = size
            if data is _UNUSED:
                data = self.data = deque()
        data.extend(messages)
        return len(data) - self.told_messages < bounds.inbound_messages and (
            self._bytes_put < bounds.inbound_bytes or self._holds_less(bounds.inbound_bytes)
        )

    @property
    def inbound_messages(self) -> int:
        """The number of messages from the wire that are queued."""
        return len(self.data) - self.told_messages

    @property
    def inbound_bytes(self) -> int:
        """The bytes of those messages."""
        return sum(len(message) for message in self.data if not isinstance(message, Told))

    @property
    def may_resume(self) -> bool:
        """Tell whether half of the room is free again: only then reading goes on, not at every message."""
        return len(self.data) - self.told_messages <= self.half and self._holds_less(
            self.bounds.inbound_bytes // 2 + 1
        )

    def _holds_less(self, size: int) -> bool:
        if self._bytes_put >= size:
            self._bytes_put = self.inbound_bytes
        return self._bytes_put < size

    def put_told(self, told: Told) -> PutResult:
        """Add a message from elsewhere, unless the gate is shut or there is no room."""
        if not self.open:
            return PutResult.SHUT
        if (
            self.told_messages >= self.bounds.told_messages
            or self.told_bytes + told.size > self.bounds.told_bytes
        ):
            return PutResult.FULL
        self.put_marker(told)
        return PutResult.ADMITTED

    def could_hold(self, told: Told) -> bool:
        """Tell whether there would be room for ``told`` if nothing else had been told."""
        return told.size <= self.bounds.told_bytes

    def put_marker(self, told: Told) -> None:
        """Add behind the last admitted message, whatever the bounds and the gate say."""
        if self.data is _UNUSED:
            self.data = deque()
        self.data.append(told)
        self.told_messages += 1
        self.told_bytes += told.size

    def pop(self) -> Any:
        """Take the next message, control first; ``EMPTY`` when there is none."""
        if self.control:
            return self.control.pop(0)
        if not self.data:
            return EMPTY
        message = self.data.popleft()
        if isinstance(message, Told):
            self._forget(message)
        return message

    def drop_oldest_told(self) -> Told | None:
        """Remove the oldest told message that may be dropped, if there is one."""
        for index, message in enumerate(self.data):
            if isinstance(message, Told) and not isinstance(message, Marker):
                del self.data[index]
                self._forget(message)
                return message
        return None

    def clear_data(self) -> list[Any]:
        """Empty the data lane and give what was in it, in order."""
        if not self.data:
            return []
        left = list(self.data)
        self.data.clear()
        self.told_messages = self.told_bytes = 0
        return left

    def _forget(self, told: Told) -> None:
        self.told_messages -= 1
        self.told_bytes -= told.size
