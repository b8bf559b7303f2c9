"""What a notebook keeps as an image: of a run, of several, or of what was measured or inspected. Draws nothing itself."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..inspection import adapter_text, quantization_text
from ..inspection.adapter import AdapterUpdates
from ..inspection.contest import Contest
from ..inspection.quantization import QuantizationErrors
from ..inspection.two_backends import TwoBackends
from ..memory.comparison import Comparison
from ..memory.comparison_text import headline
from ..summary import in_words
from . import contest, layers, ranks, two_backends
from .figure import Picture, compared, figure, overlaid

if TYPE_CHECKING:
    from ..run import Run

Inspected = AdapterUpdates | Contest | QuantizationErrors | TwoBackends


def picture(
    shown: "Run | Sequence[Run] | Comparison | Inspected", *, by: str = "steps", **how: Any
) -> Picture:
    """A run's charts, several runs' losses over each other, or what was measured or inspected, as an image with its words.

    `by` is for several runs: steps, tokens or seconds. `how` is for one run, as in `figure` (`show="last half"`,
    `logarithmic=True`, `columns=1`), and for an adapter's updates, as in `ranks` (`show="rank99"` or "share").
    """
    if isinstance(shown, Inspected):
        return _inspected(shown, **how)
    if isinstance(shown, Comparison):
        return Picture(compared(shown), headline(shown))
    if isinstance(shown, Sequence):
        for run in shown:
            run.refresh()
        text = "\n".join(f"{run.name} {in_words(run.history)}" for run in shown)
        return Picture(overlaid(shown, by), text)
    shown.refresh()
    text = in_words(shown.history)
    return Picture(figure(shown.history, title=text, **how), text)


def _inspected(shown: Inspected, **how: Any) -> Picture:
    if isinstance(shown, AdapterUpdates):
        return Picture(ranks.ranks(shown, **how), adapter_text.headline(shown))
    if isinstance(shown, QuantizationErrors):
        return Picture(layers.error_by_block(shown), quantization_text.headline(shown))
    return (contest if isinstance(shown, Contest) else two_backends).picture(shown)
