"""Notices an event loop that stands still, and says in the log where.

A plain function that blocks holds up everything on its thread, also what would report it; so this
looks from a thread of its own, and only while something is to end.
"""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Self, final

from actors.backends import Backend
from actors.frames import place, running_frame

logger = logging.getLogger("supervisor")

STALLED_AFTER = 5.0
"""Seconds that the event loop has for a turn."""


@final
class StallWatch:
    """Watches the event loop of the calling thread: around a block, or from ``watch`` to ``end``."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._thread = threading.get_ident()
        self._over = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self.watch, name="stall watch", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """Look no more."""
        self._over.set()

    def watch(self) -> None:
        """Look until the end; the body of a thread."""
        turned = threading.Event()
        while True:
            turned.clear()
            try:
                self._backend.call_from_thread(turned.set)
            except RuntimeError:
                return
            if self._over.wait(STALLED_AFTER):
                return
            waited = STALLED_AFTER
            while not turned.is_set():
                logger.warning(
                    "the event loop stands still since %g s, in %s: nothing can end before that returns",
                    waited,
                    place(running_frame(self._thread)),
                )
                if self._over.wait(4 * STALLED_AFTER):
                    return
                waited += 4 * STALLED_AFTER
