"""Ten thousand connections on real sockets, of which one in a hundred crashes on every message."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from tests import raw
from tests.programs import program
from tests.raw import TEXT, RawClient, encode
from tests.supervisor.connections.storm import BUDGET

CONNECTIONS, CRASHING, MESSAGES = 10_000, 100, 10
PATIENCE = 300.0


async def open_all(port: int, paths: list[str]) -> list[RawClient]:
    """Open a WebSocket for each path, two hundred at a time."""
    places = anyio.CapacityLimiter(200)
    clients: list[RawClient] = []

    async def open_one(path: str) -> None:
        async with places:
            client = await RawClient.dial(port)
            clients.append(client)
            assert await client.request(path) == 101

    async with anyio.create_task_group() as task_group:
        for path in paths:
            task_group.start_soon(open_one, path)
    return clients


async def be_steady(client: RawClient) -> None:
    """Send everything and read every answer: none is lost, all are in order, and of one life."""
    for number in range(MESSAGES):
        await client.send(f"{number}")
    for number in range(MESSAGES):
        assert (await client.frame()).text == f"{number} is {number}"


async def survive(client: RawClient) -> None:
    """Spend the whole budget, and be answered by the last life."""
    for _ in range(BUDGET):
        await client.send("boom")
        await anyio.lowlevel.checkpoint()
    await client.send("alive")
    assert (await client.frame()).text == "alive is 0"


async def perish(client: RawClient) -> None:
    """Spend one restart more than there are."""
    await client.send_bytes(encode(TEXT, b"boom") * (BUDGET + 1) + encode(TEXT, b"never"))
    assert await client.answer_close() == (1011, "")
    assert await client.rest() == []


@pytest.mark.soak
@pytest.mark.parametrize("server", ["uvloop", "asyncio", "trio"])
@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})])
async def test_one_in_a_hundred_crashes_on_every_message_and_the_others_notice_nothing(
    server: str, record_property: Callable[[str, object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw, "DEADLINE", PATIENCE)  # whose turn is last has waited for all the others
    steady = CONNECTIONS - CRASHING
    with program(Path(__file__).with_name("storm.py"), server) as running:
        port = running.port(r"listening on (\d+)")
        began = time.monotonic()
        clients = await open_all(port, ["/steady"] * steady)
        crashing = await open_all(port, ["/crashing"] * CRASHING)
        (reporter,) = await open_all(port, ["/report"])
        opened = time.monotonic()
        try:
            with anyio.fail_after(PATIENCE):
                async with anyio.create_task_group() as task_group:
                    for number, client in enumerate(crashing):
                        task_group.start_soon(survive if number % 2 else perish, client)
                    for client in clients:
                        task_group.start_soon(be_steady, client)
            ended = time.monotonic()
            await reporter.send("report")
            report = json.loads((await reporter.frame()).text)
        finally:
            for client in (*clients, *crashing, reporter):
                client.close()

    record_property("seconds to open", round(opened - began, 2))
    record_property("seconds of storm", round(ended - opened, 2))
    assert report == {
        "crashes": CRASHING * BUDGET + CRASHING // 2,
        "restarts": CRASHING * BUDGET,
        "restarts of one": [BUDGET],
        "crashed": CRASHING,
        "ended by a crash": CRASHING // 2,
        "ended": CRASHING // 2,
    }
