"""How a Robyn app ends: what its WebSockets, its HTTP clients and its balancer see of the drain."""

from __future__ import annotations

import contextlib
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from supervisor import Drain
from tests.programs import close_of
from tests.raw import DEADLINE, RawClient
from tests.robyn_apps import APP, TWO_PORTS, ask, http_connection, running

asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])

SLOWLY = APP.replace("drain=Drain(spread=0)", "drain=Drain(within=3600, spread=3600, hurry=3600)")
"""A drain that takes an hour, unless somebody hurries it."""
PORT = r"WebSockets at (?:http|ws)s?://127\.0\.0\.1:(\d+)"


def status_of(port: int, path: str) -> int:
    with http_connection(port) as connection:
        return ask(connection, "GET", path)[0]


# -- the signals -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_closes_at_once_what_waits_for_its_time(
    tmp_path: Path, number: signal.Signals
) -> None:
    with running(tmp_path, SLOWLY) as app, contextlib.ExitStack() as stack:
        url = f"ws://127.0.0.1:{app.port()}/echo"
        clients = [stack.enter_context(connect(url)) for _ in range(3)]

        app.signal(number)
        app.wait_for(f"{number.name}: draining")
        clients[0].send("still here")
        assert clients[0].recv(DEADLINE) == "still here"
        app.signal(number)

        assert [close_of(client) for client in clients] == [(1012, "service restart")] * 3
        assert app.status() == 0
        assert "3 clean, 0 timed out, 0 aborted" in app.output


@asyncio_only
async def test_the_second_signal_shortens_the_deadline(tmp_path: Path) -> None:
    script = SLOWLY.replace("hurry=3600", "hurry=0.1")
    with running(tmp_path, script, CLOSE="3600") as app:
        silent = await RawClient.dial(app.port())
        assert await silent.request("/ws") == 101

        app.signal(signal.SIGTERM)
        app.wait_for("SIGTERM: draining")
        app.signal(signal.SIGTERM)

        assert (await silent.frame()).close == (1012, "service restart")
        assert app.status() == 0
        assert "0 clean, 0 timed out, 1 aborted" in app.output
        assert "the app ends 0" in app.output
        silent.close()


@asyncio_only
async def test_the_third_signal_drops_everything(tmp_path: Path) -> None:
    with running(tmp_path, SLOWLY, CLOSE="3600") as app:
        silent = await RawClient.dial(app.port())
        assert await silent.request("/ws") == 101

        app.signal(signal.SIGINT)
        app.wait_for("SIGINT: draining; once more leaves 3600 s, a third time drops all")
        app.signal(signal.SIGINT)
        app.wait_for("SIGINT again: 1 connections have 3600 s")
        app.signal(signal.SIGINT)

        assert app.status() == 0
        assert "SIGINT again: dropping 1 connections" in app.output
        assert "the app ends 1" in app.output
        silent.close()


def test_without_a_drain_the_signal_closes_with_1001_at_once(tmp_path: Path) -> None:
    with running(tmp_path, APP.replace("Drain(spread=0)", "None")) as app:
        with connect(f"ws://127.0.0.1:{app.port()}/ws") as client:
            app.signal(signal.SIGTERM)

            assert close_of(client) == (1001, "server shutting down")
        assert app.status() == 0


@asyncio_only
async def test_without_a_drain_the_second_signal_drops_everything(tmp_path: Path) -> None:
    with running(tmp_path, APP.replace("Drain(spread=0)", "None"), CLOSE="3600") as app:
        silent = await RawClient.dial(app.port())
        assert await silent.request("/ws") == 101

        app.signal(signal.SIGINT)
        app.wait_for("SIGINT: closing 1 connections; another one drops them")
        app.signal(signal.SIGINT)

        assert app.status() == 0
        assert "SIGINT again: dropping 1 connections" in app.output
        silent.close()


def test_code_reason_and_notice_of_the_drain_are_the_apps(tmp_path: Path) -> None:
    script = APP.replace("spread=0", "spread=0, code=4001, reason='moved', notice='we move'")
    with running(tmp_path, script) as app, connect(f"ws://127.0.0.1:{app.port()}/ws") as client:
        app.signal(signal.SIGTERM)
        assert client.recv(DEADLINE) == "we move"
        app.wait_for("SIGTERM: draining")
        app.signal(signal.SIGTERM)  # does not wait for the client to go by itself

        assert close_of(client) == (4001, "moved")
        assert app.status() == 0


# -- what is refused and what goes on while it drains --------------------------------------------


@pytest.mark.parametrize("script", [SLOWLY, TWO_PORTS.replace("spread=0", "within=3600, spread=3600")])
def test_while_it_drains_it_is_not_ready_refuses_upgrades_and_serves_the_open_ones(
    tmp_path: Path, script: str
) -> None:
    with running(tmp_path, script) as app:
        port = app.port(PORT)
        assert status_of(port, "/-/ready") == 200
        with connect(f"ws://127.0.0.1:{port}/echo") as client:
            app.signal(signal.SIGTERM)
            app.wait_for("drain: closing 1 connections")

            assert status_of(port, "/-/ready") == 503
            with pytest.raises(InvalidStatus) as refused, connect(f"ws://127.0.0.1:{port}/echo"):
                pass
            assert refused.value.response.status_code == 503
            assert "Retry-After" in refused.value.response.headers
            client.send("hello")
            assert client.recv(DEADLINE) == "hello"


def test_http_goes_on_while_it_drains_and_each_answer_is_the_last_of_its_connection(tmp_path: Path) -> None:
    with running(tmp_path, SLOWLY) as app, http_connection(app.port()) as kept:
        assert ask(kept, "GET", "/")[0] == 200
        with connect(f"ws://127.0.0.1:{app.port()}/echo"):
            app.signal(signal.SIGTERM)
            app.wait_for("drain: closing 1 connections")

            for connection in (kept, None):  # one that was open before, and a new one
                with contextlib.nullcontext(connection) if connection else http_connection(app.port()) as one:
                    one.request("GET", "/async")
                    response = one.getresponse()
                    assert response.read() == b"hello from the event loop"
                    assert response.getheader("Connection") == "close"


def test_an_answer_that_is_not_ready_yet_is_waited_for(tmp_path: Path) -> None:
    script = APP.replace("time.sleep(0.3)", "print('slow begins', flush=True); time.sleep(0.3)")
    with running(tmp_path, script) as app, http_connection(app.port()) as connection:
        connection.request("GET", "/slow")
        app.wait_for("slow begins")

        app.signal(signal.SIGTERM)

        assert connection.getresponse().read() == b"slow"
        assert app.status() == 0


def test_a_kept_connection_that_is_quiet_does_not_hold_up_the_exit(tmp_path: Path) -> None:
    script = APP.replace("spread=0", "within=3600, spread=0")
    with running(tmp_path, script) as app, http_connection(app.port()) as connection:
        ask(connection, "GET", "/")

        app.signal(signal.SIGTERM)

        assert app.status() == 0
        assert connection.sock is not None
        assert connection.sock.recv(1) == b""


def test_answers_that_never_end_are_dropped_at_the_deadline(tmp_path: Path) -> None:
    script = APP.replace("time.sleep(0.3)", "print('slow begins', flush=True); time.sleep(3600)").replace(
        "spread=0", "within=0.2, spread=0"
    )
    with running(tmp_path, script) as app, http_connection(app.port()) as connection:
        connection.request("GET", "/slow")
        app.wait_for("slow begins")

        app.signal(signal.SIGTERM)

        with pytest.raises(ConnectionError):
            connection.getresponse()
        assert app.status() == 0


# -- readiness -----------------------------------------------------------------------------------


def test_readiness_is_answered_behind_other_requests_of_a_kept_connection(tmp_path: Path) -> None:
    with running(tmp_path, APP) as app, http_connection(app.port()) as connection:
        assert ask(connection, "GET", "/")[0] == 200
        used = connection.sock

        assert ask(connection, "GET", "/-/ready") == (200, b"ready\n")

        assert used is not None


@pytest.mark.parametrize(
    ("option", "expected"),
    [("ready_path=None", {"/-/ready": 404, "/up": 404}), ("ready_path='/up'", {"/-/ready": 404, "/up": 200})],
)
def test_the_path_of_readiness_is_an_option(tmp_path: Path, option: str, expected: dict[str, int]) -> None:
    with running(tmp_path, APP.replace("spread=0)", f"spread=0), {option}")) as app:
        assert {path: status_of(app.port(), path) for path in expected} == expected


# -- drain by the app ------------------------------------------------------------------------------

BY_THE_APP = APP.replace(
    '@app.post("/stop")',
    """@app.get("/drain")
async def drain():
    report = await sockets.drain(within=10, spread=0, code=4001, reason="maintenance")
    return f"{report.total} {report.clean} {sockets.ready}"

@app.get("/drain-in-a-thread")
def drain_in_a_thread():
    try:
        sockets.drain().send(None)
    except RuntimeError as error:
        return str(error)

@app.post("/stop")""",
)


def test_an_async_handler_drains_and_the_app_goes_on_without_websockets(tmp_path: Path) -> None:
    with running(tmp_path, BY_THE_APP) as app, http_connection(app.port()) as connection:
        with connect(f"ws://127.0.0.1:{app.port()}/echo") as client:
            closes = []
            reader = threading.Thread(target=lambda: closes.append(close_of(client)))
            reader.start()

            assert ask(connection, "GET", "/drain") == (200, b"1 1 False")

            reader.join(DEADLINE)
            assert closes == [(4001, "maintenance")]
        assert ask(connection, "GET", "/") == (200, b"hello")


def test_a_plain_handler_is_told_that_it_cannot_drain(tmp_path: Path) -> None:
    with running(tmp_path, BY_THE_APP) as app, http_connection(app.port()) as connection:
        status, text = ask(connection, "GET", "/drain-in-a-thread")

        assert (status, text) == (200, b"drain: runs on Robyn's event loop; await it in an async handler")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"within": -1}, "within: seconds, zero or more, not -1"),
        ({"spread": None}, "spread: seconds, zero or more, not None"),
        ({"hurry": "5"}, "hurry: seconds, zero or more, not '5'"),
        ({"code": 1006}, "1006"),
        ({"reason": "x" * 124}, "123"),
    ],
)
def test_a_drain_that_cannot_be_is_an_error_that_names_the_option(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Drain(**options)
