"""Serve an echo actor for the fuzzing client of the Autobahn TestSuite, until it is interrupted.

``python -m tests.autobahn --backend trio --port 9001``, then ``wstest -m fuzzingclient`` with
``ws://127.0.0.1:9001/``.  Compression is on, and a message may have 16 MiB in any number of fragments:
sections 9, 12 and 13 need it.
"""

from __future__ import annotations

import argparse

import anyio

from actors import ConnectionActor
from supervisor import Admission, Limits, Policy, serve


class Echo(ConnectionActor):
    """Sends back what comes."""

    policy = Policy(
        limits=Limits(compression=True, max_message=1 << 24, max_fragments=None, send_limit=1 << 26)
    )

    async def on_message(self, message: str | bytes) -> None:
        await self.send(message)


async def main(port: int) -> None:
    """Serve on ``port`` of loopback; any number of connections a minute."""
    admission = Admission(handshakes_per_minute=None, per_address=None)
    async with serve({"/": Echo}, host="127.0.0.1", port=port, admission=admission) as server:
        print(f"ws://127.0.0.1:{server.port}/", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve an echo actor for the Autobahn fuzzing client.")
    parser.add_argument("--backend", choices=("asyncio", "uvloop", "trio"), default="asyncio")
    parser.add_argument("--port", type=int, default=9001)
    options = parser.parse_args()
    if options.backend == "trio":
        anyio.run(main, options.port, backend="trio")
    else:
        anyio.run(main, options.port, backend_options={"use_uvloop": options.backend == "uvloop"})
