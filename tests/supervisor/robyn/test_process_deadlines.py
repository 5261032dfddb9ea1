"""Processes that hang, are stopped or cannot be started: what the others and the clients see of it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import sys
import threading
import time
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.programs import Program, alive, children_of, close_of
from tests.robyn_apps import APP, running
from tests.supervisor.robyn.test_processes import TWO, pid_of_one, pids, serving

IMPATIENT = TWO.replace("Drain(spread=0)", "Drain(within=0.5, spread=0), answer_within=2, end_within=0.5")
"""Processes that are given up soon."""

ELSEWHERE = TWO.replace("import os, time", "import os, sys, time\nsys.executable = os.environ['PYTHON']")
"""Processes of an interpreter that the test can take away."""


def interpreter(directory: Path) -> Path:
    path = directory / "interpreter"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@contextlib.contextmanager
def stopped(pid: int) -> object:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def client_of(pid: int, port: int, stack: contextlib.ExitStack) -> ClientConnection:
    """A WebSocket of one process."""
    while True:
        client = stack.enter_context(connect(f"ws://127.0.0.1:{port}/pid"))
        if int(client.recv()) == pid:
            return client


def with_pid(script: str) -> str:
    """The app, with a WebSocket that says in which process it is."""
    return script.replace(
        "sockets.start(",
        'who = sockets.websocket("/pid")\nwho.on("connect")(lambda ws: str(os.getpid()))\nsockets.start(',
    )


# -- a process that does not answer ------------------------------------------------------------


def test_a_stopped_process_loses_its_place_and_drains_when_it_goes_on(tmp_path: Path) -> None:
    script = with_pid(IMPATIENT).replace("end_within=0.5", "end_within=60")
    with serving(tmp_path, script) as app, contextlib.ExitStack() as stack:
        port = app.port()
        before = pids(port)
        victim = pid_of_one(port)
        client = client_of(victim, port, stack)

        with stopped(victim):
            app.wait_for(rf"\(pid {victim}\) has not answered for 2 s \(answer_within\); another one takes")
            assert len(pids(port) - before) == 1  # asks until both answer: nobody waits for the stopped one
            assert alive(victim)

        assert close_of(client) == (1012, "service restart")
        app.wait_for("another process takes the place of this one: draining")


def test_no_connection_that_waits_at_a_stopped_process_is_lost(tmp_path: Path) -> None:
    with serving(tmp_path, IMPATIENT) as app:
        port = app.port()
        victim = pid_of_one(port)
        answers: list[int] = []

        with stopped(victim):
            askers = [threading.Thread(target=lambda: answers.append(pid_of_one(port))) for _ in range(20)]
            for asker in askers:
                asker.start()
            for asker in askers:
                asker.join()

        assert len(answers) == 20
        assert victim not in answers


def test_a_process_that_was_replaced_and_stays_stopped_is_killed(tmp_path: Path) -> None:
    with serving(tmp_path, IMPATIENT) as app:
        victim = pid_of_one(app.port())

        with stopped(victim):
            app.wait_for(rf"\(pid {victim}\) has not ended within 6 s and is killed")
            while alive(victim):
                time.sleep(0.01)

        assert victim not in pids(app.port())


def test_a_process_that_answers_again_before_another_one_serves_keeps_its_place(tmp_path: Path) -> None:
    with serving(tmp_path, IMPATIENT) as app, contextlib.ExitStack() as stack:
        port = app.port()
        before = pids(port)
        victim = pid_of_one(port)
        (tmp_path / "app.py").write_text("raise SystemExit('a bad release')")

        with stopped(victim):
            app.wait_for("the new process . does not serve; the old ones stay")

        assert pids(port) == before
        client = stack.enter_context(connect(f"ws://127.0.0.1:{port}/echo"))
        client.send("hello")
        assert client.recv() == "hello"


def test_a_parent_that_was_stopped_condemns_nobody(tmp_path: Path) -> None:
    with serving(tmp_path, IMPATIENT) as app:
        before = pids(app.port())

        with stopped(app.process.pid):
            time.sleep(4)  # twice the time that a process has
        time.sleep(3)

        assert pids(app.port()) == before
        assert "has not answered" not in app.output


# -- a start that takes too long ---------------------------------------------------------------


def test_a_release_that_hangs_in_its_start_is_ended_and_the_next_sighup_works(tmp_path: Path) -> None:
    script = TWO.replace("processes=2", "processes=2, ready_within=8")
    with serving(tmp_path, script) as app:
        before = pids(app.port())
        path = tmp_path / "app.py"

        path.write_text("import signal, time\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(3600)")
        app.signal(signal.SIGHUP)
        app.wait_for(r"process 1 \(pid \d+\) is not ready within 8 s \(ready_within\) and is ended")
        app.wait_for(r"process 1 \(pid \d+\) has not ended within 5 s and is killed")
        app.wait_for("the new process 1 does not serve; the old ones stay")
        assert pids(app.port()) == before

        path.write_text(script)
        app.signal(signal.SIGHUP)
        app.wait_for("2 processes have been replaced")
        assert not pids(app.port()) & before


def test_an_app_that_hangs_in_its_first_start_is_an_error(tmp_path: Path) -> None:
    script = TWO.replace("processes=2", "processes=2, ready_within=0.5").replace(
        "async def startup():", "async def startup():\n    time.sleep(3600)"
    )
    with running(tmp_path, script) as app:
        assert app.status() == 128 + signal.SIGTERM
        assert "is not ready within 0.5 s (ready_within) and is ended" in app.output


# -- a start that the machine refuses ----------------------------------------------------------


def test_a_replacement_that_cannot_be_started_changes_nothing(tmp_path: Path) -> None:
    python = interpreter(tmp_path)
    with running(tmp_path, ELSEWHERE, PYTHON=str(python)) as app:
        app.wait_for("2 processes serve")
        before = pids(app.port())
        python.rename(tmp_path / "away")

        app.signal(signal.SIGHUP)
        app.wait_for("the new process 1 cannot be started; the old ones stay: .*No such file")
        assert pids(app.port()) == before

        app.signal(signal.SIGTERM)
        assert app.status() == 0
        assert "Traceback" not in app.output


def test_a_killed_process_follows_as_soon_as_one_can_be_started_and_the_other_lives(tmp_path: Path) -> None:
    python = interpreter(tmp_path)
    with running(tmp_path, ELSEWHERE, PYTHON=str(python)) as app:
        app.wait_for("2 processes serve")
        before = pids(app.port())
        python.rename(tmp_path / "away")
        killed = pid_of_one(app.port())

        os.kill(killed, signal.SIGKILL)
        for _ in range(6):  # more often than the restart limit allows
            app.wait_for("cannot be started, which is tried again: .*No such file")
            app.output = app.output.replace("which is tried again", "and", 1)
        assert children_of(app.process.pid) == before - {killed}
        (tmp_path / "away").rename(python)

        assert len(pids(app.port()) - before) == 1
        app.signal(signal.SIGTERM)
        assert app.status() == 0


def test_an_app_whose_processes_cannot_be_started_at_all_ends_with_status_1(tmp_path: Path) -> None:
    with running(tmp_path, ELSEWHERE, PYTHON=str(tmp_path / "nothing")) as app:
        assert app.status() == 1
        assert "process 1 cannot be started: " in app.output
        assert "Traceback" not in app.output


def test_bad_code_on_the_disk_does_not_end_the_healthy_process_beside_a_killed_one(tmp_path: Path) -> None:
    script = TWO.replace("processes=2", "processes=2, restarts=RestartLimit(count=1)").replace(
        "import Drain, ", "import RestartLimit, Drain, "
    )
    with serving(tmp_path, script) as app:
        before = pids(app.port())
        path = tmp_path / "app.py"
        path.write_text("raise SystemExit('a bad release')")
        killed = pid_of_one(app.port())

        os.kill(killed, signal.SIGKILL)
        for _ in range(3):
            app.wait_for("ended with status 1 before it served; it is tried again")
            app.output = app.output.replace("it is tried again", "", 1)
        app.wait_for("process . is missing: new connections are left to the others meanwhile")
        assert {pid_of_one(app.port()) for _ in range(20)} == before - {killed}
        path.write_text(script)

        assert len(pids(app.port()) - before) == 1


# -- the end -----------------------------------------------------------------------------------


def test_a_stopped_process_does_not_keep_the_program_from_its_end(tmp_path: Path) -> None:
    with serving(tmp_path, IMPATIENT.replace("answer_within=2", "answer_within=None")) as app:
        victim = pid_of_one(app.port())

        with stopped(victim):
            app.signal(signal.SIGTERM)
            assert app.status() == 128 + signal.SIGKILL

        assert f"(pid {victim}) has not ended within 6 s and is killed" in app.output
        assert app.output.count("the app ends 0") == 1


def test_a_second_signal_shortens_the_wait_for_a_stopped_process(tmp_path: Path) -> None:
    script = TWO.replace("Drain(spread=0)", "Drain(within=3600, spread=0, hurry=0.5), end_within=0.5")
    with serving(tmp_path, script) as app:
        with stopped(pid_of_one(app.port())):
            app.signal(signal.SIGTERM)
            app.wait_for("the app ends 0")
            app.signal(signal.SIGTERM)
            assert app.status() == 128 + signal.SIGKILL

        assert "has not ended within 6 s and is killed" in app.output


SWALLOWS = """
import asyncio, threading

async def swallow():
    print("swallowing", flush=True)
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

@sockets.route("/hook")
class Hook(ConnectionActor):
    async def on_message(self, message):
        await swallow()

@sockets.route("/task")
class Task(ConnectionActor):
    async def on_message(self, message):
        self.spawn(swallow)

@sockets.route("/upgrade")
class Upgrade(ConnectionActor):
    @classmethod
    async def on_upgrade(cls, request):
        await swallow()

@sockets.route("/blocking")
class Blocking(ConnectionActor):
    async def on_message(self, message):
        print("swallowing", flush=True)

    async def on_close(self, report):
        time.sleep(3600)

sockets.start("""
SOON_OVER = APP.replace("sockets.start(", SWALLOWS).replace(
    "Drain(spread=0)", "Drain(within=0.3, spread=0), end_within=0.7"
)


@pytest.mark.parametrize("where", ["hook", "task", "upgrade"])
@pytest.mark.parametrize("drained", [True, False])
def test_a_process_whose_code_swallows_cancellation_names_it_and_ends(
    tmp_path: Path, where: str, drained: bool
) -> None:
    script = SOON_OVER if drained else SOON_OVER.replace("Drain(within=0.3, spread=0)", "None")
    with running(tmp_path, script, CLOSE="0.3") as app:
        ask_for(where, app)

        app.signal(signal.SIGTERM)

        line = script[: script.index("await asyncio.sleep(3600)")].count("\n") + 1
        if app.status() == 1:
            assert "the process has not ended in time (end_within) and is ended; task " in app.output
            assert f"waits at swallow ({tmp_path}/app.py:{line})" in app.output
        else:  # the server has left it behind in time
            assert re.search(rf"is left behind, .*{tmp_path}/app\.py:{line} in swallow", app.output), (
                app.output
            )


def test_a_process_whose_event_loop_is_blocked_at_the_end_names_it_and_ends(tmp_path: Path) -> None:
    with running(tmp_path, SOON_OVER) as app:
        ask_for("blocking", app)

        app.signal(signal.SIGTERM)

        assert app.status() == 1
        assert f"the event loop is held by Blocking.on_close ({tmp_path}/app.py:" in app.output


def test_a_process_whose_shutdown_handler_blocks_names_it_and_ends(tmp_path: Path) -> None:
    script = SOON_OVER.replace("def shutdown():", "def shutdown():\n    time.sleep(3600)")
    with running(tmp_path, script) as app:
        app.port()

        app.signal(signal.SIGTERM)

        assert app.status() == 1
        assert f"the event loop is held by shutdown ({tmp_path}/app.py:" in app.output


def test_a_process_that_swallows_the_word_of_its_parent_names_it_too(tmp_path: Path) -> None:
    with running(tmp_path, SOON_OVER.replace("end_within", "processes=2, end_within")) as app:
        app.wait_for("2 processes serve")
        ask_for("task", app)

        app.signal(signal.SIGTERM)

        assert app.status() == 1
        assert "waits at swallow" in app.output
        assert "is killed" not in app.output


def ask_for(where: str, app: Program) -> None:
    """Let the app do what never ends."""
    port = app.port()

    def talk() -> None:
        with contextlib.suppress(Exception), connect(f"ws://127.0.0.1:{port}/{where}") as client:
            client.send("go")
            client.recv()

    threading.Thread(target=talk, daemon=True).start()
    app.wait_for("swallowing")


def test_a_start_that_raises_leaves_the_program_alone(tmp_path: Path) -> None:
    script = APP.replace("async def startup():", "async def startup():\n    raise ValueError('no database')")
    begin, _, start = script.rpartition("sockets.start(")
    script = f"{begin}\ntry:\n    sockets.start(end_within=0.1, {start.strip()}\nexcept ValueError:\n"
    script += "    time.sleep(2)\n    print('it goes on', flush=True)\n    os._exit(0)\n"
    with running(tmp_path, script) as app:
        assert app.status() == 0
        assert "it goes on" in app.output
