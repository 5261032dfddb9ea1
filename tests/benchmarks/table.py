"""Medians, ratios and tables of what was measured; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from tests.benchmarks.works import Sample


class Figure(NamedTuple):
    """What several rounds of one server say about one row."""

    value: float
    least: float
    most: float
    ratio: float | None
    """To the first server of the row; ``None`` when that one did nothing."""
    server_cpu: float | None
    cpu_ratio: float | None
    load: float | None
    unclean: int
    rounds: int


Figures = Mapping[str, Mapping[str, Figure]]
"""By row, then by server, in the order in which they came; the first server is the measure."""


def figures(samples: Iterable[Sample]) -> Figures:
    """Put the rounds of every row and server together."""
    rows: dict[str, dict[str, list[Sample]]] = {}
    for sample in samples:
        rows.setdefault(sample.row, {}).setdefault(sample.server, []).append(sample)
    found: dict[str, dict[str, Figure]] = {}
    for row, servers in rows.items():
        measure: Figure | None = None
        for server, rounds in servers.items():
            figure = found.setdefault(row, {})[server] = _figure(rounds, measure)
            measure = measure or figure
    return found


def _figure(rounds: Sequence[Sample], measure: Figure | None) -> Figure:
    values = [sample.value for sample in rounds]
    value, cpu = median(values), _median(sample.server_cpu for sample in rounds)
    return Figure(
        value=value,
        least=min(values),
        most=max(values),
        ratio=_ratio(value, measure.value if measure else value),
        server_cpu=cpu,
        cpu_ratio=_ratio(cpu, measure.server_cpu if measure else cpu),
        load=_median(sample.load for sample in rounds),
        unclean=sum(sample.unclean for sample in rounds),
        rounds=len(rounds),
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _ratio(value: float | None, measure: float | None) -> float | None:
    return value / measure if value is not None and measure else None


def details(row: str, unit: str, servers: Mapping[str, Figure]) -> str:
    """One row of the summary, with everything that is known about it."""
    head = (row, unit, "least", "most", "ratio", "server CPU, µs", "ratio", "load's core", "unclean")
    lines = [
        (
            server,
            number(figure.value),
            number(figure.least),
            number(figure.most),
            number(figure.ratio),
            number(figure.server_cpu and figure.server_cpu * 1e6),
            number(figure.cpu_ratio),
            "" if figure.load is None else f"{figure.load:.0%}",
            str(figure.unclean or ""),
        )
        for server, figure in servers.items()
    ]
    return markdown(head, lines)


def summary(found: Figures, units: Mapping[str, str]) -> str:
    """The tables of the README: a line a row, a column a server, in each the ratio to the first one."""
    by_measure: dict[str, list[str]] = {}
    for row, servers in found.items():
        by_measure.setdefault(next(iter(servers)), []).append(row)
    tables = []
    for measure, rows in by_measure.items():
        others = list(dict.fromkeys(server for row in rows for server in found[row] if server != measure))
        lines = [
            (
                row,
                f"{number(found[row][measure].value)} {units[row]}",
                *(_cell(found[row].get(server)) for server in others),
            )
            for row in rows
        ]
        tables.append(markdown(("", measure, *others), lines))
    return "\n\n".join(tables)


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return "none clean" if figure.unclean and not figure.value else number(figure.ratio)


def number(value: float | None) -> str:
    """Three digits that count; nothing for nothing."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table, the numbers to the right."""
    rows = [head, *lines]
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        first, *others = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        return " | ".join(("| " + first, *(cell.strip().rjust(len(cell)) for cell in others))) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join((line(head), "| " + " | ".join(rule) + " |", *map(line, rows[1:])))
