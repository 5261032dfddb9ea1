"""One address too often, with and without headers that tell another one."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from actors import ExitReason
from supervisor import Admission
from supervisor.events import ConnectionOpened
from tests.faults.harness import Answer, Attack, Case, Scene, close, parametrize, run, survives, text
from tests.witness import until

pytestmark = pytest.mark.every_runtime

CAP = 4
FULL = Answer(429, "too many connections from this address")
DIRECT = Admission(per_address=CAP, handshakes_per_minute=None, exempt=())
PROXIED = Admission(
    per_address=CAP - 2, handshakes_per_minute=None, exempt=(), trusted_proxies=("127.0.0.1",)
)


async def connects(scene: Scene, headers: Mapping[str, str]) -> None:
    """One more connection, which must be let in."""
    client = await scene.dial()
    assert await client.request("/", headers) == 101


async def is_refused(scene: Scene, headers: Mapping[str, str]) -> None:
    """One more connection, which must get 429 and the end."""
    client = await scene.dial()
    await client.request("/", headers)
    await client.rest_of_bytes()
    assert client.over == "eof"
    FULL(bytes(client.wire))
    client.close()


async def leave(scene: Scene) -> None:
    """The end of all of them, by a Close frame of the client."""
    for client in scene.more:
        if client.sock.fileno() >= 0:
            await client.send_close(1000)
            assert (await client.rest())[-1].close == (1000, "")
    await survives()(scene)


def fills(*more: Mapping[str, str], refused: list[Mapping[str, str]]) -> Attack:
    """Connections up to the cap, those over it, and another one when there is room again."""

    async def attack(scene: Scene) -> None:
        for headers in more:
            await connects(scene, headers)
        for headers in refused:
            await is_refused(scene, headers)
        assert scene.server.refused["per_address"] == len(refused)
        first = scene.more[0]
        await first.send_close(1000)
        await first.rest()
        first.close()
        await scene.ended()
        await until(lambda: not scene.server.site.upgrades)  # also those that were refused have left
        await connects(scene, more[0])
        await leave(scene)

    return attack


def told(*addresses: str, field: str = "X-Forwarded-For") -> Mapping[str, str]:
    """A header that says for whom the request is."""
    return {field: ", ".join(addresses)}


SPOOFED = [
    told("203.0.113.1"),
    told("203.0.113.2", "127.0.0.1"),
    told("for=203.0.113.3", field="Forwarded"),
    told('for="[2001:db8::1]:80";proto=https', field="Forwarded"),
    told("203.0.113.4", field="X-Real-IP"),
]
CLIENT = "198.51.100.9"
LIED_TO_THE_PROXY = [
    told("203.0.113.1", CLIENT),
    told("203.0.113.2", CLIENT, "127.0.0.1"),
    told("unknown", "<script>", CLIENT),
    told("for=203.0.113.3", f"for={CLIENT}", field="Forwarded"),
    told(f'for=203.0.113.4, for=unknown, for="{CLIENT}:4711"', field="Forwarded"),
]


def case(name: str, attack: Attack, admission: Admission) -> Case:
    return Case(name, attack, text("well?") + close(1000), ExitReason.NORMAL, admission=admission)


@parametrize(
    case("cap + 1", fills({}, {}, refused=[{}, {}, {}]), DIRECT),
    case("spoofed by a client", fills({}, {}, refused=SPOOFED), DIRECT),
    case(
        "spoofed behind a trusted proxy",
        fills(told(CLIENT), told(CLIENT), refused=LIED_TO_THE_PROXY),
        PROXIED,
    ),
)
async def test_too_many_from_one_address(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


async def two_clients_of_one_proxy(scene: Scene) -> None:
    for client in ("198.51.100.1", "198.51.100.2"):
        for _ in range(CAP - 2):
            await connects(scene, told("203.0.113.1", client))
    opened = [event.client for event in scene.witness.of(ConnectionOpened)[2:]]
    assert opened == ["198.51.100.1", "198.51.100.1", "198.51.100.2", "198.51.100.2"]
    await leave(scene)


@parametrize(
    Case(
        "two clients",
        two_clients_of_one_proxy,
        text("well?") + close(1000),
        ExitReason.NORMAL,
        admission=PROXIED,
    ),
)
async def test_a_trusted_proxy_stands_for_many(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)
