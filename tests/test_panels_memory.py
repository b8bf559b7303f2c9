"""The memory bar, its advice and the shortage panel without a kernel: what they show, what a click sets, and how fast."""

import json
import re
import statistics
import time
from html.parser import HTMLParser

import pytest
from made_history import event, made, read
from test_panels import inside, tooltip
from test_panels_setup import runs_as_shown

from workbench import charts
from workbench import recipe as settings
from workbench.events import EventLog
from workbench.memory import comparison, plan_bar, planning
from workbench.memory.plan import Plan
from workbench.panels.launch.panel import LaunchPanel
from workbench.panels.monitor import shortage as shortage_panel
from workbench.panels.monitor.panel import Monitor
from workbench.panels.setup.memory_bar import TOGETHER
from workbench.panels.setup.panel import SetupPanel
from workbench.problems import Problem, RecipeError, RunError
from workbench.recipe import Recipe

GIB, MIB = 2**30, 2**20
EVIL = "<img src=x onerror=alert(1)>"
EIGHT_B = "unsloth/Llama-3.1-8B-Instruct"


@pytest.fixture
def setup(tiny: Recipe, tmp_path) -> SetupPanel:
    return SetupPanel(tiny, outputs=tmp_path)


@pytest.fixture(scope="module")
def tight(tiny: Recipe) -> str:
    """The size of a card on which the tiny lane is tight."""
    plan = SetupPanel(tiny, vram="16GiB", outputs="nowhere").memory.plan
    return f"{(plan.expected + plan.safe) / 2 / GIB:.4f}GiB"


@pytest.fixture
def short_of_memory(tiny: Recipe, tight: str) -> SetupPanel:
    """A panel for a card on which the tiny lane is tight."""
    return SetupPanel(tiny, vram=tight, outputs="nowhere")


@pytest.fixture(scope="module")
def large(tiny: Recipe) -> Plan:
    """Llama-3.1-8B on a T4 with more rows at once than it holds."""
    recipe = tiny.replace(
        model={"name": EIGHT_B, "max_length": 2048},
        training={"batch_size": 8, "accumulation": 1},
        samples={"score_rows": 0},
    )
    return planning.plan(recipe, card="T4")


class Outline(HTMLParser):
    """The elements and texts of some HTML; fails where they are not nested."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def strip_of(html: str) -> dict[str, str | None]:
    """The attributes of the one picture in some HTML."""
    pictures = [attrs for _, attrs in Outline(html).elements if attrs.get("role") == "img"]
    assert len(pictures) == 1
    return pictures[0]


def segments(html: str) -> list[tuple[float, float]]:
    """Where each coloured segment begins and how wide it is, in percent."""
    found = re.findall(r'<div title="[^"]*" style="[^"]*left:([\d.]+)%;width:([\d.]+)%', html)
    return [(float(left), float(width)) for left, width in found]


# The bar


def test_the_verdict_comes_first_in_words_with_few_digits(large):
    words = "".join(Outline(plan_bar.bar(large)).texts)
    expected, free, safe = (f"{n / GIB:.1f}" for n in (large.expected, large.free, large.safe))
    assert words.startswith(f"\u2717 Does not fit: {expected} of {free} GiB, {safe} to be safe.")
    assert "by formula, nothing measured yet" in words


def test_figures_that_would_look_the_same_get_another_digit():
    assert plan_bar._figures(round(14.56 * GIB), round(14.62 * GIB)) == ["14.56", "14.62"]
    assert plan_bar._figures(9 * GIB, 14 * GIB) == ["9.0", "14.0"]


def test_the_picture_says_all_of_it_to_who_cannot_see_it(large):
    spoken = strip_of(plan_bar.bar(large))["aria-label"]
    assert plan_bar.verdict(large) in spoken
    for piece in plan_bar.groups(large.parts):
        assert f"{piece.name} {plan_bar.short(piece.size)}" in spoken


def test_the_segments_follow_each_other_and_are_as_wide_as_what_they_hold(large):
    drawn, pieces = segments(plan_bar.picture(large)), plan_bar.groups(large.parts)
    assert len(drawn) == len(pieces)
    held = sum(piece.size for piece in pieces)
    assert held == large.expected
    at, per_byte = 0.0, drawn[-1][0] / (held - pieces[-1].size)
    for (left, width), piece in zip(drawn, pieces, strict=True):
        assert left == pytest.approx(at, abs=0.02)
        assert width == pytest.approx(max(piece.size * per_byte, 0.4), abs=0.02)
        at += piece.size * per_byte
    assert at < 100


def test_every_part_is_in_the_table_and_the_colour_is_not_all_that_tells_them(large):
    outline = Outline(plan_bar.table(large.parts))
    rows = [tag for tag, _ in outline.elements].count("td") / 3
    assert rows == sum(1 for count in large.parts.values() if count)
    for group in ("weights", "adapter, gradients, optimizer", "libraries and reserve"):
        assert group in outline.texts


def test_letters_and_segments_have_contrast_on_light_and_dark_pages():
    for colour in plan_bar.COLOURS:
        assert contrast(colour, "#ffffff") >= 4.5  # white letters on it
        assert contrast(colour, "#212121") >= 3  # beside a dark page


def contrast(one: str, other: str) -> float:
    """WCAG's contrast of two colours."""
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_without_a_place_it_says_what_is_needed(large):
    from dataclasses import replace

    nowhere = Plan(replace(large.question, place=None))
    assert plan_bar.verdict(nowhere).startswith("Needs ")
    assert " free" not in plan_bar.bar(nowhere)


def test_measured_runs_give_the_band(large):
    from dataclasses import replace

    question = large.question
    versions = dict(question.versions)
    record = {"card": question.place.name, "backend": question.backend, "versions": versions}
    record |= {"predicted": {"parts": question.raw.parts}}
    record |= {"measured": {"process": round(question.raw.expected * 0.9)}}
    measured = Plan(replace(question, records=[record] * 3))
    assert "over 3 runs" in plan_bar.certainty(measured)
    assert measured.safe - measured.expected < large.safe - large.expected


def test_names_that_others_chose_are_escaped(large):
    from dataclasses import replace

    question = large.question
    place = replace(question.place, name=EVIL)
    html = Plan(replace(question, place=place))._repr_html_()
    assert "&lt;img" in html
    assert "<img" not in html


# The setup panel


def test_the_bar_follows_each_setting(setup):
    setup.controls["lora.dora"].value = True
    for name, value in (("training.batch_size", 64), ("lora.rank", 128), ("lora.dora", False)):
        before = setup.memory.plan.expected, setup.memory._picture.value
        setup.controls[name].value = value
        assert (setup.memory.plan.expected > before[0]) == bool(value)
        assert (setup.memory._picture.value != before[1]) or not value
    assert plan_bar.verdict(setup.memory.plan) in setup.memory._verdict.value
    setup.targets.preset.value = "attention"
    assert setup.memory.plan.question.recipe == setup.recipe


def test_the_rows_of_a_small_file_are_counted_once_and_of_no_other(setup, tiny, tmp_path):
    shown = setup.memory._picture.value
    assert "2,400 training rows, the longest with 82 tokens." in shown
    setup.controls["model.max_length"].value = 64
    assert "the longest with 82 tokens, cut at 64." in setup.memory._picture.value
    setup.controls["model.max_length"].value = 256
    assert setup.memory.plan.question.work.length == 82
    nowhere = SetupPanel(tiny.replace(data={"train": "some/data"}), outputs=tmp_path)
    assert "The rows were not counted: each is taken to fill 128" in nowhere.memory._picture.value


def test_the_facts_are_the_plans(setup, tiny):
    facts = setup.summary(setup.recipe)
    plan = planning.plan(tiny)
    assert facts[0].startswith(f"{plan.trainable:,} trainable parameters")
    assert "100 steps, 1,600 rows in all" in facts
    assert re.search(r"about \d+ (s|min) of training, by formula", facts[-1])
    in_epochs = tiny.replace(training={"steps": None, "epochs": 2})
    facts = setup.summary(in_epochs)
    assert f"{setup.memory.plan_for(in_epochs).steps:,} steps, 2 passes over 2,400 rows" in facts


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("training.batch_size", 4),
        ("training.accumulation", 4),
        ("training.batch", "auto"),
        ("model.max_length", 256),
        ("training.optimizer", "paged_adamw_8bit"),
        ("training.gradient_checkpointing", True),
    ],
)
def test_each_memory_control_does_what_its_line_of_python_does(setup, tiny, name, value):
    setup.more.open()
    setup.controls[name].value = value
    assert runs_as_shown(setup.lines[name].value, tiny) == setup.recipe != tiny
    assert settings.field(name).description in tooltip(setup.controls[name])


def test_advice_stays_folded_while_it_fits_and_unfolds_when_it_does_not(setup, short_of_memory):
    assert setup.memory.plan.verdict == "fits"
    assert not setup.memory.advice.is_open
    assert short_of_memory.memory.plan.verdict == "tight"
    assert short_of_memory.memory.advice.is_open
    short_of_memory.memory.advice.button.click()
    assert not short_of_memory.memory.advice.is_open


def test_what_would_save_memory_can_be_asked_at_any_time(setup):
    setup.memory.advice.button.click()
    assert setup.memory.advice.is_open
    assert len(setup.memory.advice.body.children) == min(4, len(setup.memory.plan.advice)) > 0


def test_a_click_on_advice_sets_all_of_it(short_of_memory, tight):
    panel = short_of_memory
    for number in range(len(panel.memory.advice.body.children)):
        fresh = SetupPanel(panel.base, vram=tight, outputs="nowhere")
        advice = fresh.memory.plan.advice[number]
        before = fresh.memory.plan.expected
        fresh.memory.advice.body.children[number].children[0].click()
        assert fresh.recipe == advised(panel.base, advice.settings)
        assert fresh.memory.plan.expected < before
        assert fresh.values.items() >= advice.settings.items()
        moved = [fresh.controls[name] for name in advice.settings if name in fresh.controls]
        assert all(made.value in advice.settings.values() for made in moved)
        assert fresh.changed


def advised(recipe: Recipe, values: dict[str, object]) -> Recipe:
    for name, value in values.items():
        section, _, key = name.rpartition(".")
        recipe = recipe.replace(**{section: {key: value}})
    return recipe


def test_advice_that_makes_it_fit_says_so_and_does(short_of_memory):
    panel = short_of_memory
    first = panel.memory.advice.body.children[0]
    assert first.children[0].description == TOGETHER or "then it fits" in first.children[1].value
    first.children[0].click()
    assert panel.memory.plan.verdict == "fits"
    assert "Fits:" in panel.memory._verdict.value


def test_settings_without_a_control_are_kept_and_shown_as_python(setup, tiny):
    assert setup.memory._kept.value == ""
    setup.set(
        {"samples.score_rows": 0, "lora.target_modules": ["q_proj", "v_proj"], "lora.rank": 6}
    )
    assert setup.recipe.samples.score_rows == 0
    assert setup.recipe.lora.target_modules == ["q_proj", "v_proj"]
    assert setup.targets.preset.value == "custom"
    assert setup.controls["lora.rank"].value == 6
    assert "score_rows" in setup.memory._kept.value
    kept = runs_as_shown(setup.memory._kept.value, tiny)
    assert kept.samples.score_rows == 0
    setup.controls["lora.alpha"].value = 8
    assert setup.recipe.samples.score_rows == 0


def test_a_redraw_takes_far_less_than_50_ms(short_of_memory):
    took = []
    for number in range(25):
        begun = time.perf_counter()
        short_of_memory.controls["training.batch_size"].value = 1 + number % 16
        took.append(time.perf_counter() - begun)
    assert statistics.median(took) < 0.05


def test_a_bad_value_takes_the_bar_away_until_it_is_mended(setup):
    good = setup.memory._picture.value
    setup.controls["training.batch_size"].value = 0
    assert "training.batch_size is 0" in setup.banner.value
    assert setup.memory._picture.value == ""
    setup.controls["training.batch_size"].value = 16
    assert setup.memory._picture.value == good


def test_a_model_that_cannot_be_read_leaves_the_panel_working(tiny, tmp_path):
    panel = SetupPanel(tiny.replace(model={"name": "./no-such-model"}), outputs=tmp_path)
    assert "The memory is not known." in panel.memory._verdict.value
    assert panel.memory.plan is None
    panel.controls["training.batch_size"].value = 2
    assert panel.recipe.training.batch_size == 2
    assert "effective batch 2 rows" in panel.consequences.html


def test_a_known_model_that_is_not_here_still_gets_its_bar(tiny, tmp_path):
    recipe = tiny.replace(model={"name": EIGHT_B, "max_length": 2048})
    panel = SetupPanel(recipe, card="T4", outputs=tmp_path)
    assert panel.memory.plan.question.shapes.parameters > 8e9
    panel.set({"lora.target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]})
    assert panel.targets.preset.value == "attention"


def test_a_card_that_is_not_known_is_told_in_the_bar(tiny, tmp_path):
    panel = SetupPanel(tiny, card=f"RTX {EVIL}", outputs=tmp_path)
    assert "&lt;img" in panel.memory._verdict.value
    assert "<img" not in panel.memory._verdict.value


def test_every_control_of_memory_has_a_label_and_a_tooltip(short_of_memory, tmp_path):
    monitor = Monitor(failed(tmp_path / "run"))
    for widget in [*inside(short_of_memory), *inside(monitor)]:
        if type(widget).__name__ in ("Button", "Checkbox", "Dropdown", "FloatText", "IntText"):
            assert widget.description, widget
            assert len(tooltip(widget)) > 10, widget.description


def test_the_launch_panel_learns_from_its_own_outputs(tiny, tmp_path):
    question = planning.plan(tiny).question
    line = {"card": question.place.name, "backend": question.backend}
    line |= {"versions": dict(question.versions), "predicted": {"parts": question.raw.parts}}
    line |= {"measured": {"process": question.raw.expected}}
    (tmp_path / "memory.jsonl").write_text(json.dumps(line) + "\n")
    panel = LaunchPanel(tiny, outputs=tmp_path, warm=False)
    panel.close()
    assert "over 1 run<" in panel.setup.memory._verdict.value
    with (tmp_path / "memory.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    panel.setup.learn()  # as the panel does when its run is over
    assert "over 2 runs<" in panel.setup.memory._verdict.value


# The shortage panel


HELD = {"weights": 3 * GIB, "adapters": 160 * MIB, "activations": 9 * GIB, "peak": 12 * GIB}
ADVICE = [
    {"text": f"Batch 8 to 4 saves 4.1 GiB. {EVIL}", "saves": 4 * GIB, "settings": {}, "harm": ""}
]


class StoppedRun:
    """What a monitor uses of a run, without a process."""

    def __init__(self, folder, effective=16):
        self.folder, self.name, self.history = folder, folder.name, read(folder)
        self.adapter_path = folder / "adapter"
        self.recipe = Recipe(training={"batch_size": effective, "accumulation": 1})
        self.resumed: list[int] = []

    def refresh(self):
        return self.history.update()

    def resume(self, *, batch_size):
        if batch_size == 1:
            raise RunError([Problem("", "The <disk> is full.", "Free some.")])
        self.resumed.append(batch_size)
        self.history.state = "preparing"


def failed(folder, *, rows=8, phase="training", retrying=False, wanted=2 * GIB) -> StoppedRun:
    """A run whose memory ran out after some steps."""
    folder.mkdir()
    made(folder, steps=4, of=20, gpu=True)
    log = EventLog(folder / "events.jsonl")
    known = {"held": HELD, "wanted": wanted, "advice": ADVICE, "retrying": retrying}
    event(log, "oom", phase=phase, step=4, batch_size=rows, **known)
    text = "The memory ran out while training."
    event(log, "error", text=text, cause=None, cure="Halve the batch.")
    event(log, "phase", state="failed", text=text)
    return StoppedRun(folder)


def test_a_run_without_a_shortage_shows_none(tmp_path):
    made(tmp_path, steps=5)
    assert Monitor(StoppedRun(tmp_path)).shortage.layout.display == "none"


def test_it_says_what_held_the_memory_what_was_wanted_and_what_to_turn(tmp_path):
    shown = Monitor(failed(tmp_path / "run")).shortage
    assert shown.layout.display == ""
    said = shown._told.value
    assert "Out of memory in training with 8 rows at once: 12.2 GiB were held" in said
    assert "2.0 GiB more were wanted" in said
    assert "activations and loss 9.0 GiB" in strip_of(said)["aria-label"]
    assert "15.0 GiB on the card" in said
    assert len(segments(said)) == 3  # a total is no part
    assert "Batch 8 to 4 saves 4.1 GiB." in shown._advice.value
    assert "<img" not in shown._advice.value


def test_the_button_goes_on_with_half_the_batch_and_watches(tmp_path):
    run = failed(tmp_path / "run")
    monitor = Monitor(run)
    shown = monitor.shortage
    assert shown.half == 4
    words = "Continue with half the batch (4 rows, same effective batch)"
    assert shown.button.description == words
    assert "run.resume(batch_size=4)" in shown._code.value
    shown.button.click()
    assert run.resumed == [4]
    assert shown.layout.display == "none"
    assert monitor.state == "preparing"


def test_what_forbids_going_on_is_shown(tmp_path):
    monitor = Monitor(failed(tmp_path / "run", rows=2))
    monitor.shortage.button.click()
    assert "The &lt;disk&gt; is full." in monitor.banner.value


@pytest.mark.parametrize(("rows", "phase"), [(1, "training"), (8, "evaluation"), (None, "loading")])
def test_no_button_where_half_the_batch_does_not_help(tmp_path, rows, phase):
    shown = Monitor(failed(tmp_path / "run", rows=rows, phase=phase, wanted=None)).shortage
    assert shown.layout.display == ""
    assert shown._continue.layout.display == "none"
    assert "wanted" not in shown._told.value


def test_a_shortage_that_the_run_went_on_after_is_not_why_it_failed(tmp_path):
    assert shortage_panel.ended_by(failed(tmp_path / "run", retrying=True).history) is None
    run = failed(tmp_path / "again")
    assert shortage_panel.ended_by(run.history) is not None
    time.sleep(0.01)
    log = EventLog(run.folder / "events.jsonl")
    event(log, "phase", state="preparing", text="Reading the recipe.")
    event(log, "phase", state="failed", text="The disk is full.")
    run.refresh()
    assert shortage_panel.ended_by(run.history) is None


@pytest.mark.parametrize(
    ("rows", "effective", "half"), [(8, 16, 4), (3, 12, 1), (6, 12, 3), (1, 8, None), (9, 27, 3)]
)
def test_half_the_batch_divides_the_effective_batch(rows, effective, half):
    assert shortage_panel.half(rows, effective) == half


# Charts and comparison


def test_the_memory_chart_shows_what_was_planned(tmp_path, large):
    history = made(tmp_path, gpu=True)
    without = charts.memory_chart(history).series
    (tmp_path / "plan.json").write_text(json.dumps(large.for_the_run()))
    chart = charts.memory_chart(history)
    lines = chart.series[len(without) :]
    assert [line.ys for line in lines] == [[n / GIB] * 2 for n in (large.expected, large.safe)]
    assert {(line.xs[0], line.xs[-1]) for line in lines} == {(0, chart.x_end)}
    assert len({line.style for line in lines}) == 2
    assert charts.png(history).startswith(b"\x89PNG")


@pytest.mark.parametrize("text", ["", "[]", '{"expected": null, "safe": 1}'])
def test_a_plan_that_cannot_be_read_draws_nothing(tmp_path, text):
    history = made(tmp_path)
    (tmp_path / "plan.json").write_text(text)
    assert len(charts.memory_chart(history).series) == 1


@pytest.fixture
def compared(large) -> comparison.Comparison:
    measured = {n: b for n, b in large.parts.items() if n in comparison.STATIC}
    measured |= {"activations": 5 * GIB, "context": GIB, "process": round(large.expected * 1.07)}
    probe = {"measured": measured, "predicted": {"parts": large.parts}}
    return comparison.compare("run", probe | {"batch_size": 1, "tokens": 2048, "seconds": 1.5})


def test_a_comparison_says_its_error_first(compared):
    first = str(compared).splitlines()[0]
    predicted, found = compared.whole.predicted / GIB, compared.whole.measured / GIB
    assert f"Predicted {predicted:.2f} GiB, measured {found:.2f} GiB: 6.5 % too little." in first
    assert "1 row at once, 2,048 tokens" in str(compared)
    for pair in compared.pairs:
        assert pair.name in str(compared)
        assert pair.name in Outline(compared._repr_html_()).texts


def test_a_comparison_draws_pairs_as_long_as_what_they_stand_for(compared):
    widths = [
        float(w) for w in re.findall(r"height:6px;[^\"]*width:([\d.]+)%", compared._repr_html_())
    ]
    drawn = list(zip(widths[::2], widths[1::2], strict=True))
    assert len(drawn) == len(compared.pairs)
    most = max(max(pair.predicted, pair.measured) for pair in compared.pairs)
    for (left, right), pair in zip(drawn, compared.pairs, strict=True):
        assert left == pytest.approx(100 * pair.predicted / most, abs=0.06)
        assert right == pytest.approx(100 * pair.measured / most, abs=0.06)
    axes = charts.compared(compared).axes[0]
    assert len(axes.patches) == 2 * len(compared.pairs)
    assert repr(charts.picture(compared)).startswith("Predicted ")
    assert charts.picture(compared)._repr_png_().startswith(b"\x89PNG")


def test_without_a_prediction_the_measurement_stands_alone(compared):
    probe = {"measured": {"weights": GIB, "process": 2 * GIB}, "predicted": None}
    alone = comparison.compare("run", probe | {"batch_size": 2, "tokens": 64, "seconds": 1.0})
    assert "Measured 2.00 GiB; nothing was predicted." in str(alone)
    assert "not told" in alone._repr_html_()


def test_a_wrong_setting_is_refused_by_the_recipe_not_by_the_panel(setup):
    setup.controls["model.max_length"].value = 1
    with pytest.raises(RecipeError, match="at least 16"):
        _ = setup.recipe
