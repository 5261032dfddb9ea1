"""The opening handshake without I/O: any split of the bytes, every refusal, and what is agreed upon.

The handshake on a real server is in ``tests/supervisor/listening/test_server.py``.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.codecs import choose_codec, offered_subprotocols
from actors.protocol.opening import (
    MAX_FIELDS,
    MAX_HEAD,
    Handshake,
    HandshakeRefused,
    HeadReader,
    Opening,
    refusal,
    wants_websocket,
)
from actors.request import Request
from actors.transports.memory import MemoryTransport
from tests.raw import CLOSE, PING, TEXT, encode

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # of RFC 6455, section 1.3, and so is what answers it
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def request(line: str = "GET /chat HTTP/1.1", **fields: str | None) -> bytes:
    """The head of an upgrade; ``Sec_WebSocket_Key=None`` takes a field away."""
    default: dict[str, str | None] = {
        "Host": "a.example",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    default.update({name.replace("_", "-"): value for name, value in fields.items()})
    lines = [f"{name}: {value}" for name, value in default.items() if value is not None]
    return "\r\n".join([line, *lines, "", ""]).encode("latin-1")


def response_of(data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, fields and body of an HTTP response."""
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    fields = [line.partition(": ") for line in lines]
    assert len({name.lower() for name, _, _ in fields}) == len(fields), "no field comes twice"
    return int(status.split()[1]), {name: value for name, _, value in fields}, body


def handshake(head: bytes) -> Handshake:
    return Handshake(head, client="10.0.0.1:5000")


# -- collecting the head -----------------------------------------------------------------------


class Witnessed(Opening):
    """Tells what it is told."""

    def __init__(self, collected: Collected) -> None:
        super().__init__(collected.transport)
        self.collected = collected

    def asked(self, head: bytes) -> None:
        self.collected.heads.append(head)

    def gone(self) -> None:
        self.collected.gone += 1


class Collected:
    """A server that takes its time to answer: what it saw of a connection."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.heads: list[bytes] = []
        self.written = bytearray()
        self.behind = bytearray()
        self.gone = 0
        self.transport = MemoryTransport(self.written.extend, lambda: None)
        self.opening = Witnessed(self)
        self.transport.sink = self.opening
        for chunk in chunks:
            self.transport.feed(chunk)
        if self.heads:
            self.behind += self.opening.rest()
            self.transport.sink = self
            self.transport.resume()

    def lost(self) -> None:
        pass

    def data(self, data: bytes) -> None:
        self.behind += data

    def eof(self) -> None: ...

    def writable(self) -> None: ...


WIRES = st.sampled_from(
    [
        request(),
        request() + encode(TEXT, b"without waiting") + encode(PING) + encode(CLOSE, b"\x03\xe8"),
        request(X_Long="a" * 8000),
        request("POST /chat HTTP/1.1") + b"a body\r\n\r\nwith empty lines",
        b"\r\n\r\n\r\n\r\n",
        b"no end of the head" * 10,
        b"x" * (MAX_HEAD + 1),
        request("GET / HTTP/1.1")[:-4].ljust(MAX_HEAD - 4, b"x") + b"\r\n\r\n",
        request("GET / HTTP/1.1")[:-4].ljust(MAX_HEAD - 3, b"x") + b"\r\n\r\nrest",
        request()[:-2],
    ]
)


@given(wire=WIRES, cuts=st.lists(st.integers(0, 40_000), max_size=12))
def test_the_head_is_found_in_any_split(wire: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    chunks = [wire[start:end] for start, end in pairwise(edges)]

    whole, split = Collected([wire]), Collected(chunks)

    assert split.heads == whole.heads
    assert response_of_all(split.written) == response_of_all(whole.written)
    assert split.behind == whole.behind
    for head in split.heads:
        assert head + split.behind == wire, "nothing is lost and nothing comes twice"


def response_of_all(written: bytearray) -> tuple[int, bytes] | None:
    if not written:
        return None
    status, _, body = response_of(bytes(written))
    return status, body


@given(
    head=st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"GET / HTTP/1.1", b"X: y", b" "]), max_size=12),
    cuts=st.lists(st.integers(0, 60), max_size=6),
)
def test_a_line_that_ends_without_cr_is_seen_in_any_split(head: list[bytes], cuts: list[int]) -> None:
    wire = b"".join(head)
    end = wire.find(b"\r\n\r\n")
    before = wire if end < 0 else wire[:end]
    edges = sorted({0, len(wire), *(min(cut, len(wire)) for cut in cuts)})
    reader, found, refused = HeadReader(), None, False

    for start, stop in pairwise(edges):
        if found is None and not refused:
            try:
                found = reader.feed(wire[start:stop])
            except HandshakeRefused:
                refused = True

    bare = b"\n" in before.replace(b"\r\n", b"")
    if not (len(edges) == 2 and end == len(wire) - 4):  # one that comes alone is left to the parser
        assert refused is bare
    assert found is None or found == wire[: end + 4]


def test_the_head_is_found_byte_by_byte() -> None:
    wire = request() + encode(TEXT, b"behind")

    collected = Collected([wire[i : i + 1] for i in range(len(wire))])

    assert collected.heads == [request()]
    assert collected.behind == wire[len(request()) :]


def test_a_head_of_the_largest_size_is_taken_and_a_larger_one_is_answered_431() -> None:
    largest = request()[:-4].ljust(MAX_HEAD - 4, b"x") + b"\r\n\r\n"

    assert Collected([largest]).heads == [largest]
    for too_large in (b"x" + largest, b"x" * (MAX_HEAD + 1)):
        collected = Collected([too_large])
        assert collected.heads == []
        status, fields, body = response_of(bytes(collected.written))
        assert (status, fields["Connection"]) == (431, "close")
        assert body == b"the head of the request has more than 32768 bytes\n"


def test_a_client_that_sends_on_while_it_waits_is_held_up() -> None:
    collected = Collected([])
    collected.transport.feed(request())
    collected.transport.feed(b"kept")

    collected.transport.feed(b"held up")

    assert collected.opening.rest() == b"kept"
    assert collected.opening.rest() == b""


def test_a_client_that_ends_before_its_head_is_whole_is_gone() -> None:
    collected = Collected([request()[:20]])

    collected.transport.feed_eof()

    assert (collected.heads, collected.gone, bytes(collected.written)) == ([], 1, b"")


def test_behind_a_refusal_bytes_are_thrown_away_until_the_client_ends() -> None:
    collected = Collected([])
    collected.opening.refuse(HandshakeRefused(404, "no WebSocket at this path"))
    written = bytes(collected.written)

    collected.transport.feed(request() * 3)

    assert (collected.heads, collected.gone) == ([], 0)
    assert bytes(collected.written) == written
    collected.transport.feed_eof()
    assert collected.gone == 1


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "status", "fields"),
    [
        (request("POST / HTTP/1.1"), 405, {"Allow": "GET"}),
        (request("GET / HTTP/1.0"), 505, {}),
        (request("GET / HTTP/2"), 400, {}),
        (request(Upgrade=None), 426, {"Upgrade": "websocket"}),
        (request(Connection=None), 426, {"Upgrade": "websocket"}),
        (request(Upgrade="h2c"), 426, {"Upgrade": "websocket"}),
        (request(Connection='"'), 400, {}),
        (request(Sec_WebSocket_Version="8"), 400, {"Sec-WebSocket-Version": "13"}),
        (request(Sec_WebSocket_Version=None), 400, {"Sec-WebSocket-Version": "13"}),
        (request(Sec_WebSocket_Key=None), 400, {}),
        (request(Sec_WebSocket_Key="short"), 400, {}),
        (request(Sec_WebSocket_Protocol="a b"), 400, {}),
        (request(Content_Length="5"), 400, {}),
        (request(Transfer_Encoding="chunked"), 400, {}),
        (b"garbage\r\n\r\n", 400, {}),
        (b"\r\n\r\n", 400, {}),
        (b"GET / HTTP/1.1\r\n folded\r\n\r\n", 400, {}),
        (request("GET /\xe9 HTTP/1.1"), 400, {}),
        (request("GET chat HTTP/1.1"), 400, {}),
        (request("GET * HTTP/1.1"), 400, {}),
        (request("GET /" + "a" * 8192 + " HTTP/1.1"), 414, {}),
        (request(X_Long="a" * 8192), 431, {}),
        (request(**{f"X{number}": "1" for number in range(MAX_FIELDS - 4)}), 431, {}),
        (request(**{f"X{number}": "1" for number in range(1000)}), 431, {}),
    ],
    ids=lambda value: None if isinstance(value, bytes) else str(value),
)
def test_what_is_no_upgrade_has_a_status(head: bytes, status: int, fields: dict[str, str]) -> None:
    with pytest.raises(HandshakeRefused) as raised:
        handshake(head).negotiate((), {})

    refused = raised.value
    assert (refused.status, refused.headers) == (status, fields)
    answered, sent, body = response_of(refusal(refused))
    assert answered == status
    assert fields.items() <= sent.items()
    assert sent["Content-Length"] == str(len(body))


def test_the_largest_number_of_fields_is_taken() -> None:
    head = request(**{f"X{number}": "1" for number in range(MAX_FIELDS - 5)})

    assert len(handshake(head).headers) == MAX_FIELDS


def test_the_fields_of_a_refusal_replace_those_of_the_response() -> None:
    refused = HandshakeRefused(401, '{"error": "token"}', {"content-type": "application/json", "X-Why": "1"})

    status, fields, body = response_of(refusal(refused))

    assert status == 401
    assert (fields["content-type"], fields["X-Why"]) == ("application/json", "1")
    assert body == b'{"error": "token"}\n'


# -- what is agreed upon -----------------------------------------------------------------------


def test_the_answer_to_an_upgrade_is_that_of_the_rfc() -> None:
    accepted = handshake(request())

    accepted.negotiate((), {})

    status, fields, body = response_of(accepted.accept())
    assert (status, fields["Sec-WebSocket-Accept"], body) == (101, ACCEPT, b"")
    assert "Sec-WebSocket-Protocol" not in fields


@pytest.mark.parametrize(
    ("target", "path", "decoded", "query"),
    [
        ("/chat", "/chat", "/chat", {}),
        (
            "/rooms/a%2Fb%20c?x=1&x=2&y=%C3%A9&z=",
            "/rooms/a%2Fb%20c",
            "/rooms/a/b c",
            {"x": "2", "y": "é", "z": ""},
        ),
        ("/?a+b=c+d", "/", "/", {"a b": "c d"}),
        ("//a.example/chat", "//a.example/chat", "//a.example/chat", {}),
        ("//[x/chat", "//[x/chat", "//[x/chat", {}),
        ("/a?b?c#d", "/a", "/a", {"b?c#d": ""}),
        ("/%ff", "/%ff", "/\ufffd", {}),
        ("http://a.example/chat?x=1", "/chat", "/chat", {"x": "1"}),
        ("http://A.example/chat", "/chat", "/chat", {}),
        ("ws://a.example", "/", "/", {}),
        ("ws://a.example?x=/1", "/", "/", {"x": "/1"}),
    ],
)
def test_path_and_query_of_the_target(target: str, path: str, decoded: str, query: dict[str, str]) -> None:
    taken = handshake(request(f"GET {target} HTTP/1.1"))

    assert taken.path == path
    seen = taken.negotiate((), {})
    assert seen.path == decoded
    assert dict(seen.query_params) == query


def test_the_request_is_what_hooks_see() -> None:
    taken = handshake(request(Sec_WebSocket_Protocol="chat", X_Tag="1"))

    agreed = taken.negotiate(["chat"], {"room": "blue"})

    assert isinstance(agreed, Request)
    assert (agreed.client, agreed.subprotocol, agreed.path_params) == (
        "10.0.0.1:5000",
        "chat",
        {"room": "blue"},
    )
    assert agreed.headers["x-tag"] == "1"
    assert agreed.state == {}
    assert taken.request is agreed


@pytest.mark.parametrize(
    ("offered", "ours", "agreed"),
    [
        (None, [], None),
        (None, ["a"], None),
        ("a", [], None),
        ("b, a", ["a", "b"], "a"),
        ("b, a", ["b", "a"], "b"),
        ("c", ["a", "b"], None),
        ("A", ["a"], None),
    ],
)
def test_our_preferred_subprotocol_wins_and_none_in_common_is_none(
    offered: str | None, ours: list[str], agreed: str | None
) -> None:
    taken = handshake(request(Sec_WebSocket_Protocol=offered))

    assert taken.negotiate(ours, {}).subprotocol == agreed
    _, fields, _ = response_of(taken.accept())
    assert fields.get("Sec-WebSocket-Protocol") == agreed


@pytest.mark.parametrize(
    ("codec", "offered", "name"),
    [
        ("json", "anything", "json"),
        ({"json": "json", "v1.msgpack": "msgpack"}, "v1.msgpack, json", "json"),
        ({"json": "json", "v1.msgpack": "msgpack"}, "v1.msgpack", "msgpack"),
        ({"json": "json", None: "raw"}, None, "raw"),
        ({"json": "json", None: "raw"}, "other", "raw"),
    ],
)
def test_the_subprotocol_chooses_the_codec(codec: Any, offered: str | None, name: str) -> None:
    taken = handshake(request(Sec_WebSocket_Protocol=offered))

    agreed = taken.negotiate(offered_subprotocols(codec), {})

    assert choose_codec(codec, agreed.subprotocol).name == name


@pytest.mark.parametrize(
    ("head", "wants"),
    [
        (request(), True),
        (request(Upgrade="WebSocket"), True),
        (request(Upgrade=None, upgrade="h2c, websocket"), True),
        (request(Upgrade="h2c, WebSocket , x"), True),
        (request(Upgrade="websocket").replace(b"Upgrade:", b"Upgrade :"), True),
        (request(Upgrade="h2c"), False),
        (request(Upgrade="notwebsocket"), False),
        (request(Upgrade="websockets"), False),
        (request(Upgrade="not websocket"), False),
        (request(Upgrade=None), False),
        (request("GET /upgrade:websocket HTTP/1.1", Upgrade=None), False),
        (b"GET / HTTP/1.1\r\n\r\n", False),
    ],
)
def test_an_upgrade_to_websocket_is_told_from_other_requests(head: bytes, wants: bool) -> None:
    assert wants_websocket(head) is wants
