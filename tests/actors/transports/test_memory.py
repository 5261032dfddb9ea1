"""The transport in memory: what goes in comes out, in order, and the end comes once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.transports.memory import MemoryTransport


class Ends:
    """Both ends of a transport: what the sink is told, and what arrives at the other side."""

    def __init__(self, high_water: int = 100) -> None:
        self.told: list[bytes | str] = []
        self.arrived: list[bytes] = []
        self.hung_up = 0
        self.during: Callable[[], None] = lambda: None
        self.transport = MemoryTransport(self.arrived.append, self._hung_up, high_water)
        self.transport.sink = self

    def _hung_up(self) -> None:
        self.hung_up += 1

    def data(self, data: bytes) -> None:
        self.told.append(data)
        self.during()

    def eof(self) -> None:
        self.told.append("eof")

    def lost(self) -> None:
        self.told.append("lost")

    def writable(self) -> None:
        self.told.append("writable")


@pytest.fixture
def ends() -> Ends:
    return Ends()


def test_what_is_written_arrives_at_once(ends: Ends) -> None:
    ends.transport.write(b"one")
    ends.transport.write(b"two")

    assert ends.arrived == [b"one", b"two"]
    assert (ends.transport.buffered, ends.transport.congested) == (0, False)


def test_it_has_no_address_and_no_descriptor(ends: Ends) -> None:
    assert (ends.transport.peer, ends.transport.descriptor) == ("memory", None)


# -- reading -----------------------------------------------------------------------------------


def test_what_comes_while_reading_is_paused_comes_later_in_order(ends: Ends) -> None:
    ends.transport.feed(b"one")
    ends.transport.pause()
    ends.transport.feed(b"two")
    ends.transport.feed(b"three")
    ends.transport.feed_eof()
    assert ends.told == [b"one"]

    ends.transport.resume()

    assert ends.told == [b"one", b"two", b"three", "eof"]


def test_a_sink_may_pause_in_the_middle_and_gets_nothing_more(ends: Ends) -> None:
    ends.transport.pause()
    ends.transport.feed(b"one")
    ends.transport.feed(b"two")
    ends.during = ends.transport.pause

    ends.transport.resume()
    assert ends.told == [b"one"]
    ends.transport.resume()
    assert ends.told == [b"one", b"two"]


def test_a_sink_may_pause_and_resume_in_the_middle_and_order_is_kept(ends: Ends) -> None:
    def pause_and_resume() -> None:
        ends.transport.pause()
        ends.transport.resume()

    ends.during = pause_and_resume
    ends.transport.pause()
    for data in (b"one", b"two", b"three"):
        ends.transport.feed(data)
    ends.transport.resume()

    assert ends.told == [b"one", b"two", b"three"]


@given(st.lists(st.sampled_from(["feed", "pause", "resume"])))
def test_however_it_is_paused_nothing_is_lost_doubled_or_out_of_order(calls: list[str]) -> None:
    ends, fed = Ends(), []

    for number, call in enumerate(calls):
        if call == "feed":
            fed.append(f"{number}".encode())
            ends.transport.feed(fed[-1])
        else:
            getattr(ends.transport, call)()
        assert ends.told == fed[: len(ends.told)]
    ends.transport.resume()

    assert ends.told == fed


# -- a peer that does not read -----------------------------------------------------------------


def test_what_a_stalled_peer_does_not_read_is_held_and_counted(ends: Ends) -> None:
    ends.transport.stall(True)
    ends.transport.write(b"x" * 60)
    assert (ends.transport.buffered, ends.transport.congested) == (60, False)
    ends.transport.write(b"x" * 41)
    assert (ends.transport.buffered, ends.transport.congested) == (101, True)
    assert (ends.arrived, ends.told) == ([], [])

    ends.transport.stall(False)

    assert ends.arrived == [b"x" * 60, b"x" * 41]
    assert (ends.transport.buffered, ends.transport.congested) == (0, False)
    assert ends.told == ["writable"]


def test_below_the_high_water_mark_nobody_is_told_that_there_is_room(ends: Ends) -> None:
    ends.transport.stall(True)
    ends.transport.write(b"x" * 100)
    ends.transport.stall(False)

    assert ends.told == []


def test_reading_stands_still_while_the_peer_does_not_read(ends: Ends) -> None:
    ends.transport.stall(True)
    ends.transport.write(b"x" * 101)
    ends.transport.feed(b"hello")
    assert ends.told == []

    ends.transport.stall(False)

    assert ends.told == [b"hello", "writable"]


# -- the end -----------------------------------------------------------------------------------


def test_an_end_hangs_up_and_is_the_last_thing_that_is_told(ends: Ends) -> None:
    ends.transport.write(b"bye")
    ends.transport.end(linger=False)
    ends.transport.write(b"too late")
    ends.transport.feed(b"too late")
    ends.transport.feed_eof()
    ends.transport.end(linger=False)
    ends.transport.abort()
    ends.transport.drop()

    assert ends.arrived == [b"bye"]
    assert ends.hung_up == 1
    assert ends.told == ["lost"]


def test_who_lingers_reads_until_the_peer_ends_too(ends: Ends) -> None:
    ends.transport.end(linger=True)
    ends.transport.feed(b"still here")
    assert (ends.hung_up, ends.told) == (1, [b"still here"])

    ends.transport.feed_eof()

    assert ends.told == [b"still here", "eof", "lost"]


def test_who_lingers_reads_even_what_its_own_full_buffer_held_up(ends: Ends) -> None:
    ends.transport.stall(True)
    ends.transport.write(b"x" * 101)
    ends.transport.feed(b"hello")

    ends.transport.end(linger=True)

    assert ends.told == [b"hello"]


def test_an_end_waits_for_what_is_held_and_the_peer_sees_it_first(ends: Ends) -> None:
    ends.transport.stall(True)
    ends.transport.write(b"bye")
    ends.transport.end(linger=False)
    assert (ends.hung_up, ends.told) == (0, [])

    ends.transport.stall(False)

    assert ends.arrived == [b"bye"]
    assert (ends.hung_up, ends.told) == (1, ["lost"])


def test_an_abort_drops_what_is_held(ends: Ends) -> None:
    ends.transport.stall(True)
    ends.transport.write(b"never seen")
    ends.transport.abort()
    assert (ends.told, ends.transport.buffered) == (["lost"], 0)

    ends.transport.stall(False)

    assert (ends.arrived, ends.hung_up) == ([], 1)


def test_a_connection_that_is_dropped_is_lost_once_and_takes_nothing_more(ends: Ends) -> None:
    ends.transport.pause()
    ends.transport.feed(b"unread")
    ends.transport.drop()
    ends.transport.drop()
    ends.transport.resume()
    ends.transport.write(b"too late")

    assert (ends.told, ends.arrived) == (["lost"], [])


CALLS = [
    "feed",
    "feed_eof",
    "pause",
    "resume",
    "write",
    "stall",
    "unstall",
    "end",
    "linger",
    "abort",
    "drop",
]


@given(st.lists(st.sampled_from(CALLS), max_size=12))
def test_whatever_happens_lost_is_the_last_call_and_comes_once(calls: list[str]) -> None:
    ends = Ends(high_water=10)
    do: dict[str, Callable[[], None]] = {
        "feed": lambda: ends.transport.feed(b"in"),
        "feed_eof": ends.transport.feed_eof,
        "pause": ends.transport.pause,
        "resume": ends.transport.resume,
        "write": lambda: ends.transport.write(b"x" * 6),
        "stall": lambda: ends.transport.stall(True),
        "unstall": lambda: ends.transport.stall(False),
        "end": lambda: ends.transport.end(linger=False),
        "linger": lambda: ends.transport.end(linger=True),
        "abort": ends.transport.abort,
        "drop": ends.transport.drop,
    }

    for call in calls:
        do[call]()
    for call in ("unstall", "end", "drop"):
        do[call]()

    assert ends.told.count("lost") == 1
    assert ends.told[-1] == "lost"
    assert ends.hung_up <= 1
