"""The socket between two processes: whole messages, in order, with connections, and room that runs out."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from supervisor.proxy.channel import MOST, ROOM, Channel, Word
from tests.supervisor.sites import asyncio_only
from tests.witness import open_sockets, until

pytestmark = asyncio_only


class End:
    """One end, and what came to it."""

    def __init__(self, end: socket.socket) -> None:
        self.messages: list[tuple[Word, bytes]] = []
        self.connections: list[socket.socket] = []
        self.ended = False
        self.channel = Channel(end, self._got, self._gone)

    def _got(self, word: Word, data: bytes, sent: socket.socket | None) -> None:
        self.messages.append((word, data))
        if sent is not None:
            self.connections.append(sent)

    def _gone(self) -> None:
        self.ended = True
        self.channel.close()


@contextlib.contextmanager
def ends() -> Iterator[tuple[End, socket.socket]]:
    """An end, and the socket of the other one, where nobody reads yet."""
    before = open_sockets()
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end = End(one)
    try:
        yield end, other
    finally:
        end.channel.close()
        other.close()
        for connection in end.connections:
            connection.close()
    assert open_sockets() == before


async def test_messages_come_whole_and_in_order_empty_ones_too() -> None:
    sent = [(Word.PART, b"x" * MOST), (Word.READY, b""), (Word.ENDED, b"127.1.0.1")]
    with ends() as (end, other):
        reading = End(other)
        for word, data in sent:
            end.channel.send(word, data)

        await until(lambda: len(reading.messages) == 3)

        assert reading.messages == sent
        reading.channel.close()


async def test_what_has_no_room_waits_in_order_and_keeps_the_connection_that_goes_with_it() -> None:
    with ends() as (end, other):
        given, kept = socket.socketpair()
        numbers = 0
        while end.channel.offer(Word.PIPE, b"%d" % numbers):
            numbers += 1
        end.channel.send(Word.UPGRADE, b"with a connection", given.fileno())
        given.close()
        end.channel.send(Word.FINISH)
        assert not end.channel.offer(Word.PIPE, b"overtakes nobody")

        reading = End(other)
        await until(lambda: len(reading.messages) == numbers + 2)

        assert reading.messages[:numbers] == [(Word.PIPE, b"%d" % number) for number in range(numbers)]
        assert reading.messages[numbers:] == [(Word.UPGRADE, b"with a connection"), (Word.FINISH, b"")]
        with kept, reading.connections[0] as connection:
            kept.send(b"still open")
            assert connection.recv(20) == b"still open"
        assert end.channel.offer(Word.PIPE, b"there is room again")
        reading.channel.close()


async def test_what_waits_for_nobody_is_let_go() -> None:
    with ends() as (end, other):
        given, kept = socket.socketpair()
        with given, kept:
            while end.channel.offer(Word.PIPE, b"x" * MOST):
                pass
            end.channel.send(Word.UPGRADE, b"", given.fileno())
            given.close()

            other.close()

            await until(lambda: end.ended)
            assert kept.recv(1) == b""
            end.channel.send(Word.FINISH)  # nothing happens any more


async def test_the_end_of_the_other_side_is_told_once() -> None:
    with ends() as (end, other):
        other.close()

        await until(lambda: end.ended)
        await asyncio.sleep(0)
        assert end.messages == []


async def test_so_many_bytes_of_connections_may_wait_and_again_when_they_went() -> None:
    one, given = socket.socketpair()
    with one, given, ends() as (end, other):
        messages = 0
        while end.channel.has_room(MOST):
            end.channel.send(Word.UPGRADE, b"x" * MOST, given.fileno())
            messages += 1
        assert end.channel._waiting_size <= ROOM < end.channel._waiting_size + MOST
        end.channel.send(Word.ENDED, b"127.1.0.1")  # what is small and about one that went is never refused

        reading = End(other)
        await until(lambda: len(reading.messages) == messages + 1)

        assert reading.messages[-1] == (Word.ENDED, b"127.1.0.1")
        assert end.channel._waiting_size == 0
        for connection in reading.connections:
            connection.close()
        reading.channel.close()


# -- errors of the machine -----------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS])
async def test_a_machine_without_memory_for_a_moment_loses_no_message_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refusals = {"send_fds": 3, "recv_fds": 3}

    def refusing(name: str) -> Any:
        real = getattr(socket, name)

        def refuse(*arguments: Any) -> Any:
            if refusals[name]:
                refusals[name] -= 1
                raise OSError(number, "for a moment")
            return real(*arguments)

        return refuse

    with ends() as (end, other):
        reading = End(other)
        given, kept = socket.socketpair()
        for name in refusals:
            monkeypatch.setattr(socket, name, refusing(name))

        end.channel.send(Word.UPGRADE, b"with a connection", given.fileno())
        end.channel.send(Word.FINISH)
        given.close()
        await until(lambda: len(reading.messages) == 2)

        assert reading.messages == [(Word.UPGRADE, b"with a connection"), (Word.FINISH, b"")]
        assert not end.ended
        assert not reading.ended
        with kept, reading.connections[0] as connection:
            kept.send(b"still open")
            assert connection.recv(20) == b"still open"
        reading.channel.close()


async def test_a_connection_that_no_descriptor_is_left_for_is_lost_and_no_other_message_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: int) -> int:
        raise OSError(errno.EMFILE, "too many")

    with ends() as (end, other):
        given, kept = socket.socketpair()
        numbers = 0
        while end.channel.offer(Word.PIPE, b"%d" % numbers):
            numbers += 1
        monkeypatch.setattr("os.dup", refuse)
        with given, kept:
            end.channel.send(Word.UPGRADE, b"lost", given.fileno())

        reading = End(other)
        await until(lambda: len(reading.messages) == numbers + 1)

        assert reading.messages[-1] == (Word.UPGRADE, b"lost")
        assert not reading.connections
        reading.channel.close()
