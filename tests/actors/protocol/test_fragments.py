"""A message in pieces: what of it has come, and how it is put together."""

from __future__ import annotations

import pytest

from actors.protocol.fastlane import read_fragments
from actors.protocol.fragments import Fragments, joined
from tests.raw import BINARY, CONTINUATION, TEXT, encode


def test_pieces_are_joined_and_a_character_may_be_cut_between_two() -> None:
    euro = "€".encode()

    assert joined([euro[:1], b"", euro[1:]], text=True) == "€"
    assert joined([euro[:1], b"", euro[1:]], text=False) == euro
    with pytest.raises(UnicodeDecodeError):
        joined([euro[:1], b"x"], text=True)


def test_small_fragments_are_added_until_the_last_one_gives_the_message() -> None:
    fragments = Fragments(text=True)
    data = encode(TEXT, b"ab", fin=False) + encode(CONTINUATION, b"c", fin=False)

    assert read_fragments(data, 0, fragments, 10, 10) == (len(data), None)
    assert (fragments.pieces, fragments.size) == ([b"ab", b"c"], 3)
    data = b"behind it" + encode(CONTINUATION, b"d") + encode(TEXT, b"next", fin=False)

    assert read_fragments(data, len(b"behind it"), fragments, 10, 10) == (len(b"behind it") + 7, "abcd")


@pytest.mark.parametrize(
    ("last", "max_message", "max_fragments"),
    [
        (encode(CONTINUATION, b"xx"), 2, 10),
        (encode(CONTINUATION, b"x"), 10, 1),
        (encode(CONTINUATION, b"\xff"), 10, 10),
        (encode(CONTINUATION, b"x" * 126), 1000, 10),
        (encode(CONTINUATION, b"x")[:-1], 10, 10),
        (encode(CONTINUATION, b"x", masked=False), 10, 10),
        (encode(BINARY, b"x", fin=False), 10, 10),
    ],
    ids=["too large", "one too many", "no text", "a large one", "not whole", "no mask", "another message"],
)
def test_what_is_no_small_fragment_within_the_limits_is_left_to_the_protocol(
    last: bytes, max_message: int, max_fragments: int
) -> None:
    fragments = Fragments(text=True)
    first = encode(TEXT, b"a", fin=False)

    assert read_fragments(first + last, 0, fragments, max_message, max_fragments) == (len(first), None)

    assert (fragments.pieces, fragments.size) == ([b"a"], 1)
