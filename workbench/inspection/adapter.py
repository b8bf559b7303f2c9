"""What an adapter learned: how large each module's update is, and how much of its rank that update uses.

Holds figures that `python -m workbench.inside adapter` computes, and tells them. How they are laid out is in
`adapter_text.py`, which folder is meant in `adapter_folder.py`. Knows nothing of runs' logs.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import adapter_text
from .adapter_folder import locate
from .process import Told, gathered

if TYPE_CHECKING:
    from ..run import Run

#: What a map can show of each module: the rank that holds 90 or 99 % of its update, or the update's size.
Shown = Literal["rank90", "rank99", "share"]


@dataclass(frozen=True)
class Update:
    """One module's update, `scale * B @ A`: its Frobenius norm and that of the weight that it is added to.

    `singular` are the singular values of the update, largest first; `weight` is None where the base's cannot be read.
    """

    name: str
    module: str
    block: int | None
    rank: int
    scale: float
    update: float
    weight: float | None
    singular: tuple[float, ...]
    rank90: int
    rank99: int

    @property
    def share(self) -> float | None:
        """The update's norm as a share of the weight's."""
        return self.update / self.weight if self.weight else None


@dataclass(frozen=True)
class AdapterUpdates:
    """An adapter's updates, module by module; `bytes` of its file, `parameters` of A and B.

    `without` says why no norms of the base's weights are there, `notes` what else it holds that is not in the figures.
    """

    folder: Path
    base: str
    rank: int
    updates: tuple[Update, ...]
    bytes: int
    parameters: int
    without: str = ""
    notes: tuple[str, ...] = ()

    def used(self, energy: float = 0.9) -> float:
        """The mean effective rank: how many singular values hold this share of a module's energy (their squares' sum)."""
        ranks = [effective_rank(update.singular, energy) for update in self.updates]
        return sum(ranks) / len(ranks) if ranks else 0.0

    def kept(self, rank: int) -> float:
        """The share of all modules' energy that the first `rank` singular values of each hold; 0 where nothing was learned."""
        of = sum(value**2 for update in self.updates for value in update.singular)
        held = sum(value**2 for update in self.updates for value in update.singular[:rank])
        return held / of if of else 0.0

    @property
    def learned(self) -> bool:
        """Whether any B differs from the 0 that it starts with."""
        return any(update.update for update in self.updates)

    def html(self, show: Shown = "rank90") -> str:
        """The report for a notebook with a map block by module of what is asked for: safe to show, without script."""
        return adapter_text.html(self, show)

    def _repr_html_(self) -> str:
        return self.html()

    def __str__(self) -> str:
        return adapter_text.text(self)

    __repr__ = __str__

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        updates = [asdict(update) | {"share": update.share} for update in self.updates]
        used = {"used90": self.used(0.9), "used99": self.used(0.99)}
        return asdict(self) | {"folder": str(self.folder), "updates": updates} | used


def effective_rank(singular: Sequence[float], energy: float) -> int:
    """How many of the singular values, largest first, hold this share of the sum of their squares; 0 if all are 0."""
    squares = [value**2 for value in singular]
    wanted = energy * sum(squares)
    held, rank = 0.0, 0
    while held < wanted * (1 - 1e-12) and rank < len(squares):  # the sum's own rounding
        held += squares[rank]
        rank += 1
    return rank


async def inspect_adapter(
    adapter: "Run | str | Path",
    *,
    base: str | None = None,
    outputs: str | Path = "outputs",
    told: Told | None = None,
) -> AdapterUpdates:
    """Measures an adapter's updates: a run's, or one in a folder in PEFT's form.

    `base` (a folder or a name in the hub's cache) is the model that it was trained on, if not the one that it names;
    its weights are read piece by piece. `told` gets words of progress. Raises RunError.
    """
    place = locate(adapter, outputs)
    arguments = {
        "folder": str(place.folder),
        "base": base,
        "own_base": place.base,
        "revision": place.revision,
    }
    lines = await gathered("adapter", arguments, told)
    whole = next(line for line in lines if line["kind"] == "adapter")
    updates = [_update(line) for line in lines if line["kind"] == "update"]
    return AdapterUpdates(
        folder=place.folder,
        base=base or place.base,
        rank=whole["rank"],
        updates=tuple(updates),
        bytes=whole["bytes"],
        parameters=whole["parameters"],
        without=whole["without"],
        notes=tuple(whole["notes"]),
    )


def _update(line: dict[str, Any]) -> Update:
    singular = tuple(line["singular"])
    return Update(
        name=line["name"],
        module=line["module"],
        block=line["block"],
        rank=line["rank"],
        scale=line["scale"],
        update=line["update"],
        weight=line["weight"],
        singular=singular,
        rank90=effective_rank(singular, 0.9),
        rank99=effective_rank(singular, 0.99),
    )
