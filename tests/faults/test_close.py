"""Closing handshakes as RFC 6455, sections 5.5.1 and 7, does not want them."""

from __future__ import annotations

import pytest

from actors import ExitReason, Initiator
from tests.faults.harness import Case, Closing, Scene, close, fails, parametrize, run, sends
from tests.raw import CLOSE, PING, TEXT, encode, encode_close

pytestmark = pytest.mark.every_runtime


def of(code: int, reason: bytes = b"") -> bytes:
    """A client's Close frame with any code and any bytes."""
    return encode(CLOSE, code.to_bytes(2, "big") + reason)


@parametrize(
    fails("1 byte", encode(CLOSE, b"\x03"), 1002, "close frame too short"),
    *(
        fails(f"code {code}", of(code), 1002, "invalid status code")
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    ),
    fails("bad UTF-8", of(1000, b"\xff"), 1007, "invalid start byte at position 0"),
    fails("half a character", of(1000, b"ab\xe2\x82"), 1007, "unexpected end of data at position 2"),
    fails("a surrogate", of(1000, b"\xed\xa0\x80"), 1007, "invalid continuation byte at position 0"),
    fails("too long a reason", of(1000, b"x" * 124), 1002, "control frame too long"),
)
async def test_a_wrong_close_frame(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


@parametrize(
    Case("0 bytes", sends(encode_close(None)), close(None), ExitReason.NORMAL),
    *(
        Case(f"code {code}", sends(encode_close(code, "bye")), close(code, "bye"), ExitReason.NORMAL)
        for code in (1000, 1001, 1003, 1007, 1010, 1011, 1014, 3000, 3999, 4000, 4999)
    ),
    Case("the longest reason", sends(of(1000, b"x" * 123)), close(1000, "x" * 123), ExitReason.NORMAL),
)
async def test_a_close_frame_is_answered_with_itself(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


async def both_at_once(scene: Scene) -> None:
    """Neither side has read the other's Close frame when it sends its own."""
    scene.attacked.close(4001, "ours")
    await scene.client.send_bytes(encode_close(4002, "theirs"))


async def ours_first(scene: Scene) -> None:
    await scene.client.send("close")
    await scene.client.frame()
    await scene.client.send_bytes(encode_close(4002, "theirs"))


async def ours_first_and_much_behind_the_answer(scene: Scene) -> None:
    await scene.client.send("close")
    await scene.client.frame()
    await scene.client.send_bytes(encode_close(4002, "theirs") + BEHIND)


BEHIND = encode(TEXT, b"x") + encode(PING, b"x") + encode_close(4003) + encode_close(None) + b"\xff" * 100
OURS = {"initiator": Initiator.LOCAL, "code": 4001, "received": (4002, "theirs"), "clean": True}
THEIRS = {"initiator": Initiator.PEER, "code": 4002, "received": (4002, "theirs"), "clean": True}


@parametrize(
    Case("at once", both_at_once, close(4001, "ours"), ExitReason.NORMAL, OURS),
    Case("ours first", ours_first, close(4001, "ours"), ExitReason.NORMAL, OURS, actor=Closing),
    Case(
        "theirs on the wire before ours is wanted",
        sends(encode(TEXT, b"close") + encode_close(4002, "theirs")),
        close(4002, "theirs"),
        ExitReason.NORMAL,
        THEIRS,
        actor=Closing,
    ),
)
async def test_two_closes_with_different_codes(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)


@parametrize(
    Case(
        "data and a second Close",
        sends(encode_close(4002, "theirs") + BEHIND),
        close(4002, "theirs"),
        ExitReason.NORMAL,
        THEIRS | {"messages_in": 0},
        actor=Closing,
    ),
    Case(
        "data and a second Close behind an answer",
        ours_first_and_much_behind_the_answer,
        close(4001, "ours"),
        ExitReason.NORMAL,
        OURS | {"messages_in": 1},
        actor=Closing,
    ),
)
async def test_what_comes_behind_the_peers_close(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await run(case, caplog)
