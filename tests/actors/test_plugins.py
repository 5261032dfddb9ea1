"""Fixtures around ``serve``, ``connected`` and ``started`` under each plugin, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import ROOT, START_TIMEOUT

TESTS = """
import anyio
import pytest
from websockets.exceptions import ConnectionClosed
from actors import Actor, ConnectionActor
from actors.testing import connected, started
from supervisor import Supervisor, serve
from tests.raw import RawClient
FIXTURE

class Echo(ConnectionActor):
    async def on_message(self, message):
        await self.send(message)

class Service(Actor):
    def on_info(self, message):
        return message

@fixture
async def server():
    async with serve({"/": Echo}, children=[Service]) as server:
        yield server

@fixture
async def client():
    async with connected(Echo) as client:
        yield client

@fixture
async def ref():
    async with started(Service) as ref:
        yield ref

@fixture
async def tree():
    async with Supervisor([Service]) as tree:
        yield tree

async def test_serve(server):
    client = await RawClient.dial(server)
    await client.request()
    await client.send("hello")
    assert (await client.frame()).text == "hello"
    client.close()

async def test_connected(client):
    await client.send("hello")
    assert await client.receive() == "hello"

async def test_started(ref):
    assert await ref.ask("hello") == "hello"

async def test_supervisor(tree, server, ref):
    assert tree.describe().children

async def test_without_a_fixture():
    async with serve({"/": Echo}) as server:
        assert server.ready
"""
PLUGINS = {
    "pytest-asyncio": (
        "asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
        "addopts = -p no:anyio -p no:trio",
        "from pytest_asyncio import fixture",
    ),
    "pytest-trio": ("trio_mode = true\naddopts = -p no:anyio -p no:asyncio", "from pytest import fixture"),
    "anyio": ("anyio_mode = auto\naddopts = -p no:asyncio -p no:trio", "from pytest import fixture"),
}


@pytest.mark.parametrize("plugin", PLUGINS)
def test_fixtures_work_under_the_plugin(plugin: str, tmp_path: Path) -> None:
    configuration, fixture = PLUGINS[plugin]
    (tmp_path / "pytest.ini").write_text(f"[pytest]\n{configuration}\nfilterwarnings = error\n")
    (tmp_path / "test_it.py").write_text(TESTS.replace("FIXTURE", fixture))

    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CI": ""},
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT,
        check=False,
    )

    assert result.returncode == 0, result.stdout + result.stderr
    assert "passed" in result.stdout
