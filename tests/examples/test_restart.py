"""The restart example as a program of its own: crashes that the client's socket does not notice."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from websockets.sync.client import connect

from tests.programs import ROOT, Program, close_of, program
from tests.raw import DEADLINE

URL = r"(ws://127\.0\.0\.1:\d+/)"


@pytest.fixture(params=["asyncio", "trio"])
def restart(request: pytest.FixtureRequest) -> Iterator[Program]:
    with program(ROOT / "examples" / "restart.py", "--port", "0", "--backend", request.param) as started:
        yield started


def test_the_sum_goes_on_after_a_message_that_crashes(restart: Program) -> None:
    with connect(restart.wait_for(URL)[1]) as client:
        for message in ("1", "two", "3", "", "5"):
            client.send(message)
        assert [client.recv(DEADLINE) for _ in range(3)] == ["1", "4", "9"]
        assert client.ping().wait(DEADLINE)

        client.close()

        assert close_of(client) == (1000, "")
    restart.wait_for(r"(?s)restarted after ValueError.*restarted after ValueError")
    assert restart.output.count("restarted after ValueError") == 2


def test_a_crash_of_one_sum_is_none_of_another(restart: Program) -> None:
    url = restart.wait_for(URL)[1]
    with connect(url) as client, connect(url) as other:
        client.send("crash")
        for number, total in (("1", "1"), ("2", "3")):
            client.send(number)
            other.send(number)
            assert client.recv(DEADLINE) == other.recv(DEADLINE) == total


def test_one_crash_too_many_closes_with_1011_and_tells_no_detail(restart: Program) -> None:
    with connect(restart.wait_for(URL)[1]) as client:
        for _ in range(6):
            client.send("crash")

        assert close_of(client) == (1011, "")
    assert restart.output.count("restarted after ValueError") == 5


def test_a_signal_ends_the_program_cleanly(restart: Program) -> None:
    with connect(restart.wait_for(URL)[1]) as client:
        restart.signal(signal.SIGINT)

        assert close_of(client) == (1001, "server shutting down")
    assert restart.status() == 0
    assert "Traceback" not in restart.output
