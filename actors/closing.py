"""The closing handshake of RFC 6455, section 7, as one total table: no I/O and no clock.

The rules of this file:

* Every (state, signal) pair has exactly one entry; a pair that means nothing changes nothing.
* ``SEND_CLOSE`` is returned at most once in the life of a connection, and ``TEAR_DOWN`` exactly
  once on every way to ``CLOSED``.
* A signal says what happened; an action says what is to be done now, in the order given.
* The frames themselves, the answer to the peer's Close among them, are the WebSocket's:
  when ``PEER_CLOSE`` or ``FAILURE`` is signalled, the Close that answers it is already queued.
"""

from __future__ import annotations

from enum import Enum, auto


class ClosingState(Enum):
    """The state of the closing handshake of one connection."""

    __hash__ = object.__hash__  # an Enum's own hashes the name, in Python

    OPEN = auto()
    """Messages flow both ways."""
    PENDING = auto()
    """A close was accepted and admits nothing new; our Close frame waits for a drain or a grace."""
    SENT = auto()
    """Our Close frame is out, the peer's is awaited."""
    ENDING = auto()
    """No frame is to come any more; the end of TCP is awaited."""
    CLOSED = auto()
    """TCP has ended, or was aborted."""


class Signal(Enum):
    """An event in the life of a connection."""

    __hash__ = object.__hash__  # as above

    DEFER = auto()
    """A close is wanted behind the queued messages, or after a notice and its grace."""
    CLOSE = auto()
    """A close is wanted now."""
    PEER_CLOSE = auto()
    """The peer's Close frame arrived."""
    FAILURE = auto()
    """The peer broke the protocol (RFC 6455, section 7.1.7)."""
    END = auto()
    """The stream ended: FIN, RST or an error of the network."""
    DEADLINE = auto()
    """The close timeout is over."""


class Action(Enum):
    """A step that a signal asks for; there is none before a Close frame goes out or the stream ends."""

    __hash__ = object.__hash__  # as above

    START_DEADLINE = auto()
    """From now the whole closing handshake has the close timeout."""
    SEND_CLOSE = auto()
    """Send our Close frame."""
    END_TCP = auto()
    """End TCP; the server does it first (RFC 6455, section 7.1.1)."""
    LINGER = auto()
    """End our side of TCP and read on: who broke the protocol may go on sending."""
    ABORT = auto()
    """Drop TCP without waiting for anything."""
    TEAR_DOWN = auto()
    """Nothing will come from the wire any more: tear the actor down."""


_S, _G, _A = ClosingState, Signal, Action

TABLE: dict[tuple[ClosingState, Signal], tuple[ClosingState, tuple[Action, ...]]] = {
    (_S.OPEN, _G.DEFER): (_S.PENDING, ()),
    (_S.OPEN, _G.CLOSE): (_S.SENT, (_A.SEND_CLOSE, _A.START_DEADLINE)),
    (_S.OPEN, _G.PEER_CLOSE): (_S.ENDING, (_A.START_DEADLINE, _A.END_TCP)),
    (_S.OPEN, _G.FAILURE): (_S.ENDING, (_A.START_DEADLINE, _A.LINGER)),
    (_S.OPEN, _G.END): (_S.CLOSED, (_A.TEAR_DOWN,)),
    (_S.OPEN, _G.DEADLINE): (_S.OPEN, ()),
    (_S.PENDING, _G.DEFER): (_S.PENDING, ()),
    (_S.PENDING, _G.CLOSE): (_S.SENT, (_A.SEND_CLOSE, _A.START_DEADLINE)),
    (_S.PENDING, _G.PEER_CLOSE): (_S.ENDING, (_A.START_DEADLINE, _A.END_TCP)),
    (_S.PENDING, _G.FAILURE): (_S.ENDING, (_A.START_DEADLINE, _A.LINGER)),
    (_S.PENDING, _G.END): (_S.CLOSED, (_A.TEAR_DOWN,)),
    (_S.PENDING, _G.DEADLINE): (_S.PENDING, ()),
    (_S.SENT, _G.DEFER): (_S.SENT, ()),
    (_S.SENT, _G.CLOSE): (_S.SENT, ()),
    (_S.SENT, _G.PEER_CLOSE): (_S.ENDING, (_A.END_TCP,)),
    (_S.SENT, _G.FAILURE): (_S.ENDING, (_A.LINGER,)),
    (_S.SENT, _G.END): (_S.CLOSED, (_A.TEAR_DOWN,)),
    (_S.SENT, _G.DEADLINE): (_S.CLOSED, (_A.ABORT, _A.TEAR_DOWN)),
    (_S.ENDING, _G.DEFER): (_S.ENDING, ()),
    (_S.ENDING, _G.CLOSE): (_S.ENDING, ()),
    (_S.ENDING, _G.PEER_CLOSE): (_S.ENDING, ()),
    (_S.ENDING, _G.FAILURE): (_S.ENDING, ()),
    (_S.ENDING, _G.END): (_S.CLOSED, (_A.TEAR_DOWN,)),
    (_S.ENDING, _G.DEADLINE): (_S.CLOSED, (_A.ABORT, _A.TEAR_DOWN)),
    (_S.CLOSED, _G.DEFER): (_S.CLOSED, ()),
    (_S.CLOSED, _G.CLOSE): (_S.CLOSED, ()),
    (_S.CLOSED, _G.PEER_CLOSE): (_S.CLOSED, ()),
    (_S.CLOSED, _G.FAILURE): (_S.CLOSED, ()),
    (_S.CLOSED, _G.END): (_S.CLOSED, ()),
    (_S.CLOSED, _G.DEADLINE): (_S.CLOSED, ()),
}
"""The next state, and what is to be done, in order."""
