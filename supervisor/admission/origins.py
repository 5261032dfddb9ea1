"""Origins of pages (RFC 6454), and whether one belongs to the host that is asked."""

from __future__ import annotations

from urllib.parse import urlsplit

_USUAL_PORTS = {"http": 80, "https": 443}


def _origin_of(text: str) -> tuple[str, str, int | None] | None:
    """Scheme, host and port of a serialized origin (RFC 6454, section 6.2); ``null`` is none."""
    try:
        url = urlsplit(text)
        if not url.hostname or text.partition("://")[2] != url.netloc or "@" in url.netloc:
            return None
        return url.scheme, url.hostname, url.port or _USUAL_PORTS.get(url.scheme)
    except ValueError:
        return None


def _same_host(origin: str, host: str) -> bool:
    """Tell whether ``origin`` is a page of this ``host``; ``null`` is nobody's."""
    page = _origin_of(origin)
    return page is not None and page == _origin_of(f"{page[0]}://{host}")
