"""The server of ``test_crash_storm``: steady connections, ones that crash, and one that reports.

``storm.py asyncio|uvloop|trio``
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter

import anyio

from actors import ConnectionActor, ExitReason
from supervisor import Admission, OnCrash, Policy, RestartLimit, serve
from supervisor.events import ActorCrashed, ActorRestarted, ConnectionClosed, Event

BUDGET = 5
"""Restarts of one connection."""


class Books:
    """A hook that counts."""

    def __init__(self) -> None:
        self.crashes: Counter[str] = Counter()
        self.restarts: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, ActorCrashed):
            self.crashes[event.ref.id] += 1
        elif isinstance(event, ActorRestarted):
            self.restarts[event.ref.id] += 1
        elif isinstance(event, ConnectionClosed):
            self.ends[event.report.exit_reason.name] += 1


books = Books()


class Steady(ConnectionActor):
    """Answers each message with its number in this life."""

    def __init__(self) -> None:
        self.count = 0

    async def on_message(self, message: str | bytes) -> None:
        await self.send(f"{message!s} is {self.count}")
        self.count += 1


class Crashing(Steady):
    """Crashes on every ``boom``."""

    async def on_message(self, message: str | bytes) -> None:
        if message == "boom":
            raise ValueError("boom")
        await super().on_message(message)


class Reporter(ConnectionActor):
    """Says what has happened so far."""

    async def on_message(self, message: str | bytes) -> None:
        report = {
            "crashes": books.crashes.total(),
            "restarts": books.restarts.total(),
            "restarts of one": sorted(set(books.restarts.values())),
            "crashed": len(books.crashes),
            "ended by a crash": books.ends[ExitReason.CRASH.name],
            "ended": books.ends.total(),
        }
        await self.send(json.dumps(report))


async def main() -> None:
    policy = Policy(heartbeat=None, crash=OnCrash.RESTART, restarts=RestartLimit(count=BUDGET, within=3600))
    admission = Admission(max_connections=None, per_address=None, handshakes_per_minute=None, breaker=None)
    routes = {"/steady": Steady, "/crashing": Crashing, "/report": Reporter}
    async with serve(routes, policy=policy, admission=admission, hooks=[books]) as server:
        print(f"listening on {server.port}")
        await server.serve_forever()


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    backend = sys.argv[1]
    anyio.run(
        main,
        backend="trio" if backend == "trio" else "asyncio",
        backend_options={"use_uvloop": True} if backend == "uvloop" else {},
    )
