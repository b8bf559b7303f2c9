"""Whether an answer is a training row's own, letter by letter: a model that says a row again may have memorized it.

Looked through is the last answer of every training row, of a million too, but no earlier turn and no raw text. Of each
row 8 bytes are held. Knows rows and the cache; nothing of models.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..data import cache
from ..data.sides import Side

if TYPE_CHECKING:
    import numpy as np

VERSION = 1  # of the cache's entries; another one makes them anew
WORDS, LETTERS = 3, 12  # an answer with fewer of both is too short to be more than chance: "yes"


class Copies:
    """The answers of the training rows, to find one that is the same."""

    def __init__(self, train: Side) -> None:
        """Reads all rows once, and keeps what it needs of those of a file for the next run."""
        self._numbers = train.rows.numbers[train.positions]
        self._keys = _keys(train)[train.positions]

    def same_as(self, text: str) -> int | None:
        """The number of the first training row with this answer, white space around it aside; None for none, or a short one."""
        import numpy as np

        said = text.strip()
        if len(said) < LETTERS and len(said.split()) < WORDS:
            return None
        found = np.flatnonzero(self._keys == _key(said))
        return int(self._numbers[found[0]]) if len(found) else None


def _keys(train: Side) -> "np.ndarray":
    """64 bits for the answer of each row of the source, `(rows,)` of uint64."""
    import numpy as np

    def keep(place: Path) -> None:
        with place.open("wb") as file:
            np.save(file, made())

    def made() -> "np.ndarray":
        return np.fromiter(_each(train), np.uint64, len(train.rows))

    try:
        kept = cache.kept(f"answers-{cache.key(VERSION, train.rows.key)}.npy", keep)
        keys = np.load(kept, mmap_mode="r")
    except (OSError, ValueError):  # a cache that cannot be written, or an entry that was damaged
        return made()
    return keys if keys.shape == (len(train.rows),) else made()


def _each(train: Side) -> Iterator[int]:
    return (_key(row.answer.strip()) for row in train.rows)


def _key(answer: str) -> int:
    digest = hashlib.blake2b(answer.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")
