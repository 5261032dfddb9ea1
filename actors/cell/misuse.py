"""Mistakes in the class of an actor, told at the earliest moment: when the class is made, or a hook returns.

The rules of this file:

* Code that would never run is an error: a generator, a hook under another name, ``on_upgrade`` without a
  class method.  A method of a name that is no near miss of a hook's is the program's own.
* A value that nobody takes changes nothing, so it is logged, once for each class and hook.
* What can be awaited is awaited, whoever made it.
"""

from __future__ import annotations

import logging
from inspect import isasyncgenfunction, isawaitable, isgeneratorfunction
from types import AsyncGeneratorType, FunctionType, GeneratorType, NoneType
from typing import Any
from weakref import WeakKeyDictionary

from actors.ref import Closing

logger = logging.getLogger("actors")

_OF_EVERY_ACTOR = ("on_start", "on_restart", "on_info", "on_stop")
_OF_CONNECTIONS = ("on_upgrade", "on_connect", "on_message", "on_close")
_INSTEAD = {"on_start": "on_connect", "on_stop": "on_close"}
"""What runs on a connection in the place of a service's hook."""
NO_AWAITABLE = frozenset((bool, bytes, dict, float, int, list, str, tuple, NoneType))
"""Types of what hooks mostly return: ``taken`` has nothing to do with them."""
_said: WeakKeyDictionary[type, set[str]] = WeakKeyDictionary()


def check_class(actor: type, *, connection: bool) -> None:
    """Raise ``TypeError`` for what is defined in ``actor`` itself and would never run."""
    hooks = _OF_EVERY_ACTOR + _OF_CONNECTIONS if connection else _OF_EVERY_ACTOR
    for name, value in vars(actor).items():
        function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        where = f"{actor.__qualname__}.{name}"
        if name in hooks:
            _check_hook(name, where, value, function)
            if connection and name in _INSTEAD:
                raise TypeError(f"{where} never runs on a connection: {_INSTEAD[name]} does")
        elif callable(function) and name not in _OF_CONNECTIONS:
            meant = _meant(name, hooks)
            if meant is not None:
                raise TypeError(
                    f"{where} is no hook and never runs by itself: {meant} is one; a method of your own "
                    "needs a name that is not so near to a hook's"
                )


def _check_hook(name: str, where: str, value: object, function: object) -> None:
    if not callable(function) and not hasattr(function, "__get__"):  # a partialmethod, say
        raise TypeError(f"{where} is a hook: a plain or async function, not {value!r}")
    if isgeneratorfunction(function) or isasyncgenfunction(function):
        raise TypeError(
            f"{where} has a yield in it, which makes it a generator that nobody runs; a hook is a plain or "
            "async function (await self.send(message) sends one)"
        )
    if name == "on_upgrade" and isinstance(value, FunctionType):
        raise TypeError(f"{where} runs before there is an instance: put @classmethod above it")


def _meant(name: str, hooks: tuple[str, ...]) -> str | None:
    """The hook that ``name`` is a near miss of: another spelling, or one slip of the fingers, or two."""
    plain = name.lower().replace("_", "")
    apart = name[2:3] == "_" or name[2:3].isupper()
    if name[:2].lower() != "on" or not (apart or f"on_{plain[2:]}" in hooks):
        return None
    for hook in hooks:
        wanted, given = hook[3:], plain[2:]
        slips = _slips(given, wanted)
        if len(wanted) == len(given) == 4 and sorted(given) != sorted(wanted):
            continue  # of a short word another word is often one letter away: on_step is no on_stop
        if slips <= (1 if len(wanted) <= 5 else 2):
            return hook
    return None


def _slips(given: str, wanted: str) -> int:
    """Count the letters that are missing, too many, other ones, or swapped with their neighbour."""
    if abs(len(given) - len(wanted)) > 2:
        return 3
    before: list[int] = []
    row = list(range(len(wanted) + 1))
    for i, letter in enumerate(given, 1):
        last, row, previous = before, [i], row
        for j, other in enumerate(wanted, 1):
            best = min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == wanted[j - 2] and given[i - 2] == other:
                best = min(best, last[j - 2] + 1)
            row.append(best)
        before = previous
    return row[-1]


async def taken(result: Any) -> Any:
    """Await what a hook returned, if it can be; raises ``TypeError`` for a generator, which nobody runs."""
    if isinstance(result, Closing):  # no harm is done if it is never awaited
        return result
    if isawaitable(result):
        result = await result
    if isinstance(result, GeneratorType | AsyncGeneratorType):
        raise TypeError(
            f"a hook returned the generator {result.__qualname__}, which nobody runs; a hook is a plain or "
            "async function (await self.send(message) sends one)"
        )
    return result


async def take(actor: object, hook: str, result: Any) -> None:
    """Take what a hook returned whose result means nothing."""
    result = await taken(result)
    if result is not None and not isinstance(result, Closing):
        say_nobody_takes(actor, hook, result)


def say_nobody_takes(actor: object, hook: str, result: object) -> None:
    """Say that what ``hook`` returned is lost: once for each class and hook."""
    said = _said.setdefault(type(actor), set())
    if hook not in said:
        said.add(hook)
        logger.error(
            "%s.%s returned a %s, and nobody takes it: await self.send(message) sends one; a hook "
            "returns nothing (this is said once)",
            type(actor).__qualname__,
            hook,
            type(result).__qualname__,
        )
