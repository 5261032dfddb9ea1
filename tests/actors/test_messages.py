"""Messages and reports: frozen, checked when they are made, and one exit reason for every code."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from http import HTTPStatus
from typing import Any

import pytest

from actors import CloseCode, ExitReason, Refusal
from actors.codes import check_close
from actors.messages import Close

# design.md, section 6
CODES = {
    1000: ["NORMAL"],
    1001: ["SHUTDOWN", "GOING_AWAY", "IDLE", "LIFETIME", "KICKED"],
    1002: ["PROTOCOL_ERROR"],
    1003: ["UNSUPPORTED_DATA"],
    1007: ["INVALID_DATA"],
    1008: ["POLICY_VIOLATION"],
    1009: ["TOO_BIG"],
    1011: ["CRASH", "HANDLER_TIMEOUT", "HEARTBEAT_LOST"],
    1012: ["DRAIN"],
    1013: ["OVERLOAD"],
}


def test_every_exit_reason_has_the_close_code_of_the_design() -> None:
    codes = {reason.name: reason.close_code for reason in ExitReason}

    assert codes.pop("CONNECTION_LOST") is CloseCode.ABNORMAL_CLOSURE
    assert codes == {name: code for code, names in CODES.items() for name in names}
    for code in codes.values():
        check_close(code, "")


def test_the_exit_reason_of_a_code_leads_back_to_it() -> None:
    for code in range(1000, 5000):
        reason = ExitReason.of_code(code)
        assert reason is ExitReason.NORMAL or reason.close_code == code


def test_a_supervisor_counts_only_crashes_as_failures() -> None:
    abnormal = {reason for reason in ExitReason if reason.abnormal}

    assert abnormal == {ExitReason.CRASH, ExitReason.HANDLER_TIMEOUT}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"code": 1005}, ValueError, "code: 1005 cannot be sent"),
        ({"code": 999}, ValueError, "code: 999 cannot be sent"),
        ({"code": True}, TypeError, "code: a close code is an int"),
        ({"reason": "x" * 124}, ValueError, "reason: 124 bytes"),
        ({"reason": "\udc80"}, ValueError, "reason: not encodable"),
        ({"reason": None}, TypeError, "reason: a close reason is a str"),
        ({"grace": -0.1}, ValueError, "grace: seconds, zero or more, not -0.1"),
        ({"grace": math.nan}, ValueError, "grace: seconds, zero or more, not nan"),
        ({"grace": "5"}, TypeError, "grace: seconds"),
        ({"grace": None}, TypeError, "grace: seconds"),
        ({"grace": math.inf}, ValueError, "grace: seconds, zero or more, not inf"),
        ({"grace": 10**400}, ValueError, "grace: seconds, zero or more"),
        ({"grace": True}, TypeError, "grace: seconds"),
    ],
)
def test_a_close_that_cannot_be_sent_names_the_option(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Close(**options)


def test_a_message_is_frozen() -> None:
    close = Close(1001, "bye")

    with pytest.raises(FrozenInstanceError):
        close.code = 1000  # type: ignore[misc]  # what is tested


@pytest.mark.parametrize("status", [-1, 0, 100, 101, 200, 204, 299, 600, 999])
def test_a_refusal_with_a_status_that_does_not_refuse_is_an_error(status: int) -> None:
    with pytest.raises(ValueError, match=f"status: {status} does not refuse an upgrade"):
        Refusal(status)


def test_a_refusal_takes_every_known_status_that_refuses() -> None:
    for status in HTTPStatus:
        if status >= 300:
            assert Refusal(status.value).status == status

    with pytest.raises(ValueError, match="status: 499 does not refuse"):
        Refusal(499)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"status": "403"}, TypeError, "status: an HTTP status"),
        ({"status": True}, TypeError, "status: an HTTP status"),
        ({"reason": None}, TypeError, "reason: a str"),
        ({"reason": b"no"}, TypeError, "reason: a str"),
        ({"reason": "\ud800"}, ValueError, "reason: not encodable as UTF-8"),
        ({"headers": [("X-A", "b")]}, TypeError, "headers: a mapping"),
        ({"headers": {"Retry-After": 5}}, TypeError, "headers: names and values are str"),
        ({"headers": {b"X-A": "b"}}, TypeError, "headers: names and values are str"),
        ({"headers": {"X A": "b"}}, ValueError, "headers: 'X A' is no name"),
        ({"headers": {"X-A\r\nX-B": "b"}}, ValueError, "is no name of a header"),
        ({"headers": {"": "b"}}, ValueError, "headers: '' is no name"),
        ({"headers": {"X-A": "b\r\nSet-Cookie: admin=1"}}, ValueError, "that no header may have"),
        ({"headers": {"X-A": "b\n"}}, ValueError, "that no header may have"),
        ({"headers": {"X-A": "\ud800"}}, ValueError, "that no header may have"),
        ({"headers": {"content-length": "3"}}, ValueError, "content-length is the server's to send"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, ValueError, "the server's to send"),
    ],
)
def test_a_refusal_that_cannot_be_sent_names_the_option(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Refusal(**{"status": 403, **options})


def test_the_headers_of_a_refusal_are_those_that_were_checked() -> None:
    headers = {"WWW-Authenticate": 'Basic realm="chat, tea"', "X-Empty": ""}
    refusal = Refusal(401, "who are you?", headers)

    headers["X-A"] = "b\r\nSet-Cookie: admin=1"

    assert refusal.headers == {"WWW-Authenticate": 'Basic realm="chat, tea"', "X-Empty": ""}
