"""The breaker by itself: whose crashes count, whom it refuses, and what takes it all back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.admission import breaker as breaker_module
from supervisor.admission.breaker import MEMORY, Breaker


def crash(breaker: Breaker, addresses: list[str], now: float = 0.0) -> None:
    for address in addresses:
        breaker.crashed(address, now)


ADDRESSES = [f"203.0.113.{number}" for number in range(1, 21)]


def test_one_address_alone_never_opens_it() -> None:
    breaker = Breaker(20, 5.0)

    crash(breaker, ["203.0.113.1"] * 10_000)

    assert not breaker.is_open
    assert len(breaker) == 1


def test_so_many_addresses_with_nobody_who_got_through_open_it_and_it_says_so_once() -> None:
    breaker = Breaker(20, 5.0)

    opened = [breaker.crashed(address, 0.0) for address in [*ADDRESSES, "198.51.100.1"]]

    assert opened == [False] * 19 + [True, False]


def test_one_connection_that_gets_through_takes_all_back() -> None:
    breaker = Breaker(20, 5.0)
    crash(breaker, ADDRESSES)

    breaker.got_through()

    assert (breaker.is_open, len(breaker), breaker.wait(ADDRESSES[0], 0.0)) == (False, 0, 0.0)
    crash(breaker, ADDRESSES[:19])
    assert not breaker.is_open


def test_an_open_one_refuses_the_addresses_that_crashed_and_no_other() -> None:
    breaker = Breaker(20, 5.0)
    crash(breaker, ADDRESSES, 1.0)

    assert breaker.wait(ADDRESSES[3], 2.0) == 4.0
    assert breaker.wait("198.51.100.7", 2.0) == 0.0
    assert breaker.wait(None, 2.0) == 0.0


def test_after_the_pause_each_address_may_try_with_one_connection() -> None:
    breaker = Breaker(20, 5.0)
    crash(breaker, ADDRESSES)

    tries = [breaker.wait(ADDRESSES[0], 5.0) for _ in range(3)]

    assert tries == [0.0, 5.0, 5.0]
    assert breaker.wait(ADDRESSES[1], 5.0) == 0.0, "each of them"
    breaker.crashed(ADDRESSES[0], 6.0)
    assert breaker.wait(ADDRESSES[0], 10.9) == pytest.approx(0.1)


def test_who_is_not_counted_by_address_counts_for_nothing() -> None:
    breaker = Breaker(1, 5.0)

    assert not breaker.crashed(None, 0.0)
    assert not breaker.is_open


def test_the_ipv6_networks_of_one_customer_are_one_vote() -> None:
    breaker = Breaker(2, 5.0)

    crash(breaker, [f"2001:db8:0:{number:x}::/64" for number in range(1000)])
    assert not breaker.is_open
    crash(breaker, ["2001:db8:1::/64"])
    assert breaker.is_open


def test_a_vote_is_forgotten_after_a_minute() -> None:
    breaker = Breaker(20, 5.0)
    crash(breaker, ADDRESSES[:19], 0.0)

    breaker.crashed(ADDRESSES[19], MEMORY + 1)

    assert not breaker.is_open
    assert len(breaker) == 1


def test_the_votes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker_module, "MAX_VOTES", 100)
    breaker = Breaker(20, 5.0)

    crash(breaker, [f"10.0.{number >> 8}.{number & 255}" for number in range(1000)])

    assert len(breaker) == 100
    assert len(breaker._voters) == 100


HOSTS = [*ADDRESSES[:6], "2001:db8::/64", "2001:db8:0:1::/64", None]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["crashed", "wait", "got through"]),
        st.sampled_from(HOSTS),
        st.sampled_from([0.0, 1.0, 5.0, 61.0]),
    ),
    max_size=60,
)


@given(steps=STEPS)
def test_an_address_that_did_not_crash_since_somebody_got_through_is_never_refused(
    steps: list[tuple[str, str | None, float]],
) -> None:
    breaker, now, crashed = Breaker(3, 5.0), 0.0, set[str | None]()
    for step, address, later in steps:
        now += later
        if step == "crashed":
            breaker.crashed(address, now)
            crashed.add(address)
        elif step == "got through":
            breaker.got_through()
            crashed.clear()
        elif breaker.wait(address, now):
            assert address in crashed - {None}
        assert sum(breaker._voters.values()) == len(breaker)
