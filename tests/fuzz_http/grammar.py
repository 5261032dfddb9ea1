"""Cases from a seed: requests as clients send them, and everything that can be wrong with them.

The grammar knows the app under test (``app``), and where the parsers of Robyn and of the libraries
below it look: each choice is honest most of the time, so that the wrong one comes behind a head that is
right.  On top of that bytes are changed, cut, doubled and moved.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random
from typing import TypeVar

from tests.fuzz_http.cases import Case, End

T = TypeVar("T")

METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"]
ODD_METHODS = [
    "CONNECT",
    "PROPFIND",
    "M-SEARCH",
    "PRI",
    "get",
    "Post",
    "X" * 300,
    "G@T",
    "G\xe9T",
    "G\x00T",
    "",
]

ROUTES = {
    "GET": [
        "/",
        "/const",
        "/async",
        "/bytes",
        "/status/{}",
        "/guarded/{}",
        "/private",
        "/raises",
        "/cookies",
        "/session",
        "/slow",
        "/file",
        "/echo",
        "/async/echo/{}",
        "/items/{}",
        "/list",
        "/colour/{}",
        "/tail/{}/{}",
        "/two/{}/and/{}",
        "/given",
        "/moved",
        "/header-back",
        "/stream",
        "/stream/plain",
        "/events",
        "/below/{}",
        "/below/private/{}",
        "/static/{}",
        "/static/",
        "/static/page.html",
        "/static/empty",
        "/static/folder/deep.txt",
        "/listed/",
        "/listed/{}",
        "/listed/folder",
        "/bare/{}",
        "/bare/data.bin",
        "/docs",
        "/openapi.json",
        "/ws",
        "/-/ready",
        "/nowhere/{}",
    ],
    "POST": [
        "/echo",
        "/async/echo/{}",
        "/size",
        "/json",
        "/json/keys",
        "/person",
        "/point",
        "/body",
        "/answer",
        "/below",
        "/mcp",
        "/static/page.html",
        "/nowhere",
    ],
    "PUT": ["/form", "/echo", "/async/echo/{}"],
    "HEAD": ["/async", "/static/page.html", "/", "/nowhere"],
}
RARELY = ["/large", "/events/slow"]
"""Those that cost much."""

SEGMENTS = [
    "a",
    "page.html",
    "folder",
    "red",
    "7",
    "-1",
    "9" * 30,
    "1e999",
    "NaN",
    "%FF",
    "%C3%A9",
    "%C3%28",
    "%00",
    "%2F",
    "%2e%2e",
    "%252e%252e",
    "..",
    ".",
    "...",
    ".hidden",
    "*",
    ":name",
    "{name}",
    "a:",
    "a<",
    "a>",
    "\\..\\..",
    "%5c..",
    "~",
    ";v=1",
    "%",
    "%2",
    "%zz",
    "@",
    "a b",
    "\xe9",
    "\xff\xfe",
    "\x7f",
    "\x00",
    "|^`",
    "200",
    "204",
    "304",
    "599",
    "a" * 200,
]
QUERIES = [
    "a=1&b=2",
    "a=1&a=2",
    "tags=a&tags=b&sizes=1&sizes=2",
    "tags=&sizes=x",
    "q=a&flag=yes&ratio=nan",
    "flag=perhaps",
    "no=1",
    "to=/elsewhere",
    "to=%0d%0aX:%201",
    "to=\xe9",
    "value=%00",
    "a",
    "=",
    "&&&",
    "=&=",
    "a==b",
    "a=%",
    "a=%FF&%FE=1",
    "a=+b+%20",
    "a;b=c",
    "?",
    "a=b?c",
    "[]=1&a[b]=2",
    "a=#",
    "%61=%62",
    "session=x",
]
VERSIONS = [
    "HTTP/1.0",
    "HTTP/1.2",
    "HTTP/2.0",
    "HTTP/0.9",
    "http/1.1",
    "HTTP/1.1 ",
    "HTTP/11",
    "",
    "HTTPS/1.1",
]

HEADERS: dict[str, list[str]] = {
    "Accept": ["*/*", "text/html,application/json;q=0.9", "q=\xe9", ",,,", "a/b;q=9999999999999"],
    "Accept-Encoding": [
        "gzip, deflate, br, zstd",
        "br;q=1.0, *;q=0",
        "identity;q=0",
        "x" * 300,
        ";;",
        "\xe9",
    ],
    "Accept-Language": ["en", "", "*;q=x", "\xc3\xa9"],
    "Authorization": ["Bearer token", "Bearer ", "Bearer", "Bearer \xe9", "Basic ???", "", "bearer a"],
    "Cookie": [
        "a=b",
        "session=abc.def",
        "session=\xe9.\xe9",
        "session=eyJhIjoxfQ.x",
        "session=" + "." * 300,
        "session=.",
        "=;=;;",
        'a="b\\"',
        "a=b; a=c",
        "a" * 5000,
    ],
    "Connection": [
        "keep-alive",
        "close",
        "Close, Keep-Alive",
        "upgrade",
        "Upgrade, HTTP2-Settings",
        "content-length",
        "transfer-encoding",
        "\xe9",
        "",
    ],
    "Content-Encoding": ["gzip", "br", "deflate", "zstd", "identity", "gzip, gzip", "x", "\xe9"],
    "Content-Type": [
        "application/json",
        "text/plain",
        "text/plain; charset=utf-16",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "multipart/mixed; boundary=bound",
        "text/x; y=multipart/form-data",
        "",
        "/",
        "a",
        "\xe9",
        "application/json; charset=\xe9",
        "a/b;" * 50,
    ],
    "Date": ["Tue, 15 Nov 1994 08:12:31 GMT", "x"],
    "Expect": ["100-continue", "100-", "100-continue, x", "200-ok", "", "\xe9"],
    "Forwarded": [
        "for=1.2.3.4;proto=https;host=other",
        'for="[::1]:80"',
        "for=;;,=,",
        'host="',
        "proto=\xe9",
    ],
    "Host": [
        "localhost",
        "localhost:8080",
        "",
        "[::1]",
        "a b",
        "\xe9",
        "x" * 300,
        "user@host",
        "a,b",
        "host/path",
    ],
    "HTTP2-Settings": ["AAMAAABkAARAAAAAAAIAAAAA", "", "%%"],
    "If-Match": ["*", '"a"', 'W/"a"', '"', "W/", 'W/"', "\xe9", '"a", "b",', ""],
    "If-Modified-Since": [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "Wed, 31 Dec 1969 23:59:59 GMT",
        "Fri, 31 Dec 9999 23:59:60 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 30 Feb 2030 25:61:61 GMT",
        "",
        "\xe9",
    ],
    "If-None-Match": ["*", '"a"', 'W/"a"', '"', 'W/"', "\xe9", '"a","b"', ","],
    "If-Range": ['"a"', "Sun, 06 Nov 1994 08:49:37 GMT", "x"],
    "If-Unmodified-Since": ["Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 2094 08:49:37 GMT", "x", "0"],
    "Keep-Alive": ["timeout=5, max=1000", "x"],
    "Origin": ["http://localhost:3000", "null", "", "\xe9"],
    "Range": [
        "bytes=0-3",
        "bytes=-3",
        "bytes=2-",
        "bytes=0-0,2-2,4-",
        "bytes=99999999-",
        "bytes=5-1",
        "bytes=-0",
        "bytes=0-18446744073709551615",
        "bytes=18446744073709551615-",
        "bytes=-9223372036854775809",
        "bytes=+1-2",
        "bytes=1--2",
        "bytes",
        "bytes=x",
        "items=0-1",
        "bytes=" + "0-0," * 500 + "0-0",
        "\xe9",
    ],
    "Sec-WebSocket-Key": ["dGhlIHNhbXBsZSBub25jZQ==", "", "x"],
    "Sec-WebSocket-Version": ["13", "8", ""],
    "TE": ["trailers", "chunked", ""],
    "Trailer": ["X-Sum", "Content-Length"],
    "Upgrade": ["websocket", "h2c", "WebSocket", "TLS/1.0", "", "\xe9", "websocket, h2c"],
    "User-Agent": ["curl/8.5", "", "\xc3\xa9\xff"],
    "Via": ["1.1 proxy"],
    "X-Forwarded-For": ["1.2.3.4", "1.2.3.4, ::1", "\xe9", ",", "[::1]:80"],
    "X-Forwarded-Host": ["other", "", "\xe9"],
    "X-Forwarded-Proto": ["https", "\xe9", ","],
    "X-Value": ["a", "", "\xe9", "a\tb", "\xe2\x82\xac"],
    "X-Long": ["x" * 4000],
}
EMPTY_RANGES = ["", "bytes=", "bytes=,", "bytes= , ,"]
ODD_HEADERS = [
    "X-Control: \x01",
    "X-Nul: \x00",
    "X-Del: \x7f",
    "X Space: 1",
    "X-Space : 1",
    ": nameless",
    "no colon",
    " folded: 1",
    "\tfolded",
    "X-\xe9: 1",
    "X-Bare\rCR: 1",
    "X-Bare: a\rb",
    "X(): 1",
    "",
]
ODD_FRAMINGS = [
    "Content-Length: 5",
    "Content-Length: 0x5",
    "Content-Length: +5",
    "Content-Length: -1",
    "Content-Length: 5, 5",
    "Content-Length: 18446744073709551616",
    "Content-Length: 18446744073709551615",
    "Content-Length: ",
    "Content-Length: \xe9",
    "Content-Length:5\x0b",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: CHUNKED",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: \x0bchunked",
    "Transfer-Encoding: ",
    "Transfer-Encoding: \xe9",
    "Transfer-Encoding : chunked",
    "Transfer_Encoding: chunked",
]
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
JSON_ATOMS = [
    "null",
    "true",
    "0",
    "-0",
    "-1",
    "1.5",
    "1e400",
    "-1e-400",
    "18446744073709551616",
    "-9223372036854775809",
    "1" * 400,
    "0." + "3" * 400,
    "1E+2",
    "01",
    "+1",
    ".5",
    "NaN",
    "-Infinity",
    '""',
    '"a"',
    '"\\ud800"',
    '"\\udc00\\ud800"',
    '"\\ud83d\\ude00"',
    '"\\u0000"',
    '"\\x"',
    '"\x01"',
    '"\xe9"',
    '"\xc3\xa9"',
    '"\xed\xa0\x80"',
    '"unended',
    "'a'",
    "tru",
    "",
    "//",
    "\ufeff1".encode().decode("latin-1"),
]
JSON_KEYS = [
    "a",
    "name",
    "age",
    "x",
    "y",
    "headers",
    "cookies",
    "body",
    "path",
    "",
    "\\u0000",
    "\xe9",
    "__proto__",
]
MCP_METHODS = [
    "initialize",
    "tools/list",
    "tools/call",
    "resources/list",
    "resources/read",
    "prompts/get",
    "x",
]
FAULTS = ["chunks", "trailers", "boundaries", "ranges", "names"]
"""What is known to end Robyn, as far as the grammar makes it on purpose."""


class Grammar:
    """Makes cases; the same ones for the same ``seed``.

    ``without``: which of ``FAULTS`` it leaves out, so that something else is found behind them.
    """

    def __init__(self, seed: object, without: Sequence[str] = ()) -> None:
        self._random = Random(repr(seed))
        self._without = without

    def case(self) -> Case:
        """The next case."""
        count = self._weighted({1: 70, 2: 20, 3: 7, 6: 3})
        requests = [self._request(last=number == count - 1) for number in range(count)]
        data = b"".join(requests)
        if self._chance(0.05):
            data += UPGRADE + self._bytes(20)
        if self._chance(0.15) and not ("chunks" in self._without and b"chunked" in data.lower()):
            for _ in range(self._random.randint(1, 4)):
                data = self._mutated(data)
        end = self._weighted({End.CLOSE: 60, End.HALF: 30, End.RESET: 10})
        if end is not End.CLOSE and self._chance(0.4):
            data = data[: self._random.randint(0, len(data))]
        return Case(self._split(data), end)

    # -- choosing ------------------------------------------------------------------------------

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

    def _one(self, of: Sequence[T]) -> T:
        return self._random.choice(of)

    def _weighted(self, shares: dict[T, int]) -> T:
        return self._random.choices(list(shares), list(shares.values()))[0]

    def _bytes(self, most: int) -> bytes:
        return self._random.randbytes(self._random.randint(0, most))

    # -- a request -----------------------------------------------------------------------------

    def _request(self, last: bool) -> bytes:
        method = self._weighted({"GET": 45, "POST": 40, "PUT": 5, "HEAD": 3, "any": 5, "odd": 2})
        route_method = method
        if method == "any":
            method, route_method = self._one(METHODS), self._one(list(ROUTES))
        elif method == "odd":
            method, route_method = self._one(ODD_METHODS), self._one(list(ROUTES))
        target = self._target(route_method)
        version = "HTTP/1.1" if self._chance(0.95) else self._one(VERSIONS)
        fields = [] if self._chance(0.02) else ["Host: localhost"]
        for _ in range(self._weighted({0: 30, 1: 30, 2: 20, 4: 15, 8: 5})):
            fields.append(self._field())
        body = b""
        if route_method in ("POST", "PUT") or self._chance(0.1):
            framing, body = self._body(target)
            fields += framing
        if last and self._chance(0.7):
            fields.append("Connection: close")
        if self._chance(0.3):
            self._random.shuffle(fields)
        if self._chance(0.01):
            fields += [f"X-{number}: 1" for number in range(self._one([90, 100, 130, 2000]))]
        if self._chance(0.005) and "names" not in self._without:
            fields.append("N" * self._one([8000, 65535, 65536, 100_000]) + ": long name")
        if self._chance(0.005):
            fields.append("X-Long: " + "v" * self._one([8000, 65536, 131_072, 300_000]))
        line_end = "\r\n" if self._chance(0.98) else self._one(["\n", "\r", "\r\n\r\n", "\r\r\n"])
        head = line_end.join([f"{method} {target} {version}", *fields, "", ""])
        return head.encode("latin-1", "replace") + body

    def _target(self, method: str) -> str:
        path = self._one(ROUTES[method]) if self._chance(0.97) else self._one(RARELY)
        while "{}" in path:
            path = path.replace("{}", self._one(SEGMENTS), 1)
        if self._chance(0.06):
            path = self._odd_target(path)
        if self._chance(0.3):
            path += "?" + "&".join(self._one(QUERIES) for _ in range(self._random.randint(1, 3)))
        return path

    def _odd_target(self, path: str) -> str:
        kinds: list[Callable[[], str]] = [
            lambda: "http://localhost" + path,
            lambda: "https://user:pass@[::1]:80" + path,
            lambda: "http://[::1" + path,
            lambda: "http://" + path,
            lambda: "ftp:" + path,
            lambda: "*",
            lambda: "localhost:80",
            lambda: "",
            lambda: path.lstrip("/"),
            lambda: "/" + path,
            lambda: path + "/",
            lambda: path + "/" + "/".join(self._one(SEGMENTS) for _ in range(self._random.randint(1, 6))),
            lambda: path + "/../" * 5 + "etc/passwd",
            lambda: "/static/" + "/".join(self._one(SEGMENTS) for _ in range(3)),
            lambda: path + "#fragment",
            lambda: path.replace("/", "%2F"),
            lambda: path.upper(),
            lambda: path + "a" * self._one([3000, 8100, 60_000, 65_535, 70_000, 140_000]),
            lambda: path + "/a" * self._one([500, 30_000]),
            lambda: path + "?" + "a=1&" * self._one([500, 15_000]),
            lambda: "/" + self._bytes(20).decode("latin-1"),
        ]
        return self._one(kinds)()

    def _field(self) -> str:
        if self._chance(0.02):
            return self._one(ODD_HEADERS if self._chance(0.7) or "chunks" in self._without else ODD_FRAMINGS)
        if self._chance(0.02) and "ranges" not in self._without:
            return "Range: " + self._one(EMPTY_RANGES)
        name = self._one(list(HEADERS))
        value = self._one(HEADERS[name])
        if self._chance(0.1):
            name = self._one([name.lower(), name.upper(), name + "-x"])
        separator = ": " if self._chance(0.95) else self._one([":", ":\t ", ": \t", " : "])
        return f"{name}{separator}{value}"

    # -- its body ------------------------------------------------------------------------------

    def _body(self, target: str) -> tuple[list[str], bytes]:
        kinds: dict[Callable[[], tuple[list[str], bytes]], int] = {
            self._json: 30,
            self._multipart: 30,
            self._form: 10,
            self._raw: 20,
        }
        if target.startswith("/form"):
            kinds[self._multipart] = 200
        elif target.startswith(("/json", "/person", "/point", "/answer", "/mcp")):
            kinds[self._json] = 200
        fields, body = self._weighted(kinds)()
        if self._chance(0.02):
            fields.append("Content-Encoding: gzip")
            body = zlib.compress(body, wbits=31)[: self._one([None, 10, -1])]
        if self._chance(0.03):
            fields.append("Expect: 100-continue")
        return self._framed(fields, body)

    def _framed(self, fields: list[str], body: bytes) -> tuple[list[str], bytes]:
        how = self._weighted({"length": 60, "chunked": 25, "wrong length": 5, "nothing": 2, "odd": 8})
        if how == "odd" and "chunks" in self._without:
            how = "length"
        if how == "length":
            return [*fields, f"Content-Length: {len(body)}"], body
        if how == "wrong length":
            length = max(0, len(body) + self._one([-1, 1, -5, 5, 100, 10**6, 10**18]))
            return [*fields, f"Content-Length: {length}"], body
        if how == "nothing":
            return fields, body
        if how == "odd":
            fields += [self._one(ODD_FRAMINGS) for _ in range(self._random.randint(1, 2))]
        return [*fields, "Transfer-Encoding: chunked"][: len(fields) + (how == "chunked")], self._chunked(
            body
        )

    def _chunked(self, body: bytes) -> bytes:
        pieces = []
        while body:
            size = self._random.randint(1, self._one([1, 10, 1000, 100_000]))
            piece, body = body[:size], body[size:]
            pieces.append(self._chunk(piece))
        last = b"0\r\n" if self._chance(0.95) else self._one([b"000\r\n", b"0;a=b\r\n", b"0 \r\n"])
        trailer = b""
        if "trailers" not in self._without and self._chance(0.1):
            trailer = self._one(
                [b"X-Sum: 1\r\n", b"X-A: 1\r\nX-B: 2\r\n", b"Content-Length: 5\r\n", b"junk\r\n"]
            )
        end = b"\r\n"
        if "chunks" not in self._without and self._chance(0.04):
            end = self._one([b"", b"\n", b"\r", b"x"])
        return b"".join(pieces) + last + trailer + end

    def _chunk(self, piece: bytes) -> bytes:
        size = b"%x" % len(piece)
        line_end = behind = b"\r\n"
        if self._chance(0.1):
            size = self._one(
                [
                    size.upper(),
                    b"0" * 5 + size,
                    size + b";name=value",
                    size + b' ; name="v\xe9"',
                    size + b"  ",
                    size + b";" + b"x" * 5000,
                ]
            )
        if "chunks" not in self._without and self._chance(0.05):
            wrong = self._random.randint(0, 2)
            if wrong == 0:
                size = self._one(
                    [
                        b"",
                        b"x",
                        b"0x" + size,
                        b"+" + size,
                        b"-1",
                        b" " + size,
                        b"f" * 16,
                        b"f" * 17,
                        b"7" + b"f" * 15,
                        size + b" 1",
                        size + b";\x00",
                        size + b";\n",
                        size + b"g",
                    ]
                )
            elif wrong == 1:
                line_end = self._one([b"\n", b"\r", b"", b"\r\r\n", b"\n\r\n"])
            else:
                behind = self._one([b"", b"\n", b"\r", b"x\r\n", b"\r\n\r\n"])
        return size + line_end + piece + behind

    def _json(self) -> tuple[list[str], bytes]:
        if self._chance(0.03):
            text = self._one(["[", '{"a":', "[[],"]) * self._one([100, 127, 128, 129, 1000, 100_000])
            if self._chance(0.5):
                text += "1" + "".join({"[": "]", "{": "}"}.get(one, "") for one in reversed(text))
        elif self._chance(0.05):
            method = self._one(MCP_METHODS)
            text = json.dumps(
                {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"name": "add", "uri": "thing://x"}}
            )
        else:
            text = self._value(3)
        kind = "application/json" if self._chance(0.9) else self._one(HEADERS["Content-Type"])
        return [f"Content-Type: {kind}"], text.encode("latin-1", "replace")

    def _value(self, depth: int) -> str:
        kind = self._weighted({"object": 50, "array": 20, "atom": 30} if depth else {"atom": 1})
        if kind == "atom":
            return self._one(JSON_ATOMS[:15]) if self._chance(0.6) else self._one(JSON_ATOMS)
        count = self._weighted({0: 1, 1: 3, 2: 3, 5: 1})
        if kind == "array":
            return "[" + ",".join(self._value(depth - 1) for _ in range(count)) + "]"
        pairs = [f'"{self._one(JSON_KEYS)}":{self._value(depth - 1)}' for _ in range(count)]
        return "{" + ",".join(pairs) + self._weighted({"}": 97, ",}": 1, "": 1, "}}": 1})

    def _form(self) -> tuple[list[str], bytes]:
        body = "&".join(self._one(QUERIES) for _ in range(self._random.randint(0, 5)))
        return ["Content-Type: application/x-www-form-urlencoded"], body.encode("latin-1", "replace")

    def _raw(self) -> tuple[list[str], bytes]:
        body = self._one(
            [
                b"",
                b"hello",
                b"\xff\xfe\x00",
                "\u20ac".encode() * 50,
                self._random.randbytes(200),
                b"GET / HTTP/1.1\r\n\r\n",
                UPGRADE,
                b"x" * self._one([1000, 65_536, 70_000]),
            ]
        )
        if self._chance(0.01):
            body = bytes(self._one([500_000, 2_000_000]))
        return ([f"Content-Type: {self._one(HEADERS['Content-Type'])}"] if self._chance(0.5) else []), body

    def _multipart(self) -> tuple[list[str], bytes]:
        boundary = self._one(["bound", "----WebKitFormBoundary7MA4YWxkTrZu0gW", "a" * 70, "0123"])
        if self._chance(0.05) and "boundaries" not in self._without:
            boundary = self._one(["x", "xy", "xyz", "-", "--", ""])
        elif self._chance(0.03):
            boundary = self._one(["a b c d", "a" * 300, "bou\xe9nd", '"bound', "b=o;u,n", "----", "\r\n--"])
        given = self._weighted(
            {
                boundary: 85,
                f'"{boundary}"': 8,
                boundary + "; charset=utf-8": 2,
                boundary + " ": 1,
                boundary[:-1]: 0 if "boundaries" in self._without and len(boundary) < 5 else 1,
                "other; boundary=" + boundary: 1,
            }
        )
        kind = self._weighted({"multipart/form-data": 96, "multipart/mixed": 2, "Multipart/Form-Data": 2})
        field = f"Content-Type: {kind}; boundary={given}"
        delimiter = b"--" + boundary.encode("latin-1")
        body = (
            self._one([b"preamble\r\n", b"\r\n", b"\n", b"--\n", b"--\r\n", b"x"])
            if self._chance(0.08)
            else b""
        )
        for _ in range(self._weighted({0: 5, 1: 45, 2: 30, 5: 15, 60: 1})):
            body += self._part(delimiter)
        ends = {
            b"--\r\n": 80,
            b"--": 10,
            b"": 2,
            b"-": 1,
            b"--\r\nepilogue": 2,
            b"\r\n": 1,
            b"\n": 1,
            b"-- \r\n": 1,
        }
        body += delimiter + self._weighted(ends)
        if self._chance(0.05):
            body = body[: self._random.randint(0, len(body))]
        if self._chance(0.03):
            body = body.replace(b"\r\n", self._one([b"\n", b"\r", b"\n\r"]))
        return [field], body

    def _part(self, delimiter: bytes) -> bytes:
        disposition = self._weighted(
            {
                'form-data; name="field"': 35,
                'form-data; name="file"; filename="a.txt"': 30,
                "form-data; name=field": 3,
                'form-data; name=""': 2,
                'form-data; name="a\\"b"': 2,
                'form-data; name="a"; filename=""': 2,
                "form-data; name=\"a\"; filename*=UTF-8''%e2%82%ac": 2,
                "form-data; name=\"a\"; filename*=utf-16''%ff%": 2,
                'form-data; name="a"; filename*=x': 2,
                'form-data; name="a"; filename="../../etc/passwd"': 2,
                'form-data; name="a"; filename="\xe9\xff"': 2,
                'form-data; name="\xc3\xa9"; filename="\xe2\x82\xac"': 2,
                'form-data; name="a"; filename="a\x00b"': 1,
                'form-data; name="a"; filename="unended': 1,
                'form-data; name="a"; filename="\\': 1,
                "form-data": 2,
                'attachment; name="a"': 1,
                "form-data; =": 1,
                "form-data;" * 50: 1,
                'form-data; name="' + "n" * 5000 + '"': 1,
                "": 1,
                "\xe9": 1,
            }
        )
        fields = [f"Content-Disposition: {disposition}"] if self._chance(0.97) else []
        if self._chance(0.3):
            fields.append(
                "Content-Type: "
                + self._one(
                    ["text/plain", "application/octet-stream", "multipart/mixed; boundary=x", "\xe9", "/", ""]
                )
            )
        if self._chance(0.05):
            fields.append(
                "Content-Length: "
                + self._one(["1", "0", "5", "99999", "18446744073709551615", "-1", "x", ""])
            )
        if self._chance(0.02):
            fields += [f"X-{number}: 1" for number in range(self._one([5, 33, 100]))]
        if self._chance(0.02):
            fields.append(self._one(ODD_HEADERS))
        content = self._one(
            [
                b"",
                b"value",
                b"\xff\xfe",
                b"\r",
                b"\r\n",
                b"\r\r\r\r--",
                b"\r\n--",
                b"\r\n-",
                b"\r--" + delimiter,
                delimiter,
                b"\r\n" + delimiter[:-1],
                b"\n",
                self._random.randbytes(50),
                b"x" * self._one([10, 70_000]),
            ]
        )
        head = "\r\n".join([*fields, "", ""]).encode("latin-1", "replace")
        return delimiter + b"\r\n" + head + content + (b"\r\n" if self._chance(0.97) else b"")

    # -- bytes ---------------------------------------------------------------------------------

    def _mutated(self, data: bytes) -> bytes:
        if not data:
            return data
        start = self._random.randint(0, len(data))
        end = min(len(data), start + self._one([1, 1, 2, 4, 20, 200]))
        how = self._random.randint(0, 5)
        if how == 0:
            return data[:start] + data[end:]
        if how == 1:
            return data[:end] + data[start:end] + data[end:]
        if how == 2:
            return (
                data[:start]
                + self._one([b"\x00", b"\r", b"\n", b"\r\n", b"\xff", b" ", b":", b"%", b"/"])
                + data[start:]
            )
        if how == 3 and start < len(data):
            return data[:start] + bytes([data[start] ^ 1 << self._random.randint(0, 7)]) + data[start + 1 :]
        if how == 4:
            where = self._random.randint(0, len(data))
            return data[:where] + data[start:end] + data[where:]
        return data[:start] + self._random.randbytes(end - start) + data[end:]

    def _split(self, data: bytes) -> tuple[bytes, ...]:
        if self._chance(0.6) or len(data) < 2:
            return (data,)
        if self._chance(0.1) and len(data) < 400:
            return tuple(data[place : place + 1] for place in range(len(data)))
        cuts = sorted(self._random.randint(1, len(data) - 1) for _ in range(self._random.randint(1, 5)))
        edges = [0, *cuts, len(data)]
        return tuple(data[start:end] for start, end in pairwise(edges) if start < end)
