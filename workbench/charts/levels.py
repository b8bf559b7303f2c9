"""A layer's weights with the levels of 4-bit formats over them, and errors as bars: matplotlib Figures of plain numbers.

Knows neither formats nor tensors: weights, levels and errors come in as sequences of numbers.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .palette import LINES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 161  # odd, so that the middle one is about 0
GREY = LINES[3]
MARKS = "|oDs^vP"  # a format is told by its row and its mark, not by its colour alone


def drawn_levels(
    scaled: Sequence[float], formats: Mapping[str, Sequence[float]], title: str = ""
) -> "Figure":
    """How often each weight, divided by its block's largest, occurs in -1 to 1; below, each format's levels in a row.

    The levels of the first format also stand as lines in the histogram. Raises ValueError without weights or formats.
    """
    from matplotlib.figure import Figure

    if not len(scaled) or not formats:
        raise ValueError("Give weights to be counted, and at least one format with its levels.")
    rows = len(formats)
    made = Figure(figsize=(8, 3.1 + 0.3 * rows), layout="constrained", facecolor="white")
    made.get_layout_engine().set(hspace=0, h_pad=0.03)
    heights = {"height_ratios": [3, 0.32 * rows]}
    above, below = made.subplots(2, 1, sharex=True, gridspec_kw=heights)
    counts = _histogram(above, scaled)
    first = next(iter(formats))
    above.vlines(
        formats[first], 0, counts * 1.06, color=LINES[0], linewidth=1.1, label=f"levels of {first}"
    )
    above.set_ylim(0, counts * 1.1)
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "borderpad": 0, "ncols": 2}
    above.legend(frameon=False, fontsize=8, **place)
    if title:
        made.suptitle(title, fontsize=10, x=0.01, ha="left")
    _rows(below, formats)
    return made


def drawn_errors(
    errors: Mapping[str, float], title: str = "", *, label: str = "relative error of the weights"
) -> "Figure":
    """One bar a name, in the order given, with its number as a percentage; the smallest is filled, the others hatched.

    `errors` are shares (0.09 is 9 %) that are not negative. Raises ValueError where there are none.
    """
    from matplotlib.figure import Figure

    if not errors:
        raise ValueError("Give at least one error to be drawn.")
    names, values = list(errors), [100 * value for value in errors.values()]
    made = Figure(figsize=(6.4, 0.8 + 0.34 * len(names)), layout="constrained", facecolor="white")
    axes = made.subplots()
    best = min(values)
    for place, value in enumerate(values):
        least = value == best
        axes.barh(
            place, value, 0.62, edgecolor=LINES[0], linewidth=1,
            facecolor=LINES[0] if least else "none", hatch="" if least else "///",
        )  # fmt: skip
        axes.text(value, place, f"  {value:.2f} %", va="center", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, max(values) * 1.15 or 1)
    axes.set_xlabel(f"{label}, %", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    if title:
        axes.set_title(title, fontsize=10, loc="left")
    return made


def _histogram(axes: "Axes", scaled: Sequence[float]) -> float:
    """The histogram in percent a bin; returns the height to draw up to.

    Each block has one weight at -1 or 1, so the outermost bins stand out; they are cut off where they would flatten the rest.
    """
    import numpy

    counts, edges = numpy.histogram(scaled, BINS, range=(-1, 1))
    counts = counts * (100 / len(scaled))
    axes.stairs(counts, edges, fill=True, color=GREY, alpha=0.45, label="weights")
    axes.set_ylabel("% of the weights", fontsize=8)
    axes.tick_params(axis="x", length=0, labelbottom=False)
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    return float(max(counts[1:-1]) or max(counts))


def _rows(axes: "Axes", formats: Mapping[str, Sequence[float]]) -> None:
    """The levels of each format as marks in a row of its own."""
    for row, (name, levels) in enumerate(formats.items()):
        axes.axhline(row, color=GREY, linewidth=0.6, alpha=0.5, zorder=0)
        mark = MARKS[row % len(MARKS)]
        size = 11 if mark == "|" else 5
        axes.plot(
            levels, [row] * len(levels), mark, color=LINES[row % len(LINES)], markersize=size,
            markeredgewidth=1.6 if mark == "|" else 1, clip_on=False, label=name,
        )  # fmt: skip
    axes.set_ylim(len(formats) - 0.4, -0.6)
    axes.set_yticks(range(len(formats)), list(formats), fontsize=8)
    axes.set_xlim(-1.03, 1.03)
    axes.set_xlabel("weight / largest of its block", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
