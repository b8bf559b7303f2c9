"""Rows of CSV and TSV files: fields by the names in the first line, all of them text.

What separates the fields is found by trying. Knows no shapes of rows.
"""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..problems import DataError, Problem
from .faults import Fault
from .progress import Meter
from .text_files import MOST, lines, text, too_long

SEPARATORS = (",", ";", "\t", "|")
NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
ALONE = "\x1f"  # separates nothing: the file has one column, and commas belong to its text
TRIED = 2**18  # letters, and rows, that separators are tried on
TRIED_ROWS = 100


class _Dialect(NamedTuple):
    separator: str
    spaced: bool  # a space follows the separator, and is no part of the field


def records(
    path: Path, encoding: str | None, meter: Meter
) -> Iterator[tuple[int, dict[str, str] | Fault]]:
    """Numbers and fields by name; a row with more or fewer fields than names is a Fault. Blank lines do not count.

    Raises DataError for a header with empty or equal names, and for a quotation mark that is never closed.
    """
    beginning = _beginning(path, encoding, meter)
    if not beginning.strip():
        return
    ending = "\n" if "\n" in beginning or "\r" not in beginning else "\r"
    dialect = _dialect(beginning, ending)
    # A field may be as long as a row; the limit holds for the whole process, and is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), MOST))
    feed = _Feed(lines(text(path, encoding, meter), ending))
    header: list[str] = []
    number = 0
    for fields in _rows(path, feed, dialect):
        if isinstance(fields, list) and _is_blank(fields, header):
            continue
        if not header:
            header = _header(path, fields)
        else:
            number += 1
            yield number, _record(header, fields, dialect)


def _is_blank(fields: list[str], header: list[str]) -> bool:
    """Whether a line holds nothing; in a file of one column `""` is a row that is empty."""
    return not fields or (len(fields) == 1 < len(header) and not fields[0].strip())


def _beginning(path: Path, encoding: str | None, meter: Meter) -> str:
    """The first letters of the text that are not blank, at least TRIED if there are so many."""
    held = ""
    for piece in text(path, encoding, meter):
        held = (held + piece).lstrip("\r\n")
        if len(held) >= TRIED:
            break
    return held[:TRIED]


class _Feed:
    """Lines for the reader of fields, and the number of the last one that it took."""

    def __init__(self, numbered: Iterator[tuple[int, str | None]]) -> None:
        self._numbered, self.line = numbered, 0

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> str:
        self.line, line = next(self._numbered)
        if line is None:
            raise too_long()
        return line + "\n"


def _rows(path: Path, feed: _Feed, dialect: _Dialect) -> Iterator[list[str] | Fault]:
    """The fields of each row. A row that breaks the rules of quotation is a Fault."""
    reader = _reader(feed, dialect)
    while True:
        began = feed.line + 1
        try:
            yield next(reader)
        except StopIteration:
            return
        except Fault as fault:
            yield fault
            reader = _reader(feed, dialect)  # the old one is still inside the row
        except csv.Error as error:
            if "unexpected end" in str(error) or "larger than field limit" in str(error):
                raise DataError([_unclosed(path, began)]) from None
            fact = "a quotation mark in it is followed by more text than a separator"
            cure = 'Double the quotation marks inside a quoted field: "He said ""no""."'
            yield Fault(fact, cure, kind="quotes")


def _reader(feed: Iterator[str], dialect: _Dialect) -> Iterator[list[str]]:
    separator, spaced = dialect
    return csv.reader(feed, delimiter=separator, skipinitialspace=spaced, strict=True)


def _unclosed(path: Path, line: int) -> Problem:
    fact = f"{path.name}, line {line:,}: a quotation mark in this row is never closed."
    cure = 'Close it, or double it if it belongs to the text: ""'
    return Problem(str(path), fact, cure)


def _header(path: Path, fields: list[str] | Fault) -> list[str]:
    if isinstance(fields, Fault):
        fact = f"{path.name}: the names of its columns cannot be read: {fields.fact}."
        raise DataError([Problem(str(path), fact, fields.cure)])
    names = [field.strip() for field in fields]
    problems = []
    if nameless := [str(place) for place, name in enumerate(names, 1) if not name]:
        fact = f"{path.name}: in its first line column {', '.join(nameless):.100} has no name."
        cure = "Give each column a name; pandas leaves out its index with to_csv(..., index=False)."
        problems.append(Problem(str(path), fact, cure))
    if twice := [name for name, count in Counter(filter(None, names)).items() if count > 1]:
        fact = f"{path.name}: several of its columns are called {', '.join(twice):.100}."
        problems.append(Problem(str(path), fact, "Give each column a name of its own."))
    if problems:
        raise DataError(problems)
    return names


def _record(
    header: list[str], fields: list[str] | Fault, dialect: _Dialect
) -> dict[str, str] | Fault:
    if isinstance(fields, Fault):
        return fields
    if len(fields) == len(header):
        return dict(zip(header, fields, strict=True))
    counted = f"{len(fields)} field{'s' if len(fields) > 1 else ''}"
    fact = f"it has {counted}, and the first line names {len(header)} columns"
    separator = NAMES.get(dialect.separator, "a separator")
    cure = f"Put a field that holds {separator} or a line break between quotation marks."
    return Fault(fact, cure, kind="ragged")


def _dialect(beginning: str, ending: str) -> _Dialect:
    """What separates the fields: that which cuts the most rows into as many fields as the header, and into most."""
    tried = []
    for place, separator in enumerate(SEPARATORS):
        for spaced in (False, True) if f'{separator} "' in beginning else (False,):
            widths = _widths(beginning, ending, _Dialect(separator, spaced))
            if widths and widths[0] > 1:
                even = sum(width == widths[0] for width in widths) / len(widths)
                tried.append((even, widths[0], -place, not spaced, _Dialect(separator, spaced)))
    return max(tried)[-1] if tried else _Dialect(ALONE, False)


def _widths(beginning: str, ending: str, dialect: _Dialect) -> list[int]:
    """Fields of each of the first rows, 0 for one that cannot be read."""
    found = beginning.split(ending)
    if len(found) > 2:
        found.pop()  # may be cut off
    reader = _reader((line + "\n" for line in found), dialect)
    widths: list[int] = []
    while len(widths) < TRIED_ROWS:
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error:
            widths.append(0)
        else:
            widths += [len(fields)] if any(fields) else []
    return widths
