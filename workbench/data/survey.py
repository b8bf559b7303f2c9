"""One pass over all rows that notes what the report asks of their texts: order of roles, answers, scripts, hints.

Knows no tokens, and judges nothing: what is worth telling is decided in `findings.py`.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import TYPE_CHECKING, NamedTuple

from . import hints, languages
from .rows import Message, Row

if TYPE_CHECKING:
    import numpy as np

BATCH = 2_000  # rows looked at in one go
ENOUGH = 2  # words from which on an answer is not counted further
SHORT = 20  # letters up to which an answer without spaces is one word; a longer one may be JSON or Chinese
# Signs of the usual templates; in a content they are read as the end of a turn, or as letters that mean nothing.
TEMPLATE_SIGNS = (
    "<|im_start|> <|im_end|> <|eot_id|> <|start_header_id|> <|end_header_id|> <|begin_of_text|> <|endoftext|>"
    " <start_of_turn> <end_of_turn> [INST] [/INST] <<SYS>> <|user|> <|assistant|> <|system|> <|end|>"
).split()


class Told(NamedTuple):
    """Something that was found in a row's text: the row's position, and words for it that may be shown."""

    position: int
    what: str
    shown: str


@dataclass(frozen=True, eq=False)
class Survey:
    """What the rows' texts are like, `(rows,)` each.

    `words` of the last answer (ENOUGH for that many or more). `prompts` and `answers` are numbers that are equal for equal texts, and 0
    where there is none. `scripts` and `languages` are places in the tuples of `languages.py`. `order` has for each
    fault in the order of roles the positions of its rows; `told` for each kind what was found in the texts.
    """

    turns: int
    words: "np.ndarray"
    prompts: "np.ndarray"
    answers: "np.ndarray"
    scripts: "np.ndarray"
    languages: "np.ndarray"
    order: dict[str, list[int]]
    told: dict[str, list[Told]]

    def __len__(self) -> int:
        return len(self.words)

    def part(self, positions: "np.ndarray") -> "Survey":
        """The arrays of some of the rows; without turns, faults in their order, and what was found in their texts."""
        arrays = (self.words, self.prompts, self.answers, self.scripts, self.languages)
        return Survey(0, *(array[positions] for array in arrays), {}, {})


def survey(
    rows: Sequence[Row],
    *,
    signs: Iterable[str] = (),
    progress: Callable[[int, int | None], None] | None = None,
) -> Survey:
    """Looks at all rows; `signs` are special tokens that no content should hold, beside TEMPLATE_SIGNS."""
    import numpy as np

    count = len(rows)
    found = Survey(
        0,
        *(np.zeros(count, kind) for kind in (np.uint8, np.int64, np.int64, np.uint8, np.uint8)),
        defaultdict(list),
        defaultdict(list),
    )
    special = _any_of({*TEMPLATE_SIGNS, *signs})
    known: dict[str, tuple[str, ...]] = {}
    turns, start, remaining = 0, 0, iter(rows)
    while batch := list(islice(remaining, BATCH)):
        turns += sum(len(row.messages) for row in batch)
        _answers(batch, start, found)
        _order(batch, start, found, known)
        _texts(batch, start, found, special)
        start += len(batch)
        if progress:
            progress(start, count)
    found.order.default_factory = found.told.default_factory = None
    return Survey(turns, *(getattr(found, name) for name in list(Survey.__annotations__)[1:]))


def order_faults(messages: Sequence[Message]) -> tuple[str, ...]:
    """What is wrong with the order of a conversation's roles."""
    return _faults(_letters(messages))


def _letters(messages: Sequence[Message]) -> str:
    """A letter for each role; A is an assistant that calls a tool."""
    return "".join("A" if m.tool_calls else m.role[:1] for m in messages)


def _faults(letters: str) -> tuple[str, ...]:
    found = {
        "assistant_first": letters.lstrip("s")[:1] in ("a", "A"),
        "system_not_first": "s" in letters[1:],
        # what follows a call is the tool's turn
        "role_twice": re.search("uu|aa|aA", letters) is not None,
        "tool_without_call": re.search("(?<![At])t", letters) is not None,
        "call_without_result": re.search("A[^t]", letters) is not None,
        "ends_with_user": letters[-1:] in ("u", "t"),
    }
    return tuple(kind for kind, holds in found.items() if holds)


def _order(batch: list[Row], start: int, found: Survey, known: dict[str, tuple[str, ...]]) -> None:
    for position, row in enumerate(batch, start):
        letters = _letters(row.messages)
        kinds = known.get(letters)
        if kinds is None:
            kinds = known[letters] = _faults(letters)
        for kind in kinds:
            found.order[kind].append(position)


def _answers(batch: list[Row], start: int, found: Survey) -> None:
    for position, row in enumerate(batch, start):
        if not row.messages:
            found.words[position] = _words(row.text)
            continue
        answer = row.answer
        # what is called is an answer too
        calls = any(m.role == "assistant" and m.tool_calls for m in row.messages)
        found.words[position] = ENOUGH if calls else _words(answer)
        found.prompts[position] = hash(row.prompt) or 1
        found.answers[position] = hash(answer.strip()) or 1


def _words(text: str) -> int:
    return ENOUGH if len(text) > SHORT else len(text.split(None, ENOUGH)[:ENOUGH])


def _texts(batch: list[Row], start: int, found: Survey, special: re.Pattern[str]) -> None:
    spoken = [
        row.text or "\n".join(m.content for m in row.messages if m.role != "system")
        for row in batch
    ]
    place = slice(start, start + len(batch))
    found.scripts[place] = languages.scripts(spoken)
    latin = found.scripts[place] == languages.SCRIPTS.index("Latin")
    read = [text if is_latin else "" for text, is_latin in zip(spoken, latin, strict=True)]
    found.languages[place] = languages.languages(read)
    texts = ["\n".join(parts(row)) for row in batch]
    for at, mark in hints.each(texts):
        _tell(found, mark.kind, Told(start + at, mark.what, mark.shown))
    # raw text is written as it is, so that its signs are meant
    contents = ["\n".join(m.content for m in row.messages) for row in batch]
    joined, ends = hints.APART.join(contents), _ends(contents)
    at = 0
    for match in special.finditer(joined):
        while match.start() >= ends[at]:
            at += 1
        sign = sys.intern(match[0])
        _tell(found, "special_tokens", Told(start + at, sign, sign))


def _tell(found: Survey, kind: str, told: Told) -> None:
    """Keeps the first that a row holds of a kind: a million rows may hold millions."""
    known = found.told[kind]
    if not known or known[-1].position != told.position:
        known.append(told)


def parts(row: Row) -> list[str]:
    """All texts of a row that are written for the model."""
    if not row.messages:
        return [row.text]
    return [
        text for m in row.messages for text in (m.content, m.reasoning, m.tool_calls) if text
    ]  # fmt: skip


def _ends(texts: Sequence[str]) -> list[int]:
    return list(accumulate(len(text) + 1 for text in texts))


def _any_of(signs: set[str]) -> re.Pattern[str]:
    told = sorted((sign for sign in signs if sign.strip()), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, told)))
