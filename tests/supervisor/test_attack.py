"""64 attackers at once, and 200 honest clients who must not notice more than a slower server.

``python -m pytest -m soak -s tests/supervisor/test_attack.py`` prints the latencies; the server has one
core for itself, the clients and the attackers share another one.  There the clients go first, so that
their latency tells of the server, and not of how the attackers keep them from their core.  Loopback is
exempt from what admission allows one address; ``counted`` is how it is for peers from elsewhere.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.attack import attackers, honest, server
from tests.programs import Program, program

pytestmark = pytest.mark.soak

HONEST, ATTACKERS = "200", "64"
QUIET, ATTACK = "10", "30"
"""Seconds."""


def pin(running: Program, core: int) -> None:
    """Let a program run on one core only."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(running.process.pid, {cores[core % len(cores)]})


def answer(running: Program) -> Any:
    """What a program has found out; it prints one line of JSON at its end."""
    assert running.process.wait(90) == 0, running.output
    return json.loads(running.wait_for(r"\{.*\}")[0])


@pytest.mark.parametrize("admission", ["exempt", "counted"])
@pytest.mark.parametrize("period", ["0", "0.05"], ids=["in a row", "20 a second each"])
@pytest.mark.parametrize("runtime", ["asyncio", "uvloop", "trio"])
def test_no_honest_connection_is_lost_while_64_attackers_do_their_worst(
    runtime: str, period: str, admission: str
) -> None:
    with program(Path(server.__file__), runtime, admission) as serving:
        pin(serving, 0)
        port = str(serving.port(server.SERVING))
        with program(Path(honest.__file__), port, HONEST, QUIET, period) as clients:
            pin(clients, 1)
            quiet = answer(clients)
        with program(Path(honest.__file__), port, HONEST, ATTACK, period) as clients:
            pin(clients, 1)
            clients.wait_for("connected")
            with program(Path(attackers.__file__), port, ATTACKERS, ATTACK) as enemy:
                pin(enemy, 1)
                os.setpriority(os.PRIO_PROCESS, enemy.process.pid, 19)
                attacked = answer(clients)
                faults = answer(enemy)
        assert serving.process.poll() is None

    print(
        f"{runtime}, {admission}: median {quiet['median'] * 1000:.2f} ms quiet, "
        f"{attacked['median'] * 1000:.2f} ms under attack, {attacked['median'] / quiet['median']:.2f} times; "
        f"p99 {quiet['p99'] * 1000:.1f} and {attacked['p99'] * 1000:.1f} ms; {sum(faults.values())} faults"
    )
    assert set(faults) == set(attackers.FAULTS), "every fault was done"
    assert attacked["lost"] == 0
