"""Turns rows into what is trained: token ids, and labels that say which of them the loss counts.

Every row is tokenized once, uncut, and kept in the cache; what is cut to which length is decided on reading it.
Knows nothing of files or trainers. `masks.py` writes and marks the conversations; here they are kept, cut and counted.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..problems import DataError, Problem
from ..recipe import LossOn
from . import cache, masks
from .rows import Row, named
from .tokenizer import ChatTokenizer

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

IGNORED = -100  # the label that PyTorch's cross entropy leaves out
BATCH = 2_000  # rows written to the cache, and counted, at once
VERSION = 1  # of the cache's entries; another one makes them anew
Progress = Callable[[int, int | None], None]


class EncodedRow(NamedTuple):
    """A row as it is trained: ids and labels of the same length; a label is its token's id, or IGNORED.

    The first label is always IGNORED: nothing predicts the first token.
    """

    number: int
    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True, eq=False)
class Tokenized:
    """Every row's ids and mask, uncut, memory-mapped from `path` where they are kept.

    `table` has the columns `input_ids` (list of int32) and `mask` (list of uint8, 1 where a token is learned), a row
    for each row of `rows`. `end_ids` are the tokens that can end a turn.
    """

    rows: Sequence[Row]
    table: "pa.Table"
    path: Path | None
    loss_on: LossOn
    end_ids: frozenset[int]

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def lengths(self) -> "np.ndarray":
        """Tokens of each row, `(rows,)`."""
        return _joined([batch.lengths for batch in self.batches()])

    def ids(self, position: int) -> "np.ndarray":
        """The token ids of the row at a position from 0, `(tokens,)`."""
        return self.table["input_ids"][position].values.to_numpy()

    def mask(self, position: int) -> "np.ndarray":
        """1 where a token of that row is learned, `(tokens,)`."""
        return self.table["mask"][position].values.to_numpy()

    def batches(self) -> Iterator["Batch"]:
        """The rows as flat arrays, some thousands at a time, in order."""
        import numpy as np

        for piece in self.table.to_batches():
            ids, mask = piece["input_ids"], piece["mask"]
            offsets = ids.offsets.to_numpy().astype(np.int64)
            flat = (column.values.to_numpy() for column in (ids, mask))
            yield Batch(offsets, *flat)


class Batch(NamedTuple):
    """Rows laid end to end: row i has the tokens from `offsets[i]` up to `offsets[i + 1]`."""

    offsets: "np.ndarray"
    ids: "np.ndarray"
    mask: "np.ndarray"

    @property
    def lengths(self) -> "np.ndarray":
        return self.offsets[1:] - self.offsets[:-1]

    def trained(self, max_length: int | None = None, *, first: int = 0) -> "np.ndarray":
        """Learned tokens of each row, from its token `first` up to `max_length`, `(rows,)`."""
        import numpy as np

        before = np.concatenate(([0], np.cumsum(self.mask, dtype=np.int64)))
        starts, ends = self.offsets[:-1], self.offsets[1:]
        if max_length is not None:
            ends = np.minimum(ends, starts + max_length)
        return before[ends] - before[np.minimum(starts + first, ends)]

    def ends_learned(self, end_ids: frozenset[int]) -> "np.ndarray":
        """Whether one of a row's last two learned tokens can end a turn; a line break may follow it. `(rows,)` of bool."""
        import numpy as np

        learned = np.flatnonzero(self.mask)
        ending = np.isin(self.ids[learned], list(end_ids))
        after = np.concatenate(([0], np.cumsum(ending)))
        until = np.searchsorted(learned, self.offsets[1:])
        since = np.maximum(np.searchsorted(learned, self.offsets[:-1]), until - 2)
        return (after[until] > after[since]) | (until == since)


class Encoded(Sequence[EncodedRow]):
    """The rows that are trained, cut to `max_length` tokens, and what was done to get there.

    `positions` say where in `tokenized` they are and `lengths` how many tokens they have. `tokens` and
    `trained_tokens` count what is left after cutting, the latter what is predicted. `cut_rows` is how many rows were longer; `longest` is the tokens
    of the longest row before cutting, `longest_row` its number. `untrained` are the numbers of the rows that were left
    out because nothing in them would be learned.
    """

    def __init__(
        self, tokenized: Tokenized, counts: "_Counts", max_length: int, *, run_on: bool = False
    ) -> None:
        import numpy as np

        self.tokenized, self.max_length = tokenized, max_length
        self._until = None if run_on else max_length
        kept = np.ones(len(counts.learned), bool) if run_on else counts.learned > 0
        self.positions = counts.positions[kept]
        self.lengths = counts.lengths[kept]
        if not run_on:
            self.lengths = np.minimum(self.lengths, max_length)
        self.tokens = int(self.lengths.sum())
        self.trained_tokens = int(counts.learned[kept].sum())
        self.cut_rows = 0 if run_on else int((counts.lengths > max_length).sum())
        top = int(counts.lengths.argmax())
        self.longest = int(counts.lengths[top])
        self.longest_row = tokenized.rows[int(counts.positions[top])].number
        self.untrained = tuple(self._numbers(counts.positions[~kept]))
        self.warnings = tuple(self._warnings(counts, kept))

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, place: int) -> EncodedRow:
        position = int(self.positions[place])
        ids = self.tokenized.ids(position)[: self._until].tolist()
        mask = self.tokenized.mask(position)[: self._until]
        labels = [token if on else IGNORED for token, on in zip(ids, mask, strict=True)]
        return EncodedRow(self.tokenized.rows[position].number, ids, [IGNORED, *labels[1:]])

    def _numbers(self, positions: "np.ndarray") -> list[int]:
        numbers = getattr(self.tokenized.rows, "numbers", None)
        if numbers is not None:  # of a million rows none need be decoded
            return numbers[positions].tolist()
        return [self.tokenized.rows[int(position)].number for position in positions]

    def _warnings(self, counts: "_Counts", kept: "np.ndarray") -> list[Problem]:
        of = len(counts.positions)
        longer = counts.lengths > (self._until or self.longest)
        length = f"row {self.longest_row:,} with {self.longest:,} tokens"
        cut, unended = counts.positions[longer], counts.positions[~counts.ended]
        cut_off, unmarked = (counts.positions[~kept & side] for side in (longer, ~longer))
        return [
            *_cut(self._numbers(cut), of, length, self.max_length),
            *_left_out(self._numbers(cut_off), self._numbers(unmarked), of),
            *_without_end(self._numbers(unended), of),
            *_only_ends(
                self._numbers(counts.positions[(counts.learned == 1) & counts.only_ends]), of
            ),
        ]


class _Counts(NamedTuple):
    """Of the rows at `positions`, `(rows,)` each: tokens before cutting, learned ones after it (the first token of a
    row is none, since nothing predicts it), whether an end is learned, and whether nothing else is."""

    positions: "np.ndarray"
    lengths: "np.ndarray"
    learned: "np.ndarray"
    ended: "np.ndarray"
    only_ends: "np.ndarray"


def tokenize(
    rows: Sequence[Row],
    tokenizer: ChatTokenizer,
    *,
    loss_on: LossOn,
    progress: Progress | None = None,
) -> Tokenized:
    """Writes, tokenizes and masks all rows; those of a file are kept, so that the second time takes no time.

    `progress` is told how many of how many rows are done. Raises DataError when the chat template cannot be used.
    """
    import pyarrow as pa

    def made() -> Iterator[pa.RecordBatch]:
        remaining, done = masks.tokens(rows, tokenizer, loss_on=loss_on), 0
        while some := list(islice(remaining, BATCH)):
            yield _record_batch(some)
            done += len(some)
            if progress:
                progress(done, len(rows))

    def keep(place: Path) -> None:
        with pa.OSFile(str(place), "wb") as file, pa.ipc.new_stream(file, _schema()) as stream:
            for batch in made():
                stream.write_batch(batch)

    key, path = getattr(rows, "key", None), None
    if key is None:
        table = pa.Table.from_batches(made(), _schema())
    else:
        parts = (VERSION, key, tokenizer.key, loss_on)
        path = cache.kept(f"tokens-{cache.key(*parts)}.arrow", keep)
        table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    return Tokenized(rows, table, path, loss_on, frozenset(tokenizer.end_ids))


def encode(
    tokenized: Tokenized,
    *,
    max_length: int,
    positions: "np.ndarray | None" = None,
    run_on: bool = False,
) -> Encoded:
    """What is trained of the rows at `positions` (all, if not given), cut to `max_length` tokens.

    Rows in which nothing is left to learn are left out and reported. With `run_on` (wrapped batches) rows go on in the
    next sequence: nothing is cut or left out. Raises DataError when nothing is left to learn in any row.
    """
    import numpy as np

    batches = list(tokenized.batches())
    asked = np.arange(len(tokenized)) if positions is None else np.asarray(positions)
    counts = _Counts(
        asked,
        _joined([batch.lengths for batch in batches])[asked],
        _joined([batch.trained(None if run_on else max_length, first=1) for batch in batches])[
            asked
        ],
        _ended(tokenized, batches)[asked],
        _joined([batch.ends_learned(tokenized.end_ids) for batch in batches])[asked],
    )
    if not counts.learned.any():
        raise DataError([_nothing_left(tokenized, counts, max_length)])
    return Encoded(tokenized, counts, max_length, run_on=run_on)


def _ended(tokenized: Tokenized, batches: list[Batch]) -> "np.ndarray":
    """Whether the end of the answer is learned, `(rows,)`; not asked where everything is, or none of the answers."""
    import numpy as np

    loss_on = tokenized.loss_on
    if loss_on == "all" or (isinstance(loss_on, list) and "assistant" not in loss_on):
        return np.ones(len(tokenized), bool)
    return _joined([batch.ends_learned(tokenized.end_ids) for batch in batches])


def _schema() -> "pa.Schema":
    import pyarrow as pa

    return pa.schema([("input_ids", pa.list_(pa.int32())), ("mask", pa.list_(pa.uint8()))])


def _record_batch(rows: list[masks.Tokens]) -> "pa.RecordBatch":
    import numpy as np
    import pyarrow as pa

    ends = np.cumsum([0, *(len(row.ids) for row in rows)], dtype=np.int32)
    ids = np.fromiter(chain.from_iterable(row.ids for row in rows), np.int32, ends[-1])
    mask = np.frombuffer(b"".join(row.mask for row in rows), np.uint8)
    columns = [pa.ListArray.from_arrays(ends, values) for values in (ids, mask)]
    return pa.RecordBatch.from_arrays(columns, schema=_schema())


def _joined(parts: list[Any]) -> "np.ndarray":
    import numpy as np

    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _nothing_left(tokenized: Tokenized, counts: _Counts, max_length: int) -> Problem:
    rows, cut = len(counts.positions), int((counts.lengths > max_length).sum())
    fact = f"Nothing is left to learn in any of the {rows:,} rows"
    if cut:
        top = int(counts.lengths.argmax())
        number = tokenized.rows[int(counts.positions[top])].number
        longest = f"row {number:,} with {int(counts.lengths[top]):,} tokens"
        fact += f": {cut:,} are longer than {max_length:,} tokens and were cut before their answers begin"
        cure = f"Raise model.max_length; the longest is {longest}."
        return Problem("model.max_length", fact + ".", cure)
    fact += f": none of their tokens belongs to what data.loss_on names ({tokenized.loss_on})."
    cure = "Mend the template's {% generation %} marks, or set data.loss_on to all."
    if isinstance(tokenized.loss_on, list):
        fact = f"Nothing is left to learn in any of the {rows:,} rows: no turn has the role {' or '.join(tokenized.loss_on)}, which data.loss_on names."
        cure = "Set data.loss_on to assistant, or to the roles that the rows have."
    return Problem("data.loss_on", fact, cure)


def _cut(cut: list[int], rows: int, longest: str, max_length: int) -> list[Problem]:
    if not cut:
        return []
    fact = f"{len(cut):,} of {rows:,} rows are longer than {max_length:,} tokens and are cut: {named(cut)}."
    return [Problem("model.max_length", fact, f"Raise model.max_length; the longest is {longest}.")]


def _left_out(cut_off: list[int], unmarked: list[int], rows: int) -> list[Problem]:
    """The rows without anything to learn: those whose answer was cut off, and those in which nothing is marked."""
    reasons = (
        ("their answers were cut off", "Raise model.max_length.", cut_off),
        (
            "none of their tokens is marked as learned",
            "Look at these rows, at data.loss_on and at the template's {% generation %} marks.",
            unmarked,
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


def _only_ends(rows_with: list[int], rows: int) -> list[Problem]:
    if not rows_with:
        return []
    fact = f"In {len(rows_with):,} of {rows:,} rows nothing but the end of the turn is learned, so the model learns to say nothing: {named(rows_with)}."
    cure = "The chat template leaves the answer out, a tool call perhaps: look at these rows, and give another data.template."
    return [Problem("data.template", fact, cure)]
