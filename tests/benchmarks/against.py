"""This checkout against another one: ``python -m tests.benchmarks.against ../before [work ...]``.

Both servers run in every round, one after the other, and each round begins with the other one; what is
compared is the ratio of their server CPU round by round, so a machine that gets slower during the run
slows both.  Where a work has no CPU (the memory of idle connections), its value is compared.  "More" is
how many rounds this checkout took more in.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks import processes
from tests.benchmarks.table import markdown, number
from tests.benchmarks.works import WORKS, Bench, Sample

OURS = {"ours", "ours on trio"}
HEAD = ("", "before, µs", "now, µs", "ratio", "quartiles", "more")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Take the command line apart."""
    works = [name for name, work in WORKS.items() if OURS & set(work.servers)]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.against", description=__doc__)
    parser.add_argument("before", type=Path, help="another checkout, with the code to compare with")
    parser.add_argument("works", nargs="*", metavar="work", help=f"of {', '.join(works)}; by default all")
    parser.add_argument("--rounds", type=int, default=14, help="of each work (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of measuring a rate (%(default)s)")
    parser.add_argument("--warmup", type=float, default=0.3, help="seconds before that (%(default)s)")
    given = parser.parse_args(arguments)
    given.works = given.works or works
    if unknown := set(given.works) - set(works):
        parser.error(f"no such work: {', '.join(sorted(unknown))}")
    if not (given.before / "tests" / "benchmarks").is_dir():
        parser.error(f"{given.before} is no checkout")
    return given


def cost(sample: Sample) -> float:
    """What a sample compares by: microseconds of CPU where there are any."""
    return sample.value if sample.server_cpu is None else sample.server_cpu * 1e6


def line(row: str, before: Sequence[float], now: Sequence[float]) -> tuple[str, ...]:
    """One line of the table, of the rounds of one row."""
    ratios = [new / old for old, new in zip(before, now, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    more = f"{sum(ratio > 1 for ratio in ratios)} of {len(ratios)}"
    quartiles = f"{low:.3f} {high:.3f}"
    medians = (number(statistics.median(column)) for column in (before, now))
    return (row, *medians, f"{middle:.3f}", quartiles, more)


def main(arguments: Sequence[str]) -> None:
    """Measure and print a table."""
    given = parse(arguments)
    processes.allow_many_descriptors()
    with tempfile.TemporaryDirectory() as folder:
        now = Bench(processes.Load(processes.build_load(Path(folder))), given.warmup, given.seconds)
        benches = (now._replace(root=given.before.resolve()), now)
        lines = []
        for name in given.works:
            work = WORKS[name]
            server = next(one for one in work.servers if one in OURS)
            rows: dict[str, tuple[list[float], list[float]]] = {}
            for turn in range(given.rounds):
                for side in (0, 1) if turn % 2 else (1, 0):
                    for sample in work.run(benches[side], server):
                        rows.setdefault(sample.row, ([], []))[side].append(cost(sample))
            lines += [line(row, *both) for row, both in rows.items()]
            print(f"{name} is done", file=sys.stderr)
        print(markdown(HEAD, lines))


if __name__ == "__main__":
    main(sys.argv[1:])
