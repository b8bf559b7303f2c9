"""Between rows on disk and a trainer: which rows share a batch, in which order, and the tensors made of them.

Rows stay memory-mapped until a batch asks for them. Knows token ids and masks; nothing of models or of trainers.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..data.batching import Batching, blocks, order, pack
from ..data.encode import IGNORED, Encoded

if TYPE_CHECKING:
    import numpy as np

PackedFields = Callable[[list[int]], dict[str, Any] | None]
Batch = dict[str, Any]


class Piece(NamedTuple):
    """Tokens that see each other, and 1 for each that is learned, `(tokens,)`; nothing predicts the first."""

    ids: "np.ndarray"
    mask: "np.ndarray"


class Units(Protocol):
    """What a trainer counts as its examples: each is some pieces, and `lengths` are the tokens of each."""

    lengths: "np.ndarray"

    def __getitem__(self, place: int) -> list[Piece]: ...


class Rows:
    """One row each, cut to the encoding's `max_length`.

    `longest_first` is for rows whose order does not matter: the least padding, and short memory shows at once.
    """

    def __init__(self, encoded: Encoded, *, longest_first: bool = False) -> None:
        import numpy as np

        self._tokenized, self._until = encoded.tokenized, encoded.max_length
        places = np.argsort(-encoded.lengths, kind="stable") if longest_first else slice(None)
        self._positions, self.lengths = encoded.positions[places], encoded.lengths[places]

    def __getitem__(self, place: int) -> list[Piece]:
        position, until = int(self._positions[place]), self._until
        ids, mask = self._tokenized.ids(position), self._tokenized.mask(position)
        return [Piece(ids[:until], mask[:until])]


class Packs:
    """Sequences of several whole rows, each row a piece of its own."""

    def __init__(self, encoded: Encoded) -> None:
        import numpy as np

        self._rows = Rows(encoded)
        self._places, self._offsets = pack(encoded.lengths, encoded.max_length)
        self.lengths = np.add.reduceat(encoded.lengths[self._places], self._offsets[:-1])

    def __getitem__(self, place: int) -> list[Piece]:
        inside = self._places[self._offsets[place] : self._offsets[place + 1]]
        return [piece for row in inside for piece in self._rows[int(row)]]


class Blocks:
    """Sequences of `max_length` tokens out of all rows laid end to end, uncut: one piece, whatever rows it touches."""

    def __init__(self, encoded: Encoded) -> None:
        import numpy as np

        self._encoded = encoded
        whole = encoded.tokenized.lengths[encoded.positions]
        self._ends = np.cumsum(whole)
        self.lengths = blocks(whole, encoded.max_length)

    def __getitem__(self, place: int) -> list[Piece]:
        import numpy as np

        start = place * self._encoded.max_length
        end = start + int(self.lengths[place])
        first, last = np.searchsorted(self._ends, (start, end - 1), side="right")
        before = int(self._ends[first - 1]) if first else 0
        inside, tokenized = slice(start - before, end - before), self._encoded.tokenized
        positions = [int(position) for position in self._encoded.positions[first : last + 1]]
        columns = ([read(p) for p in positions] for read in (tokenized.ids, tokenized.mask))
        return [Piece(*(np.concatenate(column)[inside] for column in columns))]


class Order:
    """A sampler for a torch DataLoader: the order of an epoch depends on the seed and the epoch alone.

    `batch_size` is the recipe's, whatever number of rows goes through at once, so that the rows of each optimizer
    step stay the same. With `sorted_by`, an optimizer step's rows, each step's are sorted by length: those of
    grouped batches that are cut another way. Within a step their order changes nothing but rounding.
    """

    def __init__(
        self,
        lengths: "np.ndarray",
        batch_size: int,
        *,
        seed: int,
        grouped: bool,
        sorted_by: int | None = None,
    ) -> None:
        self._lengths, self._batch_size = lengths, batch_size
        self._seed, self._grouped, self._sorted_by = seed, grouped, sorted_by
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch, also when it resumes within one."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        import numpy as np

        how = {"seed": self._seed, "epoch": self._epoch, "grouped": self._grouped}
        places = order(self._lengths, self._batch_size, **how)
        for start in range(0, len(places), self._sorted_by or len(places)):
            step = places[start : start + (self._sorted_by or len(places))]
            if self._sorted_by:
                step = step[np.argsort(self._lengths[step], kind="stable")]
            yield from step.tolist()


class LongestFirst:
    """A sampler that feeds the longest units first, for a trial of the memory."""

    def __init__(self, lengths: "np.ndarray") -> None:
        self._lengths = lengths

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        import numpy as np

        yield from np.argsort(-self._lengths, kind="stable").tolist()


def units(encoded: Encoded, batching: Batching) -> Units:
    """What the trainer counts as examples under this choice."""
    kinds = {"padded": Rows, "grouped": Rows, "packed": Packs, "wrapped": Blocks}
    return kinds[batching.choice](encoded)


def dataset(of: Units, *, heldout: bool = False) -> Any:
    """A `datasets.Dataset` of places in `of`, which is all that a trainer sees before a batch is made."""
    import numpy as np
    from datasets import Dataset

    count = len(of.lengths)
    return Dataset.from_dict({"place": np.arange(count), "heldout": np.full(count, heldout)})


def collator(
    train: Units, heldout: Units | None, pad_token_id: int, packed_fields: PackedFields | None
) -> Callable[[list[dict[str, Any]]], Batch]:
    """Turns examples of the two data sets into tensors; training rows are packed if `packed_fields` is given."""

    def collate(examples: list[dict[str, Any]]) -> Batch:
        from_heldout = bool(examples[0]["heldout"])
        side = heldout if from_heldout else train
        found = [side[example["place"]] for example in examples]
        if packed_fields is None or from_heldout:
            return padded([piece for pieces in found for piece in pieces], pad_token_id)
        return packed(found, pad_token_id, packed_fields)

    return collate


def padded(pieces: Sequence[Piece], pad_token_id: int) -> Batch:
    """A piece in each line: `input_ids`, `labels` and `attention_mask`, `(batch, longest)`, padded on the right.

    Beside them `tokens` that are no padding and `trained_tokens`, for the counting.
    """
    import torch

    lengths = torch.tensor([[len(piece.ids)] for piece in pieces])
    seen = torch.arange(int(lengths.max())) < lengths
    labels = [_labels(piece) for piece in pieces]
    return {
        "input_ids": _lines([piece.ids for piece in pieces], pad_token_id),
        "labels": _lines(labels, IGNORED),
        "attention_mask": seen.long(),
        **_counts(labels),
    }


def packed(sequences: list[list[Piece]], pad_token_id: int, packed_fields: PackedFields) -> Batch:
    """Sequences of pieces, with `position_ids` that start anew at each, by which Transformers keeps them apart.

    Each sequence is a line `(batch, longest)`: attention costs the square of a line. A backend that computes no
    attention between pieces gives fields that say where they end, and gets all in one line `(1, total)`, unpadded.
    """
    import numpy as np
    import torch

    fields = packed_fields([len(piece.ids) for pieces in sequences for piece in pieces])
    if fields is not None:
        sequences = [[piece for pieces in sequences for piece in pieces]]
    ids = [np.concatenate([piece.ids for piece in pieces]) for pieces in sequences]
    labels = [np.concatenate([_labels(piece) for piece in pieces]) for pieces in sequences]
    longest = max(map(len, ids))
    places = [
        # what pads a line is one more piece, which nothing else sees
        np.concatenate([np.arange(size) for size in (*map(_size, pieces), longest - len(line))])
        for pieces, line in zip(sequences, ids, strict=True)
    ]
    batch = {
        "input_ids": _lines(ids, pad_token_id),
        "labels": _lines(labels, IGNORED),
        "position_ids": torch.from_numpy(np.stack(places)),
    }
    return batch | (fields or {}) | _counts(labels)


def _size(piece: Piece) -> int:
    return len(piece.ids)


def _labels(piece: Piece) -> "np.ndarray":
    """The ids that are learned, else IGNORED; never the first, which its predecessor in a line would have to predict."""
    import numpy as np

    labels = np.where(piece.mask, piece.ids, IGNORED).astype(np.int64)
    labels[0] = IGNORED
    return labels


def _lines(rows: "Sequence[np.ndarray]", filler: int) -> Any:
    """Arrays of several lengths as one tensor, filled on the right."""
    import numpy as np
    import torch

    block = np.full((len(rows), max(map(len, rows))), filler, np.int64)
    for line, row in zip(block, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(block)


def _counts(labels: "Sequence[np.ndarray]") -> dict[str, int]:
    trained = sum(int((row != IGNORED).sum()) for row in labels)
    return {"tokens": sum(map(len, labels)), "trained_tokens": trained}
