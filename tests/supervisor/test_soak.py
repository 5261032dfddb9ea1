"""Twenty thousand connections later everything is where it was: the slow tests, ``-m soak``."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Callable

import anyio
import pytest

from actors import CloseReport, ConnectionActor
from actors.timers import Timer
from supervisor import Admission, Heartbeat, Policy, Server, serve
from supervisor.events import ConnectionClosed, Event
from tests.raw import encode_close, raw_client
from tests.witness import open_sockets, running_tasks, until

pytestmark = [pytest.mark.every_runtime, pytest.mark.soak]

WARM_UP, CYCLES, AT_ONCE = 5_000, 20_000, 20


def resident_memory() -> int:
    """Bytes of this process that are in memory (proc(5))."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def own_objects() -> Counter[str]:
    """How many objects there are of our classes, and of the protocol's; the live timers are counted apart."""
    gc.collect()
    kinds = (type(one) for one in gc.get_objects() if type(one) is not Timer)
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
    return Counter(name for name in names if name.startswith(("actors.", "supervisor.", "websockets.")))


class Echo(ConnectionActor):
    """Owns one of everything, so that each cycle makes it and ends it."""

    policy = Policy(heartbeat=Heartbeat(interval=20, timeout=20))

    async def on_connect(self) -> None:
        self.join("lobby")
        self.every(30, "beat")
        self.spawn(anyio.sleep_forever)
        await self.enter(anyio.CancelScope())

    async def on_message(self, message: str) -> None:
        await self.send(message)
        if message == "close me":
            self.close(4001, "as you like")

    async def on_close(self, report: CloseReport) -> None:
        assert report.clean


async def cycle(server: Server, number: int) -> None:
    """Connect, echo, close; the server closes every other time."""
    message = "close me" if number % 2 else "I go"
    async with raw_client(server) as client:
        await client.send(message)
        assert (await client.frame()).text == message
        if number % 2:
            assert await client.answer_close() == (4001, "as you like")
        else:
            await client.send_bytes(encode_close(4002, "bye"))
            assert (await client.frame()).close == (4002, "bye")
        assert await client.rest() == []


async def cycles(server: Server, count: int) -> None:
    """Run ``count`` cycles, some at once, until the last of them is torn down."""
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await cycle(server, number)

    async with anyio.create_task_group() as task_group:
        for _ in range(AT_ONCE):
            task_group.start_soon(worker)
    await until(lambda: not server.connections)


async def test_twenty_thousand_connections_leave_nothing(anyio_backend_name: str) -> None:
    ended: dict[tuple[bool, int], int] = {}

    def count(event: Event) -> None:
        if isinstance(event, ConnectionClosed):
            assert not event.leaks
            kind = event.report.clean, event.report.code
            ended[kind] = ended.get(kind, 0) + 1

    unlimited = Admission(handshakes_per_minute=None)
    async with serve({"/": Echo}, hooks=[count], admission=unlimited) as server:
        counts: dict[str, Callable[[], object]] = {
            "connections": lambda: len(server.connections),
            "registry": lambda: list(server.registry),
            "upgrades": lambda: len(server.site.upgrades),
            "admitted": lambda: len(server.site.gate),
            "timers": lambda: len(server.site.runtime.timers),
            "tasks": running_tasks,
            "sockets": open_sockets,
            "descriptors": lambda: len(os.listdir("/proc/self/fd")),
            "objects": own_objects,
        }
        await cycles(server, WARM_UP)
        before = {name: count() for name, count in counts.items()}
        blocks, memory, began = sys.getallocatedblocks(), resident_memory(), time.monotonic()

        await cycles(server, CYCLES)
        took = time.monotonic() - began
        await until(lambda: running_tasks() == before["tasks"])
        gc.collect()
        more_blocks, more_memory = sys.getallocatedblocks() - blocks, resident_memory() - memory
        after = {name: count() for name, count in counts.items()}

    print(
        f"{anyio_backend_name}: {CYCLES} cycles in {took:.0f} s, resident {memory / 2**20:.1f} MiB "
        f"{more_memory / 2**10:+.0f} KiB, {more_blocks:+d} blocks"
    )
    assert after == before
    assert ended == dict.fromkeys([(True, 4001), (True, 4002)], (WARM_UP + CYCLES) // 2)
    # trio keeps up to a thousand deadlines that were cancelled, the client's, of a few blocks each.
    kept = 6 * 1000 if anyio_backend_name == "trio" else 0
    assert more_blocks - kept < CYCLES / 20, "not one block of Python's memory for every twentieth connection"
    assert more_memory < 100 * CYCLES, "not a hundred bytes for a connection"
