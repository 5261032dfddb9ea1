"""A server in a process of its own, for what is done to processes: ``served.py`` and a runtime's name.

SIGTERM ends the server, a second one cancels the program.  What is left then fails it.
"""

from __future__ import annotations

import signal
import sys

import anyio
from anyio.abc import TaskStatus

from supervisor import Heartbeat, Policy, Server, Timeouts, serve
from tests.faults.harness import Echo, Watched
from tests.witness import open_sockets, running_tasks, until

POLICY = Policy(timeouts=Timeouts(close=1.0), heartbeat=Heartbeat(interval=0.1, timeout=1.2))


def left() -> tuple[int, set[str]]:
    return running_tasks(), open_sockets()


async def main() -> None:
    Watched.begin()
    before = left()
    server = serve({"/": Echo}, policy=POLICY)
    async with anyio.create_task_group() as running:
        await running.start(stop_and_then_cancel, server, running.cancel_scope)
        async with server:
            print(f"serving at {server.port}", flush=True)
            await server.serve_forever()
        running.cancel_scope.cancel()
    await until(lambda: left() == before)
    print("nothing is left", flush=True)


async def stop_and_then_cancel(
    server: Server, program: anyio.CancelScope, *, task_status: TaskStatus[None]
) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            server.stop()
            print("told to stop", flush=True)
            break
        async for _ in signals:
            program.cancel()


if __name__ == "__main__":
    backend, *uvloop = sys.argv[1].split("+")
    anyio.run(main, backend=backend, backend_options={"use_uvloop": True} if uvloop else {})
