"""A History as charts: titles, axes with their units, lines and marks, as plain numbers.

Pure: knows nothing of how a chart is drawn. Times are minutes of work, sizes GiB, losses nats per token.
"""

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from ..events import History
from ..summary import GIB
from .marks import Mark, marks, rare
from .thinning import SMOOTH_SHARE, rates, smoothed

if TYPE_CHECKING:
    import numpy as np

SPEED_STEPS = 20  # as History.speed looks back
SHARES = {"all": 1.0, "last half": 0.5, "last tenth": 0.1}
LAST_STEPS = 100
FIRST_ROOM = 20  # steps that a chart has room for at first
#: What of a run is shown; each cuts the data before they are thinned, so that detail appears.
SHOWN = (*SHARES, f"last {LAST_STEPS} steps")


class Series(NamedTuple):
    """One line: its name, its points, how it is drawn, its colour's index, its y axis (1 is the right one), its newest value in words.

    Styles: `line`, `faint`, `dashed`, `dotted`, `points` (a dashed line with dots), `best` (one marked point), `run` (one of
    several runs), `plan`, `safe` and `limit` (level lines), `low` and `high` (what bounds a shaded gap; not a line of its own).
    """

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    style: str = "line"
    colour: int = 0
    axis: int = 0
    value: str = ""


class Chart(NamedTuple):
    """A title, the axes with their units, from where to where x goes at least, the lines, the marks, and what is waited for."""

    title: str
    x_label: str
    y_label: str
    x_end: float
    series: Sequence[Series]
    empty: str
    x_begin: float = 0.0
    y2_label: str = ""
    marks: Sequence[Mark] = ()
    loose: bool = False  # y need not begin at 0
    may_log: bool = False  # a logarithmic y axis says something here
    marked: bool = False  # says what its marks mean; the others repeat them


def live_charts(history: History, show: str = "all") -> list[Chart]:
    """Every chart that this run has something for, in their order on the page."""
    since = first_step(history, show)
    made = [loss_chart, memory_chart, speed_chart, learning_chart, card_chart]
    return [chart for make in made if (chart := make(history, since=since)) is not None]


def first_step(history: History, show: str) -> int:
    """The step from which on `show` shows a run; 0 for all of it. Raises ValueError when it is none of SHOWN."""
    if show not in SHOWN:
        raise ValueError(f"show is {show!r}; it must be one of {', '.join(SHOWN)}.")
    if show in SHARES:
        return round(history.step * (1 - SHARES[show]))
    return max(0, history.step - LAST_STEPS)


def loss_chart(history: History, *, since: int = 0) -> Chart:
    """Loss by step: every training step faintly, their running mean, the held-out points with the best marked, and the gap."""
    steps, losses, left_out = finite(history.steps, "loss")
    smooth = smoothed(losses, (history.of or 0) * SMOOTH_SHARE)
    missing = f" ({left_out:,} not a number)" if left_out else ""
    held_steps, held, held_out = finite(history.evals, "loss")
    at = max(0, _position(steps, since))
    lines = []
    if steps:
        lines += [
            Series(f"each step{missing}", steps[at:], losses[at:], "faint"),
            Series("smoothed", steps[at:], smooth[at:], value=f"{smooth[-1]:.3g}"),
        ]
    if held:
        first = _position(held_steps, since)
        missing = f" ({held_out:,} not a number)" if held_out else ""
        newest = f"{held[-1]:.3g}"
        lines.append(
            Series(
                f"held out{missing}", held_steps[first:], held[first:], "points", 1, value=newest
            )
        )
        best = min(range(len(held)), key=held.__getitem__)
        if best >= first:
            where = f"{held[best]:.3g} at step {held_steps[best]:,.0f}"
            lines.append(Series("best", [held_steps[best]], [held[best]], "best", 1, value=where))
        lines += _gap(dict(zip(steps, smooth, strict=True)), held_steps, held, since)
    return Chart(
        "Loss", "step", "nats per token", _end(history, since), lines, "waiting for the first step",
        x_begin=since, marks=marks(history, since=since), loose=True, may_log=True, marked=True,
    )  # fmt: skip


def memory_chart(history: History, *, since: int = 0) -> Chart:
    """GiB by minutes of work: torch's allocated and reserved on a GPU, the process's memory, the card's limit, and what was planned."""
    import numpy as np

    at, minutes = _minutes(history, since)
    readings = history.memory
    total = float(np.nan_to_num(column(readings, "device_total")).max(initial=0)) / GIB
    main = Series("process", (), (), "dotted" if total else "line", 2 if total else 0)
    kinds = [("process", main)]
    if total:
        card = (Series("allocated", (), ()), Series("reserved", (), (), "dashed", 1))
        kinds = [("allocated", card[0]), ("reserved", card[1]), *kinds]
    lines = []
    for name, line in kinds if readings else ():
        sizes = (np.nan_to_num(column(readings, name)) / GIB).tolist()
        value = f"{sizes[-1]:.2f} GiB (peak {max(sizes):.2f})"
        lines.append(line._replace(xs=minutes[at:], ys=sizes[at:], value=value))
    begin, end = (minutes[at], minutes[-1]) if minutes and since else (0, max([1, *minutes[-1:]]))
    if lines:
        level = [("limit", "limit", total)] * bool(total)
        level += _planned(history)
        for name, style, height in level:
            lines.append(
                Series(name, [begin, end], [height] * 2, style, 3, value=f"{height:.2f} GiB")
            )
    return Chart(
        "Memory", "minutes of work", "GiB", end, lines, "waiting for the first reading",
        x_begin=begin,
    )  # fmt: skip


def learning_chart(history: History, *, since: int = 0) -> Chart:
    """Gradient norm (left) and learning rate (right) by step."""
    steps, norms, left_out = finite(history.steps, "grad_norm")
    rate_steps, learning, _ = finite(history.steps, "learning_rate")
    at, first = _position(steps, since), _position(rate_steps, since)
    missing = f" ({left_out:,} not a number)" if left_out else ""
    lines = []
    if norms:
        newest = f"{norms[-1]:.3g}"
        lines.append(
            Series(f"gradient norm{missing}", steps[at:], norms[at:], "line", 2, value=newest)
        )
    if learning:
        newest = f"{learning[-1]:.2g}"
        lines.append(
            Series(
                "learning rate", rate_steps[first:], learning[first:], "dashed", 4, 1, value=newest
            )
        )
    return Chart(
        "Gradient and learning rate", "step", "gradient norm", _end(history, since), lines,
        "waiting for the first step", x_begin=since, y2_label="learning rate",
        marks=rare(marks(history, since=since)), may_log=True,
    )  # fmt: skip


def speed_chart(history: History, *, since: int = 0) -> Chart:
    """Tokens a second by step, over the last 20 steps: all but padding, and those of them that are trained on."""
    import numpy as np

    steps = list(map(itemgetter("step"), history.steps))
    at, lines = _position(steps, since), []
    seconds = column(history.steps, "seconds")
    for name, label, style, colour in (
        ("tokens", "tokens/s", "line", 0),
        ("trained_tokens", "trained tokens/s", "dashed", 1),
    ):
        speeds = rates(column(history.steps, name), seconds, SPEED_STEPS)
        known = np.isfinite(speeds)
        if speeds[known].any():
            xs, ys = np.array(steps)[at:][known[at:]].tolist(), speeds[at:][known[at:]].tolist()
            value = f"{ys[-1]:,.0f}" if ys else ""
            lines.append(Series(label, xs, ys, style, colour, value=value))
    return Chart(
        "Throughput", "step", "tokens/s", _end(history, since), lines, "waiting for the first step",
        x_begin=since, marks=rare(marks(history, since=since)),
    )  # fmt: skip


def card_chart(history: History, *, since: int = 0) -> Chart | None:
    """How busy and how hot the card is (left) and the power it draws (right), by minutes of work; None without readings."""
    import numpy as np

    at, minutes = _minutes(history, since)
    lines = []
    for name, label, unit, style, colour, axis in (
        ("utilisation", "utilisation", "%", "line", 0, 0),
        ("temperature", "temperature", "\N{DEGREE SIGN}C", "dashed", 1, 0),
        ("power", "power", "W", "dotted", 2, 1),
    ):
        values = column(history.memory[at:], name)
        known = np.isfinite(values)
        if known.any():
            xs, ys = np.array(minutes[at:])[known].tolist(), values[known].tolist()
            value = f"{ys[-1]:.0f}"
            lines.append(Series(f"{label} ({unit})", xs, ys, style, colour, axis, value))
    if not lines:
        return None
    begin, end = (minutes[at], minutes[-1]) if since else (0, max(1, minutes[-1]))
    right = "W" if any(line.axis for line in lines) else ""
    return Chart(
        "Card", "minutes of work", "% and \N{DEGREE SIGN}C", end, lines, "no readings",
        x_begin=begin, y2_label=right,
    )  # fmt: skip


def _end(history: History, since: int) -> int:
    """The step at which a chart ends: the last one of a run that is over or of a part, else room that doubles up to the planned end."""
    if history.over or since:
        return history.step or 1
    room = FIRST_ROOM
    while room <= history.step:
        room *= 2
    return min(room, history.of or room)


def newest(charts: Sequence[Chart]) -> str:
    """The newest values of all charts as one line of text."""
    told = []
    for chart in charts:
        values = ", ".join(f"{line.label} {line.value}" for line in chart.series if line.value)
        told.append(f"{chart.title}: {values or chart.empty}")
    return ". ".join(told) + "."


def column(events: Sequence[Mapping[str, Any]], name: str) -> "np.ndarray":
    """One field of all events, (events,) in float64; not a number where there is none."""
    import numpy as np

    try:
        return np.fromiter(map(itemgetter(name), events), float, len(events))
    except (KeyError, TypeError):  # an older log, or a null
        return np.array([event.get(name) for event in events], dtype=float)


def finite(events: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float], int]:
    """Steps and values where there is a finite one, and how many NaNs and infinities were left out; None is not told."""
    import numpy as np

    values = column(events, name)
    known = np.isfinite(values)
    steps = list(map(itemgetter("step"), events))
    if known.all():
        return steps, values.tolist(), 0
    left_out = sum(
        e.get(name) is not None for e, good in zip(events, known, strict=True) if not good
    )
    return [steps[i] for i in np.flatnonzero(known)], values[known].tolist(), left_out


def _position(steps: Sequence[float], since: float) -> int:
    """Where the first step from `since` on is."""
    return bisect_left(steps, since)


def _gap(
    smooth: Mapping[float, float], steps: Sequence[float], held: Sequence[float], since: float
) -> list[Series]:
    """What bounds the gap between the smoothed training loss and the held-out loss, from where it was least on; none while it shrinks."""
    pairs = [(s, smooth[s], h) for s, h in zip(steps, held, strict=True) if s in smooth]
    least = min(range(len(pairs)), key=lambda i: pairs[i][2] - pairs[i][1], default=0)
    wide = [(s, low, max(low, high)) for s, low, high in pairs[least:] if s >= since]
    if len(wide) < 2 or not any(low < high for _, low, high in wide):
        return []
    xs = [s for s, _, _ in wide]
    apart = f"{wide[-1][2] - wide[-1][1]:.2g}" if wide[-1][2] > wide[-1][1] else ""
    return [
        Series("gap from below", xs, [low for _, low, _ in wide], "low", 1),
        Series("gap", xs, [high for _, _, high in wide], "high", 1, value=apart),
    ]


def _minutes(history: History, since: int) -> tuple[int, list[float]]:
    """The last memory reading before step `since`, and minutes of work at each; hours between a stop and a resume are left out."""
    import numpy as np

    times = column(history.memory, "t")
    apart = np.diff(times, prepend=times[:1])
    starts = [phase["t"] for phase in history.phases if phase["state"] == "preparing"]
    resumed = np.searchsorted(times, starts)
    apart[resumed[resumed < len(apart)]] = 0
    early = column(history.memory, "step") < since if since else ()
    return max(0, int(np.sum(early)) - 1), (np.cumsum(apart) / 60).tolist()


def _planned(history: History) -> list[tuple[str, str, float]]:
    """What plan.json in the run's folder expects and what it calls safe: names, styles and GiB; none for a run without one."""
    try:
        plan = json.loads((history.path.parent / "plan.json").read_text())
        expected, safe = plan["expected"] / GIB, plan["safe"] / GIB
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [("planned", "plan", expected), ("to be safe", "safe", safe)]
