"""Actors with mailboxes, and the one that owns a WebSocket."""

from actors.actor import Actor
from actors.cell.monitors import Down, Restarted
from actors.codes import CloseCode
from actors.connection import ConnectionActor
from actors.errors import (
    ActorError,
    ActorMisuse,
    ActorStopped,
    AskTimeout,
    ConnectionClosing,
    HandlerTimeout,
    InvalidData,
    MailboxFull,
    PayloadRefused,
    PayloadTooBig,
    ResourceLost,
    UnsupportedData,
)
from actors.mailbox import Overflow
from actors.messages import CloseReport, ExitReason, Initiator, Refusal
from actors.ref import ActorRef, Closing
from actors.request import Headers, QueryParams, Request

__all__ = [
    "Actor",
    "ActorError",
    "ActorMisuse",
    "ActorRef",
    "ActorStopped",
    "AskTimeout",
    "CloseCode",
    "CloseReport",
    "Closing",
    "ConnectionActor",
    "ConnectionClosing",
    "Down",
    "ExitReason",
    "HandlerTimeout",
    "Headers",
    "Initiator",
    "InvalidData",
    "MailboxFull",
    "Overflow",
    "PayloadRefused",
    "PayloadTooBig",
    "QueryParams",
    "Refusal",
    "Request",
    "ResourceLost",
    "Restarted",
    "UnsupportedData",
]

for _name in __all__:
    globals()[_name].__module__ = __name__  # a traceback names things as users import them
del _name
