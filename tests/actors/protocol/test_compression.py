"""permessage-deflate: only when it is asked for and offered, in small windows, and no bombs."""

from __future__ import annotations

import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.exceptions import PayloadTooBig
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from actors import ConnectionActor
from actors.protocol.compression import WINDOW_BITS, BoundedDeflateFactory
from actors.protocol.opening import Handshake, HandshakeRefused
from supervisor import Limits, Policy, Route
from tests.raw import BINARY, TEXT, encode, raw_client
from tests.witness import serving

OFFER = "permessage-deflate; client_max_window_bits"


def negotiated(offer: str, *, compression: bool = True) -> str | None:
    """What a server answers to an offer of extensions."""
    client = ClientProtocol(parse_uri("ws://localhost/"))
    request = client.connect()
    request.headers["Sec-WebSocket-Extensions"] = offer
    handshake = Handshake(request.serialize(), client="test")
    handshake.negotiate((), {}, compression=compression)
    found = re.search(r"\r\nSec-WebSocket-Extensions: ([^\r]*)\r\n", handshake.accept().decode())
    return None if found is None else found[1]


def extension() -> Extension:
    """What is negotiated with a client that leaves everything to us."""
    factory = BoundedDeflateFactory()
    _, made = factory.process_request_params([("client_max_window_bits", None)], [])
    assert isinstance(made, Extension)
    return made


def deflated(data: bytes) -> Frame:
    """One message as a client compresses it (RFC 7692, section 7.2.1)."""
    compress = zlib.compressobj(9, zlib.DEFLATED, -WINDOW_BITS)
    return Frame(
        Opcode.BINARY, (compress.compress(data) + compress.flush(zlib.Z_SYNC_FLUSH))[:-4], True, rsv1=True
    )


# -- the negotiation ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        (OFFER, "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"),
        (
            "permessage-deflate; client_max_window_bits=10",
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=10",
        ),
        (
            "permessage-deflate; server_max_window_bits=9; client_max_window_bits",
            "permessage-deflate; server_max_window_bits=9; client_max_window_bits=12",
        ),
        (
            "permessage-deflate; server_no_context_takeover; client_max_window_bits",
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=12; "
            "client_max_window_bits=12",
        ),
        (f"x-unknown, {OFFER}", "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"),
        ("permessage-deflate", "permessage-deflate; server_max_window_bits=12"),
        ("permessage-deflate; server_max_window_bits=7", None),
        ("permessage-deflate; unheard_of", None),
        ("x-webkit-deflate-frame", None),
    ],
)
def test_windows_are_as_small_as_the_client_lets_them_be(offer: str, answer: str | None) -> None:
    assert negotiated(offer) == answer


def test_it_is_off_unless_it_is_asked_for() -> None:
    assert negotiated(OFFER, compression=False) is None


def test_an_offer_that_is_malformed_is_refused_when_it_is_read() -> None:
    with pytest.raises(HandshakeRefused, match="400"):
        negotiated("permessage-deflate; =")


# -- the bounds --------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=3000) | st.integers(0, 60_000).map(lambda size: b"a" * size), max_size=5))
def test_messages_go_through_both_ways_unchanged(messages: list[bytes]) -> None:
    client_factory = ClientPerMessageDeflateFactory(client_max_window_bits=True)
    server = extension()
    client = client_factory.process_response_params(
        [("server_max_window_bits", "12"), ("client_max_window_bits", "12")], []
    )

    for message in messages:
        frame = Frame(Opcode.BINARY, message)
        assert server.decode(client.encode(frame), max_size=1 << 20).data == message
        assert client.decode(server.encode(frame)).data == message


def test_the_size_of_a_message_bounds_what_comes_out_too() -> None:
    frame = deflated(b"a" * 2000)

    assert len(extension().decode(frame, max_size=2000).data) == 2000
    with pytest.raises(PayloadTooBig):
        extension().decode(frame, max_size=1999)
    assert len(extension().decode(frame, max_size=None).data) == 2000


def test_a_table_that_compresses_well_is_a_message_like_any_other() -> None:
    table = b'{"id": 1, "name": "Ada", "active": true}, ' * 11_000
    frame = deflated(table)
    assert len(table) > 28 * len(frame.data)

    assert extension().decode(frame, max_size=1 << 20).data == table


# -- on a server -------------------------------------------------------------------------------


class Echo(ConnectionActor):
    async def on_message(self, message: str | bytes) -> None:
        await self.send(message)


COMPRESSED = Policy(limits=Limits(compression=True, max_message=100_000))


async def test_each_route_decides_for_itself() -> None:
    routes = {"/small": Route(Echo, COMPRESSED), "/plain": Echo}
    async with serving(routes) as (server, _):
        answers = {}
        for path in routes:
            async with raw_client(server, path, headers={"Sec-WebSocket-Extensions": OFFER}) as client:
                answers[path] = client.headers.get("sec-websocket-extensions")

    assert answers == {
        "/small": "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
        "/plain": None,
    }


async def test_a_client_that_offers_nothing_gets_nothing_compressed() -> None:
    async with serving(Route(Echo, COMPRESSED)) as (server, _), raw_client(server) as client:
        await client.send("hello" * 1000)

        assert "sec-websocket-extensions" not in client.headers
        assert (await client.frame()).text == "hello" * 1000


@pytest.mark.parametrize("size", [100_001, 10_000_000])
async def test_a_bomb_closes_its_connection_with_1009_and_no_other(size: int) -> None:
    headers = {"Sec-WebSocket-Extensions": OFFER}
    async with (
        serving(Route(Echo, COMPRESSED)) as (server, witness),
        raw_client(server, headers=headers) as hostile,
        raw_client(server) as other,
    ):
        await hostile.send_bytes(encode(BINARY, deflated(b"a" * size).data, rsv=0b100))
        assert (await hostile.answer_close())[0] == 1009
        hostile.close()
        closed = await witness.one_closed()

        await other.send_bytes(encode(TEXT, b"hello"))
        assert (await other.frame()).text == "hello"
        assert closed.report.messages_in == 0
