"""Durations that somebody gives: checked where they are given, before anything happens."""

from __future__ import annotations

import math


def check_seconds(option: str, value: float | None, *, zero: bool = False, off: bool = True) -> None:
    """Check finite seconds over 0; ``zero`` allows 0 too, ``off`` allows ``None``.

    Raises ``TypeError`` or ``ValueError`` that names ``option``.
    """
    if type(value) is float and 0.0 < value < math.inf:  # as mostly
        return
    if value is None and off:
        return
    least = "zero or more" if zero else "more than zero"
    problem = f"{option}: seconds, {least}{', or None to switch it off' if off else ''}, not {value!r}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(problem)
    try:
        fits = 0 < float(value) < math.inf or (zero and value == 0)  # so written, NaN is refused too
    except OverflowError:  # of an int with hundreds of digits
        fits = False
    if not fits:
        raise ValueError(problem)
