"""The command line of the benchmarks; see the package's docstring."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.benchmarks import processes
from tests.benchmarks.table import details, figures, summary
from tests.benchmarks.works import WORKS, Bench, Sample

DISTRIBUTIONS = (
    "websockets aiohttp picows uvicorn starlette granian robyn hypercorn trio-websocket trio uvloop pykka"
)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Take the command line apart."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure this library beside others: servers in turn, medians, and ratios to the first.",
        epilog=f"Works: {', '.join(WORKS)}.",
    )
    parser.add_argument(
        "works", nargs="*", metavar="work", default=[], help="what to measure; everything by default"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each server (%(default)s)")
    parser.add_argument("--servers", nargs="+", help="only these; by default all that a work has")
    parser.add_argument("--seconds", type=float, default=1.0, help="of measuring a rate (%(default)s)")
    parser.add_argument("--warmup", type=float, default=0.3, help="seconds before that (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    given = parser.parse_args(arguments)
    if unknown := set(given.works) - set(WORKS):
        parser.error(f"no such work: {', '.join(sorted(unknown))}")
    given.works = given.works or list(WORKS)
    return given


def versions() -> dict[str, str]:
    """What is installed of all that is measured."""
    found = {}
    for name in DISTRIBUTIONS.split():
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def measure(bench: Bench, work: str, servers: Sequence[str], rounds: int) -> Iterator[Sample]:
    """Run one work: the servers in turn, as often as there are rounds."""
    for _ in range(rounds):
        for server in servers:
            try:
                yield from WORKS[work].run(bench, server)
            except RuntimeError as error:  # a server that fails has no figure, and the others have theirs
                print(f"{work}: {server}: {error}", file=sys.stderr)


def main(arguments: Sequence[str]) -> list[Sample]:
    """Measure, print, and write what was asked for."""
    given = parse(arguments)
    if processes.SERVER_CORE == processes.LOAD_CORE:
        print("only one core: the load and the server take it from each other", file=sys.stderr)
    processes.allow_many_descriptors()
    samples: list[Sample] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(processes.Load(processes.build_load(Path(folder))), given.warmup, given.seconds)
        for name in given.works:
            work = WORKS[name]
            servers = [one for one in work.servers if given.servers is None or one in given.servers]
            found = list(measure(bench, name, servers, given.rounds))
            samples += found
            for row, figures_of_row in figures(found).items():
                print(details(row, work.rows[row], figures_of_row), end="\n\n", flush=True)
    units = {row: unit for name in given.works for row, unit in WORKS[name].rows.items()}
    print(summary(figures(samples), units))
    print(f"\n{given.rounds} rounds, {(time.monotonic() - began) / 60:.1f} minutes")
    if given.json is not None:
        about = {"python": platform.python_version(), "machine": platform.platform(), "versions": versions()}
        result = {**about, "rounds": given.rounds, "samples": [sample._asdict() for sample in samples]}
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    return samples


if __name__ == "__main__":
    main(sys.argv[1:])
