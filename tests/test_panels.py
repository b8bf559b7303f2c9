"""The monitor and the launch panel: what is shown, asked, kept and closed; mostly without a kernel and without a worker."""

import asyncio
import subprocess
import time
from pathlib import Path

import ipywidgets as widgets
import nbformat
import pytest
from ipywidgets.widgets import widget as widget_module
from made_history import event, made, read, sample, take_step
from nbclient import NotebookClient
from stacks import NAMES, kernelspecs

from workbench import commands, spawn, summary
from workbench.events import EventLog
from workbench.panels import pages
from workbench.panels.answers import samples
from workbench.panels.banner import Banner, guarded
from workbench.panels.launch import panel as launch
from workbench.panels.launch.panel import LaunchPanel
from workbench.panels.monitor import standing
from workbench.panels.monitor.panel import MOST, Monitor
from workbench.panels.panel import everything_in
from workbench.panels.setup.panel import SetupPanel
from workbench.problems import Problem, RunError
from workbench.recipe import Recipe
from workbench.run import Run


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
        self.adapter_path = folder / "adapter"
        self.alive = True
        self.recipe = Recipe()
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

    def sample_now(self):
        return self._note("sample")

    def change(self, **settings):
        self._note(f"change {settings}")
        return "id-change"

    def ask(self, prompt, **how):
        return self._note("ask")

    def reopen(self):
        self._note("reopen")
        event(EventLog(self.history.path), "phase", state="loading", text="Loading.")

    def cancel(self):
        return self._note("cancel")

    def close(self):
        self._note("close")


def live_widgets() -> dict[str, widgets.Widget]:
    """All widgets that were not closed, as ipywidgets 8 or 7 keeps them."""
    kept = getattr(widget_module, "_instances", None)
    return widgets.Widget.widgets if kept is None else kept


def tooltip(widget: widgets.Widget) -> str:
    """By its name in ipywidgets 8 or in 7."""
    return widget.tooltip if widget.has_trait("tooltip") else widget.description_tooltip


def inside(widget: widgets.Widget) -> list[widgets.Widget]:
    children = getattr(widget, "children", ())
    return [widget, *(found for child in children for found in inside(child))]


# All panels


def test_every_control_has_a_label_and_a_tooltip_and_every_button_too(setup, watched, tiny):
    launcher = LaunchPanel(tiny, outputs=watched.folder, warm=False)
    launcher.close()
    for root in (setup, launcher, Monitor(watched)):
        for widget in inside(root):
            if isinstance(
                widget, widgets.Button | widgets.Checkbox | widgets.Dropdown | widgets.FloatText
            ):
                assert widget.description, widget
                assert len(tooltip(widget)) > 10, widget.description


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
    assert "2,000 tokens/s (800 trained)" in monitor._numbers.value
    assert "epoch 0.50" in monitor._numbers.value
    assert "learning rate 1.00e-03" in monitor._numbers.value
    assert "The radio was late." in shown(monitor.sheet)
    assert 'role="status"' in monitor._voice.value
    assert "training, step 5 of 10" in monitor._voice.value
    assert monitor.state == "training"


def test_it_redraws_only_when_something_changed(watched):
    monitor = Monitor(watched)
    changes = []
    for part in everything_in(monitor):
        part.observe(changes.append)
    monitor.update()
    assert changes == []
    log = EventLog(watched.folder / "events.jsonl")
    event(log, "warning", text="The disk is nearly full.", cure="Free some space.")
    monitor.update()
    assert {change.owner for change in changes} == {monitor._messages, monitor.alarms._quiet.layout}
    assert "The disk is nearly full." in monitor._messages.value


def shown(panel: widgets.Widget) -> str:
    """All text and HTML in a panel, seen or not."""
    return "".join(str(getattr(part, "value", "")) for part in everything_in(panel))


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
    monkeypatch.setattr(standing.time, "time", lambda: now + 7)
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
    monkeypatch.setattr(standing.time, "time", lambda: now + 3)
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
    assert "Asked to pause: after the first step." in buttons.note.value
    buttons.stop.click()
    assert "Asked to stop: as soon as possible." in buttons.note.value


def test_text_of_models_and_errors_is_escaped_everywhere(watched):
    log = EventLog(watched.folder / "events.jsonl")
    evil = "<img src=x onerror=alert(1)>\x1b[31m\u202eevil\0"
    sample(log, 5, evil, adapter=True, prompt=evil)
    event(log, "token", sample="q", text=evil)
    for kind in ("warning", "error"):
        event(log, kind, text=evil, cure=evil, **({"cause": evil} if kind == "error" else {}))
    event(log, "phase", state="failed", text=evil)
    monitor = Monitor(watched)
    assert shown(monitor).count("&lt;img") >= 6
    said = shown(monitor) + repr(monitor) + monitor.bundle()["text/html"]
    assert not {"\x1b", "\u202e", "\0"} & set(said)
    said.encode()
    assert "<img" not in shown(monitor) + samples.compare_samples(watched).html


def test_buttons_ask_the_run_and_say_so_until_it_answers(watched):
    buttons = Monitor(watched).buttons
    buttons.stop.click()
    assert watched.asked == ["stop"]
    assert "Asked to stop" in buttons.note.value
    log = EventLog(watched.folder / "events.jsonl")
    event(log, "command", id="id-stop", do="stop", taken=True, text="")
    watched.refresh()
    buttons.follow(watched.history)
    assert "Asked to" not in buttons.note.value


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
    assert "Too late for a pause." in monitor.buttons.note.value
    monitor.buttons.stop.click()
    assert "Too late" not in monitor.buttons.note.value
    assert "Too late" not in Monitor(watched).buttons.note.value


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


def test_sample_now_is_there_while_the_model_is(watched):
    buttons = Monitor(watched).buttons
    log = EventLog(watched.folder / "events.jsonl")
    buttons.sample.click()
    assert watched.asked == ["sample"]
    assert "Asked to sample: after this step." in buttons.note.value
    for state, there in (("paused", True), ("ready", True), ("closed", False), ("loading", False)):
        event(log, "phase", state=state, text="")
        watched.refresh()
        buttons.follow(watched.history)
        assert buttons.sample.disabled != there, state


def test_the_learning_rate_is_changed_and_what_was_changed_is_said(watched):
    monitor = Monitor(watched)
    steering = monitor.steering
    assert steering.box.value == watched.recipe.training.learning_rate
    steering.box.value = 5e-4
    assert "run.change(learning_rate=0.0005)" in steering._code.value
    assert "run.change(learning_rate=0.0005)" in steering.button.tooltip
    steering.button.click()
    assert watched.asked == ["change {'learning_rate': 0.0005}"]
    assert "Asked to change the learning rate: after this step." in monitor.buttons.note.value
    log = EventLog(watched.folder / "events.jsonl")
    told = {"do": "change", "taken": True, "text": "learning rate 0.0005 from step 6 on"}
    event(log, "command", id="id-change", **told)
    monitor.update()
    assert "Changed: learning rate 0.0005 from step 6 on." in monitor.buttons.note.value


def test_a_learning_rate_that_another_view_has_set_is_shown_and_what_is_being_typed_stays(watched):
    steering = Monitor(watched).steering
    log = EventLog(watched.folder / "events.jsonl")
    event(
        log, "command", id="a", do="change", taken=True, text="learning rate 3e-05 from step 9 on"
    )
    watched.refresh()
    steering.follow(watched.history)
    assert steering.box.value == 3e-5
    steering.box.value = 7e-5
    event(log, "command", id="b", do="change", taken=False, text="learning_rate is 3; ...")
    watched.refresh()
    steering.follow(watched.history)
    assert steering.box.value == 7e-5
    assert Monitor(watched).steering.box.value == 3e-5
    event(log, "phase", state="preparing", text="")  # a new worker begins with the recipe's
    watched.refresh()
    steering.follow(watched.history)
    assert steering.box.value == watched.recipe.training.learning_rate
    assert steering.button.disabled


def test_a_learning_rate_that_cannot_be_is_told_by_its_field(watched):
    def refuses(**settings):
        return commands.send(watched.folder / "commands.jsonl", "change", **settings)

    watched.change = refuses
    monitor = Monitor(watched)
    monitor.steering.box.value = -1
    monitor.steering.button.click()
    assert "training.learning_rate is -1.0; it must be greater than 0" in monitor.banner.value


def test_an_alarm_stands_in_a_row_with_a_button_that_stops(watched):
    monitor = Monitor(watched)
    assert "No alarms." in monitor.alarms._quiet.value
    assert monitor.alarms._quiet.layout.display == ""
    log = EventLog(watched.folder / "events.jsonl")
    for step, loss in enumerate((0.003, 0.41, 0.52), start=6):
        take_step(log, step, 100, 0.2)
        event(log, "eval", step=step, loss=loss, seconds=1.0)
    monitor.update()
    row = monitor.alarms.children[1]
    told, stop = row.children
    assert "0.52 at step 8, 0.003 at step 6." in told.value
    assert "Best at step 6; stop and keep it?" in monitor._voice.value
    assert monitor.alarms._quiet.layout.display == "none"
    stop.click()
    assert watched.asked == ["stop"]
    assert "Asked to stop" in monitor.buttons.note.value
    event(log, "eval", step=9, loss=0.001, seconds=1.0)
    monitor.update()
    assert monitor.alarms.children == (monitor.alarms._quiet,)


def test_the_same_is_not_told_twice(watched):
    log = EventLog(watched.folder / "events.jsonl")
    take_step(log, 6, 10, float("nan"))
    event(log, "warning", text="The loss is nan at step 6: the adapter is spoilt.", cure="Cancel.")
    event(log, "warning", text="The disk is nearly full.", cure="Free some.")
    monitor = Monitor(watched)
    assert (
        shown(monitor).count("The loss is nan at step 6") == 2
    )  # once to be seen, once to be heard
    assert "The disk is nearly full." in monitor._messages.value


def test_why_it_stopped_early_and_what_is_kept_is_shown_and_in_the_words(watched):
    log = EventLog(watched.folder / "events.jsonl")
    reason = "The held-out loss did not fall in 3 evaluations: best 0.41 at step 2."
    event(log, "choice", what="early_stop", value=2, why=reason)
    event(log, "adapter", step=2, path="adapter", why="Its held-out loss was the lowest.")
    event(log, "phase", state="ready", text="Trained.")
    monitor = Monitor(watched)
    for text in (monitor._messages.value, repr(monitor)):
        assert "Stopped early: the held-out loss did not fall in 3 evaluations: best 0.41" in text
        assert "The adapter of step 2 is kept. Its held-out loss was the lowest." in text


def test_when_the_last_step_is_kept_the_words_are_as_short_as_before(watched):
    log = EventLog(watched.folder / "events.jsonl")
    event(log, "adapter", step=5, path="adapter", why="It is the last step's.")
    event(log, "phase", state="ready", text="Trained.")
    watched.refresh()
    words = summary.in_words(watched.history)
    assert "kept" not in words
    assert "5 of 10 steps in 2 s, 800 trained tokens/s, loss" in words


def test_the_text_form_tells_alarms_answers_and_how_to_see_it_again(watched):
    log = EventLog(watched.folder / "events.jsonl")
    take_step(log, 6, 10, float("nan"))
    text = repr(Monitor(watched))
    for part in ("training: 6 of 10", "The loss is nan", "It was late. -> The radio", "Run.open("):
        assert part in text


def test_a_model_that_is_asked_again_is_watched_again(watched):
    event(EventLog(watched.history.path), "phase", state="closed", text="Closed.")
    monitor = Monitor(watched)
    monitor.reopen()
    assert watched.asked == ["reopen"]
    assert monitor.state == "loading"


# Many views


def test_the_fifth_view_of_a_run_closes_the_first_and_no_other(watched, tmp_path):
    other = Monitor(begin(tmp_path / "other", ("training", "Training.")))
    views = [Monitor(watched) for _ in range(MOST + 2)]
    assert [view.comm is None for view in views] == [True, True, False, False, False, False]
    assert other.comm is not None
    views[-1].buttons.pause.click()
    event(EventLog(watched.folder / "events.jsonl"), "phase", state="paused", text="Paused.")
    for view in views[2:]:
        view.update()
        assert view.buttons.pause.description == "Continue"
    for view in (*views, other):
        view.close()


def test_cells_that_are_run_again_leave_nothing_behind(watched, tiny):
    async def run_cell(kind, times):
        for _ in range(times):
            kind()
            await asyncio.sleep(0)
        return len(live_widgets()), len(asyncio.all_tasks())

    async def run_again(kind, most):
        assert await run_cell(kind, most) == await run_cell(kind, 2)

    close_all()
    before = len(live_widgets())
    asyncio.run(run_again(lambda: Monitor(watched), MOST))
    asyncio.run(run_again(lambda: LaunchPanel(tiny, outputs=watched.folder, warm=False), 1))
    close_all()
    assert len(live_widgets()) == before


def close_all():
    """Closes the views that this and earlier tests have left open."""
    for panel in (*Monitor._open, *filter(None, [LaunchPanel._open])):
        panel.close()


# What the notebook keeps


def test_a_saved_notebook_keeps_a_text_in_place_of_the_live_view(watched):
    bundle = Monitor(watched).bundle()
    assert "Run.open" in bundle["text/html"]
    assert "(training, step 5 of 10" in bundle["text/html"]
    assert "when it was shown" in bundle["text/html"]  # it is saved once, and has to hold true
    assert all("model_id" in bundle[kind] for kind in bundle if "widget-view" in kind)


CELLS = (
    """import sys
sys.path.insert(0, TESTS)
from pathlib import Path
from made_history import event, made
import workbench as wb
from workbench.events import EventLog
folder = Path("outputs/1124-lamp")
folder.mkdir(parents=True)
made(folder, steps=30, of=40)
wb.Recipe().save(folder / "recipe.yaml")
run = wb.Run.open("1124-lamp")
view = wb.monitor(run)
view""",
    """event(EventLog(folder / "events.jsonl"), "phase", state="ready", text="Trained.")
view.update()""",
    """more = [wb.monitor(run) for _ in range(4)]
more[-1]""",
)


@pytest.mark.parametrize("kernel", NAMES)
def test_where_there_are_no_widgets_a_finished_run_is_a_picture_and_a_text(
    kernel, tmp_path, monkeypatch
):
    kernelspecs(tmp_path / "jupyter")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    sources = [cell.replace("TESTS", repr(str(Path(__file__).parent))) for cell in CELLS]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    where = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(notebook, timeout=120, kernel_name=kernel, resources=where)
    client.execute()
    for cell in (notebook.cells[0], notebook.cells[2]):
        view, below = (output for output in cell.outputs if output.output_type == "display_data")
        assert below["data"]["image/png"].startswith("iVBOR")
        assert "1124-lamp was ready: 30 of 40 steps" in below["data"]["text/plain"]
        closed = cell is notebook.cells[0]  # the fifth view has closed the first
        assert ("This view was closed" in view["data"]["text/html"]) == closed
        assert any("widget-view" in kind for kind in view["data"]) != closed


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
    again = LaunchPanel(tiny, outputs=panel.outputs, warm=False)
    assert "The settings are the recipe&#x27;s again." in again._note.value
    assert ("is going on" in again._note.value) == live
    once_more = LaunchPanel(tiny, outputs=panel.outputs, warm=False)
    assert "again" not in once_more._note.value
    once_more.close()


def test_showing_the_panel_again_with_what_was_set_loses_nothing(panel, tiny):
    panel.setup.controls["lora.rank"].value = 4
    again = LaunchPanel(tiny.replace(lora={"rank": 4}), outputs=panel.outputs, warm=False)
    assert "again" not in again._note.value
    again.close()


def test_showing_the_panel_again_takes_takes_the_live_run_along(panel, tiny):
    run = panel.start()
    again = LaunchPanel(tiny, outputs=panel.outputs, warm=False)
    assert again.run is run
    assert again.start() is run
    assert len(panel.started) == 1
    again.close()


def test_a_finished_run_stays_in_view_when_the_same_cell_is_run_again(panel, tiny):
    panel.button.click()
    run = panel.run
    over(run)
    again = LaunchPanel(tiny, outputs=panel.outputs, warm=False)
    assert again.run is run
    assert again.monitor in inside(again)
    assert not again.button.disabled
    assert again.start() is run  # the click is not repeated
    assert again.start() is not run
    other = LaunchPanel(tiny.replace(lora={"rank": 2}), outputs=panel.outputs, warm=False)
    assert other.run is again.run  # it goes on
    over(other.run)
    other.monitor.update()
    last = LaunchPanel(tiny, outputs=panel.outputs, warm=False)
    assert last.run is None
    last.close()


@pytest.fixture
def alive(tiny, tmp_path):
    """A run in `tmp_path`/runs that goes on: its worker is a process that sleeps."""
    folder = tmp_path / "runs" / "1124-lamp"
    folder.mkdir(parents=True)
    made(folder, steps=5, of=10)
    tiny.replace(data={"train": str(Path(tiny.data.train).resolve())}).save(folder / "recipe.yaml")
    with subprocess.Popen(["sleep", "100"]) as process:
        spawn._write_worker(folder, process.pid)
        yield Run.open("1124-lamp", outputs=folder.parent)
        process.kill()


def test_a_new_kernel_finds_the_run_that_goes_on(alive, tiny):
    panel = LaunchPanel(tiny, outputs=alive.folder.parent, warm=True)
    assert panel.run.name == "1124-lamp"
    assert panel.monitor in inside(panel)
    assert panel.button.disabled
    assert panel._spare is None
    assert "Run 1124-lamp is going on" in panel._note.value
    assert "It was started before." in panel._note.value
    assert "differs" not in panel._note.value
    assert panel.start() is panel.run
    panel.close()


def test_a_run_of_another_recipe_is_watched_and_its_differences_are_named(alive, tiny):
    other = tiny.replace(lora={"rank": 64})
    panel = LaunchPanel(other, outputs=alive.folder.parent, warm=False)
    assert panel.run.name == "1124-lamp"
    assert f"lora.rank is {tiny.lora.rank}, not 64." in panel._note.value
    panel.close()


@pytest.mark.parametrize("why", ["dead", "over"])
def test_a_run_that_does_not_go_on_is_not_taken(alive, tiny, why):
    if why == "dead":
        (alive.folder / "worker.json").write_text('{"pid": 4000000, "created": 1.0}')
    else:
        event(EventLog(alive.history.path), "phase", state="ready", text="Trained.")
    panel = LaunchPanel(tiny, outputs=alive.folder.parent, warm=False)
    assert panel.run is None
    assert not panel.button.disabled
    panel.close()


def test_messages_tell_level_fact_and_cure():
    html = pages.message("warning", "a < b", "do c", details="why & how")
    assert 'aria-label="warning"' in html
    assert "a &lt; b" in html
    assert "do c" in html
    assert "why &amp; how" in html


def test_a_wish_that_is_sent_takes_the_message_about_the_one_before_away(watched):
    monitor = Monitor(watched)
    monitor.buttons.checkpoint.click()
    assert "has" in monitor.banner.value
    monitor.buttons.pause.click()
    assert monitor.banner.value == ""
    monitor.close()
