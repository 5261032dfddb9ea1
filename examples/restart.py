"""A sum that survives its own crashes: python examples/restart.py [--backend asyncio|trio] [--port PORT]

Send numbers, and get their sum.  Anything else crashes the actor: a new one takes over the live socket,
with the messages that were queued, and the client notices nothing.  The sixth crash within 30 seconds
is one too many, and closes with 1011.
"""

import argparse

import anyio

from actors import ConnectionActor
from supervisor import OnCrash, Policy, RestartLimit, serve


class Sum(ConnectionActor):
    policy = Policy(crash=OnCrash.RESTART, restarts=RestartLimit(count=5, within=30))

    def on_connect(self):
        self.total = self.request.state.setdefault("total", 0)

    def on_restart(self, error):  # a new instance: what is to outlive a crash is kept outside of it
        print(f"restarted after {error!r}", flush=True)
        self.total = self.request.state["total"]

    async def on_message(self, message):
        self.total += int(message)
        self.request.state["total"] = self.total
        await self.send(str(self.total))


async def main(port: int) -> None:
    async with serve({"/": Sum}, port=port) as server:
        print(f"ws://127.0.0.1:{server.port}/", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Add up numbers.")
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--port", type=int, default=8765)
    options = parser.parse_args()
    anyio.run(main, options.port, backend=options.backend)
