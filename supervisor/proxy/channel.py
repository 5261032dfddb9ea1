"""Between two processes: messages, and connections with them; on Linux, which has SOCK_SEQPACKET."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections import deque
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import final

from actors.transports.asyncio import HIGH_WATER, AsyncioTransport

logger = logging.getLogger("supervisor")

MOST = 64 * 1024
"""The most bytes of a message, besides its word."""
ROOM = 4 * 1024 * 1024
"""The most bytes that may wait until the other process takes connections back."""
_DESCRIPTOR = 4096
"""What a connection that waits counts, besides its bytes."""
_NO_ROOM = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})
"""What passes: the socket is full, or the machine is."""
_PAUSE = 0.1
"""Seconds until a message is sent for which the machine had no memory, or too many connections under way."""
_AT_ONCE = 64
"""Messages that are read before other connections have their turn."""


class Word(Enum):
    """The first byte of a message, which says what it is about."""

    PIPE = b"p"
    """To the pump, with a connection: a line with its number and its source, what was read of it."""
    LAST_ANSWERS = b"l"
    FINISH = b"f"
    ASK = b"a"
    """Whether it is at work; its event loop says so."""

    READY = b"r"
    """From the pump, as those behind it."""
    PART = b"d"
    """The begin of what was read of the connection that comes next."""
    UPGRADE = b"u"
    """With a connection: a line with its number, what was read of it."""
    ENDED = b"e"
    """The number of a pipe that is over."""
    FINISHED = b"F"
    ANSWER = b"A"


@final
class Channel:
    """One end of the socket between the processes.

    ``got`` is called with every message: its word, its bytes, and the connection if one came with it.
    ``ended`` is called when the other process has gone.
    """

    def __init__(
        self,
        end: socket.socket,
        got: Callable[[Word, bytes, socket.socket | None], None],
        ended: Callable[[], None],
    ) -> None:
        self._end = end
        self._got = got
        self._ended = ended
        self._waiting: deque[tuple[Word, bytes, int | None]] = deque()
        self._waiting_size = 0
        self._closed = False
        self._loop = asyncio.get_running_loop()
        end.setblocking(False)
        self._loop.add_reader(end, self._read)

    def offer(self, word: Word, data: bytes, descriptor: int | None = None) -> bool:
        """Send a message if there is room for it now."""
        if self._waiting:
            return False
        try:
            self._send(word, data, descriptor)
        except OSError:
            return False
        return True

    def has_room(self, size: int) -> bool:
        """Tell whether a connection with ``size`` bytes may wait; ``send`` itself refuses nothing."""
        return self._waiting_size + size <= ROOM

    def send(self, word: Word, data: bytes = b"", descriptor: int | None = None) -> None:
        """Send a message as soon as there is room for it, unless this end is closed."""
        if not self._closed and not self.offer(word, data, descriptor):
            if not self._waiting:
                self._loop.add_writer(self._end, self._send_waiting)
            copied = None if descriptor is None else _copy(descriptor)
            self._waiting.append((word, data, copied))
            self._waiting_size += _weight(data, copied)

    def close(self) -> None:
        """Let the other process see that this one has gone; nothing happens any more."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._end)
        self._loop.remove_writer(self._end)
        self._end.close()
        while self._waiting:
            self._sent()

    def _send(self, word: Word, data: bytes, descriptor: int | None) -> None:
        socket.send_fds(self._end, [word.value, data], [] if descriptor is None else [descriptor])

    def _send_waiting(self) -> None:
        while self._waiting:
            try:
                self._send(*self._waiting[0])
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._loop.remove_writer(self._end)
                    self._loop.call_later(_PAUSE, self._try_again)
                    return
                # Otherwise nobody is there any more, which reading will tell.
            self._sent()
        self._loop.remove_writer(self._end)

    def _try_again(self) -> None:
        if self._waiting:
            self._loop.add_writer(self._end, self._send_waiting)

    def _sent(self) -> None:
        _, data, descriptor = self._waiting.popleft()
        self._waiting_size -= _weight(data, descriptor)
        if descriptor is not None:
            os.close(descriptor)

    def _read(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, descriptors, _, _ = socket.recv_fds(self._end, MOST + 1, 1, socket.MSG_CMSG_CLOEXEC)
            except OSError as error:
                if error.errno in _NO_ROOM:
                    return
                data = b""
            if not data:
                self._ended()
                return
            self._got(Word(data[:1]), data[1:], socket.socket(fileno=descriptors[0]) if descriptors else None)
            if self._closed:  # by what this said
                return


def _weight(data: bytes, descriptor: int | None) -> int:
    return len(data) if descriptor is None else len(data) + _DESCRIPTOR


def _copy(descriptor: int) -> int | None:
    """Keep a connection for later; without a descriptor for that, its message goes alone and it is lost."""
    try:
        return os.dup(descriptor)
    except OSError as error:
        logger.error("a connection between the server and the pump is lost: %s", error.strerror)
        return None


async def connect(
    sent: socket.socket, connected: Callable[[AsyncioTransport], None], high_water: int = HIGH_WATER
) -> None:
    """Let ``connected`` have a connection that came with a message, unless it is gone already."""
    loop = asyncio.get_running_loop()
    sent.setblocking(False)
    try:
        await loop.connect_accepted_socket(partial(AsyncioTransport, loop, connected, high_water), sent)
    except OSError:
        sent.close()
