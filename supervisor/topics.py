"""Topics: what is published to one goes to its members, encoded once, and a slow one waits for nobody."""

from __future__ import annotations

from typing import final

from actors.cell.cell import Cell
from actors.cell.connection_cell import ConnectionCell
from actors.codecs import Codec
from actors.errors import ActorMisuse, MailboxFull
from actors.mailbox import Told
from actors.protocol.websocket import frame_of
from actors.runtime import Runtime
from actors.sizes import size_of

LONGEST = 1024
"""Characters that the name of a topic may have."""


@final
class _Members:
    """The members of one topic; those with one codec lie together, for they get the same bytes."""

    __slots__ = ("alike", "services")

    def __init__(self) -> None:
        self.alike: dict[int, tuple[Codec, dict[ConnectionCell, None]]] = {}
        """Connections by the id of their codec, which need not be hashable."""
        self.services: dict[Cell, None] = {}

    def __len__(self) -> int:
        return len(self.services) + sum(len(cells) for _, cells in self.alike.values())

    def add(self, cell: Cell) -> None:
        if isinstance(cell, ConnectionCell):
            self.alike.setdefault(id(cell.codec), (cell.codec, {}))[1][cell] = None
        else:
            self.services[cell] = None

    def remove(self, cell: Cell) -> None:
        if not isinstance(cell, ConnectionCell):
            del self.services[cell]
            return
        _, cells = self.alike[id(cell.codec)]
        del cells[cell]
        if not cells:
            del self.alike[id(cell.codec)]


@final
class Topics:
    """The topics of one tree; a topic is there while it has members."""

    __slots__ = ("_joined", "_members", "_runtime")

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._members: dict[str, _Members] = {}
        self._joined: dict[Cell, set[str]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def join(self, topic: str, cell: Cell) -> None:
        """Let ``cell`` get what is published to ``topic``; twice is once.  From any thread.

        Raises ``TypeError`` and ``ValueError`` for what is no name of a topic: names may come from a peer.
        """
        if not isinstance(topic, str):
            raise TypeError(f"topic: a name, a str, not {topic!r}")
        if len(topic) > LONGEST:
            raise ValueError(f"topic: a name of at most {LONGEST} characters, not one of {len(topic)}")
        self._runtime.call(self._join, topic, cell)

    def _join(self, topic: str, cell: Cell) -> None:
        if not cell.stopped:
            joined = self._joined.setdefault(cell, set())
            if topic not in joined:
                if len(joined) == cell.most_topics:
                    raise ActorMisuse(
                        f"{cell.ref!r} has joined {len(joined)} topics, as many as Limits(topics=) allows"
                    )
                joined.add(topic)
                self._members.setdefault(topic, _Members()).add(cell)

    def leave(self, topic: str, cell: Cell) -> None:
        """Take ``join`` back; from any thread."""
        self._runtime.call(self._leave, topic, cell)

    def _leave(self, topic: str, cell: Cell) -> None:
        joined = self._joined.get(cell, set())
        if topic not in joined:
            return
        members = self._members[topic]
        members.remove(cell)
        if not members:
            del self._members[topic]
        joined.remove(topic)
        if not joined:
            del self._joined[cell]

    def forget(self, cell: Cell) -> None:
        """``cell`` has ended: it leaves every topic."""
        if cell in self._joined:
            for topic in list(self._joined[cell]):
                self.leave(topic, cell)

    def publish(self, topic: str, message: object) -> None:
        """Give ``message`` to every member of ``topic``; from any thread.

        Raises what a codec raises for a message that it cannot encode, before anybody got it; from
        another thread than the event loop's that is logged instead.
        """
        self._runtime.call(self._publish, topic, message)

    def _publish(self, topic: str, message: object) -> None:
        members = self._members.get(topic)
        if members is None:
            return
        # Copies: who is closed because it does not read may leave meanwhile.
        frames = [(_encode(codec, message), list(cells)) for codec, cells in members.alike.values()]
        services = list(members.services)
        now = self._runtime.clock()
        for frame, cells in frames:
            for cell in cells:
                cell.publish_frame(frame, now)
        for service in services:
            told = Told(message, size_of(message, service.mailbox.bounds.told_bytes))
            try:
                service.put_told(told)
            except MailboxFull:
                service.dead_letter(told, "overflow")


def _encode(codec: Codec, message: object) -> bytes:
    return frame_of(codec.encode(message))
