"""The parameters of a user's function: where each one's value comes from, and its conversion."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter
from types import NoneType, UnionType
from typing import Any, Union, final, get_args, get_origin, get_type_hints

from actors import Request
from actors.messages import CloseReport

logger = logging.getLogger("supervisor")
Dependencies = Mapping[str, Mapping[str, Any]]
_EVENTS: dict[str, tuple[str, ...]] = {
    "connect": ("ws",),
    "message": ("ws", "message"),
    "close": ("ws", "report"),
}
"""For each event what it gives to its function, by position."""
_Source = Callable[[Request, Dependencies], Any]
"""Where the value of a named argument comes from; raises ``_Unfit``."""


class _Unfit(Exception):
    """A connection does not have what a function names; the text is for the peer."""


@final
@dataclass(frozen=True, slots=True)
class _Function:
    """A registered function: how many arguments it takes by position, and what it names otherwise."""

    function: Callable[..., Any]
    positional: int
    named: Mapping[str, _Source]

    @property
    def plain(self) -> bool:
        """Tell whether it does its work when it is called, not when what it returns is awaited."""
        call = self.function if inspect.isroutine(self.function) else type(self.function).__call__
        return not inspect.iscoroutinefunction(inspect.unwrap(call))

    def call(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        """Call it for an event."""
        return self.function(*arguments[: self.positional], **keywords)


def _function(function: Callable[..., Any], event: str) -> _Function:
    """Look at a function; raises ``TypeError`` when it cannot be called for ``event``."""
    if not callable(function):
        raise TypeError(f"event: {event!r} needs a function, not {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"event: the function for {event!r} has a yield in it, which makes it a generator that nobody "
            "runs; ws.sync_send(message) and await ws.send(message) send one"
        )
    given = _EVENTS[event]
    try:
        signature = inspect.signature(function)
    except ValueError:  # a function of C that does not tell
        return _Function(function, len(given), {})
    parameters = list(signature.parameters.values())
    if any(one.kind is Parameter.VAR_POSITIONAL for one in parameters):
        positional = len(given)
    else:
        by_position = [one for one in parameters if one.kind in _BY_POSITION]
        positional = min(len(given), len(by_position))
        if event == "close" and positional == 2 and not _takes_report(by_position[1]):
            positional = 1
    named = [one for one in parameters[positional:] if one.kind in _BY_NAME]
    needed = 1 if event == "close" else len(given)
    unnamed = [one for one in parameters[positional:] if one.kind is Parameter.POSITIONAL_ONLY]
    if positional < needed or any(one.default is Parameter.empty for one in unnamed):
        raise TypeError(
            f"event: the function for {event!r} is called with ({', '.join(given)}) and what it names, "
            f"but it is {getattr(function, '__name__', function)}{signature}"
        )
    hints = _hints(function)
    sources = {one.name: _source(one, hints.get(one.name, one.annotation)) for one in named}
    return _Function(function, positional, sources)


_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def _takes_report(second: Parameter) -> bool:
    """Tell whether the second parameter of a function for ``"close"`` is the report."""
    told = second.annotation in (CloseReport, "CloseReport")
    return second.name == "report" or told or second.kind is Parameter.POSITIONAL_ONLY


def _hints(function: Callable[..., Any]) -> Mapping[str, Any]:
    """The annotations of a function; those that are text are looked up, where that is possible."""
    try:
        return get_type_hints(function)
    except Exception:  # whatever looking up a name raises
        return {}


def _source(parameter: Parameter, annotation: Any) -> _Source:
    name = parameter.name
    if name in ("global_dependencies", "router_dependencies"):
        return lambda request, dependencies: dependencies.get(name, {})
    if name == "query_params" or getattr(annotation, "__name__", None) == "QueryParams":
        return lambda request, dependencies: request.query_params
    default = parameter.default
    if get_origin(annotation) in (Union, UnionType) and NoneType in get_args(annotation):
        (annotation, *more) = (one for one in get_args(annotation) if one is not NoneType)
        default = None if default is Parameter.empty else default
        if more:
            annotation = None
    many = get_origin(annotation) is list or annotation is list
    if many:
        annotation = (*get_args(annotation), str)[0]
    convert = _CONVERSIONS.get(annotation, annotation)
    if not callable(convert) or get_origin(annotation) is not None:
        raise TypeError(f"parameter {name!r}: of {parameter.annotation!r} nothing can be made from text")
    value = _Value(name, convert, default, many)
    return lambda request, dependencies: value.of(request)


_WORDS = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off", ""), False),
}
_CONVERSIONS: Mapping[Any, Callable[[str], Any]] = {
    Parameter.empty: str,
    Any: str,
    bool: lambda text: _WORDS[text.lower()],
}


@final
@dataclass(frozen=True, slots=True)
class _Value:
    """A parameter of the path or the query; with ``many`` the list of all its values."""

    name: str
    convert: Callable[[str], Any]
    default: Any
    many: bool

    def of(self, request: Request) -> Any:
        """Find it in a request; raises ``_Unfit``."""
        found = request.query_params.get_all(self.name)
        if self.name in request.path_params:
            found = [request.path_params[self.name]]
        if found:
            return [self._of(text) for text in found] if self.many else self._of(found[-1])
        if self.default is Parameter.empty:
            raise _Unfit(f"missing parameter: {self.name}")
        return self.default

    def _of(self, text: str) -> Any:
        try:
            return self.convert(text)
        except Exception as error:  # whatever a conversion raises is about the text, which is the client's
            logger.debug("parameter %s: converting it failed", self.name, exc_info=error)
            raise _Unfit(f"parameter with a wrong value: {self.name}") from None
