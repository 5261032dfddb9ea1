"""A program in a process of its own: started, waited for by what it prints, ended by its id."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.raw import DEADLINE

ROOT = Path(__file__).parent.parent

START_TIMEOUT = 120.0
"""Seconds that a program may take to start on a machine that has much else to do."""

SERVING = r"serving HTTP and WebSockets at https?://127\.0\.0\.1:(\d+)"
"""What ``supervisor.robyn`` logs when the server is there."""


class Program:
    """A running program; made by ``program``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.output = ""
        """What it has written so far, to stdout and stderr."""
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.output += line
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until ``pattern`` is in the output, and give what it matched."""
        with self._news:
            self._news.wait_for(
                lambda: re.search(pattern, self.output) or not self._reader.is_alive(), START_TIMEOUT
            )
            found = re.search(pattern, self.output)
        assert found, f"{pattern!r} is not in the output:\n{self.output}"
        return found

    def port(self, pattern: str = SERVING) -> int:
        """Wait until the program says on which port it serves."""
        return int(self.wait_for(pattern)[1])

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def status(self) -> int:
        """Wait for the end of the program and give its exit status; negative for a signal."""
        try:
            status = self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.output}") from None
        self._reader.join(DEADLINE)
        return status


@contextmanager
def program(script: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Program]:
    """Run a Python script; afterwards it is gone, whatever happened."""
    process = subprocess.Popen(
        [sys.executable, str(script), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(environment or {})},
    )
    running = Program(process)
    try:
        yield running
    finally:
        process.kill()
        process.wait()
        running._reader.join(DEADLINE)
        assert process.stdout is not None
        process.stdout.close()


def alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children_of(pid: int) -> set[int]:
    """The processes that the main thread of a process has started."""
    return {int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def close_of(client: ClientConnection) -> tuple[int, str]:
    """Read to the end, and give code and reason of the server's Close frame."""
    with suppress(ConnectionClosed):
        while True:
            client.recv(DEADLINE)
    assert client.protocol.close_rcvd is not None, "no Close frame came"
    return client.protocol.close_rcvd.code, client.protocol.close_rcvd.reason
