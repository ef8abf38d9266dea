"""File names, labels and messages as text: exact in files that machines read, harmless on a terminal."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Iterable

JOINERS = "\u200c\u200d"  # join letters in Persian words and in emoji; they do not reorder text


def shown(name: str) -> str:
    """A file's name as valid Unicode: bytes that are not UTF-8 become U+FFFD."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def printable(text: str) -> str:
    r"""Text that cannot control a terminal or forge a line: invisible characters are escaped, such as \n, \x1b, \u202e.

    These are control and format characters (with all bidirectional controls of Unicode, UAX #9), line separators,
    unassigned and private characters. Spaces of every width stay.
    """
    text = shown(text)
    if text.isprintable():
        return text
    return "".join(
        letter
        if letter.isprintable() or letter in JOINERS or unicodedata.category(letter) == "Zs"
        else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def cleaned(name: str) -> str:
    """The name without spaces at its ends, in Unicode NFC."""
    return unicodedata.normalize("NFC", name.strip())


def alike(name: str) -> str:
    """One key for all names that look the same: that differ only in case, spaces at an end or Unicode form."""
    return unicodedata.normalize("NFC", cleaned(name).casefold())


def join_names(names: Iterable[str]) -> str:
    r"""The names as one cell of a table, joined by `|`; inside a name `|` becomes `\|` and a backslash `\\`."""
    return "|".join(re.sub(r"[|\\]", r"\\\g<0>", name) for name in names)


def csv_line(values: Iterable) -> str:
    """The values as a line of CSV that ends in a line feed; a cell with any line ending in it is quoted. RFC 4180."""
    import csv  # which most starts do not need

    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow(values)  # csv quotes the letters of its line terminator
    return text.getvalue()[:-2] + "\n"


def split_names(text: str) -> tuple[str, ...]:
    """The names in a cell of `join_names`, without empty ones."""
    names = re.findall(r"(?:[^|\\]|\\.|\\$)+", text, re.DOTALL)
    return tuple(re.sub(r"\\(.)", r"\1", name, flags=re.DOTALL) for name in names)
