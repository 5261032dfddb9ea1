"""permessage-deflate (RFC 7692) with bounds: what comes out of a small frame must not be huge.

The ``websockets`` package does the compression and stops at the size limit of a message; here small
windows keep the memory of a connection low, and a ratio bounds what a message may cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import Frame
from websockets.typing import ExtensionParameter

MAX_RATIO = 25
"""How much larger than its frame a large message may be."""
LARGE = 64 * 1024
"""Bytes from which the ratio counts: small messages repeat themselves and hurt nobody."""
WINDOW_BITS = 12


@final
class _Bounded(Extension):
    """Compresses and decompresses as ``inner`` does, within the ratio."""

    name = PerMessageDeflate.name

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        """Decompress a frame; raises ``PayloadTooBig`` for a bomb."""
        compressed = len(frame.data)
        bound = max(LARGE, compressed * MAX_RATIO)
        if max_size is None or bound < max_size:
            max_size = bound
        decoded: Frame = self._inner.decode(frame, max_size=max_size)
        return decoded

    def encode(self, frame: Frame) -> Frame:
        """Compress a frame."""
        encoded: Frame = self._inner.encode(frame)
        return encoded


@final
class BoundedDeflateFactory(ServerPerMessageDeflateFactory):
    """Negotiates permessage-deflate with small windows; what it makes is bounded."""

    def __init__(self) -> None:
        super().__init__(
            server_max_window_bits=WINDOW_BITS,
            client_max_window_bits=WINDOW_BITS,
            compress_settings={"memLevel": 5},
        )

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], Any]:
        """Answer a client's offer."""
        answer, inner = super().process_request_params(params, accepted_extensions)
        return answer, _Bounded(inner)
