"""The server of ``test_ledger``: does what its clients tell it to, and in the end prints its reports.

``accounts.py asyncio|uvloop|trio``; at SIGTERM it drains, and prints one line of JSON for each connection
that it reported and each upgrade that it refused.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from typing import Any

import anyio

from actors import ConnectionActor
from supervisor import Limits, Policy, Route, Timeouts, serve
from supervisor.events import ConnectionClosed, Event, UpgradeRefused

SERVING = r"serving on port (\d+)"
LEDGER = "ledger: "
GIVEN_UP = "given up: "
"""Before the path of a connection that did not read."""
BURST = 8 << 20
"""Bytes that ``burst`` asks for: more than what the kernel keeps for one who does not read."""

rows: list[dict[str, Any]] = []


def note(event: Event, /) -> None:
    """Write down how a connection ended."""
    if isinstance(event, ConnectionClosed):
        report = event.report
        if report.reason == "reads too slowly":
            print(GIVEN_UP + event.path, flush=True)
        rows.append(
            {
                "path": event.path,
                "initiator": report.initiator.value,
                "code": report.code,
                "reason": report.reason,
                "sent": report.sent,
                "received": report.received,
                "clean": report.clean,
                "in": report.messages_in,
                "out": report.messages_out,
                "leaks": event.leaks,
            }
        )
    elif isinstance(event, UpgradeRefused):
        rows.append({"path": event.path, "status": event.status})


class Account(ConnectionActor):
    """Echoes, closes with the code that it is told, crashes, or sends a lot."""

    async def on_message(self, message: str | bytes) -> None:
        assert isinstance(message, str)
        word, _, rest = message.partition(" ")
        if word == "close":
            code, _, reason = rest.partition(" ")
            self.close(int(code), reason)
        elif word == "crash":
            raise ValueError("as it was told")
        elif word == "burst":
            await self.send(b"x" * BURST)
        else:
            await self.send(message)


async def main() -> None:
    policy = Policy(timeouts=Timeouts(close=2.0), limits=Limits(send_stall=2.0), heartbeat=None)
    slow = Policy(limits=Limits(message_rate=5.0, message_burst=10))
    routes = {"/account/:number": Account, "/limited/:number": Route(Account, policy=slow)}
    async with serve(routes, policy=policy, hooks=[note]) as server:
        print(f"serving on port {server.port}", flush=True)
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                break
        await server.drain(within=30.0, spread=1.0, reason="maintenance")
        left = len(server.connections)
    print(LEDGER + json.dumps({"rows": rows, "left": left}), flush=True)


if __name__ == "__main__":
    logging.basicConfig(filename=os.devnull)
    if sys.argv[1] == "trio":
        anyio.run(main, backend="trio")
    else:
        anyio.run(main, backend_options={"use_uvloop": sys.argv[1] == "uvloop"})
