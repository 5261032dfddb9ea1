"""Shared by all tests: the runtimes they run on, and no silent skips on CI.

An async test needs no marker.  It runs on asyncio and on trio; with ``@pytest.mark.every_runtime``
(also as ``pytestmark`` of a module) on uvloop too.  A test for one runtime says
``@pytest.mark.parametrize("anyio_backend", ["trio"])``.
"""

from __future__ import annotations

import importlib.util
import os

import pytest

from actors.repeats import repeats
from supervisor.events import refusals

collect_ignore = ["benchmarks"]

EVERY_RUNTIME = [
    "asyncio",
    *(
        [pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop")]
        if importlib.util.find_spec("uvloop")
        else []
    ),
    "trio",
]


@pytest.fixture(autouse=True)
def _every_line_is_new() -> None:
    repeats.forget()
    refusals.forget()


STARTS_PROGRAMS = {"tests.programs", "tests.robyn_apps", "tests.browser"}


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # A parametrize mark replaces the parameters of the fixture; metafunc.parametrize() would clash with them.
    marked = metafunc.definition.get_closest_marker("every_runtime")
    if marked and "anyio_backend" in metafunc.fixturenames:
        metafunc.definition.add_marker(
            pytest.mark.parametrize("anyio_backend", EVERY_RUNTIME, scope="module")
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts whole programs, by what its module has of ``tests.programs``."""
    for item in items:
        module = getattr(item, "module", None)
        if any(getattr(one, "__module__", None) in STARTS_PROGRAMS for one in vars(module).values()):
            item.add_marker(pytest.mark.programs)


class SkipsFail:
    """Let a session with a skipped test fail: on CI everything that a test needs is there."""

    def __init__(self) -> None:
        self.skips: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self.note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.note(report)

    def note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        self.skips.append(f"{report.nodeid}: {reason}")

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self.skips and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.skips:
            terminalreporter.section("skipped, which CI=true does not allow", red=True)
            for skip in self.skips:
                terminalreporter.line(skip)


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("CI", "").lower() in ("1", "true"):
        config.pluginmanager.register(SkipsFail())
