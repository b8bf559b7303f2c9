"""How rows come into batches: in random order, beside rows of like length, or packed; what each costs, and which to take.

Knows how long rows are and nothing of what is in them, nor of models and trainers.
"""

from array import array
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple

from ..recipe import Batching as Wanted

if TYPE_CHECKING:
    import numpy as np

POOL = (
    50  # batches whose rows are sorted together: enough for like lengths, few enough to stay mixed
)
MUCH = 0.15  # share of a batch that may be padding before another order is worth it
SAVED = 0.05  # and what that order must save


@dataclass(frozen=True)
class Batching:
    """A choice with its reason, and the figures of all choices by their names.

    `waste` is the share of a batch's tokens that is padding in the first epoch; of `packed`, which pads nothing, the
    share of its sequences' room that stays empty. `rows_per_step` counts what an optimizer step learns from.
    """

    choice: str
    why: str
    waste: dict[str, float]
    rows_per_step: dict[str, float]
    steps_per_epoch: dict[str, int]


class Packs(NamedTuple):
    """Sequences of whole rows: sequence i holds the rows `rows[offsets[i]:offsets[i + 1]]`, by their position."""

    rows: "np.ndarray"
    offsets: "np.ndarray"


def plan(
    lengths: "np.ndarray | Sequence[int]",
    *,
    batch_size: int,
    accumulation: int,
    max_length: int,
    wanted: Wanted = "auto",
    raw_text: bool = False,
    seed: int = 0,
) -> Batching:
    """Measures every choice on rows of these lengths (tokens, uncut, each at least 1) and picks one.

    `auto` leaves alone how many rows a step learns from, except for raw text, whose rows mean nothing.
    """
    import numpy as np

    lengths = np.asarray(lengths, np.int64)
    cut = np.minimum(lengths, max_length)
    runs = blocks(lengths, max_length)
    _, sequences = _fit(cut, max_length)
    waste = {
        choice: padding(rows[order(rows, batch_size, seed=seed, grouped=grouped)], batch_size)
        for choice, rows, grouped in (
            ("padded", cut, False),
            ("grouped", cut, True),
            ("wrapped", runs, False),
        )
    }
    waste["packed"] = 1 - int(cut.sum()) / (sequences * max_length)
    fed = {"padded": len(cut), "grouped": len(cut), "packed": sequences, "wrapped": len(runs)}
    at_once = batch_size * accumulation
    rows_per_step = {name: len(cut) * min(at_once, units) / units for name, units in fed.items()}
    steps = {name: -(-units // batch_size) for name, units in fed.items()}
    steps = {name: -(-batches // accumulation) for name, batches in steps.items()}
    longer = int((lengths > max_length).sum())
    if raw_text:
        choice, why = _of_text(longer, len(lengths), max_length, waste, rows_per_step)
    else:
        choice, why = _of_rows(batch_size, waste, rows_per_step)
    if wanted != "auto":
        why = _asked_for(wanted, choice, waste, rows_per_step)
    return Batching(choice if wanted == "auto" else wanted, why, waste, rows_per_step, steps)


def order(
    lengths: "np.ndarray", batch_size: int, *, seed: int, epoch: int = 0, grouped: bool = False
) -> "np.ndarray":
    """The order in which rows are fed, by their position; it depends on these arguments alone.

    `grouped` sorts the rows of POOL batches by length and then shuffles the batches, so that rows of like length share
    one while steps stay mixed. Rows that fill no batch come last.
    """
    import numpy as np

    chance = np.random.default_rng((seed, epoch))
    shuffled = chance.permutation(len(lengths))
    if not grouped:
        return shuffled
    whole = len(shuffled) - len(shuffled) % batch_size
    rows, left = shuffled[:whole], shuffled[whole:]
    pools = np.arange(whole) // (POOL * batch_size)
    batches = rows[np.lexsort((lengths[rows], pools))].reshape(-1, batch_size)
    return np.concatenate((chance.permutation(batches).ravel(), left))


def padding(lengths: "np.ndarray", batch_size: int) -> float:
    """Share of the tokens that is padding when rows are batched in this order."""
    import numpy as np

    starts = np.arange(0, len(lengths), batch_size)
    rows = np.minimum(batch_size, len(lengths) - starts)
    room = int((np.maximum.reduceat(lengths, starts) * rows).sum())
    return 1 - int(lengths.sum()) / room


def blocks(lengths: "np.ndarray", max_length: int) -> "np.ndarray":
    """Lengths of the sequences when rows run on from one to the next: all full but the last, `(sequences,)`."""
    import numpy as np

    starts = np.arange(0, int(lengths.sum()), max_length)
    return np.minimum(max_length, int(lengths.sum()) - starts)


def pack(lengths: "np.ndarray", max_length: int) -> Packs:
    """Lays whole rows of at most `max_length` tokens into as few sequences as best fit decreasing finds.

    The longest rows come first, each into the fullest sequence that still has room for it, as TRL's `bfd` does it.
    """
    import numpy as np

    sequence, sequences = _fit(lengths, max_length)
    longest_first = np.argsort(-lengths, kind="stable")
    rows = longest_first[np.argsort(sequence, kind="stable")]
    sizes = np.bincount(sequence, minlength=sequences)
    return Packs(rows, np.concatenate(([0], np.cumsum(sizes))))


def _fit(lengths: "np.ndarray", max_length: int) -> tuple["np.ndarray", int]:
    """The sequence of each row, longest first, and how many there are.

    Rows of the same length are placed together: a million take about half a second.
    """
    import numpy as np

    values, counts = np.unique(lengths, return_counts=True)
    placed, sequences = array("q"), 0
    with_room: dict[int, list[int]] = {}  # tokens that still fit -> sequences
    spaces: list[int] = []  # its keys, sorted

    def keep(space: int, some: Sequence[int]) -> None:
        if not space or not some:
            return
        if space not in with_room:
            insort(spaces, space)
            with_room[space] = []
        with_room[space] += some

    for length, count in zip(values[::-1].tolist(), counts[::-1].tolist(), strict=True):
        while count:
            fullest = bisect_left(spaces, length)
            space = spaces[fullest] if fullest < len(spaces) else max_length
            each = space // length
            needed = -(-count // each)
            if fullest == len(spaces):
                some: Sequence[int] = range(sequences, sequences + needed)
                sequences += needed
            else:
                some = with_room[space][-needed:]
                del with_room[space][-needed:]
                if not with_room[space]:
                    del with_room[space], spaces[fullest]
            rows = min(count, each * len(some))
            in_last = rows - each * (len(some) - 1)
            for sequence in some[:-1]:
                placed.extend(repeat(sequence, each))
            placed.extend(repeat(some[-1], in_last))
            keep(space - each * length, some[:-1])
            keep(space - in_last * length, some[-1:])
            count -= rows
    return np.array(placed, np.int64), sequences


def _of_rows(
    batch_size: int, waste: dict[str, float], rows_per_step: dict[str, float]
) -> tuple[str, str]:
    random, grouped = waste["padded"], waste["grouped"]
    rows = f"{rows_per_step['padded']:,.0f}"
    packed = f"Packing would leave {_percent(waste['packed'])} of its room empty"
    together = f"{rows_per_step['packed']:,.0f}"
    if together != rows:
        packed += f", but each step would learn from about {together} rows instead of {rows}"
    packed += "."
    if batch_size == 1:
        return "padded", f"A batch of one row needs no padding. {packed}"
    if random > MUCH and random - grouped >= SAVED:
        why = (
            f"In random order {_percent(random)} of a batch would be padding; beside rows of like"
            f" length it is {_percent(grouped)}, and each step learns from {rows} rows as before."
        )
        return "grouped", f"{why} {packed}"
    why = f"Only {_percent(random)} of a batch is padding in random order."
    if random >= SAVED:
        why = (
            f"In random order {_percent(random)} of a batch is padding; beside rows of like length"
            f" it would be {_percent(grouped)}, which is not worth a less random order."
        )
    return "padded", f"{why} {packed}"


def _of_text(
    longer: int,
    rows: int,
    max_length: int,
    waste: dict[str, float],
    rows_per_step: dict[str, float],
) -> tuple[str, str]:
    if longer:
        why = (
            f"{longer:,} of {rows:,} texts are longer than {max_length:,} tokens, so texts run on"
            f" from one sequence to the next: nothing is cut off, and {_percent(waste['wrapped'])}"
            " of a batch is padding."
        )
        return "wrapped", why
    why = (
        f"All texts fit in {max_length:,} tokens, so they are packed whole:"
        f" {_percent(waste['packed'])} of the room stays empty, where {_percent(waste['padded'])}"
        " of a batch would be padding. Each step learns from about"
        f" {rows_per_step['packed']:,.0f} texts."
    )
    return "packed", why


def _asked_for(
    wanted: str, picked: str, waste: dict[str, float], rows_per_step: dict[str, float]
) -> str:
    def figures(choice: str) -> str:
        what = "of the room stays empty" if choice == "packed" else "of a batch is padding"
        rows = rows_per_step[choice]
        return f"{_percent(waste[choice])} {what}, about {rows:,.0f} rows a step"

    why = f"training.batching asks for it: {figures(wanted)}."
    return why if picked == wanted else f"{why} auto would take {picked}: {figures(picked)}."


def _percent(share: float) -> str:
    return "under 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"
