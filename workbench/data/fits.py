"""Looks at records for the shapes that their columns fit, and says in words what is there when none does.

Knows column names and what a list of turns looks like; how a record of a shape is read stands in `shapes.py`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..problems import DataError, Problem
from .turns import ALIASES, STRICT, as_list, kind_of, listing, looks_like_turns

SHAPES = (
    "messages; conversations; prompt and completion;"
    " instruction, output and if needed input and system; question and answer; text"
)
LISTS = ("messages", "conversations")
NEEDS = {
    "messages": "a list of {role, content}",
    "conversations": "a list of {from, value}",
    "alpaca": "instruction and output",
    "completion": "prompt and completion",
    "question": "question and answer",
    "text": "a column text, content or body",
}
#: What is asked with, and what is answered with, best first.
PAIRS = {
    "alpaca": (("instruction", ("output", "response", "completion", "answer")),),
    "completion": (
        ("prompt", ("completion", "response", "answer", "output")),
        ("input", ("output", "completion", "response", "answer")),
    ),
    "question": (
        ("question", ("answer", "answers", "response", "output")),
        ("query", ("response", "answer", "answers", "output")),
        ("q", ("a",)),
    ),
}
TEXTS = ("text", "content", "body")
SYSTEMS = ("system", "system_prompt")
PREFERENCE = ("chosen", "rejected")
COLUMNS = 12  # that are told with an example
_TAKEN = {name for pairs in PAIRS.values() for asked, said in pairs for name in (asked, *said)}
_KNOWN = {*_TAKEN, *LISTS, *PREFERENCE, *SYSTEMS, "history", "tools", "functions"}


class Fit(NamedTuple):
    """A shape that records have: its name, which column holds which part, how many have it, and it in words."""

    name: str
    taken: dict[str, str]
    count: int
    what: str


def columns_of(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """All columns that the records have, in the order in which they appear."""
    names = dict.fromkeys(name for record in records for name in record)
    return [name for name in names if isinstance(name, str)]


def fits(records: Sequence[Mapping[str, Any]], *, lists: Sequence[str] = ()) -> list[Fit]:
    """Every shape that at least one record has, the richest first.

    Where no value fits, the names of the columns decide. `lists` names columns in which turns are looked for although
    they are no conversations as a rule.
    """
    columns = columns_of(records)
    found = [
        *_conversations(records, columns, lists),
        *_pairs(records, columns, lambda record, name: record.get(name) is not None),
        *_texts(records, columns),
    ]
    if any(fit.count for fit in found):
        return [fit for fit in found if fit.count]
    named = [
        Fit(name, _with_system({"messages": name}, columns), sum(name in r for r in records), name)
        for name in LISTS
        if name in columns
    ]
    return named + _pairs(records, columns, lambda record, name: name in record)


def choose(found: Sequence[Fit], looked: int) -> Fit:
    """The richest of what at least half of the rows have, or else what most have."""
    usual = [fit for fit in found if 2 * fit.count >= looked]
    return usual[0] if usual else max(found, key=lambda fit: fit.count)


def why(fit: Fit, found: Sequence[Fit], looked: int) -> str:
    """In a sentence, how many rows have the shape and what else there is."""
    if looked == 1:
        said = f"the only row has {fit.what}"
    elif fit.count == looked:
        said = f"all {looked:,} rows looked at have {fit.what}"
    else:
        said = f"{fit.count:,} of {looked:,} rows looked at have {fit.what}"
    mine = set(fit.taken.values())
    others = [other for other in found if not set(other.taken.values()) <= mine]
    if not others:
        return said
    other = others[0]
    if other.count < fit.count:
        return f"{said}; {other.count:,} {'has' if other.count == 1 else 'have'} {other.what}"
    many = " and " in other.what
    return f"{said}; {other.what} {'are' if many else 'is'} there too, and not taken"


def refuse_preferences(records: Sequence[Mapping[str, Any]], found: Sequence[Fit]) -> None:
    """Raises DataError where most records have a chosen and a rejected answer, and no conversation beside them."""
    both = [r for r in records if all(r.get(name) is not None for name in PREFERENCE)]
    if 2 * len(both) < len(records) or not both:
        return
    for fit in found:
        if fit.name in LISTS:
            ends = [(as_list(record.get(fit.taken["messages"])) or [None])[-1] for record in both]
            if sum(_role(end) == "assistant" for end in ends) * 2 >= len(both):
                return
    chosen = both[0]["chosen"]
    turns = as_list(chosen) if looks_like_turns(chosen) else []
    asked = next((name for name in ("prompt", "question", "instruction") if name in both[0]), None)
    if any(_role(turn) == "user" for turn in turns):
        cure = "Set data.shape to messages to learn the conversations in chosen."
    else:
        cure = (
            "Learn the chosen answers: set data.columns to"
            f" {{'prompt': '{{{asked or 'your column'}}}', 'completion': '{{chosen}}'}}."
        )
    fact = "The rows are pairs of a chosen and a rejected answer, which this training does not compare."
    raise DataError([Problem("data.columns", fact, cure)])


def nothing_fits(records: Sequence[Mapping[str, Any]]) -> DataError:
    """What is there, with a short example of each column and what a column map could look like for it."""
    columns = columns_of(records)
    if not columns:
        fact = "The rows have no known shape: their columns are none."
        return DataError([Problem("data.columns", fact, f"Known are: {SHAPES}.")])
    fact = f"The rows have no known shape. Their columns are: {_examples(records, columns)}."
    cure = f"Say what a row is made of, such as data.columns = {_map(records, columns)}."
    return DataError([Problem("data.columns", fact, f"{cure} Known without it are: {SHAPES}.")])


def shape_does_not_fit(
    shape: str, records: Sequence[Mapping[str, Any]], found: Sequence[Fit]
) -> DataError:
    """That the records do not have the shape that was asked for, and what they have."""
    there = listing(dict.fromkeys(columns_of(records)), "none")
    fact = f"data.shape is {shape}, which needs {NEEDS[shape]}; the columns are {there}."
    cure = "Set data.columns to say which column is which."
    if found:
        fit = choose(found, len(records))
        cure = f"Leave data.shape at auto, which would read them as {fit.name}."
    return DataError([Problem("data.shape", fact, cure)])


def _conversations(
    records: Sequence[Mapping[str, Any]], columns: Sequence[str], lists: Sequence[str]
) -> list[Fit]:
    """Columns that hold lists of turns: the usual names first, then most often filled ones."""
    others = [name for name in columns if name not in _KNOWN or name in lists]
    found = []
    for name in [*(name for name in LISTS if name in columns), *others]:
        firsts = [
            as_list(record[name])[:4] for record in records if looks_like_turns(record.get(name))
        ]
        if firsts:
            found.append(_conversation(name, firsts, columns))
    order = {name: place for place, name in enumerate(LISTS)}
    return sorted(found, key=lambda fit: (order.get(fit.taken["messages"], 2), -fit.count))


def _conversation(column: str, firsts: Sequence[Sequence[Any]], columns: Sequence[str]) -> Fit:
    """The fit of one column, by the first turns of each of its lists: the roles tell one form from the other."""
    strict = other = 0
    for turns in firsts:
        roles = [turn.get("role") for turn in turns if isinstance(turn, dict)]
        if all(isinstance(role, str) and role in STRICT for role in roles):
            strict += 1
        elif all(_role(turn) for turn in turns):
            other += 1
    name = "conversations" if other > strict else "messages"
    keys = firsts[0][0]
    role = "role" if keys.get("role") is not None else "from"
    content = "value" if "value" in keys and keys.get("content") is None else "content"
    taken = _with_system({"messages": column}, columns)
    return Fit(name, taken, len(firsts), f"{column} with {role} and {content}")


def _pairs(
    records: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    has: Callable[[Mapping[str, Any], str], bool],
) -> list[Fit]:
    """Columns that ask and columns that answer, with what may stand beside them; names are taken in any case."""
    real = {name.lower(): name for name in columns} | {name: name for name in columns}
    found = []
    for shape, pairs in PAIRS.items():
        for asked, answers in pairs:
            for answer in answers:
                if asked not in real or answer not in real:
                    continue
                taken = {"prompt": real[asked], "completion": real[answer]}
                count = sum(all(has(record, name) for name in taken.values()) for record in records)
                taken = _beside(shape, taken, real)
                found.append(Fit(shape, taken, count, _words(records, taken)))
    return found


def _beside(shape: str, taken: dict[str, str], real: Mapping[str, str]) -> dict[str, str]:
    """The parts of a shape with its optional ones, which later records may have although these have not."""
    if shape == "alpaca":
        given = next((real[name] for name in ("input", "context") if name in real), "input")
        taken = taken | {"input": given, "history": real.get("history", "history")}
    elif shape == "question":
        taken = taken | {"context": real.get("context", "context")}
    return _with_system(taken, real)


def _with_system(taken: dict[str, str], columns: Iterable[str]) -> dict[str, str]:
    return taken | {"system": next((name for name in SYSTEMS if name in columns), SYSTEMS[0])}


def _words(records: Sequence[Mapping[str, Any]], taken: Mapping[str, str]) -> str:
    """The columns in the order in which they are read: "instruction, input and output"."""
    order = ("system", "history", "context", "prompt", "input", "completion")
    names = [taken[part] for part in order if any(taken.get(part) in r for r in records)]
    said = f"{', '.join(names[:-1])} and {names[-1]}"
    answers = [record.get(taken["completion"]) for record in records]
    several = any(isinstance(a, dict | list) and not looks_like_turns(a) for a in answers)
    return f"{said} (the first where there are several)" if several else said


def _texts(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[Fit]:
    """The column that holds raw text: one of the usual name, or the only one that holds text at all."""

    def count(name: str) -> int:
        return sum(isinstance(record.get(name), str) for record in records)

    for name in TEXTS:
        if name in columns and (rows := count(name)):
            return [Fit("text", {"text": name}, rows, name)]
    written = [name for name in columns if count(name)]
    if len(written) == 1 and written[0].lower() not in _KNOWN:
        what = f"text in {written[0]} alone"
        return [Fit("text", {"text": written[0]}, count(written[0]), what)]
    return []


def _role(turn: Any) -> str | None:
    """The role of a turn in any form, as far as it is known."""
    role = None
    if isinstance(turn, dict):
        role = turn.get("role") if turn.get("role") is not None else turn.get("from")
    return ALIASES.get(role.strip().lower()) if isinstance(role, str) else None


def _examples(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    said = []
    for name in columns[:COLUMNS]:
        value = next((r[name] for r in records if r.get(name) is not None), None)
        value = value[:40] + "..." if isinstance(value, str) and len(value) > 40 else value
        said.append(f"{listing({name: 0}, '')} ({kind_of(value)})")
    more = f" and {len(columns) - COLUMNS:,} more" if len(columns) > COLUMNS else ""
    return ", ".join(said) + more


def _map(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, str]:
    """A column map that could be meant: the two columns with the longest texts, in their order."""

    def length(name: str) -> int:
        return sum(len(r[name]) for r in records if isinstance(r.get(name), str))

    texts = [name for name in columns if length(name)] or list(columns)
    longest = sorted(texts, key=length, reverse=True)[:2]
    asked, *answered = [f"{{{name}}}" for name in columns if name in longest]
    return {"prompt": asked, "completion": answered[0]} if answered else {"text": asked}
