"""Topics: what is published to one goes to its members, encoded once, and a slow one waits for nobody."""

from __future__ import annotations

from typing import final

from actors.cell import Cell
from actors.codecs import Codec
from actors.connection_cell import ConnectionCell
from actors.errors import MailboxFull
from actors.mailbox import Told, size_of
from actors.runtime import Runtime
from actors.transports.websocket import frame_of


@final
class Topics:
    """The topics of one tree; a topic is there while it has members."""

    __slots__ = ("_joined", "_members", "_runtime")

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._members: dict[str, dict[Cell, None]] = {}
        self._joined: dict[Cell, set[str]] = {}
        runtime.topics = self

    def __len__(self) -> int:
        return len(self._members)

    def join(self, topic: str, cell: Cell) -> None:
        """Let ``cell`` get what is published to ``topic``; twice is once.  From any thread."""
        self._runtime.call(self._join, topic, cell)

    def _join(self, topic: str, cell: Cell) -> None:
        if not cell.stopped:
            self._members.setdefault(topic, {})[cell] = None
            self._joined.setdefault(cell, set()).add(topic)

    def leave(self, topic: str, cell: Cell) -> None:
        """Take ``join`` back; from any thread."""
        self._runtime.call(self._leave, topic, cell)

    def _leave(self, topic: str, cell: Cell) -> None:
        members = self._members.get(topic)
        if members is None or cell not in members:
            return
        del members[cell]
        if not members:
            del self._members[topic]
        joined = self._joined[cell]
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
        connections: dict[int, tuple[bytes, list[ConnectionCell]]] = {}
        services: list[Cell] = []
        codec, alike = None, []
        for cell in self._members.get(topic, ()):
            if not isinstance(cell, ConnectionCell):
                services.append(cell)
                continue
            if cell.codec is not codec:
                codec = cell.codec
                if id(codec) not in connections:
                    connections[id(codec)] = _encode(codec, message), []
                alike = connections[id(codec)][1]
            alike.append(cell)
        now = self._runtime.clock()
        for frame, alike in connections.values():
            for cell in alike:
                cell.publish_frame(frame, now)
        for cell in services:
            told = Told(message, size_of(message))
            try:
                cell.put_told(told)
            except MailboxFull:
                cell.dead_letter(told, "overflow")


def _encode(codec: Codec, message: object) -> bytes:
    return frame_of(codec.encode(message))
