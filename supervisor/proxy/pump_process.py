"""The pump at work, in its own process; ``pump`` starts it."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, final

import anyio

from actors.repeats import others, repeats
from actors.runtime import Runtime
from actors.transports.asyncio import AsyncioTransport
from supervisor.policies import Limits, Policy, Timeouts
from supervisor.proxy.channel import MOST, Channel, Word, connect
from supervisor.proxy.pipe import Pipes

logger = logging.getLogger("supervisor")


def main(
    channel: int,
    address: tuple[str, int],
    ready_path: str | None,
    keep_alive: float | None,
    timeouts: Mapping[str, float | None],
    limits: Mapping[str, Any],
) -> None:
    """Be the pump of the process at the other end of the descriptor ``channel``, for as long as it lives.

    ``timeouts`` and ``limits`` are those of its policy.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # not where the kernel allows less than its own limit says
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a pipe has two descriptors
    policy = Policy(timeouts=Timeouts(**timeouts), limits=Limits(**limits))
    end = socket.socket(fileno=channel)
    end.set_inheritable(False)
    anyio.run(_pump, end, (*address,), policy, ready_path, keep_alive, backend_options={"use_uvloop": True})


async def _pump(
    end: socket.socket,
    address: tuple[str, int],
    policy: Policy,
    ready_path: str | None,
    keep_alive: float | None,
) -> None:
    async with anyio.create_task_group() as task_group:
        runtime = Runtime(task_group)
        runtime.spawn(runtime.timers.run, name="timers")
        await PumpProcess(end, address, runtime, policy, ready_path, keep_alive).over.wait()
        task_group.cancel_scope.cancel()


@final
class PumpProcess:
    """The pipes of the pump, and their tie to the server's process."""

    def __init__(
        self,
        end: socket.socket,
        address: tuple[str, int],
        runtime: Runtime,
        policy: Policy,
        ready_path: str | None,
        keep_alive: float | None,
    ) -> None:
        self.runtime = runtime
        self.policy = policy
        self.ready_path = ready_path
        self.keep_alive = keep_alive
        self.over = asyncio.Event()
        """Set when the server's process has gone."""
        self._pipes = Pipes(self, address, self._upgrade, self._ended)
        self._channel = Channel(end, self._got, self.over.set)
        self._channel.send(Word.READY)

    def _got(self, word: Word, data: bytes, sent: socket.socket | None) -> None:
        if word is Word.PIPE:
            line, _, begin = data.partition(b"\n")
            number, _, source = line.decode().partition(" ")
            self.runtime.spawn(self._pipe, sent, begin, source or None, int(number), name="connection")
        elif word is Word.ASK:
            self._channel.send(Word.ANSWER)
        elif word is Word.LAST_ANSWERS:
            self._pipes.closing = True
        elif word is Word.FINISH:
            self.runtime.spawn(self._finish, name="finish")

    async def _pipe(self, sent: socket.socket | None, begin: bytes, source: str | None, number: int) -> None:
        begun = False

        def connected(client: AsyncioTransport) -> None:
            nonlocal begun
            begun = True
            self._pipes.begin(client, begin, source, number)

        if sent is None:
            if (left_out := repeats.due("no descriptor")) is not None:
                text = "the pump has no descriptor left for a connection, which is lost%s"
                logger.error(text, others(left_out))
        else:
            await connect(sent, connected)
        if not begun:
            self._ended(number)

    def _upgrade(self, client: AsyncioTransport, request: bytes, number: int) -> None:
        """Give a client back that is the server's to answer."""
        if not self._channel.has_room(len(request)):
            if (left_out := repeats.due("no room")) is not None:
                text = "the server does not take its connections back in time; one is lost%s"
                logger.error(text, others(left_out))
            client.abort()
            self._ended(number)
            return
        request = b"%d\n%b" % (number, request)
        while len(request) > MOST:
            self._channel.send(Word.PART, request[:MOST])
            request = request[MOST:]
        self._channel.send(Word.UPGRADE, request, client.descriptor)
        client.abort()

    def _ended(self, number: int) -> None:
        self._channel.send(Word.ENDED, b"%d" % number)

    async def _finish(self) -> None:
        for _ in range(3):  # from a message to its pipe it takes two turns
            await asyncio.sleep(0)
        await self._pipes.finish()
        self._channel.send(Word.FINISHED)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
