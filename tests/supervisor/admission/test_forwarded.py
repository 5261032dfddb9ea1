"""``Forwarded`` by its grammar (RFC 7239), ``X-Forwarded-For`` and ``X-Forwarded-Host``."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.request import Headers
from supervisor.admission.forwarded import MAX_HOPS, forwarded_for, forwarded_hosts


def hops(*lines: str, field: str = "Forwarded") -> list[str]:
    """The hops of one field as text; ``-`` for one that tells no address."""
    (chain,) = forwarded_for(Headers([(field, line) for line in lines]))
    return ["-" if hop is None else str(hop) for hop in chain]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        # RFC 7239, sections 4 and 7.1
        ('for="_gazonk"', ["-"]),
        ('For="[2001:db8:cafe::17]:4711"', ["2001:db8:cafe::17"]),
        ("for=192.0.2.60;proto=http;by=203.0.113.43", ["192.0.2.60"]),
        ("for=192.0.2.43, for=198.51.100.17", ["192.0.2.43", "198.51.100.17"]),
        ('for=192.0.2.43, for="[2001:db8:cafe::17]"', ["192.0.2.43", "2001:db8:cafe::17"]),
        ('for=192.0.2.43,for="[2001:db8:cafe::17]",for=unknown', ["192.0.2.43", "2001:db8:cafe::17", "-"]),
        ("for=_hidden, for=_SEVKISEK", ["-", "-"]),
        ('for="192.0.2.43:47011"', ["192.0.2.43"]),
        ('for="192.0.2.43:_port"', ["192.0.2.43"]),
        ('for="[::ffff:192.0.2.43]"', ["192.0.2.43"]),
        # Quotes: what stands in them separates nothing.
        ('for=1.1.1.1;by="a,for=2.2.2.2;x", for=3.3.3.3', ["1.1.1.1", "3.3.3.3"]),
        ('for="1.1.1.1, for=2.2.2.2"', ["-"]),
        ('x="\\", for=9.9.9.9, \\"";for=1.1.1.1', ["1.1.1.1"]),
        ('for="1.1\\.1.1"', ["1.1.1.1"]),
        # White space around separators, and pairs that are left out.
        ("proto=https ; for=1.1.1.1\t,\tfor=2.2.2.2", ["1.1.1.1", "2.2.2.2"]),
        (";;for=1.1.1.1;", ["1.1.1.1"]),
        ("for=1.1.1.1,", ["1.1.1.1", "-"]),
        ("", ["-"]),
        ("proto=https", ["-"]),
        # What is not of the grammar is nothing as a whole.
        ('for="1.1.1.1', ["-"]),
        ('for=2.2.2.2, x="a, for=1.1.1.1', ["-"]),
        ('for=2.2.2.2, for="1.1.1.1"x', ["-"]),
        ('for=2.2.2.2, for="1.1.1.1\\', ["-"]),
        ("for=2.2.2.2, for =1.1.1.1", ["-"]),
        ("for=2.2.2.2, for= 1.1.1.1", ["-"]),
        ("for=2.2.2.2, for=1.1.1.1:80", ["-"]),
        ("for=2.2.2.2, for=[::1]", ["-"]),
        ("for=2.2.2.2, 1.1.1.1", ["-"]),
        ("for=2.2.2.2, for=1.1.1.1;for=3.3.3.3", ["-"]),
        ("for=2.2.2.2, for=1.1.1.1;FOR=1.1.1.1", ["-"]),
        ("for=2.2.2.2, for", ["-"]),
        ("for=2.2.2.2, =1.1.1.1", ["-"]),
        # A pair, but no address.
        ('for="2001:db8::1"', ["-"]),
        ('for="[192.0.2.43]"', ["-"]),
        ('for="[::1"', ["-"]),
        ('for="1.1.1.1:port"', ["-"]),
        ('for="1.1.1.1:123456"', ["-"]),
        ('for="1.1.1.1 "', ["-"]),
        ("for=1.1.1", ["-"]),
        ("for=1.1.1.256", ["-"]),
        ("for=01.1.1.1", ["-"]),
        ("for=localhost", ["-"]),
        ('for=""', ["-"]),
        ('for="[' + "0:" * 100 + ']"', ["-"]),
    ],
)
def test_forwarded_is_read_by_its_grammar(line: str, expected: list[str]) -> None:
    assert hops(line) == expected


def test_several_lines_are_one_chain_and_one_that_is_no_grammar_spoils_only_itself() -> None:
    assert hops("for=1.1.1.1", 'for="2.2.2.2', "for=3.3.3.3, for=4.4.4.4") == [
        "1.1.1.1",
        "-",
        "3.3.3.3",
        "4.4.4.4",
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1.1.1.1, 2.2.2.2:80 ,2001:db8::1,[2001:db8::2], [2001:db8::3]:80", None),
        ("unknown", ["-"]),
        ("", ["-"]),
        ("1.1.1.1,", ["1.1.1.1", "-"]),
        ('"1.1.1.1"', ["-"]),
        ("1.1.1.1 2.2.2.2", ["-"]),
        ("1.1.1.1:", ["-"]),
        ("for=1.1.1.1", ["-"]),
    ],
)
def test_x_forwarded_for_is_a_list_of_addresses(line: str, expected: list[str] | None) -> None:
    all_of_them = ["1.1.1.1", "2.2.2.2", "2001:db8::1", "2001:db8::2", "2001:db8::3"]

    assert hops(line, field="X-Forwarded-For") == (all_of_them if expected is None else expected)


def test_the_hosts_that_were_asked_for_are_told_by_both_fields() -> None:
    headers = Headers(
        [
            ("X-Forwarded-Host", "a.example, b.example:8443"),
            ("Forwarded", 'for=1.1.1.1;host="c.example:80", for=2.2.2.2;host=d.example'),
            ("Forwarded", 'host="e.example'),
        ]
    )

    assert forwarded_hosts(headers) == ["a.example", "b.example:8443", "c.example:80", "d.example"]


TOKENS = st.text("!#$%&'*+-.^_`|~019azAZ", min_size=1, max_size=6)
VALUES = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_categories=["Cc"]), max_size=12
)


def quoted(value: str) -> str:
    return '"' + "".join(f"\\{one}" if one in '"\\' else one for one in value) + '"'


@st.composite
def elements(draw: st.DrawFn, address: str | None = None) -> str:
    """An element as a proxy writes it; with any other parameters, whose values may hold anything."""
    names = draw(st.lists(TOKENS.filter(lambda name: name.lower() != "for"), unique_by=str.lower, max_size=3))
    pairs = [f"{name}={quoted(draw(VALUES))}" for name in names]
    if address is not None:
        pairs.insert(
            draw(st.integers(0, len(pairs))), f"for={draw(st.sampled_from([address, quoted(address)]))}"
        )
    return ";".join(pairs)


@given(
    forged=st.lists(VALUES | elements("6.6.6.6"), max_size=3).map(", ".join),
    own=elements("198.51.100.7"),
    joined=st.booleans(),
)
def test_nothing_in_front_of_what_the_proxy_wrote_makes_its_client_another_one(
    forged: str, own: str, joined: bool
) -> None:
    """Whether the proxy appends to the client's line or writes one of its own."""
    told = hops(*([f"{forged}, {own}"] if joined and forged else [forged, own]))

    assert told[-1] in ("198.51.100.7", "-") if joined and forged else told[-1] == "198.51.100.7"


@given(written=st.lists(elements("198.51.100.7") | elements("192.0.2.1") | elements(), max_size=5))
def test_what_proxies_write_is_read_element_by_element(written: list[str]) -> None:
    told = hops(", ".join(written))

    expected = [
        "198.51.100.7" if _says(one, "198.51.100.7") else "192.0.2.1" if _says(one, "192.0.2.1") else "-"
        for one in written
    ]
    assert told == (expected or ["-"])


def _says(element: str, address: str) -> bool:
    return any(part in (f"for={address}", f'for="{address}"') for part in _outside_quotes(element))


def _outside_quotes(element: str) -> list[str]:
    """Split at semicolons by counting quotes: another way than the one under test."""
    parts, inside, escaped = [""], False, False
    for one in element:
        if one == ";" and not inside:
            parts.append("")
            continue
        parts[-1] += one
        if escaped:
            escaped = False
        elif inside and one == "\\":
            escaped = True
        elif one == '"':
            inside = not inside
    return parts


@given(st.lists(st.tuples(st.sampled_from(["Forwarded", "X-Forwarded-For", "X-Forwarded-Host"]), st.text())))
def test_any_text_is_read_without_an_error(fields: list[tuple[str, str]]) -> None:
    headers = Headers(fields)

    forwarded_for(headers)
    forwarded_hosts(headers)


@pytest.mark.parametrize(
    "line",
    ["," * 8000, ";" * 8000, " " * 8000, 'x="' + "\\" * 8000, "x" * 8000, "for=1.1.1.1," * 600, "[" * 8000],
)
def test_a_hostile_line_costs_little(line: str) -> None:
    began = time.process_time()

    told = hops(line) + hops(line, field="X-Forwarded-For")

    assert time.process_time() - began < 2.0, "a wide margin: a quadratic one takes minutes"
    assert set(told[:1]) == {"-"}


def test_a_line_with_more_hops_than_any_way_has_tells_nothing() -> None:
    assert hops(", ".join(["for=1.1.1.1"] * MAX_HOPS)) == ["1.1.1.1"] * MAX_HOPS
    assert hops(", ".join(["for=1.1.1.1"] * (MAX_HOPS + 1))) == ["-"]
