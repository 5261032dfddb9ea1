"""Where an error was raised, without what was there: for errors that are kept.

A traceback knows its frames, and a frame every variable of its function: the message that a hook
crashed with, what the codec made of it, the actor.  Whoever keeps the error keeps them all, for as
long as a monitor, a ref or a closing handshake lasts, and an actor that knows its error is a cycle.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from types import CodeType, FrameType, FunctionType, TracebackType


def forget_frames(error: BaseException) -> None:
    """Give ``error``, and every error that it came of or consists of, a traceback of places alone.

    It prints as before.  The frames of the old one go when nobody else has them.
    """
    alone = error.__cause__ is None and error.__context__ is None  # as mostly
    for one in (error,) if alone and not isinstance(error, BaseExceptionGroup) else _family(error):
        entries = []
        traceback = one.__traceback__
        while traceback is not None:
            entries.append(traceback)
            traceback = traceback.tb_next
        while entries:
            entry = entries.pop()
            line = entry.tb_lineno
            frame, instruction = _frame(entry.tb_frame.f_code, entry.tb_lasti, line)
            traceback = TracebackType(traceback, frame, instruction, line)
        one.with_traceback(traceback)  # an attribute of a frozen dataclass cannot be set


def place_of(error: BaseException) -> str:
    """Give the place where ``error`` was raised, as ``file:line``; for a group that of its first leaf."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    traceback, place = error.__traceback__, ""
    while traceback is not None:
        place = f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place


def _family(error: BaseException) -> Iterator[BaseException]:
    """``error`` itself, its causes and contexts, and what groups among them consist of."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [other for other in (one.__cause__, one.__context__) if other is not None]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions


@lru_cache(maxsize=1024)
def _frame(code: CodeType, instruction: int, line: int) -> tuple[FrameType, int]:
    """A frame that is at ``instruction`` of ``code`` and holds nothing, and the instruction it is at.

    That of a generator which never runs: any other would know who called it.
    """
    place = _place(code, instruction, line)
    tree = ast.parse("def function():\n yield")
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt | ast.expr):
            node.lineno, node.end_lineno, node.col_offset, node.end_col_offset = place
    (made,) = (one for one in compile(tree, code.co_filename, "exec").co_consts if isinstance(one, CodeType))
    made = made.replace(co_name=code.co_name, co_qualname=code.co_qualname)
    frame: FrameType = FunctionType(made, {"__name__": code.co_name})().gi_frame
    positions = list(made.co_positions())
    return frame, 2 * positions.index(place) if place in positions else 0


def _place(code: CodeType, instruction: int, line: int) -> tuple[int, int, int, int]:
    """First and last line, first and last column."""
    positions = islice(code.co_positions(), instruction // 2, None)
    first, last, begin, end = next(positions, (None,) * 4)
    if first is None or last is None or begin is None or end is None or (first, begin) > (last, end):
        return line, line, 0, 0  # python -X no_debug_ranges
    return first, last, begin, end
