"""The breaker: an application that crashes everybody's new connection is not asked again at once.

The rules of this file:

* What counts are client addresses, not connections: a connection that crashed before its ``on_connect``
  was through is a vote of its address, and an address has one.  IPv6 votes by /48, which one of them may
  have, and who is not counted by address has none.
* One connection that gets through its ``on_connect`` takes all votes back, whoever's it is.
* So an open breaker says: so many addresses, and nobody else, and nobody got through in between.
* An open breaker refuses only who has a vote: an address is never kept out for what others did.  After the
  pause it may try again, with one connection; if that crashes too, there is another pause.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import final

MEMORY = 60.0
"""Seconds after which a vote does not count any more."""
MAX_VOTES = 65_536
"""Votes that are known at the same time."""


@final
class Breaker:
    """The addresses that have only crashed; pure, the time is an argument."""

    __slots__ = ("_addresses", "_pause", "_voters", "votes")

    def __init__(self, addresses: int, pause: float) -> None:
        self._addresses = addresses
        self._pause = pause
        self.votes: dict[str, float] = {}
        """When the last connection of an address crashed or was let in to try; the oldest first."""
        self._voters: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self.votes)

    @property
    def is_open(self) -> bool:
        """Tell whether the addresses that have only crashed are refused."""
        return len(self._voters) >= self._addresses

    def crashed(self, address: str | None, now: float) -> bool:
        """A connection crashed before its ``on_connect`` was through; tell whether this opens the breaker."""
        if address is None:
            return False
        was_open = self.is_open
        self._forget_old(now)
        self._vote(address, now)
        return self.is_open and not was_open

    def got_through(self) -> None:
        """A connection has got through its ``on_connect``: the application works."""
        self.votes.clear()
        self._voters.clear()

    def wait(self, address: str | None, now: float) -> float:
        """Seconds that ``address`` has to wait; with none of them it is let in, to try if it has crashed."""
        if address is None or not self.is_open:
            return 0.0
        since = self.votes.get(address)
        if since is None:
            return 0.0
        wait = since + self._pause - now
        if wait > 0:
            return wait
        self._vote(address, now)  # so that it tries with one connection
        return 0.0

    def _vote(self, address: str, now: float) -> None:
        if self.votes.pop(address, None) is None:
            self._voters[_voter(address)] += 1
        self.votes[address] = now

    def _forget_old(self, now: float) -> None:
        oldest = now - max(MEMORY, self._pause)
        while self.votes:
            first = next(iter(self.votes))
            if self.votes[first] >= oldest and len(self.votes) < MAX_VOTES:
                return
            del self.votes[first]
            voter = _voter(first)
            self._voters[voter] -= 1
            if not self._voters[voter]:
                del self._voters[voter]


def _voter(address: str) -> str:
    network = ipaddress.ip_network(address)
    return str(network.supernet(new_prefix=48)) if network.version == 6 else address
