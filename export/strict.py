"""Builds dataclasses from parsed TOML or JSON: an unknown or missing key is an error that names it."""

from __future__ import annotations

import dataclasses
import functools
import types
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


def parse(cls: type[T], value: Any, where: str = "") -> T:
    """Build a dataclass; no key has a default on reading.

    Args:
        cls: A dataclass of strings, numbers, booleans, literals, tuples, dictionaries, optional values and dataclasses.
        value: The parsed table.
        where: Place of the table, e.g. ``"training"``, for messages.

    Raises:
        ValueError: Names the key with its place, what was expected and what came.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a table, got {value!r}")  # noqa: TRY004 (a wrong value of a file)
    hints = _hints(cast(Any, cls))
    for key in value:
        if key not in hints:
            raise ValueError(f"unknown key '{_join(where, key)}'; known: {', '.join(hints)}")
    for key in hints:
        if key not in value:
            raise ValueError(f"missing key '{_join(where, key)}'")
    return cls(**{key: _value(hint, value[key], _join(where, key)) for key, hint in hints.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    """Check one value against its annotation."""
    if dataclasses.is_dataclass(hint):
        return parse(cast(type, hint), value, where)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _expect(value in args, value, where, f"one of {', '.join(map(repr, args))}")
    if origin in (Union, types.UnionType):
        inner = next(arg for arg in args if arg is not type(None))
        return None if value is None else _value(inner, value, where)
    if origin is tuple:
        _expect(isinstance(value, list), value, where, "a list")
        return tuple(_value(args[0], element, f"{where}[{i}]") for i, element in enumerate(value))
    if origin is dict:
        _expect(isinstance(value, dict), value, where, "a table")
        return {key: _value(args[1], element, _join(where, key)) for key, element in value.items()}
    if hint is Any:
        return value
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(_expect(number, value, where, "a number"))
    fits = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    return _expect(fits, value, where, hint.__name__)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _expect(fits: bool, value: Any, where: str, expected: str) -> Any:
    if not fits:
        raise ValueError(f"{where}: expected {expected}, got {value!r}")
    return value
