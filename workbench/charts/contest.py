"""A contest as a matplotlib Figure: training loss by step with a band over the seeds, and beside it the held-out losses.

Pure: a Contest goes in, a Figure comes out; pyplot is not touched.
"""

import textwrap
from typing import TYPE_CHECKING

from .figure import MARKERS, Picture
from .palette import LINES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..inspection.contest import Contest, Spread

WIDTH, HEIGHT = 8.4, 4.4  # inches
WIDE = 20  # the highest loss over the lowest, from which on the scale is logarithmic
APART = 0.9  # of a place beside the next one, that a name may take
LETTERS = 13  # of a name in a line


def picture(contest: "Contest") -> Picture:
    """The figure with what it says in words."""
    return Picture(raced(contest), str(contest))


def raced(contest: "Contest") -> "Figure":
    """Training loss by step, each entry's mean over the seeds as a line with a marker of its own and a band from the
    lowest to the highest seed; beside it the held-out loss with whiskers, on the same axis in nats per token."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(WIDTH, HEIGHT), layout="constrained", facecolor="white")
    beside = max(0.5, 0.17 * len(contest.entries))
    left, right = made.subplots(1, 2, sharey=True, width_ratios=(1, beside))
    _learn(left, contest)
    _held_out(right, contest)
    lows = [spread.low for name in contest.entries for spread in contest.curve(name)]
    lows += [held.low for _, held in _measured(contest)]
    highs = [spread.high for name in contest.entries for spread in contest.curve(name)]
    if lows and min(lows) > 0 and max(highs, default=0) > WIDE * min(lows):
        left.set_yscale("log")
    left.yaxis.set_major_formatter("{x:,.10g}")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.grid(axis="y", alpha=0.25)
    return made


def _learn(axes: "Axes", contest: "Contest") -> None:
    """Lines and bands of the training loss."""
    for number, name in enumerate(contest.entries):
        curve = contest.curve(name)
        steps = range(1, len(curve) + 1)
        colour = LINES[number % len(LINES)]
        band = ([each.low for each in curve], [each.high for each in curve])
        axes.fill_between(steps, *band, color=colour, alpha=0.18, linewidth=0)
        axes.plot(
            steps, [each.mean for each in curve], color=colour, linewidth=1.6, markersize=5,
            marker=MARKERS[number % len(MARKERS)], markevery=(number, max(4, len(curve) // 6)),
            label=_plain(name),
        )  # fmt: skip
    seeds = len(contest.seeds)
    range_of = f"mean and range of {seeds} seeds" if seeds > 1 else "one seed"
    axes.set_title(f"Training loss, {range_of}", loc="left", fontsize=10, pad=22)
    axes.set_xlabel("step", fontsize=9)
    axes.set_ylabel("nats per trained token", fontsize=9)
    axes.set_xlim(1, max(contest.steps, 2))
    axes.legend(
        frameon=False, fontsize=8, ncols=4, loc="lower left", bbox_to_anchor=(0, 1),
        borderpad=0.2, borderaxespad=0, columnspacing=1.4,
    )  # fmt: skip


def _held_out(axes: "Axes", contest: "Contest") -> None:
    """A point for each entry's mean, and whiskers to the lowest and highest seed."""
    places = list(contest.entries)
    for name, spread in _measured(contest):
        place = places.index(name)
        colour = LINES[place % len(LINES)]
        whiskers = [[spread.mean - spread.low], [spread.high - spread.mean]]
        axes.errorbar(
            [place], [spread.mean], yerr=whiskers, color=colour, capsize=8, markersize=5,
            marker=MARKERS[place % len(MARKERS)], linewidth=1.4,
        )  # fmt: skip
        axes.annotate(
            f"{spread.mean:.2g}", (place, spread.mean), xytext=(11, 0), textcoords="offset points",
            fontsize=8, va="center",
        )  # fmt: skip
    names = [textwrap.fill(_plain(name), LETTERS) for name in places]
    axes.set_xticks(range(len(places)), names, fontsize=8)
    axes.set_xlim(-0.5, len(places) - 1 + APART)
    axes.set_title(f"{contest.rows:,} held-out rows, at the end", loc="left", fontsize=10, pad=22)


def _measured(contest: "Contest") -> "list[tuple[str, Spread]]":
    """Entries whose held-out loss is known, with its spread."""
    found = ((name, contest.spread(name, "heldout_loss")) for name in contest.entries)
    return [(name, spread) for name, spread in found if spread is not None]


def _plain(name: str) -> str:
    """A name as it is: matplotlib takes dollars for formulas, and leaves out names that begin with an underscore."""
    return f" {name}".replace("$", r"\$") if name.startswith("_") else name.replace("$", r"\$")
