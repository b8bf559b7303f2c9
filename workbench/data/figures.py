"""What rows cost in tokens: their lengths, what cutting takes away, and how many steps an epoch has.

Counts what `encode.tokenize` wrote, as arrays; knows no texts.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    from .encode import Tokenized

LENGTHS = (512, 1024, 2048, 4096)  # sequence lengths that are compared, beside the recipe's
BINS = 16  # of the histogram, about


class Cut(NamedTuple):
    """What a sequence length costs: rows that are longer, and of them those that keep nothing to learn."""

    length: int
    rows: int
    tokens_lost: int
    trained_lost: int
    unanswered: int


@dataclass(frozen=True, eq=False)
class Figures:
    """Tokens of all rows before cutting, `(rows,)` for arrays.

    `lengths` and `trained` count tokens of each row, `kept` the learned tokens that something predicts and that
    `max_length` leaves, `ended` says whether the end of the last answer is learned.
    """

    max_length: int
    lengths: "np.ndarray"
    trained: "np.ndarray"
    kept: "np.ndarray"
    lost: "np.ndarray"
    ended: "np.ndarray"
    cuts: tuple[Cut, ...]

    @property
    def tokens(self) -> int:
        """Tokens of all rows, uncut."""
        return int(self.lengths.sum())

    @property
    def trained_tokens(self) -> int:
        """Learned tokens of all rows, uncut."""
        return int(self.trained.sum())


def figures(tokenized: "Tokenized", *, max_length: int) -> Figures:
    """Counts the tokens of all rows, and what each of LENGTHS and `max_length` would cut."""
    import numpy as np

    sizes = sorted({*LENGTHS, max_length})
    lengths, trained, kept, lost, ended = [], [], [], [], []
    costs = np.zeros((len(sizes), 4), np.int64)
    for batch in tokenized.batches():
        whole = batch.trained()
        counted = batch.trained(first=1) > 0
        for place, size in enumerate(sizes):
            left = batch.trained(size, first=1)
            missing = whole - batch.trained(size)
            longer = batch.lengths > size
            gone = np.maximum(batch.lengths - size, 0).sum()
            costs[place] += longer.sum(), gone, missing.sum(), (counted & (left == 0)).sum()
            if size == max_length:
                kept.append(left)
                lost.append(missing)
        lengths.append(batch.lengths)
        trained.append(whole)
        ended.append(batch.ends_learned(tokenized.end_ids))
    cuts = tuple(Cut(size, *map(int, cost)) for size, cost in zip(sizes, costs, strict=True))
    joined = (
        np.concatenate(part) if part else np.empty(0, np.int64)
        for part in (lengths, trained, kept, lost)
    )
    ends = np.concatenate(ended) if ended else np.empty(0, bool)
    return Figures(max_length, *joined, ends, cuts)


def histogram(lengths: "np.ndarray", mark: int | None = None) -> "tuple[np.ndarray, np.ndarray]":
    """Edges `(bins + 1,)` and counts `(bins,)` of the lengths; a bin holds its upper edge, as a limit does.

    Bins grow with the length: about BINS, each the same part of a doubling. `mark` is an edge if it lies among them.
    """
    import numpy as np

    if not len(lengths):
        return np.array([0, 1]), np.zeros(1, np.int64)
    shortest, longest = max(int(lengths.min()), 1), int(lengths.max())
    high = max(1, int(np.ceil(np.log2(max(longest, 1)))))
    low = min(int(np.floor(np.log2(shortest))), high - 1)
    parts = max(1, min(4, BINS // (high - low)))
    edges = 2 ** np.linspace(low, high, (high - low) * parts + 1)
    edges = np.unique(np.round(edges).astype(np.int64))
    edges[0] = min(edges[0], int(lengths.min()) - 1)
    if mark is not None and edges[0] < mark < edges[-1]:
        edges = np.unique(np.append(edges, mark))
    place = np.searchsorted(edges, lengths, "left") - 1
    return edges, np.bincount(place, minlength=len(edges) - 1)


def steps(rows: int, effective_batch: int) -> int:
    """Optimizer steps of an epoch; the last one may be smaller."""
    return -(-rows // effective_batch)
