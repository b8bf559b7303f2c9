"""Predicted against measured, part by part: what a run's first seconds say of its plan. Knows events, draws nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from . import learned
from .estimate import NAMES, STATIC

#: Parts that come and go within a step; they are measured together, as the peak above what stays.
MOVING = ("checkpoints", "layer", "workspace", "loss")


class Pair(NamedTuple):
    """A part in words, with its bytes as predicted (None: nothing was) and as measured (None: cannot be told apart)."""

    name: str
    predicted: int | None
    measured: int | None


@dataclass(frozen=True)
class Comparison:
    """The pairs in the order in which they are shown, and the whole; `tokens` is what the measured micro-batch held."""

    run: str
    pairs: tuple[Pair, ...]
    whole: Pair
    batch_size: int
    tokens: int
    seconds: float

    @property
    def error(self) -> float | None:
        """By how much of the measured whole the prediction was off; positive when it predicted too much."""
        predicted, measured = self.whole.predicted, self.whole.measured
        return None if predicted is None or not measured else predicted / measured - 1

    def __str__(self) -> str:
        from .comparison_text import text

        return text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from .comparison_text import html

        return html(self)


def compare(run: str, probe: Mapping[str, Any]) -> Comparison:
    """Reads a `probe` event."""
    measured = probe["measured"]
    predicted = (probe["predicted"] or {}).get("parts")
    pairs = [
        Pair(NAMES[name], predicted and predicted.get(name, 0), measured.get(name, 0))
        for name in STATIC
        if measured.get(name) or (predicted and predicted.get(name))
    ]
    moving = predicted and sum(predicted.get(name, 0) for name in MOVING)
    pairs.append(Pair("activations, logits and workspace", moving, measured.get("activations")))
    pairs.append(
        Pair(NAMES["context"], predicted and predicted.get("context", 0), measured.get("context"))
    )
    rest = learned.total(measured) - sum(pair.measured or 0 for pair in pairs)
    slack = predicted and predicted.get("slack", 0) + predicted.get("answers", 0)
    pairs.append(Pair("allocator slack and answers", slack, rest))
    whole = Pair("in all", predicted and sum(predicted.values()), learned.total(measured))
    return Comparison(
        run, tuple(pairs), whole, probe["batch_size"], probe["tokens"], probe["seconds"]
    )
