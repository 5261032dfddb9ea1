"""The benchmarks run, and what they say has the right shape; how fast anything is, is no matter here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks.__main__ import main
from tests.benchmarks.against import main as compare
from tests.benchmarks.table import figures, summary
from tests.benchmarks.works import WORKS, Sample

SHORT = ["--servers", "ours", "websockets", "--rounds", "1", "--seconds", "0.2", "--warmup", "0.05"]


@pytest.mark.parametrize("work", ["echo-one", "server-close"])
def test_a_work_measures_every_server(work: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "result.json"

    websockets, ours = main([work, *SHORT, "--json", str(written)])

    (row,) = WORKS[work].rows
    assert (websockets.row, websockets.server) == (row, "websockets")
    assert (ours.row, ours.server) == (row, "ours")
    for sample in (websockets, ours):
        assert sample.value > 0
        assert sample.unclean == 0
        assert sample.server_cpu is not None
        assert 0 < sample.server_cpu < 1
        assert sample.load is not None
        assert 0 < sample.load <= 1
    assert [Sample(**sample) for sample in json.loads(written.read_text())["samples"]] == [websockets, ours]
    assert row in capsys.readouterr().out


def test_the_summary_has_medians_and_ratios_to_the_first_server() -> None:
    values = {"websockets": (90, 100, 1000), "ours": (250, 150, 200), "Robyn": (0, 0, 0)}
    samples = [
        Sample("echo", server, rounds[turn], unclean=int(server == "Robyn"))
        for turn in range(3)
        for server, rounds in values.items()
    ]

    found = figures(samples)

    assert {server: figure.value for server, figure in found["echo"].items()} == {
        "websockets": 100,
        "ours": 200,
        "Robyn": 0,
    }
    assert summary(found, {"echo": "/s"}).splitlines() == [
        "|      | websockets | ours |      Robyn |",
        "| ---- | ---------: | ---: | ---------: |",
        "| echo |     100 /s | 2.00 | none clean |",
    ]


def test_this_code_is_measured_against_another_checkout(capsys: pytest.CaptureFixture[str]) -> None:
    here = Path(__file__).parent.parent

    compare([str(here), "echo-one", "--rounds", "2", "--seconds", "0.2", "--warmup", "0.05"])

    head, _, row = capsys.readouterr().out.splitlines()
    assert "ratio" in head
    assert row.startswith("| echo 64 B, one in flight |")
    assert row.endswith(" of 2 |")
