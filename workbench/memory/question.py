"""Will this recipe fit there? The question with all that the answer depends on, and the answer in bytes.

Joins a recipe's work, a model's shapes, a backend's habits, a place and what runs there measured. Reads no files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

from ..models import is_local
from ..recipe import Recipe
from . import learned
from .estimate import STATIC, Estimate, estimate
from .habits import Habits, habits
from .learned import Learned
from .place import Place
from .shapes import Shapes
from .work import Work, work_of

#: How much more than expected a run may need before anything was measured on its card: the worst of the published
#: published peaks that tests/test_memory_anchors.py compares lay 17 % above.
MARGIN = 0.18
#: The same for parts that are said to be unknown: Unsloth's own 4-bit copies keep up to 22 % more (Qwen3-14B on a T4).
MARGIN_UNKNOWN = 0.25

Verdict = Literal["fits", "tight", "does not fit"]


class Bounds(NamedTuple):
    """Bytes: what cannot be avoided, what is likely, and what leaves room for what was not foreseen."""

    floor: int
    expected: int
    safe: int
    low: int


@dataclass(frozen=True)
class Question:
    """`longest` tokens has the longest row and `mean` the mean one, None where the rows are not known; `rows` counts them.

    `records` are the lines of earlier runs' measurements (learned.py).
    """

    recipe: Recipe
    shapes: Shapes
    backend: Literal["unsloth", "peft"]
    place: Place | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    longest: int | None = None
    mean: float | None = None
    rows: int | None = None
    records: Sequence[Mapping[str, Any]] = ()

    def with_settings(self, settings: Mapping[str, Any]) -> "Question":
        """The same question with some settings of the recipe changed, by dotted name. Raises RecipeError."""
        changes: dict[str, dict[str, Any]] = {}
        for name, value in settings.items():
            section, _, setting = name.rpartition(".")
            changes.setdefault(section, {})[setting] = value
        return replace(self, recipe=self.recipe.replace(**changes))

    @cached_property
    def work(self) -> Work:
        return work_of(self.recipe, self.longest)

    @cached_property
    def habits(self) -> Habits:
        return habits(self.backend, self.versions, dtype=self.dtype)

    @property
    def dtype(self) -> str:
        """What the run computes in: as worker/precision.py chooses."""
        asked = self.recipe.model.compute_dtype
        if asked != "auto":
            return asked
        if self.place is not None and not self.place.on_gpu:
            return "float32"
        old = self.place is not None and self.place.capability < (8, 0)
        return "float16" if old else "bfloat16"

    @cached_property
    def learned(self) -> Learned | None:
        """What runs on the same card with the same backend and versions measured."""
        if self.place is None or not self.records:
            return None
        like = learned.key(self.place.name, self.backend, self.versions)
        return learned.learn(self.records, like)

    @cached_property
    def raw(self) -> Estimate:
        """The formulas' estimate, before anything measured is taken in."""
        return estimate(self.shapes, self.work, self.habits, self.place)

    @cached_property
    def estimate(self) -> Estimate:
        """The estimate, corrected by what was measured: the exact parts stay, the others share the correction."""
        raw = self.raw
        if self.learned is None:
            return raw
        ratio = self.learned.ratio
        moved = {n: b if n in STATIC else round(b * ratio) for n, b in raw.parts.items()}
        return replace(raw, parts=moved, floor=min(raw.floor, sum(moved.values())))

    @cached_property
    def bounds(self) -> Bounds:
        found, told = self.estimate, self.learned
        expected = found.expected
        if told is None:
            margin = MARGIN_UNKNOWN if found.unknown or self.copied else MARGIN
            safe = round(expected * (1 + margin))
            return Bounds(found.floor, expected, safe, found.floor)
        rest = self.raw.expected - self.raw.static
        low, high = (self.raw.static + round(rest * r) for r in (told.low, told.high))
        return Bounds(min(found.floor, low), expected, max(high, expected), min(low, expected))

    @property
    def copied(self) -> bool:
        """Whether Unsloth may load its own 4-bit copy of the model, which keeps some layers in 16 bit."""
        model = self.recipe.model
        ours = (model.quant_type, model.double_quant) != ("nf4", True) or model.revision is not None
        packed = not model.load_in_4bit or model.name.endswith("-bnb-4bit")
        return self.backend == "unsloth" and not (ours or packed or is_local(model.name))

    @property
    def verdict(self) -> Verdict | None:
        """Whether it fits in what is free; None without a place."""
        if self.place is None:
            return None
        if self.bounds.safe <= self.place.free:
            return "fits"
        return "tight" if self.bounds.expected <= self.place.free else "does not fit"
