"""HTTP on one port, by Robyn alone, and the WebSockets on another: the same for their clients."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.programs import Program, close_of
from tests.raw import DEADLINE, RawClient
from tests.robyn_apps import TWO_PORTS, ask, http_connection, running

asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])

SERVING = r"serving WebSockets at ws://127\.0\.0\.1:(\d+), HTTP by Robyn at http://127\.0\.0\.1:(\d+)"


def ports(app: Program) -> tuple[int, int]:
    """The port of the WebSockets, and that of HTTP."""
    found = app.wait_for(SERVING)
    return int(found[1]), int(found[2])


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with running(tmp_path_factory.mktemp("app"), TWO_PORTS) as started:
        ports(started)
        yield started
        assert "Traceback" not in started.output


def test_robyn_answers_http_on_its_port(app: Program) -> None:
    with http_connection(ports(app)[1]) as connection:
        assert ask(connection, "GET", "/") == (200, b"hello")
        assert ask(connection, "POST", "/echo", b"a body") == (200, b"a body")


def test_the_other_port_answers_http_only_to_say_what_it_is_for(app: Program) -> None:
    for path, status in (("/", 404), ("/echo", 426), ("/-/ready", 200)):
        with http_connection(ports(app)[0]) as connection:
            assert ask(connection, "GET", path)[0] == status


def test_websockets_are_served_and_closed_on_the_other_port(app: Program) -> None:
    with connect(f"ws://127.0.0.1:{ports(app)[0]}/rooms/blue") as client:
        client.send(" sky")
        assert client.recv(DEADLINE) == "blue sky"
    with pytest.raises(InvalidStatus), connect(f"ws://127.0.0.1:{ports(app)[0]}/nothing"):
        pass


def test_a_plain_handler_of_robyn_sends_to_websockets(app: Program) -> None:
    websocket_port, http_port = ports(app)
    with connect(f"ws://127.0.0.1:{websocket_port}/ws") as client, http_connection(http_port) as connection:
        while ask(connection, "POST", "/tell", b"news") == (200, b"0"):
            pass

        assert client.recv(DEADLINE) == "news"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_the_process_exits_0(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path, TWO_PORTS) as app, contextlib.ExitStack() as stack:
        url = f"ws://127.0.0.1:{ports(app)[0]}/ws"
        clients = [stack.enter_context(connect(url)) for _ in range(5)]

        app.signal(number)

        assert [close_of(client) for client in clients] == [(1012, "service restart")] * 5
        assert app.status() == 0
        assert "the app ends 0" in app.output


@asyncio_only
async def test_a_peer_that_does_not_answer_holds_up_the_exit_for_the_close_timeout_only(
    tmp_path: Path,
) -> None:
    with running(tmp_path, TWO_PORTS, CLOSE="0.2") as app:
        silent = await RawClient.dial(ports(app)[0])
        assert await silent.request("/ws") == 101

        app.signal(signal.SIGTERM)

        assert (await silent.frame()).close == (1012, "service restart")
        assert app.status() == 0
        assert "0 clean, 1 timed out" in app.output
        silent.close()


SLOW = TWO_PORTS.replace("time.sleep(0.3)", "print('slow begins', flush=True); time.sleep(0.3)")


def test_an_answer_that_is_not_ready_yet_is_waited_for(tmp_path: Path) -> None:
    with running(tmp_path, SLOW) as app, http_connection(ports(app)[1]) as connection:
        connection.request("GET", "/slow")
        app.wait_for("slow begins")

        app.signal(signal.SIGTERM)

        assert connection.getresponse().read() == b"slow"
        assert app.status() == 0


def test_a_kept_connection_that_waits_for_nothing_does_not_hold_up_the_exit(tmp_path: Path) -> None:
    script = TWO_PORTS.replace("spread=0", "within=3600, spread=0")
    with running(tmp_path, script) as app, http_connection(ports(app)[1]) as connection:
        for _ in range(2):
            ask(connection, "GET", "/slow")

        app.signal(signal.SIGTERM)

        assert app.status() == 0


def test_answers_that_never_come_are_dropped_at_the_deadline(tmp_path: Path) -> None:
    script = SLOW.replace("time.sleep(0.3)", "time.sleep(3600)").replace("spread=0", "within=0.2, spread=0")
    with running(tmp_path, script) as app, http_connection(ports(app)[1]) as connection:
        connection.request("GET", "/slow")
        app.wait_for("slow begins")

        app.signal(signal.SIGTERM)

        with pytest.raises(ConnectionError):
            connection.getresponse()
        assert app.status() == 0


def test_the_log_warns_when_others_can_reach_robyn_itself(tmp_path: Path, app: Program) -> None:
    assert "nothing protects Robyn" not in app.output
    script = TWO_PORTS.replace("port=0, websocket_port=0", "host='0.0.0.0', port=0, websocket_port=0")
    with running(tmp_path, script) as exposed:
        exposed.wait_for("websocket_port: nothing protects Robyn at 0.0.0.0:")
