"""One server WebSocket without I/O: frames over a transport's bytes.

The sans-I/O protocol of the ``websockets`` package does the framing, the masks, the limits and pongs; it
is made when something comes that the fast lane leaves to it.  Here messages are put together from frames,
what went over the wire is counted, and nothing is written any more behind our Close frame.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, final
from typing import Protocol as Interface

from websockets.exceptions import ProtocolError
from websockets.frames import Close as CloseFrame
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, SERVER, Protocol
from websockets.streams import StreamReader

from actors.codes import CloseCode
from actors.protocol.fastlane import (
    BINARY_HEADERS,
    CONTROL,
    PING_HEADER,
    PING_SIZE,
    TEXT_HEADERS,
    IncompleteFrame,
    close_frame,
    header_of,
    read_alone,
    read_close,
    read_fragments,
    read_frames,
    read_pong,
)
from actors.protocol.fragments import Fragments, joined
from actors.rates import TokenBucket
from actors.transports.transport import Transport

wire_logger = logging.getLogger("actors.wire")
wire_logger.setLevel(logging.WARNING)


LARGE = 4096
"""Bytes from which a payload is not copied behind its header, and is handled while it is in the caches."""
STEP = 1024
"""Bytes that the protocol takes before the receiver may say that it is full; more within a large frame."""
TURN = 128
"""Frames that are taken apart before other connections get their turn, if the receiver does not pause."""
_PONG = bytes([0x80 | Opcode.PONG])
_AT_EOF = StreamReader.at_eof.__code__
"""Where the protocol waits between two frames."""


class Receiver(Interface):
    """The receiver of what happens on the WebSocket: the cell."""

    def received_many(self, messages: list[str | bytes], size: int) -> None:
        """Whole data messages came together, in frames of ``size`` bytes."""

    def hurry(self, now: float) -> None:
        """So much came, ``now``, that it will have left the processor's caches when others are read first."""

    def give_way(self) -> None:
        """There is more to take apart than others can wait for: ``read_on`` is to be called in a while."""

    def peer_closed(self) -> None:
        """The peer's Close frame came; if ours was not out, the answer is queued now."""

    def failed(self) -> None:
        """The peer broke the protocol; if no Close frame of ours was out, one is queued now."""

    def ended(self) -> None:
        """The stream ended; nothing comes any more.  May be called more than once."""

    def writable(self) -> None:
        """Less than the high water mark is queued again."""


NO_LIMIT = sys.maxsize


class WireLimits(NamedTuple):
    """The limits of what a peer may send."""

    max_message: int = NO_LIMIT
    """Bytes of one message."""
    max_fragments: int = NO_LIMIT
    """Frames of one message."""
    control_rate: float | None = None
    """Control frames a second on average, and ``control_burst`` of them at once; ``None``: any number."""
    control_burst: int = 40


class Framing(Protocol):
    """The protocol, for which a Close between two fragments is a Close like any other.

    RFC 6455, section 5.4, lets control frames in there; the message that it cuts off never ends.
    """

    def recv_frame(self, frame: Frame) -> None:
        """Process an incoming frame."""
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None
        super().recv_frame(frame)


@final
class WebSocket:
    """The frames of one connection; a sink for its transport."""

    __slots__ = (
        "_between_frames",
        "_clock",
        "_control",
        "_finished",
        "_fragments",
        "_gave_way",
        "_incomplete",
        "_kept",
        "_kept_from",
        "_limits",
        "_max_message",
        "_paused",
        "_plain",
        "_protocol",
        "_reading",
        "_receiver",
        "_step",
        "assembling_since",
        "last_message",
        "last_received",
        "opened_at",
        "ping_sent_at",
        "pings",
        "received",
        "round_trip",
        "sent",
        "transport",
    )

    def __init__(
        self,
        transport: Transport,
        protocol: Protocol | None,
        receiver: Receiver,
        clock: Callable[[], float],
        limits: WireLimits,
    ) -> None:
        self.transport = transport
        self._protocol = protocol  # None until there is something that the fast lane leaves to it
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
        self._limits = limits
        self._control: TokenBucket | None = None  # made with the first control frame
        self._max_message = limits.max_message
        if protocol is None:
            self._plain = True
        else:
            protocol.max_message_size = limits.max_message
            self._plain = not protocol.extensions
        self._between_frames = self._plain  # the fast lane may read
        self._incomplete: IncompleteFrame | None = None
        self._fragments: Fragments | None = None
        self._kept = b""  # what was read and not taken apart yet, from the next position on
        self._kept_from = 0
        self._step = STEP
        self._paused = False
        self._gave_way = False
        self._reading = False
        self._finished = False  # the peer's Close or a failure was reported: frames mean nothing now
        self.sent: tuple[int, str] | None = None
        """Code and reason of our Close frame, when it is out: nothing may follow it."""
        self.received: tuple[int, str] | None = None
        """Code and reason of the peer's Close frame; 1005 when it was empty."""

    @property
    def unfinished(self) -> bool:
        """Tell whether some fragments of a message have come, and not its last one."""
        return self._fragments is not None

    def restart_assembly(self, now: float) -> None:
        """Count the time of a message that is incomplete from ``now`` on."""
        if self.assembling_since is not None:
            self.assembling_since = now

    # -- from the transport --------------------------------------------------------------------

    def data(self, data: bytes) -> None:
        """Take bytes of the peer apart into frames and tell the receiver, until it pauses or has to give way.

        One read may hold ten thousand frames, or a thousand times its size when they are compressed: what
        the receiver or others have no room for is kept as it came.
        """
        self.last_received = self._clock()
        receiver = self._receiver  # which is forgotten when the connection is lost meanwhile
        start = 0
        if self._kept:
            data = self._kept[self._kept_from :] + data
        elif self._between_frames:
            message = read_alone(data, self._max_message)
            if message is not None:
                self.last_message = self.last_received
                receiver.received_many([message], len(data))
                if len(data) >= LARGE:
                    receiver.hurry(self.last_received)
                return
            if not data[0] & CONTROL:
                messages, start, incomplete = read_frames(data, self._max_message)
                if messages:  # as _deliver, of which every message would feel the call
                    self.last_message = self.last_received
                    receiver.received_many(messages, start)
                    if len(messages) > 1:
                        self.transport.gather()
                if incomplete is not None:
                    self._begin(incomplete)
            elif self._protocol is None and (close := read_close(data, 0)) is not None:
                self._peer_closed(*close)
                return
            if start < len(data) and self.ping_sent_at is not None and self._answered(read_pong(data, start)):
                start = len(data)
        if start < len(data):
            self._kept, self._kept_from = data, start
            self._read()
        if len(data) >= LARGE:
            receiver.hurry(self.last_received)

    def eof(self) -> None:
        """The peer ended its side without a Close frame, or after it."""
        self._finished = True
        if self._protocol is not None:
            self._protocol.receive_eof()
        self._receiver.ended()

    def lost(self) -> None:
        """The connection is gone."""
        self._finished = True
        self._between_frames = False
        self._kept = b""  # reading was paused: it is lost as what the kernel has
        self._incomplete = None
        receiver = self._receiver
        del self._receiver  # it knows this WebSocket, too, and a parser its protocol
        if self._protocol is not None:
            self._protocol.parser.close()
        receiver.ended()

    def writable(self) -> None:
        """The transport has room."""
        self._receiver.writable()

    # -- taking apart what was read ------------------------------------------------------------

    def _read(self) -> None:
        """Take apart what is kept, from its beginning on: the fast lane first, the protocol what is left."""
        if self._reading:  # paused and resumed by the receiver: the loop below goes on
            return
        self._reading = True
        turn = TURN
        while self._kept and not self._paused and not self._gave_way:
            if turn <= 0:
                self._gave_way = True
                self.transport.pause()
                self._receiver.give_way()
            elif self._incomplete is not None:
                self._go_on(self._incomplete)
            elif self._between_frames and (frames := self._read_frames()):
                turn -= frames
            elif self._finished:
                self._kept = b""  # RFC 6455, section 7.1.7: nothing behind a failure or a Close is looked at
            elif self._plain and (fragments := self._read_fragments()):
                turn -= fragments
            else:
                turn -= self._parse()
        self._reading = False

    def _keep_from(self, position: int) -> None:
        if position == len(self._kept):
            self._kept = b""
            position = 0
        self._kept_from = position

    def _read_frames(self) -> int:
        """Take whole messages, or a Close frame; gives how many frames, one that is incomplete too."""
        kept, start = self._kept, self._kept_from
        if self._protocol is None and not self._finished and (close := read_close(kept, start)) is not None:
            self._peer_closed(*close)
            return 1
        messages, end, incomplete = read_frames(kept, self._max_message, start)
        self._keep_from(end)
        if messages:
            self._deliver(messages, end - start)
        if incomplete is None:
            return len(messages)
        self._begin(incomplete)
        return len(messages) + 1

    def _begin(self, frame: IncompleteFrame) -> None:
        self._between_frames = False
        self._incomplete = frame
        self.assembling_since = self.last_received

    def _go_on(self, frame: IncompleteFrame) -> None:
        self._keep_from(frame.take(self._kept, self._kept_from))
        if frame.missing:
            return
        self._incomplete = None
        self._between_frames = self._protocol is None or self._protocol.state is OPEN
        try:
            message = frame.message()
        except UnicodeDecodeError:  # the protocol answers it
            self._kept, self._kept_from = frame.as_it_came() + self._kept[self._kept_from :], 0
        else:
            self.assembling_since = None
            self._deliver([message], len(message))

    def _read_fragments(self) -> int:
        """Take small fragments of one message where the protocol awaits a frame; gives how many."""
        protocol, kept, start = self._framing(), self._kept, self._kept_from
        if protocol.state is not OPEN or not _awaits_frame(protocol):
            return 0
        fragments = self._fragments or Fragments(text=kept[start] == Opcode.TEXT)
        before = len(fragments.pieces)
        end, message = read_fragments(kept, start, fragments, self._max_message, self._limits.max_fragments)
        if end == start:
            return 0
        self._keep_from(end)
        if message is None:
            self._fragments, protocol.current_size = fragments, fragments.size
        else:
            self._fragments = protocol.current_size = self.assembling_since = None
            self._deliver([message], len(message))
        self._find_place(protocol)
        return len(fragments.pieces) - before + (message is not None)

    def _peer_closed(self, payload: bytes, close: tuple[int, str]) -> None:
        """The fast lane has read the peer's Close frame: answer it with its own (RFC 6455, section 5.5.1)."""
        self.received = close
        if self.sent is None:
            self.sent = close
            self.transport.write(close_frame(payload))
        self._finished = True
        self._between_frames = False
        self._kept = b""  # as in ``_read``: nothing behind a Close is looked at
        self._receiver.peer_closed()

    def _answered(self, pong: bytes | bytearray | memoryview | None) -> bool:
        """Tell whether this is the payload of the pong that is missing; if so, it is no more."""
        if self.ping_sent_at is None or pong != self.pings.to_bytes(PING_SIZE, "big"):
            return False
        self.round_trip = self.last_received - self.ping_sent_at
        self.ping_sent_at = None
        return True

    def _deliver(self, messages: list[str | bytes], size: int) -> None:
        self.last_message = self.last_received
        self._receiver.received_many(messages, size)
        if len(messages) > 1:
            self.transport.gather()  # behind the receiver's turn: that is when the answers are there

    # -- what the fast lane leaves to the protocol ---------------------------------------------

    def _framing(self) -> Protocol:
        """The protocol; made here, it gets to know what the fast lane has sent."""
        protocol = self._protocol
        if protocol is None:
            protocol = self._protocol = Framing(SERVER, max_size=self._max_message, logger=wire_logger)
            if self.sent is not None:
                protocol.send_close(*self.sent)
                protocol.data_to_send()
        return protocol

    def _parse(self) -> int:
        """Let the protocol have a step of what is kept; gives how many frames ended with it."""
        protocol, kept, start = self._framing(), self._kept, self._kept_from
        end = min(start + self._step, len(kept))
        self._keep_from(end)
        protocol.receive_data(kept[start:end])
        frames = protocol.events_received()
        # A frame that is compressed may be a bomb, and many of them may stand behind the end of a large one.
        self._step = STEP if frames or not self._plain else 4 * self._step
        for frame in frames:
            assert isinstance(frame, Frame), "the request was taken before the WebSocket was made"
            if not self._finished:
                self._frame(frame)
        self._look(protocol)
        self._find_place(protocol)
        return len(frames)

    def _find_place(self, protocol: Protocol) -> None:
        """See whether the protocol stands between two frames, or since when a message is incomplete."""
        if protocol.current_size is None and _awaits_frame(protocol):
            self.assembling_since = None
            self._between_frames = self._plain and protocol.state is OPEN
        else:
            self._between_frames = False
            if self.assembling_since is None:
                self.assembling_since = self.last_received

    def _frame(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.CONT or not frame.fin:
            self._fragment(frame)
        elif opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            self._message([bytes(frame.data)], text=opcode is Opcode.TEXT)
        elif opcode is not Opcode.CLOSE:  # which ``_look`` reports
            self._control_frame(frame)

    def _fragment(self, frame: Frame) -> None:
        fragments = self._fragments or Fragments(text=frame.opcode is Opcode.TEXT)
        self._fragments = None
        most = self._limits.max_fragments
        if len(fragments.pieces) == most:
            self._fail(CloseCode.MESSAGE_TOO_BIG, f"more than {most} fragments")
            return
        fragments.pieces.append(bytes(frame.data))
        if frame.fin:
            self._message(fragments.pieces, text=fragments.text)
        else:
            fragments.size += len(frame.data)
            self._fragments = fragments

    def _message(self, pieces: list[bytes], *, text: bool) -> None:
        self.assembling_since = None  # what comes behind it, with the same read perhaps, is another one
        try:
            message = joined(pieces, text=text)
        except UnicodeDecodeError as error:
            # RFC 6455, section 8.1; the code is section 7.4.1's.
            self._fail(CloseCode.INVALID_DATA, f"invalid UTF-8 at position {error.start}")
        else:
            self._deliver([message], len(message))

    def _control_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PONG and self._answered(frame.data):
            return
        rate = self._limits.control_rate
        if rate is None:
            return
        if self._control is None:
            self._control = TokenBucket(rate, self._limits.control_burst, self.last_received)
        if not self._control.take(self.last_received):
            self._fail(CloseCode.POLICY_VIOLATION, "too many control frames")

    def _fail(self, code: int, reason: str) -> None:
        """Fail the connection (RFC 6455, section 7.1.7) for what the protocol does not know."""
        protocol = self._framing()
        if not self._finished and protocol.state is OPEN:
            protocol.fail(code, reason)
            protocol.parser_exc = ProtocolError(reason)
            self._look(protocol)

    def _look(self, protocol: Protocol) -> None:
        """Send what the protocol wants to send, and report the end of the conversation once."""
        if self.sent is None:
            pong, congested = b"", self.transport.congested
            for chunk in protocol.data_to_send():
                if congested and chunk[:1] == _PONG:
                    pong = chunk  # "MAY elect to send a Pong frame for only the most recent" (section 5.5.3)
                elif chunk:  # an empty chunk asks for the end of TCP, which is not ours
                    self.transport.write(pong + chunk if pong else chunk)
                    pong = b""
            if pong:
                self.transport.write(pong)
        else:
            protocol.data_to_send()
        if protocol.state is not OPEN:
            self.sent, self.received = _pair(protocol.close_sent), _pair(protocol.close_rcvd)
            if self._finished:
                return
            if protocol.parser_exc is not None:
                self._finished = True
                self._receiver.failed()
            elif protocol.close_rcvd is not None:
                self._finished = True
                self._receiver.peer_closed()

    @property
    def assembled(self) -> int:
        """Bytes that have come of the frame or the fragmented message that is incomplete."""
        if self._incomplete is not None:
            return self._incomplete.taken
        protocol = self._protocol
        if protocol is None or self.assembling_since is None:
            return 0
        return len(protocol.reader.buffer) + (protocol.current_size or 0)

    # -- from the cell -------------------------------------------------------------------------

    def pause(self) -> None:
        """Read no more for now."""
        self._paused = True
        self.transport.pause()

    def resume(self) -> None:
        """Read again; nothing if ``pause`` was not called."""
        if self._paused:
            self._paused = False
            self._go_on_reading()

    def read_on(self) -> None:
        """Go on where the receiver had to give way."""
        self._gave_way = False
        self._go_on_reading()

    def _go_on_reading(self) -> None:
        self._read()
        if not self._paused and not self._gave_way:
            self.transport.resume()

    # -- to the wire ---------------------------------------------------------------------------

    def send(self, message: str | bytes) -> None:
        """Queue a data message; whoever looks at the clock for it sets ``last_message``."""
        transport = self.transport
        if self._plain:
            if isinstance(message, str):
                payload = message.encode()
                headers = TEXT_HEADERS
            else:
                payload = message
                headers = BINARY_HEADERS
            length = len(payload)
            if length < 126:  # as header_of, which costs more than all this
                transport.write(headers[length] + payload)
            elif length < LARGE:
                transport.write(frame_of(message))
            else:
                transport.write_frame(header_of(length, text=isinstance(message, str)), payload)
            return
        protocol = self._framing()
        if isinstance(message, str):
            protocol.send_text(message.encode())
        else:
            protocol.send_binary(message)
        for chunk in protocol.data_to_send():
            transport.write(chunk)

    def send_frame(self, frame: bytes, now: float) -> None:
        """Queue a data message that ``frame_of`` encoded, for several connections perhaps."""
        self.last_message = now
        self.transport.write(frame)

    def ping(self) -> int:
        """Send a ping with a payload of its own, so that its pong is known (RFC 6455, section 5.5.2).

        Give how many bytes were written.
        """
        if self.sent is not None:
            return 0
        self.pings += 1
        self.ping_sent_at = self._clock()
        self.transport.write(PING_HEADER + self.pings.to_bytes(PING_SIZE, "big"))
        return len(PING_HEADER) + PING_SIZE

    def send_close(self, code: int, reason: str) -> None:
        """Queue our Close frame; the caller makes sure that none is out."""
        protocol = self._protocol
        if protocol is None:
            self.sent = int(code), reason
            self.transport.write(close_frame(code.to_bytes(2, "big") + reason.encode()))
        else:
            self._between_frames = False
            protocol.send_close(code, reason)
            self._look(protocol)


def frame_of(message: str | bytes) -> bytes:
    """Encode a whole data message as a server's frame: unmasked, unfragmented, not compressed."""
    payload = message.encode() if isinstance(message, str) else message
    return header_of(len(payload), text=isinstance(message, str)) + payload


def _awaits_frame(protocol: Protocol) -> bool:
    """Tell whether the protocol waits for the first byte of a frame.

    Its buffer does not tell: it is empty between the header of a frame and the payload, too.
    """
    waiting: Any = protocol.parser
    while waiting.gi_yieldfrom is not None:
        waiting = waiting.gi_yieldfrom
    return waiting.gi_code is _AT_EOF


def _pair(close: CloseFrame | None) -> tuple[int, str] | None:
    return None if close is None else (int(close.code), close.reason)
