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
from typing import Any, final

import anyio

from actors.runtime import Runtime
from actors.transports.asyncio import AsyncioTransport
from supervisor.channel import MOST, Channel, Word, connect
from supervisor.pipe import Pipes
from supervisor.policies import Limits, Policy, Timeouts

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
        await Pumping(end, address, runtime, policy, ready_path, keep_alive).over.wait()
        task_group.cancel_scope.cancel()


@final
class Pumping:
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
            source, _, begin = data.partition(b"\n")
            self.runtime.spawn(self._pipe, sent, begin, source.decode() or None, name="connection")
        elif word is Word.LAST_ANSWERS:
            self._pipes.closing = True
        elif word is Word.FINISH:
            self.runtime.spawn(self._finish, name="finish")

    async def _pipe(self, sent: socket.socket | None, begin: bytes, source: str | None) -> None:
        begun = False

        def connected(client: AsyncioTransport) -> None:
            nonlocal begun
            begun = True
            self._pipes.begin(client, begin, source)

        if sent is None:
            logger.error("the pump has no descriptor left for a connection, which is lost")
        else:
            await connect(sent, connected)
        if not begun:
            self._ended(source)

    def _upgrade(self, client: AsyncioTransport, request: bytes) -> None:
        """Give a client back that is the server's to answer."""
        while len(request) > MOST:
            self._channel.send(Word.PART, request[:MOST])
            request = request[MOST:]
        self._channel.send(Word.UPGRADE, request, client.descriptor)
        client.abort()

    def _ended(self, source: str | None) -> None:
        if source is not None:
            self._channel.send(Word.ENDED, source.encode())

    async def _finish(self) -> None:
        for _ in range(3):  # from a message to its pipe it takes two turns
            await asyncio.sleep(0)
        await self._pipes.finish()
        self._channel.send(Word.FINISHED)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
