"""Writes conversations with a model's chat template, and marks the tokens that the assistant says.

Knows nothing of files, cutting or labels. Imports no tokenizer: one of Transformers' is handed in.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeVar

from ..problems import DataError, Problem
from .rows import Message, Row, named

BATCH = 1000  # rows tokenized at once: bounds the memory that character offsets take

Conversation = Sequence[Message | Mapping[str, str]]
Span = tuple[int, int]  # characters of a written text: first, and one past the last
T = TypeVar("T")
Masked = tuple[
    list[list[int]], list[list[int]]
]  # for each row its ids, and 1 where a token is learned


class Tokens(NamedTuple):
    """A row's token ids, uncut, and for each of them 1 if it is learned, else 0."""

    number: int
    ids: list[int]
    mask: list[int]


class Unusable(Exception):
    """Why the template cannot write or mark one row; `cure` is the next step."""

    def __init__(self, fact: str, cure: str) -> None:
        super().__init__(fact)
        self.fact, self.cure = fact, cure


def prompt_text(messages: Conversation, tokenizer: Any) -> str:
    """A conversation as the template writes it, up to where the assistant begins to answer."""
    check_template(tokenizer)
    turns = [
        message._asdict() if isinstance(message, Message) else dict(message) for message in messages
    ]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def prompt_ids(messages: Conversation, tokenizer: Any) -> list[int]:
    """The token ids of `prompt_text`; the template writes the first token itself, so none is added."""
    return tokenizer(prompt_text(messages, tokenizer), add_special_tokens=False)["input_ids"]


def check_template(tokenizer: Any) -> None:
    """Raises DataError for a tokenizer that cannot write a conversation."""
    if not tokenizer.chat_template:
        fact = f"The tokenizer of {tokenizer.name_or_path or 'this model'} has no chat template."
        cure = "Take the model's instruct or chat version, or set tokenizer.chat_template and save it beside the model."
        raise DataError([Problem("model.name", fact, cure)])


def tokens(
    rows: Sequence[Row], tokenizer: Any, *, loss_on: Literal["assistant", "all"]
) -> Iterator[Tokens]:
    """Every row's ids with what is learned of them.

    Learned are the assistant's turns with their end-of-turn token: what the template's generation marks enclose, or
    without marks from where the template ends the generation prompt to where it ends the turn. Raises DataError.
    """
    check_template(tokenizer)
    if loss_on == "all":
        mask = _everything
    elif not tokenizer.is_fast:
        fact = f"{type(tokenizer).__name__} cannot tell which characters a token stands for, which marks the answers."
        raise DataError(
            [Problem("data.loss_on", fact, "Set data.loss_on to all, or take a fast tokenizer.")]
        )
    else:
        has_marks = re.search(r"\{%-?\s*generation\s*-?%\}", tokenizer.get_chat_template())
        mask = _by_marks if has_marks else _by_prefixes
    remaining = iter(rows)
    while batch := list(islice(remaining, BATCH)):
        ids, masks = mask(batch, tokenizer)
        for row, row_ids, row_mask in zip(batch, ids, masks, strict=True):
            yield Tokens(row.number, row_ids, row_mask)


def _everything(rows: list[Row], tokenizer: Any) -> Masked:
    texts = _for_each(rows, lambda row: _write(_turns(row), tokenizer))
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return ids, [[1] * len(row) for row in ids]


def _by_marks(rows: list[Row], tokenizer: Any) -> Masked:
    conversations = [_turns(row) for row in rows]
    try:
        encoded = tokenizer.apply_chat_template(
            conversations, return_dict=True, return_assistant_tokens_mask=True
        )
    except _template_errors():
        _everything(rows, tokenizer)  # finds the rows that it cannot write
        raise
    return encoded["input_ids"], encoded["assistant_masks"]


def _by_prefixes(rows: list[Row], tokenizer: Any) -> Masked:
    marked = _for_each(rows, lambda row: _spans(_turns(row), tokenizer))
    encoded = tokenizer(
        [text for text, _ in marked], add_special_tokens=False, return_offsets_mapping=True
    )
    masks = [
        [int(any(first <= start < end for first, end in spans)) for start, _ in offsets]
        for offsets, (_, spans) in zip(encoded["offset_mapping"], marked, strict=True)
    ]
    return encoded["input_ids"], masks


def _spans(turns: list[dict[str, str]], tokenizer: Any) -> tuple[str, list[Span]]:
    """The whole conversation as text, and the characters of each assistant turn in it. Raises Unusable."""
    text = _write(turns, tokenizer)
    spans = []
    for place, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        if place == 0:
            raise Unusable("it begins with an assistant turn", "Put a user turn before it.")
        before = _write(turns[:place], tokenizer, add_generation_prompt=True)
        through = _write(turns[: place + 1], tokenizer) if place + 1 < len(turns) else text
        for part in (before, through):
            if not text.startswith(part):
                raise _not_stable(text, part, place)
        # what follows the end-of-turn token, most often a line break, is not for the assistant to say
        spans.append((len(before), len(through.rstrip())))
    return text, spans


def _not_stable(text: str, part: str, place: int) -> Unusable:
    same = next((i for i, (a, b) in enumerate(zip(text, part, strict=False)) if a != b), len(text))
    there, here = text[same : same + 20], part[same : same + 20]
    fact = (
        f"the chat template writes messages[{place}] differently when other turns follow"
        f" ({there!r} in the whole, {here!r} by itself), so its answers cannot be told from the rest"
    )
    cure = (
        "Use a template with {% generation %} marks, give each answer a row of its own,"
        " or set data.loss_on to all."
    )
    return Unusable(fact, cure)


def _turns(row: Row) -> list[dict[str, str]]:
    return [message._asdict() for message in row.messages]


def _write(
    turns: list[dict[str, str]], tokenizer: Any, *, add_generation_prompt: bool = False
) -> str:
    try:
        return tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except _template_errors() as error:
        fact = f"the chat template refuses it: {str(error).rstrip('.')}"
        raise Unusable(fact, "Change the order or the roles of its turns.") from None


def _template_errors() -> tuple[type[Exception], ...]:
    from jinja2 import TemplateError

    return (
        TemplateError,
        TypeError,
    )  # TypeError: a template adds a text to something that is not there


def _for_each(rows: list[Row], write: Callable[[Row], T]) -> list[T]:
    """`write` of every row. Raises DataError that names the rows for which it raised Unusable."""
    written: list[T] = []
    unusable: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        try:
            written.append(write(row))
        except Unusable as error:
            unusable.setdefault((error.fact, error.cure), []).append(row.number)
    if unusable:
        problems = []
        for (fact, cure), numbers in unusable.items():
            where = named(numbers)
            problems.append(Problem(where, f"{where[0].upper()}{where[1:]}: {fact}.", cure))
        raise DataError(problems)
    return written
