"""Text that is not UTF-8 (RFC 6455, section 8.1), in one frame, in several, and in the wrong place."""

from __future__ import annotations

import pytest

from actors import ExitReason
from tests.faults.harness import Case, close, fails, frame, parametrize, run, survives, text
from tests.raw import BINARY, CONTINUATION, TEXT, encode

pytestmark = pytest.mark.every_runtime

BAD = {
    "a lone continuation byte": (b"ab\x80", 2),
    "a byte that never is": (b"ab\xff", 2),
    "an overlong slash": (b"ab\xc0\xaf", 2),
    "an overlong NUL": (b"ab\xe0\x80\x80", 2),
    "a high surrogate": (b"ab\xed\xa0\x80", 2),
    "a low surrogate": (b"ab\xed\xbf\xbf", 2),
    "a pair of surrogates": (b"ab\xed\xa0\xbd\xed\xb8\x80", 2),
    "beyond U+10FFFF": (b"ab\xf4\x90\x80\x80", 2),
    "cut off": (b"ab\xe2\x82", 2),
    "cut off in the middle": (b"ab\xe2\x82cd", 2),
    "late in a large message": (b"a" * 70_000 + b"\xff", 70_000),
}


def in_fragments(payload: bytes) -> bytes:
    """A text message with a frame for each byte."""
    last = len(payload) - 1
    return b"".join(
        encode(CONTINUATION if index else TEXT, payload[index : index + 1], fin=index == last)
        for index in range(len(payload))
    )


@parametrize(
    *(
        fails(name, encode(TEXT, payload), 1007, f"invalid UTF-8 at position {position}")
        for name, (payload, position) in BAD.items()
    ),
    *(
        fails(f"{name}, split", in_fragments(payload), 1007, f"invalid UTF-8 at position {position}")
        for name, (payload, position) in BAD.items()
        if len(payload) < 100
    ),
    fails(
        "in the second message",
        encode(TEXT, b"good", fin=False) + encode(CONTINUATION) + encode(TEXT, b"\xff"),
        1007,
        "invalid UTF-8 at position 0",
    ),
)
async def test_text_that_is_none(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


EVERY_WIDTH = "a\u00e9\u20ac\U0001f600\0\ufffe\U0010ffff"


@parametrize(
    Case(
        "split inside of every character",
        survives(in_fragments(EVERY_WIDTH.encode())),
        text(EVERY_WIDTH) + text("well?") + close(1000),
        ExitReason.NORMAL,
    ),
    Case(
        "bytes that are no text in a binary message",
        survives(encode(BINARY, b"\xff\xed\xa0\x80")),
        frame(BINARY, b"\xff\xed\xa0\x80") + text("well?") + close(1000),
        ExitReason.NORMAL,
    ),
)
async def test_what_only_looks_wrong(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)
