"""Honest requests are answered through the pipe as Robyn alone answers them: status, fields, body."""

from __future__ import annotations

import asyncio
import http.client
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import aiohttp
import pytest

from tests.fuzz_http.target import How, Target, make_folder, target
from tests.raw import DEADLINE

HOP_BY_HOP = {"date", "connection"}
"""Fields that may differ: the time, and what is about one connection."""

GENERATED = 150
"""Connections with requests from a seed."""


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[How, Target]]:
    """The same app three times, with the same files."""
    folder = tmp_path_factory.mktemp("files")
    make_folder(folder)
    with ExitStack() as stack:
        yield {how: stack.enter_context(target(how, folder)) for how in How}


# -- one connection ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a client sees of one answer."""

    version: str
    status: int
    reason: str
    fields: tuple[tuple[str, str], ...]
    body: bytes


class Client:
    """A connection that sends bytes and reads answers by RFC 9112; it shares no code with the pipe."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), DEADLINE)
        self._stream = self._socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def finish(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def rest(self) -> bytes:
        return self._stream.read()

    def answer(self, method: str) -> Answer:
        version, _, rest = self._stream.readline().decode("latin-1").rstrip("\r\n").partition(" ")
        status, _, reason = rest.partition(" ")
        fields = []
        while (line := self._stream.readline().decode("latin-1").rstrip("\r\n")) != "":
            name, _, value = line.partition(":")
            fields.append((name.lower(), value.strip()))
        told = dict(fields)
        if method == "HEAD" or int(status) in (100, 204, 304):
            body = b""
        elif told.get("transfer-encoding") == "chunked":
            body = self._chunks()
        elif "content-length" in told:
            body = self._stream.read(int(told["content-length"]))
        else:
            body = self._stream.read()
        kept = tuple(sorted(field for field in fields if field[0] not in HOP_BY_HOP))
        return Answer(version, int(status), reason, kept, body)

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self._stream.readline(), 16):
            body += self._stream.read(size)
            assert self._stream.readline() == b"\r\n"
        assert self._stream.readline() == b"\r\n"
        return body


Talk = Callable[[Client], object]
"""What a client does, and what it has seen."""


def same(apps: dict[How, Target], talk: Talk) -> object:
    """Do the same with each app, and give what came back from all of them."""
    seen = {}
    for how, app in apps.items():
        with Client(app.port) as client:
            seen[how] = talk(client)
    assert seen[How.HERE] == seen[How.ALONE]
    assert seen[How.PUMP] == seen[How.ALONE]
    return seen[How.ALONE]


def asked(*requests: bytes, pipelined: bool = False) -> Talk:
    """Send requests on one connection, each behind the last answer or all at once."""
    methods = [request.split(b" ")[0].decode() for request in requests]

    def talk(client: Client) -> list[Answer]:
        if pipelined:
            client.send(b"".join(requests))
            return [client.answer(method) for method in methods]
        answers = []
        for request, method in zip(requests, methods, strict=True):
            client.send(request)
            answers.append(client.answer(method))
        return answers

    return talk


def request(
    method: str, target: str, *fields: str, body: bytes | None = None, chunks: Sequence[bytes] = ()
) -> bytes:
    """Make a request, with a body of a length or in chunks."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *fields]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    if chunks:
        lines.append("Transfer-Encoding: chunked")
        body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


BOUNDARY = "----WebKitFormBoundary7MA4YWxkTrZu0gW"
FORM = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="field"\r\n\r\nvalue\r\n'
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n'
    f"Content-Type: text/plain\r\n\r\ncontent\r\n--{BOUNDARY}--\r\n"
).encode()
JSON = b'{"name": "Ada", "age": 36, "x": 1, "y": [1.5, null, {"a": "\\u20ac"}]}'
CURL = ("User-Agent: curl/8.5.0", "Accept: */*")
REQUESTS = ("User-Agent: python-requests/2.32", "Accept-Encoding: gzip, deflate", "Accept: */*")
BROWSER = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language: de,en-US;q=0.7,en;q=0.3",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Upgrade-Insecure-Requests: 1",
    "Cookie: a=b; session=abc.def",
    "Sec-Fetch-Dest: document",
    "Priority: u=0, i",
)

TALKS: dict[str, Talk] = {
    "plain": asked(request("GET", "/")),
    "constant": asked(request("GET", "/const")),
    "async": asked(request("GET", "/async")),
    "bytes": asked(request("GET", "/bytes")),
    "large": asked(request("GET", "/large")),
    "not found": asked(request("GET", "/nowhere")),
    "not allowed": asked(request("DELETE", "/static/page.html")),
    "an unknown method": asked(request("PROPFIND", "/echo")),
    "a method in small letters": asked(request("get", "/")),
    "no content": asked(request("GET", "/status/204")),
    "not modified": asked(request("GET", "/status/304")),
    "an odd status": asked(request("GET", "/status/599")),
    "a handler that raises": asked(request("GET", "/raises")),
    "cookies": asked(request("GET", "/cookies", "Cookie: a=b; c=d")),
    "a redirect": asked(request("GET", "/moved?to=/elsewhere")),
    "not authorised": asked(request("GET", "/private")),
    "authorised": asked(request("GET", "/private", "Authorization: Bearer token")),
    "a middleware": asked(request("GET", "/guarded/ada"), request("GET", "/guarded/ada?no=1")),
    "a SubRouter": asked(request("GET", "/below/x"), request("POST", "/below", body=b"x")),
    "parameters": asked(request("GET", "/items/7?q=%C3%A9&flag=yes&ratio=0.5"), request("GET", "/items/x")),
    "lists of parameters": asked(request("GET", "/list?tags=a&tags=b&sizes=1&sizes=2")),
    "a query of every kind": asked(request("GET", "/echo?a=1&a=2&b&=c&d=e=f&g=%FF&h=+")),
    "a long target": asked(request("GET", "/echo?a=" + "b" * 20_000)),
    "a target that is a URL": asked(request("GET", "http://localhost/echo?a=1")),
    "OPTIONS of all": asked(request("OPTIONS", "*")),
    "many fields": asked(request("GET", "/echo", *(f"X-{number}: {number}" for number in range(80)))),
    "fields that are not ASCII": asked(request("GET", "/echo", "X-Name: J\xf6rg", "X-More: \xc3\xa9")),
    "the same field twice": asked(request("GET", "/echo", "X-A: 1", "X-A: 2", "x-a: 3")),
    "HEAD": asked(request("HEAD", "/async"), request("HEAD", "/nowhere"), request("GET", "/")),
    "HEAD of a file": asked(request("HEAD", "/bare/data.bin"), request("GET", "/static/page.html")),
    "a file": asked(request("GET", "/bare/data.bin")),
    "an empty file": asked(request("GET", "/static/empty")),
    "a file by a handler": asked(request("GET", "/file")),
    "an index": asked(request("GET", "/static/")),
    "a listing": asked(request("GET", "/listed/"), request("GET", "/listed/folder")),
    "a path upwards": asked(request("GET", "/static/../../etc/passwd"), request("GET", "/static/%2e%2e/x")),
    "a range": asked(request("GET", "/bare/data.bin", "Range: bytes=10-99")),
    "the last bytes": asked(request("GET", "/bare/data.bin", "Range: bytes=-5")),
    "several ranges": asked(request("GET", "/bare/data.bin", "Range: bytes=0-0, 5-9,20-")),
    "a range behind the end": asked(request("GET", "/bare/data.bin", "Range: bytes=999999-")),
    "a range of a route": asked(request("GET", "/", "Range: bytes=0-1")),
    "a conditional request": asked(
        request("GET", "/static/page.html", "If-Modified-Since: Fri, 31 Dec 2100 23:59:59 GMT"),
        request("GET", "/static/page.html", "If-None-Match: *"),
        request("GET", "/static/page.html", 'If-Match: "other"'),
    ),
    "documentation": asked(request("GET", "/docs"), request("GET", "/openapi.json")),
    "a stream": asked(request("GET", "/stream"), request("GET", "/")),
    "a stream of bytes": asked(request("GET", "/stream/plain")),
    "events": asked(request("GET", "/events")),
    "slow events": asked(request("GET", "/events/slow")),
    "JSON": asked(request("POST", "/json", "Content-Type: application/json", body=JSON)),
    "JSON that is none": asked(request("POST", "/person", body=b"{"), request("POST", "/json", body=b"[")),
    "a typed body": asked(request("POST", "/person", body=JSON), request("POST", "/point", body=JSON)),
    "a body that is not UTF-8": asked(request("POST", "/echo", body=bytes(range(256)))),
    "an empty body": asked(request("POST", "/size", body=b""), request("POST", "/size")),
    "a body of a GET": asked(request("GET", "/echo", body=b"hello"), request("GET", "/")),
    "a body that nobody reads": asked(request("POST", "/nowhere", body=b"x" * 100_000), request("GET", "/")),
    "chunks": asked(request("POST", "/echo", chunks=[b"a", b"bc" * 500, b"d"]), request("GET", "/")),
    "chunks of nothing": asked(request("POST", "/size", "Transfer-Encoding: chunked") + b"0\r\n\r\n"),
    "a large body": asked(request("POST", "/size", body=b"x" * 5_000_000), request("GET", "/")),
    "a large body in chunks": asked(request("POST", "/size", chunks=[b"y" * 100_000] * 50)),
    "a form": asked(
        request("POST", "/echo", "Content-Type: application/x-www-form-urlencoded", body=b"a=1&b=%C3%A9")
    ),
    "a multipart form": asked(
        request("PUT", "/form", f"Content-Type: multipart/form-data; boundary={BOUNDARY}", body=FORM),
        request("POST", "/echo", f'Content-Type: multipart/form-data; boundary="{BOUNDARY}"', body=FORM),
        request("POST", "/echo", f"Content-Type: multipart/form-data;boundary={BOUNDARY}", chunks=[FORM]),
    ),
    "a compressed body": asked(request("POST", "/echo", "Content-Encoding: gzip", body=b"\x1f\x8b\x08")),
    "like curl": asked(request("GET", "/echo", *CURL), request("POST", "/echo", *CURL, body=b"a=1")),
    "like curl --http2": asked(
        request(
            "GET",
            "/",
            *CURL,
            "Connection: Upgrade, HTTP2-Settings",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
        )
    ),
    "like requests": asked(request("POST", "/json", *REQUESTS, "Connection: keep-alive", body=JSON)),
    "like a browser": asked(request("GET", "/echo", *BROWSER), request("GET", "/static/", *BROWSER)),
    "CRLF between requests": asked(request("POST", "/size", body=b"12") + b"\r\n", request("GET", "/")),
    "pipelined": asked(
        request("GET", "/slow"),
        request("POST", "/echo", body=b"first"),
        request("POST", "/echo", chunks=[b"second"]),
        request("GET", "/stream"),
        request("GET", "/nowhere"),
        request("GET", "/"),
        pipelined=True,
    ),
    "many pipelined": asked(*[request("GET", f"/echo?n={number}") for number in range(40)], pipelined=True),
}


@pytest.mark.parametrize("name", TALKS)
def test_an_honest_exchange_is_as_without_us(apps: dict[How, Target], name: str) -> None:
    same(apps, TALKS[name])


# -- how a connection goes on and ends -----------------------------------------------------------


def test_the_body_waits_for_100_continue(apps: dict[How, Target]) -> None:
    def talk(client: Client) -> list[Answer]:
        client.send(request("POST", "/echo", "Expect: 100-continue", body=b"")[:-5] + b"5\r\n\r\n")
        interim = client.answer("POST")
        client.send(b"hello")
        return [interim, client.answer("POST")]

    seen = same(apps, talk)

    assert isinstance(seen, list)
    assert [answer.status for answer in seen] == [100, 200]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET /echo HTTP/1.0\r\nHost: localhost\r\n\r\n",
        b"POST /echo HTTP/1.0\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
        b"GET /stream HTTP/1.0\r\n\r\n",
        request("GET", "/", "Connection: close"),
        request("POST", "/echo", "Connection: close", body=b"last"),
        request("GET", "/stream", "Connection: close"),
        request("GET", "/large", "Connection: close"),
    ],
)
def test_the_server_ends_the_connection_where_it_would(apps: dict[How, Target], data: bytes) -> None:
    def talk(client: Client) -> tuple[Answer, bytes]:
        client.send(data)
        return client.answer(data.split(b" ")[0].decode()), client.rest()

    seen = same(apps, talk)

    assert isinstance(seen, tuple)
    assert seen[1] == b""


@pytest.mark.parametrize("path", ["/", "/slow", "/large", "/stream"])
def test_a_client_that_ends_its_side_gets_its_answers(apps: dict[How, Target], path: str) -> None:
    def talk(client: Client) -> tuple[list[Answer], bytes]:
        client.send(request("GET", path) * 2)
        client.finish()
        return [client.answer("GET") for _ in range(2)], client.rest()

    same(apps, talk)


def test_a_client_of_http_1_0_keeps_its_connection(apps: dict[How, Target]) -> None:
    kept = b"GET /echo HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n"

    same(apps, asked(kept, kept))


def test_a_slow_reader_gets_all(apps: dict[How, Target]) -> None:
    def talk(client: Client) -> Answer:
        client.send(request("GET", "/large"))
        time.sleep(0.2)  # the buffers between are full then
        return client.answer("GET")

    same(apps, talk)


# -- generated -----------------------------------------------------------------------------------


PATHS = ["/", "/async", "/bytes", "/status/201", "/echo", "/items/5", "/tail/a/b", "/given", "/stream"]
PATHS += ["/two/a%20b/and/%E2%82%AC", "/static/page.html", "/static/folder/deep.txt", "/below/x"]


class Honest:
    """Requests that are right, from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def talk(self) -> Talk:
        """Requests on one connection, cut anywhere.

        Only GETs are pipelined: Robyn itself may lose a body that comes in pieces while it is at an earlier
        answer, and takes an answer for one to a HEAD when that is the request it read last.
        """
        count = self.random.choice([1, 1, 2, 3, 8])
        if self.random.random() < 0.4:
            requests = [self._without_body("GET") for _ in range(count)]
            turns = [(self._cut(b"".join(requests)), requests)]
        else:
            requests = [self._request() for _ in range(count)]
            turns = [(self._cut(one), [one]) for one in requests]

        def talk(client: Client) -> list[Answer]:
            answers = []
            for pieces, asked in turns:
                for piece in pieces:
                    client.send(piece)
                    time.sleep(0.0005)
                answers += [client.answer(one.split(b" ")[0].decode()) for one in asked]
            return answers

        return talk

    def _cut(self, data: bytes) -> list[bytes]:
        cuts = sorted(self.random.randint(0, len(data)) for _ in range(self.random.randint(0, 6)))
        edges = [0, *cuts, len(data)]
        return [data[start:end] for start, end in pairwise(edges)]

    def _fields(self) -> list[str]:
        fields = [
            *BROWSER[:4],
            *CURL,
            "X-Empty:",
            "X-Tab:\ta\tb",
            "X-Long: " + "v" * self.random.choice([1, 100, 5000]),
            "Cookie: a=b",
            "Connection: keep-alive",
            "Authorization: Bearer abc",
            "X-Forwarded-For: 1.2.3.4",
            "If-None-Match: *",
        ]
        return self.random.sample(fields, self.random.randint(0, 6))

    def _without_body(self, method: str) -> bytes:
        path = self.random.choice(PATHS)
        if self.random.random() < 0.4:
            path += "?" + "&".join(
                f"{self.random.choice('abcq')}={self.random.randint(0, 99)}" for _ in range(3)
            )
        return request(method, path, *self._fields())

    def _request(self) -> bytes:
        if self.random.random() < 0.5:
            return self._without_body(self.random.choice(["GET", "GET", "GET", "HEAD"]))
        body = self.random.randbytes(self.random.choice([0, 1, 100, 5000, 100_000]))
        target = self.random.choice(["/echo", "/size", "/body", "/async/echo/x", "/json"])
        if self.random.random() < 0.5:
            return request("POST", target, *self._fields(), body=body)
        chunks = [piece for piece in self._cut(body) if piece] or [b"x"]
        return request("POST", target, *self._fields(), chunks=chunks)


def test_generated_exchanges_are_as_without_us(apps: dict[How, Target]) -> None:
    for seed in range(GENERATED):
        try:
            same(apps, Honest(seed).talk())
        except BaseException as error:
            error.add_note(f"Honest({seed})")
            raise


# -- clients of other people ---------------------------------------------------------------------


async def by_aiohttp(port: int) -> list[object]:
    """What aiohttp gets, with one pool of connections for all it asks."""
    seen: list[object] = []
    form = aiohttp.FormData({"field": "value"})
    form.add_field("file", b"content", filename="a.txt")

    async def pieces() -> object:
        for number in range(3):
            yield f"piece {number}".encode()

    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        for method, path, given in (
            ("GET", "/", {}),
            ("GET", "/large", {}),
            ("GET", "/events", {}),
            ("HEAD", "/async", {}),
            ("POST", "/json", {"json": {"a": 1}}),
            ("PUT", "/form", {"data": form}),
            ("POST", "/body", {"data": pieces()}),
            ("POST", "/body", {"data": b"x", "expect100": True}),
            ("GET", "/cookies", {"cookies": {"a": "b"}}),
        ):
            async with session.request(method, path, **given) as response:
                seen.append((response.status, response.headers.get("Content-Type"), await response.read()))
    return seen


def by_http_client(port: int) -> list[object]:
    """What the client of the standard library gets on one connection."""
    seen: list[object] = []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    for method, path, body in [
        ("GET", "/", None),
        ("POST", "/body", b"hello"),
        ("POST", "/body", iter([b"in ", b"chunks"])),
        ("HEAD", "/async", None),
        ("GET", "/stream", None),
    ]:
        connection.request(method, path, body)
        response = connection.getresponse()
        seen.append((response.status, response.getheader("Content-Type"), response.read()))
    connection.close()
    return seen


def by_urllib(port: int) -> list[object]:
    """What urllib gets, which ends the connection behind each answer."""
    seen: list[object] = []
    for path, body in [("/stream", None), ("/body", b"a=1")]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", body, DEADLINE) as response:
            seen.append((response.status, response.getheader("Content-Type"), response.read()))
    return seen


@pytest.mark.parametrize("client", [lambda port: asyncio.run(by_aiohttp(port)), by_http_client, by_urllib])
def test_a_client_of_other_people_sees_no_difference(
    apps: dict[How, Target], client: Callable[[int], list[object]]
) -> None:
    seen = {how: client(app.port) for how, app in apps.items()}

    assert seen[How.HERE] == seen[How.PUMP] == seen[How.ALONE]
