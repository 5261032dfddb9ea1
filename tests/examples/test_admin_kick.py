"""The admin example: HTTP handlers of Robyn, plain and async, see and close WebSockets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.programs import ROOT, Program, close_of, program
from tests.raw import DEADLINE
from tests.robyn_apps import ask, http_connection


@pytest.fixture(scope="module")
def app() -> Iterator[Program]:
    with program(ROOT / "examples" / "admin_kick.py", "--port", "0") as started:
        started.port()
        yield started
        assert "Traceback" not in started.output


@contextmanager
def user(app: Program, name: str) -> Iterator[ClientConnection]:
    """A WebSocket of a user, known to the app: it gets its own message back."""
    with connect(f"ws://127.0.0.1:{app.port()}/users/{name}") as client:
        client.send("here I am")
        while client.recv(DEADLINE) != f"{name}: here I am":
            pass
        yield client


def call(app: Program, method: str, path: str, body: str | None = None) -> dict[str, object]:
    with http_connection(app.port()) as connection:
        status, text = ask(connection, method, path, body)
    assert status == 200, text
    answer: dict[str, object] = json.loads(text)
    return answer


def test_an_admin_closes_every_websocket_of_one_user_with_a_reason(app: Program) -> None:
    with user(app, "bob") as other, user(app, "ada") as first, user(app, "ada") as second:
        assert call(app, "POST", "/users/ada/kick?reason=go+home") == {"kicked": 2}

        assert [close_of(client) for client in (first, second)] == [(4500, "go home")] * 2
        while other.recv(DEADLINE) != "ada was kicked":
            pass


def test_nobody_is_kicked_who_is_not_there(app: Program) -> None:
    assert call(app, "POST", "/users/nobody/kick") == {"kicked": 0}


def test_a_plain_handler_counts_the_connections_that_are_open(app: Program) -> None:
    with user(app, "eve"):
        seen = call(app, "GET", "/users")

    assert seen["users"]["eve"] == 1  # type: ignore[index]
    assert seen["open"] >= 1  # type: ignore[operator]  # those of the other tests may be about to end


def test_an_async_handler_waits_for_the_close(app: Program) -> None:
    with user(app, "joe") as client, http_connection(app.port()) as connection:
        connection.request("POST", "/users/joe/tell", "the server moves")
        while client.recv(DEADLINE) != "the server moves":
            pass

        client.close()

        assert json.loads(connection.getresponse().read()) == {"told": True}
