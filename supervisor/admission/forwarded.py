"""What proxies tell about a request: ``Forwarded`` (RFC 7239) and the ``X-Forwarded`` fields; pure.

The rules of this file:

* ``Forwarded`` is read by the grammar of RFC 7239, sections 4 and 6; white space around ``;`` is let pass,
  which is all that is.  A field line is read as a whole or not at all: one that is not of the grammar is a
  hop that tells nothing, since what a proxy wrote into it cannot be told from what its client did.
* A hop that tells no address (``unknown``, ``_hidden``, nothing, nonsense) is kept as one that tells none:
  what stands in front of it may be anybody's.
* ``X-Forwarded-For`` has no quotes: addresses and commas, with or without ports.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

from actors.request import Headers

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_HOPS = 100
"""Hops of one field line; a line with more tells nothing."""
_LONGEST_ADDRESS = 64

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # RFC 9110, section 5.6.2
_QUOTED = r'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'  # section 5.6.4
_PAIR = re.compile(rf"[ \t]*(?:({_TOKEN})=({_TOKEN}|{_QUOTED})[ \t]*)?(,|;|\Z)")
_ESCAPED = re.compile(r"\\(.)")
_OBFUSCATED = r"_[0-9A-Za-z._\-]+"
_NODE = re.compile(
    rf"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)|unknown|{_OBFUSCATED})(?::(?:[0-9]{{1,5}}|{_OBFUSCATED}))?",
    re.IGNORECASE,
)


def forwarded_for(headers: Headers) -> list[list[IPAddress | None]]:
    """The hops that each field tells, the client first; a field that is not there tells nothing."""
    chains = []
    if lines := headers.get_all("Forwarded"):
        chains.append([_node(element.get("for", "")) for line in lines for element in _elements(line)])
    if lines := headers.get_all("X-Forwarded-For"):
        chains.append([_listed(one.strip()) for line in lines for one in line.split(",")])
    return chains


def forwarded_hosts(headers: Headers) -> list[str]:
    """The hosts that were asked for, as the proxies tell them."""
    hosts = [one.strip() for line in headers.get_all("X-Forwarded-Host") for one in line.split(",")]
    for line in headers.get_all("Forwarded"):
        hosts += [element["host"] for element in _elements(line) if "host" in element]
    return hosts


def _elements(line: str) -> list[dict[str, str]]:
    """The elements of one line of ``Forwarded``; a single empty one where it is not of the grammar."""
    elements: list[dict[str, str]] = [{}]
    at = 0
    while (pair := _PAIR.match(line, at)) is not None:
        name, value, end = pair.groups()
        if name is not None:
            name = name.lower()
            if name in elements[-1]:  # RFC 7239, section 4: not more than once
                break
            elements[-1][name] = _ESCAPED.sub(r"\1", value[1:-1]) if value.startswith('"') else value
        if not end:
            return elements
        if end == ",":
            elements.append({})
            if len(elements) > MAX_HOPS:
                break
        at = pair.end()
    return [{}]


def _node(text: str) -> IPAddress | None:
    """The address of a node (RFC 7239, section 6), which may have a port; an IPv6 one stands in brackets."""
    node = _NODE.fullmatch(text)
    if node is None:
        return None
    bracketed, plain = node.groups()
    address = address_of(bracketed or plain or "")
    return None if address is None or (bracketed and ":" not in bracketed) else address


def _listed(text: str) -> IPAddress | None:
    """An address as ``X-Forwarded-For`` has them: also an IPv6 one without brackets."""
    return _node(text) or (address_of(text) if text.count(":") > 1 else None)


def address_of(text: str) -> IPAddress | None:
    """The address that ``text`` is; an IPv4 one that is mapped into IPv6 is that IPv4 one."""
    return _address_of(text) if len(text) <= _LONGEST_ADDRESS else None


@lru_cache(maxsize=1024)  # a client comes again and again, and parsing costs as much as a whole echo
def _address_of(text: str) -> IPAddress | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped
