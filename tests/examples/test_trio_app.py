"""The trio example as a program of its own, seen by the client of ``websockets``."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.programs import ROOT, Program, close_of, program
from tests.raw import DEADLINE


@pytest.fixture
def market() -> Iterator[Program]:
    with program(ROOT / "examples" / "trio_app.py", "--port", "0", "--pause", "0.005") as started:
        yield started


def subscribe(market: Program, metal: str) -> ClientConnection:
    url = market.wait_for(r"(ws://127\.0\.0\.1:\d+/prices/)gold")[1]
    return connect(url + metal)


def price(client: ClientConnection, metal: str) -> float:
    """The next message, which tells the price of ``metal`` and nothing else."""
    told = json.loads(client.recv(DEADLINE))
    assert list(told) == [metal]
    return float(told[metal])


def test_each_client_gets_the_prices_of_its_own_topic(market: Program) -> None:
    with subscribe(market, "gold") as gold, subscribe(market, "tin") as tin:
        for _ in range(10):
            assert 1000 < price(gold, "gold") < 5000
            assert 10 < price(tin, "tin") < 60


def test_who_asks_for_what_is_not_traded_gets_404(market: Program) -> None:
    with pytest.raises(InvalidStatus) as raised, subscribe(market, "water"):
        raise AssertionError("not reached")

    assert raised.value.response.status_code == 404
    assert raised.value.response.body == b"nobody trades this here\n"


def test_who_talks_back_is_closed_and_the_others_are_not(market: Program) -> None:
    with subscribe(market, "gold") as loud, subscribe(market, "gold") as quiet:
        price(quiet, "gold")

        loud.send('"sell!"')

        assert close_of(loud) == (1003, "prices go one way only")
        price(quiet, "gold")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_the_server_and_ends_the_program_cleanly(
    market: Program, number: signal.Signals
) -> None:
    with subscribe(market, "gold") as gold, subscribe(market, "tin") as tin:
        price(gold, "gold")
        price(tin, "tin")

        market.signal(number)

        assert close_of(gold) == (1012, "the market is closed")
        assert close_of(tin) == (1012, "the market is closed")
    assert market.status() == 0
    market.wait_for(r"DrainReport\(total=2, clean=2, timed_out=0, aborted=0")
    assert "Traceback" not in market.output
