from __future__ import annotations

import json
import math
import struct
import sys
import tracemalloc
from collections.abc import Iterable
from dataclasses import FrozenInstanceError

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actors.codecs import (
    Codec,
    JsonCodec,
    MsgpackCodec,
    RawCodec,
    choose_codec,
    codec_named,
    offered_subprotocols,
)
from actors.errors import InvalidData, PayloadRefused, PayloadTooBig, UnsupportedData

SECRET = "hunter2"

text = st.text(st.characters(exclude_categories=["Cs"]))
any_text = st.text(st.characters())
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda children: st.lists(children) | st.dictionaries(text, children),
)
msgpack_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | text
    | st.binary()
    | st.builds(msgpack.Timestamp, st.integers(-(2**63), 2**63 - 1), st.integers(0, 999_999_999)),
    lambda children: st.lists(children) | st.dictionaries(text | st.binary(), children),
)
json_pieces = st.lists(
    st.sampled_from(
        [
            "[",
            "]",
            "{",
            "}",
            ",",
            ":",
            '"',
            "\\",
            "\\ud800",
            "\\udc00",
            "u",
            "1",
            "-",
            "e9999",
            ".",
            "NaN",
            "Infinity",
            "null",
            "true",
            " ",
            "\ufeff",
            "\x00",
            "é",
            "\ud800",
            "9" * 5000,
            "[" * 2000,
            '{"":' * 2000,
        ]
    )
).map("".join)
msgpack_pieces = st.lists(
    st.binary(min_size=1, max_size=1)
    | st.sampled_from(
        [b"\x91" * 2000, b"\x81\xa0" * 2000, b"\xdd\x00\x00\x10\x00" * 300, b"\xd6\xff", b"\xc7\x0c\xff"]
    )
).map(b"".join)


def refusal(codec: Codec, data: str | bytes) -> PayloadRefused:
    with pytest.raises(PayloadRefused) as caught:
        codec.decode(data)
    assert type(caught.value) is not PayloadRefused
    assert 0 < len(str(caught.value).encode()) <= 123
    return caught.value


def nested(kinds: Iterable[type], innermost: object) -> object:
    value = innermost
    for kind in kinds:
        value = [value] if kind is list else {"k": value}
    return value


def refusal_and_peak_memory(codec: Codec, data: bytes) -> tuple[PayloadRefused, int]:
    tracemalloc.start()
    try:
        return refusal(codec, data), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# raw


@pytest.mark.parametrize("payload", ["", "héllo", b"", b"\x00\xff"])
def test_raw_passes_text_and_bytes_through(payload: str | bytes) -> None:
    codec = RawCodec()

    assert codec.encode(payload) is payload
    assert codec.decode(payload) is payload


@pytest.mark.parametrize("buffer", [bytearray(b"abc"), memoryview(b"abc"), memoryview(b"a-b-c-")[::2]])
def test_raw_sends_other_buffers_as_bytes(buffer: object) -> None:
    sent = RawCodec().encode(buffer)

    assert type(sent) is bytes
    assert sent == b"abc"


@pytest.mark.parametrize("message", [{"a": 1}, [], None, 1])
def test_raw_names_the_codecs_that_could_send_an_object(message: object) -> None:
    with pytest.raises(TypeError, match=r"codec 'raw' .* not \w+; .* codec='json' or codec='msgpack' can"):
        RawCodec().encode(message)


# JSON


@given(json_values)
def test_json_gives_back_what_was_sent(value: object) -> None:
    codec = JsonCodec(max_depth=None, max_size=None)

    assert codec.decode(codec.encode(value)) == value


def test_json_is_compact_and_not_escaped() -> None:
    assert JsonCodec().encode({"é": [1, 2.5, None, (True,)]}) == '{"é":[1,2.5,null,[true]]}'


@given(any_text | json_pieces | st.binary())
@example("[" * 100_000)
@example('{"":' * 100_000)
@example("[" + "9" * 5000 + "]")
@example("\ud800")
@example("")
@example("\ufeff1")
def test_json_accepts_or_refuses_but_never_crashes(data: str | bytes) -> None:
    codec = JsonCodec()

    reason = ""
    try:
        value = codec.decode(data)
    except PayloadRefused as error:
        reason = str(error)
    else:
        assert codec.decode(codec.encode(value)) == value

    assert len(reason.encode()) <= 123


def test_json_refuses_a_binary_message() -> None:
    error = refusal(JsonCodec(), b"{}")

    assert type(error) is UnsupportedData
    assert "text message" in str(error)


@pytest.mark.parametrize(
    "data",
    [
        "", " ", "{", "[1,]", "{'a':1}", '"\x00"', "1 2", "01", "nul", "\ufeff1",
        "NaN", "[Infinity]", "-Infinity", "1e999", "[-1.0e400]", "1" * 400 + ".0",
        "9" * 5000, "[" * 100_000, '{"a":' * 100_000,
        r'"\ud800"', r'["\uDC00"]', r'{"\ud83d":1}', r'"\ude00\ud83d"', '"\ud800"', "\udcff",
    ],
)  # fmt: skip
def test_json_refuses_what_is_not_valid(data: str) -> None:
    assert type(refusal(JsonCodec(), data)) is InvalidData
    assert type(refusal(JsonCodec(max_depth=None, max_size=None), data)) is InvalidData


def test_json_tells_where_the_text_is_malformed_but_not_what_it_says() -> None:
    error = refusal(JsonCodec(), f'["{SECRET}", {SECRET}]')

    assert str(error) == "JSON: malformed at character 12"


@pytest.mark.parametrize(
    ("data", "value"),
    [(r'"\ud83d\ude00"', "😀"), (r'"\\ud800"', r"\ud800"), ('"😀"', "😀"), ("1e300", 1e300), ("-0.0", -0.0)],
)
def test_json_accepts_what_only_looks_invalid(data: str, value: object) -> None:
    assert JsonCodec().decode(data) == value


def test_json_accepts_a_message_of_exactly_the_largest_size() -> None:
    codec = JsonCodec(max_size=10)

    assert codec.decode('"' + "é" * 8 + '"') == "é" * 8
    assert type(refusal(codec, '"' + "é" * 9 + '"')) is PayloadTooBig


def test_json_refuses_more_than_a_mebibyte_by_default() -> None:
    codec = JsonCodec()

    assert codec.decode("1" + " " * 1_048_575) == 1
    assert type(refusal(codec, "1" + " " * 1_048_576)) is PayloadTooBig
    assert JsonCodec(max_size=None).decode("1" + " " * 1_048_576) == 1


@given(st.lists(st.sampled_from([list, dict]), min_size=1, max_size=80), st.sampled_from([1, "[[{{", [], {}]))
def test_json_counts_the_depth_of_arrays_and_objects(kinds: list[type], innermost: object) -> None:
    data = JsonCodec().encode(nested(kinds, innermost))
    depth = len(kinds) + isinstance(innermost, list | dict)

    assert JsonCodec(max_depth=depth).decode(data) == json.loads(data)
    if depth > 1:
        assert type(refusal(JsonCodec(max_depth=depth - 1), data)) is InvalidData


def test_json_accepts_64_levels_by_default() -> None:
    codec = JsonCodec()

    codec.decode("[" * 64 + "]" * 64)
    assert "64 deep" in str(refusal(codec, "[" * 65 + "]" * 65))
    JsonCodec(max_depth=None).decode("[" * 65 + "]" * 65)


def test_json_does_not_count_siblings_or_brackets_in_strings_as_depth() -> None:
    value = [[{"a": "[[{{" * 100}] for _ in range(100)]
    codec = JsonCodec(max_depth=3)

    assert codec.decode(codec.encode(value)) == value


@pytest.mark.parametrize("value", ["text", 1, None])
def test_json_accepts_a_message_that_is_no_container(value: object) -> None:
    codec = JsonCodec(max_depth=1)

    assert codec.decode(codec.encode(value)) == value


@pytest.mark.parametrize("message", [object(), b"bytes", {1, 2}, [object()], {(1, 2): 3}])
def test_json_names_itself_when_a_type_cannot_be_sent(message: object) -> None:
    with pytest.raises(TypeError, match=rf"^codec 'json' cannot send this {type(message).__qualname__}: "):
        JsonCodec().encode(message)


@pytest.mark.parametrize("message", [math.nan, [math.inf], "\ud800", {"\udc00": 1}, [10**5000]])
def test_json_names_itself_when_a_value_cannot_be_sent(message: object) -> None:
    with pytest.raises(ValueError, match=rf"^codec 'json' cannot send this {type(message).__qualname__}: "):
        JsonCodec().encode(message)


@pytest.mark.parametrize("codec", [JsonCodec(), MsgpackCodec()])
def test_a_cycle_or_too_deep_a_message_cannot_be_sent(codec: Codec) -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    deep = nested([list] * 100_000, 1)

    with pytest.raises(ValueError, match=f"^codec '{codec.name}' cannot send this list: "):
        codec.encode(cycle)
    with pytest.raises(ValueError, match=f"^codec '{codec.name}' cannot send this list: "):
        codec.encode(deep)


# MessagePack


@given(msgpack_values)
def test_msgpack_gives_back_what_was_sent(value: object) -> None:
    codec = MsgpackCodec(max_depth=None, max_size=None)

    assert codec.decode(codec.encode(value)) == value


@given(st.binary() | msgpack_pieces | any_text)
@example(b"")
@example(b"\xc1")
@example(b"\x91" * 100_000)
@example(b"\x81\x91\x01\x02")
@example(b"\xd7\xff" + b"\xff" * 8)
@example(b"\xd4\xff\x00")
def test_msgpack_accepts_or_refuses_but_never_crashes(data: str | bytes) -> None:
    codec = MsgpackCodec()

    reason = ""
    try:
        value = codec.decode(data)
    except PayloadRefused as error:
        reason = str(error)
    else:
        assert codec.encode(codec.decode(codec.encode(value))) == codec.encode(value)

    assert len(reason.encode()) <= 123


def test_msgpack_refuses_a_text_message() -> None:
    error = refusal(MsgpackCodec(), "{}")

    assert type(error) is UnsupportedData
    assert "binary message" in str(error)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xc1", id="reserved byte"),
        pytest.param(b"\x01\x02", id="trailing byte"),
        pytest.param(b"\xa2a", id="incomplete string"),
        pytest.param(b"\x92\x01", id="incomplete array"),
        pytest.param(b"\x92\x01" + b"\xda\x08\x00" + b"a" * 2000, id="incomplete, over 1 KiB"),
        pytest.param(b"\xa1\xff", id="not UTF-8"),
        pytest.param(b"\xa3\xed\xa0\x80", id="surrogate"),
        pytest.param(b"\x81\x01\x02", id="integer key"),
        pytest.param(b"\x81\x91\x01\x02", id="array key"),
        pytest.param(b"\xd4\x05\x00", id="unknown extension"),
        pytest.param(b"\x91\xc7\x01\x7f\x00", id="unknown extension inside"),
        pytest.param(b"\xd4\xff\x00", id="timestamp of one byte"),
        pytest.param(b"\xd7\xff" + b"\xff" * 8, id="timestamp with too many nanoseconds"),
        pytest.param(b"\x91" * 100_000, id="incomplete and deep"),
        pytest.param(b"\x91" * 5000 + b"\x01", id="complete and deep"),
    ],
)
def test_msgpack_refuses_what_is_not_valid(data: bytes) -> None:
    assert type(refusal(MsgpackCodec(), data)) is InvalidData
    assert type(refusal(MsgpackCodec(max_depth=None, max_size=None), data)) is InvalidData


@pytest.mark.parametrize(
    "data", [b"\xa8\xff" + SECRET.encode(), b"\xa7" + SECRET.encode() * 2, b"\xc7\x07\x05" + SECRET.encode()]
)
def test_msgpack_does_not_repeat_the_payload(data: bytes) -> None:
    assert SECRET not in str(refusal(MsgpackCodec(), data))


@pytest.mark.parametrize("header", [b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9"])
def test_msgpack_allocates_nothing_for_a_header_that_claims_gigabytes(header: bytes) -> None:
    bomb = header + b"\xff\xff\xff\xff"

    for data in (bomb, b"\x92" + bomb, b"\x92" + bomb + b"\x00" * 5):
        error, peak = refusal_and_peak_memory(MsgpackCodec(max_size=None), data)
        assert type(error) is InvalidData
        assert peak < 100_000


@pytest.mark.parametrize("size", [1024, 65_000, 1_048_576])
def test_msgpack_builds_nothing_for_nested_headers_that_each_claim_the_whole_payload(size: int) -> None:
    bomb = (b"\xdd" + struct.pack(">I", size - 1)) * min(1000, size // 5)
    bomb += b"\x01" * (size - len(bomb))

    error, peak = refusal_and_peak_memory(MsgpackCodec(), bomb)

    assert type(error) is InvalidData
    assert peak < 4 * 1_048_576  # the lists of the largest one: 8 GiB


def test_msgpack_accepts_a_message_of_exactly_the_largest_size() -> None:
    codec = MsgpackCodec(max_size=10)

    assert codec.decode(b"\xa9" + b"a" * 9) == "a" * 9
    assert type(refusal(codec, b"\xaa" + b"a" * 10)) is PayloadTooBig


def test_msgpack_refuses_more_than_a_mebibyte_by_default() -> None:
    codec = MsgpackCodec()
    largest = codec.encode(b"a" * (1_048_576 - 5))
    larger = codec.encode(b"a" * (1_048_576 - 4))

    assert len(largest) == 1_048_576
    codec.decode(largest)
    assert type(refusal(codec, larger)) is PayloadTooBig
    MsgpackCodec(max_size=None).decode(larger)


@given(
    st.lists(st.sampled_from([list, dict]), min_size=1, max_size=80),
    st.sampled_from([1, b"\x91" * 99, [], {}]),
)
def test_msgpack_counts_the_depth_of_arrays_and_maps(kinds: list[type], innermost: object) -> None:
    data = MsgpackCodec().encode(nested(kinds, innermost))
    depth = len(kinds) + isinstance(innermost, list | dict)

    assert MsgpackCodec(max_depth=depth).decode(data) == nested(kinds, innermost)
    if depth > 1:
        assert type(refusal(MsgpackCodec(max_depth=depth - 1), data)) is InvalidData


def test_msgpack_accepts_64_levels_by_default() -> None:
    codec = MsgpackCodec()

    codec.decode(b"\x91" * 63 + b"\x90")
    assert "64 deep" in str(refusal(codec, b"\x91" * 64 + b"\x90"))
    MsgpackCodec(max_depth=None).decode(b"\x91" * 64 + b"\x90")


@pytest.mark.parametrize("size", [15, 16, 65_535, 65_536])
@pytest.mark.parametrize("kind", [list, dict])
def test_msgpack_sees_depth_behind_every_header(kind: type, size: int) -> None:
    inner = {str(i): i for i in range(size)} if kind is dict else [*range(size)]
    data = MsgpackCodec().encode([inner])

    assert MsgpackCodec(max_depth=2).decode(data) == [inner]
    assert type(refusal(MsgpackCodec(max_depth=1), data)) is InvalidData


def test_msgpack_keeps_timestamps() -> None:
    moment = msgpack.Timestamp(1, 5)

    assert MsgpackCodec().decode(MsgpackCodec().encode([moment])) == [moment]


@pytest.mark.parametrize("message", [object(), [object()], {1, 2}])
def test_msgpack_names_itself_when_a_type_cannot_be_sent(message: object) -> None:
    with pytest.raises(TypeError, match=rf"^codec 'msgpack' cannot send this {type(message).__qualname__}: "):
        MsgpackCodec().encode(message)


@pytest.mark.parametrize("message", [2**64, [-(2**63) - 1], "\ud800"])
def test_msgpack_names_itself_when_a_value_cannot_be_sent(message: object) -> None:
    with pytest.raises(
        ValueError, match=rf"^codec 'msgpack' cannot send this {type(message).__qualname__}: "
    ):
        MsgpackCodec().encode(message)


# options


@pytest.mark.parametrize("kind", [JsonCodec, MsgpackCodec])
@pytest.mark.parametrize("option", ["max_size", "max_depth"])
def test_a_limit_must_be_a_positive_int_or_none(kind: type, option: str) -> None:
    for accepted in (1, sys.maxsize, None):
        assert getattr(kind(**{option: accepted}), option) == accepted
    for too_small in (0, -1):
        with pytest.raises(ValueError, match=rf"{kind.__name__}\({option}={too_small}\): {option} must be"):
            kind(**{option: too_small})
    for refused in (True, 1.0, "1"):
        with pytest.raises(TypeError, match=rf"{kind.__name__}\({option}={refused!r}\): {option} must be"):
            kind(**{option: refused})


@pytest.mark.parametrize("kind", [JsonCodec, MsgpackCodec])
def test_limits_are_keyword_only(kind: type) -> None:
    with pytest.raises(TypeError, match="positional"):
        kind(10)


@pytest.mark.parametrize("codec", [JsonCodec(), MsgpackCodec()])
def test_a_codec_cannot_be_changed(codec: Codec) -> None:
    with pytest.raises(FrozenInstanceError):
        codec.max_size = 1  # type: ignore[attr-defined]  # that is what is tested
    assert not hasattr(codec, "__dict__")


# choosing


class Upper:
    name = "upper"

    def encode(self, message: object) -> str:
        return str(message).upper()

    def decode(self, data: str | bytes) -> object:
        return data


def test_a_codec_is_found_by_its_name() -> None:
    assert codec_named("raw") == RawCodec()
    assert codec_named("json") == JsonCodec()
    assert codec_named("msgpack") == MsgpackCodec()


@pytest.mark.parametrize("codec", [RawCodec(), JsonCodec(max_size=5), Upper()])
def test_a_codec_is_taken_as_it_is(codec: Codec) -> None:
    assert codec_named(codec) is codec


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"codec='yaml' .* 'raw', 'json', 'msgpack'"):
        codec_named("yaml")


@pytest.mark.parametrize("codec", [None, 1, object(), json, {"a": "json"}])
def test_what_is_not_a_codec_is_refused(codec: object) -> None:
    with pytest.raises(TypeError, match=rf"codec must be .* not {type(codec).__qualname__}"):
        codec_named(codec)  # type: ignore[arg-type]  # that is what is tested


def test_a_codec_class_is_answered_with_its_call() -> None:
    with pytest.raises(TypeError, match=r"write JsonCodec\(\)"):
        codec_named(JsonCodec)  # type: ignore[arg-type]  # that is what is tested


@pytest.mark.parametrize("subprotocol", [None, "v1.json"])
def test_one_codec_serves_every_subprotocol(subprotocol: str | None) -> None:
    assert choose_codec("json", subprotocol) == JsonCodec()
    assert offered_subprotocols("json") == ()


def test_a_mapping_chooses_by_subprotocol() -> None:
    mine = Upper()
    codec: dict[str | None, str | Codec] = {"v2": "msgpack", None: "raw", "v1": mine}

    assert choose_codec(codec, "v2") == MsgpackCodec()
    assert choose_codec(codec, "v1") is mine
    assert choose_codec(codec, None) == RawCodec()
    assert offered_subprotocols(codec) == ("v2", "v1")


def test_a_mapping_without_the_subprotocol_names_those_it_has() -> None:
    with pytest.raises(LookupError, match="no entry for subprotocol 'v3', only for 'v1', None"):
        choose_codec({"v1": "json", None: "raw"}, "v3")
    with pytest.raises(LookupError, match="without subprotocol, only for 'v1'; the key None is for that"):
        choose_codec({"v1": "json"}, None)


def test_a_mapping_may_not_name_an_unknown_codec() -> None:
    with pytest.raises(ValueError, match="codec='yaml'"):
        choose_codec({"v1": "yaml"}, "v1")
