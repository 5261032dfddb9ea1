"""Listening sockets: bound, taken over from whoever hands them on, and their files."""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from actors.transports.asyncio import format_address

logger = logging.getLogger("supervisor")
BACKLOG = 2048
_NOT_ON_THIS_MACHINE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_TRIES = 20
"""How many free ports are tried until one is free on every address of a host."""


def resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    """Find the addresses of ``host``; blocks, and raises ``OSError`` that names it."""
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise ValueError(f"port: a whole number from 0 (any free one) to 65535, not {port!r}")
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(
            error.errno, f"host: {host!r} is not a host name or address: {error.strerror}"
        ) from None
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def bind_tcp(
    host: str, port: int, addresses: Sequence[tuple[socket.AddressFamily, Any]] | None = None
) -> list[socket.socket]:
    """Bind and listen on every address of ``host``; the same port on all of them.

    One that this machine does not have, as ``::1`` without IPv6, is left out while there is another one.
    ``addresses`` are those that ``resolve`` found.  Raises ``OSError`` that names host and port.
    """
    if addresses is None:
        addresses = resolve(host, port)
    tries = _TRIES if port == 0 else 1
    while True:
        tries -= 1
        try:
            return _bind_all(addresses, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and tries:
                continue  # a port that was free on the first address is not so on another one
            why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be bound: {error.strerror}"
            raise OSError(error.errno, f"port: {host}:{port} {why}") from None


def _bind_all(addresses: Sequence[tuple[socket.AddressFamily, Any]], port: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, address in addresses:
            if port == 0 and sockets:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            try:
                sockets.append(bind_one(family, address))
            except OSError as error:
                if error.errno not in _NOT_ON_THIS_MACHINE:
                    raise
                missing = error
                logger.info("%s is left out: %s", address[0], error.strerror)
        if missing is not None and not sockets:
            raise missing
    except OSError:
        for listener in sockets:
            listener.close()
        raise
    return sockets


def bind_one(family: socket.AddressFamily, address: Any, *, shared: bool = False) -> socket.socket:
    """Bind and listen on one address; ``shared`` with the other sockets of this program (SO_REUSEPORT)."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def take_over(sock: socket.socket) -> None:
    """Let a socket of the caller's listen; raises ``OSError`` or ``ValueError`` naming the option."""
    if sock.family != socket.AF_UNIX and not sock.getsockname()[1]:
        raise ValueError("sock: this socket has no address; bind it first")
    try:
        sock.listen(BACKLOG)
    except OSError as error:
        raise OSError(error.errno, f"sock: this socket cannot listen: {error.strerror}") from None
    sock.setblocking(False)


def bind_unix(path: str) -> socket.socket:
    """Bind and listen on a Unix socket, in the place of a dead one; raises ``OSError`` naming the path."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        file = file_of(path)
        if _dead_socket(path) and file_of(path) == file:  # and nobody has bound it meanwhile
            os.unlink(path)
        listener.bind(path)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"unix: {path!r} cannot be bound: {error.strerror or error}") from None
    return listener


def file_of(path: str) -> tuple[int, int] | None:
    """Give what tells the file at ``path`` from every other one, for as long as its socket is open."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def unlink_own(path: str, file: tuple[int, int] | None) -> None:
    """Remove a Unix socket, unless its path is somebody else's by now; before it is closed."""
    if file is not None and file_of(path) == file:
        with suppress(OSError):  # gone in the meantime, or the directory is closed to us by now
            os.unlink(path)


def _dead_socket(path: str) -> bool:
    """Tell whether ``path`` is a socket that nobody listens on: what a killed server leaves."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
    return False


def addresses_of(sockets: Sequence[socket.socket]) -> tuple[str, ...]:
    """The addresses of ``sockets`` as people write them."""
    return tuple(
        f"unix:{one.getsockname()}" if one.family == socket.AF_UNIX else format_address(one.getsockname())
        for one in sockets
    )
