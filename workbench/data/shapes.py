"""Makes rows of records, whatever shape they have: chats, instructions, questions, tables with a column map, raw text.

Knows nothing of files, tokens or models. A record is a dict as a file or table gives it; no text in it is changed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..problems import DataError, Problem
from . import columns as column_map
from .faults import Fault
from .fits import (
    LISTS,
    PREFERENCE,
    SHAPES,
    choose,
    columns_of,
    fits,
    nothing_fits,
    refuse_preferences,
    shape_does_not_fit,
    why,
)
from .rows import Message, Row
from .turns import (
    ALIASES,
    STRICT,
    as_list,
    kind_of,
    listing,
    looks_like_turns,
    text_of,
    tools_of,
    turns,
)

LOOKED = 200  # records from which the shape is told, spread over those that are given

Record = Mapping[str, Any]
Taken = Mapping[str, str]


class Shape(NamedTuple):
    """How the rows of a source are read, and in a sentence why.

    `name` is one of `recipe.Shape` but auto, `columns` the column map as it was given, and `taken` says in which
    column each part stands (or, with a map, by which template it is made). All of it can be written as JSON.
    """

    name: str
    why: str
    columns: dict[str, str]
    taken: dict[str, str]


def detect(
    records: Sequence[Any], *, shape: str = "auto", columns: Mapping[str, str] | None = None
) -> Shape:
    """The shape of the records, told by looking at up to LOOKED of them, or as `shape` or `columns` say it.

    Raises DataError where nothing known fits, where the given shape does not, and for a column that is not there.
    """
    looked = records[:: max(1, -(-len(records) // LOOKED))]
    objects = [record for record in looked if isinstance(record, dict)]
    if not objects:
        first = f"row 1 is {kind_of(looked[0])}" if len(looked) else "there are none"
        fact = f"No row is an object: {first}."
        raise DataError([Problem("data.shape", fact, f"Known are: {SHAPES}.")])
    if columns:
        return _by_map(objects, shape, columns)
    found = fits(objects)
    if shape == "auto":
        refuse_preferences(objects, found)
        if not found:
            raise nothing_fits(objects)
        fit = choose(found, len(looked))
        return Shape(fit.name, why(fit, found, len(looked)), {}, fit.taken)
    if shape in LISTS:
        asked = [fit for fit in fits(objects, lists=PREFERENCE[:1]) if "messages" in fit.taken]
    else:
        asked = [fit for fit in found if fit.name == shape]
    if not asked:
        raise shape_does_not_fit(shape, objects, found)
    fit = choose(asked, len(looked))
    return Shape(shape, f"data.shape says so, and {why(fit, [], len(looked))}", {}, fit.taken)


def to_row(
    record: Any, shape: Shape, number: int, *, file: str = "", system: str | None = None
) -> Row:
    """The record as a row; `system` is put first where a conversation has no system turn. Raises Fault."""
    if not isinstance(record, dict):
        raise Fault(f"it is {kind_of(record)}, not an object", f"Known are: {SHAPES}.")
    if shape.name == "text":
        return Row(number, text=_raw(record, shape), file=file)
    read = _mapped if shape.columns else _READERS[shape.name]
    messages = read(record, shape.taken)
    for message in messages:
        if message.role == "assistant":
            break
        if message.role == "tool":
            fact = "it has a tool's turn before any turn of the assistant"
            raise Fault(fact, "Put the call before it, or remove the row.", kind="role_order")
    else:
        roles = ", ".join(message.role for message in messages)
        fact = f"it has no assistant turn, only {roles:.100}"
        raise Fault(fact, "Add the answer to learn, or remove the row.", kind="no_answer")
    if system and not any(message.role == "system" for message in messages):
        messages.insert(0, Message("system", text_of(system, "data.system")))
    tools = tools_of(record) if _has_turns(record, shape) else ""
    return Row(number, tuple(messages), tools, "", file)


def _has_turns(record: Record, shape: Shape) -> bool:
    """Whether the row is given as turns, beside which a column tools says what may be called."""
    if shape.name in LISTS:
        return True
    return shape.name == "completion" and isinstance(record.get(shape.taken["prompt"]), list)


def _by_map(records: Sequence[Record], shape: str, columns: Mapping[str, str]) -> Shape:
    taken = column_map.resolve(columns, columns_of(records))
    name = "text" if "text" in taken else "completion"
    if shape not in ("auto", name):
        fact = f"data.shape is {shape}, but data.columns makes rows of the shape {name}."
        cure = f"Leave data.shape at auto, or remove data.columns to read {shape}."
        raise DataError([Problem("data.shape", fact, cure)])
    made = [f"{part} from {column_map.words(text)}" for part, text in taken.items()]
    return Shape(name, f"data.columns makes {'; '.join(made)}", dict(columns), taken)


def _value(record: Record, taken: Taken, part: str) -> Any:
    """The value of a part that the shape cannot do without."""
    try:
        return record[taken[part]]
    except KeyError:
        needed = [
            taken[part] for part in ("messages", "prompt", "completion", "text") if part in taken
        ]
        fact = f"its columns are {listing(record, 'none')}; other rows have {' and '.join(needed)}"
        raise Fault(fact, "Bring it into the same shape, or remove the row.") from None


def _optional(record: Record, taken: Taken, part: str) -> Any:
    """The value of a part that a row may lack; None where it is not there or empty."""
    column = taken.get(part)
    value = record.get(column) if column is not None else None
    return None if value == "" else value


def _messages(record: Record, taken: Taken) -> list[Message]:
    return _led(turns(_value(record, taken, "messages"), taken["messages"], STRICT), record, taken)


def _conversations(record: Record, taken: Taken) -> list[Message]:
    return _led(turns(_value(record, taken, "messages"), taken["messages"], ALIASES), record, taken)


def _completion(record: Record, taken: Taken) -> list[Message]:
    prompt, completion = _value(record, taken, "prompt"), _value(record, taken, "completion")
    messages = _side(prompt, taken["prompt"], "user")
    return _led(messages + _side(completion, taken["completion"], "assistant"), record, taken)


def _alpaca(record: Record, taken: Taken) -> list[Message]:
    user = text_of(_value(record, taken, "prompt"), taken["prompt"])
    if (given := _optional(record, taken, "input")) is not None:
        user = _below(user, given, taken["input"])
    answer = text_of(_value(record, taken, "completion"), taken["completion"], "empty_answer")
    messages = [Message("user", user), Message("assistant", answer)]
    if (past := _optional(record, taken, "history")) is not None:
        messages = _history(past, taken["history"]) + messages
    return _led(messages, record, taken)


def _question(record: Record, taken: Taken) -> list[Message]:
    question = text_of(_value(record, taken, "prompt"), taken["prompt"])
    if (given := _optional(record, taken, "context")) is not None:
        question = _below(given, question, taken["context"])
    answer = _first(_value(record, taken, "completion"), taken["completion"])
    return _led([Message("user", question), Message("assistant", answer)], record, taken)


def _mapped(record: Record, taken: Taken) -> list[Message]:
    messages = []
    for part, role in (("system", "system"), ("prompt", "user"), ("completion", "assistant")):
        template = taken.get(part)
        if template is None:
            continue
        given = column_map.whole_column(template, record)
        if role != "system" and isinstance(given, list | tuple) and looks_like_turns(given):
            messages += turns(given, part, ALIASES)
            continue
        text = column_map.filled(template, record)
        if text or role != "system":
            kind = "empty_answer" if role == "assistant" else "empty_turn"
            messages.append(Message(role, text_of(text, part, kind)))
    return messages


def _raw(record: Record, shape: Shape) -> str:
    if shape.columns:
        return text_of(column_map.filled(shape.taken["text"], record), "text")
    return text_of(_value(record, shape.taken, "text"), shape.taken["text"])


def _side(value: Any, name: str, role: str) -> list[Message]:
    """One side of a prompt and its completion: a text, or a list of turns."""
    if isinstance(value, list | tuple):
        return turns(value, name)
    kind = "empty_answer" if role == "assistant" else "empty_turn"
    return [Message(role, text_of(value, name, kind))]


def _led(messages: list[Message], record: Record, taken: Taken) -> list[Message]:
    """The messages after what stands in the row's system column, if there is anything."""
    given = _optional(record, taken, "system")
    if given is None:
        return messages
    column = taken["system"]
    system = Message("system", text_of(given, column))
    if messages[0] == system:
        return messages
    if messages[0].role == "system":
        fact = f"its column {column} and its system turn do not say the same"
        raise Fault(fact, "Keep one of them.", kind="role_order")
    return [system, *messages]


def _below(above: str, below: Any, name: str) -> str:
    """Two texts with a blank line between them; one that is only spaces is left out."""
    for value in (above, below):
        if not isinstance(value, str):
            raise Fault(f"{name} is {kind_of(value)}, not a text", "Make it a text.")
    if not below.strip():
        return above
    return f"{text_of(above, name)}\n\n{text_of(below, name)}" if above.strip() else below


def _history(value: Any, name: str) -> list[Message]:
    """Earlier questions with their answers, [[question, answer], ...]."""
    messages: list[Message] = []
    pairs = as_list(value)
    if pairs is None:
        fact = f"{name} is {kind_of(value)}, not a list of pairs"
        raise Fault(fact, "Give [[question, answer], ...].")
    for place, pair in enumerate(pairs):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            fact = f"{name}[{place}] is not a pair of question and answer"
            raise Fault(fact, "Give [[question, answer], ...].")
        messages.append(Message("user", text_of(pair[0], f"{name}[{place}][0]")))
        answer = text_of(pair[1], f"{name}[{place}][1]", "empty_answer")
        messages.append(Message("assistant", answer))
    return messages


def _first(value: Any, name: str) -> str:
    """The answer: a text, the first of a list of texts, or of the list in {"text": [...]}."""
    if isinstance(value, dict) and "text" in value:
        value, name = value["text"], f"{name}.text"
    if isinstance(value, list | tuple):
        if not value:
            fact = f"{name} is an empty list"
            raise Fault(fact, "Add the answer, or remove the row.", kind="empty_answer")
        value, name = value[0], f"{name}[0]"
    return text_of(value, name, "empty_answer")


_READERS: dict[str, Callable[[Record, Taken], list[Message]]] = {
    "messages": _messages,
    "conversations": _conversations,
    "completion": _completion,
    "alpaca": _alpaca,
    "question": _question,
}
