"""Policies: what may be written down, which one is nearest, and what is due when."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import ExitReason
from supervisor import (
    Admission,
    Backoff,
    Heartbeat,
    Limits,
    OnCrash,
    Overflow,
    Policy,
    RestartLimit,
    Timeouts,
)
from supervisor.connections.verdicts import CLOSE_FOR, Facts, Verdict, examine

# -- what may be written down ------------------------------------------------------------------

SECONDS: dict[type[Any], list[str]] = {
    Timeouts: ["handshake", "idle", "lifetime", "assembly", "handler", "close", "teardown"],
    Heartbeat: ["interval", "timeout"],
    Limits: ["send_stall", "control_rate", "message_rate"],
    RestartLimit: ["within"],
    Backoff: ["initial", "maximum", "reset_after"],
    Admission: ["breaker_pause"],
}
COUNTS: dict[type[Any], list[str]] = {
    Limits: [
        "max_message",
        "max_fragments",
        "max_body",
        "inbound_messages",
        "inbound_bytes",
        "mailbox_messages",
        "mailbox_bytes",
        "send_high_water",
        "send_limit",
        "control_burst",
        "message_burst",
        "topics",
    ],
    RestartLimit: ["count"],
    Admission: [
        "max_connections",
        "per_address",
        "max_http",
        "http_per_address",
        "max_opening",
        "opening_per_address",
        "handshakes_per_minute",
        "breaker",
    ],
}
FRACTIONS: dict[type[Any], list[str]] = {Heartbeat: ["jitter"], Backoff: ["jitter"]}
FACTORS: dict[type[Any], list[str]] = {Backoff: ["factor"]}
OTHERS: dict[type[Any], list[str]] = {
    Limits: ["compression"],
    Admission: ["per_key", "key", "exempt", "origins", "trusted_proxies"],
}
SWITCHED_OFF_WITH_NONE = {
    Timeouts: {field.name for field in fields(Timeouts)},
    Limits: {
        "max_message",
        "max_fragments",
        "max_body",
        "send_limit",
        "send_stall",
        "control_rate",
        "message_rate",
        "topics",
    },
    Admission: set(COUNTS[Admission]),
}

NO_NUMBERS = [True, False, "1", b"1", [], 1j]
NOT_OVER_ZERO = [0, -1, -0.5, math.nan, math.inf, -math.inf, 10**400]


def cases(table: dict[type[Any], list[str]], values: list[Any]) -> Iterator[Any]:
    for part, options in table.items():
        for option in options:
            for value in values:
                yield pytest.param(part, option, value, id=f"{part.__name__}.{option}={str(value)[:8]}")


def parts_with_options() -> Iterator[tuple[type[Any], str]]:
    for table in (SECONDS, COUNTS, FRACTIONS, FACTORS, OTHERS):
        for part, options in table.items():
            for option in options:
                yield part, option


def test_the_tables_above_know_every_option() -> None:
    parts = (Timeouts, Heartbeat, Limits, RestartLimit, Backoff, Admission)

    assert sorted(parts_with_options(), key=str) == sorted(
        ((part, field.name) for part in parts for field in fields(part)), key=str
    )


@pytest.mark.parametrize(
    ("part", "option", "value"),
    [
        *cases(SECONDS, NO_NUMBERS),
        *cases(COUNTS, [*NO_NUMBERS, 1.0, math.nan, math.inf]),
        *cases(FRACTIONS, [*NO_NUMBERS, None]),
        *cases(FACTORS, [*NO_NUMBERS, None]),
    ],
)
def test_what_is_no_such_number_is_a_type_error_that_begins_with_the_option(
    part: type[Any], option: str, value: Any
) -> None:
    with pytest.raises(TypeError, match=f"^{option}: "):
        part(**{option: value})


@pytest.mark.parametrize(
    ("part", "option", "value"),
    [
        *cases(SECONDS, NOT_OVER_ZERO),
        *cases(COUNTS, [-1, -(10**400), 10**400]),
        *cases({part: options for part, options in COUNTS.items() if part is not RestartLimit}, [0]),
        *cases(FRACTIONS, [-0.1, 1, 1.5, math.nan, math.inf, 10**400]),
        *cases(FACTORS, [0, 0.99, -2, math.nan, math.inf, 10**400]),
    ],
)
def test_a_number_out_of_range_is_a_value_error_that_begins_with_the_option(
    part: type[Any], option: str, value: Any
) -> None:
    with pytest.raises(ValueError, match=f"^{option}: "):
        part(**{option: value})


@pytest.mark.parametrize(("part", "option"), [*parts_with_options()], ids=str)
def test_none_switches_off_what_can_be_switched_off_and_nothing_else(part: type[Any], option: str) -> None:
    if option in SWITCHED_OFF_WITH_NONE.get(part, ()):
        assert getattr(part(**{option: None}), option) is None
    elif option not in ("per_key", "key"):
        with pytest.raises(TypeError, match=f"^{option}: "):
            part(**{option: None})


@pytest.mark.parametrize(
    ("part", "option", "value"),
    [
        (RestartLimit, "count", 0),
        (Heartbeat, "jitter", 0),
        (Backoff, "factor", 1),
        (Timeouts, "idle", 5e-324),
        (Timeouts, "idle", 10**300),
        (Limits, "compression", True),
        (Admission, "origins", ["https://example.com"]),
    ],
)
def test_the_least_and_the_most_are_taken_as_they_are(part: type[Any], option: str, value: Any) -> None:
    assert getattr(part(**{option: value}), option) == value


@pytest.mark.parametrize(
    ("part", "options", "error", "match"),
    [
        (Limits, {"compression": 1}, TypeError, "^compression: True or False"),
        (Admission, {"per_key": 3}, ValueError, "^per_key, key: "),
        (Admission, {"key": str}, ValueError, "^per_key, key: "),
        (Admission, {"key": "user", "per_key": 3}, TypeError, "^key: "),
        (Admission, {"key": str, "per_key": True}, TypeError, "^per_key: "),
        (
            Admission,
            {"origins": "https://example.com"},
            ValueError,
            "^origins: 'same host', '\\*', or a list",
        ),
        (Admission, {"origins": ["example.com"]}, ValueError, "^origins: 'example.com' is no origin"),
        (Admission, {"origins": [3]}, TypeError, "^origins: "),
        (Admission, {"origins": 3}, TypeError, "^origins: "),
        (Admission, {"exempt": "10.0.0.0/8"}, TypeError, "^exempt: "),
        (Admission, {"exempt": [10]}, TypeError, "^exempt: "),
        (Admission, {"exempt": 10}, TypeError, "^exempt: "),
        (Admission, {"trusted_proxies": ["10.0.0.1/8"]}, ValueError, "^trusted_proxies: "),
        (Admission, {"trusted_proxies": ["proxy.example"]}, ValueError, "^trusted_proxies: "),
    ],
)
def test_other_options_that_cannot_work_are_named_too(
    part: type[Any], options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        part(**options)


@pytest.mark.parametrize("part", [Timeouts, Heartbeat, Limits, RestartLimit, Backoff, Admission])
def test_a_part_is_frozen_and_takes_keywords_only(part: type[Any]) -> None:
    made = part()

    for field in fields(part):
        with pytest.raises(FrozenInstanceError):
            setattr(made, field.name, None)
    with pytest.raises(TypeError):
        part(1)


# -- Policy ------------------------------------------------------------------------------------

DIFFERENT: dict[str, Any] = {
    "timeouts": Timeouts(idle=1),
    "heartbeat": None,
    "limits": Limits(max_message=1),
    "crash": OnCrash.RESUME,
    "restarts": RestartLimit(count=1),
    "backoff": Backoff(initial=1),
    "overflow": Overflow.CLOSE,
}
GIVEN = st.dictionaries(st.sampled_from(sorted(DIFFERENT)), st.booleans())


def made(given: dict[str, bool]) -> Policy:
    """A policy with some parts given: a different value, or the default's written down."""
    default = Policy()
    return Policy(
        **{part: DIFFERENT[part] if other else getattr(default, part) for part, other in given.items()}
    )


@pytest.mark.parametrize(
    ("part", "value"),
    [
        (part, value)
        for part in DIFFERENT
        for value in (None, 3, "close", {"idle": 3}, Timeouts, Policy())
        if (part, value) != ("heartbeat", None)
    ],
    ids=str,
)
def test_a_part_of_another_type_is_a_type_error_that_begins_with_its_name(part: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{part}: a supervisor\\."):
        Policy(**{part: value})


@given(GIVEN, GIVEN, GIVEN)
def test_the_nearest_policy_wins_part_by_part(
    near: dict[str, bool], middle: dict[str, bool], far: dict[str, bool]
) -> None:
    in_force = made(near).over(made(middle)).over(made(far))

    for part in DIFFERENT:
        given = next((policy for policy in (near, middle, far) if part in policy), {})
        assert getattr(in_force, part) == getattr(made(given), part)


@given(GIVEN, GIVEN, GIVEN)
def test_it_does_not_matter_which_two_are_laid_over_each_other_first(
    near: dict[str, bool], middle: dict[str, bool], far: dict[str, bool]
) -> None:
    a, b, c = made(near), made(middle), made(far)

    assert a.over(b).over(c) == a.over(b.over(c))


@given(GIVEN)
def test_a_policy_over_nothing_is_itself_and_equals_only_what_gives_the_same(given: dict[str, bool]) -> None:
    policy = made(given)

    assert policy.over(None) is policy
    assert policy == made(given)
    assert hash(policy) == hash(made(given))
    assert (policy == Policy()) == (not given)


def test_a_policy_is_frozen_and_says_what_was_given() -> None:
    policy = Policy(heartbeat=None, crash=OnCrash.RESTART)

    with pytest.raises(AttributeError, match=r"^crash: a Policy is frozen"):
        policy.crash = OnCrash.CLOSE  # type: ignore[misc]  # that is the point
    assert policy.crash is OnCrash.RESTART
    assert repr(policy) == "Policy(heartbeat=None, crash=<OnCrash.RESTART: 'restart'>)"


# -- what is due when --------------------------------------------------------------------------

NOTHING_DUE = Facts(
    awake_since=-math.inf,
    lifetime_ends=math.inf,
    next_ping=math.inf,
    last_received=0,
    ping_sent=None,
    unseen=False,
    held=False,
    idle_since=0,
    handling_since=None,
    assembling_since=None,
    assembled_at=-math.inf,
    congested_since=None,
    over_limit_since=None,
    taken_at=-math.inf,
)
OFF = Policy(
    timeouts=Timeouts(idle=None, lifetime=None, assembly=None, handler=None),
    heartbeat=None,
    limits=Limits(send_stall=None),
)
ONLY: dict[str, tuple[Policy, Facts, Verdict]] = {
    "idle": (Policy(timeouts=Timeouts(idle=10)), NOTHING_DUE, Verdict.IDLE),
    "lifetime": (OFF, NOTHING_DUE._replace(lifetime_ends=10), Verdict.LIFETIME),
    "assembly": (
        Policy(timeouts=Timeouts(assembly=10)),
        NOTHING_DUE._replace(assembling_since=0),
        Verdict.ASSEMBLY,
    ),
    "handler": (
        Policy(timeouts=Timeouts(handler=10)),
        NOTHING_DUE._replace(handling_since=0),
        Verdict.HANDLER,
    ),
    "ping": (Policy(heartbeat=Heartbeat()), NOTHING_DUE._replace(next_ping=10), Verdict.PING),
    "heartbeat lost": (
        Policy(heartbeat=Heartbeat(timeout=10)),
        NOTHING_DUE._replace(ping_sent=0),
        Verdict.HEARTBEAT_LOST,
    ),
    "send stall": (
        Policy(limits=Limits(send_stall=10)),
        NOTHING_DUE._replace(congested_since=0),
        Verdict.STALLED,
    ),
    "congested heartbeat": (
        Policy(heartbeat=Heartbeat(interval=4, timeout=6)),
        NOTHING_DUE._replace(ping_sent=2, unseen=True),
        Verdict.HEARTBEAT_LOST,
    ),
    "over the limit": (OFF, NOTHING_DUE._replace(over_limit_since=9), Verdict.STALLED),
}


@pytest.mark.parametrize("name", ONLY)
def test_a_verdict_comes_at_its_time_and_the_look_before_knows_when(name: str) -> None:
    policy, facts, verdict = ONLY[name]
    policy = policy.over(OFF)

    assert examine(policy, facts, 9.999) == (Verdict.NOTHING, 10)
    for late in (10, 10.001):
        # Behind a ping the look is for what else there is.
        assert examine(policy, facts, late) == (verdict, math.inf if verdict is Verdict.PING else late)


@pytest.mark.parametrize("name", ["idle", "assembly", "handler", "ping", "heartbeat lost", "send stall"])
def test_what_is_switched_off_is_never_due(name: str) -> None:
    _, facts, _ = ONLY[name]

    assert examine(OFF, facts, 1e9) == (Verdict.NOTHING, math.inf)


PROGRESS: dict[str, dict[str, Facts]] = {
    "taken_at": {name: ONLY[name][1] for name in ("send stall", "congested heartbeat", "over the limit")},
    "assembled_at": {"assembly": ONLY["assembly"][1]},
    "awake_since": {name: facts for name, (_, facts, _) in ONLY.items() if name not in ("lifetime", "ping")},
}


@pytest.mark.parametrize(
    ("progress", "name"), [(field, name) for field, names in PROGRESS.items() for name in names]
)
def test_the_time_of_a_verdict_starts_anew_with_progress(progress: str, name: str) -> None:
    policy, facts, verdict = ONLY[name]
    policy, facts = policy.over(OFF), facts._replace(**{progress: 9.5})
    time = 1 if name == "over the limit" else 10

    assert examine(policy, facts, 9.5 + time - 0.01)[0] is Verdict.NOTHING
    assert examine(policy, facts, 9.5 + time)[0] is verdict


def test_a_message_that_goes_on_coming_has_ten_times_the_assembly_timeout() -> None:
    policy = Policy(timeouts=Timeouts(assembly=10)).over(OFF)
    facts = NOTHING_DUE._replace(assembling_since=0)

    assert examine(policy, facts._replace(assembled_at=99), 99.9)[0] is Verdict.NOTHING
    assert examine(policy, facts._replace(assembled_at=100), 100) == (Verdict.ASSEMBLY, 100)


def test_any_byte_after_the_ping_answers_it_and_one_before_does_not() -> None:
    policy = Policy(heartbeat=Heartbeat(timeout=10)).over(OFF)
    asked = NOTHING_DUE._replace(ping_sent=5)

    assert examine(policy, asked._replace(last_received=5.001), 6) == (Verdict.ANSWERED, 6)
    assert examine(policy, asked._replace(last_received=5), 6) == (Verdict.NOTHING, 15)


@pytest.mark.parametrize("name", ["assembly", "heartbeat lost"])
def test_nobody_is_blamed_for_what_is_not_read(name: str) -> None:
    policy, facts, _ = ONLY[name]

    verdict, next_look = examine(policy.over(OFF), facts._replace(held=True), 1000)

    assert (verdict, next_look) == (Verdict.NOTHING, 1010)


TIMES = st.integers(0, 40).map(float)
MAYBE = st.none() | TIMES
PERIOD = st.none() | st.integers(1, 20).map(float)
FACTS = st.builds(
    Facts,
    awake_since=TIMES,
    lifetime_ends=TIMES | st.just(math.inf),
    next_ping=TIMES,
    last_received=TIMES,
    ping_sent=MAYBE,
    unseen=st.booleans(),
    held=st.booleans(),
    idle_since=MAYBE,
    handling_since=MAYBE,
    assembling_since=MAYBE,
    assembled_at=TIMES,
    congested_since=MAYBE,
    over_limit_since=MAYBE,
    taken_at=TIMES,
)
POLICIES = st.builds(
    lambda idle, assembly, handler, timeout, stall: Policy(
        timeouts=Timeouts(idle=idle, assembly=assembly, handler=handler),
        heartbeat=None if timeout is None else Heartbeat(timeout=timeout),
        limits=Limits(send_stall=stall),
    ),
    PERIOD,
    PERIOD,
    PERIOD,
    PERIOD,
    PERIOD,
)


@given(POLICIES, FACTS, TIMES)
def test_whatever_the_facts_nothing_is_overlooked_until_the_next_look(
    policy: Policy, facts: Facts, now: float
) -> None:
    verdict, next_look = examine(policy, facts, now)

    if verdict is Verdict.PING:
        assert policy.heartbeat is not None
        sent = facts._replace(ping_sent=now, last_received=min(facts.last_received, now), next_ping=now + 7)
        if not sent.unseen and not sent.held:
            lost_at = max(now, facts.taken_at, facts.awake_since) + policy.heartbeat.timeout
            assert examine(policy, sent, now) == (Verdict.NOTHING, min(next_look, lost_at, now + 7))
        return
    if verdict is not Verdict.NOTHING:
        assert next_look == now
        return
    assert next_look > now
    before = now + (min(next_look, now + 100) - now) / 2
    assert examine(policy, facts, before)[0] is Verdict.NOTHING


def test_every_verdict_closes_with_its_code_or_has_its_own_way() -> None:
    assert {verdict: reason.close_code for verdict, (reason, _) in CLOSE_FOR.items()} == {
        Verdict.IDLE: 1001,
        Verdict.LIFETIME: 1001,
        Verdict.ASSEMBLY: 1008,
        Verdict.HEARTBEAT_LOST: 1011,
        Verdict.STALLED: 1013,
    }
    assert ExitReason.HANDLER_TIMEOUT.close_code == 1011
    assert set(Verdict) - set(CLOSE_FOR) == {
        Verdict.NOTHING,
        Verdict.PING,
        Verdict.ANSWERED,
        Verdict.HANDLER,
    }
