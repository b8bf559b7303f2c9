"""Turns rows into what is trained: token ids, and labels that say which of them the loss counts.

Knows nothing of files or trainers. `template.py` writes the conversations; here they are cut and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ..problems import DataError, Problem
from .rows import Row, named
from .template import Tokens, prompt_ids, prompt_text, tokens

__all__ = ["IGNORED", "Encoded", "EncodedRow", "encode", "prompt_ids", "prompt_text"]

IGNORED = -100  # the label that PyTorch's cross entropy leaves out


class EncodedRow(NamedTuple):
    """A row as it is trained: ids and labels of the same length; a label is its token's id, or IGNORED."""

    number: int
    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Encoded:
    """The rows that are trained, and what was done to get there.

    `tokens` and `trained_tokens` count what is left after cutting. `cut_rows` is how many rows were longer than the
    sequence length; `longest` is the tokens of the longest row before cutting, `longest_row` its number. `untrained`
    are the numbers of the rows that were left out because nothing in them would be learned.
    """

    rows: list[EncodedRow]
    tokens: int
    trained_tokens: int
    cut_rows: int
    longest: int
    longest_row: int
    untrained: tuple[int, ...]
    warnings: tuple[Problem, ...]


def encode(
    rows: Sequence[Row], tokenizer: Any, *, max_length: int, loss_on: Literal["assistant", "all"]
) -> Encoded:
    """Writes, masks and cuts rows to `max_length` tokens.

    Rows in which nothing is left to learn are left out and reported. Raises DataError when that is all of them, or
    when the tokenizer's chat template cannot be used.
    """
    kept: list[EncodedRow] = []
    cut: list[int] = []
    untrained: list[int] = []
    unended: list[int] = []
    longest = longest_row = 0
    end_tokens = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    for row in tokens(rows, tokenizer, loss_on=loss_on):
        if len(row.ids) > longest:
            longest, longest_row = len(row.ids), row.number
        if len(row.ids) > max_length:
            cut.append(row.number)
        if loss_on == "assistant" and not _learns_to_end(row, end_tokens):
            unended.append(row.number)
        labels = [token if on else IGNORED for token, on in zip(row.ids, row.mask, strict=True)]
        labels = labels[:max_length]
        if any(label != IGNORED for label in labels[1:]):  # nothing predicts the first token
            kept.append(EncodedRow(row.number, row.ids[:max_length], labels))
        else:
            untrained.append(row.number)
    length = f"row {longest_row:,} with {longest:,} tokens"
    if not kept:
        raise DataError([_nothing_left(len(rows), len(cut), length, max_length)])
    warnings = [
        *_cut(cut, len(rows), length, max_length),
        *_left_out(untrained, set(cut), len(rows)),
        *_without_end(unended, len(rows)),
    ]
    return Encoded(
        rows=kept,
        tokens=sum(len(row.input_ids) for row in kept),
        trained_tokens=sum(len(row.labels) - row.labels.count(IGNORED) for row in kept),
        cut_rows=len(cut),
        longest=longest,
        longest_row=longest_row,
        untrained=tuple(untrained),
        warnings=tuple(warnings),
    )


def _learns_to_end(row: Tokens, end_tokens: set[int]) -> bool:
    """Whether the last learned tokens hold one that can end a turn; a line break may follow it."""
    learned = [token for token, on in zip(row.ids, row.mask, strict=True) if on]
    return not learned or any(token in end_tokens for token in learned[-2:])


def _nothing_left(rows: int, cut: int, longest: str, max_length: int) -> Problem:
    fact = f"Nothing is left to learn in any of the {rows:,} rows"
    if cut:
        fact += f": {cut:,} are longer than {max_length:,} tokens and were cut before their answers begin"
        cure = f"Raise model.max_length; the longest is {longest}."
        return Problem("model.max_length", fact + ".", cure)
    fact += ": the chat template marks none of their tokens as the assistant's."
    return Problem(
        "data.loss_on",
        fact,
        "Mend the template's {% generation %} marks, or set data.loss_on to all.",
    )


def _cut(cut: list[int], rows: int, longest: str, max_length: int) -> list[Problem]:
    if not cut:
        return []
    fact = f"{len(cut):,} of {rows:,} rows are longer than {max_length:,} tokens and are cut: {named(cut)}."
    return [Problem("model.max_length", fact, f"Raise model.max_length; the longest is {longest}.")]


def _left_out(untrained: list[int], cut: set[int], rows: int) -> list[Problem]:
    """The rows without anything to learn: those whose answer was cut off, and those in which nothing is marked."""
    reasons = (
        (
            "their answers were cut off",
            "Raise model.max_length.",
            [n for n in untrained if n in cut],
        ),
        (
            "the chat template marks none of their tokens as the assistant's",
            "Look at these rows and at the template's {% generation %} marks.",
            [n for n in untrained if n not in cut],
        ),
    )
    return [
        Problem(
            "data.train",
            f"{len(left):,} of {rows:,} rows are left out, {why}: {named(left)}.",
            cure,
        )
        for why, cure, left in reasons
        if left
    ]


def _without_end(unended: list[int], rows: int) -> list[Problem]:
    if not unended:
        return []
    fact = f"In {len(unended):,} of {rows:,} rows no end-of-turn token is learned, so the model may not stop: {named(unended)}."
    cure = "Put the template's end-of-turn token inside its {% generation %} marks."
    return [Problem("data.loss_on", fact, cure)]
