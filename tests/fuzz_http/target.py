"""The app under test in a process of its own, and the honest clients that must notice nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from tests.programs import Program, program

APP = Path(__file__).parent / "app.py"
SERVING = r"(?:Robyn alone|serving HTTP and WebSockets) at http://127\.0\.0\.1:(\d+)"


class How(Enum):
    """What stands between a client and Robyn."""

    ALONE = "alone"
    """Nothing: Robyn alone."""
    HERE = "here"
    """The pipe in the process of the WebSockets."""
    PUMP = "pump"
    """The pipe in a process of its own."""


def make_folder(folder: Path) -> None:
    """Make the files that the app serves."""
    (folder / "folder").mkdir(parents=True, exist_ok=True)
    (folder / "page.html").write_text("<html>page</html>\n")
    (folder / "empty").touch()
    (folder / "data.bin").write_bytes(random.Random(1).randbytes(200_000))
    (folder / "folder" / "deep.txt").write_text("deep\n")
    (folder / "a name with \u00e9.txt").write_text("name\n")


class Target:
    """The running app."""

    def __init__(self, running: Program, port: int, how: How) -> None:
        self.program = running
        self.port = port
        self.how = how

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self.program.process.poll() is not None

    @property
    def last_words(self) -> str:
        """Where it panicked, or the end of its log."""
        words = [line for line in self.program.output.splitlines() if "panicked at" in line]
        return words[-1] if words else self.program.output[-1000:]


@contextmanager
def target(how: How, folder: Path) -> Iterator[Target]:
    """The app, with what ``make_folder`` made; afterwards it is gone."""
    environment = {"FUZZ_HOW": how.value, "FUZZ_FOLDER": str(folder), "PYTHONWARNINGS": "ignore"}
    with program(APP, "--log-level", "WARN", environment=environment) as running:
        started = Target(running, running.port(SERVING), how)
        if how is How.PUMP:
            running.wait_for("HTTP goes through the pump")
        yield started
