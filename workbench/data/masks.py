"""Every row's tokens, and which of them are learned: `data.loss_on` says whose words.

Rows are written with the chat template and tokenized by the thousand. Knows nothing of files, cutting or labels;
`spans.py` says which characters are whose.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate, islice
from typing import Any, NamedTuple
from unicodedata import is_normalized

from ..problems import DataError, Problem
from ..recipe import LossOn
from .faults import Fault, Faults
from .rows import Row, named
from .spans import Finder
from .tokenizer import ChatTokenizer
from .writing import Span, Written

BATCH = 250  # rows tokenized at once: bounds the memory that encodings take
Encoded = tuple[list[Row], list[Written], list[Any]]
SHOWN = 20  # kinds of rows that cannot be written that are told in full


class Tokens(NamedTuple):
    """A row's token ids, uncut, and for each of them 1 if it is learned, else 0."""

    ids: list[int]
    mask: bytes


def tokens(rows: Iterable[Row], tokenizer: ChatTokenizer, *, loss_on: LossOn) -> Iterator[Tokens]:
    """Every row's ids with what is learned of them, in order.

    Learned are the turns of the roles in `loss_on` with their end-of-turn tokens; of the assistant's, what the
    template's generation marks enclose if it has any. Raw text is learned whole, with the token that ends a text.
    Raises DataError that names all the rows that cannot be written or marked.
    """
    remaining, write = iter(rows), writer(tokenizer, loss_on)
    waiting: Future[Encoded] | None = None
    # While one batch is tokenized, which does not hold Python's lock, the next one is written.
    with ThreadPoolExecutor(1) as pool:
        while batch := list(islice(remaining, BATCH)):
            written = _written(batch, remaining, write)
            coming = pool.submit(_encoded, batch, written, tokenizer)
            if waiting:
                yield from _marked(*waiting.result(), tokenizer)
            waiting = coming
        if waiting:
            yield from _marked(*waiting.result(), tokenizer)


def writer(tokenizer: ChatTokenizer, loss_on: LossOn) -> Callable[[Row], Written]:
    """How a row is written and its learned characters are found: raises Fault where that cannot be done."""
    if loss_on == "all":
        return lambda row: _all(tokenizer, row)
    roles = set(loss_on) if isinstance(loss_on, list) else {"assistant"}
    last = loss_on == "last"
    if "assistant" not in roles or not tokenizer.has_marks:
        return Finder(tokenizer, roles, last=last).find
    if last:
        return lambda row: _last_marks(tokenizer, row)
    if roles == {"assistant"}:
        return lambda row: tokenizer.marked(row.turns(), tools=row.tools)
    others = Finder(tokenizer, roles - {"assistant"}, last=False)

    def both(row: Row) -> Written:
        text, marks = tokenizer.marked(row.turns(), tools=row.tools)
        return Written(text, sorted(marks + others.find(row).spans))

    return both


def _all(tokenizer: ChatTokenizer, row: Row) -> Written:
    text = tokenizer.write(row.turns(), tools=row.tools)
    return Written(text, [(0, len(text))])


def _last_marks(tokenizer: ChatTokenizer, row: Row) -> Written:
    """The marks of the last answer: those that are not there yet when the conversation ends before it."""
    text, marks = tokenizer.marked(row.turns(), tools=row.tools)
    before = [message.turn() for message in row.prompt]
    earlier = tokenizer.marked(before, tools=row.tools).spans if before else []
    return Written(text, marks[len(earlier) :])


def _written(
    batch: list[Row], remaining: Iterator[Row], write: Callable[[Row], Written]
) -> list[Written]:
    """The batch as texts. Raises DataError for all rows that cannot be written, those that `remaining` has too."""
    written, faults = [], Faults()
    for row in batch:
        try:
            written.append(write(row) if row.messages else Written(row.text, []))
        except Fault as fault:
            faults.add(fault, row.number, row.file)
    if not faults:
        return written
    for row in remaining:  # so that all such rows are told at once
        if row.messages:
            try:
                write(row)
            except Fault as fault:
                faults.add(fault, row.number, row.file)
    raise DataError(_problems(faults))


def _problems(faults: Faults) -> list[Problem]:
    problems = []
    for fact, cure, _, file, numbers in faults.groups[:SHOWN]:
        where = named(numbers) + (f" of {file}" if file else "")
        problems.append(Problem(where, f"{where[0].upper()}{where[1:]}: {fact}.", cure))
    rest = faults.count - sum(len(group.numbers) for group in faults.groups[:SHOWN])
    if rest:
        cure = "They are shown when those above are mended."
        problems.append(Problem("", f"{rest:,} more rows cannot be written or marked.", cure))
    return problems


def _encoded(batch: list[Row], written: list[Written], tokenizer: ChatTokenizer) -> Encoded:
    """The batch with an encoding of each text. Without offsets where the tokens' lengths tell the same."""
    quick = tokenizer.byte_lengths is not None
    encodings = tokenizer.encode([text for text, _ in written], quick=quick)
    raw = [place for place, row in enumerate(batch) if not row.messages]
    for place, encoding in zip(
        raw, tokenizer.encode([written[place].text for place in raw], special=True), strict=True
    ):
        encodings[place] = encoding
    return batch, written, encodings


def _marked(
    batch: list[Row], written: list[Written], encodings: list[Any], tokenizer: ChatTokenizer
) -> Iterator[Tokens]:
    lengths, end = tokenizer.byte_lengths, tokenizer.eos_id
    for row, (text, spans), encoding in zip(batch, written, encodings, strict=True):
        ids = encoding.ids
        if not row.messages:
            ids += [] if end is None or ids[-1:] == [end] else [end]
            yield Tokens(ids, b"\1" * len(ids))
        elif spans == [(0, len(text))]:
            yield Tokens(ids, b"\1" * len(ids))
        else:
            bounds = _by_lengths(text, spans, ids, lengths) if lengths else None
            if bounds is None:
                encoding = tokenizer.encode([text])[0] if lengths else encoding
                bounds = _by_offsets(spans, encoding)
            yield Tokens(ids, _mask(bounds, len(ids)))


def _by_lengths(
    text: str, spans: list[Span], ids: list[int], lengths: list[int]
) -> list[Span] | None:
    """The first token of each span and one past its last, by how many bytes each token stands for.

    None when that cannot be trusted: when the tokens' bytes are not the text's, or a normalizer may have changed some.
    """
    plain = text.isascii()
    if not plain and not is_normalized("NFC", text):
        return None
    ends = list(accumulate(map(lengths.__getitem__, ids)))
    if not ends or ends[-1] != (len(text) if plain else len(text.encode())):
        return None
    bounds = []
    for start, end in spans:
        if start == end:
            continue
        if not plain:
            start, end = len(text[:start].encode()), len(text[:end].encode())
        bounds.append((bisect_right(ends, start), bisect_right(ends, end - 1) + 1))
    return bounds


def _by_offsets(spans: list[Span], encoding: Any) -> list[Span]:
    """The same by where the tokenizer says that its tokens are; characters that no token stands for are passed over."""
    bounds = []
    for start, end in spans:
        place, until = start, end - 1
        while place < end and (first := encoding.char_to_token(place)) is None:
            place += 1
        while until >= place and (last := encoding.char_to_token(until)) is None:
            until -= 1
        if place <= until:
            bounds.append((first, last + 1))
    return bounds


def _mask(bounds: list[Span], count: int) -> bytes:
    """1 from each first bound up to, not including, the second."""
    mask = bytearray(count)
    for first, end in bounds:
        mask[first:end] = b"\1" * (end - first)
    return bytes(mask)
