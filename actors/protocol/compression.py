"""permessage-deflate (RFC 7692) with small windows, so that the memory of a connection stays low.

The ``websockets`` package does the compression and stops when more comes out than a message may have, over
all its fragments.  How much comes out of how little is not judged: an ordinary table compresses 28 to 1.
"""

from __future__ import annotations

from typing import final

from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

WINDOW_BITS = 12


@final
class BoundedDeflateFactory(ServerPerMessageDeflateFactory):
    """Negotiates permessage-deflate with small windows, or smaller ones where the client wants them."""

    def __init__(self) -> None:
        super().__init__(
            server_max_window_bits=WINDOW_BITS,
            client_max_window_bits=WINDOW_BITS,
            compress_settings={"memLevel": 5},
        )
