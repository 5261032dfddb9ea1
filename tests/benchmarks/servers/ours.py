"""This library, supervision on: heartbeat, idle timeout, handler timeout, limits."""

from __future__ import annotations

import anyio

from actors import ConnectionActor
from supervisor import Heartbeat, Policy, Timeouts, serve
from tests.benchmarks.servers import DONE, options


class Echo(ConnectionActor):
    async def on_message(self, message: str | bytes) -> None:
        await self.send(message)


class EchoAndClose(ConnectionActor):
    async def on_message(self, message: str | bytes) -> None:
        await self.send(message)
        self.close(*DONE)


class Room(ConnectionActor):
    def on_connect(self) -> None:
        self.join("room")

    def on_message(self, message: str | bytes) -> None:
        self.publish("room", message)


async def main() -> None:
    given = options()
    maintenance = anyio.Event()

    class Drain(ConnectionActor):
        def on_message(self, message: str | bytes) -> None:
            maintenance.set()

    heartbeat = Heartbeat() if given.heartbeat is None else Heartbeat(interval=given.heartbeat)
    policy = Policy(timeouts=Timeouts(idle=600), heartbeat=heartbeat)
    routes = {"/echo": Echo, "/binary": Echo, "/close": EchoAndClose, "/room": Room, "/drain": Drain}
    async with serve(routes, port=given.port, policy=policy) as server:
        await maintenance.wait()
        await server.drain(within=30, spread=0)
        await server.serve_forever()


if __name__ == "__main__":
    backend = "trio" if options().backend == "trio" else "asyncio"
    settings = {"use_uvloop": True} if options().backend == "uvloop" else {}
    anyio.run(main, backend=backend, backend_options=settings)
