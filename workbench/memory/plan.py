"""A run's plan: what it will hold, whether that fits, how long it takes, and what to turn; for people and for programs.

Made from a Question; reads no files. `planning.py` finds out what the question needs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from . import advice, learned, parts
from .advice import Advice
from .estimate import NAMES
from .question import Question
from .speed import Speed, speed

CHECKPOINTS = 2  # that a run keeps


@dataclass(frozen=True)
class Plan:
    """The answer to one question. Bytes and seconds; what cannot be told is None.

    `notes` says in sentences what was assumed.
    """

    question: Question
    notes: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by part at the fullest moment; they sum to `expected`."""
        return self.question.estimate.parts

    @property
    def floor(self) -> int:
        """Bytes below which it cannot run."""
        return self.question.bounds.floor

    @property
    def expected(self) -> int:
        return self.question.bounds.expected

    @property
    def safe(self) -> int:
        """Bytes with which it will run, as far as is known."""
        return self.question.bounds.safe

    @property
    def free(self) -> int | None:
        """Bytes that the place has left."""
        return None if self.question.place is None else self.question.place.free

    @property
    def verdict(self) -> str | None:
        """ "fits", "tight" (what is expected fits, what is safe does not) or "does not fit"."""
        return self.question.verdict

    @property
    def fits(self) -> bool | None:
        """Whether what is safe fits."""
        return None if self.verdict is None else self.verdict == "fits"

    @property
    def measured_runs(self) -> int:
        """Runs on the same card, with the same backend and versions, that the estimate was corrected by."""
        return self.question.learned.runs if self.question.learned else 0

    @cached_property
    def advice(self) -> list[Advice]:
        """What to turn, the best first; what makes it fit by several changes together comes before."""
        found = advice.advise(self.question)
        joint = None if any(one.fits for one in found) else advice.together(self.question)
        return [joint, *found] if joint else found

    @cached_property
    def batches(self) -> list[int]:
        """Micro-batches with the same effective batch that fit."""
        return advice.batches(self.question)

    @cached_property
    def longest_that_fits(self) -> int | None:
        """Tokens of the longest sequence that fits."""
        return advice.longest_that_fits(self.question)

    @property
    def trainable(self) -> int:
        """Parameters that are trained."""
        return sum(parts.trained(self.question.shapes, self.question.work))

    @property
    def disk(self) -> dict[str, int]:
        """Bytes on disk: the adapter in 32 bits, the checkpoints that are kept, and the model merged in 16 bits."""
        training = self.question.recipe.training
        kept = CHECKPOINTS if training.checkpoint_every else 0
        adapter = 4 * self.trainable
        of_one = adapter + self.question.raw.parts["optimizer"]
        return {
            "adapter": adapter,
            "checkpoints": kept * of_one,
            "merged": 2 * self.question.shapes.parameters,
        }

    @property
    def steps(self) -> int | None:
        """Optimizer steps in all; None where they depend on rows that were not counted."""
        recipe, rows = self.question.recipe, self.question.rows
        if recipe.training.steps:
            return recipe.training.steps
        if rows is None:
            return None
        return math.ceil((recipe.training.epochs or 1) * math.ceil(rows / recipe.effective_batch))

    @cached_property
    def speed(self) -> Speed | None:
        """Seconds of a step; None where the card's speed is not known."""
        question = self.question
        if question.place is None:
            return None
        full = question.mean is None or question.recipe.training.batching in ("packed", "wrapped")
        tokens = None if full else min(question.mean, question.work.length) * question.work.rows
        return speed(
            question.shapes,
            question.work,
            question.habits,
            question.place,
            accumulation=question.recipe.training.accumulation,
            tokens=tokens,
            reached=question.learned.share if question.learned else None,
        )

    @property
    def seconds(self) -> float | None:
        """Seconds of all steps, without loading, evaluations and samples."""
        return self.steps * self.speed.step if self.speed and self.steps else None

    def as_dict(self) -> dict[str, Any]:
        """Everything for JSON; `parts`, `floor`, `expected`, `safe`, `fits`, `advice` and `measured_runs` among it."""
        question, found = self.question, self.speed
        place = question.place
        return {
            "model": question.shapes.name,
            "backend": question.backend,
            "card": place.name if place else None,
            "free": self.free,
            "parts": self.parts,
            "floor": self.floor,
            "expected": self.expected,
            "safe": self.safe,
            "low": question.bounds.low,
            "elastic": question.estimate.elastic,
            "fits": self.fits,
            "verdict": self.verdict,
            "measured_runs": self.measured_runs,
            "advice": [one.as_dict() for one in self.advice],
            "batches": self.batches,
            "longest": question.work.length,
            "longest_that_fits": self.longest_that_fits,
            "trainable": self.trainable,
            "host": question.estimate.host,
            "disk": self.disk,
            "steps": self.steps,
            "seconds_per_step": found.step if found else None,
            "bound_seconds_per_step": found.bound if found else None,
            "seconds": self.seconds,
            "unknown": list(question.estimate.unknown),
            "notes": list(self.notes),
        }

    def for_the_run(self) -> dict[str, Any]:
        """What the run's folder keeps as plan.json, for its worker; by the `raw` parts, before correction, ratios are learned."""
        question = self.question
        versions = learned.key("", question.backend, question.versions)["versions"]
        card = question.place.name if question.place else None
        elastic = question.raw.elastic  # this run will take it, as long as it is free
        return {
            "parts": _with_elastic(self.parts, elastic),
            "raw": _with_elastic(question.raw.parts, elastic),
            "floor": self.floor,
            "expected": self.expected + elastic,
            "safe": self.safe + elastic,
            "free": self.free,
            "batches": self.batches,
            "longest": question.work.length,
            "bound_seconds": self._bound_of_a_pass(),
            "advice": [one.as_dict() for one in self.advice],
            "key": {
                "card": card,
                "backend": question.backend,
                "versions": versions,
                "model": question.shapes.name,
            },
        }

    def _bound_of_a_pass(self) -> float | None:
        """Seconds that the fullest micro-batch takes at least."""
        question = self.question
        if question.place is None:
            return None
        found = speed(
            question.shapes, question.work, question.habits, question.place, accumulation=1
        )
        return found.bound if found else None

    def __str__(self) -> str:
        from .plan_text import text

        return text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from .plan_text import html

        return html(self)


def _with_elastic(sizes: Mapping[str, int], elastic: int) -> dict[str, int]:
    """The parts as they will be measured: with the loss in pieces as large as there is room for."""
    return {**sizes, "loss": sizes["loss"] + elastic}


def shown_parts(sizes: Mapping[str, int]) -> list[tuple[str, str, int]]:
    """The parts that take anything, in the order in which they are shown: key, name in words, bytes."""
    return [(key, name, sizes[key]) for key, name in NAMES.items() if sizes.get(key)]
