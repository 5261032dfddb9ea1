"""Listening: addresses that are not there, ports that are taken, paths of others, errors of accept(2)."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors import ConnectionActor
from supervisor import serve
from supervisor.listening.sockets import bind_tcp, bind_unix
from supervisor.robyn.ports import bind_places, close_places
from tests.raw import RawClient
from tests.witness import serving

Resolve = Callable[..., list[tuple[Any, ...]]]


class Echo(ConnectionActor):
    async def on_message(self, message: str | bytes) -> None:
        await self.send(message)


async def echoes(client: RawClient) -> bool:
    assert await client.request("/") == 101
    await client.send("hello")
    return (await client.frame()).text == "hello"


# -- addresses that this machine does not have ---------------------------------------------------

HERE = (socket.AF_INET, "127.0.0.1")
ALSO_HERE = (socket.AF_INET, "127.0.0.2")
NOT_HERE = (socket.AF_INET, "192.0.2.1")  # RFC 5737: EADDRNOTAVAIL, as ::1 where IPv6 is switched off
NO_FAMILY = (socket.AddressFamily.AF_APPLETALK, "0")  # EAFNOSUPPORT, as ::1 where the kernel has no IPv6
LOCALHOSTS = [
    pytest.param([NOT_HERE, HERE], id="not-here"),
    pytest.param([HERE, NOT_HERE], id="not-here-behind"),
    pytest.param([NO_FAMILY, HERE], id="no-family"),
    pytest.param([HERE, NO_FAMILY], id="no-family-behind"),
]


@pytest.fixture
def localhost(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[tuple[Any, str]]], None]:
    """Let the name stand for other addresses."""

    def stand_for(addresses: list[tuple[Any, str]]) -> None:
        def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
            return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in addresses]

        monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)

    return stand_for


@pytest.mark.parametrize("addresses", LOCALHOSTS)
async def test_a_server_on_localhost_listens_on_what_the_machine_has(localhost: Any, addresses: Any) -> None:
    localhost(addresses)

    async with serving(Echo, host="localhost") as (server, _):
        assert server.addresses == (f"127.0.0.1:{server.port}",)
        client = await RawClient.dial(server.port)
        assert await echoes(client)
        client.close()


@pytest.mark.parametrize("addresses", LOCALHOSTS)
def test_so_do_several_processes(localhost: Any, addresses: Any) -> None:
    localhost(addresses)

    places = bind_places("localhost", 0, 2)

    names = [[one.getsockname() for one in place] for place in places]
    close_places(places)
    assert names == [[("127.0.0.1", names[0][0][1])]] * 2


@pytest.mark.parametrize("addresses", [[NOT_HERE], [NO_FAMILY, NOT_HERE]])
def test_a_host_of_which_nothing_is_here_is_an_error_that_names_it(localhost: Any, addresses: Any) -> None:
    localhost(addresses)

    for bind in (lambda: bind_tcp("localhost", 0), lambda: bind_places("localhost", 0, 2)):
        with pytest.raises(OSError, match="port: localhost:0 cannot be bound: ") as raised:
            bind()
        assert raised.value.errno == errno.EADDRNOTAVAIL


def test_any_free_port_is_one_that_is_free_on_every_address(
    localhost: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    localhost([HERE, ALSO_HERE])
    bind, taken = socket.socket.bind, []

    def steal(self: socket.socket, address: Any) -> None:
        if address[0] == "127.0.0.2" and len(taken) < 3:  # somebody else was faster
            other = socket.socket()
            taken.append(other)
            bind(other, address)
            other.listen()
        bind(self, address)

    monkeypatch.setattr(socket.socket, "bind", steal)

    sockets = bind_tcp("localhost", 0)

    first, second = (one.getsockname() for one in sockets)
    assert (first[0], second[0]) == ("127.0.0.1", "127.0.0.2")
    assert first[1] == second[1]
    for one in [*sockets, *taken]:
        one.close()


# -- the path of a Unix socket -------------------------------------------------------------------


@pytest.mark.every_runtime
async def test_a_path_that_somebody_else_has_bound_meanwhile_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"

    async with serve({"/": Echo}, unix=path):
        path.unlink()
        other = bind_unix(str(path))

    with other, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


async def test_a_path_that_was_renamed_over_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"

    async with serve({"/": Echo}, unix=path):
        with bind_unix(str(tmp_path / "next")):
            (tmp_path / "next").rename(path)

    assert path.exists()


async def test_a_path_is_removed_while_its_inode_cannot_be_anybody_elses(tmp_path: Path) -> None:
    """A file system gives the number of a removed file to the next one, once nothing has it open."""
    path = tmp_path / "socket"

    async with serve({"/": Echo}, unix=path) as server:
        await server.stop_listening()
        assert not path.exists()
        other = bind_unix(str(path))

    with other, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


async def test_a_path_that_is_gone_already_is_no_error(tmp_path: Path) -> None:
    async with serve({"/": Echo}, unix=tmp_path / "socket"):
        (tmp_path / "socket").unlink()


# -- errors of accept(2) -------------------------------------------------------------------------

OF_A_CONNECTION = ["ENONET", "ETIMEDOUT", "ECONNRESET", "EPROTO", "EHOSTUNREACH", "ECONNABORTED", "EPERM"]
OF_THE_MACHINE = ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EIO", "ECANCELED", "ENOSPC"]


@pytest.mark.parametrize("name", OF_A_CONNECTION + OF_THE_MACHINE)
async def test_a_server_outlives_every_error_of_accept(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    number = getattr(errno, name)
    accept, errors = socket.socket._accept, [OSError(number, os.strerror(number))] * 3

    def fail_at_first(self: Any) -> Any:
        if errors:
            raise errors.pop()
        return accept(self)

    async with serving(Echo) as (server, _):
        monkeypatch.setattr(socket.socket, "_accept", fail_at_first)  # which both event loops call
        for _ in range(2):
            client = await RawClient.dial(server.port)
            assert await echoes(client)
            client.close()
        assert not errors

    told = [record.getMessage() for record in caplog.records if "accept" in record.getMessage()]
    assert len(told) == (name in OF_THE_MACHINE)
    assert "Traceback" not in caplog.text
