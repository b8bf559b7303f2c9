"""How many rows go through the model at once, where that is no longer what the recipe says: `micro_batch.json`.

The recipe in a run's folder stays the user's. The effective batch is the recipe's always, so a run that goes on with
another micro-batch learns from the same rows in each step. Knows the recipe; nothing of why another one is taken.
"""

import json
from pathlib import Path
from typing import NamedTuple

from ..recipe import Recipe

FILE = "micro_batch.json"


class MicroBatch(NamedTuple):
    """Rows at once, and batches of them to an optimizer step."""

    batch_size: int
    accumulation: int

    @property
    def effective(self) -> int:
        return self.batch_size * self.accumulation


def of(recipe: Recipe, folder: Path) -> MicroBatch:
    """What the run's folder says, if it gives the recipe's effective batch; else the recipe's own."""
    own = MicroBatch(recipe.training.batch_size, recipe.training.accumulation)
    try:
        said = json.loads((folder / FILE).read_text())
        kept = MicroBatch(int(said["batch_size"]), int(said["accumulation"]))
    except (OSError, ValueError, KeyError, TypeError):
        return own
    return kept if kept.effective == own.effective and kept.batch_size > 0 else own


def is_kept(folder: Path) -> bool:
    """Whether the run's folder says anything."""
    return (folder / FILE).exists()


def keep(folder: Path, micro: MicroBatch) -> None:
    """Writes it to the run's folder, so that whoever resumes the run goes on with it."""
    partial = folder / f"{FILE}.partial"
    partial.write_text(json.dumps(micro._asdict()))
    partial.replace(folder / FILE)


def with_rows(batch_size: int, effective: int) -> MicroBatch:
    """So many rows at once with the same effective batch, which they must divide."""
    return MicroBatch(batch_size, effective // batch_size)


def halved(micro: MicroBatch) -> MicroBatch | None:
    """The largest that is at most half as large; None when there is one row at once."""
    for rows in range(micro.batch_size // 2, 0, -1):
        if micro.effective % rows == 0:
            return with_rows(rows, micro.effective)
    return None


def fed(recipe: Recipe, micro: MicroBatch) -> Recipe:
    """The recipe as the trainer gets it."""
    return recipe.replace(training=micro._asdict())
