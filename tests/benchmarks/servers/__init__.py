"""The servers that are measured, one a module: ``python -m tests.benchmarks.servers.NAME PORT``.

Each does the same at the same paths, written the way its own documentation does it:

* ``/echo``, ``/binary``: send every message back
* ``/close``: send the first message back, then close with ``DONE``
* ``/room``: what one connection sends, all of them get
* ``/drain``: on the first message, close every connection of the room with ``RESTART``

``--heartbeat`` sets the seconds between pings; without it each server keeps its own default.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

DONE = (4001, "done")
RESTART = (1012, "service restart")


class Options(NamedTuple):
    """What the benchmark tells a server."""

    port: int
    heartbeat: float | None
    backend: str


def options() -> Options:
    """The options on the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--heartbeat", type=float)
    parser.add_argument("--backend", choices=["uvloop", "asyncio", "trio"], default="uvloop")
    given = parser.parse_args()
    return Options(given.port, given.heartbeat, given.backend)
