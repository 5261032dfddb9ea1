"""Close codes and reasons: what may be sent, and how a text of ours is cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ProtocolError
from websockets.frames import Close

from actors.codes import MAX_REASON, CloseCode, CodeKind, check_close, fit_reason, kind_of

SENDABLE = {*range(1000, 1004), *range(1007, 1010), *range(1011, 1015), *range(3000, 5000)}


def accepted(code: int) -> bool:
    try:
        check_close(code, "")
    except ValueError:
        return False
    return True


def valid_for_websockets(code: int) -> bool:
    try:
        Close(code, "").check()
    except ProtocolError:
        return False
    return True


def test_exactly_the_sendable_codes_are_accepted() -> None:
    assert {code for code in range(-1, 5001) if accepted(code)} == SENDABLE


def test_every_code_has_a_kind() -> None:
    kinds = {kind: [code for code in range(5001) if kind_of(code) is kind] for kind in CodeKind}

    assert kinds == {
        CodeKind.STANDARD: [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 1014],
        CodeKind.CLIENT_ONLY: [1010],
        CodeKind.LOCAL_ONLY: [1005, 1006, 1015],
        CodeKind.RESERVED: [1004, *range(1016, 3000)],
        CodeKind.REGISTERED: list(range(3000, 4000)),
        CodeKind.PRIVATE: list(range(4000, 5000)),
        CodeKind.INVALID: [*range(1000), 5000],
    }


def test_a_peer_takes_every_code_that_we_send() -> None:
    # A client may send one more, 1010, and we take it.
    assert {code for code in range(5001) if valid_for_websockets(code)} == SENDABLE | {1010}


def test_the_names_are_those_of_the_registry() -> None:
    assert {code for code in range(1000, 1016) if code != 1004} == set(CloseCode)
    check_close(CloseCode.GOING_AWAY, "an IntEnum is an int")


@pytest.mark.parametrize("character", ["a", "é", "€", "😀"])
@pytest.mark.parametrize("size", [122, 123, 124])
def test_a_reason_is_measured_in_bytes_and_never_cut_for_a_caller(character: str, size: int) -> None:
    reason = "x" * (size - len(character.encode())) + character

    if size <= MAX_REASON:
        check_close(1000, reason)
        assert fit_reason(reason) == reason
    else:
        with pytest.raises(ValueError, match="reason: 124 bytes of UTF-8, at most 123 fit"):
            check_close(1000, reason)
        assert fit_reason(reason) == reason[:-1]


@pytest.mark.parametrize("before", range(4))
def test_a_long_text_of_ours_is_cut_before_the_character_that_does_not_fit(before: int) -> None:
    text = "x" * before + "😀" * 40

    cut = fit_reason(text)

    assert text.startswith(cut)
    assert MAX_REASON - 4 < len(cut.encode()) <= MAX_REASON


@given(st.text(max_size=200).map(lambda text: text * 2))
def test_a_cut_text_is_the_longest_beginning_that_fits(text: str) -> None:
    cut = fit_reason(text)

    check_close(1000, cut)
    assert text.startswith(cut)
    assert cut == text or len(text[: len(cut) + 1].encode()) > MAX_REASON


@given(st.text(st.characters(categories=None), max_size=200))
def test_any_text_at_all_fits_in_the_end(text: str) -> None:
    check_close(1000, fit_reason(text))


@pytest.mark.parametrize("code", [True, "1000", 1000.0, None, b"1000"])
def test_a_code_of_another_type_is_a_type_error(code: Any) -> None:
    with pytest.raises(TypeError, match=f"code: a close code is an int, not {type(code).__name__}"):
        check_close(code, "")


@pytest.mark.parametrize("reason", [None, b"bye", 5])
def test_a_reason_of_another_type_is_a_type_error(reason: Any) -> None:
    with pytest.raises(TypeError, match=f"reason: a close reason is a str, not {type(reason).__name__}"):
        check_close(1000, reason)


def test_a_lone_surrogate_in_a_reason_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="reason: not encodable as UTF-8"):
        check_close(1000, "\ud800")
