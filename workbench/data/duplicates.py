"""Rows that say the same or almost the same, within a source and between what is trained and what is measured.

Candidates come from MinHash and are checked by their real overlap; whether rows mean the same is not known here.
The sketches are rensa's: MIT, no dependencies, wheels for all our Pythons and systems, and 5 to 60 times as fast as
datasketch (also MIT and better known, but it needs SciPy and makes one Python object a row).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from .rows import Row

if TYPE_CHECKING:
    import numpy as np
    import rensa

ALIKE = 0.8  # shared word groups of two rows, of all that either has, from which on they are near duplicates
# Answers are compared by themselves too, by their words: the same long text with another question and another short
# answer is a different row.
ANSWERS_ALIKE = 0.8
MOST = 200_000  # rows that are compared: beyond, a sample, the same one each time
GROUP = 3  # words in a group
# Values of a sketch, and bands of them that make rows candidates when they are equal. Of the pairs that share 0.8
# this finds 99.8 %, of those that share 0.85 all but one in ten thousand.
SLOTS, BANDS = 120, 20
# Estimated share below which a pair is not checked: four standard errors under ALIKE.
SURELY_NOT = 0.65
BATCH = 2_000  # rows sketched at once
CHUNK = 100_000  # pairs compared at once
FIRST, RECENT = (
    4,
    6,
)  # of the rows with an equal band, those that a row is compared with: the first, and the last before it
GLANCE, GLANCED = (
    24,
    0.35,
)  # values that are compared first, and the share that must be equal: four standard errors too
UNSPACED = 12  # characters a word beyond which a text is written without spaces, and compared by characters
_SEED = 7
_SPREAD = 0x9E3779B97F4A7C15


class Near(NamedTuple):
    """Pairs of positions: each `later` is almost the same as `earlier`. Of `rows` rows `looked` were compared."""

    later: "np.ndarray"
    earlier: "np.ndarray"
    looked: int
    rows: int

    @property
    def sampled(self) -> bool:
        """Whether some rows were not compared with the others."""
        return self.looked < self.rows


def content_keys(rows: Sequence[Row]) -> "np.ndarray":
    """Row.content_key of every row, `(rows,)` of uint64."""
    import numpy as np

    keys = getattr(rows, "content_keys", None)
    if keys is None:
        keys = np.fromiter((row.content_key() for row in rows), np.uint64, len(rows))
    return keys


def repeats(keys: "np.ndarray") -> "np.ndarray":
    """Positions of the rows whose key an earlier row has, in order."""
    import numpy as np

    _, first = np.unique(keys, return_index=True)
    again = np.ones(len(keys), bool)
    again[first] = False
    return np.flatnonzero(again)


def shared(keys: "np.ndarray", others: "np.ndarray") -> "np.ndarray":
    """Positions of the keys that are among the others."""
    import numpy as np

    return np.flatnonzero(np.isin(keys, others))


def conflicting(prompts: "np.ndarray", answers: "np.ndarray") -> "np.ndarray":
    """Positions of the rows whose prompt also has another answer; 0 stands for no prompt."""
    import numpy as np

    pairs = np.unique(np.stack([prompts, answers]), axis=1) if len(prompts) else np.empty((2, 0))
    asked, count = np.unique(pairs[0], return_counts=True)
    return np.flatnonzero(np.isin(prompts, asked[(count > 1) & (asked != 0)]))


def near(sketches: "Sketches") -> Near:
    """Rows that are almost the same as an earlier one, which is no near duplicate itself; not those that are the same."""
    import numpy as np

    own = np.arange(len(sketches.positions)) < sketches.own
    keeper: dict[int, int] = {}
    for item, others in sketches.candidates(own, own).items():
        for other in sorted({keeper.get(other, other) for other in others if other < item}):
            if sketches.alike(item, other):
                keeper[item] = other
                break
    # a row that repeats a near duplicate is one too
    places, keys = sketches.positions, sketches.keys
    earlier = {int(keys[places[item]]): int(places[kept]) for item, kept in keeper.items()}
    among = sketches.among
    later = among[np.isin(keys[among], np.fromiter(earlier, np.uint64, len(earlier)))]
    kept = np.array([earlier[int(key)] for key in keys[later]], np.int64)
    return Near(later, kept, sketches.own, sketches.different)


def leaks(sketches: "Sketches", train: "np.ndarray", measured: "np.ndarray") -> Near:
    """Training rows (`later`) that are the same or almost the same as a held-out row (`earlier`).

    Both are given by their positions. The same rows are all found, almost the same ones among those that were sketched.
    """
    import numpy as np

    keys, other_keys = sketches.keys, sketches.other_keys
    partner = {int(key): int(at) for key, at in zip(other_keys[measured][::-1], measured[::-1], strict=True)}  # fmt: skip
    trained_keys, item_keys = keys[train], sketches.item_keys
    theirs = np.isin(item_keys, other_keys[measured])
    mine = np.isin(item_keys, trained_keys) & ~theirs
    mine[sketches.own :] = False
    if sketches.two:
        theirs[: sketches.own] = False
    for item, others in sketches.candidates(mine, theirs).items():
        match = next((other for other in sorted(others) if sketches.alike(item, other)), None)
        if match is not None:
            partner[int(item_keys[item])] = partner[int(item_keys[match])]
    found = train[np.isin(trained_keys, np.fromiter(partner, np.uint64, len(partner)))]
    earlier = np.array([partner[int(key)] for key in keys[found]], np.int64)
    return Near(found, earlier, sketches.own, sketches.different)


def _sample(positions: "np.ndarray", keys: "np.ndarray", most: int) -> "np.ndarray":
    """At most so many of the positions, in order, chosen by what the rows say."""
    import numpy as np

    if len(positions) <= most:
        return positions
    draw = keys[positions] * np.uint64(_SPREAD)
    return np.sort(positions[np.argpartition(draw, most)[:most]])


class Sketches:
    """MinHash sketches of the different rows of a source and, if they are given, of others that are held out.

    At most MOST rows are sketched, chosen by what they say: of `different` rows `own` are.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        others: Sequence[Row] | None = None,
        *,
        among: "np.ndarray | None" = None,
    ) -> None:
        import numpy as np

        self.rows, self.others, self.two = (
            rows,
            rows if others is None else others,
            others is not None,
        )
        self.keys = content_keys(rows)
        self.other_keys = content_keys(self.others) if self.two else self.keys
        among = np.arange(len(rows)) if among is None else among
        self.among = among
        firsts = np.delete(among, repeats(self.keys[among]))
        mine, theirs = _sample(firsts, self.keys, MOST), np.empty(0, np.int64)
        if self.two:
            theirs = np.delete(np.arange(len(self.others)), repeats(self.other_keys))
            theirs = _sample(theirs, self.other_keys, MOST)
        self.own, self.different = len(mine), len(firsts)
        self.positions = np.concatenate([mine, theirs])
        self.item_keys = np.concatenate([self.keys[mine], self.other_keys[theirs]])
        self._said: dict[int, tuple[set[int], set[int]]] = {}
        self._values = self._sketched()

    def candidates(self, asked: "np.ndarray", kept: "np.ndarray") -> dict[int, list[int]]:
        """For each asked item the kept ones that it may be like; both are given as `(items,)` of bool."""
        import numpy as np

        found: dict[int, list[int]] = defaultdict(list)
        bands = self._bands()
        pairs = [self._promising(*_neighbours(bands[:, band], kept)) for band in range(BANDS)]
        both = np.unique(np.concatenate(pairs), axis=0)
        both = np.concatenate([both, both[:, ::-1]])
        both = both[asked[both[:, 0]] & kept[both[:, 1]]]
        for item, other in both[np.lexsort((both[:, 1], both[:, 0]))].tolist():
            found[item].append(other)
        return found

    def alike(self, item: int, other: int) -> bool:
        """Whether two items really are almost the same."""
        (mine, my_answer), (theirs, their_answer) = self._sets(item), self._sets(other)
        return (
            _overlap(mine, theirs) >= ALIKE and _overlap(my_answer, their_answer) >= ANSWERS_ALIKE
        )

    def _sketched(self) -> "np.ndarray":
        """The sketch of each item, `(items, SLOTS)`."""
        import numpy as np

        values = np.empty((len(self.positions), SLOTS), np.uint32)
        start = 0
        for batch in self._batches():
            matrix = _sketched(*_groups([_said(row) for row in batch]))
            values[start : start + len(batch)] = matrix.to_rows()
            start += len(batch)
        return values

    def _bands(self) -> "np.ndarray":
        """A number for each band of each item, `(items, BANDS)`: equal where all its values are."""
        import numpy as np

        numbers = np.zeros((len(self._values), BANDS), np.uint64)
        with np.errstate(over="ignore"):
            for place in range(SLOTS // BANDS):
                numbers = (numbers ^ self._values[:, place :: SLOTS // BANDS]) * np.uint64(_SPREAD)
                numbers ^= numbers >> np.uint64(29)
        return numbers

    def _promising(self, some: "np.ndarray", others: "np.ndarray") -> "np.ndarray":
        """The pairs of items whose sketches say that they may be alike, `(pairs, 2)`, the smaller item first."""
        import numpy as np

        for slots, least in ((GLANCE, GLANCED), (SLOTS, SURELY_NOT)):
            values, kept = self._values[:, :slots], []
            for start in range(0, len(some), CHUNK):
                piece = slice(start, start + CHUNK)
                kept.append((values[some[piece]] == values[others[piece]]).mean(axis=1) >= least)
            promising = np.concatenate(kept) if kept else np.empty(0, bool)
            some, others = some[promising], others[promising]
        return np.stack([np.minimum(some, others), np.maximum(some, others)], axis=1)

    def _sets(self, item: int) -> tuple[set[int], set[int]]:
        """The groups of words of a row, and the words of its answer."""
        if item not in self._said:
            row = self._row(item)
            groups, _ = _groups([_said(row)])
            words, _ = _words([row.answer])
            if len(self._said) > BATCH:
                self._said.clear()
            self._said[item] = set(groups.tolist()), set(words.tolist())
        return self._said[item]

    def _row(self, item: int) -> Row:
        return (self.rows if item < self.own else self.others)[int(self.positions[item])]

    def _batches(self) -> Iterator[list[Row]]:
        for rows, positions in (
            (self.rows, self.positions[: self.own]),
            (self.others, self.positions[self.own :]),
        ):
            whole = len(positions) == len(rows)  # in order, it is read faster than by position
            remaining = iter(rows) if whole else (rows[int(place)] for place in positions)
            while batch := list(islice(remaining, BATCH)):
                yield batch


def _neighbours(keys: "np.ndarray", kept: "np.ndarray") -> "tuple[np.ndarray, np.ndarray]":
    """Pairs of places with equal keys: each with the FIRST ones, kept ones before others, and with RECENT before it."""
    import numpy as np

    order = np.lexsort((~kept, keys))
    place = np.arange(len(order))
    begins = np.ones(len(order), bool)
    begins[1:] = keys[order[1:]] != keys[order[:-1]]
    start = np.maximum.accumulate(np.where(begins, place, 0))
    some, others = [], []
    for other in (*(start + n for n in range(FIRST)), *(place - n for n in range(1, RECENT + 1))):
        pairs = (other < place) & (other >= start)
        some.append(order[pairs])
        others.append(order[other[pairs]])
    return np.concatenate(some), np.concatenate(others)


def _said(row: Row) -> str:
    """What a row says, without the system prompt, which many rows share."""
    return row.text or " ".join(m.content for m in row.messages if m.role != "system")


def _overlap(a: set[int], b: set[int]) -> float:
    return len(a & b) / len(a | b) if a or b else 1.0


def _words(texts: list[str]) -> "tuple[np.ndarray, np.ndarray]":
    """A number for each word of the texts, whatever its case and signs around it, and where each text begins."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import rensa

    apart = [
        " ".join(text) if len(text) > UNSPACED * (text.count(" ") + 1) else text for text in texts
    ]
    clean = pa.array(
        [text.encode("utf-8", "replace").decode() for text in apart], pa.large_string()
    )
    lists = pc.utf8_split_whitespace(pc.utf8_lower(pc.utf8_trim_whitespace(clean)))
    offsets = lists.offsets.to_numpy().astype(np.int64)
    flat = lists.flatten().dictionary_encode()
    known = pc.utf8_trim(flat.dictionary, ".,;:!?\"'()[]*`").to_pylist()
    (numbers,) = rensa.RMinHash.hash_token_sets([known]) or ([],)
    codes = flat.indices.to_numpy()
    return np.array(numbers, np.uint64)[codes], offsets


def _groups(texts: list[str]) -> "tuple[np.ndarray, np.ndarray]":
    """A number for each group of GROUP words that follow each other, and where each text begins.

    A text with fewer words is one group.
    """
    import numpy as np

    words, offsets = _words(texts)
    padded = np.concatenate([words, np.zeros(GROUP, np.uint64)])
    groups = np.zeros(len(words), np.uint64)
    with np.errstate(over="ignore"):
        for place in range(GROUP):
            groups = (groups ^ padded[place : place + len(words)]) * np.uint64(_SPREAD)
            groups ^= groups >> np.uint64(29)
    counts = np.diff(offsets)
    owner = np.repeat(np.arange(len(texts)), counts)
    inside = np.arange(len(words)) - offsets[owner]
    whole = inside <= np.maximum(counts[owner] - GROUP, 0)
    kept = np.bincount(owner[whole], minlength=len(texts))
    return groups[whole], np.concatenate([[0], np.cumsum(kept)])


def _sketched(groups: "np.ndarray", offsets: "np.ndarray") -> "rensa.RMinHashDigestMatrix":
    import numpy as np
    import rensa

    return rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        groups, offsets.astype(np.uint64), SLOTS, _SEED
    )
