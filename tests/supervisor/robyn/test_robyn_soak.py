"""A Robyn app under load: how it ends, how it is replaced, and how it survives a crash.  Minutes long."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.crowd import Crowd
from tests.programs import children_of
from tests.robyn_apps import APP, running
from tests.supervisor.robyn.test_processes import PID
from tests.witness import until

pytestmark = [pytest.mark.soak, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

APP_OF_MANY = APP.replace(
    "sockets = supervise(app, ",
    """
from supervisor.events import DrainEnded, DrainProgress, log_event
def report(event):
    if isinstance(event, DrainEnded | DrainProgress):
        log_event(event)
sockets = supervise(app, hooks=[report], """,
).replace("drain=Drain(spread=0)", "drain=Drain(within=20, spread=10)")


def histogram(times: list[float], bins: int = 10, width: float = 1.0) -> list[int]:
    counts = Counter(min(bins - 1, int(one / width)) for one in times)
    return [counts[number] for number in range(bins)]


@pytest.mark.parametrize("silent", [0, 100])
async def test_5000_clients_get_one_close_each_spread_over_the_time_and_the_process_exits_0(
    tmp_path: Path, silent: int
) -> None:
    with running(tmp_path, APP_OF_MANY, CLOSE="60") as app:
        crowd = Crowd(await asyncio.to_thread(app.port), "/echo", pause=5.0)
        await crowd.grow(5000 - silent)
        await crowd.grow(silent, silent=True)
        assert not crowd.refused
        await until(lambda: all(member.echoes for member in crowd.members))

        told = crowd.now()
        app.signal(signal.SIGTERM)
        await asyncio.gather(*(member.over for member in crowd.members))
        status = await asyncio.to_thread(app.status)
        took = crowd.now() - told

        closes = [[close[1:] for close in member.closes] for member in crowd.members]
        times = [member.closes[0][0] - told for member in crowd.members]
        found = re.search(r"drain: 5000 connections ended in .*", app.output)
        print(f"\n{histogram(times)} a second, the last after {max(times):.2f} s; exit after {took:.1f} s")
        print(found and found[0])
        assert closes == [[(1012, "service restart")]] * 5000
        assert min(histogram(times)) > 5000 / 10 / 2
        assert status == 0
        assert found is not None
        assert f"{5000 - silent} clean, 0 timed out, {silent} aborted" in found[0]
        assert took < 20 + 5


FOUR = APP_OF_MANY.replace("sockets.start(", PID).replace(
    "within=20, spread=10)", "within=20, spread=2), processes=4"
)


def start_wrk(port: int, seconds: int) -> subprocess.Popen[str]:
    command = f"wrk -t1 -c20 -d{seconds}s --timeout 30s http://127.0.0.1:{port}/"
    return subprocess.Popen(command.split(), stdout=subprocess.PIPE, text=True)


def problems_of(report: str) -> list[str]:
    return re.findall(r"Socket errors.*|Non-2xx.*", report)


async def test_four_processes_are_replaced_without_a_refused_connection_or_a_failed_request(
    tmp_path: Path,
) -> None:
    with running(tmp_path, FOUR) as app:
        await asyncio.to_thread(app.wait_for, "4 processes serve")
        before = children_of(app.process.pid)
        crowd = Crowd(app.port(), "/echo")
        enough = asyncio.Event()
        clients = [asyncio.create_task(crowd.stay(enough, 0.2)) for _ in range(200)]
        load = [
            asyncio.create_task(keep_asking(app.port(), enough, kept)) for kept in (True,) * 10 + (False,) * 5
        ]
        await asyncio.sleep(2)

        began = time.monotonic()
        app.signal(signal.SIGHUP)
        for number in range(1, 5):
            await until(lambda number=number: f"process {number}: pid" in app.output)
        took = time.monotonic() - began
        await asyncio.sleep(2)
        enough.set()
        connections = await asyncio.gather(*clients)
        answers = sum(await asyncio.gather(*load), Counter())

        closes = Counter(close[1:] for member in crowd.members for close in member.closes)
        print(
            f"\nreplaced in {took:.1f} s; {sum(connections)} connections of 200 clients, closed with "
            f"{dict(closes)}, refused: {dict(crowd.refused)}; HTTP: {dict(answers)}"
        )
        assert not crowd.refused
        assert set(answers) == {"200"}
        assert set(closes) == {(1012, "service restart")}
        assert closes.total() >= 200
        assert not children_of(app.process.pid) & before
        app.signal(signal.SIGTERM)
        assert await asyncio.to_thread(app.status) == 0


async def keep_asking(port: int, until: asyncio.Event, kept: bool) -> Counter[str]:
    """Send one request after the other; on a connection that is kept until the server says close."""
    seen: Counter[str] = Counter()
    reader = writer = None
    while not until.is_set():
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            end = "" if kept else "Connection: close\r\n"
            writer.write(f"GET / HTTP/1.1\r\nHost: localhost\r\n{end}\r\n".encode())
            assert reader is not None
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            size = re.search(r"content-length: (\d+)", head)
            assert size is not None
            body = await reader.readexactly(int(size[1]))
            assert body == b"hello"
            seen[head.split()[1]] += 1
        except Exception as error:
            seen[repr(error)] += 1
            head = "connection: close"
        if "connection: close" in head and writer is not None:
            writer.close()
            writer = None
        await asyncio.sleep(0.005)
    if writer is not None:
        writer.close()
    return seen


async def test_a_killed_process_under_load_is_back_within_a_second_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    with running(tmp_path, FOUR) as app:
        await asyncio.to_thread(app.wait_for, "4 processes serve")
        port = app.port()
        crowd = Crowd(port, "/echo", pause=0.2)
        await crowd.grow(200)
        load = start_wrk(port, 6)
        await asyncio.sleep(2)
        victim = min(children_of(app.process.pid))
        serving = app.output.count("serving HTTP and WebSockets")

        killed = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        await until(lambda: "another one takes its place" in app.output)
        noticed = time.monotonic() - killed
        await until(lambda: app.output.count("serving HTTP and WebSockets") > serving)
        serves = time.monotonic() - killed
        report, _ = await asyncio.to_thread(load.communicate)
        lost = [member for member in crowd.members if member.over.done()]
        kept = [member for member in crowd.members if not member.over.done()]
        echoes = sum(member.echoes for member in kept)
        await asyncio.sleep(1)

        print(
            f"\nnoticed after {noticed:.3f} s, serves after {serves:.3f} s; {len(lost)} clients lost, "
            f"{len(kept)} go on; wrk: {problems_of(report)}, {re.findall('Requests/sec.*', report)}"
        )
        assert noticed < 1
        assert 0 < len(lost) < 120
        assert not [member for member in kept if member.closes]
        assert sum(member.echoes for member in kept) > echoes
        app.signal(signal.SIGTERM)
        assert await asyncio.to_thread(app.status) == 0
