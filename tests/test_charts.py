"""What a History looks like: nothing is lost by thinning, nothing unescaped gets in, and both forms show the same."""

import math
import random
import re
import xml.etree.ElementTree as ElementTree

import pytest
from made_history import event, made, memory, read, take_step

from workbench import charts
from workbench.events import EventLog, History


@pytest.fixture
def history(tmp_path) -> History:
    return made(tmp_path)


def lines(html: str) -> list[str]:
    return re.findall(r'points="([^"]*)"', html)


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


def test_a_single_spike_in_thousands_of_points_is_kept():
    ys = [1.0] * 4000
    ys[2345] = 9.0
    assert 9.0 in charts.decimated(range(4000), ys)[1]


def test_smoothing_stays_within_its_values_and_leaves_a_constant_alone():
    rng = random.Random(1)
    values = [rng.random() for _ in range(200)]
    smooth = charts.smoothed(values, 10)
    assert smooth[0] == values[0]
    assert min(values) <= min(smooth) <= max(smooth) <= max(values)
    assert charts.smoothed([2.5] * 9, 4) == pytest.approx([2.5] * 9)


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


# The live form


def test_the_live_form_is_well_formed_and_names_axes_units_and_newest_values(history):
    html = charts.live(history)
    ElementTree.fromstring(html.replace("<br>", "<br/>"))
    for text in ("Loss", "nats per token", "step", "Memory", "GiB", "minutes of work", "held out"):
        assert text in html
    assert html.count('role="img"') == html.count("<title>") == 2
    assert f"smoothed {charts.loss_chart(history).series[1].ys[-1]:.3g}" in html


def test_the_live_form_follows_the_theme_and_has_no_script(history):
    html = charts.live(history)
    assert "currentColor" in html
    assert not re.search(r"<script|javascript:|\son\w+=|url\(", html)
    assert re.findall(r'stroke="(?!currentColor|var\()', html) == []


def test_two_thousand_steps_take_less_than_32_kB(tmp_path):
    history = made(tmp_path, steps=2000, gpu=True)
    assert len(charts.live(history).encode()) < 32_000


def test_points_stay_inside_of_the_picture(history):
    for line in lines(charts.live(history)):
        for corner in line.split():
            x, y = map(float, corner.split(","))
            assert 0 <= x <= charts.WIDTH
            assert 0 <= y <= charts.HEIGHT


def test_the_curve_grows_with_the_steps(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    ends = []
    for step in (1, 2, 3):
        take_step(log, step, 10, 5.0 - step)
        memory(log, step)
        ends.append(
            float(
                lines(charts.svg(charts.loss_chart(read(tmp_path))))[-1].split()[-1].split(",")[0]
            )
        )
    assert ends == sorted(set(ends))


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_left_out(tmp_path, loss):
    log = EventLog(tmp_path / "events.jsonl")
    take_step(log, 1, 3, 2.0)
    take_step(log, 2, 3, loss)
    html = charts.live(read(tmp_path))
    assert "nan" not in html
    assert "inf" not in html
    assert charts.loss_chart(read(tmp_path)).series[0].ys == [2.0]


def test_before_the_first_step_both_forms_say_what_they_wait_for(tmp_path):
    empty = History(tmp_path / "none.jsonl")
    assert "waiting for the first step" in charts.live(empty)
    assert "waiting for the first reading" in charts.live(empty)
    assert charts.png(empty).startswith(b"\x89PNG")


def test_a_run_goes_to_its_last_step_and_a_stopped_one_to_where_it_stopped(tmp_path):
    (tmp_path / "live").mkdir()
    assert charts.loss_chart(made(tmp_path / "live", steps=5, of=40)).x_end == 40
    (tmp_path / "over").mkdir()
    assert charts.loss_chart(made(tmp_path / "over", steps=5, of=40, state="stopped")).x_end == 5


def test_text_is_escaped():
    evil = '<img src=x onerror="alert(1)">'
    chart = charts.Chart(evil, evil, evil, 1.0, [charts.Series(evil, [0, 1], [0, 1])], evil)
    empty = chart._replace(series=[])
    assert "<img" not in charts.svg(chart) + charts.svg(empty)


# Memory


def test_a_gpu_shows_its_three_sizes_and_a_cpu_the_process(tmp_path):
    (tmp_path / "gpu").mkdir()
    on_gpu = charts.memory_chart(made(tmp_path / "gpu", gpu=True))
    assert [series.label.split()[0] for series in on_gpu.series] == [
        "allocated",
        "reserved",
        "process",
    ]
    assert "15.0 GiB" in on_gpu.title
    (tmp_path / "cpu").mkdir()
    on_cpu = charts.memory_chart(made(tmp_path / "cpu"))
    assert [series.ys[0] for series in on_cpu.series] == [pytest.approx(1.0, abs=1e-6)]


def test_hours_between_a_stop_and_a_resume_are_not_work(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("workbench.events.time.time", lambda: now[0])
    log = EventLog(tmp_path / "events.jsonl")
    for pause, kind in (
        (0, "phase"),
        (1, "memory"),
        (60, "memory"),
        (9000, "phase"),
        (5, "memory"),
        (60, "memory"),
    ):
        now[0] += pause
        if kind == "phase":
            event(log, "phase", state="preparing", text="")
        else:
            memory(log, 1)
    assert charts.memory_chart(read(tmp_path)).series[0].xs == pytest.approx([0, 1, 1, 2])


# The static form


def test_the_figure_shows_the_same_lines_as_the_live_form(history):
    figure = charts.figure(history, title="what became of it")
    loss, memory_axes = figure.axes
    drawn = [line.get_label() for axes in (loss, memory_axes) for line in axes.get_lines()]
    both = (*charts.loss_chart(history).series, *charts.memory_chart(history).series)
    assert drawn == [series.label for series in both]
    assert (loss.get_xlabel(), loss.get_ylabel(), memory_axes.get_ylabel()) == (
        "step",
        "nats per token",
        "GiB",
    )
    assert "what became of it" in figure.get_suptitle()


def test_drawing_leaves_pyplot_alone(history):
    import subprocess
    import sys

    code = (
        "import sys; from workbench import charts; from workbench.events import History;"
        "charts.png(History('none')); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_picture_is_a_png_with_a_text_beside_it(tmp_path):
    picture = charts.Picture(made(tmp_path, state="ready"))
    assert picture._repr_png_().startswith(b"\x89PNG")
    assert "ready: 20 of 20 steps" in repr(picture)
    assert "0 of 20 before, 19 of 20 after" in repr(picture)
