"""The programs of a benchmark: started, pinned to a core, weighed, ended."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
SOURCE = Path(__file__).parent / "load.c"
START_TIMEOUT = 20.0
"""Seconds that a server has to listen."""

CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]


def allow_many_descriptors() -> None:
    """Raise the soft limit of descriptors, for this process and those it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def build_load(folder: Path) -> Path:
    """Compile the load generator into ``folder``."""
    program = folder / "load"
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", str(program), str(SOURCE)], check=True)
    return program


def pinned(
    core: int | None, command: Sequence[str], *, root: Path = ROOT, **options: Any
) -> subprocess.Popen[str]:
    """Start ``command`` with the code at ``root``, on ``core`` or anywhere, in a process group of its own."""
    # Not taskset: what it leaves in between would count as the server's first child.
    return subprocess.Popen(
        command,
        cwd=root,
        text=True,
        start_new_session=True,
        preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
        **options,
    )


class Server:
    """A server at work, with all its processes."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process = process
        self.port = port

    @property
    def pids(self) -> list[int]:
        """Its processes."""
        found = [self._process.pid]
        for pid in found:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                found += map(int, children.read_text().split())
        return found

    def memory(self) -> float:
        """Bytes that it has in memory, what processes share counted once."""
        kib = 0
        for pid in self.pids:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    kib += int(line.split()[1])
        return kib * 1024.0


@contextmanager
def server(
    module: str, arguments: Sequence[str], *, core: int | None = SERVER_CORE, root: Path = ROOT
) -> Iterator[Server]:
    """Run the server of ``tests.benchmarks.servers`` on a free port; afterwards it is gone."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", f"tests.benchmarks.servers.{module}", str(port), *arguments]
    with tempfile.TemporaryFile("w+") as log:
        process = pinned(core, command, root=root, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            if not _listens(port, process):
                log.seek(0)
                raise RuntimeError(f"the server does not listen:\n{log.read()}")
            yield Server(process, port)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _listens(port: int, process: subprocess.Popen[str]) -> bool:
    """Wait until ``port`` is open; tell whether it is."""
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return True
        time.sleep(0.02)
    return False


class Load:
    """The load generator."""

    def __init__(self, program: Path) -> None:
        self._program = program

    def _command(self, work: str, server: Server, options: Sequence[str]) -> list[str]:
        pids = [argument for pid in server.pids for argument in ("--pid", str(pid))]
        return [str(self._program), work, "--port", str(server.port), *pids, *options]

    def run(self, work: str, server: Server, options: Sequence[str]) -> dict[str, Any]:
        """Run ``work`` against ``server`` to its end, and give its report."""
        process = pinned(
            LOAD_CORE,
            self._command(work, server, options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, error = process.communicate()
        if process.returncode:
            raise RuntimeError(f"load {work}: {error.strip()}")
        report: dict[str, Any] = json.loads(out)
        return report

    @contextmanager
    def hold(self, server: Server, most: int) -> Iterator[Held]:
        """Hold up to ``most`` idle connections open."""
        command = self._command("hold", server, ["--connections", str(most)])
        process = pinned(
            LOAD_CORE, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            yield Held(process)
        finally:
            process.kill()
            process.communicate()


class Held:
    """Idle connections."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def report(self, count: int) -> dict[str, Any]:
        """See to it that ``count`` are open, and tell what has happened so far."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            assert self._process.stderr is not None
            raise RuntimeError(f"load hold: {self._process.stderr.read().strip()}")
        report: dict[str, Any] = json.loads(line)
        return report
