"""The server under attack: ``server.py RUNTIME [counted]``, with every default of the library.

``counted``: loopback is not exempt from what admission allows one address, as no address elsewhere is.

``/`` echoes; ``/news`` publishes what it gets to all who are there; ``/unlimited`` echoes without a
limit of control frames; ``/rooms`` wants JSON objects with a "room" and crashes at others.  It logs as
a server does, to nowhere.
"""

from __future__ import annotations

import logging
import os
import sys

import anyio

from actors import ConnectionActor
from supervisor import Admission, Limits, Policy, Route, serve

SERVING = r"serving on port (\d+)"


class Echo(ConnectionActor):
    async def on_message(self, message: str | bytes) -> None:
        await self.send(message)


class News(ConnectionActor):
    async def on_connect(self) -> None:
        self.join("news")

    async def on_message(self, message: str | bytes) -> None:
        self.publish("news", message)


class Rooms(ConnectionActor):
    codec = "json"

    async def on_message(self, message: dict[str, str]) -> None:
        await self.send(message["room"])


async def main(admission: Admission) -> None:
    limitless = Policy(limits=Limits(control_rate=None))
    routes = {"/": Echo, "/news": News, "/rooms": Rooms, "/unlimited": Route(Echo, policy=limitless)}
    async with serve(routes, admission=admission) as server:
        print(f"serving on port {server.port}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    logging.basicConfig(filename=os.devnull, level=logging.INFO)
    runtime = sys.argv[1]
    admission = Admission(exempt=()) if "counted" in sys.argv else Admission()
    if runtime == "trio":
        anyio.run(main, admission, backend="trio")
    else:
        anyio.run(main, admission, backend_options={"use_uvloop": runtime == "uvloop"})
