"""From parsed JSON or TOML to typed dataclasses, strictly.

An unknown key, a missing key or a value of another type is an error that names it with its place,
e.g. ``accuracy[0].value``. A field with a default may be left out; formats that allow no omission
have no defaults.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class StrictError(ValueError):
    """Data that does not fit; the message names the key, what was expected and what came."""


def parse(cls: type[T], data: Any, where: str = "") -> T:
    """Build a dataclass from parsed JSON or TOML.

    Fields may be str, int, float, bool, ``Literal``, tuples and string-keyed dicts of these, other
    dataclasses, optional ones, and unions of dataclasses told apart by their literal ``kind``.

    Args:
        cls: A dataclass.
        data: What ``json`` or ``tomllib`` returned.
        where: Prefix of the keys in messages.

    Raises:
        StrictError: A key is unknown or missing, or a value is of another type; names the key.
    """
    return typing.cast(T, _parse(cls, data, where))


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _parse(hint: Any, value: Any, where: str) -> Any:
    """Build a value of type ``hint`` from parsed JSON, naming ``where`` in every error."""
    if dataclasses.is_dataclass(hint):
        return _parse_dataclass(typing.cast(type, hint), value, where)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _expect(value in args, value, where, value, f"one of {', '.join(map(repr, args))}")
    if origin in (Union, types.UnionType):
        return _parse_union(args, value, where)
    if origin is tuple:
        _expect(isinstance(value, list), None, where, value, "a list")
        return tuple(_parse(args[0], element, f"{where}[{i}]") for i, element in enumerate(value))
    if origin is dict:
        _expect(isinstance(value, dict), None, where, value, "a table")
        return {key: _parse(args[1], element, f"{where}.{key}") for key, element in value.items()}
    if hint is Any:
        return value
    if hint is float:
        return _expect(_is_finite(value), value, where, value, "a finite number")
    ok = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    _expect(ok, value, where, value, hint.__name__)
    if hint is int:  # no message of ours holds more
        _expect(-(2**63) <= value < 2**63, value, where, value, "an int of 64 bits")
    return value


def _parse_union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    """Null chooses None; among several dataclasses the key ``kind`` chooses."""
    if value is None and type(None) in args:
        return None
    choices = [arg for arg in args if arg is not type(None)]
    if len(choices) == 1:
        return _parse(choices[0], value, where)
    kinds = {get_args(_hints(choice)["kind"])[0]: choice for choice in choices}
    _expect(isinstance(value, dict), None, where, value, "a table")
    kind = value.get("kind")
    known = ", ".join(map(repr, sorted(kinds)))
    _expect(isinstance(kind, str) and kind in kinds, None, _join(where, "kind"), kind, f"one of {known}")
    return _parse(kinds[kind], value, where)


def _parse_dataclass(cls: type, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), None, where or "file", value, "a table")
    hints = _hints(cls)
    for key in value:
        if key not in hints:
            raise StrictError(f"unknown key '{_join(where, key)}'; known: {', '.join(hints)}")
    for field in dataclasses.fields(cls):
        if field.name not in value and not _has_default(field):
            raise StrictError(f"missing key '{_join(where, field.name)}'")
    try:
        return cls(**{key: _parse(hints[key], value[key], _join(where, key)) for key in hints if key in value})
    except ValueError as error:
        raise StrictError(str(error)) from None


def _is_finite(value: Any) -> bool:
    """Tell whether a value is a number that fits a float; JSON as Python reads it knows Infinity and NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _expect(ok: bool, result: Any, where: str, came: Any, expected: str) -> Any:
    if not ok:
        raise StrictError(f"{where}: expected {expected}, got {came!r}")
    return result
