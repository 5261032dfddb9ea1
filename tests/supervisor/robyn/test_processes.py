"""Several processes on one port: who serves, who is replaced, and how all of them end."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from websockets.sync.client import connect

from supervisor.robyn.ports import bind_places, close_places
from supervisor.robyn.processes import VARIABLE
from tests.programs import Program, children_of, close_of
from tests.raw import DEADLINE
from tests.robyn_apps import APP, TWO_PORTS, ask, http_connection, running

with patch.object(sys, "argv", sys.argv[:1]):  # Robyn reads the arguments of the process
    from robyn import Robyn
    from robyn.argument_parser import Config

    from supervisor.robyn import supervise

PID = """
@app.get("/pid")
def pid():
    return str(os.getpid())

@app.get("/environment")
def environment():
    return str(os.environ.get("SUPERVISOR_PROCESS"))

@app.post("/exit")
def exit(request: Request):
    os._exit(int(request.body))

sockets.start("""
TWO = APP.replace("sockets.start(", PID).replace("spread=0)", "spread=0), processes=2")


@contextmanager
def serving(directory: Path, script: str = TWO, *arguments: str) -> Iterator[Program]:
    """An app whose processes all serve."""
    with running(directory, script, *arguments) as app:
        app.wait_for("2 processes serve")
        yield app
        if app.process.poll() is None:
            app.signal(signal.SIGTERM)
            app.status()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """One app for the tests that leave it at work, with other processes perhaps."""
    with serving(tmp_path_factory.mktemp("app")) as started:
        yield started


def pid_of_one(port: int) -> int:
    """The process that a new connection comes to."""
    with http_connection(port) as connection:
        return int(ask(connection, "GET", "/pid")[1])


def pids(port: int, count: int = 2) -> set[int]:
    """The processes that serve, once there are ``count`` of them."""
    found: set[int] = set()
    deadline = time.monotonic() + DEADLINE
    while len(found) < count:
        found.add(pid_of_one(port))
        assert time.monotonic() < deadline, f"no more than {found}"
    return found


# -- serving -----------------------------------------------------------------------------------


def all_serve(app: Program) -> None:
    assert pids(app.port()) == children_of(app.process.pid)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(f"ws://127.0.0.1:{app.port()}/echo")) for _ in range(10)]
        for client in clients:
            client.send("hello")
            assert client.recv(DEADLINE) == "hello"


def test_every_process_serves_http_and_websockets_on_the_one_port(app: Program) -> None:
    all_serve(app)


def test_robyns_flags_say_how_many_processes_and_workers(tmp_path: Path) -> None:
    script = TWO.replace(", processes=2", "")
    with serving(tmp_path, script, "--processes", "2", "--workers", "2") as app:
        all_serve(app)


def test_what_a_process_starts_itself_is_none_of_the_apps_processes(app: Program) -> None:
    for pid in pids(app.port()):
        assert f"{VARIABLE}=".encode() in Path(f"/proc/{pid}/environ").read_bytes()  # when it began
    with http_connection(app.port()) as connection:
        assert ask(connection, "GET", "/environment") == (200, b"None")


def test_with_two_ports_both_are_shared(tmp_path: Path) -> None:
    script = TWO_PORTS.replace("sockets.start(", PID).replace("spread=0)", "spread=0), processes=2")
    with serving(tmp_path, script) as app:
        found = app.wait_for(r"WebSockets at ws://127\.0\.0\.1:(\d+), HTTP by Robyn at http://[\d.]+:(\d+)")

        assert pids(int(found[2])) == children_of(app.process.pid)
        with connect(f"ws://127.0.0.1:{found[1]}/echo") as client:
            client.send("hello")
            assert client.recv(DEADLINE) == "hello"


# -- the end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_every_process_and_the_exit_status_is_0(
    tmp_path: Path, number: signal.Signals
) -> None:
    with serving(tmp_path) as app, contextlib.ExitStack() as stack:
        url = f"ws://127.0.0.1:{app.port()}/ws"
        clients = [stack.enter_context(connect(url)) for _ in range(10)]

        app.signal(number)

        assert [close_of(client) for client in clients] == [(1012, "service restart")] * 10
        assert app.status() == 0
        assert app.output.count("the app ends 0") == 2
        assert "Traceback" not in app.output


def test_when_the_parent_is_killed_the_others_drain_and_end(tmp_path: Path) -> None:
    with serving(tmp_path) as app, connect(f"ws://127.0.0.1:{app.port()}/ws") as client:
        app.signal(signal.SIGKILL)

        assert close_of(client) == (1012, "service restart")
        app.status()  # waits for the end of the output, which the processes share
        assert app.output.count("the parent process is gone: draining") == 2
        assert app.output.count("the app ends 0") == 2


def test_the_app_ends_when_one_process_ends_itself(tmp_path: Path) -> None:
    with serving(tmp_path) as app, http_connection(app.port()) as connection:
        with contextlib.suppress(http.client.HTTPException, OSError):
            ask(connection, "POST", "/stop")

        assert app.status() == 0
        assert "has ended, and with it the program" in app.output


# -- a process that crashes --------------------------------------------------------------------


def test_a_killed_process_is_started_again_and_the_other_never_notices(app: Program) -> None:
    with contextlib.ExitStack() as stack:
        before = pids(app.port())
        clients = [stack.enter_context(connect(f"ws://127.0.0.1:{app.port()}/echo")) for _ in range(20)]
        killed = pid_of_one(app.port())

        os.kill(killed, signal.SIGKILL)

        after = pids(app.port())
        assert before - after == {killed}
        assert f"(pid {killed}) ended with status 137; another one takes its place" in app.output
        alive = 0
        for client in clients:
            with contextlib.suppress(Exception):
                client.send("hello")
                alive += client.recv(DEADLINE) == "hello"
        assert 0 < alive < 20


def test_at_the_restart_limit_the_app_ends_with_the_worst_status(tmp_path: Path) -> None:
    script = TWO.replace("processes=2", "processes=2, restarts=RestartLimit(count=1)").replace(
        "import Drain, ", "import RestartLimit, Drain, "
    )
    with serving(tmp_path, script) as app:
        for ended in range(3):  # one of the two processes is ended for the second time at the latest
            # One that ends before it says that it serves is tried again, and its end is not counted.
            app.wait_for(rf"(?s)(HTTP goes through the pump.*){{{2 + ended}}}|restart limit is reached")
            with contextlib.suppress(http.client.HTTPException, OSError), http_connection(app.port()) as one:
                ask(one, "POST", "/exit", b"7")

        assert app.status() == 7
        assert "ended with status 7; its restart limit is reached" in app.output


def test_a_process_that_does_not_come_to_serve_ends_the_start(tmp_path: Path) -> None:
    script = TWO.replace("async def startup():", "async def startup():\n    raise SystemExit('no database')")
    with running(tmp_path, script) as app:
        assert app.status() == 1
        assert "ended with status 1 before it served" in app.output
        assert "another one" not in app.output


# -- replacement -------------------------------------------------------------------------------


def test_on_sighup_new_processes_with_the_code_on_the_disk_take_the_place_of_the_old(tmp_path: Path) -> None:
    with serving(tmp_path) as app, contextlib.ExitStack() as stack:
        before = pids(app.port())
        url = f"ws://127.0.0.1:{app.port()}/echo"
        clients = [stack.enter_context(connect(url)) for _ in range(10)]
        path = tmp_path / "app.py"
        code = path.read_text()

        path.write_text("raise SystemExit('a bad release')")
        app.signal(signal.SIGHUP)
        app.wait_for("the new process 1 does not serve; the old ones stay")
        clients[0].send("hello")
        assert clients[0].recv(DEADLINE) == "hello"
        assert pids(app.port()) == before

        path.write_text(code.replace('return "hello"\n', 'return "new code"\n'))
        app.signal(signal.SIGHUP)
        assert [close_of(client) for client in clients] == [(1012, "service restart")] * 10
        app.wait_for("2 processes have been replaced")
        assert not pids(app.port()) & before
        with http_connection(app.port()) as connection:
            assert ask(connection, "GET", "/") == (200, b"new code")


def test_no_connection_is_lost_between_two_processes_of_a_place() -> None:
    """What waits in the queue of a listening socket is there for whoever accepts next."""
    places = bind_places("127.0.0.1", 0, 2)
    address = places[0][0].getsockname()
    clients = [socket.create_connection(address) for _ in range(20)]

    copies = [[one.dup() for one in place] for place in places]
    close_places(places)  # as an old process does at its end

    accepted = 0
    for (listener,) in copies:
        with contextlib.suppress(BlockingIOError):
            while True:
                listener.accept()[0].close()
                accepted += 1
    close_places(copies)
    for client in clients:
        client.close()
    assert accepted == 20


# -- what cannot work --------------------------------------------------------------------------


@pytest.fixture
def robyn() -> Robyn:
    with patch.object(sys, "argv", sys.argv[:1]):
        return Robyn(__file__, config=Config())


def test_a_port_in_use_is_an_error_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]

        with pytest.raises(OSError, match=f"port: 127.0.0.1:{port} is in use"):
            bind_places("127.0.0.1", port, 2)


@pytest.mark.parametrize("processes", [0, -1, 1.5, "2", True])
def test_a_number_of_processes_that_cannot_be_is_refused(robyn: Robyn, processes: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="processes: a whole number, at least 1"):
        supervise(robyn).start(port=0, processes=processes)
