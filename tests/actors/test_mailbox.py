"""The mailbox against a naive model: two lists, counted anew at every step."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.mailbox import EMPTY, Bounds, Mailbox, PutResult, Told
from actors.sizes import size_of

PAYLOADS = st.one_of(st.text(max_size=12), st.binary(max_size=12))
SMALL = st.integers(min_value=1, max_value=6)


class MailboxModel(RuleBasedStateMachine):
    """Every operation on a mailbox and on two plain lists."""

    @initialize(messages=SMALL, size=st.integers(1, 30), told=SMALL, told_size=st.integers(1, 30))
    def make(self, messages: int, size: int, told: int, told_size: int) -> None:
        self.bounds = Bounds(messages, size, told, told_size)
        self.mailbox = Mailbox(self.bounds)
        self.control: list[Any] = []
        self.data: list[Any] = []

    # -- what the model counts -----------------------------------------------------------------

    @property
    def told(self) -> list[Told]:
        return [message for message in self.data if isinstance(message, Told)]

    @property
    def inbound(self) -> list[Any]:
        return [message for message in self.data if not isinstance(message, Told)]

    @property
    def told_size(self) -> int:
        return sum(message.size for message in self.told)

    @property
    def inbound_size(self) -> int:
        return sum(len(message) for message in self.inbound)

    # -- the rules -----------------------------------------------------------------------------

    @rule(message=st.integers())
    def put_control(self, message: int) -> None:
        self.mailbox.put_control(message)

        self.control.append(message)

    @rule(messages=st.lists(PAYLOADS, min_size=1, max_size=3), extra=st.integers(0, 100))
    def put_inbound(self, messages: list[str | bytes], extra: int) -> None:
        if not self.mailbox.open:
            return  # the cell asks first
        has_room = self.mailbox.put_inbound(messages, sum(map(len, messages)) + extra)

        self.data += messages
        assert has_room == (
            len(self.inbound) < self.bounds.inbound_messages and self.inbound_size < self.bounds.inbound_bytes
        )

    @rule(message=PAYLOADS)
    def put_told(self, message: str | bytes) -> None:
        told = Told(message, size_of(message, 30))

        admission = self.mailbox.put_told(told)

        fits = (
            len(self.told) < self.bounds.told_messages
            and self.told_size + told.size <= self.bounds.told_bytes
        )
        if not self.mailbox.open:
            assert admission is PutResult.SHUT
        elif not fits:
            assert admission is PutResult.FULL
        else:
            assert admission is PutResult.ADMITTED
            self.data.append(told)

    @rule()
    def put_marker(self) -> None:
        marker = Told(None)

        self.mailbox.put_marker(marker)

        self.data.append(marker)

    @rule()
    def pop(self) -> None:
        expected = EMPTY
        for lane in (self.control, self.data):
            if lane:
                expected = lane.pop(0)
                break

        assert self.mailbox.pop() is expected

    @precondition(lambda self: self.data and not self.control and not self.told)
    @rule()
    def take_from_the_wires_messages(self) -> None:
        assert self.mailbox.data.popleft() is self.data.pop(0)

    @rule()
    def drop_oldest_told(self) -> None:
        expected = self.told[0] if self.told else None

        assert self.mailbox.drop_oldest_told() is expected

        if expected is not None:
            self.data.remove(expected)

    @rule()
    def clear_data(self) -> None:
        assert self.mailbox.clear_data() == self.data

        self.data.clear()

    @rule(open=st.booleans())
    def set_gate(self, open: bool) -> None:
        self.mailbox.open = open

    # -- what always holds ---------------------------------------------------------------------

    @invariant()
    def counts_and_sizes_are_exact(self) -> None:
        mailbox = self.mailbox
        assert list(mailbox.control) == self.control
        assert list(mailbox.data) == self.data
        assert len(mailbox) == len(self.control) + len(self.data)
        assert mailbox.inbound_messages == len(self.inbound)
        assert mailbox.inbound_bytes == self.inbound_size
        assert mailbox.told_messages == len(self.told)
        assert mailbox.told_bytes == self.told_size

    @invariant()
    def room_is_what_the_bounds_leave(self) -> None:
        mailbox, bounds = self.mailbox, self.bounds
        assert mailbox.may_resume == (
            len(self.inbound) <= bounds.inbound_messages / 2 and self.inbound_size <= bounds.inbound_bytes / 2
        )
        # A mailbox whose lane is empty never holds up the peer for ever.
        assert mailbox.may_resume or self.inbound


TestMailboxAgainstAModel = MailboxModel.TestCase
TestMailboxAgainstAModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
