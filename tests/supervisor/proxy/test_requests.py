"""What is passed on to Robyn, what is refused, and where an answer ends; no I/O."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from supervisor.proxy.answers import Answers
from supervisor.proxy.heads import is_plain
from supervisor.proxy.requests import Part, Requests
from tests.supervisor.proxy.malformed import CHUNKED, HOST, REFUSED, head
from tests.supervisor.sites import GET, UPGRADE, post


def chunked(*chunks: bytes, trailer: bytes = b"") -> bytes:
    parts = [b"%x;name=value\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks if chunk]
    start = b"PUT /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n"
    return start + b"".join(parts) + b"0\r\n" + trailer + b"\r\n"


def decoded(wire: bytes) -> list[tuple[bytes, bytes, bool]]:
    """Take canonical requests apart: head, body, and whether it is complete; fails at anything else."""
    found = []
    while wire:
        start, end, wire = wire.partition(b"\r\n\r\n")
        assert end, "a head is passed on as a whole"
        body, complete = b"", True
        if b"\r\ntransfer-encoding: chunked" in start.lower():
            complete = False
            while wire and not complete:
                line, end, wire = wire.partition(b"\r\n")
                assert end
                assert line == b"%x" % int(line, 16), "a size is canonical"
                size = int(line, 16)
                body += wire[:size]
                assert wire[size : size + 2] == b"\r\n", "a chunk is passed on as a whole"
                wire = wire[size + 2 :]
                complete = not size
        elif b"\r\ncontent-length:" in start.lower():
            size = int(start.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
            body, wire = wire[:size], wire[size:]
            complete = len(body) == size
        found.append((start, body, complete))
    return found


def fed(reader: Requests, wire: bytes, cuts: list[int]) -> bytes:
    edges = [0, *sorted(cut for cut in cuts if cut < len(wire)), len(wire)]
    return b"".join(reader.feed(wire[start:end]) for start, end in pairwise(edges))


Outcome = tuple[object, ...]


def outcome(wire: bytes, cuts: list[int], *, end: bool = True) -> Outcome:
    """What becomes of ``wire``: the whole requests, what is refused, and what goes to our listener."""
    reader = Requests("/-/ready", max_body=1000)

    passed = decoded(fed(reader, wire, cuts))
    if end:
        reader.end()

    whole = [one for one in passed if one[2]]
    assert len(whole) == reader.whole
    assert len(passed) == reader.begun
    assert reader.in_part <= (reader.refused is not None or not end)
    refused = reader.refused
    return whole, refused and (refused.status, refused.text), reader.upgrade is not None


# -- any bytes in any split ----------------------------------------------------------------------

bodies = st.one_of(st.binary(max_size=40), st.just(UPGRADE), st.just(GET), st.just(b"0\r\n\r\n"))
requests = st.one_of(
    st.just(GET),
    st.just(b"HEAD /page HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    st.builds(post, bodies),
    st.lists(bodies, max_size=3).map(lambda chunks: chunked(*chunks)),
    bodies.map(lambda chunk: chunked(chunk, trailer=b"X-Sum: 1\r\nX-More: 2\r\n")),
)
cuts = st.lists(st.integers(0, 400), max_size=12)
pieces = st.sampled_from(
    [
        b"GET",
        b"POST",
        b"HEAD",
        b"CONNECT",
        b" ",
        b"/",
        b"/-/ready",
        b"*",
        b"#",
        b"http://x/",
        b" HTTP/1.1\r\n",
        b" HTTP/1.0\r\n",
        b" HTTP/2.0\r\n",
        HOST,
        b"Host: y@z\r\n",
        b"X: y\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"\x00",
        b"\xe9",
        b":",
        b"Connection: close\r\n",
        b"Connection: keep-alive\r\n",
        b"Connection: Upgrade\r\n",
        b"Upgrade: h2c\r\n",
        b"Upgrade: websocket\r\n",
        b"Expect: 100-continue\r\n",
        b"Expect: more\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 1001\r\n",
        b"Content-Length: +5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"5\r\n",
        b"hello",
        b"hello\r\n",
        b"5;a=b\r\nhello\r\n",
        b"3e9\r\n",
        b"0\r\n",
        b"0\r\n\r\n",
        b"0\r\nX-T: y\r\n\r\n",
        b"x" * 600,
        GET,
        UPGRADE,
        CHUNKED,
        post(b"a body"),
    ]
)
wires = st.one_of(
    st.lists(pieces, max_size=14).map(b"".join),
    st.lists(st.one_of(pieces, requests, st.binary(max_size=3)), max_size=6).map(b"".join),
)


@settings(max_examples=400)
@given(wire=wires, cuts=cuts)
@example(wire=post(b"\r") + b"\n" + GET, cuts=[])
def test_any_bytes_give_canonical_requests_or_one_refusal_and_the_split_does_not_matter(
    wire: bytes, cuts: list[int]
) -> None:
    at_once = outcome(wire, [])

    assert outcome(wire, cuts) == at_once
    assert outcome(wire, list(range(len(wire)))) == at_once


@given(
    plain=st.lists(requests, max_size=4).map(b"".join),
    behind=st.binary(max_size=20),
    cuts=cuts,
)
def test_an_upgrade_behind_plain_requests_is_found_in_any_split(
    plain: bytes, behind: bytes, cuts: list[int]
) -> None:
    wire = plain + UPGRADE + behind
    edges = [0, *sorted(cuts), len(wire)]
    reader = Requests()
    passed = b""
    held_back = b""

    for start, end in pairwise(edges):
        if reader.upgrade is None:
            passed += reader.feed(wire[start:end])
        else:
            held_back += wire[start:end]

    assert len(decoded(passed)) == reader.whole
    assert reader.upgrade is not None
    assert reader.upgrade + held_back == UPGRADE + behind


@given(wire=st.lists(requests, max_size=4).map(b"".join), cuts=cuts)
def test_whole_requests_are_passed_on_whole(wire: bytes, cuts: list[int]) -> None:
    reader = Requests()

    passed = decoded(fed(reader, wire, cuts))

    assert all(complete for _, _, complete in passed)
    assert reader.part is Part.BETWEEN
    assert reader.refused is None


@given(wire=st.lists(st.one_of(st.just(GET), st.builds(post, bodies)), max_size=4).map(b"".join), cuts=cuts)
def test_requests_without_a_transfer_encoding_are_passed_on_unchanged(wire: bytes, cuts: list[int]) -> None:
    assert fed(Requests(), wire, cuts) == wire


def test_the_bytes_of_a_body_are_passed_on_before_the_rest_is_there() -> None:
    reader = Requests()

    passed = reader.feed(post(b"x" * 1000)[:-1])

    assert passed == post(b"x" * 1000)[:-1]
    assert reader.in_part


def test_an_incomplete_head_is_kept_until_it_is_known_what_it_asks_for() -> None:
    reader = Requests()

    first = reader.feed(GET + GET[:-1])
    second = reader.feed(GET[-1:])

    assert (first, second) == (GET, GET)


def test_of_a_chunked_body_only_sizes_and_bytes_are_passed_on() -> None:
    wire = chunked(b"hello", b" world", trailer=b"X-Sum: 1\r\nTransfer-Encoding: chunked\r\n")

    assert Requests().feed(wire).endswith(b"\r\n\r\nb\r\nhello world\r\n0\r\n\r\n")


def test_empty_lines_before_a_request_are_left_out() -> None:
    reader = Requests()

    passed = reader.feed(b"\r\n\r\n") + reader.feed(b"\r") + reader.feed(b"\n" + GET + b"\r\n")

    assert passed == GET
    assert reader.part is Part.BETWEEN


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_plainly_right_is_refused_and_nothing_is_read_behind_it(name: str) -> None:
    wire, status = REFUSED[name]
    for cuts in ([], list(range(len(wire)))):
        reader = Requests(max_body=1000)

        passed = fed(reader, GET + post(b"a body") + wire, [cut + len(GET + post(b"a body")) for cut in cuts])

        assert reader.refused is not None
        assert reader.refused.status == status
        assert passed.startswith(GET + post(b"a body"))
        assert reader.whole == 2
        assert reader.feed(GET + UPGRADE) == b""
        assert reader.upgrade is None
    assert not is_plain(wire)


def test_what_is_not_right_and_comes_at_once_does_not_get_to_robyn_in_part() -> None:
    reader = Requests()

    passed = reader.feed(GET + CHUNKED + b"5\r\nhello\r\n5\r\nhello!!")

    assert passed == GET
    assert not reader.in_part
    assert (reader.begun, reader.whole) == (1, 1)


def test_the_end_of_the_client_makes_a_request_that_is_not_complete_none() -> None:
    for wire in (GET[:-1], post(b"a body")[:-1], chunked(b"a body")[:-1], CHUNKED):
        reader = Requests()
        reader.feed(wire)

        reader.end()

        assert reader.refused is not None
        assert reader.refused.status == 400


# -- what is right -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wire",
    [
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        head(line=b"OPTIONS * HTTP/1.1"),
        head(line=b"GET http://x/a?b HTTP/1.1"),
        head(line=b"GET http://x HTTP/1.1"),
        head(line=b"M-SEARCH / HTTP/1.1"),
        head(line=b'get /?q={"a":[1|2]}^\\`<> HTTP/1.1'),
        head(b"X: \xe9\xff\t"),
        head(b"X:"),
        head(b"TE: trailers", b"Connection: TE"),
        head(b"Expect: 100-continue"),
        head(b"Content-Length: 0"),
        head(b"Upgrade-Insecure-Requests: 1"),
        b"GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a_b.example:8080\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
        head(*[b"X: y"] * 99),
        head(b"Range: bytes=0-", line=b"GET / HTTP/1.1"),
        head(b"Range: bytes=,0-0 ,-5,"),
        head(b"range: pages=1"),
        head(b"Content-Type: multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW"),
        head(b'Content-Type: multipart/form-data;charset=utf-8 ; Boundary="gc0p4Jq0M2Yt08j34c0p, a?b"'),
        head(b"Content-Type: multipart/form-data"),
        head(b"Content-Type: multipart/mixed; boundary=x"),
        head(b"Content-Type: ", b"Content-Type: a/b"),
    ],
)
def test_what_is_unusual_but_right_is_passed_on_as_it_came(wire: bytes) -> None:
    for cuts in ([], [5]):
        reader = Requests()

        assert fed(reader, wire, cuts) == wire
        assert (reader.part, reader.whole) == (Part.BETWEEN, 1)


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ([b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMA"], []),
        ([b"Upgrade: foo", b"Connection: keep-alive, Upgrade"], [b"Connection: keep-alive"]),
        ([b"Connection: upgrade", b"X: y"], [b"X: y"]),
        ([b"upgrade: TLS/1.0", b"Content-Length: 0"], [b"Content-Length: 0"]),
    ],
)
def test_an_upgrade_to_anything_else_is_left_out(fields: list[bytes], left: list[bytes]) -> None:
    """Robyn takes what is behind one for its body."""
    reader = Requests()

    assert reader.feed(head(*fields) + GET) == head(*left) + GET


@pytest.mark.parametrize(
    "last",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        head(b"Connection: close"),
        head(b"Connection: TE, Close", b"Content-Length: 5") + b"hello",
        head(b"Connection: close", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    ],
)
def test_behind_a_request_that_says_that_it_is_the_last_nothing_is_read(last: bytes) -> None:
    for cuts in ([], [len(last)], list(range(len(last)))):
        reader = Requests()

        assert fed(reader, last + GET + UPGRADE + b"\x00", cuts) == last
        reader.end()
        assert (reader.part, reader.refused, reader.upgrade) == (Part.NOTHING, None, None)


@pytest.mark.parametrize("split", [False, True])
def test_when_the_process_ends_every_head_says_that_its_request_is_the_last(split: bool) -> None:
    reader = Requests()
    assert reader.feed(GET) == GET
    reader.closing = True

    wire = post(b"a body")
    passed = fed(reader, wire, list(range(len(wire))) if split else [])

    assert passed == wire.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert reader.part is Part.NOTHING


# -- answers -------------------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ndate: now\r\n\r\nhello"
ANSWERS = [
    OK,
    b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n",
    b"HTTP/1.0 500 \r\nx: y\r\ncontent-length: 7\r\n\r\n\r\n\r\n!!!",
]


@given(wires=st.lists(st.sampled_from(ANSWERS), max_size=6), cuts=cuts)
def test_the_end_of_every_answer_is_found_in_any_split(wires: list[bytes], cuts: list[int]) -> None:
    wire = b"".join(wires)
    edges = [0, *sorted(cut for cut in cuts if cut < len(wire)), len(wire)]
    answers = Answers(deque())

    for start, end in pairwise(edges):
        answers.feed(wire[start:end])

    assert answers.whole == len(wires)
    assert answers.between


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_is_not_complete_is_told_from_one_that_is(answer: bytes) -> None:
    for end in range(1, len(answer)):
        answers = Answers(deque())
        answers.feed(OK + answer[:end])

        assert not (answers.between and answers.whole == 2)


def test_the_answer_to_a_head_request_has_no_body() -> None:
    requests = Requests()
    requests.feed(GET + GET.replace(b"GET", b"HEAD") + GET)
    answers = Answers(requests.heads)

    answers.feed(OK + OK[: -len(b"hello")] + OK)

    assert answers.whole == 3
    assert answers.between


def test_an_answer_without_a_length_lasts_until_the_end_of_the_connection() -> None:
    answers = Answers(deque())

    answers.feed(b"HTTP/1.0 200 OK\r\n\r\n" + OK)
    answers.feed(OK)

    assert answers.whole == 0
    assert not answers.between


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_refusal_of_head_is_known_to_have_no_body(method: str) -> None:
    requests = Requests()

    requests.feed(f"{method} / HTTP/1.1\r\n\r\n".encode())

    assert requests.refused is not None
    assert requests.refused_head is (method == "HEAD")
