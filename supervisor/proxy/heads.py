"""The head of a plain request, checked by RFC 9112, sections 3 to 6, before Robyn gets it; pure decisions.

Robyn reads some heads otherwise than we do, or takes what the RFC does not let a server take: a bare LF, two
Hosts, a length beside a transfer coding.  Such a head is refused; every other one is passed on as it came.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, final

from actors.protocol.fasthead import HOST
from actors.protocol.opening import MAX_FIELDS, MAX_HEAD, HandshakeRefused

_NAME = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]++"
_FIELDS = rb"(?:" + _NAME + rb":[\t\x20-\x7e\x80-\xff]*+\r\n)*+"  # RFC 9110, section 5
_HOST_VALUE = HOST.encode()

FIELDS = re.compile(_FIELDS)
"""Any number of field lines."""
_PLAIN = re.compile(rb"(?!CONNECT )" + _NAME + rb" /[!\"$-~]*+ HTTP/1\.1\r\n" + _FIELDS + rb"\r\n")
_PLAIN_HOST = re.compile(rb"\r\n[Hh]ost: " + _HOST_VALUE + rb"\r\n")

_REQUEST_LINE = re.compile(rb"(" + _NAME + rb") ([!-~]++) HTTP/([0-9])\.([0-9])\r\n")
_TARGET = re.compile(rb"/[^#]*|https?://[^/?#]+(?:[/?][^#]*)?", re.IGNORECASE)
_HOST = re.compile(_HOST_VALUE)
_TOLD = re.compile(
    rb"\r\n(host|content-length|transfer-encoding|connection|upgrade|expect|range|content-type):"
    rb"[\t ]*([^\r]*?)[\t ]*(?=\r)",
    re.IGNORECASE,
)
_RANGE = re.compile(rb"[!-~]+?=.*[^\t ,].*")
_PARAMETER = rb"[\t ]*;[\t ]*(" + _NAME + rb")=(" + _NAME + rb"|\"[\t !#-\[\]-~]*+\")"
_PARAMETERS = re.compile(_PARAMETER)
_MEDIA_TYPE = re.compile(_NAME + rb"/" + _NAME + rb"(?:" + _PARAMETER + rb")*+")
_BOUNDARY = re.compile(rb"[!-~][ -~]{2,}[!-~]")
_HOP_BY_HOP = re.compile(rb"\r\n(?:connection|upgrade|http2-settings):[^\r]*(?=\r)", re.IGNORECASE)


@final
class Head(NamedTuple):
    """A head that may be passed on, and what comes behind it."""

    data: bytes
    length: int | None
    """Bytes of the body; ``None`` for a chunked one."""
    last: bool
    """Whether it is the last one of its connection."""


def is_plain(data: bytes) -> bool:
    """Tell whether ``data`` is the head of one request without a body, and no more, as mostly.

    ``read_head`` would pass it on as it is, and not as the last one.
    """
    if _PLAIN.fullmatch(data) is None or _PLAIN_HOST.search(data) is None or len(data) > MAX_HEAD:
        return False
    text = data.lower()
    if text.count(b"\r\nhost:") != 1 or text.count(b"\r\n") > MAX_FIELDS + 2:
        return False
    if b"content-length" in text or b"transfer-encoding" in text or b"expect" in text or b"close" in text:
        return False
    if b"\r\nrange:" in text or b"multipart/form-data" in text:
        return False
    # What every browser sends with what it navigates to is no upgrade.
    return b"upgrade" not in text or text.count(b"upgrade") == text.count(b"\r\nupgrade-insecure-requests:")


def read_head(data: bytes) -> Head:
    """Check the head of a request, with its empty line; raises ``HandshakeRefused``."""
    line = _REQUEST_LINE.match(data)
    if line is None:
        raise HandshakeRefused(400, "the first line of the request is malformed")
    method, target = line[1], line[2]
    minor = int(line[4])
    if line[3] != b"1" or minor > 1:
        raise HandshakeRefused(505, "the version of HTTP is 1.0 or 1.1 here")
    fields_end = FIELDS.match(data, line.end())
    if fields_end is None or data[fields_end.end() :] != b"\r\n":
        raise HandshakeRefused(400, "a header field of the request is malformed")
    if data.count(b"\r\n") > MAX_FIELDS + 2:
        raise HandshakeRefused(431, f"the request has more than {MAX_FIELDS} header fields")
    if method == b"CONNECT":
        raise HandshakeRefused(501, "CONNECT is for proxies")
    if _TARGET.fullmatch(target) is None and (method, target) != (b"OPTIONS", b"*"):
        raise HandshakeRefused(400, "the target of the request is neither a path nor a URL")
    told: dict[bytes, list[bytes]] = {}
    for name, value in _TOLD.findall(data, line.end() - 2):
        told.setdefault(name.lower(), []).append(value)
    _check_host(told.get(b"host", []), minor)
    if any(value.lower() != b"100-continue" for value in told.get(b"expect", [])):
        raise HandshakeRefused(417, "Expect: 100-continue is the only one known")
    if b"range" in told:
        _check_ranges(told[b"range"])
    types = told.get(b"content-type", ())
    for value in types:
        if b"multipart/form-data" in value.lower():
            _check_multipart(types)
    length = _length(told, minor)
    options = [
        option.strip().lower() for value in told.get(b"connection", []) for option in value.split(b",")
    ]
    last = b"close" in options or (minor == 0 and b"keep-alive" not in options)
    if b"upgrade" in told or b"upgrade" in options:
        data = _without_upgrade(data, options)
    return Head(data, length, last)


def _check_host(hosts: list[bytes], minor: int) -> None:
    """RFC 9112, section 3.2."""
    if len(hosts) > 1 or (not hosts and minor):
        raise HandshakeRefused(400, "a request has one Host")
    if hosts and _HOST.fullmatch(hosts[0]) is None:
        raise HandshakeRefused(400, "the Host of the request is malformed")


def _length(told: dict[bytes, list[bytes]], minor: int) -> int | None:
    """The length of the body (RFC 9112, section 6.3)."""
    lengths, codings = told.get(b"content-length", []), told.get(b"transfer-encoding", [])
    if not codings and not lengths:
        return 0
    if len(codings) + len(lengths) > 1:
        raise HandshakeRefused(400, "the length of the body is told more than once")
    if lengths:
        if not lengths[0].isdigit() or len(lengths[0]) > 15:
            raise HandshakeRefused(400, "the Content-Length of the request is malformed")
        return int(lengths[0])
    if not minor:
        raise HandshakeRefused(400, "a request of version 1.0 has no Transfer-Encoding")
    if codings[0].lower() != b"chunked":
        raise HandshakeRefused(501, "chunked is the only Transfer-Encoding known")
    return None


def _check_ranges(values: list[bytes]) -> None:
    """RFC 9110, section 14.2.  Robyn's process ends when it serves a file and there is no range in it."""
    if any(_RANGE.fullmatch(value) is None for value in values):
        raise HandshakeRefused(400, "the Range of the request is malformed")


def _check_multipart(values: Sequence[bytes]) -> None:
    """RFC 7578, section 4.1.  Robyn's process ends of some bodies whose boundary is shorter than 4 bytes.

    It looks for the type in the last field, and for the boundary in the first one.
    """
    if len(values) > 1 or _MEDIA_TYPE.fullmatch(values[0]) is None:
        raise HandshakeRefused(400, "the Content-Type of the request is malformed")
    boundaries = [value for name, value in _PARAMETERS.findall(values[0]) if name.lower() == b"boundary"]
    if len(boundaries) > 1 or any(_BOUNDARY.fullmatch(value.strip(b'"')) is None for value in boundaries):
        raise HandshakeRefused(400, "the boundary of a multipart body has 4 bytes at least here")


def _without_upgrade(data: bytes, options: list[bytes]) -> bytes:
    """Leave out what asks for an upgrade, which no one is here for (RFC 9110, section 7.8).

    Robyn takes what is behind such a request for its body, and the fields are no business of its.
    """
    data = _HOP_BY_HOP.sub(b"", data[:-2])
    kept = [option for option in options if option not in (b"", b"upgrade", b"http2-settings")]
    return data + (b"Connection: %b\r\n\r\n" % b", ".join(kept) if kept else b"\r\n")
