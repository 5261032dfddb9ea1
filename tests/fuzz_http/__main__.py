"""Hunts from the command line; see the package."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz_http.grammar import FAULTS
from tests.fuzz_http.hunt import cases_of, hunt
from tests.fuzz_http.target import How, make_folder


def main() -> None:
    """Hunt, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_http", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="in all (%(default)g)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--most", type=int, default=20, help="findings after which it stops (%(default)s)")
    parser.add_argument("--without", nargs="*", default=[], choices=FAULTS, help="known faults to leave out")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--alone", dest="hows", action="store_const", const=[How.ALONE], help="Robyn itself")
    where.add_argument("--here", dest="hows", action="store_const", const=[How.HERE], help="no pump")
    where.add_argument("--pump", dest="hows", action="store_const", const=[How.PUMP])
    parser.set_defaults(hows=[How.PUMP, How.HERE])
    given = parser.parse_args()
    found = 0
    with tempfile.TemporaryDirectory() as name:
        make_folder(Path(name))
        for how in given.hows:
            cases = cases_of((given.seed, how.value), given.without)
            seconds = given.seconds / len(given.hows)
            report = hunt(how, Path(name), cases, seconds, most=given.most, say=print)
            print(f"{how.value}: {report}", flush=True)
            found += len(report.findings)
    sys.exit(found > 0)


if __name__ == "__main__":
    main()
