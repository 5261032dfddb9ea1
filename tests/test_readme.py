"""Every Python snippet of the README runs as written, and the commands name what is there."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
SHELL = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(snippet: str, port: int, directory: Path) -> Iterator[subprocess.Popen[str]]:
    path = directory / "snippet.py"
    path.write_text(snippet)
    process = subprocess.Popen([sys.executable, path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        wait_for(port, process)
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def wait_for(port: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None, "the snippet ended"
            assert time.monotonic() < deadline, "the snippet does not listen"
            time.sleep(0.05)
        else:
            return


def close_of(url: str, *messages: str) -> tuple[int, str]:
    with connect(url) as client:
        for message in messages:
            client.send(message)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=10)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def test_the_commands_name_files_that_are_there() -> None:
    run, test = SHELL

    assert (ROOT / run.split()[-1]).is_file()
    assert test.split("/")[-1].strip() == "python -m pytest"


def test_the_robyn_snippet_closes_with_codes_that_the_client_sees(tmp_path: Path) -> None:
    port = free_port()

    with running(PYTHON[0].replace("8080", str(port)), port, tmp_path):
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).read().decode()
        unknown = close_of(f"ws://127.0.0.1:{port}/chat")
        expired = close_of(f"ws://127.0.0.1:{port}/ws", "hello")
        with connect(f"ws://127.0.0.1:{port}/chat?token=secret") as chat:
            chat.send("hello")
            echoed = chat.recv(timeout=10)
        with connect(f"ws://127.0.0.1:{port}/ws?session=ada") as functions:
            functions.send("hello")
            answered = functions.recv(timeout=10)

    assert page == "HTTP is Robyn's, on the same port"
    assert unknown == (1008, "Invalid authentication")
    assert expired == (1008, "Session expired")
    assert (echoed, answered) == ("hello", "ada: hello")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_serve_snippet_runs_on(backend: str, tmp_path: Path) -> None:
    port = free_port()
    snippet = PYTHON[1].replace("8765", str(port)).replace("run(main)", f"run(main, backend={backend!r})")

    with running(snippet, port, tmp_path):
        with pytest.raises(InvalidStatus) as refused, connect(f"ws://127.0.0.1:{port}/rooms/blue"):
            pass
        with connect(f"ws://127.0.0.1:{port}/rooms/blue?token=x") as client:
            client.send('{"a": 1}')
            answer = json.loads(client.recv(timeout=10))

    assert refused.value.response.status_code == 401
    assert answer == {"room": "blue", "you said": {"a": 1}}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_supervisor_snippet_runs_on(backend: str, tmp_path: Path) -> None:
    path = tmp_path / "snippet.py"
    path.write_text(PYTHON[2].replace("run(main)", f"run(main, backend={backend!r})"))

    done = subprocess.run([sys.executable, path], cwd=ROOT, capture_output=True, text=True, timeout=30)

    assert done.returncode == 0, done.stderr
    assert "ticks: 0" in done.stdout
    assert "clock (service): running" in done.stdout
