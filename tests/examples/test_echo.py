"""The echo example as a program of its own, seen by the client of ``websockets``."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.programs import ROOT, Program, close_of, program
from tests.raw import DEADLINE

URL = r"(ws://127\.0\.0\.1:\d+/)"


@pytest.fixture(params=["asyncio", "trio"])
def echo(request: pytest.FixtureRequest) -> Iterator[Program]:
    with program(ROOT / "examples" / "echo.py", "--port", "0", "--backend", request.param) as started:
        yield started


def test_what_is_sent_comes_back_and_a_close_is_answered(echo: Program) -> None:
    with connect(echo.wait_for(URL)[1]) as client:
        for message in ("hello", "é€😀", b"\x00\xff", "x" * 200_000):
            client.send(message)
            assert client.recv(DEADLINE) == message

        client.close(4001, "that was all")

        assert close_of(client) == (4001, "that was all")


def test_there_is_nothing_at_another_path(echo: Program) -> None:
    with pytest.raises(InvalidStatus) as raised, connect(echo.wait_for(URL)[1] + "other"):
        raise AssertionError("not reached")

    assert raised.value.response.status_code == 404


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_closes_every_connection_and_ends_the_program_cleanly(
    echo: Program, number: signal.Signals
) -> None:
    url = echo.wait_for(URL)[1]
    with connect(url) as busy, connect(url) as idle:
        busy.send("hello")
        assert busy.recv(DEADLINE) == "hello"

        echo.signal(number)

        assert close_of(busy) == (1001, "server shutting down")
        assert close_of(idle) == (1001, "server shutting down")
    assert echo.status() == 0
    assert "Traceback" not in echo.output
