"""Out of memory: how it is recognised, what held the memory, and what to do about it, in words and as an event.

Knows exceptions, the parts of a model, and the plan's advice. Ends nothing and tries nothing again.
"""

import gc
import re
import traceback
from typing import Any

from ..problems import Problem, WorkbenchError
from . import foreseen, microbatch, parts
from .telling import Telling

#: How it is said, in small letters: by torch on a card and on a CPU, cuBLAS and cuDNN, bitsandbytes, NumPy, and C++.
SAID = (
    "out of memory", "can't allocate memory", "cannot allocate memory", "unable to allocate", "not enough memory",
    "alloc_failed", "memoryallocation", "std::bad_alloc", "not_enough_memory",
    "can't start new thread", "resource temporarily unavailable",
)  # fmt: skip
UNITS = {"bytes": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
#: How the parts are called in a sentence; the others by their own names.
WORDS = {
    "kept16": "layers kept in 16 bit",
    "optimizer": "the optimizer's state",
    "norms": "norms and biases",
    "checkpoints": "checkpointed activations",
    "layer": "the layer being recomputed",
    "answers": "answers",
    "loss": "the loss",
}
#: The plan's names for what comes and goes within a step.
MOVING = ("checkpoints", "layer", "workspace", "loss")
NAMED = 3  # parts that are named: the largest
#: What is no part of its own, or cannot be turned: not named.
UNNAMED = (
    "peak",
    "process",
    "allocated",
    "reserved",
    "evaluation",
    "generation",
    "context",
    "slack",
)
BATCH = {"training.batch_size", "training.accumulation"}
#: The settings that help where it is not the training that is short of memory.
HELPS = {"loading": ("model.", "lora."), "evaluation": ("model.",), "answering": ("samples.",)}


def is_shortage(error: BaseException | None) -> bool:
    """Whether this, or what it came from, says that memory ran out."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, WorkbenchError):  # said in our own words already
            return False
        text = str(error).lower()
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return True
        if any(said in text for said in SAID):
            return True
        error = error.__cause__ or error.__context__
    return False


def wanted(error: BaseException) -> int | None:
    """Bytes of the allocation that failed, as far as the message says."""
    pattern = r"(?:allocate|requested)\s+([\d.]+)\s*([kmgt]i?b|bytes|b)\b"
    found = re.search(pattern, str(error).lower())
    if found is None:
        return None
    unit = found[2] if found[2] in UNITS else f"{found[2][0]}ib"
    return int(float(found[1].rstrip(".")) * UNITS[unit])


def size(count: float) -> str:
    """Bytes as people read them."""
    if count >= 2**30:
        return f"{count / 2**30:.1f} GiB"
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


class Shortages:
    """Tells each shortage of a run. `model`, `trainer` and `measured` are given as soon as they are there."""

    def __init__(self, told: Telling) -> None:
        self._told = told
        self.model: Any = None
        self.trainer: Any = None
        self.measured: parts.Bytes = {}
        self.micro: microbatch.MicroBatch | None = None

    def tell(
        self, error: BaseException, phase: str, *, retrying: bool = False, saved: int = 0
    ) -> Problem:
        """Writes an oom event and returns what it means; `phase` is loading, training, evaluation or answering.

        `saved` is the step of the newest checkpoint.
        """
        told, plan = self._told, foreseen.read(self._told.folder)
        rows = self._rows(phase)
        more, holding = wanted(error), self.held(passing=phase == "training")
        advice = foreseen.advice(plan)
        told.log.write(
            "oom",
            phase=phase,
            step=told.step,
            batch_size=rows,
            held=holding,
            wanted=more,
            advice=advice,
            retrying=retrying,
        )
        return Problem("", self._fact(phase, rows, more, holding), self._cure(phase, advice, saved))

    def evaluate_fewer(self, trainer: Any, error: BaseException) -> bool:
        """Halves the rows of a held-out batch for the rest of the run, and says so.

        False, and no evaluation any more, when one row at once did not fit either.
        """
        problem, args = self.tell(error, "evaluation"), trainer.args
        forget(error)
        rows = args.per_device_eval_batch_size // 2
        if not rows:
            trainer.eval_dataset = None
            self._told.warn(problem.fact, f"It is not measured any more. {problem.cure}")
            return False
        args.per_device_eval_batch_size = rows
        text = f"It is measured with {rows} row{'s'[: rows > 1]} at once from here on; the training goes on."
        self._told.warn(problem.fact, text)
        return True

    def held(self, *, passing: bool) -> parts.Bytes:
        """Bytes by part: of the real tensors where there is a model, else as planned; `passing` is while it trains."""
        if self.model is None:
            return dict((foreseen.read(self._told.folder) or {}).get("parts") or {})
        optimizer = getattr(self.trainer, "optimizer", None)
        now = parts.held(self.model, optimizer)
        if not passing:
            return now
        activations = self.measured.get("activations") or parts.above(sum(now.values()))
        activations = activations or self._planned_activations()
        return now | ({"activations": activations} if activations else {})

    def _planned_activations(self) -> int:
        """What comes and goes in a step, by the plan: for a shortage before anything was measured."""
        planned = (foreseen.read(self._told.folder) or {}).get("parts") or {}
        return sum(planned.get(name, 0) for name in MOVING)

    def _rows(self, phase: str) -> int | None:
        if phase == "evaluation":
            return self.trainer.args.per_device_eval_batch_size
        return self.micro.batch_size if self.micro and phase == "training" else None

    def _fact(self, phase: str, rows: int | None, more: int | None, holding: parts.Bytes) -> str:
        where = {"evaluation": "measuring the held-out loss", "loading": "loading the model"}
        at = f" at step {self._told.step}" if self._told.step else ""
        at_once = f", with {rows} row{'s'[: rows > 1]} at once" if rows else ""
        wish = f": {size(more)} more were wanted" if more else ""
        fact = f"The memory ran out while {where.get(phase, phase)}{at}{at_once}{wish}."
        shown = {name: count for name, count in holding.items() if count and name not in UNNAMED}
        largest = sorted(shown.items(), key=lambda part: -part[1])[:NAMED]
        if largest:
            named = ", ".join(f"{WORDS.get(name, name)} {size(count)}" for name, count in largest)
            fact += f" It {'held' if self.model is not None else 'was to hold'} {named}."
        return fact

    def _cure(self, phase: str, advice: list[dict[str, Any]], saved: int) -> str:
        cures = []
        smaller = microbatch.halved(self.micro) if self.micro else None
        if phase == "training" and smaller:
            start = f"goes on from step {saved}" if saved else "starts again"
            cures.append(
                f"resume(batch_size={smaller.batch_size}) {start} with {smaller.batch_size}"
                f" row{'s'[: smaller.batch_size > 1]} at once and the same effective batch of {smaller.effective}."
            )
        # the plan's batches are the recipe's; by now fewer rows may go through at once
        helping = [one for one in advice if _helps(one, phase, self.micro is not None)]
        for one in helping[:2]:
            text, saves = str(one.get("text", "")).rstrip("."), one.get("saves")
            said = "save" in text or not saves
            cures.append(f"{text}." if said else f"{text} saves {size(saves)}.")
        return " ".join(cures) or _GENERAL[phase]


_GENERAL = {
    "training": "Shorten model.max_length, set training.gradient_checkpointing, or choose a smaller model.",
    "evaluation": "Shorten model.max_length, or hold out shorter rows.",
    "answering": "Ask for shorter answers: samples.max_new_tokens.",
    "loading": "Close other programs, set model.load_in_4bit, or choose a smaller model.",
}


def _helps(one: dict[str, Any], phase: str, is_cut: bool) -> bool:
    """Whether an advice is about what ran short; `is_cut` says that fewer rows at once are proposed apart, or cannot be."""
    names = set(one.get("settings") or {})
    if phase in HELPS:
        return any(name.startswith(HELPS[phase]) for name in names)
    return not (is_cut and names and names <= BATCH)


def forget(error: BaseException) -> None:
    """Frees what the failed call still holds: the tensors in its frames, and torch's empty blocks."""
    import torch

    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
