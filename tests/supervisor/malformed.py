"""Requests that the pipe does not pass on, by what is wrong with them, with the status that they get.

Robyn ends its process at some of them, and takes others otherwise than it should.
"""

from __future__ import annotations

from tests.supervisor.sites import GET

HOST = b"Host: x\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def head(*fields: bytes, line: bytes = b"POST / HTTP/1.1") -> bytes:
    """Make a head with a Host and ``fields``."""
    return b"\r\n".join([line, b"Host: x", *fields, b"", b""])


REFUSED = {
    "an old version": (b"GET /\r\n\r\n", 400),
    "a new version": (head(line=b"PRI * HTTP/2.0"), 505),
    "a version of nobody": (head(line=b"GET / HTTP/1.2"), 505),
    "no version": (head(line=b"GET / HTP/1.1"), 400),
    "a space in the target": (head(line=b"GET /a b HTTP/1.1"), 400),
    "two spaces": (head(line=b"GET  / HTTP/1.1"), 400),
    "a fragment": (head(line=b"GET /a#b HTTP/1.1"), 400),
    "letters that are not ASCII": (head(line=b"GET /\xc3\xa9 HTTP/1.1"), 400),
    "a control character in the target": (head(line=b"GET /\x7f HTTP/1.1"), 400),
    "a target without a path": (head(line=b"GET index HTTP/1.1"), 400),
    "an asterisk": (head(line=b"GET * HTTP/1.1"), 400),
    "another scheme": (head(line=b"GET ftp://x/ HTTP/1.1"), 400),
    "CONNECT": (head(line=b"CONNECT x:443 HTTP/1.1"), 501),
    "CONNECT to a path": (head(line=b"CONNECT /x HTTP/1.1"), 501),
    "bare LF": (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    "one bare LF": (b"GET / HTTP/1.1\r\nHost: x\nX: y\r\n\r\n", 400),
    "LF CR LF": (b"GET / HTTP/1.1\r\nHost: x\n\r\n\r\n", 400),
    "bare CR": (head(b"X: a\rb"), 400),
    "CR CR LF": (head(b"X: a\r"), 400),
    "a leading LF": (b"\n" + GET, 400),
    "a space before the colon": (head(b"X : y"), 400),
    "a field without a colon": (head(b"X"), 400),
    "a field without a name": (head(b": y"), 400),
    "obs-fold": (head(b"X: y", b" z"), 400),
    "obs-fold at the begin": (b"GET / HTTP/1.1\r\n Host: x\r\nHost: x\r\n\r\n", 400),
    "obs-fold with a tab": (head(b"Content-Length:", b"\t5"), 400),
    "a NUL": (head(b"X: \x00"), 400),
    "a control character": (head(b"X: \x0b"), 400),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (head(b"Host: x"), 400),
    "two Hosts of HTTP/1.0": (head(b"host: x", line=b"GET / HTTP/1.0"), 400),
    "a Host with a user": (b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
    "a Host with a path": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "a list of Hosts": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "another Expect": (head(b"Expect: more"), 417),
    "a signed length": (head(b"Content-Length: +5"), 400),
    "a negative length": (head(b"Content-Length: -5"), 400),
    "a hexadecimal length": (head(b"Content-Length: 0x5"), 400),
    "a length that is no number": (head(b"Content-Length: five"), 400),
    "an empty length": (head(b"Content-Length: "), 400),
    "a huge length": (head(b"Content-Length: 1000000000000000"), 400),
    "the same length twice": (head(b"Content-Length: 5", b"Content-Length: 5"), 400),
    "two lengths": (head(b"Content-Length: 5", b"content-length: 6"), 400),
    "a list of lengths": (head(b"Content-Length: 5, 5"), 400),
    "CL.TE": (head(b"Content-Length: 6", b"Transfer-Encoding: chunked") + b"0\r\n\r\nG", 400),
    "TE.CL": (head(b"Transfer-Encoding: chunked", b"Content-Length: 4") + b"5c\r\nGET", 400),
    "TE.TE": (head(b"Transfer-Encoding: chunked", b"Transfer-encoding: cow"), 400),
    "TE.TE, the same": (head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 400),
    "TE of HTTP/1.0": (head(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0"), 400),
    "xchunked": (head(b"Transfer-Encoding: xchunked"), 501),
    "gzip, chunked": (head(b"Transfer-Encoding: gzip, chunked"), 501),
    "chunked, chunked": (head(b"Transfer-Encoding: chunked, chunked"), 501),
    "identity": (head(b"Transfer-Encoding: identity"), 501),
    "chunked in quotes": (head(b'Transfer-Encoding: "chunked"'), 501),
    "chunked behind a vertical tab": (head(b"Transfer-Encoding: \x0bchunked"), 400),
    "a coding behind an underscore": (head(b"Transfer_Encoding: chunked", b"Content-Length: x"), 400),
    "a folded coding": (head(b"Transfer-Encoding:", b" chunked"), 400),
    "a coding behind a space": (head(b"Transfer-Encoding : chunked"), 400),
    "no size": (CHUNKED + b"\r\n", 400),
    "a size of another base": (CHUNKED + b"0x5\r\nhello\r\n", 400),
    "a negative size": (CHUNKED + b"-5\r\n", 400),
    "no number": (CHUNKED + b"xyz\r\n", 400),
    "a size over 64 bits": (CHUNKED + b"10000000000000005\r\nhello\r\n", 400),
    "a size of 16 digits": (CHUNKED + b"0000000000000005\r\nhello\r\n", 400),
    "a size and a space": (CHUNKED + b"5 \r\nhello\r\n", 400),
    "a space and a size": (CHUNKED + b" 5\r\nhello\r\n", 400),
    "a size and LF": (CHUNKED + b"5\nhello\r\n", 400),
    "a size, an extension and LF": (CHUNKED + b"5;a=b\nhello\r\n", 400),
    "a control character in an extension": (CHUNKED + b"5;a=\x01\r\nhello\r\n", 400),
    "a long extension": (CHUNKED + b"5;" + b"a" * 5000 + b"\r\n", 400),
    "an endless extension": (CHUNKED + b"5;" + b"a" * 5000, 400),
    "no CRLF behind a chunk": (CHUNKED + b"5\r\nhello0\r\n\r\n", 400),
    "LF behind a chunk": (CHUNKED + b"5\r\nhello\n0\r\n\r\n", 400),
    "a chunk that is too long": (CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n", 400),
    "a folded trailer": (CHUNKED + b"0\r\nX: y\r\n z\r\n\r\n", 400),
    "a trailer without a colon": (CHUNKED + b"0\r\nGET / HTTP/1.1\r\n\r\n", 400),
    "a trailer with LF": (CHUNKED + b"0\r\nX: y\n\r\n", 400),
    "too many trailers": (CHUNKED + b"0\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
    "too many fields": (head(*[b"X: y"] * 100), 431),
    "a head that is too long": (head(*[b"X: " + b"y" * 1000] * 33), 431),
    "an endless head": (b"GET / HTTP/1.1\r\nX: " + b"y" * 33_000, 431),
    "an endless target": (b"GET /" + b"y" * 33_000, 414),
    "a body that is too long": (head(b"Content-Length: 1001"), 413),
    "a chunk that makes it too long": (CHUNKED + b"3e8\r\n" + b"x" * 1000 + b"\r\n1\r\nx\r\n", 413),
}
"""With a bound of 1000 bytes for a body."""
