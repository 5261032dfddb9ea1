"""The rooms example as a program of its own: what crashes, and who lives on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.programs import ROOT, Program, close_of, program
from tests.raw import DEADLINE

URL = r"(ws://127\.0\.0\.1:\d+/)"


@pytest.fixture(params=["asyncio", "trio"])
def rooms(request: pytest.FixtureRequest) -> Iterator[Program]:
    with program(ROOT / "examples" / "rooms.py", "--port", "0", "--backend", request.param) as started:
        yield started


@contextmanager
def member(rooms: Program) -> Iterator[ClientConnection]:
    with connect(rooms.wait_for(URL)[1]) as client:
        assert hear(client) == "* you are in the room"
        yield client


def hear(*members: ClientConnection) -> str:
    """The next line, which every member gets."""
    (line,) = {str(client.recv(DEADLINE)) for client in members}
    return line


def test_a_crash_of_the_room_leaves_the_connections_and_the_history(rooms: Program) -> None:
    with member(rooms) as ada, member(rooms) as bob:
        ada.send("hello")
        assert hear(ada, bob) == "1. hello"

        bob.send("crash room")
        assert hear(ada, bob) == "* the room is gone"
        assert hear(ada, bob) == "* you are in the room"

        bob.send("hello again")
        assert hear(ada, bob) == "2. hello again"
        with member(rooms) as eve:
            eve.send("and hello from me")
            assert hear(ada, bob, eve) == "3. and hello from me"


def test_a_crash_of_the_history_takes_the_room_with_it_and_no_connection(rooms: Program) -> None:
    with member(rooms) as ada, member(rooms) as bob:
        ada.send("hello")
        assert hear(ada, bob) == "1. hello"

        ada.send("crash history")
        assert hear(ada, bob) == "* the room is gone"
        assert hear(ada, bob) == "* you are in the room"

        ada.send("hello again")
        assert hear(ada, bob) == "1. hello again"


def test_who_leaves_holds_up_nobody(rooms: Program) -> None:
    with member(rooms) as ada:
        with member(rooms) as bob:
            bob.send("goodbye")
            assert hear(ada, bob) == "1. goodbye"
        ada.send("alone")
        assert hear(ada) == "2. alone"


def test_a_signal_ends_the_program_cleanly(rooms: Program) -> None:
    with member(rooms) as ada:
        rooms.signal(signal.SIGTERM)

        assert close_of(ada) == (1001, "server shutting down")
    assert rooms.status() == 0
    assert "Traceback" not in rooms.output
