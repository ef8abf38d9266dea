"""Bounds that stand beside a dataclass's fields, and tables (TOML, JSON) that are read against them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

Rule = Callable[[Any], str | None]
"""value -> None, or what is wrong with it, such as "expected at least 1". It stands in a field's Annotated type."""

GREATEST = sys.float_info.max


def within(
    least: float | None = None, most: float | None = None, *, above: float | None = None, below: float | None = None
) -> Rule:
    """The rule of a finite number: from `least` to `most`, both included, or more than `above`, less than `below`."""
    if least is not None and most is not None:
        expected = f"{least} to {most}"
    elif least is not None:
        expected = f"{least} or more, below {below}" if below is not None else f"at least {least}"
    else:
        expected = f"more than {above}" + (f", at most {most}" if most is not None else "")

    def rule(value: float) -> str | None:
        if not abs(value) <= GREATEST:  # NaN is not either
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
    """The rule of a list, or of a text, that holds something."""
    return None if len(values) else "expected at least one"


Count = Annotated[int, within(1)]
CountOrZero = Annotated[int, within(0)]
Positive = Annotated[float, within(above=0)]
NotNegative = Annotated[float, within(0)]
Share = Annotated[float, within(0, 1)]
ShareBelowOne = Annotated[float, within(0, below=1)]
Seed = Annotated[int, within(0, 2**32 - 1)]


def read_table(default: Any, table: Any, where: str, problems: list[tuple[str, str]]) -> Any:
    """The dataclass `default` with the values of the table; what the table leaves out, or has wrong, stays.

    Each problem is added as (dotted name, sentence): a field that the dataclass has not, a value of another type, or one
    that a rule beside the field refuses. `where` is the dotted name of the table, "" for the outermost.
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
            wrong: list[str] = []
            read = _read_value(hints[key], value, "is", wrong)
            problems += [(name, f"{name} {text}") for text in wrong]
            values |= {} if wrong else {key: read}
    return replace(default, **values)


def _read_value(hint: Any, value: Any, verb: str, wrong: list[str]) -> Any:
    """The value as the field holds it: lists as tuples, whole numbers as float. What is wrong is added to `wrong`."""
    rules, given = getattr(hint, "__metadata__", ()), value
    kind = hint.__origin__ if rules else hint
    if get_origin(kind) is tuple and isinstance(value, (list, tuple)):
        value = tuple(_read_value(get_args(kind)[0], item, "has", wrong) for item in value)
    elif kind is float and type(value) is int and abs(value) <= GREATEST:
        value = float(value)
    elif expected := _expected_kind(kind, value):
        wrong.append(f"{verb} {value!r}; expected {expected}")
        return value
    wrong += [f"{verb} {given!r}; {text}" for rule in rules if (text := rule(value))]
    return value


def _expected_kind(kind: Any, value: Any) -> str | None:
    """What the value should be, where it is of another type."""
    if get_origin(kind) is tuple:
        return "a list"
    if get_origin(kind) is Literal:
        return None if value in get_args(kind) else ", ".join(get_args(kind))
    return None if type(value) is kind else kind.__name__
