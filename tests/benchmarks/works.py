"""The works: what is asked of every server, and what is measured of it.

A work is run against one server at a time and gives ``Sample``s.  A sample belongs to a row of the
table; most works have one row, ``idle`` has several.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.processes import ROOT, SERVER_CORE, Held, Load, Server, pinned, server
from tests.benchmarks.servers import DONE, RESTART

SERVERS: dict[str, tuple[str, ...]] = {
    "ours": ("ours", "--backend", "uvloop"),
    "ours on asyncio": ("ours", "--backend", "asyncio"),
    "ours on trio": ("ours", "--backend", "trio"),
    "websockets": ("websockets_asyncio",),
    "aiohttp": ("aiohttp",),
    "picows": ("picows",),
    "uvicorn": ("uvicorn",),
    "granian": ("granian",),
    "Robyn": ("robyn",),
    "bare uvloop": ("bare",),
    "websockets on trio": ("websockets_trio",),
    "trio-websocket": ("trio_websocket",),
    "hypercorn on trio": ("hypercorn",),
}
"""By the name in the tables: the module in ``servers``, and its arguments."""

ON_UVLOOP = ("websockets", "ours", "aiohttp", "picows", "uvicorn", "granian", "Robyn", "bare uvloop")
ON_TRIO = ("websockets on trio", "ours on trio", "trio-websocket", "hypercorn on trio")
WITH_HEARTBEAT = ("websockets", "ours", "aiohttp", "picows", "uvicorn")

HEARTBEAT = 5.0
"""Seconds between the pings of an idle connection, and how long its CPU is measured."""
FIRST = 500
"""Connections beside those that are weighed: the first ones fill the room that imports have left."""
SETTLE = 0.5
"""Seconds between the last handshake and the first look at idle connections."""


class Sample(NamedTuple):
    """What one run of a work found for one row of the table."""

    row: str
    server: str
    value: float
    server_cpu: float | None = None
    """Seconds of CPU per message, cycle, delivery or connection."""
    load: float | None = None
    """The share of its core that the load generator took."""
    unclean: int = 0
    """Cycles or connections that did not end as they should."""


class Bench(NamedTuple):
    """What the works run with: the load generator, seconds of warming up and of measuring, whose code."""

    load: Load
    warmup: float
    seconds: float
    root: Path = ROOT
    """The checkout whose servers are measured."""


class Work(NamedTuple):
    """One work: its rows with their units, and who does it, the first one as the measure of the others."""

    rows: Mapping[str, str]
    servers: Sequence[str]
    run: Callable[[Bench, str], Iterator[Sample]]


def started(name: str, *arguments: str, root: Path = ROOT) -> AbstractContextManager[Server]:
    """Run the server with this name."""
    module, *own = SERVERS[name]
    return server(module, [*own, *arguments], root=root)


def _rated(row: str, servers: Sequence[str], kind: str, *options: str) -> Work:
    """A work of the load generator that is counted in something a second."""

    def run(bench: Bench, name: str) -> Iterator[Sample]:
        times = ["--warmup", str(bench.warmup), "--seconds", str(bench.seconds)]
        with started(name, root=bench.root) as running:
            report = bench.load.run(kind, running, [*options, *times])
        count = report["clean" if kind.endswith("close") else "messages"]
        cpu = report["server_cpu"] / count if count else None
        if report["errors"]:
            print(f"{row}: {name}: {report['errors']} errors, the first: {report['error']}", file=sys.stderr)
        yield Sample(row, name, count / report["seconds"], cpu, report["cpu"], report["unclean"])

    return Work({row: "/s"}, servers, run)


def drain(connections: int) -> Work:
    """Seconds from the word to the last Close frame of so many connections."""
    row = f"drain of {connections}"

    def run(bench: Bench, name: str) -> Iterator[Sample]:
        code, reason = RESTART
        options = ["--path", "/room", "--control", "/drain", "--code", str(code), "--reason", reason]
        with started(name, root=bench.root) as running:
            report = bench.load.run("drain", running, ["--connections", str(connections), *options])
        cpu, unclean = report["server_cpu"] / connections, connections - report["clean"]
        yield Sample(row, name, report["seconds"], cpu, report["cpu"], unclean)

    return Work({row: "s"}, WITH_HEARTBEAT, run)


def idle(*counts: int) -> Work:
    """Memory and CPU of so many idle connections: the first with the heartbeat on, where there is one."""
    memory = {count: f"memory of an idle connection, {count}" for count in counts}
    cpu = {count: f"CPU of an idle connection, {count}" for count in counts}

    def run(bench: Bench, name: str) -> Iterator[Sample]:
        with (
            started(name, "--heartbeat", str(HEARTBEAT), root=bench.root) as running,
            bench.load.hold(running, max(counts) + FIRST) as held,
        ):
            held.report(FIRST)
            time.sleep(SETTLE)
            before = running.memory()
            for count in counts:
                if name in WITH_HEARTBEAT:
                    yield Sample(cpu[count], name, *_cpu_of(held, count))
                held.report(count + FIRST)
                time.sleep(SETTLE)
                yield Sample(memory[count], name, (running.memory() - before) / count / 1024)

    rows = dict.fromkeys(memory.values(), "KiB") | dict.fromkeys(cpu.values(), "µs/s")
    return Work(rows, ON_UVLOOP, run)


def _cpu_of(held: Held, count: int) -> tuple[float, float, float]:
    """Microseconds of CPU a second and connection, per ping, and the load generator's share."""
    first = held.report(count)
    time.sleep(HEARTBEAT)
    last = held.report(count)
    seconds, pings, cpu, own = (last[key] - first[key] for key in ("time", "pings", "server_cpu", "own_cpu"))
    return cpu / seconds / count * 1e6, cpu / max(1, pings), own / seconds


def _actors(row: str, kind: str, *servers: str) -> Work:
    """A work between actors of one process, without any connection."""

    def run(bench: Bench, name: str) -> Iterator[Sample]:
        module = f"tests.benchmarks.rates.{name.lower()}"
        command = [sys.executable, "-m", module, kind, str(bench.seconds)]
        process = pinned(SERVER_CORE, command, root=bench.root, stdout=subprocess.PIPE)
        report = json.loads(process.communicate()[0])
        yield Sample(row, name, report["count"] / report["seconds"], report["cpu"] / report["count"])

    return Work({row: "/s"}, servers, run)


_ONE = ("--size", "64")
_MANY = ("--size", "64", "--in-flight", "32")
_MIXED = (*_MANY, "--shortest", "8")
_LARGE = ("--size", "65536", "--path", "/binary", "--binary")
_CODE = ("--code", str(DONE[0]), "--reason", DONE[1])
_PYKKA = ("Pykka", "ours")

WORKS: dict[str, Work] = {
    "echo-one": _rated("echo 64 B, one in flight", ON_UVLOOP, "echo", *_ONE),
    "echo-many": _rated("echo 64 B, 32 in flight", ON_UVLOOP, "echo", *_MANY),
    "echo-mixed": _rated("echo 8 to 64 B, 32 in flight", ON_UVLOOP, "echo", *_MIXED),
    "echo-large": _rated("echo 64 KiB", ON_UVLOOP, "echo", *_LARGE),
    "server-close": _rated(
        "connect/echo/close, closed by the server", ON_UVLOOP, "server-close", "--path", "/close", *_CODE
    ),
    "client-close": _rated("connect/echo/close, closed by the client", ON_UVLOOP, "client-close"),
    "publish": _rated("publish to 2 000", ON_UVLOOP, "publish", "--path", "/room", "--connections", "2000"),
    "drain": drain(5_000),
    "idle": idle(500, 2_000, 8_000),
    "trio-echo-one": _rated("trio: echo 64 B, one in flight", ON_TRIO, "echo", *_ONE),
    "trio-echo-many": _rated("trio: echo 64 B, 32 in flight", ON_TRIO, "echo", *_MANY),
    "trio-echo-large": _rated("trio: echo 64 KiB", ON_TRIO, "echo", *_LARGE),
    "tell": _actors("actors: tell", "tell", *_PYKKA),
    "ask": _actors("actors: ask", "ask", *_PYKKA),
    "spawn": _actors("actors: spawn and stop", "spawn", *_PYKKA),
    "crash": _actors("actors: spawn and crash", "crash", *_PYKKA),
    "restart": _actors("actors: crash and restart", "restart", "ours"),
}
"""By the name on the command line."""
