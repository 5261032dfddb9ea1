"""What a message counts, whoever chose what is in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import pytest

from actors.sizes import ITEM, is_small, size_of

MOST = 1 << 20


class Colour(Enum):
    RED = "red"


class Pair(NamedTuple):
    name: str
    value: Any


@dataclass
class Said:
    text: str
    of: object = None


class Unknown:
    def __init__(self) -> None:
        self.held = "x" * 5000


@pytest.mark.parametrize(
    ("message", "size"),
    [
        ("é€", 2),
        (b"abc", 3),
        (bytearray(b"ab"), 2),
        ("", 0),
        (None, 0),
        (5, 0),
        (2.5, 0),
        (1 << 640, 80),
        ([1, 2, 3], 3 * ITEM),
        (("a", b"bc"), 3 + 2 * ITEM),
        ({"ab": ["cd", []]}, 4 + 4 * ITEM),
        ({1, 2}, 2 * ITEM),
        (Pair("ab", None), 2 + 2 * ITEM),
        (Said("abc", Colour.RED), 3 + 2 * ITEM),
        (Unknown(), 0),
        ([Unknown()], ITEM),
    ],
)
def test_text_bytes_and_what_containers_are_made_of_count(message: object, size: int) -> None:
    assert size_of(message, MOST) == size


def test_a_decoded_tree_counts_about_what_it_was_on_the_wire() -> None:
    for text in ("[" + "[]," * 100_000 + "[]]", json.dumps([{"name": "Ada", "age": 36}] * 5000)):
        assert len(text) / 3 < size_of(json.loads(text), 10 * MOST) < len(text) * 3


def test_no_more_is_looked_at_than_matters() -> None:
    endless: list[Any] = [1]
    endless.append(endless)
    wide: list[Any] = []
    for _ in range(100):
        wide = [wide, wide]

    assert size_of(endless, MOST) > MOST
    assert size_of(wide, MOST) > MOST
    assert not is_small(endless, MOST)


@pytest.mark.parametrize("message", ["x" * 100, ["x" * 92], None, 7, Said("x" * 84), Colour.RED])
def test_what_is_known_to_be_small_is_small(message: object) -> None:
    assert is_small(message, 100)


@pytest.mark.parametrize("message", ["x" * 101, ["x" * 93], Said("x" * 85), Unknown(), [Unknown()], print])
def test_what_is_larger_or_of_a_kind_that_nobody_can_count_is_not_small(message: object) -> None:
    assert not is_small(message, 100)
