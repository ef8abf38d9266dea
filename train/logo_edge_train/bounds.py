"""Bounds beside the fields of a dataclass, and tables (TOML, JSON) checked against them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

Rule = Callable[[Any], str | None]
"""value -> None, or the problem, such as "expected at least 1"; part of a field's Annotated type."""

GREATEST = sys.float_info.max


def within(
    least: float | None = None, most: float | None = None, *, above: float | None = None, below: float | None = None
) -> Rule:
    """The rule of a finite number: `least` and `most` are included, `above` and `below` are not."""
    if least is not None and most is not None:
        expected = f"{least} to {most}"
    elif least is not None:
        expected = f"{least} or more, below {below}" if below is not None else f"at least {least}"
    else:
        expected = f"more than {above}" + (f", at most {most}" if most is not None else "")

    def rule(value: float) -> str | None:
        if not abs(value) <= GREATEST:  # also true for NaN
            return f"expected a finite number, {expected}"
        holds = (
            (least is None or value >= least)
            and (most is None or value <= most)
            and (above is None or value > above)
            and (below is None or value < below)
        )
        return None if holds else f"expected {expected}"

    return rule


def not_empty(values: Sequence) -> str | None:
    """The rule of a list or text that is not empty."""
    return None if len(values) else "expected at least one"


Count = Annotated[int, within(1)]
CountOrZero = Annotated[int, within(0)]
Positive = Annotated[float, within(above=0)]
NotNegative = Annotated[float, within(0)]
Share = Annotated[float, within(0, 1)]
ShareBelowOne = Annotated[float, within(0, below=1)]
Seed = Annotated[int, within(0, 2**32 - 1)]


def read_table(default: Any, table: Any, where: str, problems: list[tuple[str, str]]) -> Any:
    """The dataclass `default` with the values of the table; missing and invalid fields keep their default.

    Appends a (dotted name, sentence) to `problems` for each unknown field, value of another type and value that a rule
    refuses. `where` is the dotted name of the table, "" for the outermost.
    """
    if not isinstance(table, dict):
        problems.append((where, f"{where} is {table!r}; expected a table"))
        return default
    hints = get_type_hints(type(default), include_extras=True)
    known = [field.name for field in fields(default)]
    values = {}
    for key, value in table.items():
        name = f"{where}.{key}" if where else str(key)
        if key not in known:
            problems.append((name, f"unknown field {name}; {where or 'a recipe'} has {', '.join(sorted(known))}"))
        elif is_dataclass(hints[key]):
            values[key] = read_table(getattr(default, key), value, name, problems)
        else:
            errors: list[str] = []
            read = _read_value(hints[key], value, "is", errors)
            problems += [(name, f"{name} {text}") for text in errors]
            values |= {} if errors else {key: read}
    return replace(default, **values)


def _read_value(hint: Any, value: Any, verb: str, errors: list[str]) -> Any:
    """The value in the field's type: lists become tuples, whole numbers floats. Appends problems to `errors`."""
    rules, given = getattr(hint, "__metadata__", ()), value
    kind = hint.__origin__ if rules else hint
    if get_origin(kind) is tuple and isinstance(value, (list, tuple)):
        value = tuple(_read_value(get_args(kind)[0], item, "has", errors) for item in value)
    elif kind is float and type(value) is int and abs(value) <= GREATEST:
        value = float(value)
    elif expected := _expected_kind(kind, value):
        errors.append(f"{verb} {value!r}; expected {expected}")
        return value
    errors += [f"{verb} {given!r}; {text}" for rule in rules if (text := rule(value))]
    return value


def _expected_kind(kind: Any, value: Any) -> str | None:
    """The expected type or values, or None if the value has it."""
    if get_origin(kind) is tuple:
        return "a list"
    if get_origin(kind) is Literal:
        return None if value in get_args(kind) else ", ".join(get_args(kind))
    return None if type(value) is kind else kind.__name__
