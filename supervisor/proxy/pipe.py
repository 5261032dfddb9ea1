"""Plain HTTP on the public port: piped between a client and Robyn's own listener, asyncio only.

The rules of this file:

* What a client sends is checked before Robyn gets it (``requests``), and passed on as it comes, both ways,
  not gathered: a side that does not keep up pauses the other one.
* The first thing that is not right, or too slow, is refused with an HTTP status: behind the answers to what
  came before, never inside of one, and the connection ends with it.
* A request that is not complete never looks to Robyn as if it were, which runs its handler then: whoever
  goes away in the middle of a body, Robyn sees the connection reset.
* A client may ask for a WebSocket on a connection that it kept alive (aiohttp does, and so do reverse
  proxies): Robyn then finishes what it has, and the connection goes to the server of WebSockets.  So does a
  question whether the server is ready.
* The client's end is passed on as a half-close, which Robyn answers by finishing its response.
  Robyn's end ends the client, after all that Robyn sent; Robyn's loss is the client's loss.
* How long Robyn takes for an answer is its own business.  Robyn 0.88 keeps an idle connection for ever,
  whatever its ``keep_alive_timeout`` is: it is ended here.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from functools import partial
from typing import Protocol, cast, final

from actors.progress import DRIP
from actors.protocol.opening import HandshakeRefused, refusal
from actors.repeats import others, repeats
from actors.runtime import Runtime
from actors.timers import Timer
from actors.transports.asyncio import AsyncioTransport
from supervisor.policies import Policy
from supervisor.proxy.answers import Answers
from supervisor.proxy.requests import Part, Requests

logger = logging.getLogger("supervisor")

CONNECT_TIMEOUT = 10.0
"""Seconds that Robyn has to take a connection."""

QUIET = 0.5
"""Seconds without a byte either way after which a connection is ended, when the process ends."""

HIGH_WATER = 256 * 1024
"""Bytes that wait for a side that does not keep up before the other one is paused."""

TURN = 32 * 1024
"""Bytes that are checked before other connections have their turn; those of a body with a length are not."""

RESET_DELAY = 0.05
"""Seconds before a reset: one that comes with bytes is an end like any other to Robyn's HTTP server."""

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: a close is a reset (socket(7))."""


class Site(Protocol):
    """The owner of the pipes: the server's site, or the pump in its own process."""

    runtime: Runtime
    policy: Policy
    ready_path: str | None
    keep_alive: float | None


class PipeState(Enum):
    """The state of a pipe."""

    CONNECTING = auto()
    OPEN = auto()
    CLIENT_ENDED = auto()
    """The client ended its side; Robyn still answers."""
    UPGRADING = auto()
    """The client asks for a WebSocket: Robyn was told that nothing more comes, and finishes."""
    UPGRADED = auto()
    """Robyn has finished, and the client has still to take some of it before the WebSocket."""
    REFUSING = auto()
    """Something is not right: the answers to what came before it are awaited."""
    FINISHING = auto()
    """The connection was quiet while the process ends: no request is read any more."""
    ROBYN_ENDED = auto()
    """All is sent; the client's end is awaited, what it still sends is thrown away."""
    OVER = auto()


@final
class Pipe(asyncio.Protocol):
    """One client's connection and the one to Robyn; the protocol of the client's.

    Bytes go from one transport of the event loop to the other: it writes once a turn, too.
    """

    __slots__ = (
        "_behind",
        "_client",
        "_deadline",
        "_early",
        "_early_eof",
        "_ended",
        "_held_up",
        "_idle",
        "_pace",
        "_pipes",
        "_requests",
        "_rest",
        "_robyn",
        "_seen",
        "_stall",
        "_state",
        "_to_robyn",
        "_unsent",
        "_watched",
        "_wire",
        "answers",
        "number",
        "quiet",
        "refusing",
        "source",
        "to_client",
    )

    def __init__(
        self, pipes: Pipes, client: AsyncioTransport, data: bytes, source: str | None, number: int
    ) -> None:
        self._pipes = pipes
        self._client = client
        self._wire = wire = client.hand_over(self)
        self.to_client = wire.write
        """Passes a part of an answer on."""
        self._robyn: asyncio.Transport | None = None
        self._to_robyn: Callable[[bytes], None] | None = None
        self._requests = Requests(pipes.site.ready_path, pipes.site.policy.limits.max_body)
        self.answers = Answers(self._requests.heads)
        self._state = PipeState.CONNECTING
        self._early = data
        self._early_eof = False
        self._rest = b""  # what came at once, and was not read in this turn
        self._ended = False  # the client has ended its side
        self._unsent = 0
        self._pace: Timer | None = None  # by when what the client is at has to get on
        self._watched = (0, Part.BETWEEN)  # what that is
        self._seen = 0
        self._behind = False  # Robyn does not keep up: the client is not read
        self._held_up = False  # the same, at some time since the last look
        self._stall: Timer | None = None
        self._idle: int | None = None  # after how many requests it was idle at the last look
        self.refusing = False
        """Whether a refusal waits for its turn."""
        self.quiet = False
        """Whether nothing went through since this was set."""
        self.source = source
        """The loopback address that Robyn sees the client at; ``None`` for 127.0.0.1."""
        self.number: int | None = number
        """Under which it was begun; ``None`` when its client is somebody else's again."""
        wire.set_write_buffer_limits(high=HIGH_WATER)
        wire.pause_reading()
        runtime = pipes.site.runtime
        self._deadline: Timer | None
        self._deadline = runtime.timers.after(CONNECT_TIMEOUT, partial(self._unreachable, "no answer"))
        runtime.spawn(self._connect, name="pipe to Robyn")

    async def _connect(self) -> None:
        source = None if self.source is None else (self.source, 0)
        try:
            await asyncio.get_running_loop().create_connection(
                partial(_FromRobyn, self), *self._pipes.address, local_addr=source
            )
        except OSError as error:
            self._unreachable(error.strerror or str(error))

    def _unreachable(self, why: str) -> None:
        if self._state is PipeState.CONNECTING:
            if (left_out := repeats.due(("not reachable", why))) is not None:
                text = "Robyn is not reachable at %s:%d: %s%s"
                logger.error(text, *self._pipes.address, why, others(left_out))
            self.to_client(refusal(HandshakeRefused(502, "the application is not reachable")))
            self._end_client()

    def connected(self, robyn: asyncio.Transport) -> None:
        """Called when Robyn has taken the connection."""
        if self._state is not PipeState.CONNECTING:
            robyn.abort()
            return
        robyn.set_write_buffer_limits(high=HIGH_WATER)
        robyn.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._robyn = robyn
        self._to_robyn = robyn.write
        self._state = PipeState.OPEN
        self._stop_deadline()
        self._look_when_idle()
        self._read_from(self._wire)
        early, self._early = self._early, b""
        self.data_received(early)
        if self._early_eof:
            self.eof_received()

    def finish(self) -> None:
        """Let Robyn finish the answer that it is at, if there is one, and the connection end then.

        A client that has got all of it is not waited for.
        """
        if self._state is PipeState.OPEN:
            if not self._requests.in_part:
                self._state = PipeState.FINISHING
                self._wire.pause_reading()
                self._end_requests()
        elif self._state is PipeState.ROBYN_ENDED and not self._wire.get_write_buffer_size():
            self._wire.close()

    def abort(self) -> None:
        """Drop both connections."""
        self._over()
        self._wire.abort()
        self._drop_robyn()

    # -- from the client -----------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Pass on what belongs to plain requests."""
        self.quiet = False
        if self._state is PipeState.OPEN:
            if self._rest:
                self._rest += data
            elif len(data) > TURN and self._requests.left < len(data):
                self._rest = data
                self._wire.pause_reading()
                self._next_turn()
            else:
                self._read(data)
        elif self._state is PipeState.CONNECTING:
            self._early += data  # what the event loop had read already

    def _read(self, data: bytes) -> None:
        assert self._to_robyn is not None, "an open pipe has both sides"
        requests = self._requests
        requests.closing = self._pipes.closing
        passed = requests.feed(data)
        if passed:
            self._to_robyn(passed)
        if requests.part is not Part.BETWEEN:
            self._not_between(requests)
        elif self._pace is not None:
            self._stop_pace()

    def _next_turn(self) -> None:
        """Read some of what came at once, and leave the next turn of the event loop to the others."""
        if self._state is not PipeState.OPEN or not self._rest:
            return
        data, self._rest = self._rest[:TURN], self._rest[TURN:]
        self._read(data)
        if self._requests.upgrade is not None:
            self._requests.upgrade += self._rest
        elif self._state is PipeState.OPEN and self._rest:
            if not self._behind:
                asyncio.get_running_loop().call_soon(self._next_turn)
        elif self._state is PipeState.OPEN and self._early_eof:
            self.eof_received()
        elif self._state is PipeState.OPEN and not self._behind:
            self._read_from(self._wire)

    def _not_between(self, requests: Requests) -> None:
        """Deal with a request that is not complete, and with the last one."""
        if requests.refused is not None:
            self._refuse()
        elif requests.upgrade is not None:
            self._stop_pace()
            self._state = PipeState.UPGRADING
            self._wire.pause_reading()
            self._end_requests()
        elif requests.part is Part.NOTHING:
            self._stop_pace()
        else:
            self._watch(requests)

    def eof_received(self) -> bool:
        """Let Robyn see a half-close, and answer what it has."""
        if self._state is PipeState.CONNECTING or (self._state is PipeState.OPEN and self._rest):
            self._early_eof = True
        elif self._state is PipeState.OPEN:
            self._ended = True
            self._requests.end()
            if self._requests.refused is not None:
                self._refuse()
            else:
                self._state = PipeState.CLIENT_ENDED
                self._end_requests()
        elif self._state is PipeState.ROBYN_ENDED:
            self._wire.close()
        elif self._state in (PipeState.UPGRADING, PipeState.UPGRADED, PipeState.FINISHING):
            self.abort()
        # A half-closed socket stays usable, a half-closed TLS session does not exist (RFC 8446, 6.1).
        return self._wire.get_extra_info("ssl_object") is None

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is left to answer."""
        self._over()
        self._drop_robyn()

    def pause_writing(self) -> None:
        """The client does not keep up: read no more of the answer."""
        if self._robyn is not None:
            self._robyn.pause_reading()
        if self._state not in (PipeState.UPGRADED, PipeState.ROBYN_ENDED, PipeState.OVER):
            self._stop_stall()
            self._start_stall()

    def resume_writing(self) -> None:
        """The client keeps up again, or has taken all that comes before its WebSocket."""
        self._stop_stall()
        if self._state is PipeState.UPGRADED:
            self._upgrade()
        elif self._robyn is not None:
            self._read_from(self._robyn)

    def _end_requests(self) -> None:
        assert self._robyn is not None, "only an open pipe passes requests on"
        self._robyn.write_eof()

    @staticmethod
    def _read_from(wire: asyncio.Transport) -> None:
        if not wire.is_closing():
            wire.resume_reading()

    # -- from Robyn ----------------------------------------------------------------------------

    def robyn_is_behind(self) -> None:
        """Read no more from the client."""
        self._behind = self._held_up = True
        self._wire.pause_reading()

    def robyn_keeps_up(self) -> None:
        """Read from the client again."""
        self._behind = False
        if self._state is PipeState.OPEN and self._rest:
            self._next_turn()
        elif self._state is PipeState.OPEN:
            self._read_from(self._wire)

    def robyn_ended(self) -> None:
        """All answers are there: end the client, or give it the WebSocket that it asks for."""
        self._stop_pace()
        if self._state is PipeState.REFUSING:
            if self._all_is_answered():
                self._send_refusal()
            else:  # a request before was the last one for Robyn
                self._end_client()
        elif self._state is PipeState.UPGRADING:
            self._wire.set_write_buffer_limits(high=0)
            if self._wire.get_write_buffer_size():
                self._state = PipeState.UPGRADED
                self._stop_deadline()
                self._start_deadline()
            else:
                self._upgrade()
        elif self._state is PipeState.CLIENT_ENDED:
            self._over_when_lost()
            self._wire.close()
        elif self._state in (PipeState.OPEN, PipeState.FINISHING):
            self._end_client()

    def robyn_lost(self) -> None:
        """Pass on a loss without an end: an answer may be incomplete."""
        if self._state not in (PipeState.CONNECTING, PipeState.ROBYN_ENDED, PipeState.OVER):
            self.abort()

    def _upgrade(self) -> None:
        request = self._requests.upgrade
        assert request is not None, "what the state says"
        number, self.number = self.number, None
        assert number is not None, "it is over once"
        self._over()
        self._pipes.upgrade(self._client, request, number)

    # -- what is refused -----------------------------------------------------------------------

    def _refuse(self) -> None:
        """Answer what is not right, once all before it is answered; nothing more is read."""
        self._stop_pace()
        self._state = PipeState.REFUSING
        self.refusing = True
        self._wire.pause_reading()
        if not self._requests.in_part:
            self._end_requests()
        self.answer_came()

    def answer_came(self) -> None:
        """Called when Robyn has sent something, while a refusal waits or this is the last answer."""
        if not self.answers.between or self._state is PipeState.ROBYN_ENDED:
            return
        if self.refusing and self._all_is_answered() and not self.answers.last:
            self._send_refusal()
        elif self.answers.last or self.answers.whole > self._requests.whole:
            # Robyn answers nothing else, or has answered already what it did not get as a whole.
            self._drop_robyn()
            self._end_client()

    def _all_is_answered(self) -> bool:
        return self.answers.between and self.answers.whole == self._requests.whole

    def _send_refusal(self) -> None:
        refused = self._requests.refused
        assert refused is not None, "what the state says"
        self._drop_robyn()
        self.to_client(refusal(refused, body=not self._requests.refused_head))
        self._end_client()

    def _drop_robyn(self) -> None:
        """Let Robyn see a reset; behind a part of a request, when it has read that part."""
        robyn, self._robyn, self.refusing = self._robyn, None, False
        if robyn is not None and self._requests.in_part and not robyn.is_closing():
            robyn.pause_reading()
            self._pipes.reset_soon(robyn)
        elif robyn is not None:
            robyn.abort()

    # -- who is too slow -----------------------------------------------------------------------

    def _watch(self, requests: Requests) -> None:
        """See to it that a request that is not complete gets on; a head has its time as a whole."""
        what = requests.whole, requests.part
        if what == self._watched and self._pace is not None:
            return
        self._stop_pace()
        self._watched = what
        timeouts = self._pipes.site.policy.timeouts
        if requests.part is Part.HEAD:
            if timeouts.handshake is not None:
                self._pace = self._pipes.site.runtime.timers.after(timeouts.handshake, self._head_too_slow)
        elif timeouts.assembly is not None:
            self._seen, self._held_up = requests.body, self._behind
            self._pace = self._pipes.site.runtime.timers.after(timeouts.assembly, self._look_at_body)

    def _head_too_slow(self) -> None:
        self._requests.refuse(HandshakeRefused(408, "the head of the request took too long"))
        self._refuse()

    def _look_at_body(self) -> None:
        """Refuse a body that has not got on since the last look, though it was read all the time."""
        timeout, body = self._pipes.site.policy.timeouts.assembly, self._requests.body
        assert timeout is not None, "there was a look"
        if self._held_up or body - self._seen >= DRIP * timeout:
            self._seen, self._held_up = body, self._behind
            self._pace = self._pipes.site.runtime.timers.after(timeout, self._look_at_body)
        else:
            self._requests.refuse(HandshakeRefused(408, "the body of the request comes too slowly"))
            self._refuse()

    def _stop_pace(self) -> None:
        if self._pace is not None:
            self._pace.cancel()
            self._pace = None

    def _start_stall(self) -> None:
        self._unsent = self._wire.get_write_buffer_size()
        stall = self._pipes.site.policy.limits.send_stall
        if stall is not None:
            self._stall = self._pipes.site.runtime.timers.after(stall, self._look_at_stall)

    def _look_at_stall(self) -> None:
        """Give up a client that has taken nothing of its answer since the last look."""
        if self._wire.get_write_buffer_size() < self._unsent:
            self._start_stall()
        else:
            self.abort()

    def _stop_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _look_when_idle(self) -> None:
        """Look whether the connection is idle, and was so at the last look."""
        keep_alive, requests = self._pipes.site.keep_alive, self._requests
        if keep_alive is None or self._state is not PipeState.OPEN:
            return
        idle = None
        if requests.part is not Part.HEAD and not requests.in_part and self._all_is_answered():
            idle = requests.whole
        if idle is not None and idle == self._idle:
            self._drop_robyn()
            self._end_client()
        else:
            self._idle = idle
            self._deadline = self._pipes.site.runtime.timers.after(keep_alive, self._look_when_idle)

    # -- the end -------------------------------------------------------------------------------

    def _end_client(self) -> None:
        """Send the rest and our end, and give the client time to read it (RFC 9112, section 9.6)."""
        self._over_when_lost()
        if self._wire.can_write_eof() and not self._ended:
            self._wire.write_eof()
            self._read_from(self._wire)
        else:
            self._wire.close()

    def _over_when_lost(self) -> None:
        self._stop_deadline()
        self._stop_pace()
        self._state = PipeState.ROBYN_ENDED
        self._start_deadline()

    def _start_deadline(self) -> None:
        self._stop_stall()
        site = self._pipes.site
        self._unsent = self._wire.get_write_buffer_size()
        timeout = site.policy.timeouts.close
        if timeout is not None:
            self._deadline = site.runtime.timers.after(timeout, self._time_is_over)

    def _time_is_over(self) -> None:
        """Give up a client that neither takes what is left for it nor ends its side."""
        if self._wire.get_write_buffer_size() < self._unsent:
            self._start_deadline()
        else:
            self.abort()

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _over(self) -> None:
        if self._state is not PipeState.OVER:
            self._state = PipeState.OVER
            self._stop_deadline()
            self._stop_pace()
            self._stop_stall()
            self._pipes.over(self)


@final
class _FromRobyn(asyncio.Protocol):
    """The protocol of the connection to Robyn."""

    __slots__ = ("_ended", "_pipe")

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._ended = False

    def data_received(self, data: bytes) -> None:
        pipe = self._pipe
        pipe.quiet = False
        pipe.answers.feed(data)
        pipe.to_client(data)
        if pipe.refusing or pipe.answers.last:
            pipe.answer_came()

    def pause_writing(self) -> None:
        self._pipe.robyn_is_behind()

    def resume_writing(self) -> None:
        self._pipe.robyn_keeps_up()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._pipe.connected(cast(asyncio.Transport, transport))  # uvloop's is no subclass

    def eof_received(self) -> None:
        """Robyn ends a connection as a whole: the event loop closes our side too."""
        self._ended = True
        self._pipe.robyn_ended()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended:
            self._pipe.robyn_lost()


@final
class Pipes:
    """The pipes of this process to the listener at ``address``.

    ``upgrade`` gets a client that asks for a WebSocket on a connection it kept, or whether the server is
    ready, with the request and the pipe's number; ``ended`` the number of every other pipe that is over.
    """

    __slots__ = ("_emptied", "_ended", "_left_by_client", "address", "closing", "open", "site", "upgrade")

    def __init__(
        self,
        site: Site,
        address: tuple[str, int],
        upgrade: Callable[[AsyncioTransport, bytes, int], None],
        ended: Callable[[int], None],
    ) -> None:
        self.site = site
        self.address = address
        self.upgrade = upgrade
        self.open: set[Pipe] = set()
        self.closing = False
        """Whether every request is the last one of its connection from now on."""
        self._ended = ended
        self._emptied = asyncio.Event()
        self._left_by_client: set[asyncio.Transport] = set()

    def begin(self, client: AsyncioTransport, data: bytes, source: str | None, number: int) -> None:
        """Pipe one client whose first bytes, the whole head of a request, are ``data``."""
        self.open.add(Pipe(self, client, data, source, number))

    async def finish(self) -> None:
        """Wait for the answers that are to come; end the connections that have been quiet for a while."""
        while self.open:
            for pipe in list(self.open):
                if pipe.quiet:
                    pipe.finish()
                pipe.quiet = True
            self._emptied.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), QUIET)

    def over(self, pipe: Pipe) -> None:
        """Called by a pipe at its end."""
        self.open.discard(pipe)
        if pipe.number is not None:
            self._ended(pipe.number)
        if not self.open:
            self._emptied.set()

    def reset_soon(self, robyn: asyncio.Transport) -> None:
        """Reset a connection to Robyn that has got a part of a request, once that is read there."""
        self._left_by_client.add(robyn)
        self.site.runtime.timers.after(RESET_DELAY, partial(self._reset, robyn))

    def _reset(self, robyn: asyncio.Transport) -> None:
        self._left_by_client.discard(robyn)
        robyn.abort()

    def abort(self) -> None:
        """Drop every connection that is piped."""
        for pipe in list(self.open):
            pipe.abort()
        for robyn in list(self._left_by_client):
            self._reset(robyn)
