"""Two backends side by side as a matplotlib Figure: the loss of each by step, and below how far they are apart.

Knows no runs: it draws a TwoBackends. pyplot is not touched.
"""

import textwrap
from typing import TYPE_CHECKING

from ..inspection.two_backends_text import NAMES, verdict, where
from .figure import Picture
from .palette import LINES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..inspection.two_backends import TwoBackends

STYLES = ({"linewidth": 4, "alpha": 0.45}, {"marker": "o", "markersize": 3, "linewidth": 1})


def picture(found: "TwoBackends") -> Picture:
    """The figure with what it says in words."""
    return Picture(figure(found), f"{where(found)} {verdict(found)}")


def figure(found: "TwoBackends") -> "Figure":
    """Losses in nats per token; the lower plot, of float32 alone, has each step's difference beside the tolerance.

    In 16 bits single steps part by chance and only the means are compared, so there is no lower plot.
    """
    from matplotlib.figure import Figure

    both = bool(found.exact and found.differences)
    made = Figure(figsize=(7.5, 4.6 if both else 3.2), layout="constrained", facecolor="white")
    plots = made.subplots(2 if both else 1, sharex=True, squeeze=False, height_ratios=[2, 1][: 1 + both])[:, 0]  # fmt: skip
    for number, side in enumerate(found.sides):
        steps = range(1, len(side.losses) + 1)
        name = f"{NAMES[side.backend]} {side.losses[-1]:.4g}"
        plots[0].plot(steps, side.losses, color=LINES[number], label=name, **STYLES[number % 2])
    plots[0].set_ylabel("loss (nats per token)", fontsize=9)
    plots[0].set_title(textwrap.fill(where(found), 95), loc="left", fontsize=9)
    plots[0].legend(frameon=False, fontsize=8)
    if both:
        steps = range(1, len(found.differences) + 1)
        least = min((d for d in found.differences if d), default=found.tolerance)
        shown = [difference or least / 2 for difference in found.differences]
        plots[1].plot(
            steps, shown, "D", color=LINES[2], markersize=3, label="difference of the two"
        )
        plots[1].axhline(found.tolerance, color="#444", linestyle=":", label=f"tolerance {found.tolerance:g}")  # fmt: skip
        plots[1].set_yscale("log")
        plots[1].set_ylabel("share of the loss", fontsize=9)
        plots[1].legend(frameon=False, fontsize=8)
    for axes in plots:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
    plots[-1].set_xlabel("step", fontsize=9)
    plots[-1].xaxis.get_major_locator().set_params(integer=True)
    return made
