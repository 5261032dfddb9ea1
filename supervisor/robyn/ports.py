"""The ports of a Robyn app: read from its options, reserved and bound."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Sequence

from supervisor.listening.sockets import bind_one, bind_tcp
from supervisor.robyn.processes import (
    Parent,
)


def _port_of_environment(port: int) -> int:
    value = os.environ.get("ROBYN_PORT")
    if value is None:
        return port
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"ROBYN_PORT: a whole number, not {value!r}") from None


def _ip_address(host: str) -> str:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"host: Robyn listens on an IP address only, {host!r} is none") from None
    return host


def _sockets(
    parent: Parent | None, host: str, port: int, websocket_port: int | None
) -> tuple[socket.socket, list[socket.socket]]:
    """Make the socket that keeps Robyn's port, and those that we listen on."""
    if parent is not None:
        public = parent.sockets
        return (_reserve("127.0.0.1", 0) if websocket_port is None else public.pop(0)), public
    if websocket_port is None:
        reserved = _reserve("127.0.0.1", 0)
        return reserved, _bound_beside(reserved, host, port)
    reserved = _reserve(_ip_address(host), port)
    return reserved, _bound_beside(reserved, host, websocket_port)


def _reserve(host: str, port: int) -> socket.socket:
    """Bind a socket that keeps a port for Robyn, which sets SO_REUSEPORT; it does not listen itself.

    Raises ``OSError`` when somebody has the port, which with SO_REUSEPORT the kernel might not say.
    """
    if port:
        for probe in bind_tcp(host, port):
            probe.close()
    reserved = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((host, port))
    except BaseException:
        reserved.close()
        raise
    return reserved


def _bound_beside(reserved: socket.socket, host: str, port: int) -> list[socket.socket]:
    try:
        return bind_tcp(host, port)
    except BaseException:
        reserved.close()
        raise


def bind_places(host: str, port: int, count: int) -> list[list[socket.socket]]:
    """Bind and listen ``count`` times on every address of ``host``; all on the same port.

    Raises ``OSError`` naming the port when somebody else has it.
    """
    probes = bind_tcp(host, port)  # without SO_REUSEPORT, with which another program might share the port
    addresses = [(probe.family, probe.getsockname()) for probe in probes]
    for probe in probes:
        probe.close()
    places: list[list[socket.socket]] = []
    try:
        for _ in range(count):
            places.append([])
            for family, address in addresses:
                places[-1].append(bind_one(family, address, shared=True))
    except OSError as error:
        close_places(places)
        raise OSError(
            error.errno, f"port: {host}:{addresses[0][1][1]} cannot be bound: {error.strerror}"
        ) from None
    return places


def close_places(places: Sequence[Sequence[socket.socket]]) -> None:
    """Close every socket."""
    for place in places:
        for listener in place:
            listener.close()
