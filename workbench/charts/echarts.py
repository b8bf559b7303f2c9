"""Charts as one option of Apache ECharts: each chart a grid of the same picture, so that a redraw is one message.

Pure: dicts of numbers and texts. No text becomes a function, an HTML tag or a widget's name in the browser (`plain`).
Options are merged by id in the page, so a line that has gone is still sent, without points (`kept`).
"""

import math
from collections.abc import Sequence
from typing import Any

from .marks import NAMES, Mark, rare
from .palette import LINES
from .series import Chart, Series
from .thinning import COLUMNS, shortened, telling

TOP, TITLE, LEGEND, GRID, AXIS = (
    26,
    20,
    40,
    180,
    52,
)  # pixels: of the toolbox, and of a chart's parts
BLOCK = TITLE + LEGEND + GRID + AXIS
#: Where grids lie, from the left and from the right, for one column and for two, and how wide their legends may be.
SIDES: dict[int, Sequence[tuple[Any, Any]]] = {1: ((62, 68),), 2: ((62, "53%"), ("57%", 68))}
LEGEND_WIDTHS = {1: ("88%",), 2: ("45%", "40%")}
HAPPENED_WIDTH = {1: "60%", 2: "34%"}
LEAST_WIDTH = {1: 380, 2: 640}  # pixels, below which the page scrolls sideways
DIGITS = {"x": 6, "y": 4}  # of a number on its way to the page
DASHES: dict[str, Any] = {
    "dashed": [7, 4], "dotted": [2, 4], "points": [4, 3], "plan": [10, 5], "safe": [2, 6],
}  # fmt: skip
#: Symbols of marks, by kind: told apart by shape and not by colour. Checkpoints lie above the others.
SYMBOLS = {
    "sample": "triangle", "checkpoint": "diamond", "change": "circle", "pause": "rect",
    "resume": "arrow", "stop": "pin",
}  # fmt: skip
FUNCTION, MODEL = (
    "__ipecharts_jsfn__::",
    "IPY_MODEL_",
)  # texts that begin so are no texts to the page
SMALL = {"fontSize": 11}
FEW = 4  # names that stand in a legend's line side by side
FEW_MARKS = 2  # beside a chart's title
WIDE = 5  # steps from which on an axis has labels besides those of its ends
LEGENDS = {
    "padding": 0, "itemGap": 8, "itemHeight": 9, "textStyle": SMALL, "pageIconSize": 9,
    "pageIconColor": LINES[3], "pageIconInactiveColor": f"{LINES[3]}55", "pageTextStyle": SMALL | {"color": LINES[3]},
}  # fmt: skip


def option(
    charts: Sequence[Chart], *, columns: int = 2, logarithmic: bool = False
) -> dict[str, Any]:
    """The whole picture. `columns` is 1 or 2; `logarithmic` is for the charts that may be."""
    names = ("title", "legend", "grid", "xAxis", "yAxis", "series")
    parts: dict[str, list[Any]] = {name: [] for name in names}
    for number, chart in enumerate(charts):
        _add_frame(parts, chart, number, columns)
        _add_lines(parts, chart, number, logarithmic and chart.may_log)
    alike: dict[str, list[int]] = {}
    for number, chart in enumerate(charts):
        alike.setdefault(chart.x_label, []).append(number)
    return parts | {
        "animation": False,
        "backgroundColor": "transparent",
        "aria": {"enabled": False},  # it labels a div without a role; `newest` stands below as text
        "tooltip": {"trigger": "axis", "confine": True, "textStyle": {"fontSize": 12}},
        "axisPointer": {"link": [{"xAxisIndex": same} for same in alike.values()]},
        "dataZoom": [
            {
                "id": f"zoom {name}", "type": "inside", "xAxisIndex": same,
                "zoomOnMouseWheel": "ctrl", "moveOnMouseWheel": False, "moveOnMouseMove": "shift",
                "filterMode": "none",  # else a line ends at its last point before the border
            }
            for name, same in alike.items()
        ],
        "toolbox": {
            "right": 16, "itemSize": 14,
            "feature": {
                "dataZoom": {
                    "yAxisIndex": "none", "filterMode": "none",
                    "title": {"zoom": "zoom into a box", "back": "undo the zoom"},
                },
                "restore": {"title": "show all"},
                "saveAsImage": {"name": "run", "title": "save as a picture"},
            },
        },
    }  # fmt: skip


def kept(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """The new option with the lines of the old one that it lacks, emptied: the page keeps what it is not told of."""
    there = {line["id"] for line in new["series"]}
    gone = [line | {"data": []} for line in old.get("series", ()) if line["id"] not in there]
    return new | {"series": [*new["series"], *gone]}


def height(count: int, columns: int) -> int:
    """Pixels that so many charts are high."""
    return TOP + -(-count // columns) * BLOCK


def plain(text: str, *, most: int = 100) -> str:
    """A text that is no more than a text in the page: no function, no tag, no widget, and not too long."""
    short = text if len(text) <= most else f"{text[: most - 1]}…"
    short = short.replace("<", "‹").replace(">", "›")
    return f"\N{ZERO WIDTH SPACE}{short}" if short.startswith((FUNCTION, MODEL)) else short


def _add_frame(parts: dict[str, list[Any]], chart: Chart, number: int, columns: int) -> None:
    """One chart's title, its legends of lines and of marks, and its grid."""
    row, column = divmod(number, columns)
    left, right = SIDES[columns][column]
    top = TOP + row * BLOCK
    title = chart.title if chart.series else f"{chart.title}: {chart.empty}"
    parts["title"].append(
        {"id": f"title {chart.title}", "text": title, "left": left, "top": top, "padding": 0,
         "textStyle": {"fontSize": 13}}
    )  # fmt: skip
    place = {"left": left, "top": top + TITLE, "width": LEGEND_WIDTHS[columns][column]}
    names = _legend(chart)
    lines = {"id": f"legend {chart.title}", "data": names, "itemWidth": 18} | place
    lines["type"] = "scroll" if len(names) > FEW else "plain"  # scrolled ones take long to lay out
    happened = {
        "id": f"happened {chart.title}", "data": [{"name": NAMES[kind]} for kind in _kinds(chart)],
        "right": right, "top": top + 1, "width": HAPPENED_WIDTH[columns], "itemWidth": 9, "show": chart.marked,
    }  # fmt: skip
    many = (
        len(_kinds(chart)) > FEW_MARKS
    )  # side by side in any width: a second line would lie on the lines' names
    happened["type"] = "scroll" if many else "plain"
    parts["legend"] += [LEGENDS | lines, LEGENDS | happened]
    grid = {"left": left, "right": right, "top": top + TITLE + LEGEND, "height": GRID}
    parts["grid"].append({"id": f"grid {chart.title}"} | grid)


def _legend(chart: Chart) -> list[dict[str, Any]]:
    """The lines' names; ECharts would draw a dot into each, also where the line has none."""
    drawn = {"points": {}, "high": {"icon": "rect", "itemStyle": {"opacity": 0.3}}}
    no_dot = {"itemStyle": {"opacity": 0}}
    return [
        {"name": plain(line.label)} | drawn.get(line.style, no_dot)
        for line in chart.series
        if line.style not in ("low", "best")
    ]


def _add_lines(parts: dict[str, list[Any]], chart: Chart, number: int, logarithmic: bool) -> None:
    """One chart's axes, lines and marks."""
    first = len(parts["yAxis"])
    parts["xAxis"].append(_x_axis(chart, number))
    parts["yAxis"] += _y_axes(chart, number, logarithmic)
    chosen = _chosen(chart.series)
    low: Series | None = None
    for line in chart.series:
        if line.style == "low":
            low = line
            continue
        if line.style == "high" and low is not None:  # around it: there above, and back below
            line = line._replace(xs=[*line.xs, *low.xs[::-1]], ys=[*line.ys, *low.ys[::-1]])
            chosen[line.label] = range(len(line.xs))
        made = _line(chart, line, number, first + line.axis)
        made["data"] = _points(line, chosen[line.label], positive=logarithmic)
        if len(made["data"]) == 1 and made["symbol"] == "none":
            made |= {"symbol": "circle", "symbolSize": 5}  # one point is no line yet
        parts["series"].append(made)
    parts["series"] += _marks(chart, number, first + 2)


def _chosen(lines: Sequence[Series]) -> dict[str, Sequence[int]]:
    """Which points of each line are drawn; lines over the same x keep the same, so that a tooltip tells all of them."""
    chosen: dict[str, Sequence[int]] = {}
    groups: list[list[Series]] = []
    for line in lines:
        alike = next((group for group in groups if group[0].xs == line.xs), None)
        if alike is None:
            groups.append([line])
        else:
            alike.append(line)
    for group in groups:
        columns = COLUMNS // len(group)
        points = sorted(set().union(*(telling(line.ys, columns) for line in group)))
        chosen |= {line.label: points for line in group}
    return chosen


def _x_axis(chart: Chart, number: int) -> dict[str, Any]:
    steps = chart.x_label == "step"
    least, most = chart.x_begin, chart.x_end
    if not steps:  # else the last tick says 41.6833
        unit = 10 ** (math.floor(math.log10(max(most - least, 1e-3))) - 1)
        least, most = (
            round(f(end / unit) * unit, 6) for f, end in ((math.floor, least), (math.ceil, most))
        )
    units = "" if chart.y2_label else f", {chart.y_label}"
    said = {"precision": 0 if steps else 2, "formatter": f"{chart.x_label} {{value}}{units}"}
    ends = not steps or most - least < WIDE  # a zoomed axis would end at step 4.824
    return {
        "id": f"x {chart.title}", "type": "value", "gridIndex": number, "min": least, "max": most,
        "name": chart.x_label, "nameLocation": "middle", "nameGap": 24, "nameTextStyle": SMALL,
        "axisLabel": SMALL | {"hideOverlap": True, "showMinLabel": ends, "showMaxLabel": ends}, "splitLine": {"show": False},
        "minInterval": 1 if steps else 0, "axisPointer": {"label": said},
    }  # fmt: skip


def _y_axes(chart: Chart, number: int, logarithmic: bool) -> list[dict[str, Any]]:
    """The left axis, the right one, and an unseen one from 0 to 1 on whose top the marks lie."""
    common = {
        "gridIndex": number, "type": "log" if logarithmic else "value", "nameLocation": "middle", "nameGap": 48,
        "nameTextStyle": SMALL, "axisLabel": SMALL | {"hideOverlap": True}, "splitNumber": 4,
    }  # fmt: skip
    left = {"id": f"y {chart.title}", **common, "name": chart.y_label, "scale": chart.loose}
    left |= {"logBase": 2, "splitLine": {"lineStyle": {"opacity": 0.35}}}
    right = {"id": f"y2 {chart.title}", **common, "name": chart.y2_label, "position": "right"}
    right |= {
        "show": bool(chart.y2_label),
        "splitLine": {"show": False},
        "nameGap": 54 if len(chart.y2_label) > 2 else 34,
    }
    unseen = {"id": f"y3 {chart.title}", "gridIndex": number, "type": "value", "min": 0, "max": 1}
    return [left, right, unseen | {"show": False}]


def _line(chart: Chart, line: Series, x: int, y: int) -> dict[str, Any]:
    """How a line is drawn, without its points."""
    colour = LINES[line.colour % len(LINES)]
    faint = line.style == "faint"
    made: dict[str, Any] = {
        "id": f"{chart.title} {line.style} {line.colour} {line.axis}", "name": plain(line.label), "type": "line",
        "xAxisIndex": x, "yAxisIndex": y, "symbol": "none", "itemStyle": {"color": colour},
        "lineStyle": {
            "color": colour, "width": 1 if faint else 1.8, "type": DASHES.get(line.style, "solid"),
            "opacity": 0.55 if faint else 1,
        },
        "emphasis": {"disabled": True},
    }  # fmt: skip
    if line.style == "points":
        made |= {"symbol": "circle", "symbolSize": 5, "tooltip": {"trigger": "item"}}
    if line.style == "best":
        room, along = chart.x_end - chart.x_begin, line.xs[0] - chart.x_begin
        align = "right" if along > 0.7 * room else "left" if along < room / 3 else "center"
        label = {"show": True, "position": "top", "formatter": f"best {line.value}"} | SMALL
        label |= {"align": align, "padding": 2, "backgroundColor": "rgba(128,128,128,0.2)"}
        ring = {"color": "transparent", "borderColor": colour, "borderWidth": 2}
        made |= {"symbol": "circle", "symbolSize": 11, "itemStyle": ring, "z": 5, "label": label}
        made |= {"tooltip": {"trigger": "none"}, "silent": True}
    if line.style == "high":
        made |= {"tooltip": {"trigger": "none"}, "silent": True, "lineStyle": {"width": 0}}
        made["areaStyle"] = {"color": colour, "opacity": 0.16}
    return made


def _points(line: Series, chosen: Sequence[int], *, positive: bool) -> list[list[float]]:
    xs, ys = [line.xs[i] for i in chosen], [line.ys[i] for i in chosen]
    whole = all(isinstance(x, int) for x in xs)  # steps
    pairs = zip(
        xs if whole else shortened(xs, DIGITS["x"]), shortened(ys, DIGITS["y"]), strict=True
    )
    return [[x, y] for x, y in pairs if y > 0 or not positive]


def _kinds(chart: Chart) -> list[str]:
    """What happened, each kind once."""
    return list(dict.fromkeys(mark.kind for mark in chart.marks))


def _marks(chart: Chart, x: int, y: int) -> list[dict[str, Any]]:
    """Symbols above the plot for what happened, and a line through it for what is rare; their words show on hover."""
    made = []
    for kind in _kinds(chart):
        mine = [mark for mark in chart.marks if mark.kind == kind]
        lines = {
            "symbol": "none", "silent": True, "label": {"show": False},
            "lineStyle": {"color": LINES[3], "type": [3, 4], "width": 1}, "data": [{"xAxis": mark.x} for mark in rare(mine)],
        }  # fmt: skip
        made.append(
            {
                "id": f"{chart.title} marks {kind}", "name": NAMES[kind], "type": "scatter", "xAxisIndex": x,
                "yAxisIndex": y, "symbol": SYMBOLS[kind], "symbolSize": 8, "clip": True,
                "symbolOffset": [0, -15 if kind == "checkpoint" else -6],
                "itemStyle": {"color": LINES[3]}, "data": [_mark(mark) for mark in mine], "markLine": lines,
                "tooltip": {"trigger": "item", "formatter": "{b}"},
            }
        )  # fmt: skip
    return made


def _mark(mark: Mark) -> dict[str, Any]:
    return {"name": plain(mark.label), "value": [mark.x, 1]}
