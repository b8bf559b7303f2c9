"""Rows of JSON files: an object on each line, an array of objects, or an object around such an array.

Of an array only a window is in memory, however long its line is. Knows no shapes of rows.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from ..problems import DataError, Problem
from .faults import Fault
from .progress import Meter
from .text_files import BLOCK, MOST, lines, text, too_long

WRAPPERS = ("data", "rows", "examples", "records", "items")  # names of an array inside an object
LITERAL = 12  # letters: the longest of JSON's words, cut off at the end of the window, is shorter
BLANK = re.compile(r"[ \t\r\n]*")
Records = Iterator[tuple[int, Any]]


def records(path: Path, encoding: str | None, meter: Meter) -> Records:
    """Numbers and values: the line, or the place in the array; what is no JSON on its line is a Fault.

    Raises DataError where an array breaks off, with line and column, and for a single object over several lines.
    """
    layout = _layout(_Window(path, text(path, encoding, meter)))
    if layout == "lines":
        return _lines(text(path, encoding, meter))
    if layout == "object":
        fact = f"{path.name} holds a single JSON object over several lines."
        cure = "Put each row on a line of its own, or all rows in an array: [ {...}, {...} ]."
        raise DataError([Problem(str(path), fact, cure)])
    window = _Window(path, text(path, encoding, meter))
    return _array(window) if layout == "array" else _wrapped(window)


def _lines(pieces: Iterator[str]) -> Records:
    for number, line in lines(pieces):
        if line is None:
            yield number, too_long()
        elif line and not line.isspace():
            yield number, _parsed(line)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        place = f" at column {error.colno:,}" if isinstance(error, json.JSONDecodeError) else ""
        fact = f"it is not valid JSON: {_reason(error)}{place}"
        return Fault(fact, "Correct that line: each line is one JSON object.")


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg.removesuffix(" at")  # the place follows
    deep = isinstance(error, RecursionError)
    return "it is nested too deeply" if deep else "a number in it has too many digits"


class _Broken(Exception):
    """The JSON text ends or goes wrong at `at` in the window."""

    def __init__(self, reason: str, at: int | None) -> None:
        super().__init__(reason)
        self.at = at


class _Window:
    """A stretch of a long JSON text; what was read is let go when the next piece is fetched."""

    def __init__(self, path: Path, pieces: Iterator[str]) -> None:
        self.path, self.text, self.at = path, "", 0
        self.line, self._column = 1, 0  # of the window's first letter
        self._pieces, self._ended = pieces, False
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next letter that is no white space; empty at the end."""
        while True:
            self.at = BLANK.match(self.text, self.at).end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                return ""

    def take(self, *expected: str) -> str:
        """Steps over the next letter, which must be one of these."""
        found = self.peek()
        if not found or found not in expected:
            names = " or ".join(f"'{letter}'" for letter in expected)
            raise _Broken(f"Expecting {names}", self.at)
        self.at += 1
        return found

    def value(self) -> Any:
        """The next JSON value. Raises _Broken, or Fault when it is longer than MOST."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self.text, self.at)
                if end < len(self.text) or self._ended:  # else a number might go on
                    self.at = end
                    return value
            except json.JSONDecodeError as error:
                if self._ended or not self._is_cut(error):
                    raise _Broken(error.msg.removesuffix(" at"), error.pos) from None
            except (ValueError, RecursionError) as error:
                raise _Broken(_reason(error), None) from None
            if len(self.text) - self.at > MOST:
                raise too_long()
            self._more()

    def place(self, at: int) -> str:
        """Where a letter of the window stands in the file, in words."""
        line = self.line + self.text.count("\n", 0, at)
        column = at - self.text.rfind("\n", 0, at)
        return f"line {line:,}, column {column if line > self.line else self._column + at + 1:,}"

    def _is_cut(self, error: json.JSONDecodeError) -> bool:
        """Whether the error may go away when more of the text is there."""
        return error.msg.startswith("Unterminated") or error.pos >= len(self.text) - LITERAL

    def _more(self) -> bool:
        """Fetches as much as is left, so that a long value is tried only a few times."""
        self.line, self._column = self._after(self.at)
        pieces, size = [self.text[self.at :]], 0
        wanted = max(BLOCK, len(pieces[0]))
        while size < wanted and not self._ended:
            piece = next(self._pieces, "")
            self._ended = not piece
            pieces.append(piece)
            size += len(piece)
        self.text, self.at = "".join(pieces), 0
        return size > 0

    def _after(self, at: int) -> tuple[int, int]:
        """Line, and letters before it on that line, of a letter of the window."""
        passed = self.text.count("\n", 0, at)
        if passed:
            return self.line + passed, at - self.text.rfind("\n", 0, at) - 1
        return self.line, self._column + at


def _layout(window: _Window) -> Literal["array", "wrapped", "object", "lines"]:
    """How the rows of a JSON text are laid out, by its beginning."""
    first = window.peek()
    if first != "{":
        return "array" if first == "[" else "lines"
    end = window.text.find("\n", window.at)
    if end >= 0:
        row = _parsed(window.text[window.at : end])
        if not isinstance(row, Fault):
            window.at = end
            single = not window.peek()
            return "wrapped" if single and _wrapper(row) else "lines"
    line = window.line + window.text.count("\n", 0, window.at)
    try:
        for key in _members(window):
            if key in WRAPPERS and window.peek() == "[":
                return "wrapped"
            window.value()
    except (_Broken, Fault):
        return "lines"  # whose faults are then told line by line
    return "object" if window.line + window.text.count("\n", 0, window.at) > line else "lines"


def _wrapper(row: dict[str, Any]) -> bool:
    return any(isinstance(row.get(key), list) for key in WRAPPERS)


def _members(window: _Window) -> Iterator[str]:
    """The keys of an object; whoever asks for the next one has read the value."""
    window.take("{")
    if window.peek() == "}":
        window.take("}")
        return
    while True:
        if window.peek() != '"':
            raise _Broken("Expecting property name enclosed in double quotes", window.at)
        key = window.value()
        window.take(":")
        yield key
        if window.take(",", "}") == "}":
            return


def _array(window: _Window) -> Records:
    """The rows of a text that is an array."""
    number = 0
    try:
        for number, value in _elements(window):
            yield number, value
        if window.peek():
            raise _Broken("Extra data", window.at)
    except (_Broken, Fault) as error:
        raise DataError([_problem(window, error, number)]) from None


def _wrapped(window: _Window) -> Records:
    """The rows of the array inside an object; its other members are no rows."""
    number, found = 0, ""
    try:
        for key in _members(window):
            if key not in WRAPPERS or window.peek() != "[":
                window.value()
                continue
            if found:
                fact = f"{window.path.name} holds two arrays of rows, {found} and {key}."
                cure = "Put them into two files, or join them."
                raise DataError([Problem(str(window.path), fact, cure)])
            found = key
            for number, value in _elements(window):
                yield number, value
        if window.peek():
            raise _Broken("Extra data", window.at)
    except (_Broken, Fault) as error:
        raise DataError([_problem(window, error, number)]) from None


def _elements(window: _Window) -> Records:
    window.take("[")
    if window.peek() == "]":
        window.take("]")
        return
    number = 1
    while True:
        yield number, window.value()
        if window.take(",", "]") == "]":
            return
        number += 1


def _problem(window: _Window, error: _Broken | Fault, number: int) -> Problem:
    """What ends the reading of an array after its row `number`."""
    path = window.path
    if isinstance(error, Fault):
        return Problem(str(path), f"{path.name}, row {number + 1:,}: {error.fact}.", error.cure)
    place = f" at {window.place(error.at)}" if error.at is not None else ""
    after = f", after row {number:,}" if number else ""
    fact = f"{path.name} is not valid JSON: {error}{place}{after}."
    cure = "Correct that place, or put each row on a line of its own."
    return Problem(str(path), fact, cure)
