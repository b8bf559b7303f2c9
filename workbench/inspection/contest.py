"""LoRA, QLoRA and full fine-tuning on the same rows, with several seeds: what each gives and takes, with its spread.

Checks what is to be compared, has `python -m workbench.inside contest` train it, and holds the figures. How they are
said is in `contest_text.py`. Knows no torch; keeps no adapter.
"""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from .. import models, preflight
from ..machine import choose_backend, look
from ..problems import Problem, RecipeError, RunError, WorkbenchError
from ..recipe import Recipe
from . import files
from .process import Told, gathered

Changes = Mapping[str, Any]
#: Where `make gpu-check` keeps what a card did.
RESULTS = Path(__file__).resolve().parents[2] / "tests" / "gpu" / "results"
KIND = "contest"  # of the file
#: What entries may differ in; everything else is the same for all, or the figures would not compare.
MAY_DIFFER = (
    "lora.", "model.load_in_4bit", "model.quant_type", "model.double_quant", "training.batch_size",
    "training.accumulation", "training.learning_rate", "training.scheduler", "training.warmup", "training.optimizer",
    "training.weight_decay", "training.max_grad_norm", "training.gradient_checkpointing",
)  # fmt: skip
#: Bytes for each weight that is trained in float32: itself, its gradient and Adam's two states.
FULL_BYTES = 16
FULL_MOST = 2 * 2**30  # bytes that full fine-tuning may take to be tried without being asked for
#: Full fine-tuning wants smaller steps: LoRA's best rate was 9.8 times as high in "LoRA Without Regret" (2025).
FULL_RATE = 1 / 10


class Spread(NamedTuple):
    """The mean over the seeds, and the lowest and highest of them."""

    mean: float
    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low


@dataclass(frozen=True)
class Result:
    """One training: `losses` by step and `heldout_loss` in nats per trained token, `exact` match as a share.

    `peak_bytes` count weights, optimizer's state, gradients and activations; `seconds` are those in steps;
    `tokens_per_second` leaves out the first two; `kept_bytes` are those of the file that one would keep. `why` says
    what ended it early; then figures are None.
    """

    entry: str
    seed: int
    losses: tuple[float | None, ...]
    heldout_loss: float | None
    exact: float | None
    peak_bytes: int | None
    seconds: float
    tokens_per_second: float | None
    trainable: int | None
    kept_bytes: int | None
    why: str = ""


@dataclass(frozen=True)
class Contest:
    """What became of all entries with all seeds. `entries` are changes to `recipe` (YAML) by name; `rows` are held out.

    `machine` holds card, number format, backend, versions and date; `notes` say what to mind.
    """

    entries: dict[str, dict[str, Any]]
    seeds: tuple[int, ...]
    steps: int
    results: tuple[Result, ...]
    machine: dict[str, Any]
    recipe: str
    rows: int
    notes: tuple[str, ...] = ()

    def of(self, entry: str) -> list[Result]:
        """An entry's results, a seed each."""
        return [result for result in self.results if result.entry == entry]

    def spread(self, entry: str, figure: str) -> Spread | None:
        """Mean, lowest and highest of a Result's figure over the seeds that have it; None where none has."""
        found = [value for one in self.of(entry) if (value := getattr(one, figure)) is not None]
        return Spread(sum(found) / len(found), min(found), max(found)) if found else None

    def curve(self, entry: str) -> list[Spread]:
        """The training loss by step over the seeds, as far as all seeds have it."""
        steps = zip(*(one.losses for one in self.of(entry)), strict=False)
        known = [[loss for loss in losses if loss is not None] for losses in steps]
        return [Spread(sum(each) / len(each), min(each), max(each)) for each in known if each]

    @property
    def verdict(self) -> str:
        """How the held-out losses compare, entry by entry with the first one, as far as the seeds' spread allows."""
        from .contest_text import verdict

        return verdict(self)

    def __str__(self) -> str:
        from .contest_text import text

        return text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from .contest_text import html

        return html(self)

    def as_dict(self) -> dict[str, Any]:
        """For a program and for a file: all figures, as JSON holds them."""
        return asdict(self)

    def save(self, path: str | Path) -> Path:
        """Writes it as JSON, its folder too, and returns the path."""
        return files.write(self.as_dict(), KIND, path)

    @classmethod
    def load(cls, path: str | Path) -> "Contest":
        """Reads what `save` wrote. Raises RunError for a file that cannot be read or holds something else."""
        told = files.read(path, KIND, "results")
        known = {field.name for field in fields(Result)}
        results = [{k: v for k, v in one.items() if k in known} for one in told["results"]]
        return cls(
            told["entries"],
            tuple(told["seeds"]),
            told["steps"],
            tuple(Result(**{**one, "losses": tuple(one["losses"])}) for one in results),
            told["machine"],
            told["recipe"],
            told["rows"],
            tuple(told.get("notes", ())),
        )


def recorded(folder: str | Path = RESULTS) -> list[Contest]:
    """The contests that were kept beside the tests, by date; empty where no card was measured yet. Raises RunError."""
    found = [Contest.load(path) for path in sorted(Path(folder).glob("contest-*.json"))]
    return sorted(found, key=lambda contest: contest.machine.get("date") or "")


def methods(recipe: Recipe) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """QLoRA, LoRA beside weights that are not quantized, and full fine-tuning; with notes, such as why one is left out.

    Full fine-tuning learns at a tenth of the recipe's rate. Raises RunError for a model that cannot be read.
    """
    found: dict[str, dict[str, Any]] = {
        "QLoRA": {"model": {"load_in_4bit": True}},
        "LoRA": {"model": {"load_in_4bit": False}},
    }
    tensors = models.read(recipe.model.name, recipe.model.revision).tensors.values()
    needed = FULL_BYTES * sum(math.prod(tensor.shape) for tensor in tensors)
    if needed > FULL_MOST:
        note = f"Full fine-tuning is left out: weights, gradients and Adam's states would take {needed / 2**30:,.0f} GiB. Ask for it with an entry of its own."
        return found, (note,)
    rate = recipe.training.learning_rate * FULL_RATE
    return found | {"full fine-tuning": {"full": True, "training": {"learning_rate": rate}}}, ()


async def contest(
    recipe: Recipe,
    entries: Mapping[str, Changes] | None = None,
    *,
    seeds: Sequence[int] = (1, 2, 3),
    steps: int | None = None,
    rows: int = 128,
    keep: str | Path | None = None,
    told: Told | None = None,
) -> Contest:
    """Trains each entry with each seed on the same rows in the same order, and measures them on `rows` held-out rows.

    An entry is a name with changes to the recipe, as in `recipe.replace`, or {"full": True} for all weights instead of
    an adapter. Without `entries`, those of `methods`. `steps` are the recipe's if not given; `told` hears, in words,
    how far it is. `keep` is a file that has what is measured after each training, so that an end before all is done
    loses nothing. Raises RecipeError and RunError with all problems before anything is loaded.
    """
    _check(seeds, rows)
    base = _base(recipe, steps)
    notes: tuple[str, ...] = ()
    if entries is None:
        entries, notes = methods(base)
    asked = _checked(base, entries)
    if (choice := choose_backend(recipe.backend, look())).value != "peft":
        notes += (f"All of them by PEFT; a run here would take {choice.value.capitalize()}.",)
    arguments = {"recipe": base.to_yaml(), "entries": asked, "seeds": list(seeds), "rows": rows}

    def heard(lines: list[dict[str, Any]]) -> None:
        if keep and lines[-1]["kind"] == "result":
            _gathered(lines, base, entries, tuple(seeds), notes).save(keep)

    # Made and removed on this side: a cell that is interrupted kills the process.
    with tempfile.TemporaryDirectory(prefix="contest-") as folder:
        lines = await gathered("contest", arguments | {"folder": folder}, told, heard)
    return _gathered(lines, base, entries, tuple(seeds), notes)


def _gathered(
    lines: Sequence[dict[str, Any]],
    base: Recipe,
    entries: Mapping[str, Changes],
    seeds: tuple[int, ...],
    notes: tuple[str, ...],
) -> Contest:
    """The lines of the process as a Contest."""
    (ground,) = (line for line in lines if line["kind"] == "ground")
    taken = [line for line in lines if line["kind"] == "step"]
    results = []
    for line in (line for line in lines if line["kind"] == "result"):
        mine = (line["entry"], line["seed"])
        losses = tuple(step["loss"] for step in taken if (step["entry"], step["seed"]) == mine)
        figures = {field.name: line[field.name] for field in fields(Result) if field.name in line}
        results.append(Result(losses=losses, **figures))
    steps = max((step["of"] for step in taken), default=base.training.steps or 0)
    kept = {name: dict(changes) for name, changes in entries.items()}
    return Contest(
        kept, seeds, steps, tuple(results), ground["machine"], base.to_yaml(), ground["rows"], notes
    )


def _check(seeds: Sequence[int], rows: int) -> None:
    problems = []
    if not seeds or len(set(seeds)) < len(seeds):
        fact = f"seeds is {list(seeds)!r}; each must be there once, and at least one."
        problems.append(Problem("seeds", fact, "Three show the spread: seeds=(1, 2, 3)."))
    if rows < 1:
        problems.append(Problem("rows", f"rows is {rows}; it must be at least 1.", "Give 128."))
    if problems:
        raise RunError(problems)


def _base(recipe: Recipe, steps: int | None) -> Recipe:
    """The recipe of which entries are changes: no answers, nothing written, the batch as it is given."""
    training: dict[str, Any] = {"batch": "as_given", "checkpoint_every": 0}
    if steps is not None:
        training |= {"steps": steps, "epochs": None}
    quiet = {"prompts": [], "every": 0, "score_rows": 0}
    return recipe.replace(training=training, samples=quiet, backend="peft")


def _checked(base: Recipe, entries: Mapping[str, Changes]) -> list[dict[str, Any]]:
    """The entries as the process gets them. Raises RecipeError with all problems of all entries."""
    if not entries:
        raise RecipeError([Problem("", "There are no entries to compare.", "Leave them out.")])
    made, problems = [], []
    for name, changes in entries.items():
        try:
            recipe = _entry(base, changes)
            found = _standing_in_the_way(base, recipe, bool(changes.get("full")))
        except WorkbenchError as error:
            found = error.problems
        else:
            full = bool(changes.get("full"))
            made.append({"name": name, "recipe": recipe.to_yaml(), "full": full})
        problems += [Problem(p.where, f"{name}: {p.fact}", p.cure) for p in found]
    if problems:
        raise RecipeError(problems)
    return made


def _entry(base: Recipe, changes: Changes) -> Recipe:
    """The recipe of an entry. Raises RecipeError."""
    if not isinstance(changes, Mapping):
        fact = f"An entry is {changes!r}; it must be a table of changes to the recipe."
        raise RecipeError([Problem("", fact, 'Write {"lora": {"rank": 8}} or {"full": True}.')])
    ours = {name: value for name, value in changes.items() if name != "full"}
    if not changes.get("full"):
        return base.replace(**ours)
    if "lora" in ours or (ours.get("model") or {}).get("load_in_4bit"):
        fact = "It trains all weights, and asks for an adapter or for 4 bit too."
        raise RecipeError([Problem("", fact, 'Leave {"full": True} or the other away.')])
    return base.replace(**ours).replace(model={"load_in_4bit": False})


def _standing_in_the_way(base: Recipe, recipe: Recipe, full: bool) -> list[Problem]:
    """What keeps an entry from being compared, or from being trained at all."""
    differ = base.differences(recipe)
    others = [name for name in differ if not name.startswith(MAY_DIFFER)]
    problems = []
    if others:
        fact = f"{', '.join(others)} must be the same in all entries, or they would not compare."
        problems.append(Problem(others[0], fact, "Change it in the recipe instead."))
    if recipe.effective_batch != base.effective_batch:
        fact = f"A step learns from {recipe.effective_batch} rows, and from {base.effective_batch} in the recipe."
        cure = "Keep training.batch_size times training.accumulation as it is."
        problems.append(Problem("training.batch_size", fact, cure))
    return problems or preflight.check(recipe)
