"""Which rows are kept apart to measure with, decided by what a row says and nothing else.

A row is on the held-out side when the number made from its content lies below the share; so adding rows moves no old
row, and rows that say the same are on the same side. Knows row contents as numbers; nothing of tokens or models.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from .rows import Row

if TYPE_CHECKING:
    import numpy as np

LEAST = 16  # held-out rows below which a loss says little
MOST = 512  # held-out rows that are measured: more cost time at every evaluation and tell little
FEWEST = 2 * LEAST  # rows below which none is spared
EACH = 20  # rows from which on a file of several has at least one held-out row
_ALL = 2**64
# Content keys are spread evenly already; the odd factor makes the sides independent of other uses of the same key.
_SPREAD = 0x9E3779B97F4A7C15


class Split(NamedTuple):
    """Positions from 0 of the rows that are trained, of those that are measured, and of the rest of the held-out side.

    `reserve` holds rows that are neither trained nor measured, since MOST are enough; `why` says it all in a sentence.
    """

    train: "np.ndarray"
    heldout: "np.ndarray"
    reserve: "np.ndarray"
    why: str


def split(rows: Sequence[Row], *, share: float) -> Split:
    """Keeps about `share` of the rows apart: at least LEAST and at most MOST are measured.

    Every file of a source gives its share. Below FEWEST rows, or with a share of 0, all rows are trained.
    """
    import numpy as np

    draw, files = _draws(rows), _files(rows)
    nothing = np.empty(0, np.int64)
    everything = np.arange(len(rows))
    if share == 0:
        return Split(everything, nothing, nothing, "No rows are held out: data.heldout_share is 0.")
    if len(rows) < FEWEST:
        why = f"No rows are held out: {len(rows):,} are too few, {FEWEST} would do."
        return Split(everything, nothing, nothing, why)
    side = draw < share
    if side.sum() < LEAST:
        side = draw <= np.partition(draw, LEAST - 1)[LEAST - 1]
    for number in np.unique(files):
        mine = files == number
        if mine.sum() >= EACH and not side[mine].any():
            side |= draw == draw[mine].min()  # with every row that says the same
    heldout = np.flatnonzero(side)
    by_draw = heldout[np.argsort(draw[heldout], kind="stable")]
    measured, reserve = np.sort(by_draw[:MOST]), np.sort(by_draw[MOST:])
    why = _why(len(measured), len(reserve), len(rows), share)
    return Split(np.flatnonzero(~side), measured, reserve, why)


def _draws(rows: Sequence[Row]) -> "np.ndarray":
    """A number from 0 up to, not including, 1 for each row, made from its content."""
    import numpy as np

    keys = getattr(rows, "content_keys", None)
    if keys is None:
        keys = np.fromiter((row.content_key() for row in rows), np.uint64, len(rows))
    return (keys * np.uint64(_SPREAD)) / _ALL


def _files(rows: Sequence[Row]) -> "np.ndarray":
    import numpy as np

    numbers = getattr(rows, "file_numbers", None)
    if numbers is None:
        seen: dict[str, int] = {}
        numbers = np.array([seen.setdefault(row.file, len(seen)) for row in rows], np.int32)
    return numbers


def _why(measured: int, reserve: int, rows: int, share: float) -> str:
    why = f"{measured:,} rows are held out, chosen by what they say"
    taken = (measured + reserve) / rows
    if measured <= LEAST and taken > share:
        why += f": {taken:.0%} instead of {share:.0%}, since fewer would measure little"
    if reserve:
        why += (
            f"; {reserve:,} more are kept apart unused, since {MOST} are enough to measure with:"
            " lower data.heldout_share to train on them"
        )
    return why + "."
