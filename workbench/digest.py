"""What a list tells of a run, in a few figures: state, steps, losses, time, memory, and the settings that are not the defaults.

A log of 10,000 steps takes 0.3 s to read, so the digest of a run that has ended is kept beside its log. Knows nothing of
what is done with a run.
"""

import contextlib
import itertools
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .events import History
from .names import NAME
from .problems import WorkbenchError
from .recipe import Recipe
from .run import Run
from .summary import exact_match, train_seconds

FILE = "digest.json"
FORMAT = 2  # of the file; another one is written anew
POINTS = 40  # of a loss curve that is one line of text high
UNREADABLE = "unreadable"
#: What a short line tells first of the settings that were changed, and what it leaves out.
FIRST = ("lora.rank", "lora.alpha", "lora.target_modules", "training.learning_rate", "training.steps", "training.epochs")  # fmt: skip
LEFT_OUT = ("model.name", "data.train", "data.heldout", "backend", "samples.")


@dataclass(frozen=True)
class Digest:
    """Seconds, bytes, nats per token. What is not known is None; `problem` says what of the folder cannot be read."""

    state: str
    text: str = ""
    started: float | None = None
    step: int = 0
    of: int | None = None
    losses: Sequence[float] = ()
    first_loss: float | None = None
    loss: float | None = None
    heldout_loss: float | None = None
    best_loss: float | None = None
    best_step: int | None = None
    correct: int | None = None
    scored: int | None = None
    seconds: float = 0.0
    tokens: int = 0
    peak: int | None = None
    on_gpu: bool = False
    trainable: int | None = None
    adapter: bool = False
    alive: bool = False
    model: str = ""
    changed: Mapping[str, Any] = field(default_factory=dict)
    steered: Sequence[str] = ()
    problem: str = ""

    @property
    def exact_match(self) -> float | None:
        """Share of the scored rows that the adapter answered letter by letter."""
        return self.correct / self.scored if self.scored else None

    @property
    def speed(self) -> float | None:
        """Real (not padding) tokens/s over all steps."""
        return self.tokens / self.seconds if self.seconds else None

    @property
    def done(self) -> bool:
        """Whether all steps were taken and the adapter was kept."""
        return self.adapter and bool(self.step) and self.step == self.of


def found(outputs: str | Path) -> list[Run]:
    """The runs in a folder, newest first, without reading what they wrote; those in the trash are not among them."""
    dated = []
    for path in Path(outputs).resolve().glob("*/recipe.yaml"):
        if not NAME.fullmatch(path.parent.name):
            continue
        with contextlib.suppress(OSError):  # deleted by another kernel since it was listed
            dated.append((path.stat().st_mtime, path.parent))
    return [Run(folder) for _, folder in sorted(dated, reverse=True)]


def named(run: str | Run, outputs: str | Path = "outputs") -> Run:
    """The run that is meant by a name or given as it is. Raises RunError where there is none."""
    return run if isinstance(run, Run) else Run.open(run, outputs)


def digest(run: Run) -> Digest:
    """The run's digest, from its file where nothing was written since; never raises for what a folder holds."""
    try:
        stamp = _stamp(run.folder)
        alive = run.alive
        if not alive and (kept := _kept(run.folder, stamp)):
            return kept
        run.refresh()
        made = _of_history(run.history, alive=alive, **_of_recipe(run))
        if not alive and run.history.over and stamp == _stamp(run.folder):
            _keep(run.folder, stamp, made)
        return made
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        file = getattr(error, "filename", None) or run.folder
        return Digest(UNREADABLE, problem=f"{Path(file).name} cannot be read: {said}.")


def short(changed: Mapping[str, Any], most: int = 4) -> str:
    """The changed settings that matter to learning, in a few words: "rank 4, alpha 8, +3 more"."""
    rank = {name: number for number, name in enumerate(FIRST)}
    names = [name for name in changed if not name.startswith(LEFT_OUT)]
    names.sort(key=lambda name: rank.get(name, len(rank)))
    told = [f"{name.rpartition('.')[2]} {said(changed[name])}" for name in names[:most]]
    hidden = len(names) - most
    return ", ".join(told + ([f"+{hidden} more"] if hidden > 0 else []))


def model_name(name: str) -> str:
    """A model's name without its owner, or the last two parts of a folder's path."""
    parts = Path(name).parts
    return "/".join(parts[-2:] if len(parts) > 2 else parts[-1:])


def said(value: Any, most: int = 60) -> str:
    """A setting's value as a table shows it, the end of it where it is long."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        value = " ".join(map(str, value)) or "none"
    text = " ".join(str(value).split())
    return text if len(text) <= most else f"\N{HORIZONTAL ELLIPSIS}{text[1 - most :]}"


def sparks(losses: Sequence[float], width: int = 12) -> str:
    """The curve as block letters for a terminal."""
    points = thinned(losses, width)
    if not points:
        return ""
    low, high = min(points), max(points)
    blocks = "▁▂▃▄▅▆▇█"
    return "".join(blocks[round((p - low) / ((high - low) or 1) * 7)] for p in points)


def thinned(values: Sequence[float], points: int = POINTS) -> list[float]:
    """At most so many means of equal shares of the finite values."""
    values = [value for value in values if math.isfinite(value)]
    if len(values) <= points:
        return values
    cuts = [round(number * len(values) / points) for number in range(points + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(cuts)]


def _of_recipe(run: Run) -> dict[str, Any]:
    try:
        here, default = run.recipe.settings, Recipe().settings
    except WorkbenchError as error:
        return {"problem": str(error)}
    changed = {name: value for name, value in here.items() if value != default[name]}
    return {"model": run.recipe.model.name, "changed": changed}


def _of_history(history: History, **beside: Any) -> Digest:
    losses = [s["loss"] for s in history.steps if math.isfinite(s["loss"])]
    evals = [e for e in history.evals if math.isfinite(e["loss"])]
    best = min(evals, key=lambda e: e["loss"], default={})
    score = exact_match(history, adapter=True) or {}
    on_gpu = any(reading.get("device_total") for reading in history.memory)
    held = "reserved" if on_gpu else "process"
    return Digest(
        state=history.state,
        text=history.text,
        started=history.phases[0].get("t") if history.phases else None,
        step=history.step,
        of=history.of,
        losses=[float(f"{loss:.4g}") for loss in thinned(losses)],
        first_loss=losses[0] if losses else None,
        loss=losses[-1] if losses else None,
        heldout_loss=evals[-1]["loss"] if evals else None,
        best_loss=best.get("loss"),
        best_step=best.get("step"),
        correct=score.get("correct"),
        scored=score.get("rows"),
        seconds=train_seconds(history),
        tokens=sum(step.get("tokens") or 0 for step in history.steps),
        peak=max((reading.get(held) or 0 for reading in history.memory), default=0) or None,
        on_gpu=on_gpu,
        trainable=history.model.get("trainable"),
        adapter=bool(history.adapter),
        steered=[
            c["text"]
            for c in history.commands
            if c["do"] == "change" and c.get("text") and c["taken"]
        ],
        **beside,
    )


def _stamp(folder: Path) -> list[int]:
    """What changes when anything that a digest is made of does: sizes in bytes and times in nanoseconds."""
    stamp = [FORMAT]
    for name in ("events.jsonl", "recipe.yaml"):
        try:
            state = (folder / name).stat()
            stamp += [state.st_size, state.st_mtime_ns]
        except FileNotFoundError:
            stamp += [0, 0]
    return stamp


def _kept(folder: Path, stamp: list[int]) -> Digest | None:
    try:
        told = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return Digest(**told["digest"]) if told["stamp"] == stamp else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(folder: Path, stamp: list[int], made: Digest) -> None:
    partial = folder / f".{FILE}.{os.getpid()}-{time.monotonic_ns()}"
    try:
        partial.write_text(json.dumps({"stamp": stamp, "digest": asdict(made)}), encoding="utf-8")
        partial.replace(folder / FILE)
    except OSError:  # a folder that may only be read is read anew each time
        with contextlib.suppress(OSError):
            partial.unlink()
