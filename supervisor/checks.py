"""Checks of the numbers that users give: each raises an error that names the option."""

from __future__ import annotations

import math
import sys
from enum import Enum, auto

from actors.seconds import check_seconds as check_seconds  # for every option, here and elsewhere

_MOST = sys.float_info.max
_LEAST_OVER_ZERO = math.ulp(0.0)


def check_rate(option: str, value: float | None) -> None:
    """Check how often in a second something may happen, or ``None``."""
    _check(option, value, "how many a second, more than zero", _LEAST_OVER_ZERO)


def check_count(option: str, value: int | None, *, least: int = 1, off: bool = True) -> None:
    """Check a whole number from ``least`` on; ``off`` allows ``None``."""
    _check(option, value, f"a whole number, at least {least}", least, off=off, whole=True)


def check_factor(option: str, value: float) -> None:
    """Check what something is multiplied with to grow."""
    _check(option, value, "a number, at least 1", 1, off=False)


def check_fraction(option: str, value: float) -> None:
    """Check a fraction from 0 to below 1."""
    wanted = "a fraction from 0 to below 1 (0.1 is plus or minus 10 %)"
    _check(option, value, wanted, 0, math.nextafter(1, 0), off=False)


def _check(
    option: str,
    value: object,
    wanted: str,
    least: float,
    most: float = _MOST,
    *,
    off: bool = True,
    whole: bool = False,
) -> None:
    """Raise ``TypeError`` or ``ValueError`` naming ``option`` unless ``value`` is a number within bounds."""
    if value is None and off:
        return
    problem = f"{option}: {wanted}{', or None to switch it off' if off else ''}, not {value!r}"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise TypeError(problem)
    if not least <= value <= most:  # so written, NaN is refused too
        raise ValueError(problem)


class NotGiven(Enum):
    """Says that an option was left open; ``None`` cannot, where ``None`` means something."""

    NOT_GIVEN = auto()


NOT_GIVEN = NotGiven.NOT_GIVEN
