"""Panels without a kernel: what the widgets hold becomes the recipe, what goes wrong is shown, nothing lacks a label."""

import ast
import re
import time
from html import unescape

import ipywidgets as widgets
import pytest
from made_history import event, made, read, sample, take_step

from workbench import preflight
from workbench import recipe as settings
from workbench.events import EventLog
from workbench.panels import launch, pages, samples
from workbench.panels import monitor as monitor_module
from workbench.panels.banner import Banner, guarded
from workbench.panels.launch import LaunchPanel
from workbench.panels.monitor import Monitor
from workbench.panels.setup import SetupPanel
from workbench.presets import first_recipe
from workbench.problems import Problem, RecipeError, RunError
from workbench.recipe import Recipe


@pytest.fixture
def setup(tiny: Recipe) -> SetupPanel:
    return SetupPanel(tiny)


@pytest.fixture
def watched(tmp_path, tiny):
    """A run's folder with a log in it, and no worker: enough for a monitor."""
    tiny.save(tmp_path / "recipe.yaml")
    return FolderRun(tmp_path)


class FolderRun:
    """What a monitor uses of a run, without a process: reads the folder, notes what was asked."""

    def __init__(self, folder, history=None):
        self.folder, self.name = folder, folder.name
        self.history = history or made(folder, steps=5, of=10)
        self.asked: list[str] = []

    def refresh(self):
        return self.history.update()

    def _note(self, do: str) -> str:
        self.asked.append(do)
        return f"id-{do}"

    def stop(self):
        return self._note("stop")

    def pause(self):
        return self._note("pause")

    def unpause(self):
        return self._note("unpause")

    def checkpoint(self):
        raise RunError([Problem("", "The worker <has> ended.", "Resume it.")])

    def cancel(self):
        return self._note("cancel")

    def close(self):
        self._note("close")


def tooltip(widget: widgets.Widget) -> str:
    """By its name in ipywidgets 8 or in 7."""
    return widget.tooltip if widget.has_trait("tooltip") else widget.description_tooltip


def inside(widget: widgets.Widget) -> list[widgets.Widget]:
    children = getattr(widget, "children", ())
    return [widget, *(found for child in children for found in inside(child))]


# Setup


def test_a_new_panel_shows_the_recipe_that_it_was_given(setup, tiny):
    assert setup.recipe == tiny
    assert setup.valid
    assert setup.banner.value == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lora.rank", 64),
        ("lora.alpha", 8.0),
        ("lora.dropout", 0.1),
        ("lora.rslora", True),
        ("lora.dora", True),
        ("training.learning_rate", 1e-4),
        ("training.steps", 7),
    ],
)
def test_a_control_does_what_its_line_of_python_does(setup, tiny, name, value):
    setup.controls[name].value = value
    section, _, key = name.rpartition(".")
    assert getattr(getattr(setup.recipe, section), key) == value
    assert runs_as_shown(setup._codes[name].value, tiny) == setup.recipe


def test_only_the_lines_of_what_differs_from_the_recipe_stand_out(setup, tiny):
    codes = {**setup._codes, "targets": setup.targets._code}
    assert loud(codes) == []
    assert not setup.changed
    setup.controls["lora.rank"].value = 4
    setup.targets.preset.value = "MLP"
    assert loud(codes) == ["lora.rank", "targets"]
    assert setup.changed
    setup.controls["lora.rank"].value = tiny.lora.rank
    setup.targets.preset.value = "all linear"
    assert loud(codes) == []


def loud(codes: dict[str, widgets.HTML]) -> list[str]:
    return [name for name, code in codes.items() if pages.MUTED not in code.value]


def runs_as_shown(html: str, recipe: Recipe) -> Recipe:
    """Runs the one line of Python that the HTML shows."""
    code = unescape(re.search("<code[^>]*>(.*)</code>", html)[1])
    ast.parse(code)
    names = {"recipe": recipe}
    exec(code, names)
    return names["recipe"]


def test_presets_choose_the_modules_that_the_model_has(setup, tiny):
    targets = setup.targets
    assert list(targets.boxes) == [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ]
    targets.preset.value = "attention"
    assert setup.recipe.lora.target_modules == ["q_proj", "k_proj", "v_proj", "o_proj"]
    targets.preset.value = "MLP"
    assert setup.recipe.lora.target_modules == ["gate_proj", "up_proj", "down_proj"]
    assert runs_as_shown(targets._code.value, tiny) == setup.recipe
    targets.preset.value = "all linear"
    assert setup.recipe.lora.target_modules == "all-linear"


def test_ticking_a_module_makes_the_preset_custom_or_the_one_that_it_equals(setup):
    setup.targets.boxes["down_proj"].value = False
    assert setup.targets.preset.value == "custom"
    assert "down_proj" not in setup.recipe.lora.target_modules
    setup.targets.boxes["down_proj"].value = True
    assert setup.targets.preset.value == "all linear"


def test_a_list_in_the_recipe_is_shown_and_kept(tiny):
    chosen = tiny.replace(lora={"target_modules": ["q_proj", "v_proj"]})
    panel = SetupPanel(chosen)
    assert panel.targets.preset.value == "custom"
    assert panel.recipe == chosen


def test_twice_the_rank_is_twice_the_parameters(setup):
    count = trainable(setup)
    setup.controls["lora.rank"].value *= 2
    assert trainable(setup) == 2 * count


def trainable(setup: SetupPanel) -> int:
    return int(setup.summary(setup.recipe)[0].split()[0].replace(",", ""))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("lora.alpha", 0, "lora.alpha is 0.0; it must be greater than 0"),
        ("lora.dropout", 1.5, "lora.dropout is 1.5; it must be less than 1"),
        ("training.steps", 0, "training.steps is 0; it must be at least 1"),
        ("training.learning_rate", -1, "training.learning_rate is -1.0; it must be greater than 0"),
    ],
)
def test_a_bad_value_is_named_with_its_cure_until_it_is_mended(setup, name, value, says):
    good = setup.controls[name].value
    setup.controls[name].value = value
    assert says in setup.banner.value
    assert settings.field(name).json_schema_extra["cure"].split(";")[0] in setup.banner.value
    assert not setup.valid
    with pytest.raises(RecipeError, match="must be"):
        _ = setup.recipe
    setup.controls[name].value = good
    assert setup.valid
    assert setup.banner.value == ""


def test_no_module_at_all_is_a_problem(setup):
    for box in setup.targets.boxes.values():
        box.value = False
    assert not setup.valid
    assert "lora.target_modules is []" in setup.banner.value


def test_a_model_that_cannot_be_read_is_told_and_the_rest_can_be_set(tiny):
    panel = SetupPanel(tiny.replace(model={"name": "./no-such-model"}))
    assert "no-such-model" in panel.banner.value
    panel.controls["lora.rank"].value = 8
    assert panel.recipe.lora.rank == 8
    assert "no-such-model" in panel.banner.value


def test_the_llama_recipe_passes_every_check_but_those_of_the_machine():
    recipe = first_recipe("llama", steps=3, score_rows=2)
    assert recipe.training.steps == 3
    assert recipe.samples.score_rows == 2
    assert {problem.where for problem in preflight.check(recipe)} <= {"model.name"}


# All panels


def test_every_control_has_a_label_and_a_tooltip_and_every_button_too(setup, watched, tiny):
    launcher = LaunchPanel(tiny, warm=False)
    launcher.close()
    for root in (setup, launcher, Monitor(watched)):
        for widget in inside(root):
            if isinstance(
                widget, widgets.Button | widgets.Checkbox | widgets.Dropdown | widgets.FloatText
            ):
                assert widget.description, widget
                assert len(tooltip(widget)) > 10, widget.description


def test_tooltips_name_trade_off_and_bounds(setup):
    tip = tooltip(setup.controls["lora.rank"])
    assert settings.field("lora.rank").description in tip
    assert "At least 1, at most 1,024." in tip


def test_an_exception_in_a_callback_is_shown_with_its_trace_and_escaped():
    banner = Banner()

    def fails() -> None:
        raise ZeroDivisionError("<b>nothing</b> left")

    guarded(banner, fails)()
    assert "ZeroDivisionError: &lt;b&gt;nothing&lt;/b&gt; left" in banner.value
    assert "Traceback" in banner.value
    assert "<b>nothing" not in banner.value


# Monitor


def test_the_monitor_shows_state_step_speed_time_left_and_what_the_model_said(watched):
    monitor = Monitor(watched)
    assert "step 5 of 10" in monitor._status.value
    assert "2 s left" in monitor._status.value or "3 s left" in monitor._status.value
    assert "2,000 tokens/s" in monitor._numbers.value
    assert "learning rate 1.00e-03" in monitor._numbers.value
    assert "The radio was late." in monitor._samples.value
    assert "<svg" in monitor._charts.value
    assert 'role="status"' in monitor._voice.value
    assert "training, step 5 of 10" in monitor._voice.value
    assert monitor.state == "training"


def test_it_redraws_only_when_something_changed(watched):
    monitor = Monitor(watched)
    changes = []
    for part in inside(monitor):
        part.observe(changes.append)
    monitor.update()
    assert changes == []
    log = EventLog(watched.folder / "events.jsonl")
    event(log, "warning", text="The disk is nearly full.", cure="Free some space.")
    monitor.update()
    assert [change.name for change in changes] == ["value"]
    assert "The disk is nearly full." in monitor._messages.value


def begin(folder, *phases: tuple[str, str]) -> FolderRun:
    """A run that has not trained a step yet."""
    folder.mkdir()
    log = EventLog(folder / "events.jsonl")
    for state, text in phases:
        event(log, "phase", state=state, text=text)
    return FolderRun(folder, read(folder))


def test_seconds_are_counted_and_the_phase_is_named_until_the_first_step(tmp_path, monkeypatch):
    asking = "Asking the base model"
    run = begin(tmp_path / "run", ("loading", "Loading."), ("training", f"{asking}."))
    monitor = Monitor(run)
    now = time.time()
    monkeypatch.setattr(monitor_module.time, "time", lambda: now + 7)
    monitor.update()
    assert "7 s so far" in monitor._numbers.value
    assert f"{asking}." in monitor._status.value
    event(EventLog(run.history.path), "phase", state="training", text=f"{asking}: 3 of 20 rows.")
    monitor.update()
    assert "7 s so far" in monitor._numbers.value
    assert "3 of 20" in monitor._status.value


def test_seconds_are_counted_before_the_worker_says_anything(tmp_path, monkeypatch):
    monitor = Monitor(begin(tmp_path / "run"))
    now = time.time()
    monkeypatch.setattr(monitor_module.time, "time", lambda: now + 3)
    monitor.update()
    assert "3 s so far" in monitor._numbers.value


def test_after_the_last_step_the_phase_is_named_in_place_of_the_time_left(watched):
    log = EventLog(watched.folder / "events.jsonl")
    take_step(log, 10, 10, 0.5)
    event(log, "phase", state="training", text="Asking the tuned model.")
    monitor = Monitor(watched)
    assert watched.history.seconds_left is None
    assert "left" not in monitor._status.value
    assert "step 10 of 10 \N{MIDDLE DOT} Asking the tuned model." in monitor._status.value
    assert "Asking" not in monitor._numbers.value
    assert monitor.buttons.pause.disabled
    assert monitor.buttons.checkpoint.disabled
    assert not monitor.buttons.stop.disabled


def test_what_is_asked_before_the_first_step_says_when_it_is_obeyed(tmp_path):
    run = begin(tmp_path / "run", ("training", "Asking the base model."))
    buttons = Monitor(run).buttons
    buttons.pause.click()
    buttons.pause.click()
    assert "Asked to pause: after the first step." in buttons._note.value
    buttons.stop.click()
    assert "Asked to stop: as soon as possible." in buttons._note.value


def test_text_of_models_and_errors_is_escaped_everywhere(watched):
    log = EventLog(watched.folder / "events.jsonl")
    evil = "<img src=x onerror=alert(1)>"
    sample(log, 5, evil, adapter=True, prompt=evil)
    event(log, "token", sample="q", text=evil)
    for kind in ("warning", "error"):
        event(log, kind, text=evil, cure=evil, **({"cause": evil} if kind == "error" else {}))
    event(log, "phase", state="failed", text=evil)
    monitor = Monitor(watched)
    shown = "".join(str(getattr(part, "value", "")) for part in inside(monitor))
    assert shown.count("&lt;img") >= 6
    assert "<img" not in shown + samples.compare_samples(watched).html


def test_buttons_ask_the_run_and_say_so_until_it_answers(watched):
    buttons = Monitor(watched).buttons
    buttons.stop.click()
    assert watched.asked == ["stop"]
    assert "Asked to stop" in buttons._note.value
    log = EventLog(watched.folder / "events.jsonl")
    event(log, "command", id="id-stop", do="stop", taken=True, text="")
    watched.refresh()
    buttons.follow(watched.history)
    assert "Asked to" not in buttons._note.value


def test_pause_becomes_continue(watched):
    monitor = Monitor(watched)
    monitor.buttons.pause.click()
    event(EventLog(watched.folder / "events.jsonl"), "phase", state="paused", text="Paused.")
    monitor.update()
    assert monitor.buttons.pause.description == "Continue"
    monitor.buttons.pause.click()
    assert watched.asked == ["pause", "unpause"]


def test_cancel_asks_first(watched):
    buttons = Monitor(watched).buttons
    buttons.cancel.click()
    assert watched.asked == []
    assert buttons._confirm.layout.display == ""
    buttons.no.click()
    assert buttons._confirm.layout.display == "none"
    buttons.cancel.click()
    buttons.yes.click()
    assert watched.asked == ["cancel"]


def test_a_refused_wish_and_a_dead_worker_are_told(watched):
    monitor = Monitor(watched)
    monitor.buttons.checkpoint.click()
    assert "The worker &lt;has&gt; ended." in monitor.banner.value
    monitor.buttons.pause.click()
    log = EventLog(watched.folder / "events.jsonl")
    event(log, "command", id="id-pause", do="pause", taken=False, text="Too late for a pause.")
    monitor.update()
    assert "Too late for a pause." in monitor.buttons._note.value
    monitor.buttons.stop.click()
    assert "Too late" not in monitor.buttons._note.value
    assert "Too late" not in Monitor(watched).buttons._note.value


def test_when_the_training_is_over_nothing_can_be_pressed(watched):
    event(EventLog(watched.folder / "events.jsonl"), "phase", state="stopped", text="Stopped.")
    monitor = Monitor(watched)
    pressed = (
        monitor.buttons.stop,
        monitor.buttons.pause,
        monitor.buttons.checkpoint,
        monitor.buttons.cancel,
    )
    assert all(made.disabled for made in pressed)


def test_a_saved_notebook_keeps_a_text_in_place_of_the_live_view(watched):
    bundle = Monitor(watched).bundle()
    assert "training: 5 of 10 steps" in bundle["text/html"]
    assert "Run.open" in bundle["text/html"]
    assert "<svg" not in bundle["text/html"]
    assert all("model_id" in bundle[kind] for kind in bundle if "widget-view" in kind)


# Launch


@pytest.fixture
def panel(monkeypatch, tiny, tmp_path):
    """A panel whose runs are folders without workers; `panel.started` lists their recipes."""
    started = []

    def start(recipe, *, outputs, spare):
        folder = tmp_path / f"run-{len(started)}"
        folder.mkdir()
        started.append(recipe)
        return FolderRun(folder)

    monkeypatch.setattr(launch.starting, "start", start)
    panel = LaunchPanel(tiny, outputs=tmp_path, warm=False)
    panel.started = started
    yield panel
    panel.close()


def over(run: FolderRun) -> None:
    event(EventLog(run.folder / "events.jsonl"), "phase", state="ready", text="Trained.")
    run.refresh()


def test_start_takes_the_recipe_as_shown(panel):
    panel.setup.controls["lora.rank"].value = 4
    panel.start()
    assert [recipe.lora.rank for recipe in panel.started] == [4]


def test_a_cell_after_a_click_gets_the_run_that_the_click_started(panel):
    panel.button.click()
    assert panel.monitor in inside(panel)
    assert panel.start() is panel.run
    assert panel.start() is panel.run
    assert len(panel.started) == 1


def test_a_click_whose_run_has_ended_meanwhile_is_not_repeated_but_the_next_cell_starts_anew(panel):
    panel.button.click()
    over(panel.run)
    first = panel.run
    assert panel.start() is first
    assert panel.start() is not first
    assert len(panel.started) == 2
    assert first.asked == ["close"]


def test_start_is_not_there_while_a_run_goes_on_or_a_setting_is_bad(panel):
    panel.setup.controls["lora.alpha"].value = 0
    assert panel.button.disabled
    panel.setup.controls["lora.alpha"].value = 16
    assert not panel.button.disabled
    panel.start()
    assert panel.button.disabled
    over(panel.run)
    panel.monitor.update()
    assert not panel.button.disabled


def test_what_forbids_a_start_is_shown_in_the_panel_and_raised_in_a_cell(panel, monkeypatch):
    def refuses(*_, **__):
        raise RunError([Problem("", "The GPU is busy.", "Close the other run.")])

    monkeypatch.setattr(launch.starting, "start", refuses)
    panel.button.click()
    assert "The GPU is busy." in panel.setup.banner.value
    with pytest.raises(RunError, match="busy"):
        panel.start()


def test_a_recipe_that_cannot_run_leaves_the_run_before_alive(panel, monkeypatch):
    first = panel.start()
    over(first)
    problem = Problem("", "The disk is full.", "Free some.")
    monkeypatch.setattr(launch.preflight, "check", lambda *_, **__: [problem])
    panel.button.click()
    assert "The disk is full." in panel.setup.banner.value
    assert "Not started." in panel._note.value
    assert first.asked == []
    assert panel.run is first


@pytest.mark.parametrize(("backend", "closed"), [("peft", False), ("unsloth", True)])
def test_a_spare_that_the_run_cannot_use_is_closed(panel, monkeypatch, backend, closed):
    start, spare = launch.starting.start, Spare(backend)

    def starts(recipe, **how):
        run = start(recipe, **how)
        (run.folder / "backend.json").write_text('{"value": "peft"}')
        return run

    monkeypatch.setattr(launch.starting, "start", starts)
    panel._spare = spare
    panel.start()
    assert spare.closed == closed


class Spare:
    """What a panel uses of a warm worker."""

    def __init__(self, backend: str) -> None:
        self.backend, self.closed = backend, False

    def close(self) -> None:
        self.closed = True


def test_the_note_says_that_a_run_is_starting(panel, monkeypatch, tmp_path):
    run = begin(tmp_path / "new", ("preparing", "Reading the recipe."))
    monkeypatch.setattr(launch.starting, "start", lambda *_, **__: run)
    panel.start()
    assert "Starting; the worker imports its libraries" in panel._note.value
    event(EventLog(run.history.path), "phase", state="loading", text="Loading.")
    panel.monitor.update()
    assert "is going on" in panel._note.value


@pytest.mark.parametrize("live", [False, True])
def test_showing_the_panel_again_says_that_its_settings_are_gone(panel, tiny, live):
    panel.setup.controls["lora.rank"].value = 4
    if live:
        panel.start()
    again = LaunchPanel(tiny, warm=False)
    assert "The settings are the recipe&#x27;s again." in again._note.value
    assert ("is going on" in again._note.value) == live
    once_more = LaunchPanel(tiny, warm=False)
    assert "again" not in once_more._note.value
    once_more.close()


def test_showing_the_panel_again_with_what_was_set_loses_nothing(panel, tiny):
    panel.setup.controls["lora.rank"].value = 4
    again = LaunchPanel(tiny.replace(lora={"rank": 4}), warm=False)
    assert "again" not in again._note.value
    again.close()


def test_showing_the_panel_again_takes_takes_the_live_run_along(panel, tiny):
    run = panel.start()
    again = LaunchPanel(tiny, warm=False)
    assert again.run is run
    assert again.start() is run
    assert len(panel.started) == 1
    again.close()


# Tables


def test_marked_leaves_the_text_as_it_is_and_marks_only_what_differs():
    before, after = samples.marked("the lamp is red", "the <lamp> is blue")
    assert strip(before) == "the lamp is red"
    assert strip(after) == "the &lt;lamp&gt; is blue"
    assert "red</mark>" in before
    assert "blue</mark>" in after
    assert samples.marked("same", "same") == ("same", "same")


def strip(html: str) -> str:
    return re.sub(r"</?mark[^>]*>", "", html)


def test_before_and_after_stand_side_by_side_with_ticks_and_scores(watched, tmp_path):
    (tmp_path / "done").mkdir()
    run = FolderRun(tmp_path / "done")
    run.history = made(run.folder, state="ready")
    table = samples.compare_samples(run)
    assert table.html.count("&#10003; exact") == 1
    assert table.html.count("&#10007; differs") == 1
    assert "0 of 20" in table.text
    assert "19 of 20 held-out answers exact (95.0%)" in table.text


def test_a_run_that_was_stopped_says_that_it_was_not_asked_again(watched):
    html = samples.compare_samples(watched).html
    assert "not asked" in html


def test_the_data_at_a_glance(tiny):
    page = samples.glance(tiny)
    assert "2,400 training rows, 320 held out rows" in page.text
    assert page.html.count("<tr>") == 4


def test_messages_tell_level_fact_and_cure():
    html = pages.message("warning", "a < b", "do c", details="why & how")
    assert 'aria-label="warning"' in html
    assert "a &lt; b" in html
    assert "do c" in html
    assert "why &amp; how" in html
