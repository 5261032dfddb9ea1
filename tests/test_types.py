"""Programs of users pass the type checkers, and their mistakes do not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROGRAMS = ROOT / "tests" / "types"


def test_mypy_takes_plain_and_async_hooks_and_finds_wrong_types() -> None:
    command = [sys.executable, "-m", "mypy", "--strict", str(PROGRAMS)]

    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)

    assert found.returncode == 0, found.stdout + found.stderr


def test_pyright_takes_plain_and_async_hooks_and_finds_wrong_types() -> None:
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]

    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)

    report = json.loads(found.stdout[found.stdout.index("{") :])
    assert report["generalDiagnostics"] == []
    assert report["summary"]["filesAnalyzed"] == len(list(PROGRAMS.glob("*.py")))
