"""The fast lane of the opening handshake: a plain head read, and its 101 written, without the protocol.

The rules of this file:

* A head is plain when it is what browsers and common clients send, every field once, and asks for nothing
  that is negotiated.  Any other one is left to the protocol, which knows what to do about it.
* What the protocol would say to a plain head is 101, with exactly the fields of ``switching``.
"""

from __future__ import annotations

import re
import time
from email.utils import formatdate
from functools import lru_cache

from websockets.http11 import MAX_LINE_LENGTH, MAX_NUM_HEADERS
from websockets.utils import accept_key

_HEAD = re.compile(
    rb"GET (/[\x21-\x7e]*) HTTP/1\.1\r\n"
    rb"((?:[-!#$%&'*+.^_`|~0-9a-zA-Z]+:[\t\x20-\x7e\x80-\xff]*\r\n)+)\r\n"  # RFC 9110, section 5
)
_FIELD = re.compile(r"([^:]+):[\t ]*([^\r]*)\r\n")
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")  # 16 bytes (RFC 6455, section 4.1)
HOST = r"(?:\[[0-9A-Fa-f:.]++\]|[-A-Za-z0-9._~%!$&'()*+,;=]*+)(?::[0-9]*+)?"
"""A host, and perhaps a port (RFC 3986, section 3.2.2)."""
_HOST = re.compile(HOST)
_UPGRADE = frozenset({"websocket", "WebSocket"})
_CONNECTION = frozenset({"Upgrade", "upgrade", "keep-alive, Upgrade", "Keep-Alive, Upgrade"})
_NOT_PLAIN = frozenset({"content-length", "sec-websocket-protocol", "transfer-encoding"})


def read_plain_head(head: bytes) -> tuple[str, dict[str, str], str] | None:
    """Read the head of an upgrade, up to its empty line; ``None`` when it is not plain.

    Gives the target, the values of the fields by their names in small letters, and the key.
    """
    found = _HEAD.fullmatch(head) if len(head) <= MAX_LINE_LENGTH else None
    if found is None:
        return None
    target, lines = found.groups()
    fields = _FIELD.findall(lines.decode("latin-1"))
    values = {name.lower(): value.rstrip(" \t") for name, value in fields}
    key = values.get("sec-websocket-key", "")
    plain = (
        len(fields) == len(values) <= MAX_NUM_HEADERS
        and values.get("upgrade") in _UPGRADE
        and values.get("connection") in _CONNECTION
        and values.get("sec-websocket-version") == "13"
        and _KEY.fullmatch(key) is not None
        and is_host(values.get("host", "/"))  # "/" is none
        and _NOT_PLAIN.isdisjoint(values)
    )
    return (target.decode("ascii"), values, key) if plain else None


def switching(key: str) -> bytes:
    """The 101 response that answers a plain head."""
    return (
        f"HTTP/1.1 101 Switching Protocols\r\nDate: {_date(int(time.time()))}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Accept: {accept_key(key)}\r\n\r\n"
    ).encode("ascii")


@lru_cache(maxsize=64)  # a server has few names
def is_host(value: str) -> bool:
    """Tell whether ``value`` fits a ``Host`` field: a host, perhaps with a port (RFC 9110, section 7.2)."""
    return _HOST.fullmatch(value) is not None


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
