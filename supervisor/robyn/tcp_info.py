"""The answers that are still to come on a port that is not ours, as the kernel sees them (tcp(7)); Linux."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys

_LOOK_EVERY = 0.02
_OPEN = {1, 8}
"""TCP_ESTABLISHED, and TCP_CLOSE_WAIT: the client has ended its side and may still wait."""


async def until_answered(port: int) -> None:
    """Wait until the clients of this process that wait at ``port`` have got something, or are gone."""
    waiting = unanswered(port)
    while waiting:
        await asyncio.sleep(_LOOK_EVERY)
        now = unanswered(port)
        waiting = {name: sent for name, sent in waiting.items() if now.get(name) == sent}


def unanswered(port: int) -> dict[str, int]:
    """The connections at ``port`` whose last word is the client's, each with a count of what was sent."""
    found: dict[str, int] = {}
    for descriptor in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        try:
            name = os.readlink(f"/proc/self/fd/{descriptor}")
            if not name.startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(descriptor))) as connection:
                sent = _unanswered(connection, port)
        except OSError:  # closed in the meantime
            continue
        if sent is not None:
            found[name] = sent
    return found


def _unanswered(connection: socket.socket, port: int) -> int | None:
    if connection.type != socket.SOCK_STREAM or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    if connection.getsockname()[1] != port:
        return None
    # struct tcp_info of <linux/tcp.h>: milliseconds since the last data, and segments with data.
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
    since_sent, _, since_received = struct.unpack_from("=3I", info, 44)
    received, sent = struct.unpack_from("=2I", info, 152)
    waits = info[0] in _OPEN and received and (not sent or since_received < since_sent)
    return int(sent) if waits else None
