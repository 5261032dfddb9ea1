"""What is held in memory: by a server in a process of its own, with 200 MB thrown at it, and afterwards.

``python -m pytest -m soak -s tests/supervisor/test_memory.py`` prints the numbers.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.attack import server
from tests.attack.wire import REQUEST
from tests.programs import Program, program
from tests.raw import BINARY, CONTINUATION, DEADLINE, PING, TEXT, encode

FLOOD = 200 << 20
ALLOWED = 20 << 20
"""Bytes that the server may grow by."""
STUCK = 1.0
"""Seconds after which a server that reads no more is left alone, and another connection is tried."""
MOST = 96
"""Connections of one flood that stand still, and stay."""


@pytest.fixture(params=["asyncio", "uvloop", "trio"])
def flooded(request: pytest.FixtureRequest) -> Iterator[tuple[Program, int]]:
    with program(Path(server.__file__), request.param) as running:
        yield running, running.port(server.SERVING)


def memory(running: Program, what: str) -> int:
    """Bytes of ``VmRSS``, the resident memory, or ``VmHWM``, the most that it was."""
    for line in Path(f"/proc/{running.process.pid}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) << 10
    raise AssertionError(f"{what} is not told")


def opened(port: int, target: str = "/") -> socket.socket:
    """A WebSocket that never reads more than the answer to its request."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(DEADLINE)
    sock.connect(("127.0.0.1", port))
    sock.sendall(REQUEST.replace(b"GET / ", f"GET {target} ".encode()))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    assert head.startswith(b"HTTP/1.1 101"), head
    return sock


def echoes(port: int) -> None:
    """Check that an honest client is served."""
    with opened(port) as sock:
        sock.sendall(encode(TEXT, b"echo"))
        assert sock.recv(6, socket.MSG_WAITALL) == b"\x81\x04echo"


def flood(port: int, target: str, data: bytes) -> tuple[int, int]:
    """Throw ``data`` at the server again and again; give the bytes that were sent, and the connections."""
    sent, connections = 0, 0
    with ExitStack() as stuck:
        standing = 0
        while sent < FLOOD and standing < MOST:
            sock = stuck.enter_context(opened(port, target))
            sock.settimeout(STUCK)
            connections += 1
            try:
                while sent < FLOOD:
                    sent += sock.send(data)
            except TimeoutError:
                standing += 1
            except OSError:  # it was closed
                sock.close()
    return sent, connections


def publish(port: int) -> tuple[int, int]:
    """Let the server publish to clients of which one never reads, and is replaced when it is closed."""
    message = encode(TEXT, b"x" * 65_536)
    sent, members = 0, 0
    with ExitStack() as stack:
        publisher = stack.enter_context(opened(port, "/news"))
        while sent < FLOOD:
            member = stack.enter_context(opened(port, "/news"))
            members += 1
            for _ in range(160):  # 10 MB: ten times what may wait for one
                publisher.sendall(message)
                sent += len(message)
                read = 0
                while read < 65_546:
                    read += len(publisher.recv(65_546 - read))
            member.close()
    return sent, members


FLOODS: dict[str, Callable[[int], tuple[int, int]]] = {
    "pings of a client that never reads": lambda port: flood(port, "/", encode(PING, b"x" * 125) * 500),
    "pings without a limit": lambda port: flood(port, "/unlimited", encode(PING, b"x" * 125) * 500),
    "text that is echoed and not read": lambda port: flood(port, "/", encode(TEXT, b"x" * 1000) * 64),
    "tiny messages that are echoed and not read": lambda port: flood(port, "/", encode(TEXT, b"x") * 9000),
    "text that is published and not read": publish,
    "empty fragments": lambda port: flood(
        port, "/", encode(TEXT, b"", fin=False) + encode(CONTINUATION, b"", fin=False) * 10_000
    ),
}


def test_connections_that_wait_hold_nothing_of_their_last_message(flooded: tuple[Program, int]) -> None:
    running, port = flooded
    connections, size = 60, 1 << 20
    message = encode(BINARY, b"x" * size)
    with ExitStack() as stack:
        clients = [stack.enter_context(opened(port)) for _ in range(connections)]

        def talk(client: socket.socket) -> None:
            left = size + 10
            with ThreadPoolExecutor(1) as sender:
                sent = sender.submit(client.sendall, message)
                while left:
                    left -= len(client.recv(min(left, 1 << 20)))
                sent.result()

        for client in clients[:4]:  # what an allocator keeps is no connection's
            talk(client)
        before = memory(running, "VmRSS")
        for client in clients:
            talk(client)

        assert memory(running, "VmRSS") - before < connections * size / 4


def crash(port: int, count: int) -> None:
    """Crash connections with a MiB of JSON each, which is 22 MB of lists."""
    message = encode(TEXT, b"[" + b"[]," * 349_000 + b"[]]")
    for _ in range(count):
        with opened(port, "/rooms") as sock:
            sock.sendall(message)
            assert sock.recv(4, socket.MSG_WAITALL) == b"\x88\x02\x03\xf3", "closed with 1011"


@pytest.mark.parametrize("count", [6, pytest.param(40, marks=pytest.mark.soak)])
def test_nothing_is_kept_of_the_large_messages_that_handlers_crashed_with(
    flooded: tuple[Program, int], count: int
) -> None:
    running, port = flooded
    crash(port, 1)
    before = memory(running, "VmRSS")

    crash(port, count)

    grown = memory(running, "VmRSS") - before
    print(f"{count} crashes with a MiB of JSON: grown by {grown / (1 << 20):.1f} MB")
    assert grown < 3 * ALLOWED


@pytest.mark.soak
@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_200_mb_grows_the_server_by_less_than_20_mb(
    flooded: tuple[Program, int], name: str
) -> None:
    running, port = flooded
    echoes(port)
    before = memory(running, "VmRSS")

    sent, connections = FLOODS[name](port)

    grown = memory(running, "VmHWM") - before
    print(f"{name}: {sent >> 20} MB over {connections} connections, grown by {grown / (1 << 20):.1f} MB")
    echoes(port)
    assert grown < ALLOWED
