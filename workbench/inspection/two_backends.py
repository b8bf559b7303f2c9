"""The same recipe by both backends: the loss of each step, how far they are apart, speed and memory; from runs or from a file.

How it is said is in `two_backends_text.py`. Knows no torch, and nothing of what a backend does.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from ..problems import Problem, RunError
from ..run import Run
from . import files

_TESTS = Path(__file__).resolve().parents[2] / "tests"
#: What `python bench/backends.py` measured on a CPU, and where `make gpu-check` keeps what a card did.
ON_CPU, RESULTS = _TESTS / "backends" / "recorded.json", _TESTS / "gpu" / "results"
KIND = "comparison of two backends"  # of the file
#: In float32 the two differ by rounding: each step's loss agrees within this share.
EXACT = 1e-4
#: In 16 bits their kernels round differently, and the paths part: the mean over the steps agrees within this share.
ROUNDED = 0.05
FIRST = 2  # steps that warm up, and are not timed


@dataclass(frozen=True)
class Side:
    """A backend's run: `losses` by step and the last `heldout_loss` in nats per trained token.

    Seconds are a step's median without the first two, bytes the most at any reading; None where they would say nothing.
    """

    backend: str
    losses: tuple[float, ...]
    heldout_loss: float | None = None
    step_seconds: float | None = None
    tokens_per_second: float | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True)
class TwoBackends:
    """What each backend made of one recipe (YAML). `machine` holds card, number format, versions and date."""

    sides: tuple[Side, ...]
    model: str
    machine: dict[str, Any]
    recipe: str
    notes: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether both computed in float32."""
        return self.machine.get("precision") == "float32"

    @property
    def tolerance(self) -> float:
        """The share by which the losses may differ: of each step in float32, of the mean over the steps in 16 bits."""
        return EXACT if self.exact else ROUNDED

    @property
    def differences(self) -> tuple[float, ...]:
        """By step, the difference of the losses as a share of the second's; empty where only one backend ran."""
        if len(self.sides) < 2:
            return ()
        pairs = zip(*(side.losses for side in self.sides[:2]), strict=True)
        return tuple(abs(one - other) / abs(other) for one, other in pairs)

    @property
    def difference(self) -> float | None:
        """What the tolerance is for: the largest difference of a step in float32, that of the means in 16 bits."""
        if not self.differences:
            return None
        if self.exact:
            return max(self.differences)
        one, other = (statistics.fmean(side.losses) for side in self.sides[:2])
        return abs(one - other) / abs(other)

    @property
    def agree(self) -> bool | None:
        """Whether the losses are the same within the tolerance; None where only one backend ran."""
        return None if self.difference is None else self.difference <= self.tolerance

    def __str__(self) -> str:
        from .two_backends_text import text

        return text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from .two_backends_text import html

        return html(self)

    def as_dict(self) -> dict[str, Any]:
        """For a program and for a file: all figures, as JSON holds them."""
        return asdict(self)

    def save(self, path: str | Path) -> Path:
        """Writes it as JSON and returns the path."""
        return files.write(self.as_dict(), KIND, path)

    @classmethod
    def load(cls, path: str | Path) -> "TwoBackends":
        """Reads what `save` wrote. Raises RunError for a file that cannot be read or holds something else."""
        told = files.read(path, KIND, "sides")
        sides = [{**one, "losses": tuple(one["losses"])} for one in told["sides"]]
        return cls(
            tuple(Side(**one) for one in sides),
            told["model"],
            told["machine"],
            told["recipe"],
            tuple(told.get("notes", ())),
        )


def two_backends(
    runs: Sequence[Run], *, model: str = "", notes: Sequence[str] = (), timed: bool = True
) -> TwoBackends:
    """Sets finished runs of one recipe side by side, Unsloth's first; one run alone stands for itself.

    `model` describes it, if its name does not; without `timed` seconds and bytes are left out. Raises RunError for runs
    that differ in more than the backend, have the same backend, or have not taken as many steps.
    """
    chosen = {_backend(run): run for run in runs}
    found = [chosen[name] for name in ("unsloth", "peft") if name in chosen]
    _check(runs, found)
    first = found[0]
    sides = tuple(_side(run, timed) for run in found)
    name = model or first.recipe.model.name.rstrip("/").rpartition("/")[2]
    return TwoBackends(sides, name, _machine(found), first.recipe.to_yaml(), tuple(notes))


def recorded() -> list[TwoBackends]:
    """What was kept in the repository: first the CPU's, then each card's, by date. Raises RunError."""
    files = [ON_CPU, *sorted(RESULTS.glob("backends-*.json"))]
    found = [TwoBackends.load(path) for path in files if path.is_file()]
    return sorted(found, key=lambda one: (bool(one.machine.get("card")), one.machine["date"]))


def _check(runs: Sequence[Run], found: Sequence[Run]) -> None:
    """Raises RunError for runs that cannot be set side by side."""
    if not found or len(found) < len(runs):
        names = ", ".join(f"{run.name} ({_backend(run)})" for run in runs) or "none"
        fact = f"The runs are {names}; it takes one of each backend, or one alone."
        raise RunError([Problem("", fact, "Start it with backend='peft' and backend='unsloth'.")])
    counts = {run.name: len(run.history.steps) for run in found}
    if len(set(counts.values())) > 1 or not all(counts.values()):
        told = ", ".join(f"{name} has {count}" for name, count in counts.items())
        fact = f"The runs have not taken the same steps: {told}."
        raise RunError([Problem("", fact, "Let both finish: await run.finished().")])
    for other in found[1:]:
        differ = [n for n in found[0].recipe.differences(other.recipe) if n != "backend"]
        if differ:
            fact = f"The runs differ in {', '.join(differ)}, so their losses do not compare."
            raise RunError([Problem("", fact, "Change nothing but backend between them.")])


def _backend(run: Run) -> str:
    """The backend that a run took."""
    run.refresh()
    return _chosen(run, "backend")


def _chosen(run: Run, what: str) -> str:
    return next((each["value"] for each in run.history.choices if each["what"] == what), "")


def _side(run: Run, timed: bool) -> Side:
    history = run.history
    losses = tuple(round(step["loss"], 7) for step in history.steps)
    heldout = history.evals[-1]["loss"] if history.evals else None
    side = Side(_backend(run), losses, heldout)
    steps = history.steps[FIRST:]
    if not timed or not steps:
        return side
    seconds = [step["seconds"] for step in steps]
    on_gpu = any(reading["device_total"] for reading in history.memory)
    kind = "reserved" if on_gpu else "process"
    peak = max((reading[kind] for reading in history.memory), default=None)
    speed = sum(step["tokens"] for step in steps) / sum(seconds)
    return Side(side.backend, losses, heldout, statistics.median(seconds), speed, peak)


def _machine(runs: Sequence[Run]) -> dict[str, Any]:
    """Where it ran, in which number format, with which versions, when."""
    versions: dict[str, str] = {}
    card = None
    for run in runs:
        file = run.folder / "environment.json"
        told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        versions |= told.get("packages", {})
        card = next(iter(told.get("cards", ())), None) or card
    began = runs[0].history.steps[0]["t"]
    return {
        "card": card,
        "precision": _chosen(runs[0], "precision"),
        "versions": versions,
        "date": date.fromtimestamp(began).isoformat(),
    }
