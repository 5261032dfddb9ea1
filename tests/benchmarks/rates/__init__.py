"""Actors of one process without a connection, ``python -m tests.benchmarks.rates.NAME KIND SECONDS``.

``KIND`` is one of

* ``tell``: one actor tells another one ``BATCH`` messages at a time, and waits for the last one
* ``ask``: one actor asks another one, one question at a time
* ``spawn``: an actor is started, and stopped; it has ended when the next one starts
* ``crash``: an actor is started and crashes; it has ended when the next one starts
* ``restart``: an actor crashes, and its supervisor starts it again

The report is one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time

BATCH = 500


class Meter:
    """Counts until the time on the command line is over, and reports."""

    def __init__(self) -> None:
        self.kind = sys.argv[1]
        self._seconds = float(sys.argv[2])
        self._count = 0
        self._began = time.monotonic()
        self._cpu = time.process_time()

    def running(self, done: int = 0) -> bool:
        """Take note of ``done`` more; tell whether there is time left."""
        self._count += done
        return time.monotonic() - self._began < self._seconds

    def report(self) -> None:
        """Print what was counted."""
        seconds, cpu = time.monotonic() - self._began, time.process_time() - self._cpu
        print(json.dumps({"count": self._count, "seconds": seconds, "cpu": cpu}))
