"""Reads the rows of a JSONL or JSON file as conversations, and says what is wrong with them by row number.

Knows nothing of tokens, templates or models: those come in `encode.py`.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..problems import DataError, Problem

ROLES = ("system", "user", "assistant")
NOT_YET = ("tool", "function", "developer", "ipython")
SHAPES = "messages; prompt and completion; instruction, output and if needed input and system"
SHOWN = 10  # problems that are told in full; of the rest only the number is
NAMED = 3  # row numbers that are named when many rows have the same problem


class Message(NamedTuple):
    """One turn of a conversation; `role` is one of ROLES."""

    role: str
    content: str


class Row(NamedTuple):
    """One conversation. `number` counts from 1: the line in a JSONL file, the place in a JSON array."""

    number: int
    messages: tuple[Message, ...]

    @property
    def prompt(self) -> tuple[Message, ...]:
        """What comes before the last assistant turn."""
        return self.messages[: self._last]

    @property
    def answer(self) -> str:
        """What the last assistant turn says."""
        return self.messages[self._last].content

    @property
    def _last(self) -> int:
        return max(i for i, message in enumerate(self.messages) if message.role == "assistant")


class Fault(Exception):
    """What is wrong with one row: the fact without the row's number, and the cure."""

    def __init__(self, fact: str, cure: str) -> None:
        super().__init__(fact)
        self.fact, self.cure = fact, cure


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a file. Raises DataError with all problems at once; equal problems are told once, with their rows.

    Keys that a shape does not have, blank lines and a byte order mark are passed over. In `prompt` lists too every
    assistant turn counts as one to learn from.
    """
    path = Path(path)
    rows: list[Row] = []
    faults: dict[tuple[str, str], list[int]] = {}
    for number, record in _records(_text(path), path):
        try:
            if isinstance(record, Fault):
                raise record
            rows.append(Row(number, tuple(_messages(record))))
        except Fault as fault:
            faults.setdefault((fault.fact, fault.cure), []).append(number)
    if faults:
        raise DataError(_problems(path, faults))
    if not rows:
        raise DataError([_empty(path, "holds no rows")])
    return rows


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        fact = f"The data file {path} cannot be read: {error.strerror}."
        raise DataError(
            [Problem(str(path), fact, "Give the path of a .jsonl or .json file.")]
        ) from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # a byte order mark is cut off before the positions are counted
        start = error.start + (3 if raw.startswith(b"\xef\xbb\xbf") else 0)
        line = raw.count(b"\n", 0, start) + 1
        where = f"byte 0x{raw[start]:02X} at position {start:,} (line {line:,})"
        fact = f"{path.name} is not UTF-8 text: {where}."
        utf16 = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
        cure = "It is UTF-16; save it as UTF-8." if utf16 else "Save the file as UTF-8."
        raise DataError([Problem(str(path), fact, cure)]) from None
    if not text.strip():
        raise DataError([_empty(path, f"is empty ({len(raw):,} bytes)")])
    return text


def _empty(path: Path, what: str) -> Problem:
    return Problem(
        str(path), f"{path.name} {what}.", f"Put one JSON object on each line: {SHAPES}."
    )


def _records(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    """The row numbers with the values at them; a line that is no JSON comes as a Fault."""
    if text.lstrip().startswith("["):
        yield from enumerate(_array(text, path), start=1)
        return
    # not splitlines(): it would also cut at U+2028, which may stand inside a JSON text
    lines = text.split("\n")
    if text.lstrip().startswith("{") and _is_one_object(text, lines):
        fact = f"{path.name} holds a single JSON object over several lines."
        cure = "Put each row on a line of its own, or all rows in an array: [ {...}, {...} ]."
        raise DataError([Problem(str(path), fact, cure)])
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, _parsed(line)


def _array(text: str, path: Path) -> list[Any]:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        place = ""
        if isinstance(error, json.JSONDecodeError):
            place = f" at line {error.lineno:,}, column {error.colno:,}"
        fact = f"{path.name} is not valid JSON: {_reason(error)}{place}."
        cure = "Correct that place, or put each row on a line of its own."
        raise DataError([Problem(str(path), fact, cure)]) from None


def _is_one_object(text: str, lines: list[str]) -> bool:
    first = next(line for line in lines if line.strip())
    if not isinstance(_parsed(first), Fault):
        return False
    return not isinstance(_parsed(text), Fault)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        place = f" at column {error.colno:,}" if isinstance(error, json.JSONDecodeError) else ""
        fact = f"it is not valid JSON: {_reason(error)}{place}"
        return Fault(fact, "Correct that line: each line is one JSON object.")


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    deep = isinstance(error, RecursionError)
    return "it is nested too deeply" if deep else "a number in it has too many digits"


def _messages(record: Any) -> list[Message]:
    """The conversation in a row of any known shape. Raises Fault."""
    if not isinstance(record, dict):
        raise Fault(f"it is {_kind(record)}, not an object", f"Known are: {SHAPES}.")
    if "messages" in record:
        messages = _turns(record["messages"], "messages")
    elif "prompt" in record and "completion" in record:
        prompt, completion = record["prompt"], record["completion"]
        messages = [*_side(prompt, "prompt", "user"), *_side(completion, "completion", "assistant")]
    elif "instruction" in record and "output" in record:
        messages = list(_alpaca(record))
    else:
        columns = ", ".join(map(str, record)) or "none"
        raise Fault(f"its columns are {columns:.200}", f"Known are: {SHAPES}. Rename the columns.")
    if not any(message.role == "assistant" for message in messages):
        roles = ", ".join(message.role for message in messages)
        raise Fault(
            f"it has no assistant turn, only {roles:.100}",
            "Add the answer to learn, or remove the row.",
        )
    return messages


def _side(value: Any, name: str, role: str) -> Iterable[Message]:
    return [Message(role, _content(value, name))] if isinstance(value, str) else _turns(value, name)


def _alpaca(record: dict[str, Any]) -> Iterator[Message]:
    if record.get("system"):
        yield Message("system", _content(record["system"], "system"))
    user = _content(record["instruction"], "instruction")
    if record.get("input"):
        given = record["input"]
        if not isinstance(given, str):
            raise Fault(f"input is {_kind(given)}, not a text", "Make it a text.")
        user = f"{user}\n\n{given}" if given.strip() else user
    yield Message("user", user)
    yield Message("assistant", _content(record["output"], "output"))


def _turns(value: Any, name: str) -> list[Message]:
    if not isinstance(value, list):
        raise Fault(
            f"{name} is {_kind(value)}, not a list of messages", "Give a list of {role, content}."
        )
    if not value:
        raise Fault(f"{name} is an empty list", "Add its turns, or remove the row.")
    return [_turn(turn, f"{name}[{place}]") for place, turn in enumerate(value)]


def _turn(turn: Any, place: str) -> Message:
    if not isinstance(turn, dict):
        raise Fault(f"{place} is {_kind(turn)}, not an object", "Give {role, content}.")
    missing = [key for key in ("role", "content") if key not in turn]
    if missing:
        had = ", ".join(map(str, turn)) or "nothing"
        raise Fault(
            f"{place} has {had:.100}, but no {' and no '.join(missing)}", "Give {role, content}."
        )
    role = turn["role"]
    if role in NOT_YET or turn.get("tool_calls"):
        what = f"the role {role!r}" if role in NOT_YET else "tool_calls"
        raise Fault(
            f"{place} has {what}, which is not supported yet", "Remove the rows with tools."
        )
    if role not in ROLES:
        raise Fault(f"{place} has the role {role!r:.60}", f"Known are {', '.join(ROLES)}.")
    return Message(role, _content(turn["content"], f"{place}.content"))


def _content(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise Fault(f"{name} is {_kind(value)}, not a text", "Make it a text.")
    if not value or value.isspace():
        raise Fault(f"{name} is empty", "Fill it, or remove the row.")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:  # JSON can spell half a character, as in "\ud83d"
            half = f"\\u{ord(value[error.start]):04x}"
            fact = f"{name} holds {half}, half of a character, at position {error.start}"
            raise Fault(fact, "Remove it, or write the whole character.") from None
    return value


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {value!r:.60}"
    return "a list" if isinstance(value, list) else "an object"


def _problems(path: Path, faults: dict[tuple[str, str], list[int]]) -> list[Problem]:
    """A problem for each kind of fault, in the order of their first rows, the first SHOWN of them in full."""
    problems = []
    for (fact, cure), numbers in list(faults.items())[:SHOWN]:
        where = f"{path.name}, {named(numbers)}"
        problems.append(Problem(where, f"{where}: {fact}.", cure))
    rest = sum(len(numbers) for numbers in list(faults.values())[SHOWN:])
    if rest:
        rows = "row has a problem" if rest == 1 else "rows have problems"
        fact = f"{path.name}: {rest:,} more {rows}."
        problems.append(Problem(path.name, fact, "They are shown when those above are mended."))
    return problems


def named(numbers: Sequence[int]) -> str:
    """Row numbers in words: "row 7" or "rows 1, 2, 3 and 17 more"."""
    first = ", ".join(f"{number:,}" for number in numbers[:NAMED])
    more = f" and {len(numbers) - NAMED:,} more" if len(numbers) > NAMED else ""
    return f"row{'s' if len(numbers) > 1 else ''} {first}{more}"
