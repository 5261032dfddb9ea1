"""What the server says of its connections is what clients of another library saw, for each connection.

The clients close, are closed, crash their actor, vanish, stall, flood, send rubbish, are refused, and stay
until the maintenance.  Where the protocol lets both sides know the same (the two Close frames, who began,
how many messages came), it is compared one to one; one that vanished or stalled knows less, and is held
against what the server has to say of such a one.  5 000 of them::

    python -m pytest -m soak -s tests/supervisor/test_ledger.py
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.programs import program
from tests.supervisor import accounts
from tests.supervisor.accounts import GIVEN_UP, LEDGER, SERVING

AT_A_TIME = 200
"""Clients that open their connection at the same time."""


@dataclass
class Seen:
    """What one client knows about its connection."""

    path: str
    kind: str
    rng: random.Random = field(default_factory=random.Random, repr=False)
    """The same one in every run."""
    given_up: Callable[[], object] = field(default=lambda: None, repr=False)
    messages: int = 0
    """That it sent whole, for the actor to handle."""
    status: int | None = None
    """The HTTP status, where it was not let in."""
    close_rcvd: tuple[int, str] | None = None
    close_sent: tuple[int, str] | None = None
    began: str = "transport"
    """Whose Close frame was first."""
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it only waits for the server, or is over."""


class Crowd:
    """The clients of one server."""

    def __init__(self, port: int, given_up: Callable[[str], object]) -> None:
        self.port = port
        self.given_up = given_up
        """Waits until the server has given up the connection at a path."""
        self.seen: list[Seen] = []
        self.door = asyncio.Semaphore(AT_A_TIME)

    async def one(self, number: int, kind: str) -> None:
        """Be one client, from its upgrade to its end."""
        path = f"/{_PATHS.get(kind, 'account')}/{number}"
        seen = Seen(path, kind, rng=random.Random(number), given_up=partial(self.given_up, path))
        self.seen.append(seen)
        try:
            async with self.door:
                url = f"ws://127.0.0.1:{self.port}{path}"
                client = await connect(
                    url,
                    compression=None,
                    ping_interval=None,
                    open_timeout=60,
                    close_timeout=60,
                    max_size=None,
                )
        except InvalidStatus as refused:
            seen.status = refused.response.status_code
            seen.settled.set()
            return
        try:
            await _KINDS[kind](client, seen)
            await client.wait_closed()
        finally:
            seen.settled.set()
            protocol = client.protocol
            if protocol.close_rcvd is not None:
                seen.close_rcvd = (protocol.close_rcvd.code, protocol.close_rcvd.reason)
            if protocol.close_sent is not None and kind not in GONE:
                seen.close_sent = (protocol.close_sent.code, protocol.close_sent.reason)
            if protocol.close_rcvd_then_sent is not None:
                seen.began = "local" if protocol.close_rcvd_then_sent else "peer"


async def say(client: ClientConnection, seen: Seen, message: str) -> None:
    """Send one message and count it."""
    await client.send(message)
    seen.messages += 1


async def chat(client: ClientConnection, seen: Seen) -> None:
    """A few messages there and back."""
    for number in range(seen.rng.randrange(4)):
        await say(client, seen, f"hello {number}")
        assert await client.recv() == f"hello {number}"


async def closes(client: ClientConnection, seen: Seen) -> None:
    await chat(client, seen)
    code = seen.rng.choice([1000, 1001, 1003, 3000, 4000, 4999])
    await client.close(code, seen.rng.choice(["", "bye", "grüß dich"]))


async def is_closed(client: ClientConnection, seen: Seen) -> None:
    await chat(client, seen)
    await say(client, seen, f"close {seen.rng.choice([1000, 1008, 1013, 3001, 4001])} enough")
    with suppress(ConnectionClosed):
        await client.recv()


async def crashes(client: ClientConnection, seen: Seen) -> None:
    await chat(client, seen)
    await say(client, seen, "crash")
    with suppress(ConnectionClosed):
        await client.recv()


async def resets(client: ClientConnection, seen: Seen) -> None:
    await chat(client, seen)
    sock = client.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    client.transport.abort()


async def leaves(client: ClientConnection, seen: Seen) -> None:
    await chat(client, seen)
    client.transport.close()


async def stalls(client: ClientConnection, seen: Seen) -> None:
    client.transport.pause_reading()
    await say(client, seen, "burst")
    await asyncio.to_thread(seen.given_up)  # who does not read does not see it
    client.transport.abort()


async def floods(client: ClientConnection, seen: Seen) -> None:
    async def read() -> None:
        async for _ in client:
            pass

    reading = asyncio.create_task(read())  # or it would not see the Close
    with suppress(ConnectionClosed):
        while True:
            await client.send("flood")
            await asyncio.sleep(0)
    with suppress(ConnectionClosed):
        await reading


async def rubbish(client: ClientConnection, seen: Seen) -> None:
    await chat(client, seen)
    client.transport.write(seen.rng.choice([b"\xf1\x80\0\0\0\0", b"\x81\x01x", b"\x83\x80\0\0\0\0"]))
    with suppress(ConnectionClosed):
        await client.recv()


async def no_text(client: ClientConnection, seen: Seen) -> None:
    await chat(client, seen)
    client.transport.write(b"\x81\x82\0\0\0\0\xff\xff")
    with suppress(ConnectionClosed):
        await client.recv()


async def too_big(client: ClientConnection, seen: Seen) -> None:
    await chat(client, seen)
    client.transport.write(b"\x82\xff" + (1 << 40).to_bytes(8, "big") + b"\0\0\0\0")
    with suppress(ConnectionClosed):
        await client.recv()


async def stays(client: ClientConnection, seen: Seen) -> None:
    await chat(client, seen)
    seen.settled.set()
    with suppress(ConnectionClosed):
        await client.recv()


_KINDS: dict[str, Callable[[ClientConnection, Seen], Awaitable[None]]] = {
    "closes": closes,
    "is closed": is_closed,
    "crashes": crashes,
    "resets": resets,
    "leaves": leaves,
    "stalls": stalls,
    "floods": floods,
    "rubbish": rubbish,
    "no text": no_text,
    "too big": too_big,
    "stays": stays,
}
_PATHS = {"floods": "limited", "refused": "nowhere"}
GONE = {"resets", "leaves", "stalls"}
"""Kinds that do not know what became of their connection."""
FAILED = {"rubbish", "no text", "too big"}
"""Kinds whose peer fails the connection."""
WEIGHTS = {
    "closes": 20,
    "is closed": 15,
    "crashes": 8,
    "resets": 8,
    "leaves": 8,
    "stalls": 1,
    "floods": 4,
} | {
    "rubbish": 6,
    "no text": 4,
    "too big": 4,
    "stays": 20,
    "refused": 2,
}
EXPECTED = {"crashes": 1011, "floods": 1008, "rubbish": 1002, "no text": 1007, "too big": 1009, "stays": 1012}
"""What the server closes these with."""


def kinds(count: int, without: Collection[str]) -> list[str]:
    """``count`` kinds by their weights, at least one of each."""
    weights = {kind: weight for kind, weight in WEIGHTS.items() if kind not in without}
    rng = random.Random(count)
    chosen = rng.choices(list(weights), list(weights.values()), k=count - len(weights))
    return rng.sample([*weights, *chosen], k=count)


async def play(
    port: int, chosen: list[str], given_up: Callable[[str], object], drain: Callable[[], None]
) -> list[Seen]:
    """Run the clients; ``drain`` is called when only those are left that stay."""
    crowd = Crowd(port, given_up)
    tasks = {}
    for number, kind in enumerate(chosen):
        tasks[asyncio.create_task(crowd.one(number, kind))] = kind
    await asyncio.gather(*(task for task, kind in tasks.items() if kind != "stays"))
    await asyncio.gather(*(seen.settled.wait() for seen in crowd.seen))
    drain()
    await asyncio.gather(*tasks)
    return crowd.seen


def compare(seen: Seen, row: dict[str, Any]) -> None:
    """Hold what a client saw against what the server says."""
    if seen.status is not None:
        assert row.get("status") == seen.status == 404
        return
    sent, received = (None if row[name] is None else tuple(row[name]) for name in ("sent", "received"))
    assert not row["leaks"]
    if seen.kind in ("resets", "leaves"):
        assert (row["initiator"], row["code"], sent, received) == ("transport", 1006, None, None)
        assert row["in"] == seen.messages
    elif seen.kind == "stalls":
        assert (row["initiator"], row["code"], received, row["clean"]) == ("local", 1013, None, False)
    elif seen.kind in FAILED:  # nothing is looked at behind it (RFC 6455, section 7.1.7)
        assert (
            (row["initiator"], sent, received) == (seen.began, seen.close_rcvd, None) == ("local", sent, None)
        )
        assert row["in"] == seen.messages
    else:
        assert (sent, received) == (seen.close_rcvd, seen.close_sent), "both Close frames"
        assert row["initiator"] == seen.began
        assert (row["code"], row["reason"]) == (sent if seen.began == "local" else received)
        assert row["clean"]
        assert seen.kind == "floods" or row["in"] == seen.messages
    if seen.kind in EXPECTED:
        assert row["code"] == EXPECTED[seen.kind]


def table(all_seen: list[Seen], rows: dict[str, dict[str, Any]]) -> str:
    """Both ledgers by initiator and code: of the server, and of the clients where they know."""
    server = Counter((row["initiator"], row["code"]) for row in rows.values() if "code" in row)
    clients: Counter[tuple[str, int]] = Counter()
    for seen in all_seen:
        close = seen.close_rcvd if seen.began == "local" else seen.close_sent
        if seen.status is None:
            clients["unknown" if seen.kind in GONE else seen.began, close[0] if close else 1006] += 1
    names = sorted({*server, *clients})
    return "\n".join(f"{who:>9} {code}  {server[who, code]:5} {clients[who, code]:5}" for who, code in names)


def balance(runtime: str, chosen: list[str]) -> str:
    """Run a server and its clients, and compare their ledgers connection by connection."""
    with program(Path(accounts.__file__), runtime) as serving:
        port = serving.port(SERVING)

        def given_up(path: str) -> None:
            serving.wait_for(f"{GIVEN_UP}{path}\n")

        all_seen = asyncio.run(play(port, chosen, given_up, lambda: serving.signal(signal.SIGTERM)))
        text = serving.wait_for(rf"(?m)^{LEDGER}(.*)$")[1]
        assert serving.status() == 0
    ledger = json.loads(text)
    rows = {row["path"]: row for row in ledger["rows"]}
    assert ledger["left"] == 0
    assert len(rows) == len(ledger["rows"]) == len(all_seen) == len(chosen), "one report each"
    for seen in all_seen:
        try:
            compare(seen, rows[seen.path])
        except AssertionError as error:
            raise AssertionError(f"{seen} and {rows[seen.path]}: {error}") from error
    return table(all_seen, rows)


SEEN = Seen(
    "/account/1", "closes", messages=2, close_rcvd=(4000, "bye"), close_sent=(4000, "bye"), began="peer"
)
SAID = {
    "initiator": "peer",
    "code": 4000,
    "reason": "bye",
    "sent": [4000, "bye"],
    "received": [4000, "bye"],
} | {
    "clean": True,
    "in": 2,
    "leaks": [],
}


def test_reports_that_say_what_the_client_saw_pass() -> None:
    compare(SEEN, SAID)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("initiator", "local"),
        ("code", 4001),
        ("reason", ""),
        ("sent", None),
        ("received", [4000, ""]),
        ("clean", False),
        ("in", 1),
        ("leaks", ["a hook"]),
    ],
)
def test_a_report_that_differs_in_one_field_is_found(name: str, value: object) -> None:
    with pytest.raises(AssertionError):
        compare(SEEN, SAID | {name: value})


@pytest.mark.parametrize("runtime", ["asyncio", "uvloop", "trio"])
def test_the_reports_are_what_200_clients_saw(runtime: str) -> None:
    balance(runtime, kinds(200, without=["floods"]))  # a server is patient with them


@pytest.mark.soak
@pytest.mark.parametrize("runtime", ["asyncio", "uvloop", "trio"])
def test_the_reports_are_what_5000_clients_saw(runtime: str) -> None:
    print(f"\n{runtime}: initiator, code, server, clients\n{balance(runtime, kinds(5000, without=[]))}")
