"""The loss curves of several runs on the same axes, by steps, by tokens or by seconds of training.

Pure: reads names and Histories as they are, and draws nothing.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

from .series import Chart, Series, finite
from .thinning import SMOOTH_SHARE, smoothed

if TYPE_CHECKING:
    from ..events import History
    from ..run import Run

By = Literal["steps", "tokens", "seconds"]
AXES = {
    "steps": "step",
    "tokens": "tokens trained through (without padding)",
    "seconds": "seconds of training",
}


def curves(runs: "Sequence[Run]", by: By = "steps") -> Chart:
    """The smoothed training loss and the held-out loss of each run.

    Raises ValueError when `by` is none of steps, tokens and seconds.
    """
    if by not in AXES:
        raise ValueError(f"by is {by!r}; it must be one of {', '.join(AXES)}.")
    lines: list[Series] = []
    for number, run in enumerate(runs):
        history = run.history
        at = _places(history, by)
        steps, losses, _ = finite(history.steps, "loss")
        smooth = smoothed(losses, (history.of or 0) * SMOOTH_SHARE)
        if smooth:
            xs = [at[step] for step in steps]
            lines.append(Series(run.name, xs, smooth, "run", number, value=f"{smooth[-1]:.3g}"))
        steps, held, _ = finite(history.evals, "loss")
        if held:
            xs = [at.get(step, 0) for step in steps]
            best = f"best {min(held):.3g}"
            lines.append(Series(f"{run.name}, held out", xs, held, "points", number, value=best))
    end = max((max(line.xs) for line in lines), default=1)
    return Chart("Loss", AXES[by], "nats per token", end, lines, "no steps yet", loose=True)


def _places(history: "History", by: By) -> dict[int, float]:
    """Where on the axis each step lies."""
    steps = [step["step"] for step in history.steps]
    if by == "steps":
        return {step: step for step in (*steps, *(e["step"] for e in history.evals))}
    return dict(zip(steps, accumulate(step[by] or 0 for step in history.steps), strict=True))
