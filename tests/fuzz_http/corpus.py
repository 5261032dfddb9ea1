"""What once ended Robyn's process, or hung it, by name; each is replayed by the tests.

The comments say where Robyn 0.88, or what it is made of, panics.  The same bytes to Robyn alone end it today.
"""

from __future__ import annotations

from tests.fuzz_http.cases import Case, End

CHUNKED = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
FILE = b"GET /static/page.html HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


def multipart(content_type: bytes, body: bytes) -> bytes:
    """Make a request whose fields of the content type are ``content_type``."""
    length = b"Content-Length: %d" % len(body)
    return b"\r\n".join([b"POST /echo HTTP/1.1", b"Host: x", content_type, length, b"", body])


FORM = b"Content-Type: multipart/form-data; boundary="

ENDED: dict[str, Case] = {
    # Robyn expects that a chunk can always be read (src/types/request.rs, line 165).
    "a trailer": Case((CHUNKED + b"5\r\nhello\r\n0\r\nX-Trailer: y\r\n\r\n",)),
    "a size that is no number": Case((CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n",)),
    "no size": Case((CHUNKED + b"\r\nhello\r\n0\r\n\r\n",)),
    "a size of another base": Case((CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",)),
    "a size over 64 bits": Case((CHUNKED + b"f" * 17 + b"\r\nhello\r\n0\r\n\r\n",)),
    "no CRLF behind a chunk": Case((CHUNKED + b"5\r\nhelloX0\r\n\r\n",)),
    "LF behind sizes and chunks": Case((CHUNKED + b"5\nhello\n0\n\n",)),
    "a control character in an extension": Case((CHUNKED + b"5;a=\x01\r\nhello\r\n0\r\n\r\n",)),
    "a bad size in a piece of its own": Case((CHUNKED, b"5\r\nhel", b"lo\r\n", b"z", b"z\r\n"), End.HALF),
    "a bad size, then a reset": Case((CHUNKED + b"5\r\nhello\r\nzz\r\n",), End.RESET),
    "bare LF all through, and a bad size": Case(
        (b"POST & HTTP/1.1\nn:\nTransfer-Encoding:chunked\nt:\n\nX",),
    ),
    # The file server takes the first range of what may be none (actix-files 0.6.6, named.rs, line 534).
    "an empty Range": Case((FILE + b"Range: \r\n\r\n",)),
    "a Range without a range": Case((FILE + b"Range: bytes=\r\n\r\n",)),
    "a Range of commas": Case((FILE + b"Range: bytes= , ,\r\n\r\n",)),
    "a second Range behind an empty one": Case((FILE + b"Range: bytes=,\r\nRange: bytes=0-1\r\n\r\n",)),
    # A name may be too long for what it is made into (actix-http 3.11.0, decoder.rs, line 92).
    "a field whose name has 64 KiB": Case(
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a" * 65536 + b": 1\r\n\r\n",)
    ),
    # The parser of multipart cuts four bytes from lines it knows to be as long as the boundary
    # (actix-multipart 0.6.2, server.rs, line 225).
    "LF before a boundary of one byte": Case((multipart(FORM + b"x", b"\n"),)),
    "two dashes before a boundary of three": Case((multipart(FORM + b"xyz", b"--\n"),)),
    "a short boundary in quotes": Case((multipart(FORM + b'"x"', b"\n"),)),
    "a short boundary in capitals": Case(
        (multipart(b"content-type: multipart/form-data;BOUNDARY=x", b"\n"),)
    ),
    "a short boundary and another one": Case((multipart(FORM + b"x; boundary=long-enough", b"\n"),)),
    "a short boundary of another type": Case(
        (multipart(b"Content-Type: text/plain; boundary=x\r\n" + FORM + b"long-enough", b"\n"),),
    ),
    "a short boundary and a chunked body": Case(
        (
            b"GET /nowhere HTTP/1.1\r\nHost: x\r\n" + FORM + b"x\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"1\r\n\n\r\n0\r\n\r\n",
        ),
    ),
    "a short boundary and CONNECT": Case(
        (b"CONNECT /echo HTTP/1.1\r\nHost: x\r\n" + FORM + b"x\r\n\r\n\n",),
    ),
    "a short boundary and an upgrade": Case(
        (
            b"GET /echo HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
            + FORM
            + b"x\r\n\r\n\n",
        ),
    ),
}
