"""The opening handshake of one connection: from its first byte to 101 or a refusal.

The rules of this file:

* The head of the request is taken up to its empty line and not a byte further: frames that a
  client sends behind it without waiting are kept until 101 is out.
* The head is bounded: 8 KiB a line, 100 header fields, 32 KiB in all.
* The head is strict (RFC 9112): lines end with CRLF, there is one ``Host``, and a URL as the target names
  the same one.  What is not is answered 400.
* The ``websockets`` package parses the head, checks it, and makes the answers; a plain head and its 101
  take the fast lane of ``fasthead``, and no protocol is made for them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import final
from urllib.parse import parse_qsl, unquote

from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response
from websockets.protocol import CONNECTING, Protocol
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from actors.protocol.compression import BoundedDeflateFactory
from actors.protocol.fasthead import is_host, read_plain_head, switching
from actors.protocol.websocket import Framing, wire_logger
from actors.request import Headers, QueryParams, Request
from actors.transports.transport import Transport

MAX_HEAD = 32 * 1024
"""The most bytes that the head of a request may have."""
MAX_FIELDS = 100
"""The most header fields that a request may have."""

# A list of names (RFC 9110, section 7.8).  White space before the colon is wrong, which we are to say.
_UPGRADE = re.compile(rb"\r\nupgrade[ \t]*:(?:[^\r\n]*,)?[ \t]*websocket[ \t]*(?=,|\r\n)", re.IGNORECASE)
_BARE_LF = re.compile(rb"(?<!\r)\n")
_AUTHORITY = re.compile(r"[^/?]*")
_TARGET = re.compile(r"[\x21-\x7e]+")
_NO_QUERY = QueryParams()


class HandshakeRefused(Exception):
    """The request is answered with an HTTP status instead of 101."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.text = text
        self.headers = headers or {}
        super().__init__(f"{status} {text}")


def is_head(data: bytes) -> bool:
    """Tell whether ``data`` is a head, with nothing behind it: mostly one comes alone and at once."""
    return data.find(b"\r\n\r\n") == len(data) - 4 and 4 <= len(data) <= MAX_HEAD


@final
class HeadReader:
    """Collects the head of a request."""

    __slots__ = ("_buffer", "_searched")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> bytes | None:
        """Give the head with its empty line once it is there; raises ``HandshakeRefused`` (400, 431)."""
        buffer = self._buffer
        if not buffer and is_head(data):
            return data
        buffer += data
        end = buffer.find(b"\r\n\r\n", self._searched)
        if _BARE_LF.search(buffer, self._searched, len(buffer) if end < 0 else end):
            raise HandshakeRefused(400, "not a valid HTTP request: a line that ends without CR")
        if end < 0:
            self._searched = max(0, len(buffer) - 3)
            if len(buffer) <= MAX_HEAD:
                return None
        if end + 4 > MAX_HEAD or end < 0:
            raise HandshakeRefused(431, f"the head of the request has more than {MAX_HEAD} bytes")
        head = bytes(buffer[: end + 4])
        del buffer[: end + 4]
        return head

    def keep(self, data: bytes) -> None:
        """Keep what comes behind the head."""
        self._buffer += data

    def rest(self) -> bytes:
        """Take what came behind the head, or what there is of an incomplete head."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest


def split_target(target: str) -> tuple[str, str]:
    """Path and query of a request's target; raises ``HandshakeRefused`` (400).

    A path or a URL (RFC 9112, sections 3.2.1 and 3.2.2).  ``urlsplit`` would take ``//host/path`` for
    a URL, and drop characters.
    """
    if not target.startswith("/"):
        _, absolute, rest = target.partition("://")
        if not absolute:
            raise HandshakeRefused(400, "the target of the request is neither a path nor a URL")
        behind_the_host = _AUTHORITY.sub("", rest, count=1)
        target = behind_the_host if behind_the_host.startswith("/") else "/" + behind_the_host
    path, _, query = target.partition("?")
    return path, query


def check_head(target: str, headers: Headers) -> None:
    """Check what the parser leaves unchecked: the target's characters, and ``Host``.

    Raises ``HandshakeRefused`` (400; RFC 9112, section 3.2).  The host of a URL in the place of a path wins
    over ``Host`` (section 3.2.2), so one that differs could only mislead who looks at that.
    """
    if _TARGET.fullmatch(target) is None:
        raise HandshakeRefused(400, "the target of the request has characters that no URL has")
    hosts = headers.get_all("Host")
    if len(hosts) != 1 or not is_host(hosts[0]):
        raise HandshakeRefused(400, "the request has to have one Host field, with a host and a port")
    if not target.startswith("/") and (authority := target.partition("://")[2]):
        found = _AUTHORITY.match(authority)
        if found is None or found[0].lower() != hosts[0].lower():
            raise HandshakeRefused(400, "the target of the request is of another host than its Host field")


def fields_of(head: bytes) -> list[tuple[str, str]]:
    """The header fields of a head that nobody has parsed yet, as they stand there."""
    lines = head.decode("latin-1").split("\r\n")[1:-2]
    return [(name, value.strip(" \t")) for name, _, value in (line.partition(":") for line in lines)]


def wants_websocket(head: bytes) -> bool:
    """Tell whether the head asks for an upgrade to WebSocket; nothing else of it is looked at."""
    return _UPGRADE.search(head) is not None


class _Protocol(Framing, ServerProtocol):
    """The sans-I/O server; a client that offers no subprotocol of ours goes on without one."""

    def select_subprotocol(self, subprotocols: Sequence[Subprotocol]) -> Subprotocol | None:
        for subprotocol in self.available_subprotocols or ():
            if subprotocol in subprotocols:
                return subprotocol
        return None


@final
class Handshake:
    """The opening handshake as a function of the request's head; no I/O."""

    __slots__ = (
        "_client",
        "_head",
        "_http_request",
        "_plain_key",
        "headers",
        "path",
        "protocol",
        "query",
        "request",
        "response",
    )

    protocol: Protocol | None
    """What read the head; ``None`` for a plain one."""
    request: Request
    """What hooks see, from ``negotiate`` on."""
    _http_request: HttpRequest | None

    def __init__(self, head: bytes, *, client: str) -> None:
        self._head = head
        self._client = client
        self._http_request = None
        self._plain_key: str | None = None
        self.protocol = None
        self.response: Response | None = None
        # The protocol's log tells about the handshake what the fast lane would have to repeat.
        plain = None if wire_logger.isEnabledFor(logging.INFO) else read_plain_head(head)
        if plain is not None:
            target, values, self._plain_key = plain
            count, self.headers = len(values), Headers.of(values)
        else:
            self._http_request = http_request = self._parse(head)
            target, fields = http_request.path, list(http_request.headers.raw_items())
            count, self.headers = len(fields), Headers(fields)
        if count > MAX_FIELDS:
            raise HandshakeRefused(431, f"the request has more than {MAX_FIELDS} header fields")
        if plain is None:
            check_head(target, self.headers)
        self.path, self.query = split_target(target)

    def _parse(self, head: bytes) -> HttpRequest:
        self.protocol = protocol = _Protocol(logger=wire_logger)
        protocol.receive_data(head)
        events = protocol.events_received()
        if not events:
            refusal = b"".join(protocol.data_to_send())
            status = int(refusal.split(b" ", 2)[1]) if refusal else 400
            error = protocol.handshake_exc
            detail = error.__cause__ or error if error is not None else None
            raise HandshakeRefused(status, f"not a valid HTTP request: {detail}")
        http_request = events[0]
        assert isinstance(http_request, HttpRequest), "a server's first event is the request"
        return http_request

    def negotiate(
        self,
        subprotocols: Iterable[str],
        path_params: Mapping[str, str],
        *,
        client: str | None = None,
        compression: bool = False,
    ) -> Request:
        """Check the request as an upgrade, agree on a subprotocol; raises ``HandshakeRefused``.

        ``client`` is the client's address where a proxy told it.
        """
        subprotocol = None  # a plain head offers none
        if self._plain_key is None or compression:
            subprotocol = self._ask_protocol(subprotocols, compression)
        self.request = Request(
            path=unquote(self.path),
            path_params=path_params,
            query_params=QueryParams(parse_qsl(self.query, keep_blank_values=True))
            if self.query
            else _NO_QUERY,
            headers=self.headers,
            client=client or self._client,
            subprotocol=subprotocol,
        )
        return self.request

    def _ask_protocol(self, subprotocols: Iterable[str], compression: bool) -> str | None:
        """Let the protocol check the request and make the response; gives the subprotocol."""
        self._plain_key = None
        http_request = self._http_request or self._parse(self._head)
        protocol = self.protocol
        assert isinstance(protocol, _Protocol), "made to parse the request"
        protocol.available_extensions = [BoundedDeflateFactory()] if compression else None
        protocol.available_subprotocols = [Subprotocol(name) for name in subprotocols]
        response = protocol.accept(http_request)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            kept = ("Upgrade", "Allow", "Sec-WebSocket-Version")
            headers = {name: response.headers[name] for name in kept if name in response.headers}
            if "Sec-WebSocket-Version" in str(protocol.handshake_exc):
                headers["Sec-WebSocket-Version"] = "13"  # RFC 6455, section 4.4
            raise HandshakeRefused(response.status_code, bytes(response.body).decode().strip(), headers)
        self.response = response
        return protocol.subprotocol

    def accept(self) -> bytes:
        """The bytes of the 101 response; from now on the protocol speaks frames."""
        if self._plain_key is not None:
            return switching(self._plain_key)
        protocol = self.protocol
        assert self.response is not None, "accept follows negotiate"
        assert isinstance(protocol, _Protocol), "it has made the response"
        assert protocol.state is CONNECTING
        protocol.send_response(self.response)
        # The parser of requests keeps the request for as long as it lives; behind it comes only this one.
        protocol.parser = Protocol.parse(protocol)
        next(protocol.parser)
        return b"".join(protocol.data_to_send())


def refusal(refused: HandshakeRefused, *, body: bool = True) -> bytes:
    """The bytes of an HTTP response that refuses an upgrade; the connection ends behind it.

    Without ``body`` it is the answer to HEAD: its head alone (RFC 9110, section 9.3.2).
    """
    text = refused.text + "\n" if refused.text else ""
    protocol = _Protocol(logger=wire_logger)
    protocol.parser.close()  # a generator that knows the protocol, too
    response = protocol.reject(HTTPStatus(refused.status), text)
    for name, value in refused.headers.items():
        response.headers.pop(name, None)  # setting would add a second field
        response.headers[name] = value
    if not body:
        response.body = b""
    return response.serialize()


class Opening:
    """The first sink of a transport: collects the head, calls ``asked`` with it once.

    ``asked`` takes over; until it sets another sink, bytes are kept.
    """

    __slots__ = ("_complete", "_reader", "transport")

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._reader: HeadReader | None = None  # made for a head that comes in pieces, or not alone
        self._complete = False

    def asked(self, head: bytes) -> None:
        """The head of the request is there; for the subclass."""
        raise NotImplementedError

    def gone(self) -> None:
        """The peer is gone, before there was another sink or behind a refusal; for the subclass."""
        raise NotImplementedError

    def data(self, data: bytes) -> None:
        """Collect the head; afterwards keep what comes, one read's worth."""
        if self._complete:
            self._collector().keep(data)
            self.transport.pause()
            return
        head: bytes | None = data
        if self._reader is not None or not is_head(data):
            try:
                head = self._collector().feed(data)
            except HandshakeRefused as refused:
                self._complete = True
                self.refuse(refused, body=not self.rest().startswith(b"HEAD "))
                return
        if head is not None:
            self._complete = True
            self.asked(head)

    def _collector(self) -> HeadReader:
        if self._reader is None:
            self._reader = HeadReader()
        return self._reader

    def refuse(self, refused: HandshakeRefused, *, body: bool = True) -> None:
        """Answer with an HTTP status, without its ``body`` to HEAD, and end the connection."""
        self.transport.sink = _Refused(self.transport, self.gone)
        self.transport.resume()
        self.transport.write(refusal(refused, body=body))
        self.transport.end(linger=True)

    def rest(self) -> bytes:
        """Take what came behind the head."""
        return b"" if self._reader is None else self._reader.rest()

    def eof(self) -> None:
        """The peer does not wait for the answer: there is nobody to talk to."""
        self.transport.end(linger=False)

    def lost(self) -> None:
        """The peer is gone."""
        self.gone()

    def writable(self) -> None:
        """Nothing waits for that here."""


@final
class _Refused:
    """The sink behind a refusal: what still comes is thrown away until the peer ends."""

    __slots__ = ("_gone", "_transport")

    def __init__(self, transport: Transport, gone: Callable[[], None]) -> None:
        self._transport = transport
        self._gone = gone

    def data(self, data: bytes) -> None:
        """Thrown away; the handshake timeout bounds how long."""

    def eof(self) -> None:
        self._transport.end(linger=False)

    def lost(self) -> None:
        self._gone()

    def writable(self) -> None:
        """Nothing waits for that here."""


def asks_whether_ready(head: bytes, path: str | None) -> bool:
    """Tell whether ``head`` is that of ``GET path``, or of HEAD."""
    return path is not None and head.startswith(_probes_of(path))


@lru_cache
def _probes_of(path: str) -> tuple[bytes, bytes]:
    return b"GET %b HTTP/" % path.encode(), b"HEAD %b HTTP/" % path.encode()
