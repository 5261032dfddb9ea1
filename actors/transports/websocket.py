"""One server WebSocket without I/O: frames over a transport's bytes.

The sans-I/O protocol of the ``websockets`` package does the framing, the masks, the limits, pongs
and every Close frame; here messages are put together from its frames, what went over the wire is
counted, and nothing is written any more behind our Close frame.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Protocol, final

from websockets.exceptions import ProtocolError
from websockets.frames import Close as CloseFrame
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from actors.codes import CloseCode
from actors.rates import TokenBucket
from actors.transports.fastlane import header_of, read_frames
from actors.transports.transport import Transport

wire_logger = logging.getLogger("actors.wire")
wire_logger.setLevel(logging.WARNING)


LARGE = 4096
"""Bytes from which a payload is not copied behind its header."""
_PONG = bytes([0x80 | Opcode.PONG])


class Receiver(Protocol):
    """Who gets what happens on the WebSocket: the cell."""

    def received(self, message: str | bytes) -> None:
        """A whole data message came."""

    def peer_closed(self) -> None:
        """The peer's Close frame came; if ours was not out, the answer is queued now."""

    def failed(self) -> None:
        """The peer broke the protocol; if no Close frame of ours was out, one is queued now."""

    def ended(self) -> None:
        """The stream ended; nothing comes any more.  May be called more than once."""

    def writable(self) -> None:
        """What was queued has gone below the high water mark."""


@final
class WebSocket:
    """The frames of one connection; a sink for its transport."""

    __slots__ = (
        "_between_frames",
        "_clock",
        "_control",
        "_control_burst",
        "_control_rate",
        "_finished",
        "_fragments",
        "_max_fragments",
        "_max_message",
        "_muted",
        "_ping",
        "_plain",
        "_protocol",
        "_receiver",
        "_text",
        "assembling_since",
        "last_message",
        "last_received",
        "opened_at",
        "ping_sent_at",
        "pings",
        "round_trip",
        "transport",
    )

    def __init__(
        self,
        transport: Transport,
        protocol: ServerProtocol,
        receiver: Receiver,
        clock: Callable[[], float],
        *,
        max_fragments: int | None = None,
        control_rate: float | None = None,
        control_burst: int = 40,
    ) -> None:
        self.transport = transport
        self._protocol = protocol
        self._receiver = receiver
        self._clock = clock
        now = clock()
        self.opened_at = now
        self.last_received = now
        """When the last byte came."""
        self.last_message = now
        """When the last data message came or went."""
        self.assembling_since: float | None = None
        """Since when a frame or a fragmented message has been incomplete."""
        self.ping_sent_at: float | None = None
        """When the ping was sent whose pong is still missing."""
        self.pings = 0
        self.round_trip: float | None = None
        """Seconds from the last answered ping to its pong."""
        self._ping = b""
        self._max_fragments = max_fragments
        self._control_rate = control_rate
        self._control_burst = control_burst
        self._control: TokenBucket | None = None
        self._max_message = sys.maxsize if protocol.max_message_size is None else protocol.max_message_size
        self._plain = not protocol.extensions
        self._between_frames = self._plain
        self._fragments: list[bytes] = []
        self._text = False
        self._finished = False  # the peer's Close or a failure was reported: frames mean nothing now
        self._muted = False  # a Close frame of ours is out: nothing may follow it

    # -- from the transport --------------------------------------------------------------------

    def data(self, data: bytes) -> None:
        """Take bytes of the peer apart into frames and tell the receiver."""
        self.last_received = self._clock()
        if self._between_frames:
            messages, position = read_frames(data, self._max_message)
            if messages:
                self.last_message = self.last_received
                received = self._receiver.received
                for message in messages:
                    received(message)
            if position == len(data):
                return
            data = data[position:]
        protocol = self._protocol
        protocol.receive_data(data)
        for frame in protocol.events_received():
            assert isinstance(frame, Frame), "the request was taken before the WebSocket was made"
            if not self._finished:
                self._frame(frame)
        self._look()
        self._find_place()

    def _find_place(self) -> None:
        """See whether the protocol stands between two frames, or since when a message is incomplete."""
        protocol = self._protocol
        if protocol.current_size is None and not protocol.reader.buffer:
            self.assembling_since = None
            self._between_frames = self._plain and protocol.state is OPEN
        else:
            self._between_frames = False
            if self.assembling_since is None:
                self.assembling_since = self.last_received

    def eof(self) -> None:
        """The peer ended its side without a Close frame, or after it."""
        self._finished = True
        self._protocol.receive_eof()
        self._receiver.ended()

    def lost(self) -> None:
        """The connection is gone."""
        self._finished = True
        self._receiver.ended()

    def writable(self) -> None:
        """The transport has room."""
        self._receiver.writable()

    def _frame(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            self._text = opcode is Opcode.TEXT
            if frame.fin:
                self._message(frame.data)
            else:
                self._fragment(frame)
        elif opcode is Opcode.CONT:
            self._fragment(frame)
            if frame.fin and not self._finished:
                whole = b"".join(self._fragments)
                self._fragments.clear()
                self._message(whole)
        elif opcode is not Opcode.CLOSE:
            self._control_frame(frame)

    def _fragment(self, frame: Frame) -> None:
        self._fragments.append(bytes(frame.data))
        if self._max_fragments is not None and len(self._fragments) > self._max_fragments:
            self._fragments.clear()
            self._fail(CloseCode.MESSAGE_TOO_BIG, f"more than {self._max_fragments} fragments")

    def _control_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PONG and self.ping_sent_at is not None and frame.data == self._ping:
            self.round_trip = self.last_received - self.ping_sent_at
            self.ping_sent_at = None
            return
        if self._control_rate is None:
            return
        if self._control is None:
            self._control = TokenBucket(self._control_rate, self._control_burst, self.last_received)
        if not self._control.take(self.last_received):
            self._fail(CloseCode.POLICY_VIOLATION, "too many control frames")

    def _fail(self, code: int, reason: str) -> None:
        """Fail the connection (RFC 6455, section 7.1.7) for what the protocol does not know."""
        if not self._finished and self._protocol.state is OPEN:
            self._protocol.fail(code, reason)
            self._protocol.parser_exc = ProtocolError(reason)
            self._look()

    def _message(self, payload: bytes | bytearray | memoryview) -> None:
        self.last_message = self.last_received
        if not self._text:
            self._receiver.received(bytes(payload))
            return
        try:
            text = str(payload, "utf-8")
        except UnicodeDecodeError as error:
            # RFC 6455, section 8.1; the code is section 7.4.1's.
            self._fail(CloseCode.INVALID_DATA, f"invalid UTF-8 at position {error.start}")
        else:
            self._receiver.received(text)

    def _look(self) -> None:
        """Send what the protocol wants to send, and report the end of the conversation once."""
        protocol = self._protocol
        if not self._muted:
            pong = b""
            for chunk in protocol.data_to_send():
                if chunk[:1] == _PONG:
                    pong = chunk  # "MAY elect to send a Pong frame for only the most recent" (section 5.5.3)
                elif chunk:  # an empty chunk asks for the end of TCP, which is not ours
                    self.transport.write(pong + chunk if pong else chunk)
                    pong = b""
            if pong:
                self.transport.write(pong)
        else:
            protocol.data_to_send()
        if protocol.state is not OPEN:
            self._muted = True
            if self._finished:
                return
            if protocol.parser_exc is not None:
                self._finished = True
                self._receiver.failed()
            elif protocol.close_rcvd is not None:
                self._finished = True
                self._receiver.peer_closed()

    # -- to the wire ---------------------------------------------------------------------------

    def send(self, message: str | bytes) -> None:
        """Queue a data message."""
        if self._plain:
            text = isinstance(message, str)
            payload = message.encode() if isinstance(message, str) else message
            header = header_of(len(payload), text=text)
            self.last_message = self._clock()
            if len(payload) < LARGE:
                self.transport.write(header + payload)
            else:
                self.transport.write(header)
                self.transport.write(payload)
            return
        protocol = self._protocol
        if isinstance(message, str):
            protocol.send_text(message.encode())
        else:
            protocol.send_binary(message)
        self.last_message = self._clock()
        for chunk in protocol.data_to_send():
            self.transport.write(chunk)

    def send_frame(self, frame: bytes) -> None:
        """Queue a data message that ``frame_of`` encoded, for several connections perhaps."""
        self.last_message = self._clock()
        self.transport.write(frame)

    def ping(self) -> None:
        """Send a ping with a payload of its own, so that its pong is known (RFC 6455, section 5.5.2)."""
        if self._muted:
            return
        self.pings += 1
        self._ping = self.pings.to_bytes(4, "big")
        self._protocol.send_ping(self._ping)
        self.ping_sent_at = self._clock()
        self._look()

    def send_close(self, code: int, reason: str) -> None:
        """Queue our Close frame; the caller makes sure that none is out."""
        self._between_frames = False
        self._protocol.send_close(code, reason)
        self._look()

    @property
    def sent(self) -> tuple[int, str] | None:
        """Code and reason of our Close frame."""
        return _pair(self._protocol.close_sent)

    @property
    def received(self) -> tuple[int, str] | None:
        """Code and reason of the peer's Close frame; 1005 when it was empty."""
        return _pair(self._protocol.close_rcvd)


def frame_of(message: str | bytes) -> bytes:
    """Encode a whole data message as a server's frame: unmasked, unfragmented, not compressed."""
    payload = message.encode() if isinstance(message, str) else message
    return header_of(len(payload), text=isinstance(message, str)) + payload


def _pair(close: CloseFrame | None) -> tuple[int, str] | None:
    return None if close is None else (int(close.code), close.reason)
