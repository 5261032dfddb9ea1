"""``granian``, one worker, a plain ASGI application on uvloop.  It sends no pings."""

from __future__ import annotations

from granian.constants import Interfaces, Loops
from granian.server import Server

from tests.benchmarks.servers import options

if __name__ == "__main__":
    Server(
        "tests.benchmarks.servers.asgi_app:app",
        port=options().port,
        interface=Interfaces.ASGINL,
        loop=Loops.uvloop,
        backlog=2048,
        log_enabled=False,
    ).serve()
