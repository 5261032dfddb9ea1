"""How Robyn tells its clients apart behind the pipe: each has a loopback address of its own."""

from __future__ import annotations

import ipaddress
import sys
from collections import Counter
from typing import final

MAX_SOURCES = 65_536
"""Clients whose addresses are known at the same time, if no more than that have connections."""

_FIRST_SOURCE = int(ipaddress.IPv4Address("127.1.0.1"))


@final
class Sources:
    """The loopback addresses that stand for clients at Robyn: Linux has the whole of 127.0.0.0/8.

    A client keeps its address for as long as it has connections, and as it is one of the last
    ``MAX_SOURCES``.  127.0.0.1 stands for itself, and for every client where there is no other.
    """

    __slots__ = ("_by_client", "_clients", "_open")

    def __init__(self) -> None:
        self._by_client: dict[str, str] = {}
        self._clients: dict[str, str] = {}
        self._open: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._clients)

    def take(self, peer: str) -> str | None:
        """The address for a connection of the client ``peer`` (``host:port``)."""
        host = peer.rpartition(":")[0].strip("[]")
        if host in ("", "127.0.0.1") or sys.platform != "linux":
            return None
        source = self._by_client.pop(host, None) or self._free()
        self._by_client[host] = source  # the last one used is the last one in the dict
        self._clients[source] = host
        self._open[source] += 1
        return source

    def give_back(self, source: str | None) -> None:
        """A connection has ended."""
        if source is not None:
            self._open[source] -= 1
            if not self._open[source]:
                del self._open[source]

    def client(self, source: str) -> str | None:
        """The client that ``source`` stands for, without a port."""
        return source if source == "127.0.0.1" else self._clients.get(source)

    def _free(self) -> str:
        number = len(self._clients)
        if number >= MAX_SOURCES:
            for host, source in self._by_client.items():
                if source not in self._open:
                    del self._by_client[host]
                    return source
        return str(ipaddress.IPv4Address(_FIRST_SOURCE + number))
