"""Both lanes of the opening handshake agree: on every request, on its refusal, and on the bytes of 101."""

from __future__ import annotations

import re
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.protocol import SERVER, Protocol

from actors.protocol import opening
from actors.protocol.fasthead import read_plain_head
from actors.protocol.opening import Handshake, HandshakeRefused

KEY = "dGhlIHNhbXBsZSBub25jZQ=="

FIELDS = [
    ("Host", ["127.0.0.1:8080", "a.example", ""]),
    ("Upgrade", ["websocket", "WebSocket", "websocket, h2c", "h2c", "\twebsocket  ", ""]),
    ("Connection", ["Upgrade", "upgrade", "keep-alive, Upgrade", "keep-alive,Upgrade", "close", "Upgrade;"]),
    (
        "Sec-WebSocket-Key",
        [KEY, KEY[:-1] + "A", KEY + "=", "dGhlIHNhbXBsZSBub25jZR==", "not base64 at all", ""],
    ),
    ("Sec-WebSocket-Version", ["13", "8", "13, 8", "013"]),
]
OTHERS = [
    "Origin: http://a.example",
    "origin: null",
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
    "Sec-WebSocket-Extensions: permessage-deflate;;",
    "Sec-WebSocket-Protocol: chat, superchat",
    "Sec-WebSocket-Protocol: ,;",
    "Content-Length: 0",
    "Content-Length: 3",
    "Transfer-Encoding: chunked",
    "Connection: keep-alive",
    "Upgrade: websocket",
    "Cookie: a=1; b=2",
    "X-Latin: caf\xe9\x85\xa0",
    "X-Control: a\x00b",
    "X-Line: a\nX-Other: b",
    "X-Return: a\rb",
    "X Space: 1",
    " folded: 1",
    "no colon",
    ": no name",
    "X-Long: " + "x" * 8200,
]
LINES = [
    "GET /chat HTTP/1.1",
    "GET /a%20b?x=1&x=&y=%C3%A9 HTTP/1.1",
    "GET http://a.example/chat HTTP/1.1",
    "GET chat HTTP/1.1",
    "GET /a b HTTP/1.1",
    "GET  HTTP/1.1",
    "GET /\xe9 HTTP/1.1",
    "GET /\x01 HTTP/1.1",
    "POST /chat HTTP/1.1",
    "get /chat HTTP/1.1",
    "GET /chat HTTP/1.0",
    "GET /chat HTTP/2",
]


def usually(first: str, *others: str) -> st.SearchStrategy[str]:
    """Mostly the first one: requests with one fault or two are the interesting ones."""
    return st.one_of(*[st.just(first)] * 8, st.sampled_from((first, *others)))


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    lines = [f"{name}:{draw(st.sampled_from(['', ' ']))}{draw(usually(*values))}" for name, values in FIELDS]
    lines += draw(st.lists(st.sampled_from(OTHERS), max_size=3))
    lines += [f"X-{number}: 1" for number in range(draw(st.sampled_from([0, 0, 0, 90, 95, 100, 130])))]
    if draw(st.integers(0, 9)) == 0:
        del lines[draw(st.integers(0, len(lines) - 1))]
    lines = draw(st.permutations(lines)) if len(lines) < 10 else lines
    if draw(st.booleans()):
        lines = [line.lower() if line.startswith("Sec") else line for line in lines]
    return "\r\n".join([draw(usually(*LINES)), *lines, "", ""]).encode("latin-1")


def outcome(head: bytes, subprotocols: list[str], *, compression: bool) -> tuple[object, ...]:
    """All that can be seen of a handshake from outside."""
    try:
        handshake = Handshake(head, client="10.0.0.1:5000")
        request = handshake.negotiate(subprotocols, {"room": "1"}, client=None, compression=compression)
        answer = handshake.accept()
    except HandshakeRefused as refused:
        return refused.status, refused.text, refused.headers
    answer = re.sub(rb"\r\nDate: [^\r\n]+GMT\r\n", b"\r\nDate: now\r\n", answer)
    protocol = handshake.protocol or Protocol(SERVER)  # as a WebSocket makes it
    state = protocol.state, protocol.side, protocol.max_message_size, protocol.max_fragment_size
    extensions = [type(extension) for extension in protocol.extensions]
    return request, list(request.headers), handshake.path, handshake.query, answer, state, extensions


@given(head=heads(), subprotocols=st.sampled_from([[], ["chat"]]), compression=st.booleans())
def test_both_lanes_give_the_same_request_response_and_refusal(
    head: bytes, subprotocols: list[str], compression: bool
) -> None:
    with patch.object(opening, "read_plain_head", lambda _: None):
        expected = outcome(head, subprotocols, compression=compression)

    got = outcome(head, subprotocols, compression=compression)

    assert _plain(got) == _plain(expected)


def _plain(outcome: tuple[object, ...]) -> tuple[object, ...]:
    """``Headers`` and ``QueryParams`` as text: they show every value."""
    return tuple(repr(part) for part in outcome)


STRICT = re.compile(
    rb"GET [\x21-\x7e]+ HTTP/1\.1\r\n(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n)*\r\n"
)
"""RFC 9112, sections 3 and 5."""


@given(
    head=heads(),
    faults=st.lists(
        st.tuples(
            st.integers(0, 400),
            st.integers(0, 3),
            st.sampled_from([b"", b"\n", b"\r", b"\0", b" ", b":", b"\t"]),
        ),
        max_size=3,
    ),
)
def test_what_is_accepted_is_strict_with_one_host(head: bytes, faults: list[tuple[int, int, bytes]]) -> None:
    for at, cut, put in faults:
        head = head[:at] + put + head[at + cut :]
    if b"\r\n\r\n" in head:
        head = head[: head.index(b"\r\n\r\n") + 4]  # what is behind it is no head's

    status = outcome(head, [], compression=False)[0]

    if not isinstance(status, int):
        assert STRICT.fullmatch(head)
        assert len(re.findall(rb"\r\nhost:", head, re.IGNORECASE)) == 1


BROWSERS = {
    "Chrome": "Connection: Upgrade\r\nPragma: no-cache\r\n"
    "Cache-Control: no-cache\r\nUser-Agent: Mozilla/5.0\r\n"
    "Upgrade: websocket\r\nOrigin: http://a.example\r\nSec-WebSocket-Version: 13\r\n"
    "Accept-Encoding: gzip, deflate, br\r\nAccept-Language: de,en;q=0.9\r\nCookie: a=1\r\n"
    f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n",
    "Firefox": "User-Agent: Mozilla/5.0\r\nAccept: */*\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Key: {KEY}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n",
    "websockets": "Upgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\nUser-Agent: Python\r\n",
}


@pytest.mark.parametrize("fields", BROWSERS.values(), ids=BROWSERS)
def test_what_common_clients_send_takes_the_fast_lane(fields: str) -> None:
    head = f"GET /chat?token=1 HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n".encode()

    plain = read_plain_head(head)

    assert plain is not None
    target, _, key = plain
    assert (target, key) == ("/chat?token=1", KEY)
