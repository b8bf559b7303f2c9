"""The list of runs as text: a line for each, in as many columns as there is room for. Knows digests, and no terminal."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from .digest import UNREADABLE, Digest, model_name, sparks
from .run import Run
from .summary import duration, size
from .tidying import size_of

NOTHING = "–"
#: A column's title, and how much it is missed where there is little room: those with the lowest figure go first.
COLUMNS = {
    "run": 9, "state": 8, "steps": 7, "loss": 5, "curve": 3, "held out": 6, "exact": 4, "time": 2, "size": 0, "model": 1,
}  # fmt: skip


def nothing_in(outputs: Path) -> str:
    """Why a list is empty."""
    if outputs.is_dir() and not os.access(outputs, os.R_OK | os.X_OK):
        return f"{outputs} cannot be read: Permission denied."
    return f"There are no runs in {outputs}."


def cells(run: Run, told: Digest) -> dict[str, str]:
    """A run's line, by column."""
    found = {
        "run": run.name,
        "state": told.state,
        "steps": f"{told.step:,} of {told.of:,}" if told.of else "",
        "loss": "" if told.loss is None else f"{told.loss:.3f}",
        "curve": sparks(told.losses),
        "held out": "" if told.best_loss is None else f"{told.best_loss:.3f} at {told.best_step:,}",
        "exact": "" if told.exact_match is None else f"{told.exact_match:.0%}",
        "time": duration(told.seconds) if told.step else "",
        "size": "" if told.state == UNREADABLE else size(size_of(run)),
        "model": model_name(told.model),
    }
    return {name: cell or NOTHING for name, cell in found.items()}


def lines(rows: Sequence[Mapping[str, str]], width: int | None = None) -> list[str]:
    """The rows below a head, in those columns that fit in `width` characters; in all of them where it is None."""
    columns = [name for name in COLUMNS if any(row[name] != NOTHING for row in rows)]
    widest = {name: max(len(name), *(len(row[name]) for row in rows)) for name in columns}
    while width and len(columns) > 2 and sum(widest[c] + 2 for c in columns) - 2 > width:
        columns.remove(min(columns, key=COLUMNS.__getitem__))
    shown = [{name: name for name in columns}, *rows]
    return ["  ".join(row[c].ljust(widest[c]) for c in columns).rstrip() for row in shown]
