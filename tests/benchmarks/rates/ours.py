"""Actors of this library in a ``Supervisor``, on uvloop."""

from __future__ import annotations

import logging
from typing import Any

import anyio

from actors import Actor, ActorRef
from supervisor import Backoff, ChildSpec, Policy, Restart, RestartLimit, Supervisor
from supervisor.tree.tree import Tree
from tests.benchmarks.rates import BATCH, Meter


class Answering(Actor):
    def on_info(self, message: Any) -> Any:
        return message


class Telling(Actor):
    """Tells the other one a batch, the last message with its own ref, and waits for the answer."""

    def __init__(self, other: ActorRef, meter: Meter, over: anyio.Event) -> None:
        self.other, self.meter, self.over = other, meter, over

    def on_info(self, message: Any) -> None:
        if not self.meter.running(done=message):
            self.over.set()
            return
        for _ in range(BATCH - 1):
            self.other.tell(None)
        self.other.tell(self.ref)


class Told(Actor):
    def on_info(self, message: ActorRef | None) -> None:
        if message is not None:
            message.tell(BATCH)


class Asking(Actor):
    def __init__(self, other: ActorRef, meter: Meter, over: anyio.Event) -> None:
        self.other, self.meter, self.over = other, meter, over

    async def on_info(self, message: Any) -> None:
        while self.meter.running(done=1):
            await self.other.ask(message)
        self.over.set()


class Crashing(Actor):
    def on_info(self, message: Any) -> None:
        raise RuntimeError(message)


class Restarting(Actor):
    """Crashes in every life, as soon as the next one has begun."""

    def __init__(self, meter: Meter, over: anyio.Event) -> None:
        self.meter, self.over = meter, over

    def on_start(self) -> None:
        if self.meter.running(done=1):
            self.ref.tell("crash")
        else:
            self.over.set()

    def on_info(self, message: Any) -> None:
        raise RuntimeError(message)


async def between(tree: Tree, asker: type[Actor], other: type[Actor], meter: Meter) -> None:
    over = anyio.Event()
    ref = await tree.start_child(ChildSpec(other))
    (await tree.start_child(ChildSpec(asker, args=(ref, meter, over)))).tell(0)
    await over.wait()


async def main() -> None:
    logging.getLogger("supervisor").setLevel(logging.CRITICAL)  # not what crashes on purpose
    unlimited = Policy(
        restarts=RestartLimit(count=10**9), backoff=Backoff(initial=1e-9, maximum=1e-9, jitter=0)
    )
    async with Supervisor(limit=RestartLimit(count=10**9), policy=unlimited) as tree:
        meter = Meter()
        if meter.kind == "tell":
            await between(tree, Telling, Told, meter)
        elif meter.kind == "ask":
            await between(tree, Asking, Answering, meter)
        elif meter.kind == "restart":
            over = anyio.Event()
            await tree.start_child(ChildSpec(Restarting, args=(meter, over), restart=Restart.PERMANENT))
            await over.wait()
        else:
            actor, message = (Answering, None) if meter.kind == "spawn" else (Crashing, "crash")
            while meter.running():
                ref = await tree.start_child(ChildSpec(actor, restart=Restart.TEMPORARY))
                if message is None:
                    ref.stop()
                else:
                    ref.tell(message)
                await ref.wait_closed()
                meter.running(done=1)
        meter.report()


anyio.run(main, backend_options={"use_uvloop": True})
