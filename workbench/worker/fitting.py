"""Which micro-batch is the fastest of those that fit: each is tried on the longest rows and on rows of middling length.

Takes the place of a rehearsal for one call of the trainer. Knows a trainer and its rows; nothing of how the plan came
to the sizes that it thinks will fit.
"""

import time
from pathlib import Path
from typing import Any

import psutil

from ..recipe import Recipe
from . import device, feeding, foreseen, parts, rehearsal
from .microbatch import MicroBatch, with_rows
from .shortage import forget, is_shortage, size

SHORT_SECONDS = 1.0  # a pass that takes less is timed twice, and the better time counts
STATE_BYTES = 8  # of an optimizer for each trained parameter, where the plan does not say: two numbers in 32 bit


class Tried(Exception):
    """All is tried: ends the trainer's call before its first step."""


class Fitting:
    """What was tried: `best`, and `why` it is; `short` is the error when not even the smallest fits."""

    def __init__(self, units: feeding.Units, recipe: Recipe, folder: Path) -> None:
        self._units, self._recipe, self._folder = units, recipe, folder
        self._rates: dict[int, float] = {}
        self._left_out = ""
        self.short: Exception | None = None

    @property
    def best(self) -> MicroBatch:
        rows = max(self._rates, key=lambda tried: self._rates[tried])
        return with_rows(rows, self._recipe.effective_batch)

    @property
    def why(self) -> str:
        best = self.best.batch_size
        said = [
            f"{best} row{'s'[: best > 1]} at once go through in {self._rates[best]:,.0f} tokens/s"
        ]
        said += [f"{rows} in {rate:,.0f}" for rows, rate in self._rates.items() if rows != best]
        return "; ".join([*said, self._left_out] if self._left_out else said) + "."

    def begin(self, trainer: Any) -> None:
        """Tries one size after the other, from small to large, and raises Tried."""
        plan = foreseen.read(self._folder)
        state = _state_bytes(trainer.model, plan)
        peak = rows_before = 0
        sizes = candidates(self._recipe.effective_batch, plan)
        for rows in sizes:
            free = _free() - state
            projected = peak * rows // max(rows_before, 1)
            if projected > free:
                self._left_out = (
                    f"{rows} would need {size(projected)}, and {size(max(free, 0))} are free"
                )
                break
            peak, rows_before = self._try(trainer, rows), rows
            if not peak:
                break
        planned_out = _next_size(self._recipe.effective_batch, sizes, plan)
        if planned_out and not self._left_out:
            self._left_out = f"{planned_out} would not fit, by the plan"
        raise Tried

    def _try(self, trainer: Any, rows: int) -> int:
        """Measures one size; returns the bytes of a pass on its longest rows, 0 when they did not fit."""
        with rehearsal.leaving_no_trace(trainer):
            try:
                return self._measure(trainer, rows)
            except Exception as error:
                if not is_shortage(error):
                    raise
                short = error
        forget(short)
        self._left_out = f"{rows} did not fit ({' '.join(str(short).split())[:120]})"
        if not self._rates:
            self.short = short
        return 0

    def _measure(self, trainer: Any, rows: int) -> int:
        longest = rehearsal.longest(trainer, self._units, rows)
        with parts.peak() as found:
            rehearsal.one_pass(trainer, longest)
        batches = [longest, rehearsal.of_places(trainer, _middling(self._units, rows))]
        seconds = sum(_seconds(trainer, batch) for batch in batches)
        self._rates[rows] = sum(batch["tokens"] for batch in batches) / seconds
        return found.above


def candidates(effective: int, plan: dict[str, Any] | None) -> list[int]:
    """Rows at once that divide the effective batch: those of the plan, else each at least twice the one before."""
    divisors = [rows for rows in range(1, effective + 1) if effective % rows == 0]
    planned = (plan or {}).get("batches")
    if isinstance(planned, list) and (fitting := [rows for rows in divisors if rows in planned]):
        return fitting
    found: list[int] = []
    for rows in divisors:
        if not found or rows >= 2 * found[-1]:
            found.append(rows)
    return found


def _next_size(effective: int, sizes: list[int], plan: dict[str, Any] | None) -> int | None:
    """The smallest size that the plan left out above those that are tried; None where it left out none."""
    planned = (plan or {}).get("batches") or ()
    larger = (rows for rows in range(sizes[-1] + 1, effective + 1) if effective % rows == 0)
    return next(larger, None) if sizes[-1] in planned else None


def _middling(units: feeding.Units, rows: int) -> Any:
    """The places of so many units whose lengths lie around the median."""
    import numpy as np

    places = np.argsort(units.lengths, kind="stable")
    start = max((len(places) - rows) // 2, 0)
    return places[start : start + rows]


def _seconds(trainer: Any, batch: rehearsal.Batch) -> float:
    """Seconds of a pass; the better of two where one is short."""
    first = _timed(trainer, batch)
    return min(first, _timed(trainer, batch)) if first < SHORT_SECONDS else first


def _timed(trainer: Any, batch: rehearsal.Batch) -> float:
    import torch

    def wait() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    wait()
    started = time.monotonic()
    rehearsal.one_pass(trainer, batch)
    wait()
    return time.monotonic() - started


def _state_bytes(model: Any, plan: dict[str, Any] | None) -> int:
    """What the optimizer will hold from the first step on."""
    planned = ((plan or {}).get("parts") or {}).get("optimizer")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return int(planned) if planned is not None else STATE_BYTES * trained


def _free() -> int:
    """Bytes that tensors can still take: of the card, with what torch keeps for itself, or of main memory."""
    import torch

    if torch.cuda.is_available():
        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        free = torch.cuda.mem_get_info()[0] + kept
        limit = device.memory_limit()
        return min(free, limit - torch.cuda.memory_allocated()) if limit else free
    return device.memory_left(psutil.virtual_memory().available)
