"""The same charts as a matplotlib Figure: for a saved notebook, a file, or a page without ECharts. pyplot is not touched."""

import io
import textwrap
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from ..events import History
from ..memory.comparison import Comparison
from ..memory.comparison_text import headline
from ..summary import GIB
from .marks import NAMES
from .overlay import curves
from .palette import LINES
from .series import Chart, Series, live_charts
from .thinning import decimated

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..run import Run

COLUMNS = 1000  # to which a line is thinned: more than pixels, less than a large file
WIDTH, HEIGHT, HEAD = 4.8, 3.2, 0.5  # inches of one chart, and of the words above all
LEFT, RIGHT, ABOVE, BELOW = 0.68, 0.78, 0.95, 0.45  # inches around a chart's plot
MARKERS = "soD^vP"  # of points, by colour: several runs are told apart by them too
LEGEND_ROW, LEGEND_GAP = 11, 15  # points: of a legend's row, and between the plot and the legend
LINE = 0.16  # inches of a line of the words above all
#: Shapes of marks, by kind, as in the live form.
SHAPES = {"sample": "^", "checkpoint": "D", "change": "o", "pause": "s", "resume": ">", "stop": "X"}


def figure(
    history: History,
    *,
    title: str = "",
    show: str = "all",
    logarithmic: bool = False,
    columns: int = 2,
) -> "Figure":
    """All charts of a run as a Figure.

    `show` is one of charts.SHOWN; `logarithmic` is for losses and gradients. Raises ValueError for another `show`.
    """
    from matplotlib.figure import Figure

    charts = live_charts(history, show)
    text = textwrap.fill(title, 62 * columns)
    head = max(HEAD, 0.18 + LINE * len(text.splitlines())) if title else 0
    above = max(ABOVE, *(_inches_above(chart) for chart in charts))
    block = HEIGHT + above - ABOVE  # a long legend takes no room from the plot
    width, height = WIDTH * columns, head + block * -(-len(charts) // columns)
    made = Figure(figsize=(width, height), facecolor="white")
    for number, chart in enumerate(
        charts
    ):  # in fixed places: a layout engine takes most of the time
        row, column = divmod(number, columns)
        low = height - head - block * (row + 1) + BELOW
        place = (WIDTH * column + LEFT, low, WIDTH - LEFT - RIGHT, HEIGHT - ABOVE - BELOW)
        axes = made.add_axes([x / (width, height)[i % 2] for i, x in enumerate(place)])
        _draw(axes, chart, logarithmic and chart.may_log)
    if title:
        made.suptitle(text, fontsize=9, x=LEFT / width, y=1 - 0.08 / height, ha="left", va="top")
    return made


def overlaid(runs: "Sequence[Run]", by: str = "steps") -> "Figure":
    """The loss curves of several runs: training smoothed and solid, held out dashed with dots, by steps, tokens or seconds.

    Raises ValueError when `by` is none of these.
    """
    from matplotlib.figure import Figure

    made = Figure(figsize=(8, 4.2), layout="constrained", facecolor="white")
    _draw(made.subplots(), curves(runs, by), logarithmic=False)
    return made


class Picture:
    """A static figure and what it says in words; a notebook keeps it as an image."""

    def __init__(self, made: "Figure", text: str) -> None:
        self.text, self.image = text, _png(made)

    def _repr_png_(self) -> bytes:
        return self.image

    def __repr__(self) -> str:
        return self.text


def png(history: History, **how: Any) -> bytes:
    """The figure of a run as PNG; `how` as in `figure`."""
    return _png(figure(history, **how))


def compared(comparison: Comparison) -> "Figure":
    """Predicted and measured memory as paired bars, part by part, as a matplotlib Figure."""
    from matplotlib.figure import Figure

    pairs = comparison.pairs[::-1]  # matplotlib counts from below
    made = Figure(figsize=(8, 0.6 + 0.36 * len(pairs)), layout="constrained", facecolor="white")
    axes = made.subplots()
    for offset, name, hatch, colour in ((0.2, "predicted", "//", 0), (-0.2, "measured", "", 1)):
        sizes = [(getattr(pair, name) or 0) / GIB for pair in pairs]
        paint = LINES[colour]
        style = {"edgecolor": paint, "facecolor": "none" if hatch else paint, "hatch": hatch}
        axes.barh([n + offset for n in range(len(pairs))], sizes, 0.38, label=name, **style)
    axes.set_yticks(range(len(pairs)), [pair.name for pair in pairs], fontsize=8)
    axes.set_xlabel("GiB", fontsize=8)
    axes.set_title(headline(comparison), fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return made


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _draw(axes: "Axes", chart: Chart, logarithmic: bool) -> None:
    """One chart: its lines, the marks above them, axes and legend."""
    right = axes.twinx() if chart.y2_label else None
    low: Series | None = None
    for line in chart.series:
        if line.style == "low":
            low = line
        elif line.style == "high" and low is not None:
            axes.fill_between(
                line.xs,
                low.ys,
                line.ys,
                color=_colour(line),
                alpha=0.13,
                linewidth=0,
                label=_name(line),
            )
        else:
            where = right if line.axis and right is not None else axes
            where.plot(*decimated(line.xs, line.ys, COLUMNS), label=_name(line), **_style(line))
    _draw_marks(axes, chart)
    axes.set_xlabel(chart.x_label, fontsize=9)
    axes.set_ylabel(chart.y_label, fontsize=9)
    axes.xaxis.set_major_formatter("{x:,.10g}")
    if not logarithmic:
        axes.yaxis.set_major_formatter("{x:,.10g}")
    axes.set_xlim(chart.x_begin, max(chart.x_end, chart.x_begin + 1e-9))
    for side in filter(None, (axes, right)):
        side.spines["top"].set_visible(False)
        side.tick_params(labelsize=8)
        if logarithmic:
            side.set_yscale("log", nonpositive="mask")
        elif not chart.loose:
            side.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines["right"].set_visible(right is not None)
    if right is not None:
        right.set_ylabel(chart.y2_label, fontsize=9)
    if not chart.series:
        axes.text(0.5, 0.5, chart.empty, ha="center", transform=axes.transAxes)
    rows = _add_legend(axes, right)
    axes.set_title(chart.title, loc="left", fontsize=11, pad=LEGEND_GAP + LEGEND_ROW * rows)


def _add_legend(axes: "Axes", right: "Axes | None") -> int:
    """Above the plot, where it hides nothing and need not look for a place; returns its rows."""
    drawn = [side.get_legend_handles_labels() for side in filter(None, (axes, right))]
    handles, labels = (list(chain(*part)) for part in zip(*drawn, strict=True))
    columns = _legend_columns(labels)
    if labels:
        axes.legend(
            handles, labels, frameon=False, fontsize=7, ncols=columns, loc="lower left",
            bbox_to_anchor=(0, 1.05), borderpad=0, borderaxespad=0, labelspacing=0.3,
        )  # fmt: skip
    return -(-len(labels) // columns)


def _legend_columns(labels: Sequence[str]) -> int:
    return 2 if max(map(len, labels), default=0) > 16 else 3


def _inches_above(chart: Chart) -> float:
    """What a chart's title and legend take above its plot."""
    names = [_name(line) for line in chart.series if line.style != "low"]
    names += [NAMES[kind] for kind in dict.fromkeys(mark.kind for mark in chart.marks)]
    rows = -(-len(names) // _legend_columns(names))
    return (LEGEND_GAP + LEGEND_ROW * rows + 15) / 72  # and its title's height


def _name(line: Series) -> str:
    """What a line is called in a legend."""
    return "gap" if line.style == "high" else _text(f"{line.label} {line.value}".strip())


def _text(name: str) -> str:
    """A text as it is: matplotlib takes dollars for formulas, and leaves out names that begin with an underscore."""
    return f" {name}".replace("$", r"\$") if name.startswith("_") else name.replace("$", r"\$")


def _draw_marks(axes: "Axes", chart: Chart) -> None:
    """Symbols on the upper edge, told apart by shape."""
    for kind, shape in SHAPES.items():
        mine = [mark.x for mark in chart.marks if mark.kind == kind]
        if mine:
            axes.plot(
                mine, [1] * len(mine), shape, color=LINES[3], markersize=4, clip_on=False,
                label=NAMES[kind], transform=axes.get_xaxis_transform(),
            )  # fmt: skip


def _colour(line: Series) -> str:
    return LINES[line.colour % len(LINES)]


def _style(line: Series) -> dict[str, Any]:
    dots = {"marker": MARKERS[line.colour % len(MARKERS)], "markersize": 4}
    ring = {"marker": "o", "markersize": 9, "markerfacecolor": "none", "linestyle": "none"}
    styles: dict[str, dict[str, Any]] = {
        "faint": {"alpha": 0.3, "linewidth": 1},
        "dashed": {"linestyle": "--"},
        "dotted": {"linestyle": ":"},
        "plan": {"linestyle": (0, (6, 3)), "linewidth": 1},
        "safe": {"linestyle": (0, (1, 3)), "linewidth": 1},
        "limit": {"linewidth": 1},
        "points": {"linestyle": "--", "linewidth": 1, **dots},
        "best": ring,
        "run": dots | {"markevery": 0.25},
    }
    dot = {"marker": "o", "markersize": 4} if len(line.xs) == 1 else {}  # one point is no line yet
    return {"color": _colour(line), **dot, **styles.get(line.style, {})}
