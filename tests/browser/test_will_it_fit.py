"""Notebook 03's panel in a real JupyterLab and Chromium: the bar follows a setting, and a click on advice sets it.

Leaves screenshots in outputs/screenshots: look at them after a change of the panels.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from .lab import CHROMIUM, Lab
from .test_first_finetune import ROOT, cell, photograph

NAME = "03_will_it_fit.ipynb"
#: A panel for a card on which the recipe is tight, and a run whose memory ran out.
MORE = """fitting = wb.setup_panel(recipe, vram="16GiB", outputs=OUTPUTS)
plan = fitting.memory.plan
tight = wb.setup_panel(recipe, vram=f"{(plan.expected + plan.safe) / 2**31:.4f}GiB", outputs=OUTPUTS)
tight"""
SHORT = """from pathlib import Path
from test_panels_memory import failed
Path(OUTPUTS).mkdir(exist_ok=True)
short = wb.monitor(failed(Path(OUTPUTS) / "calm-otter"))
short"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"there is no Chromium at {CHROMIUM}"),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    """A folder with the notebook, to which two cells are added, served."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / NAME, folder / "notebooks")
    notebook = nbformat.read(folder / "notebooks" / NAME, as_version=4)
    notebook.cells += [nbformat.v4.new_code_cell(code) for code in (MORE, SHORT)]
    nbformat.write(notebook, folder / "notebooks" / NAME)
    paths = [str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    here = {"PYTHONPATH": os.pathsep.join(paths), "WORKBENCH_CACHE": str(folder / "cache")}
    here["PYTHONWARNINGS"] = "ignore"  # of the made run's log, which nothing closes
    with Lab(folder, environment=here) as lab:
        yield lab


@pytest.fixture(scope="module")
def page(lab) -> Iterator[Any]:
    """The notebook, run up to its panel without anything that trains."""
    with lab.page(width=1200, height=1100) as page:
        lab.open(page, f"notebooks/{NAME}")
        cells = ("REPOSITORY", "LANE =", "first_recipe(", "plan = wb.plan(", "there = wb.plan(")
        for code in (*cells, "panel = wb.setup_panel("):
            lab.run_cell(page, cell(page, code))
        page.locator(".wb-setup .wb-strip").wait_for()
        yield page


#: The contrast (WCAG) of an element's letters on what is behind them.
CONTRAST = """element => {
    const draw = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const page = getComputedStyle(document.body).getPropertyValue('--jp-layout-color0');
    const seen = colours => {
        for (const colour of colours) { draw.fillStyle = colour; draw.fillRect(0, 0, 1, 1); }
        const linear = [...draw.getImageData(0, 0, 1, 1).data].slice(0, 3).map(value =>
            value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]; };
    const style = getComputedStyle(element);
    const behind = seen([page, style.backgroundColor]);
    const letters = seen([page, style.backgroundColor, style.color]);
    return (Math.max(behind, letters) + 0.05) / (Math.min(behind, letters) + 0.05); }"""
READ = (
    ".wb-setup .wb-memory b + b",
    ".wb-setup .wb-memory [role=status] div + div",
    ".wb-setup .wb-strip > div:last-child > span",
    ".wb-setup .wb-strip [title]:has-text('iB')",
    ".wb-shortage .wb-strip [title]:has-text('iB')",
)


def is_readable(page: Any) -> None:
    for css in READ:
        for element in page.locator(css).all():
            assert element.evaluate(CONTRAST) >= 4.5, css


def verdict(page: Any, panel: int = 0) -> str:
    return page.locator(".wb-setup >> .wb-memory [role=status]").nth(panel).inner_text()


def at_both_widths(page: Any, name: str) -> None:
    """Screenshots at the widths of a narrow and a wide notebook."""
    for width in (1200, 800):
        page.set_viewport_size({"width": width, "height": 1100})
        page.wait_for_timeout(300)
        strip = page.locator(".wb-setup .wb-strip").first.bounding_box()
        assert 250 < strip["width"] < width
        photograph(page, f"memory-{name}-{width}", ".wb-setup")
        photograph(page, f"tight-{name}-{width}", ".jp-Cell:nth-last-child(2) .wb-setup")
        photograph(page, f"shortage-{name}-{width}", ".wb-monitor")
        photograph(page, f"plan-{name}-{width}", ".jp-RenderedHTML .wb-memory")
    page.set_viewport_size({"width": 1200, "height": 1100})


def test_the_bar_says_whether_it_fits_and_moves_with_the_batch(lab, page):
    assert re.match(r". Fits: [\d.]+ of [\d.]+ GiB, [\d.]+ to be safe\.", verdict(page))
    strip = page.locator(".wb-setup .wb-strip")
    before = strip.get_attribute("aria-label")
    rows = page.get_by_label("Batch size (rows)")
    rows.fill("512")
    rows.press("Enter")
    page.get_by_text('recipe = recipe.replace(training={"batch_size": 512})').wait_for()
    page.get_by_text("effective batch 512 rows").wait_for()
    after = strip.get_attribute("aria-label")
    assert "activations and loss" in after
    assert after != before
    assert lab.ask_kernel(page, "panel.recipe.training.batch_size") == "512"


def test_a_click_on_advice_moves_the_controls(lab, page):
    if not page.locator(".wb-setup .wb-advice-0").is_visible():
        page.locator(".wb-setup .wb-memory-advice").click()
    advice = page.locator(".wb-setup .wb-advice-0")
    assert advice.inner_text().startswith("Batch 512 to ")
    fewer = re.search(r"to (\d+)", advice.inner_text())[1]
    advice.click()
    page.get_by_text(f'recipe = recipe.replace(training={{"batch_size": {fewer}}})').wait_for()
    assert page.get_by_label("Batch size (rows)").input_value() == fewer
    assert page.get_by_label("Accumulation").input_value() == str(512 // int(fewer))
    assert lab.ask_kernel(page, "panel.recipe.effective_batch") == "512"
    page.get_by_text("effective batch 512 rows").wait_for()


def test_all_parts_stay_unfolded_while_settings_change(page):
    page.locator(".wb-setup .wb-memory-parts").click()
    table = page.locator(".wb-setup .wb-parts")
    before = table.inner_text()
    rank = page.get_by_label("Rank", exact=True)
    rank.select_option("64")
    page.get_by_text('recipe = recipe.replace(lora={"rank": 64})').wait_for()
    assert table.is_visible()
    assert table.inner_text() != before


def test_a_redraw_takes_the_kernel_less_than_50_ms(lab, page):
    page.get_by_label("Rank", exact=True).select_option("16")
    measure = (
        "sorted(__import__('timeit').repeat(lambda: setattr(panel.controls['training.batch_size'], 'value', "
        "1 + panel.controls['training.batch_size'].value % 16), number=1, repeat=20))[10]"
    )
    assert float(lab.ask_kernel(page, measure)) < 0.05


def test_when_it_is_tight_the_advice_is_there_at_once_and_one_click_makes_it_fit(lab, page):
    lab.run_cell(page, cell(page, "tight = wb.setup_panel("))
    page.locator(".wb-setup").nth(1).wait_for()
    assert verdict(page, 1).startswith("! Tight: ")
    lab.run_cell(page, cell(page, "short = wb.monitor("))
    page.locator(".wb-continue-half").wait_for()
    is_readable(page)
    at_both_widths(page, "light")
    page.locator(".wb-setup").nth(1).locator(".wb-advice-0").click()
    page.locator(".wb-setup").nth(1).locator("[role=status]", has_text="Fits: ").wait_for()
    assert lab.ask_kernel(page, "tight.memory.plan.fits") == "True"


def test_the_memory_part_can_be_used_by_keyboard_alone(page):
    parts = page.locator(".wb-setup").nth(0).locator(".wb-memory-parts")
    table = page.locator(".wb-setup").nth(0).locator(".wb-parts")
    parts.focus()
    page.keyboard.press("Enter")
    table.wait_for(state="hidden")
    page.keyboard.press("Enter")
    table.wait_for()
    page.keyboard.press("Tab")
    assert (
        page.evaluate("() => document.activeElement.innerText.trim()") == "What would save memory?"
    )


def test_it_reads_well_in_the_dark_too(page):
    theme = (
        "window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})"
    )
    page.evaluate(f"() => {theme}.then(() => null)")
    page.wait_for_timeout(1000)
    is_readable(page)
    at_both_widths(page, "dark")


def test_nothing_went_wrong_on_the_page(lab):
    # The badge's picture is on another server, which a machine without network does not reach.
    faults = [text for kind, text in lab.console if kind == "error" and "load resource" not in text]
    assert not faults
