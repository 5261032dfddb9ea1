"""Nothing that a client sends through the pipe ends Robyn, or hangs it, or disturbs a WebSocket beside it.

``python -m tests.fuzz_http`` is the same by hand, for as long as it is told to;
``FUZZ_SECONDS=3600 FUZZ_SEED=2 python -m pytest -m soak tests/supervisor/proxy/test_http_fuzz.py`` as a test.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fuzz_http.corpus import ENDED
from tests.fuzz_http.grammar import Grammar
from tests.fuzz_http.hunt import cases_of, hunt
from tests.fuzz_http.target import How, make_folder

SECONDS = 10.0
"""Of the hunt that every run of the tests does, for each way."""

piped = pytest.mark.parametrize("how", [How.PUMP, How.HERE])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_folder(tmp_path)
    return tmp_path


@piped
def test_what_once_ended_robyn_ends_it_no_more(how: How, folder: Path) -> None:
    report = hunt(how, folder, iter(ENDED.values()), 60.0)

    assert report.findings == []
    assert report.cases == len(ENDED)
    assert report.echoes > 0


@piped
def test_robyn_and_a_websocket_beside_it_live_through_whatever_is_sent(how: How, folder: Path) -> None:
    report = hunt(how, folder, cases_of(("ci", how.value)), SECONDS)

    print(report)
    assert report.findings == []
    assert report.cases > 0
    assert report.honest > 0
    assert report.echoes > 0


@pytest.mark.soak
@piped
def test_they_live_through_hours_of_it(how: How, folder: Path) -> None:
    seconds, seed = float(os.environ.get("FUZZ_SECONDS", "900")), os.environ.get("FUZZ_SEED", "1")

    report = hunt(how, folder, cases_of(("soak", seed, how.value)), seconds, most=10, say=print)

    print(report)
    assert report.findings == []


def test_the_same_seed_makes_the_same_cases() -> None:
    first, again = (list(zip(range(50), cases_of("seed"), strict=False)) for _ in range(2))

    assert first == again
    assert Grammar(("seed", 49)).case() == first[-1][1]
