"""Where a task waits and a thread is at work, for the log."""

from __future__ import annotations

import asyncio
import sys
from types import CoroutineType, FrameType
from typing import Any


def innermost_frame(task: object) -> FrameType | None:
    """The frame in which a suspended asyncio or trio task waits."""
    awaited: Any = task.get_coro() if isinstance(task, asyncio.Task) else getattr(task, "coro", None)
    frame: FrameType | None = None
    while isinstance(awaited, CoroutineType):
        frame, awaited = awaited.cr_frame or frame, awaited.cr_await
    return frame


_RUNTIME = frozenset({"actors", "anyio", "asyncio", "contextlib", "supervisor", "threading", "trio"})


def _of_a_program(frame: FrameType) -> bool:
    """Tell whether ``frame`` belongs neither to the event loop nor to this library."""
    return frame.f_globals.get("__name__", "").partition(".")[0] not in _RUNTIME


def program_frame(task: object) -> FrameType | None:
    """The innermost frame of a suspended task that is the program's own; ``None`` when it has none."""
    frame: FrameType | None = None
    awaited: Any = task.get_coro() if isinstance(task, asyncio.Task) else getattr(task, "coro", None)
    while isinstance(awaited, CoroutineType):
        own = awaited.cr_frame
        if own is not None and _of_a_program(own):
            frame = own
        awaited = awaited.cr_await
    return frame


def waiting_frame(task: object) -> FrameType | None:
    """The frame of a suspended task that waits, as its author would look for it.

    The innermost one that belongs neither to the event loop nor to this library, where there is one.
    """
    return program_frame(task) or innermost_frame(task)


def running_frame(thread: int) -> FrameType | None:
    """The frame in which the thread with this ``threading.get_ident()`` runs, the program's own if any."""
    innermost = frame = sys._current_frames().get(thread)
    while frame is not None and not _of_a_program(frame):
        frame = frame.f_back
    return frame or innermost


def place(frame: FrameType | None) -> str:
    """Give the place of a frame: ``file:line in function``."""
    if frame is None:
        return "an unknown place"
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
