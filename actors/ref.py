"""``ActorRef``: an actor's address, safe to use from any thread and event loop."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Generic, NoReturn, Protocol, cast, final

import anyio
from typing_extensions import TypeVar

from actors.backends import Waiter
from actors.codes import CloseCode
from actors.errors import ActorError, ActorMisuse, ActorStopped, AskTimeout
from actors.mailbox import Mailbox, Told
from actors.messages import Close, CloseReport
from actors.runtime import Runtime
from actors.seconds import check_seconds
from actors.sizes import size_of

M = TypeVar("M", default=Any, contravariant=True)
"""What the actor is told."""
A = TypeVar("A", default=Any, covariant=True)
"""What it answers with."""


@final
class Asked(Told):
    """A message with somebody waiting for its answer; answered or failed at most once."""

    __slots__ = ("_waiter", "answer", "error", "over")

    def __init__(self, message: Any, size: int = 0) -> None:
        super().__init__(message, size)
        self._waiter = Waiter()
        self.answer: Any = None
        self.error: ActorError | None = None
        self.over = False
        """Answered, failed or given up: what comes later is dropped."""

    def reply(self, answer: Any) -> bool:
        """Give the answer; tell whether somebody still waited for it."""
        if self.over:
            return False
        self.over = True
        self.answer = answer
        self._waiter.wake()
        return True

    def fail(self, error: ActorError) -> None:
        """Let the asker's ``ask`` raise ``error``."""
        if not self.over:
            self.over = True
            self.error = error
            self._waiter.wake()

    async def wait(self, timeout: float | None) -> Any:
        """Wait for the answer in the asking task."""
        try:
            with anyio.move_on_after(timeout):
                await self._waiter.wait()
        finally:
            given_up, self.over = not self._waiter.woken, True
        if given_up:
            raise AskTimeout(f"no answer within {timeout} s")
        if self.error is not None:
            raise self.error
        return self.answer


class Target(Protocol):
    """The cell of an actor, as a ref reaches it."""

    id: str
    kind: str
    runtime: Runtime
    mailbox: Mailbox

    @property
    def stopped(self) -> bool:
        """Tell whether the actor has ended and is torn down."""

    @property
    def report(self) -> CloseReport | None:
        """The report of a connection that has ended."""

    def is_own_task(self, task: object) -> bool:
        """Tell whether ``task`` is one of the actor."""

    def put_told(self, told: Told) -> None:
        """Put a message into the mailbox; raises ``MailboxFull``."""

    def put_told_or_drop(self, told: Told) -> None:
        """``put_told`` for another thread, which cannot get the exception."""

    def request_close(self, close: Close) -> Closing:
        """Close the actor's WebSocket, from any thread."""

    def stop(self) -> None:
        """End the actor normally."""

    def monitor(self, other: ActorRef) -> None:
        """Get one ``Down`` when ``other`` ends."""

    def demonitor(self, other: ActorRef) -> None:
        """Take ``monitor`` back."""

    async def wait_stopped(self) -> None:
        """Wait for the end of the teardown; from any event loop."""


class Closes(Protocol):
    """The cell of a connection, as ``Closing`` knows it."""

    async def wait_report(self) -> CloseReport:
        """Wait for the close report."""


@final
class ActorRef(Generic[M, A]):
    """The address of one actor, the same through every restart; two of one actor are equal.

    ``tell``, ``ask``, ``close`` and ``monitor`` may be called from any thread, also after the
    actor's end.  For type checkers, ``ActorRef[Ask, int]`` takes ``Ask``s and answers with an ``int``; both
    are ``Any`` where they are not given.
    """

    __slots__ = ("_cell", "id")

    def __init__(self, cell: Target) -> None:
        self._cell = cell
        self.id = cell.id

    def __repr__(self) -> str:
        return f"<ActorRef {self._cell.kind} {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorRef) and self._cell is other._cell

    def __hash__(self) -> int:
        return hash(self._cell)

    def __copy__(self) -> ActorRef:
        return self

    def __deepcopy__(self, memo: object) -> ActorRef:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} belongs to this process and cannot be pickled; pass on its id")

    @property
    def alive(self) -> bool:
        """Tell whether the actor has not ended yet; may change at any moment."""
        return not self._cell.stopped

    def tell(self, message: M) -> None:
        """Put ``message`` into the mailbox, for ``on_info``; returns at once.

        For an actor that has ended or is closing the message becomes a dead letter.  Raises
        ``MailboxFull`` when the mailbox is full and its overflow rule is ``RAISE``; from another
        thread than the actor's, where the outcome is not awaited, it becomes a dead letter then.
        """
        cell = self._cell
        told = Told(message, size_of(message, cell.mailbox.bounds.told_bytes))
        if cell.runtime.in_thread:
            cell.put_told(told)
        elif not cell.runtime.call(cell.put_told_or_drop, told):
            cell.runtime.dead_letters.add(message, self.id, "stopped")

    async def ask(self, message: M, timeout: float | None = 5.0) -> A:
        """Put ``message`` into the mailbox and wait for what ``on_info`` returns, ``timeout`` seconds.

        Raises ``ActorStopped`` at once when the actor has ended, is closing or crashes before it
        answers, ``AskTimeout`` when the time is over (a later answer is dropped),
        ``MailboxFull`` as ``tell`` does, ``ActorMisuse`` when an actor asks itself, and ``TypeError`` or
        ``ValueError`` for a ``timeout`` that is none, before anything is put.
        """
        check_seconds("timeout", timeout, zero=True)
        cell = self._cell
        if cell.runtime.in_thread and cell.is_own_task(cell.runtime.backend.current_task()):
            raise ActorMisuse("an actor that asks itself waits for ever: call the method, or tell")
        asked = Asked(message, size_of(message, cell.mailbox.bounds.told_bytes))
        if cell.runtime.in_thread:
            cell.put_told(asked)
        elif not cell.runtime.call(cell.put_told_or_drop, asked):
            asked.fail(ActorStopped(f"{self!r} has ended with its event loop"))
        return cast(A, await asked.wait(timeout))

    def close(
        self,
        code: int = CloseCode.NORMAL_CLOSURE,
        reason: str = "",
        *,
        drain: bool = False,
        notice: object = None,
        grace: float = 5.0,
    ) -> Closing:
        """Close the actor's WebSocket, as ``ConnectionActor.close`` does; from any thread."""
        return self._cell.request_close(Close(code, reason, drain, notice, grace))

    def stop(self) -> None:
        """End the actor normally after its running hook; a WebSocket is closed with 1000."""
        self._cell.runtime.call(self._cell.stop)

    def monitor(self, other: ActorRef) -> None:
        """Let this actor get one ``Down(other)`` in ``on_info`` when ``other`` ends; at once if it has.

        A second call for the same actor changes nothing.
        """
        self._cell.runtime.call(self._cell.monitor, other)

    def demonitor(self, other: ActorRef) -> None:
        """Take ``monitor`` back: no ``Down`` that is not delivered yet will be."""
        self._cell.runtime.call(self._cell.demonitor, other)

    async def wait_closed(self) -> CloseReport | None:
        """Wait until the actor has ended and is torn down; the close report of a connection.

        In the actor's own hooks this would wait for ever and raises ``ActorMisuse``.
        """
        cell = self._cell
        if cell.runtime.in_thread and cell.is_own_task(cell.runtime.backend.current_task()):
            raise ActorMisuse(
                "an actor cannot wait for its own end; await self.close() waits for the handshake"
            )
        await cell.wait_stopped()
        return cell.report


@final
class Closing:
    """The result of ``close``: awaitable for the ``CloseReport``, and no harm done if nobody awaits it.

    In the actor's own hooks and tasks awaiting it waits for the handshake on the wire (after
    ``drain=True`` it raises ``ActorMisuse`` instead, as the queued messages wait for the hook);
    everywhere else it waits for the end of the teardown.
    """

    __slots__ = ("_cell",)

    def __init__(self, cell: Closes) -> None:
        self._cell = cell

    def __await__(self) -> Generator[Any, Any, CloseReport]:
        return self._cell.wait_report().__await__()
