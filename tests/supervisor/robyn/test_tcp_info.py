"""Which clients wait for an answer, as the kernel sees it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import anyio.lowlevel
import pytest

from supervisor.robyn.tcp_info import unanswered, until_answered
from tests.raw import DEADLINE

asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])

SEVERAL_TICKS = 0.02
"""Seconds: the kernel tells the times of what was sent and received by its clock's ticks, 4 ms or 10 ms."""


@contextmanager
def connection(host: str = "127.0.0.1") -> Iterator[tuple[socket.socket, socket.socket, int]]:
    """A client, its connection, and the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((host, port)) as client, listener.accept()[0] as accepted:
            client.settimeout(DEADLINE)
            yield client, accepted, port


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_client_waits_from_its_request_until_the_first_bytes_of_the_answer(host: str) -> None:
    with connection(host) as (client, accepted, port):
        assert not unanswered(port)
        for _ in range(2):
            client.send(b"request")
            accepted.recv(100)
            time.sleep(SEVERAL_TICKS)
            assert len(unanswered(port)) == 1

            accepted.send(b"answer")
            client.recv(100)
            time.sleep(SEVERAL_TICKS)
            assert not unanswered(port)


def test_a_client_that_has_ended_its_side_still_waits_and_one_that_is_gone_does_not() -> None:
    with connection() as (client, accepted, port):
        client.send(b"request")
        client.shutdown(socket.SHUT_WR)
        assert accepted.recv(100) == b"request"
        assert accepted.recv(100) == b""
        assert len(unanswered(port)) == 1

        accepted.close()

        assert not unanswered(port)


def test_what_goes_on_at_other_ports_does_not_count() -> None:
    with connection() as (client, _, port):
        client.send(b"request")

        assert not unanswered(port + 1)
        assert not unanswered(client.getsockname()[1])


@asyncio_only
async def test_who_got_something_is_waited_for_no_longer_whatever_it_asks_next() -> None:
    with connection() as (client, accepted, port):
        client.send(b"request")
        with anyio.fail_after(DEADLINE):
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(until_answered, port)
                await anyio.sleep(SEVERAL_TICKS)
                accepted.send(b"answer")
                await anyio.sleep(SEVERAL_TICKS)
                client.send(b"another request")

        await anyio.sleep(SEVERAL_TICKS)
        assert len(unanswered(port)) == 1
