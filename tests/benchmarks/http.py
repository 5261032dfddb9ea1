"""Robyn's HTTP alone and through the pipe, in turn: ``python -m tests.benchmarks.http``.

Needs ``wrk``, from Debian's packages.  Nothing is pinned: Robyn has threads of its own.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import tempfile
from pathlib import Path

from tests.benchmarks.processes import server

ROUTES = {"plain route": "/plain", "async route": "/async", "file of 1 MB": "/files/file"}


def rate(port: int, path: str, seconds: float, connections: int) -> float:
    """Requests a second; raises ``RuntimeError`` when one of them failed."""
    url = f"http://127.0.0.1:{port}{path}"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if failed := re.search("Non-2xx.*|Socket errors.*", output):
        raise RuntimeError(failed[0])
    found = re.search(r"Requests/sec:\s+([\d.]+)", output)
    assert found is not None, output
    return float(found[1])


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.http", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement (%(default)s)")
    parser.add_argument("--connections", type=int, default=50, help="kept alive (%(default)s)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "file").write_bytes(bytes(1024 * 1024))
        with (
            server("robyn_http", [folder], core=None) as alone,
            server("robyn_http", [folder, "--piped"], core=None) as piped,
        ):
            print("| | Robyn alone, requests/s | through the pipe | ratio |\n| --- | --- | --- | --- |")
            for name, path in ROUTES.items():
                rounds = [
                    [rate(one.port, path, given.seconds, given.connections) for one in (alone, piped)]
                    for _ in range(given.rounds)
                ]
                before, after = (statistics.median(column) for column in zip(*rounds, strict=True))
                print(f"| {name} | {before:,.0f} | {after:,.0f} | {after / before:.2f} |", flush=True)


if __name__ == "__main__":
    main()
