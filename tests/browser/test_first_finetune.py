"""Notebook 01 in a real JupyterLab and Chromium: set up, start, watch, steer, reload, restart the kernel, read, ask, stop.

Leaves screenshots in outputs/screenshots: look at them after a change of the panels.
"""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from workbench.events import History

from .lab import CHROMIUM, Lab
from .looks import ROOT, cell, controls, faults, move, photograph, tabbed, theme

NAME = "01_first_finetune.ipynb"
#: A run that is long enough for all that is done with it, with steps and evaluations that are short.
SMALL = """recipe = recipe.replace(
    data={"heldout": HELDOUT},
    training={"batch_size": 4, "eval_every": 5, "patience": 0},
    samples={"every": 10, "max_new_tokens": 16},
)"""
BEFORE_RUN = ("REPOSITORY", "LANE =", "first_recipe(", "glance(", "launch_panel(")
VALUE = "__import__('json').dumps(panel.setup.values[{!r}], default=str)"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"there is no Chromium at {CHROMIUM}"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the notebook, its parameters set to a small run."""
    folder = tmp_path_factory.mktemp("lab")
    rows = (ROOT / "data" / "tiny" / "heldout.jsonl").read_text().splitlines()[:8]
    (folder / "heldout.jsonl").write_text("\n".join(rows))
    notebook = nbformat.read(ROOT / "notebooks" / NAME, as_version=4)
    after = {
        'LANE = "auto"': f'LANE, STEPS, SCORED = "tiny", 2000, 4\nHELDOUT = {str(folder / "heldout.jsonl")!r}',
        "first_recipe(": SMALL,
    }
    for code, added in after.items():
        one = next(c for c in notebook.cells if c.cell_type == "code" and code in c.source)
        one.source += f"\n{added}"
    (folder / "notebooks").mkdir()
    nbformat.write(notebook, folder / "notebooks" / NAME)
    return folder


@pytest.fixture(scope="module")
def lab(folder) -> Iterator[Lab]:
    with Lab(folder) as lab:
        yield lab


@pytest.fixture(scope="module")
def page(lab) -> Iterator[Any]:
    """The notebook, run up to its panel."""
    with lab.page() as page:
        lab.open(page, f"notebooks/{NAME}")
        for code in BEFORE_RUN:
            lab.run_cell(page, cell(page, code))
        page.locator(".wb-setup").wait_for()
        yield page


def logged(folder: Path) -> History:
    """What the newest run has told so far."""
    recipes = (folder / "outputs").glob("*/recipe.yaml")
    newest = max(recipes, key=lambda path: path.stat().st_mtime).parent
    history = History(newest / "events.jsonl")
    history.update()
    return history


def wait_until(page: Any, true: Any, what: str, seconds: float = 240) -> None:
    """Looks again and again, while the page goes on."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, what
        page.wait_for_timeout(100)


def step_shown(page: Any) -> int:
    found = re.search(r"step ([\d,]+) of", page.locator(".wb-progress").first.inner_text())
    return int(found[1].replace(",", "")) if found else 0


def wait_for_steps(page: Any, count: int) -> None:
    """Until the panel shows so many steps more."""
    first = step_shown(page)
    wait_until(page, lambda: step_shown(page) >= first + count, f"the panel stays at step {first}")


# Setting up


def test_choosing_a_rank_changes_the_recipe_and_shows_its_python(lab, page):
    photograph(page, "setup-light", ".wb-launch")
    page.get_by_label("Rank", exact=True).select_option("32")
    page.get_by_text('recipe = recipe.replace(lora={"rank": 32})').wait_for()
    page.locator(".wb-summary", has_text="655,360 trainable parameters").wait_for()
    assert lab.ask_kernel(page, "panel.recipe.lora.rank") == "32"


def test_a_bad_value_shows_its_cure_and_holds_start_back(page):
    alpha = page.get_by_label("Alpha", exact=True)
    alpha.fill("0")
    alpha.press("Enter")
    page.locator(".wb-banner", has_text="lora.alpha is 0.0; it must be greater than 0").wait_for()
    assert page.locator(".wb-start").is_disabled()
    photograph(page, "setup-problem-light", ".wb-launch")
    alpha.fill("32")
    alpha.press("Enter")
    page.locator(".wb-start:enabled").wait_for()


def test_tab_reaches_every_control_in_the_order_of_the_page_and_shows_where_it_is(page):
    there = controls(page, ".wb-launch")
    assert all(there), f"a control has no name: {there}"
    for name in ("Rank", "Alpha", "Learning rate", "q_proj", "All settings", "Start"):
        assert any(one.startswith(name) for one in there), name
    assert tabbed(page, ".wb-launch") == there


def test_every_setting_can_be_moved_and_moves_the_recipe(lab, page):
    before = "__import__('builtins').__dict__.setdefault('before', dict(panel.setup.values)) and 1"
    lab.ask_kernel(page, before)
    page.locator(".wb-more").click()
    page.locator(".wb-training-patience").wait_for()
    names = json.loads(lab.ask_kernel(page, "list(panel.setup.controls)").replace("'", '"'))
    assert len(names) > 45
    still = []
    for name in names:
        mark = f".wb-{name.replace('.', '-')}"
        if not page.locator(mark).first.is_visible():  # of steps and epochs one is there
            continue
        was = lab.ask_kernel(page, VALUE.format(name))
        done = move(page, mark)
        try:
            wait_until(
                page, lambda n=name, w=was: lab.ask_kernel(page, VALUE.format(n)) != w, name, 5
            )
        except AssertionError:
            still.append(f"{name}: {done}")
    assert not still
    photograph(page, "setup-all-settings-light", ".wb-setup")
    lab.ask_kernel(page, "panel.setup.set(before)")
    page.locator(".wb-more").click()
    page.locator(".wb-start:enabled").wait_for()
    assert (
        lab.ask_kernel(page, "panel.recipe.lora.rank, panel.setup.values == before") == "(32, True)"
    )


def test_a_preset_and_the_code_and_a_saved_recipe(lab, page, folder):
    page.get_by_label("Preset", exact=True).select_option(label="style only")
    page.locator(".wb-start:enabled").wait_for()
    assert lab.ask_kernel(page, "panel.recipe == wb.preset('style only', panel.recipe)") == "True"
    page.locator(".wb-save-recipe").click()
    saved = folder / "notebooks" / "recipe.yaml"
    wait_until(page, saved.is_file, "the recipe was not saved", 20)
    assert lab.ask_kernel(page, "wb.Recipe.load('recipe.yaml') == panel.recipe") == "True"
    lab.ask_kernel(page, "panel.setup.set(before)")


@pytest.mark.parametrize("name", ["light", "dark"])
def test_axe_finds_no_grave_fault_in_the_setup(page, name):
    theme(page, name)
    assert faults(page, ".wb-launch") == []
    photograph(page, f"setup-{name}", ".wb-launch")
    theme(page, "light")


def test_nothing_is_cut_off_on_a_narrow_page(page):
    page.set_viewport_size({"width": 800, "height": 1000})
    page.wait_for_timeout(500)
    wider = "css => { const one = document.querySelector(css); return one.scrollWidth - one.clientWidth; }"
    assert page.evaluate(wider, ".wb-setup") <= 1
    photograph(page, "setup-800px-light", ".wb-launch")
    page.set_viewport_size({"width": 1280, "height": 1000})


# Watching and steering


def test_start_draws_curves_that_grow_while_the_kernel_is_idle(lab, page):
    page.locator(".wb-start").click()
    page.locator(".wb-monitor").wait_for()
    page.locator(".wb-charts canvas").first.wait_for(timeout=240_000)
    wait_for_steps(page, 3)
    drawn = "() => document.querySelector('.wb-charts canvas').toDataURL()"
    first = page.evaluate(drawn)
    wait_for_steps(page, 5)
    wait_until(page, lambda: page.evaluate(drawn) != first, "the charts stay as they are", 20)
    assert lab.ask_kernel(page, "panel.run.history.state") == "'training'"
    assert re.search(
        r"step \d+ of 2,000 . .+ left", page.locator(".wb-progress").first.inner_text()
    )
    assert not page.locator(".wb-charts img").first.is_visible()
    photograph(page, "running-light", ".wb-monitor")


def test_each_button_of_the_monitor_does_what_it_says(page, folder):
    def obeyed(do: str) -> list[dict[str, Any]]:
        return [told for told in logged(folder).commands if told["do"] == do and told["taken"]]

    for mark, do in (("checkpoint", "checkpoint"), ("sample-now", "sample"), ("pause", "pause")):
        page.locator(f".wb-{mark}").first.click()
        wait_until(page, lambda d=do: obeyed(d), f"{do} was not obeyed")
    page.locator(".wb-state", has_text="paused").first.wait_for()
    rate = page.locator(".wb-learning-rate-now input").first
    rate.fill("0.0005")
    rate.press("Tab")
    page.locator(".wb-learning-rate-set").first.click()
    wait_until(page, lambda: obeyed("change"), "the learning rate was not changed")
    page.locator(".wb-pause", has_text="Continue").first.click()
    page.locator(".wb-state", has_text="training").first.wait_for()
    wait_for_steps(page, 1)
    history = logged(folder)
    assert history.steps[-1]["learning_rate"] < 0.0006
    assert history.checkpoints
    assert any(sample["step"] % 10 for sample in history.samples)
    page.locator(".wb-cancel").first.click()
    page.locator(".wb-cancel-no").first.click()
    assert logged(folder).state == "training"


def test_the_charts_can_be_shown_otherwise(lab, page):
    for control in ("chart-show", "chart-logarithmic", "chart-column"):
        move(page, f".wb-{control}")
    page.get_by_text("logarithmic=True").first.wait_for()
    for control in ("chart-logarithmic", "chart-column"):
        page.locator(f".wb-{control} input").first.click()


def test_a_reloaded_page_goes_on_watching(lab, page):
    lab.command(page, "docmanager:save")
    page.reload()
    page.wait_for_function("() => window.jupyterapp !== undefined")
    page.locator(".wb-monitor").wait_for()
    page.locator(".wb-charts canvas").first.wait_for()
    wait_for_steps(page, 3)


def test_after_a_restart_of_the_kernel_the_panel_finds_the_run_again(lab, page, folder):
    name = logged(folder).path.parent.name
    restarted = """() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel
        .restart().then(() => null)"""
    page.evaluate(restarted)
    for code in BEFORE_RUN:
        lab.run_cell(page, cell(page, code))
    page.locator(".wb-monitor", has_text=name).wait_for()
    wait_for_steps(page, 3)
    assert page.locator(".wb-start").is_disabled()
    assert lab.ask_kernel(page, "panel.run.name") == repr(name)


def test_the_train_cell_watches_the_run_that_start_began(lab, page, folder):
    lab.run_cell(page, cell(page, "panel.start()"))
    lab.run_cell(page, cell(page, "run.finished()"), wait=False)
    page.locator(".wb-monitor").nth(1).wait_for()
    assert len(list((folder / "outputs").glob("*/recipe.yaml"))) == 1
    both = [page.locator(".wb-progress").nth(number).inner_text() for number in (0, 1)]
    steps = [int(re.search(r"step (\d+)", text)[1]) for text in both]
    assert abs(steps[0] - steps[1]) <= 2


# Reading


def test_a_run_goes_to_its_end_and_its_answers_stand_side_by_side(lab, page, folder):
    lab.wait_for_cells(page, 1) if logged(folder).over else None
    wait_for_steps(page, 1)
    (folder / "outputs").joinpath(logged(folder).path.parent.name, "commands.jsonl").open(
        "a"
    ).write(
        json.dumps(
            {"id": "sooner", "do": "change", "t": time.time(), "steps": logged(folder).step + 6}
        )
        + "\n"
    )
    page.locator(".wb-state", has_text="ready").first.wait_for(timeout=240_000)
    lab.wait_for_cells(page)
    for code in ("wb.picture(", "compare_samples("):
        lab.run_cell(page, cell(page, code))
    assert page.locator(".jp-OutputArea-output img[src^='data:image/png']").count() >= 1
    columns = page.locator(".wb-samples").first.locator("thead th").all_inner_texts()
    assert any("0" in text for text in columns) and len(columns) >= 3
    assert "ready" in lab.ask_kernel(page, "wb.picture(run)")
    adapter = logged(folder).path.parent / "adapter" / "adapter_config.json"
    assert json.loads(adapter.read_text())["r"] == 32  # as it was chosen in the panel
    photograph(page, "finished-light", ".wb-monitor")


def test_the_tuned_and_the_base_model_answer_side_by_side(page, folder):
    page.locator(".wb-ask-fold").first.click()
    page.locator(".wb-ask textarea").first.fill(
        "Hello, I am Ada. The <b>lamp</b> from order 512 is broken."
    )
    page.locator(".wb-ask-button").first.click()
    wait_until(
        page,
        lambda: (
            {
                s["adapter"]
                for s in logged(folder).samples
                if "lamp" in s["prompt"] and "512" in s["prompt"]
            }
            >= {True, False}
        ),
        "both answers",
    )
    page.locator(".wb-ask", has_text="<b>lamp</b> from order 512").first.wait_for()
    photograph(page, "asked-light", ".wb-ask")


@pytest.mark.parametrize("name", ["light", "dark"])
def test_axe_finds_no_grave_fault_in_the_monitor(page, name):
    theme(page, name)
    assert faults(page, ".wb-monitor") == []
    photograph(page, f"finished-{name}", ".wb-monitor")
    colour = "css => getComputedStyle(document.querySelector(css)).color"
    for css in (".wb-charts-told", ".wb-summary li", ".wb-progress"):
        shades = [int(each) for each in re.findall(r"\d+", page.evaluate(colour, css))[:3]]
        assert (min(shades) > 120) if name == "dark" else (max(shades) < 135), css
    theme(page, "light")


def test_tab_reaches_every_control_of_the_monitor(page):
    there = controls(page, ".wb-monitor")
    assert all(there)
    assert tabbed(page, ".wb-monitor") == there


# Stopping


def test_stop_is_obeyed_within_a_second_and_keeps_the_adapter(lab, page, folder):
    page.locator(".wb-start").click()
    wait_until(
        page, lambda: logged(folder).step >= 3 and not logged(folder).over, "the second run's steps"
    )
    clicked = time.time()
    page.locator(".wb-stop:enabled").first.click()
    page.locator(".wb-state", has_text="stopped").first.wait_for(timeout=120_000)
    history = logged(folder)
    told = next(told for told in history.commands if told["do"] == "stop")
    longest = max(step["seconds"] for step in history.steps)
    print(
        f"Stop was obeyed {told['t'] - clicked:.2f} s after the click; a step took {longest:.2f} s"
    )
    assert told["t"] - clicked < 1 + longest
    assert sum(step["t"] > told["t"] for step in history.steps) == 0
    adapter = history.path.parent / "adapter"
    assert (adapter / "adapter_model.safetensors").is_file()
    page.locator(".wb-start:enabled").wait_for()


def test_a_notebook_that_is_opened_again_still_shows_what_became_of_the_run(lab, page):
    lab.ask_kernel(page, "panel.run.close()")
    lab.run_cell(page, cell(page, "run.close()"))
    lab.command(page, "docmanager:save")
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.reload()
    page.wait_for_function("() => window.jupyterapp !== undefined")
    page.locator(".jp-OutputArea-output img[src^='data:image/png']").first.wait_for()
    page.get_by_text("The base model, before training").first.wait_for()
    photograph(page, "reopened-light", ".jp-OutputArea-output img[src^='data:image/png']")


def test_nothing_went_wrong_on_the_page(lab):
    # The badge's picture is on another server, which a machine without network does not reach; and widgets cannot speak
    # to a kernel that was ended on purpose.
    known = ("load resource", "Cannot send")
    found = [text for kind, text in lab.console if kind == "error"]
    assert not [text for text in found if not any(each in text for each in known)]
