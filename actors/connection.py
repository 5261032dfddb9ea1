"""``ConnectionActor``: an actor that owns one WebSocket."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol

from actors.actor import Actor, Context, M, plain_or_async
from actors.codecs import Codec
from actors.codes import CloseCode
from actors.messages import Close, CloseReport, Refusal
from actors.ref import Closing
from actors.request import QueryParams, Request


class ConnectionContext(Context, Protocol):
    """The cell of a connection actor, as the actor knows it."""

    request: Request

    @property
    def round_trip(self) -> float | None:
        """Seconds from the last answered ping to its pong."""

    def send(self, message: Any) -> Awaitable[None] | None:
        """Queue one message for the peer; give what its sender is to await, if anything."""

    def send_now(self, message: Any) -> None:
        """Queue one message of somebody who cannot wait."""

    def request_close(self, close: Close) -> Closing:
        """Take a close from any thread."""


class ConnectionActor(Actor[Any, Any], Generic[M]):
    """Subclass this, override the hooks, and give the class to ``serve`` or ``supervise``.

    Hooks may be plain or async; they run one at a time in the connection's own task, in the order
    ``on_connect``, then ``on_message`` and ``on_info`` in the order of arrival, then ``on_close``.
    What a hook raises ends this connection alone: 1011 with an empty reason goes to the peer, the
    traceback to the log.

    Class attributes: ``policy`` (a ``supervisor.Policy``; the class's wins over the route's, the
    route's over the server's, part by part), ``codec`` (``"raw"``, ``"json"``, ``"msgpack"``, a
    ``Codec``, or a mapping from subprotocol to one of these) and ``subprotocols`` (names this side
    speaks, the preferred first; by default the codec mapping's).

    For type checkers: ``ConnectionActor[dict[str, str]]`` says what ``on_message`` gets.
    """

    _cell: ConnectionContext | None = None
    _former_cell: ConnectionContext | None = None
    policy: ClassVar[Any] = None
    codec: ClassVar[str | Codec | Mapping[str | None, str | Codec]] = "raw"
    subprotocols: ClassVar[Sequence[str]] = ()

    # -- hooks ---------------------------------------------------------------------------------

    @classmethod
    @plain_or_async
    async def on_upgrade(cls, request: Request, /) -> Refusal | None:
        """Run before 101, in the connection's task: return a ``Refusal`` for a real HTTP status.

        ``None`` lets the upgrade go on.  What it raises is answered with 500.
        """
        return None

    @plain_or_async
    async def on_connect(self) -> None:
        """Run after 101, before the first message; messages wait in the mailbox meanwhile."""

    @plain_or_async
    async def on_message(self, message: M, /) -> None:
        """Handle one message of the peer: ``str``, ``bytes``, or what the codec decoded."""

    @plain_or_async
    async def on_close(self, report: CloseReport, /) -> None:
        """Run exactly once, whatever ended the connection, within the teardown timeout.

        TCP has ended and the tasks of ``spawn`` too by then; the resources of ``enter`` are still
        there.  What it raises is logged and changes nothing.
        """

    # -- what a connection actor can do --------------------------------------------------------

    @property
    def request(self) -> Request:
        """The request that opened the WebSocket."""
        return self._any_cell.request

    @property
    def query_params(self) -> QueryParams:
        """The parameters behind the ``?`` of the request."""
        return self._any_cell.request.query_params

    @property
    def path_params(self) -> Mapping[str, str]:
        """The values of the route's ``:names``."""
        return self._any_cell.request.path_params

    @property
    def round_trip(self) -> float | None:
        """Seconds between the last answered ping of the heartbeat and its pong; ``None`` before one."""
        return self._any_cell.round_trip

    async def send(self, message: Any) -> None:
        """Send one message through the codec; waits while the write buffer is over its high water mark.

        Returns when the message is queued, in order, not when the peer has it.  Who computes for long
        between two sends lets the others have a turn here, and what was sent goes out.  Raises
        ``ConnectionClosing`` once our Close frame is out or the peer's has come, and ``TypeError``
        or ``ValueError`` for what the codec cannot encode.  From the event loop's thread only: others
        use ``ref.tell`` or ``publish``.
        """
        cell = self._cell or self._own_cell
        wait = cell.send(message)
        if wait is not None:
            await wait

    def close(
        self,
        code: int = CloseCode.NORMAL_CLOSURE,
        reason: str = "",
        *,
        drain: bool = False,
        notice: object = None,
        grace: float = 5.0,
    ) -> Closing:
        """Close the WebSocket with the handshake of RFC 6455, section 7; returns at once.

        A message: callable from plain and async code and from any thread, and never an error because
        the connection is closing already (the first close wins, later ones share its report).  The
        Close frame goes out behind what was sent before, ahead of the messages still queued; with
        ``drain`` behind those.  ``notice`` is a data message sent first: the peer then has ``grace``
        seconds to close by itself.

        What it returns can be awaited for the ``CloseReport``.  An illegal ``code`` or ``reason``
        raises ``ValueError`` (``TypeError`` for another type) and leaves the connection as it was.
        """
        cell = self._cell or self._any_cell
        return cell.request_close(Close(code, reason, drain, notice, grace))

    def stop(self) -> None:
        """The same as ``close()``."""
        self.close()

    # Only connection cells run connection actors.

    @property
    def _own_cell(self) -> ConnectionContext:
        return super()._own_cell  # type: ignore[return-value]

    @property
    def _any_cell(self) -> ConnectionContext:
        return super()._any_cell  # type: ignore[return-value]
