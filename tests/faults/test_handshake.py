"""Before the 101: requests that do not end, do not fit, are wrong, or whose client is gone."""

from __future__ import annotations

from itertools import repeat

import anyio
import pytest

from actors import ExitReason, Request
from supervisor import Limits, Policy, Timeouts
from tests.faults.harness import (
    PARTINGS,
    Answer,
    Attack,
    Case,
    Echo,
    Scene,
    Watched,
    close,
    drip,
    parametrize,
    run,
    sends,
    survives,
    text,
)
from tests.raw import TEXT, encode, encode_close
from tests.witness import until

pytestmark = pytest.mark.every_runtime

FIELDS = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    "Sec-WebSocket-Version": "13",
}
SOON = Policy(timeouts=Timeouts(handshake=0.2))
HALF = encode(TEXT, b"half")
COMPRESSED = Policy(limits=Limits(compression=True))


def request(*more: str, line: str = "GET / HTTP/1.1", without: str = "") -> bytes:
    """The bytes of an upgrade request: its usual fields, ``without`` one, and ``more`` lines."""
    lines = [f"{name}: {value}" for name, value in FIELDS.items() if name != without]
    return "\r\n".join([line, *lines, *more, "", ""]).encode("latin-1")


class Slow(Echo):
    """Has to think before 101."""

    @classmethod
    async def on_upgrade(cls, request: Request) -> None:
        Watched.messages.append("asked")
        await Watched.may_end.wait()


def slowly(data: bytes) -> Attack:
    """An attack that sends a byte now and then, and the last one of them for ever."""

    async def attack(scene: Scene) -> None:
        await drip(scene.client, (bytes([byte]) for byte in data))
        await drip(scene.client, repeat(data[-1:]))

    return attack


async def sends_it_with_bare_ends_of_lines_byte_by_byte(scene: Scene) -> None:
    for byte in request().replace(b"\r\n", b"\n"):
        try:
            await scene.client.send_bytes(bytes([byte]))
        except (BrokenPipeError, ConnectionResetError):
            break


async def resets_behind_the_request(scene: Scene) -> None:
    await until(lambda: scene.server.site.upgrades)
    await scene.client.send_bytes(request())
    scene.client.reset()
    await scene.ended()


async def resets_while_the_server_thinks(scene: Scene) -> None:
    await scene.client.send_bytes(request())
    await until(lambda: Watched.messages)
    scene.client.reset()
    await scene.refused()


async def ends_its_side_while_the_server_thinks(scene: Scene) -> None:
    await scene.client.send_bytes(request())
    await until(lambda: Watched.messages)
    scene.client.finish()
    await scene.refused()


async def ends_its_side_in_the_request(scene: Scene) -> None:
    await scene.client.send_bytes(request()[:60])
    scene.client.finish()


async def resets_in_the_request(scene: Scene) -> None:
    await scene.client.send_bytes(request()[:-2])
    scene.client.reset()
    await scene.refused()


def pipelines(*frames: bytes, answers: int, later: bytes = b"", thinks: bool = False) -> Attack:
    """Frames right behind the request, others later, and a Close after some answers."""

    async def attack(scene: Scene) -> None:
        async with anyio.create_task_group() as sending:  # reading stands still while the server thinks
            sending.start_soon(scene.client.send_bytes, request() + b"".join(frames))
            if thinks:
                await until(lambda: Watched.messages)
                Watched.may_end.set()
            await scene.client.read_head()
            if later:
                sending.start_soon(scene.client.send_bytes, later)
            for _ in range(answers):
                await scene.client.frame()
        if answers:
            await scene.client.send_close(1000)

    return attack


def offers(offer: str, agreed: str | None) -> Case:
    """A case of an offer, what the server must agree on, and a message that shows it."""

    async def attack(scene: Scene) -> None:
        assert scene.client.headers.get("sec-websocket-extensions") == agreed
        await survives()(scene)

    return Case(
        offer[:60],
        attack if agreed is None else sends(encode_close()),
        text("well?") + close(1000) if agreed is None else close(1000),
        ExitReason.NORMAL,
        policy=COMPRESSED,
        headers={"Sec-WebSocket-Extensions": offer},
    )


def refused(name: str, data: bytes, wire: Answer, policy: Policy | None = None) -> Case:
    return Case(name, sends(data), wire, upgrade=False, policy=policy)


@parametrize(
    Case("nothing", sends(), upgrade=False, policy=SOON),
    Case("half a request then silence", sends(request()[:60]), upgrade=False, policy=SOON),
    Case("all but the last byte", sends(request()[:-1]), upgrade=False, policy=SOON),
    Case("a byte now and then", slowly(request()[:-4] + b"x"), upgrade=False, policy=SOON, ends=PARTINGS),
    Case("half a request then the end", ends_its_side_in_the_request, upgrade=False),
    Case("reset in the request", resets_in_the_request, upgrade=False),
    Case(
        "reset behind the request", resets_behind_the_request, b"", ExitReason.CONNECTION_LOST, upgrade=False
    ),
    Case("reset before 101", resets_while_the_server_thinks, upgrade=False, actor=Slow),
    Case("end before 101", ends_its_side_while_the_server_thinks, upgrade=False, actor=Slow),
)
async def test_a_client_that_does_not_finish(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


@parametrize(
    refused("line", request(line=f"GET /{'x' * 9000} HTTP/1.1"), Answer(414)),
    refused("field", request(f"X: {'x' * 9000}"), Answer(431)),
    refused("fields", request(*["X: y"] * 96), Answer(431, "more than 100 header fields")),
    refused("many fields", request(*["X: y"] * 1000), Answer(431)),
    refused("head", request(*[f"X{n}: {'y' * 4000}" for n in range(9)]), Answer(431, "32768 bytes")),
    refused("head without an end", request()[:-2] + b"X: " + b"y" * 40_000, Answer(431, "32768 bytes")),
)
async def test_a_request_over_a_limit(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


@parametrize(
    refused("no key", request(without="Sec-WebSocket-Key"), Answer(400, "Sec-WebSocket-Key")),
    refused("two keys", request("Sec-WebSocket-Key: BBBBBBBBBBBBBBBBBBBBBB=="), Answer(400, "multiple")),
    *(
        refused(
            f"key {key!r}",
            request(f"Sec-WebSocket-Key: {key}", without="Sec-WebSocket-Key"),
            Answer(400, "Sec-WebSocket-Key"),
        )
        for key in ("", "AAAA", "not base64!", "A" * 44)
    ),
    *(
        refused(
            f"version {version!r}",
            request(f"Sec-WebSocket-Version: {version}", without="Sec-WebSocket-Version"),
            Answer(400, "Sec-WebSocket-Version", {"Sec-WebSocket-Version": "13"}),
        )
        for version in ("0", "8", "14", "thirteen")
    ),
    refused(
        "no version",
        request(without="Sec-WebSocket-Version"),
        Answer(400, "missing", {"Sec-WebSocket-Version": "13"}),
    ),
    refused("POST", request(line="POST / HTTP/1.1"), Answer(405, fields={"Allow": "GET"})),
    refused("CONNECT", request(line="CONNECT / HTTP/1.1"), Answer(405, fields={"Allow": "GET"})),
    refused("HTTP 1.0", request(line="GET / HTTP/1.0"), Answer(505)),
    refused("HTTP 2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Answer(400)),
    refused("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", Answer(400)),
    refused("a body", request("Content-Length: 2") + b"hi", Answer(400)),
    refused("no upgrade", request(without="Upgrade"), Answer(426, fields={"Upgrade": "websocket"})),
    refused("not in Connection", request(without="Connection"), Answer(426)),
    refused("no colon", request("no colon"), Answer(400)),
    refused("a folded line", request("X: y", " z"), Answer(400)),
    refused("no Host", request(without="Host"), Answer(400, "one Host field")),
    refused("two Hosts", request("Host: localhost"), Answer(400, "one Host field")),
    refused("two other Hosts", request("host: evil.example"), Answer(400, "one Host field")),
    *(
        refused(f"Host {host!r}", request(f"Host: {host}", without="Host"), Answer(400, "Host"))
        for host in ("a b", "a/b", "a@b", "a:b", "[::1", "::1", "a\x80", '"a"', "a\\b", "http://a")
    ),
    *(
        refused(f"target {target!r}", request(line=f"GET {target} HTTP/1.1"), Answer(400))
        for target in ("*", "x", "", "/\x01", "/\x7f", "/\t", "/\xe9", "/a b", "\x00/", "localhost:80")
    ),
    refused("a URL of another host", request(line="GET http://evil.example/ HTTP/1.1"), Answer(400, "host")),
    refused("a URL with a user", request(line="GET http://me@localhost/ HTTP/1.1"), Answer(400, "host")),
    refused("a space before the colon", request("X : y"), Answer(400)),
    refused("a space before its colon", request("Upgrade : websocket", without="Upgrade"), Answer(400)),
    refused("no name", request(": y"), Answer(400)),
    *(
        refused(f"control character {byte:#x}", request(f"X: a{chr(byte)}b"), Answer(400))
        for byte in (0, 1, 8, 11, 12, 27, 127)
    ),
    refused("only LF", request().replace(b"\r\n", b"\n"), Answer(400, "without CR")),
    refused("one LF", request().replace(b"\r\n", b"\n", 1), Answer(400)),
    refused("one LF in a field", request("X: a\nY: b"), Answer(400)),
    refused("an end of LF", request()[:-4] + b"\n\n", Answer(400, "without CR")),
    refused("an empty line of LF", request()[:-2] + b"\n", Answer(400, "without CR")),
    refused("a bare CR", request("X: y\rZ: z"), Answer(400)),
)
async def test_a_wrong_request(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


@parametrize(
    refused("null", request("Origin: null"), Answer(403, "Origin")),
    refused("of somebody else", request("Origin: http://evil.example"), Answer(403, "Origin")),
    refused(
        "duplicate",
        request("Origin: http://localhost", "Origin: http://evil.example"),
        Answer(400, "Origin header: multiple values"),
    ),
    refused(
        "null and the good one", request("Origin: null", "Origin: http://localhost"), Answer(400, "Origin")
    ),
    refused("twice the good one", request(*["Origin: http://localhost"] * 2), Answer(400, "Origin")),
    refused("two in one", request("Origin: http://localhost http://evil.example"), Answer(403, "Origin")),
    refused("empty", request("Origin: "), Answer(403, "Origin")),
)
async def test_an_origin(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


@parametrize(
    offers("x-unknown; a=b, x-other", None),
    offers("permessage-deflate; bogus", None),
    offers("permessage-deflate; server_max_window_bits=99", None),
    offers("permessage-deflate; server_max_window_bits", None),
    offers("permessage-deflate; client_max_window_bits=10; client_max_window_bits=12", None),
    offers("permessage-deflate; server_no_context_takeover=1", None),
    offers(", ".join(["permessage-deflate; bogus"] * 200), None),
    offers("permessage-deflate, permessage-deflate", "permessage-deflate; server_max_window_bits=12"),
    *(
        refused(offer, request(f"Sec-WebSocket-Extensions: {offer}"), Answer(400, "Extensions"), COMPRESSED)
        for offer in ("", ";;;", "permessage-deflate; =", "permessage-deflate; a=b c", 'x; a="')
    ),
)
async def test_an_extension_offer(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


def pipelined(
    name: str, attack: Attack, wire: bytes, reason: ExitReason, actor: type[Watched] = Echo
) -> Case:
    return Case(name, attack, wire, reason, upgrade=False, actor=actor)


@parametrize(
    pipelined(
        "messages",
        pipelines(encode(TEXT, b"1"), encode(TEXT, b"2"), answers=2),
        text("1") + text("2") + close(1000),
        ExitReason.NORMAL,
    ),
    pipelined(
        "half a message",
        pipelines(HALF[:8], answers=1, later=HALF[8:], thinks=True),
        text("half") + close(1000),
        ExitReason.NORMAL,
        actor=Slow,
    ),
    pipelined(
        "a message before and one after 101",
        pipelines(encode(TEXT, b"1"), answers=2, later=encode(TEXT, b"2"), thinks=True),
        text("1") + text("2") + close(1000),
        ExitReason.NORMAL,
        actor=Slow,
    ),
    pipelined(
        "more than is read before 101",
        pipelines(*[encode(TEXT, b"x" * 60_000)] * 100, answers=100, thinks=True),
        text("x" * 60_000) * 100 + close(1000),
        ExitReason.NORMAL,
        actor=Slow,
    ),
    pipelined("a Close", pipelines(encode_close(4001), answers=0), close(4001), ExitReason.NORMAL),
    pipelined(
        "an unmasked frame",
        pipelines(encode(TEXT, b"x", masked=False), answers=0),
        close(1002, "incorrect masking"),
        ExitReason.PROTOCOL_ERROR,
    ),
)
async def test_frames_pipelined_behind_the_handshake(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)
