"""Codecs: between what the wire carries and what ``on_message`` and ``send`` see.

The wire carries ``str`` for a text message and ``bytes`` for a binary one (RFC 6455, section 5.6).
The rules of this file:

- ``decode`` gets what a stranger sent.  It returns a value or raises a ``PayloadRefused``, nothing
  else, in time and memory in proportion to the payload.
- The text of a ``PayloadRefused`` becomes the reason of the Close frame: at most 123 bytes of UTF-8
  (RFC 6455, section 5.5), and never a part of the payload.
- ``encode`` gets what the program sends.  A ``TypeError`` or ``ValueError`` that names the codec
  tells the programmer what is wrong.  The limits of a codec are for ``decode`` only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NoReturn, Protocol, final

import msgpack

from actors.errors import InvalidData, PayloadTooBig, UnsupportedData

_MAX_SIZE: Final = 1_048_576
_MAX_DEPTH: Final = 64

# What the parsers make of arrays and of objects or maps: these very types.
_CONTAINERS: Final = frozenset((list, dict))


class Codec(Protocol):
    """An object that the ``codec`` option takes: anything with these three members.

    A codec is shared by all connections and called in all of their tasks, so it keeps no state.
    """

    @property
    def name(self) -> str:
        """Return the word for this codec in errors and logs."""

    def encode(self, message: object) -> str | bytes:
        """Return what to send for ``message``: ``str`` for a text message, ``bytes`` for a binary one.

        Raises ``TypeError`` or ``ValueError`` if ``message`` cannot be sent; ``send`` passes it on.
        """

    def decode(self, data: str | bytes) -> object:
        """Return what ``on_message`` gets for a text message (``str``) or a binary one (``bytes``).

        Raises ``PayloadRefused`` or a subclass to close the connection: its ``code`` is the code of
        the Close frame and its text the reason, so at most 123 bytes of UTF-8.
        """


@final
@dataclass(frozen=True, slots=True)
class RawCodec:
    """Pass ``str`` and ``bytes`` through as they are."""

    name: ClassVar[str] = "raw"

    def encode(self, message: object) -> str | bytes:
        """Return ``message``, as ``bytes`` if it is a ``bytearray`` or ``memoryview``.

        Raises ``TypeError`` for anything else.
        """
        if isinstance(message, str | bytes):
            return message
        if isinstance(message, bytearray | memoryview):
            return bytes(message)
        raise TypeError(
            f"codec 'raw' sends str or bytes, not {type(message).__qualname__}; "
            "a ConnectionActor with codec='json' or codec='msgpack' can send it"
        )

    def decode(self, data: str | bytes) -> str | bytes:
        """Return ``data`` as it came."""
        return data


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class JsonCodec:
    """One JSON text (RFC 8259) in each text message.

    ``max_size`` is the longest message accepted, in characters; ``max_depth`` how deep arrays and
    objects may be nested (``[]`` is 1 deep).  ``None`` switches a limit off.  Without ``max_depth``
    the recursion limit of Python remains.

    Raises ``TypeError`` for a limit that is neither an ``int`` nor ``None``, and ``ValueError`` for
    one below 1.
    """

    name: ClassVar[str] = "json"

    max_size: int | None = _MAX_SIZE
    max_depth: int | None = _MAX_DEPTH

    def __post_init__(self) -> None:
        _check_limit(self, "max_size", self.max_size)
        _check_limit(self, "max_depth", self.max_depth)

    def encode(self, message: object) -> str:
        """Return ``message`` as compact JSON text.

        As in the ``json`` module a tuple becomes an array, and a key that is an ``int``, ``float``,
        ``bool`` or ``None`` becomes a string.  Raises ``TypeError`` for a type that JSON does not
        have, and ``ValueError`` for NaN, infinities, lone surrogates, cycles and too deep nesting.
        """
        try:
            text = _JSON_ENCODER.encode(message)
            if not text.isascii():
                text.encode()  # a lone surrogate has no UTF-8 and so cannot be a text message
        except TypeError as error:
            raise TypeError(f"codec 'json' cannot send this {type(message).__qualname__}: {error}") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"codec 'json' cannot send this {type(message).__qualname__}: {error}"
            ) from error
        return text

    def decode(self, data: str | bytes) -> object:
        """Return the value of the JSON text ``data``; of two equal keys the last one counts.

        Raises ``UnsupportedData`` (1003) for a binary message, ``PayloadTooBig`` (1009) for more than
        ``max_size`` characters, and ``InvalidData`` (1007) for all that is not JSON, is nested too
        deeply, or cannot be sent back: NaN, numbers out of range, lone surrogates (RFC 8259,
        sections 6, 8.2 and 9, leave such limits to the receiver).  An integer may have as many
        digits as ``sys.get_int_max_str_digits()`` says.
        """
        if not isinstance(data, str):
            raise UnsupportedData("JSON: send a text message, not a binary one")
        if self.max_size is not None and len(data) > self.max_size:
            raise PayloadTooBig(f"JSON: longer than {self.max_size} characters")

        try:
            value: object = _JSON_DECODER.decode(data)
            if not data.isascii():
                data.encode()
            if "\\ud" in data or "\\uD" in data:
                # Escapes may spell lone surrogates.  The encoder puts them into text as they are.
                _JSON_ENCODER.encode(value).encode()
        except UnicodeEncodeError as error:
            raise InvalidData("JSON: a string with a lone surrogate") from error
        except json.JSONDecodeError as error:
            raise InvalidData(f"JSON: malformed at character {error.pos}") from error
        except RecursionError as error:
            raise InvalidData("JSON: nested too deeply") from error
        except ValueError as error:  # what int() raises, see sys.set_int_max_str_digits()
            raise InvalidData("JSON: a number with too many digits") from error

        # Each level costs a bracket, so few brackets are proof enough.
        limit = self.max_depth
        if (
            limit is not None
            and data.count("[") + data.count("{") > limit
            and _is_nested_deeper(value, limit)
        ):
            raise InvalidData(f"JSON: nested more than {limit} deep")
        return value


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MsgpackCodec:
    """One MessagePack object in each binary message.

    ``max_size`` is the longest message accepted, in bytes; ``max_depth`` how deep arrays and maps
    may be nested (an empty array is 1 deep).  ``None`` switches a limit off.  Without ``max_depth``
    the 1024 levels of the ``msgpack`` package remain.

    Raises ``TypeError`` for a limit that is neither an ``int`` nor ``None``, and ``ValueError`` for
    one below 1.
    """

    name: ClassVar[str] = "msgpack"

    max_size: int | None = _MAX_SIZE
    max_depth: int | None = _MAX_DEPTH

    def __post_init__(self) -> None:
        _check_limit(self, "max_size", self.max_size)
        _check_limit(self, "max_depth", self.max_depth)

    def encode(self, message: object) -> bytes:
        """Return ``message`` as MessagePack.

        A tuple becomes an array; ``msgpack.Timestamp`` is a type of its own.  Raises ``TypeError``
        for a type that MessagePack does not have, and ``ValueError`` for integers of more than 64
        bits, lone surrogates, cycles and too deep nesting.
        """
        try:
            packed: bytes = msgpack.packb(message)
        except TypeError as error:
            raise TypeError(
                f"codec 'msgpack' cannot send this {type(message).__qualname__}: {error}"
            ) from error
        except (ValueError, OverflowError, RecursionError) as error:
            raise ValueError(
                f"codec 'msgpack' cannot send this {type(message).__qualname__}: {error}"
            ) from error
        return packed

    def decode(self, data: str | bytes) -> object:
        """Return the value of the MessagePack object ``data``; of two equal keys the last one counts.

        Raises ``UnsupportedData`` (1003) for a text message, ``PayloadTooBig`` (1009) for more than
        ``max_size`` bytes, and ``InvalidData`` (1007) for all that is malformed, incomplete or
        followed by more bytes, is nested too deeply, has a string that is not UTF-8, a map key that is
        neither a string nor binary, or an extension type other than the timestamp.
        """
        if isinstance(data, str):
            raise UnsupportedData("msgpack: send a binary message, not a text one")
        if self.max_size is not None and len(data) > self.max_size:
            raise PayloadTooBig(f"msgpack: longer than {self.max_size} bytes")

        size = len(data)
        try:
            if size > _MAX_UNCHECKED:
                _check_complete(data)
            value: object = msgpack.unpackb(
                data,
                raw=False,
                strict_map_key=True,
                ext_hook=_refuse_extension,
                max_str_len=size,
                max_bin_len=size,
                max_array_len=size,
                max_map_len=size // 2,
                max_ext_len=size,
            )
        except UnicodeDecodeError as error:
            raise InvalidData("msgpack: a string that is not UTF-8") from error
        except msgpack.ExtraData as error:
            raise InvalidData("msgpack: more bytes after the object") from error
        except (msgpack.StackError, RecursionError) as error:
            raise InvalidData("msgpack: nested too deeply") from error
        except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
            raise InvalidData("msgpack: malformed, incomplete, or a map key that is not a string") from error

        # Each level costs a header byte, so few bytes that could be one are proof enough.
        limit = self.max_depth
        if (
            limit is not None
            and size > limit
            and size - len(data.translate(None, _MSGPACK_HEADERS)) > limit
            and _is_nested_deeper(value, limit)
        ):
            raise InvalidData(f"msgpack: nested more than {limit} deep")
        return value


def codec_named(codec: str | Codec) -> Codec:
    """Return the codec that the option ``codec`` means: a name, or a codec as it is.

    The names are "raw", "json" and "msgpack", with default limits.  Raises ``ValueError`` for
    another name and ``TypeError`` for what is not a codec.
    """
    if isinstance(codec, str):
        found = _CODECS.get(codec)
        if found is None:
            names = ", ".join(map(repr, _CODECS))
            raise ValueError(f"codec={codec!r} is not known; use one of {names}, or a codec of your own")
        return found
    if isinstance(codec, type):
        raise TypeError(f"codec must be an instance, not a class; write {codec.__qualname__}()")
    # The type checker has seen no more than what the caller annotated.
    if not (
        isinstance(getattr(codec, "name", None), str)
        and callable(getattr(codec, "encode", None))
        and callable(getattr(codec, "decode", None))
    ):
        raise TypeError(
            f"codec must be a name or an object with name, encode() and decode(), "
            f"not {type(codec).__qualname__}"
        )
    return codec


def encoded(codec: Codec, message: object) -> str | bytes:
    """Return what ``codec`` makes of ``message``, known to fit into a frame; raises what ``encode`` raises.

    For what is sent later, when an error could not reach who said it.
    """
    data: object = codec.encode(message)
    if isinstance(data, bytes):
        return data
    if not isinstance(data, str):
        raise TypeError(
            f"codec {codec.name!r} makes {type(data).__qualname__} of this {type(message).__qualname__}; "
            "encode() returns str or bytes"
        )
    try:
        data.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"codec {codec.name!r} cannot send this {type(message).__qualname__}: {error}"
        ) from error
    return data


def choose_codec(codec: str | Codec | Mapping[str | None, str | Codec], subprotocol: str | None) -> Codec:
    """Return the codec of a connection whose handshake agreed on ``subprotocol`` (``None``: on none).

    A mapping chooses by subprotocol (RFC 6455, section 1.9); its key ``None`` is for a connection
    without one.  Raises ``LookupError`` if the mapping has no such key, and what ``codec_named``
    raises.
    """
    if not isinstance(codec, Mapping):
        return codec_named(codec)
    if subprotocol not in codec:
        known = ", ".join(map(repr, codec))
        if subprotocol is None:
            raise LookupError(
                f"codec has no entry for a connection without subprotocol, only for {known}; "
                "the key None is for that"
            )
        raise LookupError(f"codec has no entry for subprotocol {subprotocol!r}, only for {known}")
    return codec_named(codec[subprotocol])


def offered_subprotocols(
    codec: str | Codec | Mapping[str | None, str | Codec],
) -> tuple[str, ...]:
    """Return the subprotocols that the option ``codec`` can serve, best first; () without a mapping."""
    if not isinstance(codec, Mapping):
        return ()
    return tuple(key for key in codec if key is not None)


def _check_limit(codec: object, option: str, value: object) -> None:
    if value is None:
        return
    given = f"{type(codec).__name__}({option}={value!r})"
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{given}: {option} must be an int, or None to switch the limit off")
    if value < 1:
        raise ValueError(f"{given}: {option} must be at least 1, or None to switch the limit off")


def _is_nested_deeper(value: object, limit: int) -> bool:
    """Tell whether lists and dicts in ``value`` are nested more than ``limit`` deep, level by level."""
    level: list[Any] = [value] if type(value) in _CONTAINERS else []
    for _ in range(limit):
        if not level:
            return False
        level = [
            child
            for container in level
            for child in (container.values() if type(container) is dict else container)
            if type(child) in _CONTAINERS  # a third of the time of isinstance()
        ]
    return bool(level)


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):  # 1e999 is JSON, but its infinity could not be sent back
        raise InvalidData("JSON: a number out of range")
    return number


def _refuse_constant(constant: str) -> NoReturn:
    raise InvalidData("JSON: NaN and Infinity are not JSON")


_JSON_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_JSON_DECODER: Final = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse_constant)


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    raise InvalidData(f"msgpack: extension type {code} is not known here")


def _check_complete(data: bytes) -> None:
    """Raise unless ``data`` starts with a complete object; build nothing.

    ``msgpack`` makes the list for an array as soon as it has seen the header.  In a payload of 68 KB,
    900 nested headers may each claim 65 535 items: 470 MB and 50 ms for nothing.  In a complete object
    every claimed item has its bytes.
    """
    unpacker = msgpack.Unpacker(max_buffer_size=len(data))
    unpacker.feed(data)
    unpacker.skip()


# The longest payload whose false headers are too cheap to look for: 340 lists of 1024 items, 3 MB.
_MAX_UNCHECKED: Final = 1024

# fixmap, fixarray, array 16, array 32, map 16 and map 32 (MessagePack specification, "Formats").
_MSGPACK_HEADERS: Final = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])

_CODECS: Final[Mapping[str, Codec]] = {
    codec.name: codec for codec in (RawCodec(), JsonCodec(), MsgpackCodec())
}
