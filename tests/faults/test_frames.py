"""Frames that RFC 6455, section 5, does not allow, each alone on an open connection."""

from __future__ import annotations

import pytest

from actors import ExitReason
from tests.faults.harness import Case, close, fails, frame, parametrize, run, sends, survives, text
from tests.raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, encode, encode_close

pytestmark = pytest.mark.every_runtime

KEY = bytes(4)
"""A masking key that changes nothing, for frames that are written by hand."""


def declares(length: int, *, opcode: int = BINARY, payload: bytes = b"", width: int = 8) -> bytes:
    """A frame with its length in a field of ``width`` bytes, whether that is right or not."""
    field = 0x80 | (127 if width == 8 else 126)
    return bytes([0x80 | opcode, field]) + length.to_bytes(width, "big") + KEY + payload


def echoed(name: str, sent: bytes, *answers: bytes) -> Case:
    """What is unusual and right."""
    wire = b"".join(answers) + text("well?") + close(1000)
    return Case(name, survives(sent), wire, ExitReason.NORMAL)


@parametrize(
    fails("text", encode(TEXT, b"x", masked=False), 1002, "incorrect masking"),
    fails("an empty one", encode(TEXT, b"", masked=False), 1002, "incorrect masking"),
    fails("ping", encode(PING, b"x", masked=False), 1002, "incorrect masking"),
    fails("Close", encode(CLOSE, b"\x03\xe8", masked=False), 1002, "incorrect masking"),
    fails(
        "behind a masked one", encode(PONG) + encode(BINARY, b"x", masked=False), 1002, "incorrect masking"
    ),
)
async def test_an_unmasked_frame(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


@parametrize(
    *(
        fails(f"opcode {opcode}", encode(opcode, b"x"), 1002, "invalid opcode")
        for opcode in (0x3, 0x4, 0x5, 0x6, 0x7, 0xB, 0xC, 0xD, 0xE, 0xF)
    ),
    *(
        fails(f"bits {rsv:03b}", encode(TEXT, b"x", rsv=rsv), 1002, "reserved bits must be 0")
        for rsv in range(1, 8)
    ),
    fails("bit of a ping", encode(PING, b"x", rsv=4), 1002, "reserved bits must be 0"),
    fails("bit of a Close", encode(CLOSE, b"\x03\xe8", rsv=1), 1002, "reserved bits must be 0"),
    fails(
        "bit of a continuation",
        encode(TEXT, b"x", fin=False) + encode(CONTINUATION, b"y", rsv=4),
        1002,
        "reserved bits must be 0",
    ),
)
async def test_a_reserved_opcode_or_bit(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


@parametrize(
    fails(
        "2**63-1", declares(2**63 - 1), 1009, f"frame with {2**63 - 1} bytes exceeds limit of 1048576 bytes"
    ),
    fails("top bit", declares(2**63), 1009, f"frame with {2**63} bytes exceeds limit of 1048576 bytes"),
    fails(
        "2**64-1", declares(2**64 - 1), 1009, f"frame with {2**64 - 1} bytes exceeds limit of 1048576 bytes"
    ),
    fails(
        "2**64-1 of text",
        declares(2**64 - 1, opcode=TEXT),
        1009,
        f"frame with {2**64 - 1} bytes exceeds limit of 1048576 bytes",
    ),
    fails(
        "2**64-1 of a ping",
        declares(2**64 - 1, opcode=PING),
        1009,
        f"frame with {2**64 - 1} bytes exceeds limit of 1048576 bytes",
    ),
    fails(
        "one byte too many",
        declares(2**20 + 1),
        1009,
        "frame with 1048577 bytes exceeds limit of 1048576 bytes",
    ),
    echoed("the most", encode(BINARY, b"x" * 2**20), frame(BINARY, b"x" * 2**20)),
    # The sender has to use the fewest bytes (section 5.2); a receiver need not mind.
    *(
        echoed(
            f"{size} in {width} bytes",
            declares(size, opcode=TEXT, payload=b"x" * size, width=width),
            text("x" * size),
        )
        for size, width in ((0, 2), (5, 2), (125, 2), (0, 8), (125, 8), (65_535, 8))
    ),
    echoed(
        "a ping of 5 in 2 bytes", declares(5, opcode=PING, payload=b"hello", width=2), frame(PONG, b"hello")
    ),
)
async def test_a_length(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


@parametrize(
    *(
        fails(f"opcode {opcode} of {size}", encode(opcode, b"x" * size), 1002, "control frame too long")
        for opcode in (CLOSE, PING, PONG)
        for size in (126, 70_000)
    ),
    *(
        fails(f"opcode {opcode} fragmented", encode(opcode, fin=False), 1002, "fragmented control frame")
        for opcode in (CLOSE, PING, PONG)
    ),
    echoed("a ping of 125", encode(PING, b"x" * 125), frame(PONG, b"x" * 125)),
    echoed(
        "a ping in a fragmented message",
        encode(TEXT, b"a", fin=False) + encode(PING, b"!") + encode(CONTINUATION, b"b"),
        frame(PONG, b"!"),
        text("ab"),
    ),
)
async def test_a_control_frame(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


@parametrize(
    fails("CONT first", encode(CONTINUATION, b"x"), 1002, "unexpected continuation frame"),
    fails("open CONT first", encode(CONTINUATION, b"x", fin=False), 1002, "unexpected continuation frame"),
    fails(
        "CONT behind a whole message",
        encode(TEXT, b"x") * 0
        + encode(TEXT, b"a", fin=False)
        + encode(CONTINUATION, b"b")
        + encode(CONTINUATION, b"c"),
        1002,
        "unexpected continuation frame",
    ),
    *(
        fails(
            f"{name} inside a fragmented message",
            encode(TEXT, b"x", fin=False) + encode(opcode, b"y"),
            1002,
            "expected a continuation frame",
        )
        for name, opcode in (("TEXT", TEXT), ("BINARY", BINARY))
    ),
    *(
        Case(
            f"Close inside a fragmented message, behind {size} bytes",
            sends(encode(TEXT, b"x" * size, fin=False) + encode_close(1000, "bye")),
            close(1000, "bye"),
            ExitReason.NORMAL,
        )
        for size in (1, 500)
    ),
)
async def test_an_order_of_fragments(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)
