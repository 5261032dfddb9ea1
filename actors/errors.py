"""What can go wrong, one class a cause, under one root.

``ActorError`` is the root.  Misuse of the API is also a ``RuntimeError`` or a ``ValueError``,
so that code which knows nothing of this library still sees what kind of mistake it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actors.messages import CloseReport


class ActorError(Exception):
    """The root of every error that this library raises on purpose."""


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """Give the errors in a group and in its groups, or ``error`` itself."""
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
        else:
            yield one


class ConnectionClosing(ActorError):
    """A message was to be sent on a WebSocket whose close has begun.

    ``code`` and ``reason`` are those of the close that won; ``report`` is the close report once
    the closing handshake is over, else ``None``.
    """

    def __init__(self, code: int, reason: str, report: CloseReport | None = None) -> None:
        self.code = code
        self.reason = reason
        self.report = report
        detail = f" {reason!r}" if reason else ""
        super().__init__(f"the connection is closing with {code}{detail}; nothing more can be sent")

    def __reduce__(self) -> tuple[type[ConnectionClosing], tuple[object, ...]]:
        return type(self), (self.code, self.reason, self.report)


class ActorStopped(ActorError):
    """An actor that was asked, or is to be reached, has ended or is closing."""


class AskTimeout(ActorError, TimeoutError):
    """No answer came within the timeout of an ask; a later one is dropped."""


class MailboxFull(ActorError):
    """A message was refused because the mailbox reached its bound in messages or bytes."""


class ActorMisuse(ActorError, RuntimeError):
    """The API was used in a way that cannot work; the message says what to do instead."""


class HandlerTimeout(ActorError, TimeoutError):
    """A hook ran for longer than the handler timeout of its policy."""


class ResourceLost(ActorError):
    """A resource taken with ``enter`` ended by itself while its actor was alive."""


class PayloadRefused(ActorError):
    """A codec could not accept a payload; ``code`` is the close code that tells the peer."""

    code = 1008


class UnsupportedData(PayloadRefused):
    """The payload is of a kind that the codec does not take (RFC 6455, section 7.4.1: 1003)."""

    code = 1003


class InvalidData(PayloadRefused):
    """The payload is of the right kind but not well formed (RFC 6455, section 7.4.1: 1007)."""

    code = 1007


class PayloadTooBig(PayloadRefused):
    """The payload is well formed but larger than allowed (RFC 6455, section 7.4.1: 1009)."""

    code = 1009


class ChildStartFailed(ActorError):
    """A supervisor could not start one of its children; ``__cause__`` says why."""


class RestartLimitReached(ActorError):
    """A child crashed more often than its supervisor may start it again; ``__cause__`` is the last crash."""
