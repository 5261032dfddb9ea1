"""The frozen messages and reports that actors, refs and supervisors exchange."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus

from actors.codes import CloseCode, check_close
from actors.seconds import check_seconds


class Initiator(StrEnum):
    """The side that began the close of a connection."""

    LOCAL = "local"
    """This side: the actor, a policy, a supervisor, or an answer to a broken protocol."""
    PEER = "peer"
    """The other side sent the first Close frame."""
    TRANSPORT = "transport"
    """Nobody: the stream ended without a Close frame."""


class ExitReason(StrEnum):
    """The reason why an actor ended.  ``close_code`` is the code that tells it to the peer."""

    __hash__ = str.__hash__  # an Enum's own hashes the name, in Python

    NORMAL = "normal"
    SHUTDOWN = "shutdown"
    """Its supervisor stopped it."""
    GOING_AWAY = "going away"
    IDLE = "idle timeout"
    LIFETIME = "lifetime reached"
    KICKED = "kicked"
    PROTOCOL_ERROR = "protocol error"
    UNSUPPORTED_DATA = "unsupported data"
    INVALID_DATA = "invalid data"
    POLICY_VIOLATION = "policy violation"
    TOO_BIG = "message too big"
    CRASH = "crash"
    HANDLER_TIMEOUT = "handler timeout"
    HEARTBEAT_LOST = "heartbeat lost"
    DRAIN = "drain"
    OVERLOAD = "overload"
    CONNECTION_LOST = "connection lost"
    """The stream ended without a closing handshake."""

    @property
    def close_code(self) -> CloseCode:
        """The close code that a server sends for this reason."""
        return _CODE_OF[self]

    @property
    def abnormal(self) -> bool:
        """Tell whether a supervisor counts this end as a failure (OTP: neither normal nor shutdown)."""
        return self in _ABNORMAL

    @classmethod
    def of_code(cls, code: int) -> ExitReason:
        """The exit reason that a close with ``code`` stands for."""
        return _REASON_OF.get(code, cls.NORMAL)


_R = ExitReason
_CODE_OF = {
    _R.NORMAL: CloseCode.NORMAL_CLOSURE,
    _R.SHUTDOWN: CloseCode.GOING_AWAY,
    _R.GOING_AWAY: CloseCode.GOING_AWAY,
    _R.IDLE: CloseCode.GOING_AWAY,
    _R.LIFETIME: CloseCode.GOING_AWAY,
    _R.KICKED: CloseCode.GOING_AWAY,
    _R.PROTOCOL_ERROR: CloseCode.PROTOCOL_ERROR,
    _R.UNSUPPORTED_DATA: CloseCode.UNSUPPORTED_DATA,
    _R.INVALID_DATA: CloseCode.INVALID_DATA,
    _R.POLICY_VIOLATION: CloseCode.POLICY_VIOLATION,
    _R.TOO_BIG: CloseCode.MESSAGE_TOO_BIG,
    _R.CRASH: CloseCode.INTERNAL_ERROR,
    _R.HANDLER_TIMEOUT: CloseCode.INTERNAL_ERROR,
    _R.HEARTBEAT_LOST: CloseCode.INTERNAL_ERROR,
    _R.DRAIN: CloseCode.SERVICE_RESTART,
    _R.OVERLOAD: CloseCode.TRY_AGAIN_LATER,
    _R.CONNECTION_LOST: CloseCode.ABNORMAL_CLOSURE,
}
_REASON_OF = {
    1001: _R.GOING_AWAY,
    1002: _R.PROTOCOL_ERROR,
    1003: _R.UNSUPPORTED_DATA,
    1007: _R.INVALID_DATA,
    1008: _R.POLICY_VIOLATION,
    1009: _R.TOO_BIG,
    1012: _R.DRAIN,
    1013: _R.OVERLOAD,
}
_ABNORMAL = frozenset({_R.CRASH, _R.HANDLER_TIMEOUT})


@dataclass(frozen=True, slots=True)
class Close:
    """The message that closes a connection: what our Close frame says, and when it is sent.

    ``drain``: behind the messages that are queued already.  ``notice``: a data message sent first;
    the peer then has ``grace`` seconds to close by itself.  Raises ``ValueError`` or ``TypeError``
    when it is made with something that cannot be sent.
    """

    code: int = CloseCode.NORMAL_CLOSURE
    reason: str = ""
    drain: bool = False
    notice: object = None
    grace: float = 5.0
    exit_reason: ExitReason | None = None

    def __post_init__(self) -> None:
        check_close(self.code, self.reason)
        if self.notice is not None or self.grace != 5.0:
            check_seconds("grace", self.grace, zero=True, off=False)


@dataclass(frozen=True, slots=True)
class CloseReport:
    """The end of a connection: who began it, what was sent and received, what was counted.

    ``code`` and ``reason`` are those of the side that began: sent for ``LOCAL``, received for
    ``PEER`` (1005 for an empty Close frame), 1006 for ``TRANSPORT``.  ``clean``: both Close frames
    were exchanged (RFC 6455, section 7.1.4).  ``sent`` and ``received`` are (code, reason) of the
    Close frames on the wire, or ``None``.  ``opened_for`` and ``handshake_took`` are seconds: from
    101 to the begin of the close, and from there to the end of TCP.  ``undelivered`` counts
    messages that no hook saw: those still queued and those that arrived after the close began.
    """

    code: int
    reason: str
    initiator: Initiator
    clean: bool
    sent: tuple[int, str] | None
    received: tuple[int, str] | None
    exit_reason: ExitReason
    opened_for: float
    handshake_took: float
    messages_in: int
    messages_out: int
    undelivered: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Returned by ``on_upgrade``: answer the upgrade with this HTTP status instead of 101.

    ``reason`` is sent as the plain-text body; ``headers`` are added to the response.  Raises
    ``ValueError`` for a status that does not refuse (below 300 or above 599) or is unknown, for a header
    that cannot be sent or is about the connection, and ``TypeError`` for another type.
    """

    status: int
    reason: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.status, bool) or not isinstance(self.status, int):
            raise TypeError(f"status: an HTTP status as a number, not {self.status!r}")
        if not isinstance(self.reason, str):
            raise TypeError(f"reason: a str, not {self.reason!r}")
        try:
            self.reason.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"reason: not encodable as UTF-8: {error.reason}") from None
        if not isinstance(self.headers, Mapping):
            raise TypeError(f"headers: a mapping of names to values, not {self.headers!r}")
        object.__setattr__(self, "headers", dict(self.headers))  # what is checked is what is sent
        for name, value in self.headers.items():
            _check_header(name, value)
        if not 300 <= self.status <= 599 or self.status not in _KNOWN_STATUSES:
            raise ValueError(
                f"status: {self.status} does not refuse an upgrade; use a known HTTP status from 300 to 599"
            )


def _check_header(name: str, value: str) -> None:
    """Raise unless this is a field that may be added to a response (RFC 9110, section 5)."""
    if not isinstance(name, str) or not isinstance(value, str):
        raise TypeError(f"headers: names and values are str, not {name!r}: {value!r}")
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"headers: {name!r} is no name of a header")
    if name.lower() in ("connection", "content-length", "date", "transfer-encoding"):
        raise ValueError(f"headers: {name} is the server's to send")
    if not _FIELD.fullmatch(value):
        raise ValueError(f"headers: the value {value!r} of {name} has characters that no header may have")


_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FIELD = re.compile(r"(?:[!-~](?:[ \t!-~]*[!-~])?)?")
_KNOWN_STATUSES = frozenset(status.value for status in HTTPStatus)
