"""Notebook 01 in a real JupyterLab and Chromium: choose a rank, press Start, see the curve grow, press Stop.

Leaves screenshots in outputs/screenshots: look at them after a change of the panels.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from .lab import CHROMIUM, Lab

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "outputs" / "screenshots"
NAME = "01_first_finetune.ipynb"
#: A run that is long enough to be stopped, with steps and evaluations that are short.
SMALL = """recipe = recipe.replace(
    data={"heldout": HELDOUT}, training={"batch_size": 4, "eval_every": 5}, samples={"every": 10}
)"""

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
        'LANE = "auto"': f'LANE, STEPS, SCORED = "tiny", 500, 4\nHELDOUT = {str(folder / "heldout.jsonl")!r}',
        "first_recipe(": SMALL,
    }
    for code, added in after.items():
        cell = next(c for c in notebook.cells if c.cell_type == "code" and code in c.source)
        cell.source += f"\n{added}"
    (folder / "notebooks").mkdir()
    nbformat.write(notebook, folder / "notebooks" / NAME)
    return folder


@pytest.fixture(scope="module")
def lab(folder) -> Iterator[Lab]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    with Lab(folder, environment={"PYTHONPATH": os.pathsep.join(paths)}) as lab:
        yield lab


@pytest.fixture(scope="module")
def page(lab) -> Iterator[Any]:
    """The notebook, run up to its panel."""
    with lab.page() as page:
        lab.open(page, f"notebooks/{NAME}")
        for code in ("REPOSITORY", "LANE =", "first_recipe(", "glance(", "launch_panel("):
            lab.run_cell(page, cell(page, code))
        page.locator(".wb-setup").wait_for()
        yield page


def cell(page: Any, code: str) -> int:
    """The number of the cell that holds this code."""
    find = """code => window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells
        .findIndex(cell => cell.cell_type === 'code' && cell.source.includes(code))"""
    return page.evaluate(find, code)


def photograph(page: Any, name: str, first: str = ".wb-launch") -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.evaluate("css => document.querySelector(css).scrollIntoView()", first)
    page.wait_for_timeout(300)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def points(page: Any) -> int:
    """How many points the loss curve has."""
    lines = page.locator(".wb-chart svg[role=img] >> nth=0").locator("polyline")
    return len(lines.first.get_attribute("points").split()) if lines.count() else 0


def wait_for_points(page: Any, count: int) -> None:
    for _ in range(1200):
        if points(page) >= count:
            return
        page.wait_for_timeout(200)
    raise AssertionError(f"the curve has {points(page)} points, not {count}")


def test_choosing_a_rank_changes_the_recipe_and_shows_its_python(lab, page):
    photograph(page, "setup-light")
    page.get_by_label("Rank", exact=True).select_option("32")
    page.get_by_text('recipe = recipe.replace(lora={"rank": 32})').wait_for()
    page.get_by_text("655,360 trainable parameters").wait_for()
    assert lab.ask_kernel(page, "panel.recipe.lora.rank") == "32"


def test_a_bad_value_shows_its_cure_and_holds_start_back(page):
    alpha = page.get_by_label("Alpha")
    alpha.fill("0")
    alpha.press("Enter")
    page.locator(".wb-banner", has_text="lora.alpha is 0.0; it must be greater than 0").wait_for()
    assert page.locator(".wb-start").is_disabled()
    photograph(page, "setup-problem-light")
    alpha.fill("32")
    alpha.press("Enter")
    page.locator(".wb-start:enabled").wait_for()


def test_every_control_can_be_reached_by_keyboard_and_has_a_name(page):
    page.get_by_label("Rank", exact=True).focus()
    names = []
    for _ in range(40):
        name = "e => (e.labels?.[0] ?? e).innerText.trim() || e.getAttribute('aria-label') || ''"
        names.append(page.evaluate(f"() => ({name})(document.activeElement)"))
        if names[-1] == "Start":
            break
        page.keyboard.press("Tab")
    expected = [
        "Rank",
        "Alpha",
        "Dropout",
        "Learning rate",
        "Steps",
        "rsLoRA",
        "DoRA",
        "Target modules",
    ]
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    memory = ["Memory and batch", "All parts", "What would save memory?"]
    assert [*expected, *modules, *memory, "Start"] == names


def test_start_draws_a_curve_that_grows_while_the_kernel_is_idle(lab, page, folder):
    page.locator(".wb-start").click()
    page.locator(".wb-monitor").wait_for()
    wait_for_points(page, 3)
    few = points(page)
    wait_for_points(page, few + 8)
    assert lab.ask_kernel(page, "panel.run.history.state") == "'training'"
    assert re.search(r"step \d+ of 500 . .+ left", page.locator(".wb-progress").first.inner_text())
    photograph(page, "running-light", ".wb-start")


def test_a_reloaded_page_goes_on_watching(lab, page):
    lab.command(page, "docmanager:save")
    page.reload()
    page.wait_for_function("() => window.jupyterapp !== undefined")
    page.locator(".wb-monitor").wait_for()
    now = points(page)
    wait_for_points(page, now + 3)


def test_the_train_cell_watches_the_run_that_start_began(lab, page, folder):
    lab.run_cell(page, cell(page, "panel.start()"))
    lab.run_cell(page, cell(page, "run.finished()"), wait=False)
    page.locator(".wb-monitor").nth(1).wait_for()
    assert len(list((folder / "outputs").glob("*/recipe.yaml"))) == 1


def test_stop_ends_the_run_and_keeps_the_adapter(lab, page, folder):
    page.locator(".wb-stop").first.click()
    page.locator(".wb-state", has_text="stopped").first.wait_for(timeout=120_000)
    lab.wait_for_cells(page)
    adapter = next((folder / "outputs").glob("*/adapter/adapter_config.json"))
    assert json.loads(adapter.read_text())["r"] == 32
    assert (adapter.parent / "adapter_model.safetensors").is_file()
    assert page.locator(".wb-start").is_enabled()


def test_what_follows_shows_the_picture_and_both_answers(lab, page):
    for code in ("wb.picture(", "compare_samples(", "adapter_path"):
        lab.run_cell(page, cell(page, code))
    assert page.locator(".jp-OutputArea-output img[src^='data:image/png']").count() == 1
    assert "stopped" in lab.ask_kernel(page, "wb.picture(run)")
    page.get_by_text("The base model, before training").first.wait_for()
    photograph(page, "answers-light", ".jp-OutputArea-output img[src^='data:image/png']")


def test_the_panel_reads_well_in_the_dark_too(lab, page):
    theme = (
        "window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})"
    )
    page.evaluate(f"() => {theme}.then(() => null)")
    page.wait_for_timeout(1000)
    photograph(page, "setup-dark")
    photograph(page, "stopped-dark", ".wb-start")
    colour = "css => getComputedStyle(document.querySelector(css)).color"
    for css in (".wb-chart svg text", ".wb-summary li", ".wb-progress"):
        red, green, blue = map(int, re.findall(r"\d+", page.evaluate(colour, css))[:3])
        assert min(red, green, blue) > 120, css  # light letters on the dark page


def test_a_notebook_that_is_opened_again_still_shows_what_became_of_the_run(lab, page):
    lab.run_cell(page, cell(page, "run.close()"))
    lab.command(page, "docmanager:save")
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.reload()
    page.wait_for_function("() => window.jupyterapp !== undefined")
    page.locator(".jp-OutputArea-output img[src^='data:image/png']").wait_for()
    photograph(page, "reopened-dark", ".jp-OutputArea-output img[src^='data:image/png']")


def test_nothing_went_wrong_on_the_page(lab):
    # The badge's picture is on another server, which a machine without network does not reach.
    faults = [text for kind, text in lab.console if kind == "error" and "load resource" not in text]
    assert not faults
