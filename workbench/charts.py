"""What a History looks like: the loss and memory charts, as inline SVG while a run lives and as a matplotlib Figure after.

Knows nothing of widgets, processes or notebooks: a History goes in, text or a Figure comes out.
"""

import io
import json
import math
import textwrap
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from .events import History
from .memory.comparison import Comparison
from .memory.comparison_text import headline
from .summary import GIB, in_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .run import Run

COLUMNS = 150  # columns that a live line is thinned to, two points each: about one a pixel pair
# What the smoothed loss looks back on: a share of the run's steps, within these bounds.
SMOOTH_SHARE, SMOOTH_LEAST, SMOOTH_MOST = 1 / 30, 3, 50
WIDTH, HEIGHT = 460, 220  # of a live chart, in its own units; it scales with the page
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 10, 36  # margins around the plotting area
# JupyterLab's own colours, which follow its theme; the fallbacks read well on white and on black.
COLOURS = (
    "var(--jp-brand-color1, #1e88e5)",
    "var(--jp-warn-color1, #f57c00)",
    "var(--jp-success-color1, #43a047)",
    "var(--jp-ui-font-color2, #757575)",
)
PRINT_COLOURS = ("#1565c0", "#d65f00", "#2e7d32", "#616161")


class Series(NamedTuple):
    """One line of a chart: its points, how it is drawn (`line`, `faint`, `dashed`, `dotted`, `points`, `plan`, `safe`) and its colour's index."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    style: str = "line"
    colour: int = 0


class Chart(NamedTuple):
    """A title, the axes with their units, where x ends at least, and the lines."""

    title: str
    x_label: str
    y_label: str
    x_end: float
    series: Sequence[Series]
    empty: str


def loss_chart(history: History) -> Chart:
    """Loss by step: every training step faintly, their running mean, and the held-out points."""
    steps = [(s["step"], s["loss"]) for s in history.steps if math.isfinite(s["loss"])]
    evals = [(e["step"], e["loss"]) for e in history.evals if math.isfinite(e["loss"])]
    xs, ys = [x for x, _ in steps], [y for _, y in steps]
    smooth = smoothed(ys, (history.of or 0) * SMOOTH_SHARE)
    lines = []
    if steps:
        lines += [
            Series("each step", xs, ys, "faint"),
            Series(f"training, smoothed {smooth[-1]:.3g}", xs, smooth),
        ]
    if evals:
        best = min(evals, key=lambda point: point[1])
        label = f"held out {evals[-1][1]:.3g}"
        if best != evals[-1]:
            label += f" (best {best[1]:.3g} at step {best[0]:,})"
        lines.append(Series(label, [x for x, _ in evals], [y for _, y in evals], "points", 1))
    end = history.step if history.over else history.of
    return Chart("Loss", "step", "nats per token", end or 1, lines, "waiting for the first step")


def memory_chart(history: History) -> Chart:
    """GiB by minutes of work: torch's allocated and reserved on a GPU, the process's memory, and what was planned."""
    minutes = [seconds / 60 for seconds in _worked(history)]
    on_gpu = any(reading["device_total"] for reading in history.memory)
    parts = [
        ("process", "process (main memory)", "dotted" if on_gpu else "line", 2 if on_gpu else 0)
    ]
    if on_gpu:
        parts = [
            ("allocated", "allocated", "line", 0),
            ("reserved", "reserved", "dashed", 1),
            *parts,
        ]
    lines = []
    for name, label, style, colour in parts if history.memory else ():
        sizes = [(reading[name] or 0) / GIB for reading in history.memory]
        text = f"{label} {sizes[-1]:.2f} (peak {max(sizes):.2f})"
        lines.append(Series(text, minutes, sizes, style, colour))
    total = max((reading["device_total"] or 0 for reading in history.memory), default=0)
    title = f"Memory (the card has {total / GIB:.1f} GiB)" if total else "Memory"
    end = max([1.0, *minutes[-1:]])
    lines += _planned(history, end) if lines else []
    return Chart(title, "minutes of work", "GiB", end, lines, "waiting for the first reading")


def live(history: History) -> str:
    """Both charts as HTML with inline SVG: no script, follows the theme, safe to show."""
    style = "display:flex;flex-wrap:wrap;align-items:flex-end;gap:8px 24px"
    charts = (svg(chart) for chart in (loss_chart(history), memory_chart(history)))
    return f'<div class="wb-charts" style="{style}">{"".join(charts)}</div>'


def svg(chart: Chart) -> str:
    """One chart as an HTML figure: title, legend with the newest values, and the SVG."""
    y_low, y_high, y_ticks = _y_axis(chart.series)
    points = (WIDTH - LEFT - RIGHT) / chart.x_end
    scale = (HEIGHT - TOP - BOTTOM) / (y_high - y_low)

    def place(x: float, y: float) -> str:
        return f"{LEFT + x * points:.1f},{HEIGHT - BOTTOM - (y - y_low) * scale:.1f}"

    lines = "".join(_svg_series(series, place) for series in chart.series)
    spoken = ", ".join([chart.title, *(series.label for series in chart.series)])
    if not chart.series:
        spoken = f"{chart.title}: {chart.empty}"
        y_ticks = []
        lines = _svg_text((WIDTH + LEFT) / 2, (HEIGHT - BOTTOM) / 2, chart.empty, "middle")
    return (
        f'<figure style="margin:0;flex:1 1 320px;max-width:640px;min-width:280px">'
        f'<figcaption style="line-height:1.5"><b>{escape(chart.title)}</b><br>{_legend(chart)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" style="width:100%;display:block" role="img" '
        f'aria-label="{escape(spoken)}"><title>{escape(spoken)}</title>'
        f"{_svg_axes(chart, y_ticks, place)}{lines}</svg></figure>"
    )


def figure(history: History, *, title: str = "") -> "Figure":
    """Both charts as a matplotlib Figure, for a saved notebook or a file; pyplot is not touched."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(9.6, 3.4), layout="constrained", facecolor="white")
    for axes, chart in zip(
        made.subplots(1, 2), (loss_chart(history), memory_chart(history)), strict=True
    ):
        for series in chart.series:
            axes.plot(series.xs, series.ys, label=series.label, **_print_style(series))
        axes.set(title=chart.title, xlabel=chart.x_label, ylabel=chart.y_label)
        axes.set(xlim=(0, chart.x_end), ylim=_y_axis(chart.series)[:2])
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if chart.series:
            axes.legend(frameon=False, fontsize=8)
        else:
            axes.text(0.5, 0.5, chart.empty, ha="center", transform=axes.transAxes)
    if title:
        made.suptitle(textwrap.fill(title, 120), fontsize=9)
    return made


class Picture:
    """The static figure of a run or a comparison, with what it says in words; a notebook keeps it as an image."""

    def __init__(self, shown: History | Comparison) -> None:
        if isinstance(shown, Comparison):
            self.text, self.image = headline(shown), _png(compared(shown))
        else:
            self.text = in_words(shown)
            self.image = png(shown, title=self.text)

    def _repr_png_(self) -> bytes:
        return self.image

    def __repr__(self) -> str:
        return self.text


def picture(shown: "Run | Comparison") -> Picture:
    """A run's charts as they are now, or predicted against measured memory, as a still image."""
    if isinstance(shown, Comparison):
        return Picture(shown)
    shown.refresh()
    return Picture(shown.history)


def png(history: History, *, title: str = "") -> bytes:
    """The static figure as PNG."""
    return _png(figure(history, title=title))


def compared(comparison: Comparison) -> "Figure":
    """Predicted and measured memory as paired bars, part by part, as a matplotlib Figure."""
    from matplotlib.figure import Figure

    pairs = comparison.pairs[::-1]  # matplotlib counts from below
    made = Figure(figsize=(8, 0.6 + 0.36 * len(pairs)), layout="constrained", facecolor="white")
    axes = made.subplots()
    for offset, name, hatch, colour in ((0.2, "predicted", "//", 0), (-0.2, "measured", "", 1)):
        sizes = [(getattr(pair, name) or 0) / GIB for pair in pairs]
        paint = PRINT_COLOURS[colour]
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


def smoothed(values: Sequence[float], window: float) -> list[float]:
    """The running mean over about `window` values with fading weights; over fewer at first, where losses fall steeply."""
    window = min(SMOOTH_MOST, max(SMOOTH_LEAST, window))
    out, total, weight = [], 0.0, 0.0
    for number, value in enumerate(values):
        fading = 1 - 1 / min(window, SMOOTH_LEAST + number / 4)
        total = fading * total + value
        weight = fading * weight + 1
        out.append(total / weight)
    return out


def decimated(
    xs: Sequence[float], ys: Sequence[float], columns: int = COLUMNS
) -> tuple[list[float], list[float]]:
    """At most `2 * columns + 2` points that keep the ends and each column's lowest and highest point."""
    if len(xs) <= 2 * columns:
        return list(xs), list(ys)
    kept = {0, len(xs) - 1}
    for column in range(columns):
        part = range(column * len(xs) // columns, (column + 1) * len(xs) // columns)
        kept |= {min(part, key=ys.__getitem__), max(part, key=ys.__getitem__)}
    return [xs[i] for i in sorted(kept)], [ys[i] for i in sorted(kept)]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) that cover `low` to `high`, about `about` of them."""
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(n * power for n in (1, 2, 5, 10) if n * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def _y_axis(lines: Sequence[Series]) -> tuple[float, float, list[float]]:
    """From 0 (or the lowest value below it) up to a round number above the highest, with the ticks between."""
    values = [y for series in lines for y in series.ys] or [1.0]
    low, high = min(0.0, *values), max(values)
    marks = ticks(low, high if high > low else low + 1.0)
    return marks[0], marks[-1], marks


def _worked(history: History) -> list[float]:
    """Seconds of work at each memory reading; the hours between a stop and a resume are left out."""
    starts = [phase["t"] for phase in history.phases if phase["state"] == "preparing"]
    seconds, last, out = 0.0, None, []
    for reading in history.memory:
        resumed = last is not None and any(last < start <= reading["t"] for start in starts)
        if last is not None and not resumed:
            seconds += reading["t"] - last
        last = reading["t"]
        out.append(seconds)
    return out


def _planned(history: History, end: float) -> list[Series]:
    """What plan.json in the run's folder expects, and what it called safe, as level lines; none for a run without one."""
    try:
        plan = json.loads((history.path.parent / "plan.json").read_text())
        sizes = [plan[name] / GIB for name in ("expected", "safe")]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    named = zip(("planned", "planned, to be safe"), ("plan", "safe"), sizes, strict=True)
    return [Series(f"{name} {s:.2f}", [0, end], [s, s], style, 3) for name, style, s in named]


_DASHES = {"dashed": "6 3", "dotted": "2 3", "points": "3 3", "plan": "9 4", "safe": "2 6"}


def _svg_series(series: Series, place: Any) -> str:
    colour = COLOURS[series.colour]
    corners = [place(x, y) for x, y in zip(*decimated(series.xs, series.ys), strict=True)]
    dashes = _DASHES.get(series.style, "none")
    thin = series.style in ("faint", "points")
    line = (
        f'<polyline points="{" ".join(corners)}" fill="none" stroke="{colour}" '
        f'stroke-width="{1 if thin else 2}" stroke-dasharray="{dashes}" stroke-linejoin="round" '
        f'opacity="{0.35 if series.style == "faint" else 1}"/>'
    )
    marked = {"points": corners, "line": corners[-1:]}.get(series.style, [])
    circle = '<circle cx="{}" cy="{}" r="3" fill="{}"/>'
    return line + "".join(circle.format(*corner.split(","), colour) for corner in marked)


def _svg_axes(chart: Chart, y_ticks: Sequence[float], place: Any) -> str:
    parts = []
    for value in y_ticks:
        y = place(0, value).split(",")[1]
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="currentColor" opacity=".15"/>'
        )
        parts.append(_svg_text(LEFT - 6, float(y) + 4, f"{value:,.6g}", "end"))
    for value in ticks(0, chart.x_end) if chart.series else ():
        if value <= chart.x_end:
            x = float(place(value, 0).split(",")[0])
            parts.append(_svg_text(x, HEIGHT - BOTTOM + 14, f"{value:,.6g}", "middle"))
    middle = (HEIGHT - BOTTOM + TOP) / 2
    turn = f'transform="rotate(-90 11 {middle})"'
    parts.append(_svg_text((WIDTH + LEFT) / 2, HEIGHT - 6, chart.x_label, "middle"))
    parts.append(_svg_text(11, middle, chart.y_label, "middle", turn))
    return "".join(parts)


def _svg_text(x: float, y: float, text: str, anchor: str, extra: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="11" text-anchor="{anchor}" fill="currentColor" '
        f'opacity=".8" {extra}>{escape(text)}</text>'
    )


def _legend(chart: Chart) -> str:
    items = []
    for series in chart.series:
        ends = (0.5,) if series.style == "points" else (0, 1)
        short = Series("", ends, (0,) * len(ends), series.style, series.colour)
        sample = _svg_series(short, lambda x, _: f"{3 + x * 18},6")
        items.append(
            f'<span style="white-space:nowrap;margin-right:12px"><svg width="24" height="12" aria-hidden="true" '
            f'style="vertical-align:middle">{sample}</svg> {escape(series.label)}</span>'
        )
    return f'<span style="font-size:90%">{"".join(items)}</span>'


def _print_style(series: Series) -> dict[str, Any]:
    dots = {"marker": "o", "markersize": 4, "clip_on": False}
    styles: dict[str, dict[str, Any]] = {
        "faint": {"alpha": 0.3, "linewidth": 1},
        "dashed": {"linestyle": "--"},
        "dotted": {"linestyle": ":"},
        "plan": {"linestyle": (0, (6, 3)), "linewidth": 1},
        "safe": {"linestyle": (0, (1, 3)), "linewidth": 1},
        "points": {"linestyle": "--", "linewidth": 1, **dots},
    }
    return {"color": PRINT_COLOURS[series.colour], **styles.get(series.style, {})}
