"""Pykka's actors, each a thread.  It has no supervisors, so nothing is restarted."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pykka

from tests.benchmarks.rates import BATCH, Meter


class Answering(pykka.ThreadingActor):
    def on_receive(self, message: Any) -> Any:
        return message


class Telling(pykka.ThreadingActor):
    """Tells the other one a batch, the last message with its own ref, and waits for the answer."""

    def __init__(self, other: pykka.ActorRef[Any], meter: Meter, over: threading.Event) -> None:
        super().__init__()
        self.other, self.meter, self.over = other, meter, over

    def on_receive(self, message: Any) -> None:
        if not self.meter.running(done=message):
            self.over.set()
            return
        for _ in range(BATCH - 1):
            self.other.tell(None)
        self.other.tell(self.actor_ref)


class Told(pykka.ThreadingActor):
    def on_receive(self, message: Any) -> None:
        if message is not None:
            message.tell(BATCH)


class Asking(pykka.ThreadingActor):
    def __init__(self, other: pykka.ActorRef[Any], meter: Meter, over: threading.Event) -> None:
        super().__init__()
        self.other, self.meter, self.over = other, meter, over

    def on_receive(self, message: Any) -> None:
        while self.meter.running(done=1):
            self.other.ask(message)
        self.over.set()


class Crashing(pykka.ThreadingActor):
    def on_receive(self, message: Any) -> None:
        raise RuntimeError(message)


def between(asker: type[pykka.ThreadingActor], other: type[pykka.ThreadingActor], meter: Meter) -> None:
    over = threading.Event()
    ref = other.start()
    asker.start(ref, meter, over).tell(0)
    over.wait()


def main() -> None:
    logging.getLogger("pykka").setLevel(logging.CRITICAL)  # not what crashes on purpose
    meter = Meter()
    if meter.kind == "tell":
        between(Telling, Told, meter)
    elif meter.kind == "ask":
        between(Asking, Answering, meter)
    elif meter.kind == "spawn":
        while meter.running():
            Answering.start().stop()
            meter.running(done=1)
    else:
        while meter.running():
            ref = Crashing.start()
            ref.tell("crash")
            ref.actor_stopped.wait()
            meter.running(done=1)
    meter.report()
    pykka.ActorRegistry.stop_all()


main()
