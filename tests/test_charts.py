"""What a History looks like: nothing is lost by thinning, nothing but text gets into the page, and both forms show the same."""

import json
import math
import random
import subprocess
import sys

import pytest
from made_history import event, go_on, long, made, memory, read, take_step

from workbench import charts
from workbench.charts import echarts, thinning
from workbench.charts.marks import MOST, NAMES
from workbench.events import EventLog, History


@pytest.fixture
def history(tmp_path) -> History:
    return made(tmp_path)


def line(chart: charts.Chart, label: str) -> charts.Series:
    return next(series for series in chart.series if series.label == label)


def labels(chart: charts.Chart) -> list[str]:
    return [series.label for series in chart.series]


# Thinning, smoothing, ticks


@pytest.mark.parametrize("count", [0, 1, 2, 299, 300, 301, 5000])
def test_thinning_keeps_ends_and_extremes_in_order(count):
    rng = random.Random(count)
    xs = list(range(count))
    ys = [rng.gauss(0, 1) for _ in xs]
    kept_xs, kept_ys = charts.decimated(xs, ys, columns=150)
    assert len(kept_xs) == len(kept_ys) <= 302
    assert kept_xs == sorted(set(kept_xs))
    assert all(ys[x] == y for x, y in zip(kept_xs, kept_ys, strict=True))
    if count:
        assert (min(kept_ys), max(kept_ys)) == (min(ys), max(ys))
        assert (kept_xs[0], kept_xs[-1]) == (0, count - 1)


@pytest.mark.parametrize("where", [0, 1, 2345, 3998, 3999])
def test_a_single_spike_in_thousands_of_points_is_kept(where):
    ys = [1.0] * 4000
    ys[where] = 9.0
    assert 9.0 in charts.decimated(range(4000), ys)[1]


def test_smoothing_stays_within_its_values_and_leaves_a_constant_alone():
    rng = random.Random(1)
    values = [rng.random() for _ in range(200)]
    smooth = charts.smoothed(values, 10)
    assert smooth[0] == values[0]
    assert min(values) <= min(smooth) <= max(smooth) <= max(values)
    assert charts.smoothed([2.5] * 9, 4) == pytest.approx([2.5] * 9)


def test_rates_are_those_of_the_last_steps_together():
    found = thinning.rates([100, 300, 500, 700], [1, 1, 2, 2], over=2)
    assert found.tolist() == pytest.approx([100, 200, 800 / 3, 300])
    assert math.isnan(thinning.rates([5], [0], over=2)[0])


def test_shortened_numbers_are_as_near_as_their_digits_say_and_short():
    rng = random.Random(2)
    values = [rng.choice((-1, 1)) * 10 ** rng.uniform(-9, 6) for _ in range(500)] + [
        0.0,
        3.0,
        1e-25,
    ]
    for value, short in zip(values, thinning.shortened(values, 4), strict=True):
        assert short == pytest.approx(value, rel=5.1e-4, abs=1e-30)
        assert len(f"{abs(short):.15g}".partition("e")[0].replace(".", "").strip("0")) <= max(
            4, len(f"{abs(value):.0f}")
        )


@pytest.mark.parametrize("high", [1e-7, 0.02, 0.9, 1, 3.3, 7.72, 150, 2000, 1e9])
def test_ticks_are_few_round_and_cover_the_range(high):
    found = charts.ticks(0, high)
    assert found[0] == 0
    assert found[-1] >= high * 0.999
    assert 3 <= len(found) <= 12
    step = found[1] - found[0]
    assert step / 10 ** math.floor(math.log10(step) + 1e-9) == pytest.approx(1) or round(
        step / 10 ** math.floor(math.log10(step))
    ) in (1, 2, 5, 10)


# Loss


def test_the_loss_has_its_best_marked_and_its_newest_values_told(tmp_path):
    chart = charts.loss_chart(long(tmp_path, 1000))
    assert labels(chart) == ["each step", "smoothed", "held out", "best", "gap from below", "gap"]
    best, held = line(chart, "best"), line(chart, "held out")
    assert best.ys == [min(held.ys)]
    assert best.value == f"{best.ys[0]:.3g} at step {best.xs[0]}"
    assert line(chart, "smoothed").value == f"{line(chart, 'smoothed').ys[-1]:.3g}"


def test_the_gap_lies_between_training_and_held_out_from_where_it_is_least(tmp_path):
    chart = charts.loss_chart(long(tmp_path, 1000))
    low, high = line(chart, "gap from below"), line(chart, "gap")
    smooth = dict(zip(line(chart, "smoothed").xs, line(chart, "smoothed").ys, strict=True))
    held = dict(zip(line(chart, "held out").xs, line(chart, "held out").ys, strict=True))
    assert low.xs == high.xs
    assert low.ys == [smooth[x] for x in low.xs]
    assert high.ys == [max(held[x], smooth[x]) for x in low.xs]
    apart = {x: held[x] - smooth[x] for x in held}
    assert min(apart.values()) == apart[low.xs[0]]


def test_no_gap_is_shaded_while_it_shrinks(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    for step in range(1, 5):
        take_step(log, step, 4, 1.0)
        event(log, "eval", step=step, loss=3.0 / step, seconds=1.0)
    assert "gap" not in labels(charts.loss_chart(read(tmp_path)))


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_left_out_and_said(tmp_path, loss):
    log = EventLog(tmp_path / "events.jsonl")
    take_step(log, 1, 3, 2.0)
    take_step(log, 2, 3, loss)
    event(log, "eval", step=2, loss=loss, seconds=1.0)
    history = read(tmp_path)
    chart = charts.loss_chart(history)
    assert labels(chart) == ["each step (1 not a number)", "smoothed"]
    assert chart.series[0].ys == [2.0]
    json.dumps(echarts.option(charts.live_charts(history)), allow_nan=False)
    assert charts.png(history).startswith(b"\x89PNG")


@pytest.mark.parametrize(("step", "room"), [(5, 20), (19, 20), (20, 40), (41, 50), (50, 50)])
def test_a_chart_has_room_that_doubles_up_to_the_planned_end(tmp_path, step, room):
    assert charts.loss_chart(made(tmp_path, steps=step, of=50)).x_end == room


def test_a_stopped_run_ends_where_it_stopped(tmp_path):
    assert charts.loss_chart(made(tmp_path, steps=5, of=40, state="stopped")).x_end == 5


# What is shown of a run


@pytest.mark.parametrize(
    ("show", "first"),
    [("all", 0), ("last half", 500), ("last tenth", 900), ("last 100 steps", 900)],
)
def test_what_is_shown_is_cut_before_it_is_thinned(tmp_path, show, first):
    history = long(tmp_path, 1000)
    whole, cut = charts.live_charts(history), charts.live_charts(history, show)
    for all_of_it, chart in zip(whole, cut, strict=True):
        for before, series in zip(all_of_it.series, chart.series, strict=False):
            if before.style in ("faint", "line", "dashed") and before.label == series.label:
                assert list(before.ys)[-len(series.ys) :] == list(series.ys)
        if chart.x_label == "step":
            assert (chart.x_begin, min(min(s.xs) for s in chart.series)) == (first, max(first, 1))


def test_another_share_is_refused_with_those_there_are(history):
    with pytest.raises(ValueError, match="last half, last tenth, last 100 steps"):
        charts.live_charts(history, "last third")


# Memory, throughput, learning, card


def test_a_gpu_shows_its_sizes_and_its_limit_and_a_cpu_the_process(tmp_path):
    (tmp_path / "gpu").mkdir()
    on_gpu = charts.memory_chart(made(tmp_path / "gpu", gpu=True))
    assert labels(on_gpu) == ["allocated", "reserved", "process", "limit"]
    assert line(on_gpu, "limit").ys == [15.0, 15.0]
    (tmp_path / "cpu").mkdir()
    on_cpu = charts.memory_chart(made(tmp_path / "cpu"))
    assert [series.ys[0] for series in on_cpu.series] == [pytest.approx(1.0, abs=1e-6)]


def test_hours_between_a_stop_and_a_resume_are_not_work(tmp_path):
    history = History(tmp_path / "events.jsonl")
    reading = dict.fromkeys(("allocated", "reserved", "device_total"), 0) | {"process": 1}
    for t, kind in (
        (0, "phase"),
        (1, "memory"),
        (61, "memory"),
        (9061, "phase"),
        (9066, "memory"),
        (9126, "memory"),
    ):
        told = {"state": "preparing", "text": ""} if kind == "phase" else {"step": 1, **reading}
        history.absorb({"t": t, "kind": kind, **told})
    assert charts.memory_chart(history).series[0].xs == pytest.approx([0, 1, 1, 2])


def test_throughput_tells_real_and_trained_tokens_as_the_history_does(tmp_path):
    history = long(tmp_path, 60)
    chart = charts.speed_chart(history)
    assert chart.series[0].ys[-1] == pytest.approx(history.speed)
    assert chart.series[1].ys[-1] == pytest.approx(history.trained_speed)


def test_the_gradient_and_the_learning_rate_have_an_axis_each(history):
    chart = charts.learning_chart(history)
    assert [(series.label, series.axis) for series in chart.series] == [
        ("gradient norm", 0),
        ("learning rate", 1),
    ]
    assert chart.y2_label == "learning rate"


def test_a_log_of_an_older_version_has_no_card_chart(tmp_path):
    assert charts.card_chart(long(tmp_path, 5, gpu=False)) is None
    assert labels(charts.card_chart(long(tmp_path, 5))) == [
        "utilisation (%)",
        "temperature (°C)",
        "power (W)",
    ]


def test_a_card_that_tells_nothing_has_no_chart(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    memory(log, 1, gpu=True)
    assert charts.card_chart(read(tmp_path)) is None


# Marks


def test_what_happened_is_marked_at_its_step(tmp_path):
    history = long(tmp_path, 100)
    for told in (
        {"t": 50.5, "kind": "command", "id": "a", "do": "change", "taken": True, "text": "learning rate 0.0005"},
        {"t": 51.5, "kind": "command", "id": "b", "do": "change", "taken": False, "text": "no"},
        {"t": 60.5, "kind": "phase", "state": "paused", "text": ""},
        {"t": 61.0, "kind": "phase", "state": "training", "text": ""},
        {"t": 80.5, "kind": "phase", "state": "preparing", "text": ""},
    ):  # fmt: skip
        history.absorb(told)
    history.stopped_early = "The held-out loss did not fall."
    found = {
        kind: [mark.x for mark in charts.loss_chart(history).marks if mark.kind == kind]
        for kind in NAMES
    }
    assert found == {
        "sample": list(range(10, 101, 10)), "checkpoint": list(range(10, 101, 10)), "change": [40],
        "pause": [50], "resume": [70], "stop": [100],
    }  # fmt: skip
    assert {mark.kind for mark in charts.speed_chart(history).marks} == set(NAMES) - {
        "sample",
        "checkpoint",
    }
    assert [
        m.x for m in charts.loss_chart(history, since=70).marks if m.kind in ("pause", "resume")
    ] == [70]


def test_many_marks_of_a_kind_are_thinned(tmp_path):
    history = long(tmp_path, 400)
    for step in range(1, 400):
        history.absorb({"kind": "checkpoint", "t": 0.0, "step": step, "path": "", "seconds": 1.0})
    assert len([m for m in charts.loss_chart(history).marks if m.kind == "checkpoint"]) <= MOST


# The live form


def test_both_forms_name_axes_units_and_newest_values(tmp_path):
    history = long(tmp_path, 200)
    made_charts = charts.live_charts(history)
    option, figure = echarts.option(made_charts), charts.figure(history)
    told = charts.newest(made_charts)
    names = {axis["name"] for axis in (*option["xAxis"], *option["yAxis"]) if axis.get("name")}
    drawn = {axes.get_xlabel() for axes in figure.axes} | {
        axes.get_ylabel() for axes in figure.axes
    }
    assert names == {name for name in drawn if name}
    assert names == {
        "step", "minutes of work", "nats per token", "GiB", "tokens/s", "gradient norm", "learning rate",
        "% and °C", "W",
    }  # fmt: skip
    for chart in made_charts:
        for series in chart.series:
            assert not series.value or f"{series.label} {series.value}" in told


def test_ten_thousand_steps_are_less_than_150_kB_and_lose_no_extreme(tmp_path):
    history = long(tmp_path, 10_000)
    option = echarts.option(charts.live_charts(history))
    assert len(json.dumps(option)) < 150_000
    raw = next(series for series in option["series"] if series["name"] == "each step")
    losses = [step["loss"] for step in history.steps]
    drawn = [y for _, y in raw["data"]]
    assert (min(drawn), max(drawn)) == pytest.approx((min(losses), max(losses)), rel=1e-3)


def test_lines_over_the_same_steps_have_a_value_at_the_same_steps(tmp_path):
    option = echarts.option(charts.live_charts(long(tmp_path, 3000)))
    steps = {
        s["name"]: [x for x, _ in s["data"]]
        for s in option["series"]
        if s["data"] and s["type"] == "line"
    }
    assert steps["each step"] == steps["smoothed"]
    assert steps["allocated"] == steps["process"]
    assert steps["gradient norm"] == steps["learning rate"]


def test_every_line_has_an_id_of_its_own_an_axis_and_a_name_in_its_legend(tmp_path):
    option = echarts.option(charts.live_charts(long(tmp_path, 50)))
    for part in ("title", "legend", "grid", "xAxis", "yAxis", "series"):
        ids = [one["id"] for one in option[part]]
        assert len(ids) == len(set(ids))
    named = {entry["name"] for legend in option["legend"] for entry in legend["data"]}
    assert named == {series["name"] for series in option["series"]} - {"best"}
    for series in option["series"]:
        grids = {option[a][series[f"{a}Index"]]["gridIndex"] for a in ("xAxis", "yAxis")}
        assert len(grids) == 1


@pytest.mark.parametrize("columns", [1, 2])
def test_charts_do_not_lie_on_each_other(tmp_path, columns):
    made_charts = charts.live_charts(long(tmp_path, 50))
    option = echarts.option(made_charts, columns=columns)
    tops = [grid["top"] for grid in option["grid"]]
    assert tops == sorted(tops)
    assert len(set(tops)) == -(-len(made_charts) // columns)
    last = option["grid"][-1]
    assert last["top"] + last["height"] < echarts.height(len(made_charts), columns)


def test_a_logarithmic_axis_is_for_losses_and_gradients_and_leaves_out_what_is_not_above_0(history):
    history.absorb(history.steps[-1] | {"step": 21, "of": 21, "loss": 0.0, "grad_norm": -1.0})
    option = echarts.option(charts.live_charts(history), logarithmic=True)
    kinds = {axis["name"]: axis["type"] for axis in option["yAxis"] if axis.get("name")}
    assert kinds == {
        "nats per token": "log", "GiB": "value", "tokens/s": "value", "gradient norm": "log", "learning rate": "log",
    }  # fmt: skip
    for series in option["series"]:
        if option["yAxis"][series["yAxisIndex"]]["type"] == "log":
            assert all(y > 0 for _, y in series["data"])
    assert charts.png(history, logarithmic=True).startswith(b"\x89PNG")


def test_a_line_that_has_gone_is_sent_empty(tmp_path):
    history = long(tmp_path, 1000)
    whole = echarts.option(charts.live_charts(history))
    end = echarts.option(charts.live_charts(history, "last 100 steps"))
    sent = echarts.kept(end, whole)
    assert {series["id"] for series in sent["series"]} == {
        series["id"] for series in whole["series"]
    }
    best = next(series for series in sent["series"] if series["name"] == "best")
    assert best["data"] == []
    assert echarts.kept(whole, sent)["series"] == whole["series"]


def test_the_page_can_scroll_and_nothing_moves(history):
    option = echarts.option(charts.live_charts(history))
    assert not option["animation"]
    for zoom in option["dataZoom"]:
        assert zoom["zoomOnMouseWheel"] == "ctrl"
        assert not zoom["moveOnMouseWheel"]
        assert not {"start", "end", "startValue", "endValue"} & set(
            zoom
        )  # else a redraw would undo a zoom
    by_label = [
        {option["xAxis"][i]["name"] for i in zoom["xAxisIndex"]} for zoom in option["dataZoom"]
    ]
    assert by_label == [{"step"}, {"minutes of work"}]


def test_a_zoomed_line_goes_on_to_the_border_and_ends_at_whole_steps(history):
    option = echarts.option(charts.live_charts(history))
    zooms = [*option["dataZoom"], option["toolbox"]["feature"]["dataZoom"]]
    assert {zoom["filterMode"] for zoom in zooms} == {"none"}
    for axis in option["xAxis"]:
        if axis["name"] == "step":
            assert axis["minInterval"] == 1
            assert not axis["axisLabel"]["showMinLabel"]
            assert not axis["axisLabel"]["showMaxLabel"]


@pytest.mark.parametrize(("best", "align"), [(2, "left"), (10, "center"), (19, "right")])
def test_the_words_at_the_best_loss_stay_within_the_plot(tmp_path, best, align):
    log = EventLog(tmp_path / "events.jsonl")
    for step in range(1, 21):
        take_step(log, step, 20, 2.0)
        event(log, "eval", step=step, loss=1.0 + abs(step - best), seconds=1.0)
    option = echarts.option([charts.loss_chart(read(tmp_path))])
    label = next(series["label"] for series in option["series"] if series["name"] == "best")
    assert label["align"] == align
    assert label["backgroundColor"].startswith("rgba(")


def test_a_line_of_one_point_is_a_dot_until_it_has_two(tmp_path):
    def symbols(steps: int) -> set[str]:
        made_charts = charts.live_charts(long(tmp_path, steps, 10))
        lines = [s for s in echarts.option(made_charts)["series"] if s["name"] == "each step"]
        return {series["symbol"] for series in lines}

    assert symbols(1) == {"circle"}
    assert symbols(2) == {"none"}
    first = charts.figure(long(tmp_path, 1, 10)).axes[0]
    assert first.lines[0].get_marker() == "o"


def test_many_kinds_of_marks_stay_in_one_row_of_the_same_height(tmp_path):
    def legend(kinds: int) -> dict:
        chart = charts.loss_chart(long(tmp_path, 20))
        marks = [charts.Mark(5, kind, kind) for kind in list(NAMES)[:kinds]]
        option = echarts.option([chart._replace(marks=marks)])
        return next(one for one in option["legend"] if one["id"].startswith("happened"))

    assert [legend(kinds)["type"] for kinds in (1, 2, 3, 6)] == [
        "plain",
        "plain",
        "scroll",
        "scroll",
    ]
    assert legend(1)["top"] == legend(6)["top"]


@pytest.mark.parametrize(
    "evil",
    [
        "__ipecharts_jsfn__::WyJhbGVydCgxKSJd",
        "IPY_MODEL_0123",
        '<img src=x onerror="alert(1)">',
        "x" * 5000,
    ],
)
def test_texts_that_are_not_ours_stay_texts(tmp_path, evil):
    history = long(tmp_path, 50)
    history.absorb(
        {"t": 20.0, "kind": "command", "id": "a", "do": "change", "taken": True, "text": evil}
    )
    history.stopped_early = evil
    made_charts = charts.live_charts(history)
    odd = made_charts[0]._replace(
        series=[s._replace(label=evil, style="points") for s in made_charts[0].series[:1]]
    )

    def texts(part):
        if isinstance(part, dict):
            part = list(part.values())
        return (
            [part]
            if isinstance(part, str)
            else [t for p in part for t in texts(p)]
            if isinstance(part, list)
            else []
        )

    found = texts(echarts.option([odd, *made_charts[1:]]))
    assert len(found) > 100
    for text in found:
        assert not text.startswith((echarts.FUNCTION, echarts.MODEL))
        assert "<" not in text
        assert len(text) <= 100


def contrast(one: str, other: str) -> float:
    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(
            weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True)
        )

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colour", charts.LINES)
def test_colours_are_seen_on_white_and_on_nearly_black(colour):
    assert contrast(colour, "#ffffff") >= 3
    assert contrast(colour, "#111111") >= 3


def test_lines_of_a_chart_differ_by_more_than_colour(tmp_path):
    for chart in charts.live_charts(long(tmp_path, 50)):
        styles = [series.style for series in chart.series]
        assert len(styles) == len(set(styles))


# The static form


def test_the_figure_shows_the_lines_of_the_live_form(history):
    figure = charts.figure(history, title="what became of it")
    drawn = [
        text.get_text()
        for axes in figure.axes
        if axes.get_legend()
        for text in axes.get_legend().get_texts()
    ]
    for chart in charts.live_charts(history):
        for series in chart.series:
            if series.style not in ("low", "high"):
                assert f"{series.label} {series.value}".strip() in drawn
    assert "what became of it" in figure.get_suptitle()


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("words", [1, 40, 90])
def test_no_words_lie_on_others_however_long_title_and_legends_are(tmp_path, columns, words):
    history = long(tmp_path, 60)
    many = [
        {"t": 20.0, "kind": "command", "id": "a", "do": "change", "taken": True, "text": "slower"},
        {"t": 30.0, "kind": "phase", "state": "paused", "text": ""},
        {"t": 40.0, "kind": "phase", "state": "preparing", "text": ""},
    ]
    for told in many:
        history.absorb(told)
    history.stopped_early = "The held-out loss did not fall."
    figure = charts.figure(history, title="words " * words, columns=columns)
    figure.draw_without_rendering()
    lowest = figure._suptitle.get_window_extent().y0
    for axes in figure.axes:
        heading = axes._left_title
        if heading.get_text():
            box = heading.get_window_extent()
            assert box.y1 <= lowest
            assert box.y0 >= axes.get_legend().get_window_extent().y1 - 2


def test_before_the_first_step_both_forms_say_what_they_wait_for(tmp_path):
    empty = History(tmp_path / "none.jsonl")
    titles = [title["text"] for title in echarts.option(charts.live_charts(empty))["title"]]
    assert titles[:2] == [
        "Loss: waiting for the first step",
        "Memory: waiting for the first reading",
    ]
    shown = [text.get_text() for axes in charts.figure(empty).axes for text in axes.texts]
    assert "waiting for the first reading" in shown
    assert charts.png(empty).startswith(b"\x89PNG")


@pytest.mark.parametrize("show", charts.SHOWN)
def test_a_single_step_can_be_drawn(tmp_path, show):
    history = long(tmp_path, 1, 10)
    json.dumps(echarts.option(charts.live_charts(history, show)), allow_nan=False)
    assert charts.png(history, show=show).startswith(b"\x89PNG")


def test_drawing_leaves_pyplot_alone():
    code = (
        "import sys; from workbench import charts; from workbench.events import History;"
        "charts.png(History('none')); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Run:
    """What a picture needs of a run."""

    def __init__(self, name: str, history: History) -> None:
        self.name, self.history = name, history

    def refresh(self) -> None:
        self.history.update()


def test_a_picture_is_a_png_with_a_text_beside_it(tmp_path):
    picture = charts.picture(Run("lamp", made(tmp_path, state="ready")), show="last half")
    assert picture._repr_png_().startswith(b"\x89PNG")
    assert "ready: 20 of 20 steps" in repr(picture)
    assert "0 of 20 before, 19 of 20 after" in repr(picture)


# Several runs


@pytest.fixture
def runs(tmp_path) -> list[Run]:
    return [Run("lamp", long(tmp_path / "a", 100)), Run("_oak $x$", long(tmp_path / "b", 50, 100))]


@pytest.mark.parametrize(("by", "ends"), [("steps", [100, 50]), ("seconds", [100.0, 50.0])])
def test_runs_are_laid_over_each_other(runs, by, ends):
    chart = charts.curves(runs, by)
    assert labels(chart) == ["lamp", "lamp, held out", "_oak $x$", "_oak $x$, held out"]
    assert [line(chart, run.name).xs[-1] for run in runs] == ends
    assert len({series.colour for series in chart.series}) == 2


def test_runs_by_tokens_count_those_before(runs):
    chart = charts.curves(runs, "tokens")
    tokens = [step["tokens"] for step in runs[0].history.steps]
    assert line(chart, "lamp").xs == [sum(tokens[: n + 1]) for n in range(len(tokens))]
    assert line(chart, "lamp, held out").xs[-1] == sum(tokens)


def test_the_names_of_runs_stand_in_the_legend_whatever_they_are(runs):
    legend = charts.overlaid(runs).axes[0].get_legend()
    names = [text.get_text().strip().replace(r"\$", "$") for text in legend.get_texts()]
    assert [name.rpartition(" ")[0] for name in names[::2]] == ["lamp", "_oak $x$"]
    picture = charts.picture(runs, by="tokens")
    assert picture._repr_png_().startswith(b"\x89PNG")
    assert repr(picture).splitlines()[1].startswith("_oak $x$ training")


def test_another_axis_is_refused_with_those_there_are(runs):
    with pytest.raises(ValueError, match="steps, tokens, seconds"):
        charts.curves(runs, "epochs")


def test_runs_without_a_step_are_drawn_too(tmp_path):
    assert charts.picture([Run("new", History(tmp_path / "none"))])._repr_png_()


def test_a_run_that_goes_on_grows(tmp_path):
    history = long(tmp_path, 10, 100)
    before = charts.loss_chart(history).series[0].xs[-1]
    go_on(history, 20, 100)
    assert (before, charts.loss_chart(history).series[0].xs[-1]) == (10, 20)
