"""An adapter cut down to a smaller rank, and what that does to its loss.

Holds figures that `python -m workbench.inside truncate` finds, and tells them. Knows no tensors.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..problems import Problem, RecipeError, RunError
from ..recipe import Recipe
from ..summary import size
from .adapter_folder import Place, locate
from .adapter_text import MUTED, percent
from .process import Told, gathered

if TYPE_CHECKING:
    from ..run import Run

UNCHANGED = 5e-5  # nats: would be shown as 0.0000


@dataclass(frozen=True)
class Truncated:
    """The smaller adapter's `folder`, and what became of it; `kept` is the share of all modules' energy that it holds.

    Losses are in nats per trained token over `rows` held-out rows, None where none were measured: `why` says so then.
    `ranks` counts the modules by the rank that they have now; `left_out` are those that had learned nothing.
    """

    folder: Path
    rank_before: int
    rank: int
    kept: float
    loss_before: float | None
    loss_after: float | None
    rows: int
    bytes_before: int
    bytes: int
    ranks: Mapping[int, int] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    why: str = ""

    @property
    def headline(self) -> str:
        """What was cut and kept: "Rank 16 was cut to 4: 92.5 % of what it learned is kept, as energy."."""
        cut = f"Rank {self.rank_before} was cut to {self._ranks()}"
        return f"{cut}: {percent(self.kept)} of what it learned is kept, as energy."

    @property
    def lines(self) -> list[str]:
        """The loss before and after, the size, what was left out, and where the new adapter is."""
        if self.loss_before is not None and self.loss_after is not None:
            change = self.loss_after - self.loss_before
            sign = "+" if change > 0 else chr(0x2212)
            by = f"{sign}{abs(change):.4f}" if abs(change) >= UNCHANGED else "no change"
            loss = (
                f"Held-out loss {self.loss_before:.4f} before, {self.loss_after:.4f} after: {by} "
                f"(nats per trained token, {self.rows:,} rows)."
            )
        else:
            loss = self.why
        told = [loss] if loss else []
        told.append(f"File {size(self.bytes_before)} before, {size(self.bytes)} after.")
        if self.left_out:
            more = f" and {len(self.left_out) - 3} more" if len(self.left_out) > 3 else ""
            told.append(f"Left out, having learned nothing: {', '.join(self.left_out[:3])}{more}.")
        return [*told, f"The new adapter is in {self.folder}; the old one is as it was."]

    def _ranks(self) -> str:
        if len(self.ranks) < 2:
            return str(self.rank)
        modules = sum(self.ranks.values())
        mean = sum(rank * count for rank, count in self.ranks.items()) / modules
        return f"ranks of {min(self.ranks)} to {self.rank} (mean {mean:.1f})"

    def __str__(self) -> str:
        return "\n".join([self.headline, *self.lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        lines = "".join(f"<div>{escape(line)}</div>" for line in self.lines[:-1])
        return (
            f'<div class="wb-truncated" style="line-height:1.5"><b>{escape(self.headline)}</b>{lines}'
            f'<div style="font-size:12px;{MUTED}">{escape(self.lines[-1])}</div></div>'
        )

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        ranks = {str(rank): count for rank, count in self.ranks.items()}
        return asdict(self) | {"folder": str(self.folder), "ranks": ranks}


async def truncate_adapter(
    adapter: "Run | str | Path",
    *,
    rank: int | None = None,
    energy: float | None = None,
    to: str | Path | None = None,
    rows: int = 64,
    base: str | None = None,
    outputs: str | Path = "outputs",
    told: Told | None = None,
) -> Truncated:
    """Writes a smaller adapter beside the old one: `rank` for all modules, or for each as much as holds `energy` of it.

    `energy` is a share from 0 to 1 of a module's squared singular values. `to` is the new folder, by default the old
    one's name with "-rank-4" or "-energy-0.9". The loss is measured on up to `rows` held-out rows of the run's recipe,
    none if 0, with `base` in place of the recipe's model if it is given. Raises RunError; nothing is ever overwritten.
    """
    _check(rank, energy, rows)
    place = locate(adapter, outputs)
    recipe, why = _recipe(place, base)
    suffix = f"rank-{rank}" if rank is not None else f"energy-{energy:g}"
    folder = (
        Path(to).expanduser() if to else place.folder.with_name(f"{place.folder.name}-{suffix}")
    )
    arguments = {
        "folder": str(place.folder),
        "to": str(folder.absolute()),
        "rank": rank,
        "energy": energy,
        "rows": rows,
        "recipe": recipe,
        "holder": str(place.run or place.folder),
    }
    lines = await _cut(arguments, folder, told)
    cut = next(line for line in lines if line["kind"] == "truncated")
    losses = next((line for line in lines if line["kind"] == "losses"), {})
    return Truncated(
        folder=folder.absolute(),
        rank_before=cut["rank_before"],
        rank=cut["rank"],
        kept=cut["kept"],
        loss_before=losses.get("loss_before"),
        loss_after=losses.get("loss_after"),
        rows=losses.get("rows", 0),
        bytes_before=cut["bytes_before"],
        bytes=cut["bytes"],
        ranks=dict(cut["ranks"]),
        left_out=tuple(cut["left_out"]),
        why=losses.get("why", why if rows else ""),
    )


async def _cut(arguments: dict[str, Any], folder: Path, told: Told | None) -> list[dict[str, Any]]:
    """What the process tells. When it is cut short, the new folder goes: it would look finished, and stand in the way."""
    new = not folder.exists()
    try:
        return await gathered("truncate", arguments, told)
    except BaseException:  # an interrupted cell too
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _check(rank: int | None, energy: float | None, rows: int) -> None:
    """Raises RunError for what cannot be meant."""
    problems = []
    if (rank is None) == (energy is None):
        fact = (
            "Neither rank nor energy is given."
            if rank is None
            else "Both rank and energy are given."
        )
        problems.append(Problem("", fact, "Give one: rank=4, or energy=0.9."))
    elif rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        fact = f"rank is {rank!r}; it must be a whole number of at least 1."
        problems.append(
            Problem("rank", fact, "A rank of 0 would leave nothing: delete the adapter.")
        )
    elif energy is not None and not _is_share(energy):
        fact = f"energy is {energy!r}; it must be greater than 0 and at most 1."
        problems.append(Problem("energy", fact, "0.9 keeps nine tenths of what was learned."))
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 0:
        fact = f"rows is {rows!r}; it must be a whole number of at least 0."
        problems.append(Problem("rows", fact, "64 is quick; 0 measures no loss."))
    if problems:
        raise RunError(problems)


def _is_share(energy: object) -> bool:
    return isinstance(energy, int | float) and not isinstance(energy, bool) and 0 < energy <= 1


def _recipe(place: Place, base: str | None) -> tuple[str | None, str]:
    """The recipe by whose rows the loss is measured, as YAML, or None and the reason."""
    if place.recipe is None:
        return None, "The adapter is of no run here, so there are no rows to measure its loss on."
    try:
        recipe = Recipe.load(place.recipe)
        if base:
            recipe = recipe.replace(model={"name": base, "revision": None})
    except RecipeError as error:
        return None, f"The loss was not measured: {error.problems[0]}"
    return recipe.to_yaml(), ""
