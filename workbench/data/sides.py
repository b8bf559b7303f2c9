"""The two sides of a recipe's data: the rows that are trained, and those that are kept apart to measure with.

Reads what the recipe names and splits it where it names no held-out rows. Knows nothing of tokens.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ..problems import DataError, Problem
from ..recipe import Data
from . import table
from .rows import Row
from .split import split

if TYPE_CHECKING:
    import numpy as np

NEAR = 4  # rows read for each that is wanted, up to which reading all between is quicker


class Side(NamedTuple):
    """Some of the rows of a source: those at `positions`, counted from 0."""

    rows: table.Rows
    positions: "np.ndarray"

    def __len__(self) -> int:
        return len(self.positions)

    def first(self, count: int | None = None) -> list[Row]:
        """The first rows of this side, all of them if no count is given."""
        wanted = self.positions[:count].tolist()
        if wanted and wanted[-1] < NEAR * len(wanted):  # close together: read in one go
            rows = self.rows[wanted[0] : wanted[-1] + 1]
            return [rows[position - wanted[0]] for position in wanted]
        return self.rows.of(wanted)

    def keys(self) -> "np.ndarray":
        """The content keys of the rows, `(rows,)` of uint64: equal where rows say the same."""
        return self.rows.content_keys[self.positions]


class Sides(NamedTuple):
    """What is trained, what is held out (None for nothing), and in a sentence how they came to be apart."""

    train: Side
    heldout: Side | None
    why: str


def read(data: Data, *, progress: Callable[[int, int | None], None] | None = None) -> Sides:
    """Reads the training rows, and the held-out rows or a share of them.

    Raises DataError with all problems of both.
    """
    import numpy as np

    problems: list[Problem] = []
    found: list[table.Rows] = []
    for source in filter(None, (data.train, data.heldout)):
        try:
            found.append(table.read(source, **data.reading, progress=progress))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    sides = [Side(rows, np.arange(len(rows))) for rows in found]
    if data.heldout:
        why = f"{len(found[1]):,} held-out rows are read from {found[1].name}."
        return Sides(sides[0], sides[1], why)
    parted = split(found[0], share=data.heldout_share)
    heldout = Side(found[0], parted.heldout) if len(parted.heldout) else None
    return Sides(Side(found[0], parted.train), heldout, parted.why)
