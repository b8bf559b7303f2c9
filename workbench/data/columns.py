"""A column map: texts such as "{instruction}\\n\\n{input}" that say which columns make up which part of a row.

Knows nothing of shapes or files. A value goes in as it is; only the blank lines around an empty one go.
"""

import difflib
import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..problems import DataError, Problem
from .faults import Fault
from .turns import as_json, kind_of

PARTS = ("prompt", "completion", "system", "text")
LISTED = 20  # columns that are named in an error
_MARKS = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class Template(NamedTuple):
    """A template taken apart: literals[0], column names[0], literals[1], ..., one literal more than names."""

    literals: tuple[str, ...]
    names: tuple[str, ...]


def resolve(columns: Mapping[str, str], known: Sequence[str]) -> dict[str, str]:
    """The map with a bare column name as its {name}. Raises DataError for parts and columns that there are not."""
    _check_parts(columns)
    problems: list[Problem] = []
    resolved = {}
    for part, text in columns.items():
        where = f"data.columns.{part}"
        if not text.strip():
            problems.append(Problem(where, f"{where} is empty.", "Name a column in it: {column}."))
            continue
        if text in known and not set("{}") & set(text):
            resolved[part] = f"{{{text}}}"
            continue
        try:
            names = parsed(text).names
        except Fault as fault:
            problems.append(Problem(where, f"{where} {fault.fact}.", fault.cure))
            continue
        absent = [name for name in names if name not in known]
        if not names and (part in ("completion", "text") or _means_a_column(text, known)):
            absent = [text]
        problems += [_absent(where, name, known) for name in absent]
        resolved[part] = text
    if problems:
        raise DataError(problems)
    return resolved


@functools.lru_cache(maxsize=64)  # asked for each row
def parsed(text: str) -> Template:
    """The template taken apart. Raises Fault for a brace without its other half."""
    literals, names = [""], []
    end = 0
    for mark in _MARKS.finditer(text):
        literals[-1] += text[end : mark.start()]
        end = mark.end()
        if mark[0] in ("{{", "}}"):
            literals[-1] += mark[0][0]
        elif mark[1] is not None:
            names.append(mark[1])
            literals.append("")
        else:
            raise Fault(f"has a {mark[0]} alone", f"Write {2 * mark[0]} for the brace itself.")
    literals[-1] += text[end:]
    return Template(tuple(literals), tuple(names))


def filled(text: str, record: Mapping[str, Any]) -> str:
    """The template with the record's values; empty if all its columns are. Raises Fault."""
    literals, names = parsed(text)
    values = [_as_text(record.get(name), name) for name in names]
    if all(values):
        pieces = [literals[0]]
        for value, literal in zip(values, literals[1:], strict=True):
            pieces += (value, literal)
        return "".join(pieces)
    return _closed_up(list(literals), values) if any(values) else ""


def whole_column(text: str, record: Mapping[str, Any]) -> Any:
    """The value of the column that the template consists of; None if it is more than one column."""
    literals, names = parsed(text)
    return record.get(names[0]) if literals == ("", "") else None


def words(text: str) -> str:
    """The columns of a template in words: "title and body"."""
    names = list(dict.fromkeys(parsed(text).names))
    if not names:
        return "a fixed text"
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _closed_up(literals: list[str], values: list[str]) -> str:
    """The pieces put together, without the blank lines around values that are empty and alone on their lines."""
    said, before = "", literals[0]
    for place, (value, after) in enumerate(zip(values, literals[1:], strict=True)):
        first, last = not said and not before, place == len(values) - 1 and not after
        alone = (first or before.endswith("\n")) and (last or after.startswith("\n"))
        if value or not alone:
            said += before + value
            before = after
            continue
        above, below = before.rstrip("\n"), after.lstrip("\n")
        lines = max(len(before) - len(above), len(after) - len(below))
        outer = last or not (said or above)
        before = above + ("" if outer else "\n" * lines) + below
    return said + before


def _as_text(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and value != value):
        return ""  # "not a number" is how pandas says that nothing is there
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list | tuple):
        return as_json(value, name)
    if isinstance(value, bytes | bytearray | memoryview):
        raise Fault(f"{name} is {kind_of(value)}, not a text", "Make it a text.")
    try:
        return str(value)
    except ValueError:  # Python does not write out integers of more than 4300 digits
        raise Fault(f"{name} is {kind_of(value)}", "Write it as a text.") from None


def _check_parts(columns: Mapping[str, str]) -> None:
    """Raises DataError unless the map has prompt and completion (and system if wanted), or text alone."""
    where = "data.columns"
    if unknown := [name for name in columns if name not in PARTS]:
        fact = f"{where} names {', '.join(unknown)}."
        raise DataError([Problem(where, fact, f"A row can be made of {', '.join(PARTS)}.")])
    if set(columns) != {"text"} and set(columns) | {"system"} != {"prompt", "completion", "system"}:
        cure = "Give prompt and completion (and system if wanted), or text alone."
        raise DataError([Problem(where, f"{where} has {', '.join(columns)}.", cure)])
    for part, text in columns.items():
        if not isinstance(text, str):
            fact = f"{where}.{part} is {kind_of(text)}, not a text."
            raise DataError(
                [Problem(f"{where}.{part}", fact, "Give a text with {column} names in it.")]
            )


def _means_a_column(text: str, known: Sequence[str]) -> bool:
    """Whether a text without braces is a misspelled column rather than a fixed prompt."""
    return " " not in text or bool(difflib.get_close_matches(text, known, n=1))


def _absent(where: str, name: str, known: Sequence[str]) -> Problem:
    near = difflib.get_close_matches(name, known, n=1)
    there = ", ".join(known[:LISTED]) or "none"
    more = f" and {len(known) - LISTED:,} more" if len(known) > LISTED else ""
    cure = f"Did you mean {near[0]}? " if near else ""
    if not name.isidentifier() and not near:
        cure += "Write {{ and }} for braces that are no columns. "
    fact = f"{where} names the column {json.dumps(name, ensure_ascii=False)}, which the rows do not have."
    return Problem(where, fact, f"{cure}There are {there}{more}.")
