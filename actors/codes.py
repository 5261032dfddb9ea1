"""Close codes and reasons: what they mean and which of them may be sent.

The rules of this file:

* RFC 6455, section 7.4: 1005, 1006 and 1015 are never put on the wire; 1004 and 1016-2999 are
  reserved; 3000-3999 are registered by libraries, 4000-4999 are private.  1010 is for clients.
* RFC 6455, section 5.5: a control frame carries 125 bytes, two of them the code, so a reason has
  at most 123 bytes of UTF-8.
* Our own codes: 4000-4499 say that a reconnect makes sense, 4500-4999 that it does not.
"""

from __future__ import annotations

from enum import Enum, IntEnum, unique

MAX_REASON = 123
"""The most bytes of UTF-8 that a close reason may have (RFC 6455, section 5.5)."""


@unique
class CloseCode(IntEnum):
    """Close codes by the names of RFC 6455, section 7.4.1, and of the IANA registry."""

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS_RECEIVED = 1005
    ABNORMAL_CLOSURE = 1006
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015


class CodeKind(Enum):
    """The meaning of a number as a close code."""

    STANDARD = "standard"
    """Defined for servers, may be sent: 1000-1003, 1007-1009, 1011-1014."""
    CLIENT_ONLY = "for clients only"
    """1010: a client misses an extension; a server has no use for it."""
    LOCAL_ONLY = "never on the wire"
    """1005, 1006, 1015: say locally that no code was received."""
    RESERVED = "reserved"
    """1004 and 1016-2999: not defined."""
    REGISTERED = "registered with IANA"
    """3000-3999: for libraries and frameworks."""
    PRIVATE = "private"
    """4000-4999: for applications."""
    INVALID = "not a close code"
    """Below 1000 or above 4999."""


_STANDARD = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 1014})
_SENDABLE = frozenset({CodeKind.STANDARD, CodeKind.REGISTERED, CodeKind.PRIVATE})


def kind_of(code: int) -> CodeKind:
    """Say what ``code`` means as a close code (RFC 6455, section 7.4)."""
    if code in _STANDARD:
        return CodeKind.STANDARD
    if code == CloseCode.MANDATORY_EXTENSION:
        return CodeKind.CLIENT_ONLY
    if code in (1005, 1006, 1015):
        return CodeKind.LOCAL_ONLY
    if 1000 <= code <= 2999:
        return CodeKind.RESERVED
    if 3000 <= code <= 3999:
        return CodeKind.REGISTERED
    if 4000 <= code <= 4999:
        return CodeKind.PRIVATE
    return CodeKind.INVALID


def check_close(code: int, reason: str) -> None:
    """Raise ``ValueError`` or ``TypeError`` unless ``code`` and ``reason`` may be sent by a server.

    The message names the option (``code`` or ``reason``) and says what may be given instead.
    """
    usual = type(code) is int and (code in _STANDARD or 3000 <= code <= 4999)
    if usual and type(reason) is str and len(reason) <= MAX_REASON and reason.isascii():
        return
    if isinstance(code, bool) or not isinstance(code, int):
        raise TypeError(f"code: a close code is an int, not {type(code).__name__}")
    kind = kind_of(code)
    if kind not in _SENDABLE:
        raise ValueError(
            f"code: {int(code)} cannot be sent ({kind.value}); use 1000-1003, 1007-1009, 1011-1014, "
            "or 3000-4999"
        )
    if not isinstance(reason, str):
        raise TypeError(f"reason: a close reason is a str, not {type(reason).__name__}")
    try:
        size = len(reason.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"reason: not encodable as UTF-8: {error.reason}") from None
    if size > MAX_REASON:
        raise ValueError(
            f"reason: {size} bytes of UTF-8, at most {MAX_REASON} fit into a Close frame "
            "(RFC 6455, section 5.5)"
        )


def fit_reason(text: str) -> str:
    """Cut ``text`` to at most 123 bytes of UTF-8, at a character boundary.

    Only for text that this library makes itself; a caller's reason is never cut but refused.
    """
    encoded = text.encode(errors="replace")
    if len(encoded) <= MAX_REASON:
        return encoded.decode()
    return encoded[:MAX_REASON].decode(errors="ignore")
