"""Reads the tables of bundle.json into dataclasses, with the type of every plain field checked."""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import Any

KINDS = {"str": str, "int": int, "float": (int, float), "bool": bool}  # JSON types by the annotation of a field


def parse_table(kind: type, name: str, table: Any) -> Any:
    """The dataclass `kind` of a JSON table. Raises ValueError, which names the field."""
    if not isinstance(table, dict):
        raise ValueError(f"{name} is {type(table).__name__}; expected a table")
    try:
        parsed = kind(**table)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error
    for key in fields(kind):
        value, expected = getattr(parsed, key.name), KINDS.get(key.type, object)
        if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
            raise ValueError(f"{name}.{key.name} is {value!r}; expected {key.type}")
        if key.type == "float" and not is_finite(value):
            raise ValueError(f"{name}.{key.name} is not finite; expected a number that a float64 holds")
    return parsed


def typed(table: dict, key: str, kind: type) -> Any:
    """The value of `key`, of this type. Raises ValueError."""
    value = table.get(key)
    if not isinstance(value, kind):
        raise ValueError(f"{key} is {type(value).__name__}; expected {kind.__name__}")
    return value


def is_number(value: Any) -> bool:
    """Whether it is a number of JSON, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_finite(value: float) -> bool:
    """Whether it is neither NaN nor beyond float64; an integer of JSON may be beyond it."""
    return abs(value) <= sys.float_info.max
