"""The closing table: every sequence of signals up to six."""

from __future__ import annotations

from itertools import product

import pytest

from actors.closing import TABLE, Action, ClosingState, Signal

LENGTH = 6


def run(signals: tuple[Signal, ...]) -> tuple[ClosingState, list[tuple[Signal, ClosingState, Action]]]:
    """The last state, and every action with the signal that asked for it and the state it led to."""
    state, actions = ClosingState.OPEN, []
    for signal in signals:
        state, now = TABLE[state, signal]
        actions += [(signal, state, action) for action in now]
    return state, actions


def test_the_table_is_total() -> None:
    assert set(TABLE) == set(product(ClosingState, Signal))


def test_every_sequence_of_signals_keeps_the_rules() -> None:
    count = 0
    for length in range(1, LENGTH + 1):
        for signals in product(Signal, repeat=length):
            count += 1
            state, taken = run(signals)
            actions = [action for _, _, action in taken]

            assert actions.count(Action.SEND_CLOSE) <= 1
            assert actions.count(Action.START_DEADLINE) <= 1
            assert actions.count(Action.END_TCP) + actions.count(Action.LINGER) <= 1
            assert actions.count(Action.ABORT) <= 1
            assert actions.count(Action.TEAR_DOWN) == (state is ClosingState.CLOSED)
            if state is ClosingState.CLOSED:
                assert actions[-1] is Action.TEAR_DOWN, "nothing is done after the teardown"
            # Whoever waits for the peer does so under the deadline, and it runs out only then.
            if state in (ClosingState.SENT, ClosingState.ENDING):
                assert Action.START_DEADLINE in actions
            if Action.ABORT in actions:
                assert actions.index(Action.START_DEADLINE) < actions.index(Action.ABORT)
                assert taken[actions.index(Action.ABORT)][0] is Signal.DEADLINE
            # Our Close frame goes out only for a close of our own, and never behind the peer's.
            if Action.SEND_CLOSE in actions:
                before = signals[: next(i for i, signal in enumerate(signals) if signal is Signal.CLOSE)]
                assert set(before) <= {Signal.DEFER, Signal.DEADLINE}
            # Every way into ENDING ends our side of TCP, and nothing else does.
            ends = (Action.END_TCP, Action.LINGER)
            passed = [next_state for _, next_state, action in taken if action in ends]
            assert passed in ([], [ClosingState.ENDING])
            # Only a peer that broke the protocol is read on behind our end.
            lingers = [signal for signal, _, action in taken if action is Action.LINGER]
            assert lingers in ([], [Signal.FAILURE])
            # Nothing is done while messages still flow both ways.
            assert bool(actions) == (state not in (ClosingState.OPEN, ClosingState.PENDING))
    assert count == 55_986


def test_a_state_is_never_left_backwards() -> None:
    order = list(ClosingState)

    for (state, _), (following, _) in TABLE.items():
        assert order.index(following) >= order.index(state)


@pytest.mark.parametrize("state", [state for state in ClosingState if state is not ClosingState.CLOSED])
def test_every_state_leads_to_closed(state: ClosingState) -> None:
    assert TABLE[state, Signal.END][0] is ClosingState.CLOSED


@pytest.mark.parametrize("state", [ClosingState.SENT, ClosingState.ENDING])
def test_the_deadline_drops_tcp_only_where_something_is_awaited(state: ClosingState) -> None:
    assert TABLE[state, Signal.DEADLINE] == (ClosingState.CLOSED, (Action.ABORT, Action.TEAR_DOWN))
    for other in set(ClosingState) - {ClosingState.SENT, ClosingState.ENDING}:
        assert TABLE[other, Signal.DEADLINE] == (other, ())


@pytest.mark.parametrize("first", list(Signal))
def test_closed_is_the_end(first: Signal) -> None:
    assert TABLE[ClosingState.CLOSED, first] == (ClosingState.CLOSED, ())
