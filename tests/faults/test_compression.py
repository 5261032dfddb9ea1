"""permessage-deflate (RFC 7692) against the server: bombs, corrupt data, contexts."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import pytest

from actors import ExitReason
from supervisor import Limits, Policy
from tests.faults.harness import (
    Attack,
    Case,
    Echo,
    Scene,
    Sink,
    Watched,
    close,
    fails,
    frames_of,
    parametrize,
    run,
    sends,
)
from tests.raw import BINARY, CONTINUATION, PING, TEXT, encode
from tests.witness import until

pytestmark = pytest.mark.every_runtime

OFFER = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
COMPRESSED = {"policy": Policy(limits=Limits(compression=True)), "headers": OFFER, "actor": Sink}
RSV1 = 4
TAIL = b"\0\0\xff\xff"


class Deflater:
    """A client's side of the compression: one context for all messages."""

    def __init__(self) -> None:
        self._context = zlib.compressobj(wbits=-12)

    def __call__(self, payload: bytes) -> bytes:
        """Compress the next message."""
        data = self._context.compress(payload) + self._context.flush(zlib.Z_SYNC_FLUSH)
        return data.removesuffix(TAIL)


def message(payload: bytes, opcode: int = TEXT) -> bytes:
    """A compressed message, the first one of a connection."""
    return encode(opcode, Deflater()(payload), rsv=RSV1)


def in_context(*payloads: bytes, left_out: int = 0) -> bytes:
    """Compressed messages that refer to those in front of them, of which some are ``left_out``."""
    deflate = Deflater()
    return b"".join([encode(TEXT, deflate(payload), rsv=RSV1) for payload in payloads][left_out:])


def fragments(data: bytes, size: int) -> list[bytes]:
    """Compressed data in frames of ``size`` bytes."""
    last = (len(data) - 1) // size * size
    return [
        encode(
            CONTINUATION if start else BINARY,
            data[start : start + size],
            fin=start == last,
            rsv=0 if start else RSV1,
        )
        for start in range(0, len(data), size)
    ]


def gives(*messages: str | bytes, sent: Iterable[bytes]) -> Attack:
    """Sends frames; the actor must get these messages."""

    async def attack(scene: Scene) -> None:
        await sends(*sent)(scene)
        await until(lambda: Watched.messages == list(messages))
        await scene.client.send_close(1000)

    return attack


def breaks(name: str, data: bytes, code: int, reason: str) -> Case:
    return fails(name, data, code, reason, **COMPRESSED)


def bomb(name: str, *parts: bytes, limit: int) -> Case:
    """A case that must be stopped when ``limit`` bytes have come out of a frame or a message."""

    def too_big(wire: bytes) -> None:
        (only,) = frames_of(wire)
        code, reason = only.close
        assert code == 1009
        assert reason.endswith(f"exceeds limit of {limit} bytes")

    return Case(name, sends(*parts), too_big, ExitReason.TOO_BIG, **COMPRESSED)


def works(name: str, *messages: str | bytes, sent: Iterable[bytes]) -> Case:
    return Case(name, gives(*messages, sent=sent), close(1000), ExitReason.NORMAL, **COMPRESSED)


MIB = 2**20
BOMB = Deflater()(bytes(100 * MIB))


@parametrize(
    bomb("of 100 MiB", encode(BINARY, BOMB, rsv=RSV1), limit=MIB),
    bomb("of 100 MiB in large fragments", *fragments(BOMB, 500), limit=MIB),
    bomb("of 100 MiB in small fragments", *fragments(BOMB, 50), limit=MIB),
    bomb("above the largest message by a byte", message(bytes(MIB + 1), BINARY), limit=MIB),
    bomb("as the second message", message(b"x") + message(bytes(MIB + 1), BINARY), limit=MIB),
    works("small enough", bytes(MIB), sent=[message(bytes(MIB), BINARY)]),
)
async def test_a_deflate_bomb(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


@parametrize(
    breaks("noise", encode(TEXT, b"\xff" * 100, rsv=RSV1), 1002, "decompression failed"),
    breaks(
        "text that is not compressed", encode(TEXT, b"hello there", rsv=RSV1), 1002, "decompression failed"
    ),
    breaks("a kind of block that is none", encode(TEXT, b"\x06", rsv=RSV1), 1002, "decompression failed"),
    breaks("bad UTF-8 inside", message(b"ab\xff"), 1007, "invalid UTF-8 at position 2"),
    breaks("a reserved bit besides", encode(TEXT, b"", rsv=RSV1 | 1), 1002, "reserved bits must be 0"),
    breaks("a compressed ping", encode(PING, Deflater()(b"x"), rsv=RSV1), 1002, "reserved bits must be 0"),
    breaks(
        "a compressed continuation of plain text",
        encode(TEXT, b"x", fin=False) + encode(CONTINUATION, b"", rsv=RSV1),
        1002,
        "reserved bits must be 0",
    ),
    breaks(
        "the bit again in a continuation",
        encode(TEXT, Deflater()(b"x"), fin=False, rsv=RSV1) + encode(CONTINUATION, b"", rsv=RSV1),
        1002,
        "RSV1 bit set in continuation frame",
    ),
    works("a plain message beside a compressed one", "a", "b", sent=[encode(TEXT, b"a"), message(b"b")]),
    works("a compressed message in fragments", b"hello" * 9, sent=fragments(Deflater()(b"hello" * 9), 3)),
)
async def test_corrupt_deflate(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


LONG = "the quick brown fox jumps over the lazy dog; " * 5


async def same_twice(scene: Scene) -> None:
    deflate = Deflater()
    for count in (1, 2):
        await scene.client.send_bytes(encode(TEXT, deflate(LONG.encode()), rsv=RSV1))
        while len(echoes_in(bytes(scene.client.wire))) < count:
            assert await scene.client.receive()
    await scene.client.send_close(1000)


def echoes_in(wire: bytes) -> list[bytes]:
    """The payloads of the text frames behind the 101."""
    _, _, wire = wire.rpartition(b"\r\n\r\n")
    return [one.payload for one in frames_of(wire, cut=True) if one.opcode == TEXT]


def second_by_the_first(wire: bytes) -> None:
    """One context inflates both, and the second one is short because of the first."""
    inflate = zlib.decompressobj(wbits=-12)
    first, second = echoes_in(wire)
    assert [inflate.decompress(one + TAIL).decode() for one in (first, second)] == [LONG] * 2
    assert len(second) < len(first) / 2
    assert wire.endswith(close(1000))


@parametrize(
    works("of the client", LONG, LONG, sent=[in_context(LONG.encode(), LONG.encode())]),
    breaks(
        "of the client, the first message left out",
        in_context(LONG.encode(), LONG.encode(), left_out=1),
        1002,
        "decompression failed",
    ),
    works("a new one for each message", LONG, LONG, sent=[message(LONG.encode()), message(LONG.encode())]),
    Case("of the server", same_twice, second_by_the_first, ExitReason.NORMAL, **COMPRESSED | {"actor": Echo}),
)
async def test_context_takeover(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)
