"""The cell of a connection actor: frames into the mailbox, and the closing handshake done.

The way of a close through this file: ``request_close`` (any thread) -> ``_close`` -> ``_signal``
asks the table of ``closing`` and carries out its actions -> the wire answers with ``peer_closed``,
``failed``, ``ended`` or the deadline -> ``_wire_ended`` wakes who waits and lets the loop stop ->
``Cell`` tears the actor down, and ``report`` says how it went.

What the peer sent before it closed or before the stream ended is still handled; a close of this
side goes ahead of it.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from threading import get_ident
from types import CoroutineType
from typing import Any

from anyio.lowlevel import checkpoint

from actors.backends import Waiter
from actors.cell.cell import (
    ALIVE,
    LOOK_EACH,
    SLICE,
    STOP,
    TURN,
    Cell,
    CellOptions,
    CellState,
    give_turns,
    reason_of,
)
from actors.cell.misuse import take
from actors.closing import TABLE, Action, ClosingState, Signal
from actors.codecs import Codec, RawCodec, encoded
from actors.codes import CloseCode, fit_reason
from actors.connection import ConnectionActor
from actors.errors import ActorMisuse, ActorStopped, ConnectionClosing, PayloadRefused, leaves_of
from actors.mailbox import Marker
from actors.messages import Close, CloseReport, ExitReason, Initiator
from actors.progress import DRIP, LONGEST, Progress
from actors.protocol.websocket import WebSocket
from actors.rates import InboundRate
from actors.ref import Closing
from actors.request import Request
from actors.runtime import Runtime
from actors.timers import Timer
from actors.wakeup import Parker

_REFUSED = object()
_PEER_CLOSES = Close(exit_reason=ExitReason.NORMAL)
_STREAM_ENDS = Close(exit_reason=ExitReason.CONNECTION_LOST)
CROWD = 0.001
"""Seconds that a turn of the event loop takes when others have much to do, too."""
SHORT_TURN = 4
"""Messages that an actor handles then before the others get their turn, until it has nothing left."""
LONG = 0.005
"""Seconds between two sends, or from the begin of a hook to its send, after which others get their turn."""
MOST_OVER = 3
"""Times the send limit that a queue which is over it already may grow further, while the peer reads."""
SOON = 0.001
"""Seconds that handling a read may take at once, between two reads of the same turn of the event loop."""
NO_HURRY = 0.1
"""Seconds for which a connection whose messages took longer waits for its turn like all the others."""
_FROM_WIRE = (str, bytes)


class _Overrun:
    """A queue that is over the send limit: since when, and how it went on."""

    __slots__ = ("floor", "since", "this_turn")

    def __init__(self, now: float) -> None:
        self.since = now
        self.floor = math.inf
        """The fewest bytes that were queued since then, but for those of the turn in which it began."""
        self.this_turn = False
        """Whether the peer had no chance yet to take what was queued last."""


class _DrainMarker(Marker):
    """Behind the last message admitted before a close with ``drain``."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionOptions(CellOptions):
    """The options of a connection's cell."""

    close: float | None = 10.0
    """Seconds that the closing handshake may take without progress; ``None``: any time."""
    send_limit: int | None = None
    """Bytes that may wait for the peer to read, apart from what one turn of the event loop adds."""
    message_rate: float | None = None
    """Messages a second that the peer may send on average, and ``message_burst`` of them at once."""
    message_burst: int = 200


USUAL_CONNECTION = ConnectionOptions()


class ConnectionCell(Cell):
    """Runs one connection actor on one WebSocket; the WebSocket's receiver."""

    __slots__ = (
        "_began_at",
        "_between_lives",
        "_close",
        "_close_deadline",
        "_close_progress",
        "_closing_state",
        "_deadline_from",
        "_grace_deadline",
        "_hurry_from",
        "_initiator",
        "_late",
        "_late_bytes",
        "_paused",
        "_rate",
        "_raw",
        "_report",
        "_send_limit",
        "_wire_waiters",
        "_writers",
        "closing",
        "codec",
        "congested_since",
        "ended_at",
        "messages_in",
        "messages_out",
        "on_congested",
        "overrun",
        "request",
        "timer",
        "websocket",
    )

    _options: ConnectionOptions
    actor: ConnectionActor | None
    websocket: WebSocket

    def __init__(
        self,
        runtime: Runtime,
        make: Callable[[], ConnectionActor],
        *,
        id: str,
        request: Request,
        codec: Codec,
        options: ConnectionOptions = USUAL_CONNECTION,
    ) -> None:
        super().__init__(runtime, make, id=id, options=options)
        self.request = request
        self.messages_in = 0
        self.messages_out = 0
        self.congested_since: float | None = None
        """Since when there has been more for the peer to read than senders may add to."""
        self.on_congested: Callable[[], None] | None = None
        self.timer: Timer | None = None
        """Of who looks after the open connection; from the close on it has the close deadline."""
        self.ended_at: float | None = None
        """When nothing could come from the wire any more."""
        self._report: CloseReport | None = None
        self.codec = codec
        self._raw = isinstance(codec, RawCodec)
        self._closing_state = ClosingState.OPEN
        self.closing = False
        """Whether a Close frame is out, or the stream has ended; kept beside the state for the hot path."""
        self._close: Close | None = None
        self._send_limit = options.send_limit
        rate = options.message_rate
        self._rate = None if rate is None else InboundRate(rate, options.message_burst, runtime.clock())
        self._close_deadline: Timer | None = None
        self._close_progress: Progress | None = None
        self._grace_deadline: Timer | None = None
        self._initiator = Initiator.LOCAL
        self._late = 0
        self._late_bytes = 0
        self.overrun: _Overrun | None = None
        self._paused = False
        self._between_lives = False
        self._hurry_from = 0.0  # when what came may be handled at once again
        self._writers: tuple[Parker, ...] = ()
        self._wire_waiters: tuple[Waiter, ...] = ()

    # -- messages ------------------------------------------------------------------------------

    def received_many(self, messages: list[str | bytes], size: int) -> None:
        """Queue messages of the peer that came together in frames of ``size`` bytes.

        Those that come after the begin of a close are only counted.
        """
        if self._rate is not None and len(messages) > 1:  # each one may be the one that closes
            for message in messages:
                self.received_many([message], len(message))
            return
        mailbox = self.mailbox
        if not mailbox.open:
            self._late += len(messages)
            self._late_bytes += size
            return
        self.messages_in += len(messages)
        self._parker.wake()
        if not mailbox.put_inbound(messages, size) and not self._paused:
            self._paused = True
            self._apply_reading()
        if self._rate is not None:
            self._look_at_rate(self._rate)

    def hurry(self, now: float) -> None:
        """Let the actor handle what came before anything else is read, if that is soon done.

        The event loop may read on dozens of times within one of its turns.
        """
        if now >= self._hurry_from:
            self._parker.hurry()
            if self.runtime.clock() - now > SOON:
                self._hurry_from = now + NO_HURRY

    def give_way(self) -> None:
        """Let the others have a turn of the event loop."""
        self.runtime.backend.call_soon(self.websocket.read_on)

    def _look_at_rate(self, rate: InboundRate) -> None:
        """Pause reading while messages come too fast; close with 1008 when that does not help."""
        now = self.runtime.clock()
        if rate.message(now) or rate.paused:
            return
        if rate.stubborn(now):
            self.exit_with(ExitReason.POLICY_VIOLATION, "too many messages")
            return
        rate.paused = True
        self._apply_reading()
        self.runtime.timers.after(rate.pause(now), self._end_rate_pause)

    def _end_rate_pause(self) -> None:
        assert self._rate is not None
        self._rate.paused = False
        self._apply_reading()

    async def _loop(self) -> None:
        """As any cell's; a coroutine for every message of the peer would cost more than what it does."""
        actor, mailbox, hook, clock = self.actor, self.mailbox, self.hook, self.runtime.clock
        assert actor is not None, "a cell without an actor has no loop"
        transport, raw, half = self.websocket.transport, self._raw, mailbox.half
        left, look_at, each = TURN, TURN, LOOK_EACH
        now = over_at = 0.0  # when the turn is over; nothing while it has not begun
        data: Any
        message: Any
        result: Any
        while not hook.interrupted:
            if not mailbox.data and not mailbox.control:
                if over_at and clock() >= over_at:
                    await give_turns()
                    each = 1
                else:
                    data = message = result = None  # who waits holds no message of a megabyte
                    await self._parker.park()
                left, over_at = TURN, 0.0
                continue
            if not over_at:
                now = clock()
                over_at = now + SLICE
                look_at = left - 1  # the second message shows what the first one took
            elif left <= look_at or not transport.gathering:
                now = clock()
                if now >= over_at:
                    await give_turns()
                    each = 1
                    left, over_at = TURN, 0.0
                    self._gather()
                    continue
                if left <= 0:
                    await checkpoint()
                    left = TURN if clock() - now < CROWD else SHORT_TURN
                    over_at = 0.0
                    self._gather()
                    continue
                look_at = left - each
            left -= 1
            if mailbox.control or mailbox.told_messages:
                message = mailbox.pop()
                if message is STOP:
                    return
                if type(message) not in _FROM_WIRE:
                    await self.dispatch(message)
                    continue
            else:
                message = mailbox.data.popleft()
            if self._paused and len(mailbox.data) - mailbox.told_messages <= half and mailbox.may_resume:
                self._paused = False
                self._apply_reading()
            if not raw:
                data = message
                message = self._decode(data)
                if message is _REFUSED:
                    continue
                now = clock()
            hook.since = now
            try:
                result = actor.on_message(message)
                if type(result) is CoroutineType:
                    result = await result
                if result is not None:
                    await take(actor, "on_message", result)
            except BaseException as error:
                if not self.harmless(error):
                    self.dead_letter(message if raw else data, "crashed")
                self.hook_failed(error)
            finally:
                hook.since = None

    def _gather(self) -> None:
        """Let the answers to what is still queued go out together, as those to one read do.

        Each of them alone in a write buffer weighs ten times what is in it.
        """
        if len(self.mailbox.data) > 1:
            self.websocket.transport.gather()

    async def dispatch(self, message: Any) -> None:
        if type(message) is _DrainMarker:
            self._drained()
        else:
            await super().dispatch(message)

    def _decode(self, data: str | bytes) -> Any:
        try:
            return self.codec.decode(data)
        except PayloadRefused as error:
            self.dead_letter(data, "refused by the codec")
            self.close(Close(error.code, fit_reason(str(error))))
        except BaseException as error:
            self.dead_letter(data, "crashed")
            self.hook_failed(error)
        return _REFUSED

    def send(self, message: Any) -> Awaitable[None] | None:
        """Queue one message for the peer, or what is given does it when it is awaited.

        Give what its sender is to await: room, before or behind the message, or the turn of others.
        """
        if not self._raw or (type(message) is not str and type(message) is not bytes):
            message = self.codec.encode(message)
        websocket = self.websocket
        transport = websocket.transport
        took_long = False
        if not transport.gathering:  # within a turn of many messages nobody looks at the clock
            if self.hook.since is None and get_ident() != self.runtime.thread:  # a hook is on the right one
                raise ActorMisuse(
                    "send() belongs to the event loop's thread; from another one, tell the actor, or publish"
                )
            now = self.runtime.clock()
            took_long = now - websocket.last_message > LONG
            websocket.last_message = now
        if self.closing:
            raise self._is_closing()
        if transport.congested:
            return self._send_when_writable(message)
        websocket.send(message)
        self.messages_out += 1
        if transport.congested:  # it was not: mypy does not know that sending changes it
            return self.wait_writable()  # type: ignore[unreachable]
        return self._give_turn() if took_long else None

    def _send(self, message: str | bytes) -> None:
        self.websocket.last_message = self.runtime.clock()
        self.websocket.send(message)
        self.messages_out += 1

    def send_now(self, message: Any) -> None:
        """Queue one message of somebody who cannot wait: see ``publish_frame``."""
        message = self.codec.encode(message)
        transport = self.websocket.transport
        if transport.congested:
            self._outgrown()
        if self.closing:
            raise self._is_closing()
        self._send(message)
        if transport.congested:
            self._note_congestion()

    def publish_frame(self, frame: bytes, now: float) -> None:
        """Queue a message that was encoded once for many; one that does not read is closed with 1013."""
        if self.closing:
            return
        websocket, limit = self.websocket, self._send_limit
        transport = websocket.transport
        # Asking for what is buffered costs as much as all the rest of this.
        if (
            transport.congested or (limit is not None and limit < 2 * transport.high_water)
        ) and self._outgrown():
            return
        websocket.send_frame(frame, now)
        self.messages_out += 1
        if transport.congested:
            self._note_congestion()

    def _is_closing(self) -> ConnectionClosing:
        websocket = self.websocket
        code, reason = websocket.sent or websocket.received or (CloseCode.ABNORMAL_CLOSURE, "")
        return ConnectionClosing(code, reason, self.report)

    def _outgrown(self) -> bool:
        """See whether more is queued than the send limit; close, and tell so, when it only grows.

        The peer is judged by what it had a chance to take: what was queued in this turn of the event loop
        is not held against it.  Whether it takes anything at all is the business of who looks after it.
        """
        limit, queued = self._send_limit, self.websocket.transport.buffered
        if limit is None or queued <= limit:
            self.overrun = None
            return False
        overrun = self.overrun
        if overrun is None:
            overrun = self.overrun = _Overrun(self.runtime.clock())
            if self.on_congested is not None:
                self.on_congested()
        if overrun.this_turn:
            return False
        if queued > overrun.floor + MOST_OVER * limit:
            self.exit_with(ExitReason.OVERLOAD, "reads too slowly")
            return True
        overrun.this_turn = True
        # What the event loop finds in the next turn may be told in the one after it.
        call_soon = self.runtime.backend.call_soon
        call_soon(call_soon, self._turn_is_over, overrun)
        return False

    def _turn_is_over(self, overrun: _Overrun) -> None:
        overrun.this_turn = False
        overrun.floor = min(overrun.floor, self.websocket.transport.buffered)

    @property
    def over_limit_since(self) -> float | None:
        """Since when more has been queued for the peer than the send limit."""
        limit, overrun = self._send_limit, self.overrun
        if limit is None or overrun is None or self.websocket.transport.buffered <= limit:
            return None
        return overrun.since

    def _note_congestion(self) -> None:
        if self.congested_since is None:
            self.congested_since = self.runtime.clock()
            if self.on_congested is not None:
                self.on_congested()

    async def _send_when_writable(self, message: str | bytes) -> None:
        """Send when there is room: many who send at once must not fill the memory."""
        transport = self.websocket.transport
        while transport.congested and not self.closing:
            await self.wait_writable()
        if self.closing:
            raise self._is_closing()
        self._send(message)
        if transport.congested:
            await self.wait_writable()
        else:
            self._next_writer()

    async def wait_writable(self) -> None:
        """Wait until the write buffer is below its high water mark, or the connection closes."""
        transport, hook = self.websocket.transport, self.hook
        parker = self.runtime.backend.parker()
        self._writers += (parker,)
        self._note_congestion()
        in_hook = hook.task is self.runtime.backend.current_task()
        if in_hook:
            hook.waits_for_peer = True
        try:
            while transport.congested and not self.closing:
                await parker.park()
        finally:
            self._writers = tuple(other for other in self._writers if other is not parker)
            if in_hook:
                hook.waits_for_peer = False
                hook.sent_at = self.runtime.clock()
            self._next_writer()

    def _next_writer(self) -> None:
        """Let one sender go on: all at once would find no room but for the first, again and again."""
        if self._writers and (self.closing or not self.websocket.transport.congested):
            self._writers[0].wake()

    async def _give_turn(self) -> None:
        """Let out what was sent, and let the others have a turn, if the hook did not only just begin."""
        websocket, hook, clock = self.websocket, self.hook, self.runtime.clock
        if hook.task is self.runtime.backend.current_task() and hook.since is not None:
            now = clock()
            if now - max(hook.since, hook.sent_at) <= LONG:
                return
            hook.sent_at = now
        websocket.transport.flush()
        await checkpoint()
        websocket.last_message = clock()

    def writable(self) -> None:
        """Let the waiting senders go on, or wait for the next time when others were faster."""
        self.congested_since = None
        if self.websocket.transport.congested and not self.closing:
            self._note_congestion()
        if self._writers:
            self._next_writer()

    @property
    def reading(self) -> bool:
        """Tell whether what the peer sends is read at the moment."""
        return not self.held and not self.websocket.transport.congested

    @property
    def held(self) -> bool:
        """Tell whether this side does not want to read at the moment."""
        return self._paused or self._between_lives or (self._rate is not None and self._rate.paused)

    def _apply_reading(self) -> None:
        if self.held and not self.closing:
            self.websocket.pause()
        else:
            self.websocket.resume()

    # -- the close -----------------------------------------------------------------------------

    def watched(self, timer: Timer | None, on_congested: Callable[[], None] | None) -> None:
        """Somebody looks after the open connection: its timer, and what tells it that the peer is slow."""
        self.timer = timer
        self.on_congested = on_congested

    def request_close(self, close: Close) -> Closing:
        """Take a close from any thread."""
        self.runtime.call(self.close, self.prepare(close))
        return Closing(self)

    def prepare(self, close: Close) -> Close:
        """Encode the notice of ``close`` for this connection; its errors are the caller's."""
        return close if close.notice is None else replace(close, notice=encoded(self.codec, close.notice))

    def close(self, close: Close) -> None:
        """Close, now or later; the first close wins, a later one without delay makes it go now."""
        if self._close is None:
            self._begin(close)
        if self._closing_state is ClosingState.OPEN and (close.drain or close.notice is not None):
            self._signal(Signal.DEFER)
            if close.drain:
                self.mailbox.put_marker(_DrainMarker(None))
                self._parker.wake()
            else:
                self._send_notice()
        elif not close.drain and close.notice is None:
            self._signal(Signal.CLOSE)

    def abort(self) -> None:
        """Drop the connection without waiting for the peer; its Close frame may or may not get it."""
        if self._close is None:
            self._begin(Close(CloseCode.GOING_AWAY))
        self._signal(Signal.CLOSE)
        self._signal(Signal.DEADLINE)

    def exit_with(self, reason: ExitReason, text: str = "") -> None:
        """Close with the code of ``reason``."""
        self.close(Close(reason.close_code, text, exit_reason=reason))

    def harmless(self, error: BaseException) -> bool:
        """Tell whether a hook only found out in the middle of its work that the connection closes."""
        return self._closing_state is not ClosingState.OPEN and all(
            isinstance(leaf, ConnectionClosing) for leaf in leaves_of(error)
        )

    def _end_because(self, error: BaseException) -> None:
        """Close with 1011 and an empty reason: no detail leaks to the peer."""
        if self.state is CellState.STOPPING:
            self.end_loop()  # what the peer sent before its end is not for an actor that crashed
        elif self.error is None and self.state in ALIVE:
            self.error = error
            self.exit_with(reason_of(error))
            self._clear()

    @property
    def restartable(self) -> bool:
        """Tell whether a crash may still lead to a new incarnation: the socket is open."""
        return self.state is CellState.RUNNING and not self.closing

    async def _end_life(self) -> bool:
        """As any cell, with reading paused meanwhile."""
        self._between_lives = True
        self._apply_reading()
        try:
            return await super()._end_life()
        finally:
            self._between_lives = False
            self._apply_reading()

    def _begin(self, close: Close) -> None:
        self._close = close
        self._began_at = self.runtime.clock()
        self.exit_reason = close.exit_reason or ExitReason.of_code(close.code)
        self.mailbox.open = False

    def _drained(self) -> None:
        assert self._close is not None, "a drain marker is put by a close"
        if self._close.notice is not None:
            self._send_notice()
        else:
            self._signal(Signal.CLOSE)

    def _send_notice(self) -> None:
        assert self._close is not None
        if self._closing_state is ClosingState.PENDING:
            notice: Any = self._close.notice
            self._send(notice)
            self._grace_deadline = self.runtime.timers.after(
                self._close.grace, lambda: self._signal(Signal.CLOSE)
            )

    def _signal(self, signal: Signal) -> None:
        """Ask the table, and do what it says."""
        self._closing_state, actions = TABLE[self._closing_state, signal]
        for action in actions:
            self.closing = True
            _DO[action](self)

    def _send_close(self) -> None:
        assert self._close is not None, "a close frame needs a close"
        self.websocket.send_close(self._close.code, self._close.reason)
        self.websocket.resume()  # a full mailbox must not hide the peer's Close frame
        self.writable()
        self._clear()

    def _start_deadline(self) -> None:
        timeout = self._options.close
        if timeout is None:
            return
        timers, timer = self.runtime.timers, self.timer
        self._deadline_from = now = self.runtime.clock()
        # Mostly nothing is left to be read, and a look before its time would be one more entry in the heap.
        first_look = now + (timeout / 4 if self.websocket.transport.congested else timeout)
        if timer is None:
            timer = timers.at(first_look, self._deadline)
        else:
            self.on_congested = None
            timers.pass_on(timer, first_look, self._deadline)
        self._close_deadline = timer

    def _end_tcp(self) -> None:
        self.websocket.resume()
        self.websocket.transport.end(linger=False)
        self.writable()

    def _linger(self) -> None:
        self.websocket.resume()
        self.websocket.transport.end(linger=True)
        self.writable()
        self._clear()

    def _abort_tcp(self) -> None:
        self.websocket.transport.abort()

    def _deadline(self) -> None:
        """End the wait for the peer, unless it has got on with what it has to read, or to send before."""
        timeout, timer = self._options.close, self._close_deadline
        assert timeout is not None, "there is a deadline"
        assert timer is not None, "this is its callback"
        now = self.runtime.clock()
        since = max(self._deadline_from, self.runtime.timers.awake_since(now))
        due = since + timeout
        if self._closing_state is not ClosingState.CLOSED:
            due = min(max(since, self._close_progressed_at(now)) + timeout, since + LONGEST * timeout)
        if now < due:
            self.runtime.timers.move(timer, min(due, now + timeout / 4))
            return
        if self._closing_state is ClosingState.CLOSED:
            self.end_loop()  # what the peer sent before its end has had its time
        self._signal(Signal.DEADLINE)

    def _close_progressed_at(self, now: float) -> float:
        websocket, timeout = self.websocket, self._options.close
        outstanding, coming = websocket.transport.outstanding, 0
        if self._closing_state is ClosingState.SENT:  # the peer's Close comes behind what it was sending
            coming = self._late_bytes + websocket.assembled
        count = websocket.transport.written - outstanding + coming
        if self._close_progress is not None:
            return self._close_progress.look(count, now)
        since = self._deadline_from
        if timeout is not None and now >= since + timeout and (outstanding or coming):
            # Nobody has looked yet: it has a quarter of the time to show from here on that it gets on.
            since = now - timeout * 3 / 4
            count -= int(DRIP * (now - since))
        self._close_progress = Progress(count, since)
        return since

    def peer_closed(self) -> None:
        """The peer's Close frame came, in answer to ours or before it."""
        if self.websocket.assembling_since is not None:
            self._late += self.websocket.unfinished
        if not self.closing:
            self._initiator = Initiator.PEER
            self._begin(_PEER_CLOSES)
        self._signal(Signal.PEER_CLOSE)

    def failed(self) -> None:
        """The peer broke the protocol; the WebSocket has told it so."""
        if not self.closing:
            code, reason = self.websocket.sent or (CloseCode.PROTOCOL_ERROR, "")
            self._begin(Close(code, reason, exit_reason=ExitReason.of_code(code)))
        self._signal(Signal.FAILURE)

    def ended(self) -> None:
        """The stream ended."""
        if not self.closing:
            self._initiator = Initiator.TRANSPORT
            self._begin(_STREAM_ENDS)
        self._signal(Signal.END)
        self.websocket.transport.end(linger=False)

    def _wire_ended(self) -> None:
        self.ended_at = self.runtime.clock()
        waiters, self._wire_waiters = self._wire_waiters, ()
        for waiter in waiters:
            waiter.wake()
        self.writable()
        if self._initiator is Initiator.LOCAL or self.error is not None:
            if self._close_deadline is not None:
                self._close_deadline.cancel()
            self.end_loop()
        else:
            self.state = CellState.STOPPING
            self.mailbox.put_marker(STOP)
            self._parker.wake()
            if self._close_deadline is None:
                self._start_deadline()

    # -- the report ----------------------------------------------------------------------------

    @property
    def round_trip(self) -> float | None:
        """Seconds from the last answered ping to its pong; ``None`` before one."""
        return self.websocket.round_trip

    @property
    def clean(self) -> bool:
        """Tell whether the connection has ended, and both Close frames were exchanged."""
        return self.ended_at is not None and None not in (self.websocket.sent, self.websocket.received)

    @property
    def opened_for(self) -> float:
        """Seconds from 101 to the begin of the close."""
        return self._began_at - self.websocket.opened_at

    @property
    def report(self) -> CloseReport | None:
        """The report of a connection that has ended; made on demand, since few ask for it."""
        if self._report is None and self.ended_at is not None:
            sent, received = self.websocket.sent, self.websocket.received
            first = {Initiator.LOCAL: sent, Initiator.PEER: received}.get(self._initiator)
            code, reason = first or (int(CloseCode.ABNORMAL_CLOSURE), "")
            self._report = CloseReport(
                code=code,
                reason=reason,
                initiator=self._initiator,
                clean=self.clean,
                sent=sent,
                received=received,
                exit_reason=self.exit_reason,
                opened_for=self.opened_for,
                handshake_took=self.ended_at - self._began_at,
                messages_in=self.messages_in,
                messages_out=self.messages_out,
                undelivered=self._late + self.mailbox.inbound_messages,
            )
        return self._report

    async def wait_report(self) -> CloseReport:
        """Wait for the close report; in own hooks only for the end of the handshake."""
        if not self.runtime.in_thread or not self.is_own_task(self.runtime.backend.current_task()):
            await self.wait_stopped()
        elif self.ended_at is None:
            if self._close is not None and self._close.drain and self._closing_state is ClosingState.PENDING:
                raise ActorMisuse(
                    "close(drain=True) waits for the queued messages, and they wait for this hook: do not "
                    "await it in the actor's own hooks"
                )
            waiter = Waiter()
            self._wire_waiters += (waiter,)
            await waiter.wait()
        report = self.report
        if report is None:
            raise ActorStopped(f"{self.ref!r}: the event loop ended before the close was done")
        return report

    # -- the teardown --------------------------------------------------------------------------

    def _comes_too_late(self) -> bool:
        """Never: what the peer sent before it was gone is handled, and ``on_close`` runs in any case."""
        return False

    def _first_hook(self) -> Callable[[], Any] | None:
        assert self.actor is not None
        if type(self.actor).on_connect is ConnectionActor.on_connect:
            return None
        ended = self.state is CellState.STOPPING and self._initiator is Initiator.LOCAL
        return None if ended else self.actor.on_connect

    async def _run_hook_of_end(self) -> None:
        """Nothing: a connection ends once, with ``on_close``."""

    async def _run_last_hook(self) -> None:
        if self._grace_deadline is not None:
            self._grace_deadline.cancel()
        if self._close_deadline is not None:
            self._close_deadline.cancel()
        assert self.ended_at is not None, "the teardown follows the end of the wire"
        self._clear()
        if self._report is not None and self._report.undelivered != self._late:
            self._report = replace(self._report, undelivered=self._late)
        actor = self.actor
        if actor is not None and type(actor).on_close is not ConnectionActor.on_close:
            await self.call_last(actor.on_close, self.report)

    def _clear(self) -> None:
        """Make dead letters of what is queued; they count as undelivered."""
        for message in self.mailbox.clear_data():
            self.dead_letter(message, "undelivered")
            self._late += not isinstance(message, Marker)


_DO = {
    Action.SEND_CLOSE: ConnectionCell._send_close,
    Action.START_DEADLINE: ConnectionCell._start_deadline,
    Action.END_TCP: ConnectionCell._end_tcp,
    Action.LINGER: ConnectionCell._linger,
    Action.ABORT: ConnectionCell._abort_tcp,
    Action.TEAR_DOWN: ConnectionCell._wire_ended,
}
