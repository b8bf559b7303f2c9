"""Notebook 02 in a real JupyterLab and Chromium: the report, a worst row by a button, cleaning, and nothing that runs.

Leaves screenshots in outputs/screenshots: look at them after a change of the panels.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .lab import CHROMIUM, Lab
from .test_first_finetune import ROOT, cell, photograph

NAME = "02_your_data.ipynb"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"there is no Chromium at {CHROMIUM}"),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    """A folder with the notebook and the messy file where it looks for it, served."""
    folder = tmp_path_factory.mktemp("lab")
    for name in (f"notebooks/{NAME}", "data/messy/messy.jsonl", "data/messy/heldout.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    with Lab(folder, environment={"WORKBENCH_CACHE": str(folder / "cache")}) as lab:
        yield lab


@pytest.fixture(scope="module")
def page(lab) -> Iterator[Any]:
    """The notebook, run up to its inspector."""
    with lab.page(height=1400) as page:
        lab.open(page, f"notebooks/{NAME}")
        for code in ("REPOSITORY", "LANE =", "first_recipe(", "data_report(", "token_inspector("):
            lab.run_cell(page, cell(page, code))
        page.locator(".wb-inspector .wb-row").wait_for()
        yield page


#: The contrast (WCAG) of an element's letters on its background, which may let the page's show through.
CONTRAST = """css => {
    const draw = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const element = document.querySelector(css);
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
#: Of the inspector, what has letters of its own; and of the report, what is muted.
READ = (
    ".wb-row .wb-trained",
    ".wb-row .wb-context",
    ".wb-row .wb-lost",
    ".wb-report .wb-figures div div + div",
)


def shown_row(page: Any) -> str:
    return page.locator(".wb-inspector .wb-tokens b").first.inner_text()


def wait_for_row(page: Any, name: str) -> None:
    page.locator(".wb-inspector .wb-tokens b", has_text=re.compile(f"^{name}$")).wait_for()


def test_the_report_shows_figures_lengths_and_findings(page):
    report = page.locator(".wb-data-report")
    report.get_by_text("8 more cannot be read").wait_for()
    assert report.locator("svg[role=img]").get_attribute("aria-label").startswith("Histogram")
    assert report.get_by_text("3 rows have an answer of one word").count() == 1
    photograph(page, "report-light", ".wb-data-report")


def test_buttons_go_to_the_worst_rows_and_say_which_they_are(lab, page):
    photograph(page, "inspector-light", ".wb-inspector")
    page.locator(".wb-worst-answer-cut").click()
    page.get_by_text("Answer cut: number 1 of 1.").wait_for()
    assert page.locator(".wb-inspector .wb-row .wb-lost").count() > 0
    row = lab.ask_kernel(page, "inspector.row")
    assert shown_row(page) == f"row {row}"
    assert page.get_by_label("Row", exact=True).input_value() == row
    page.get_by_text(f"wb.show_tokens(recipe, row={row})").wait_for()
    photograph(page, "inspector-cut-light", ".wb-inspector")
    for css in READ:
        assert page.evaluate(CONTRAST, css) >= 4.5, css
    page.locator(".wb-worst-nothing-trained").click()
    page.get_by_text("Nothing trained: number 1 of 5.").wait_for()
    assert page.locator(".wb-inspector .wb-row .wb-trained").count() == 0


def test_the_inspector_can_be_used_by_keyboard_alone(page):
    page.locator(".wb-previous").focus()
    names = []
    for _ in range(12):
        name = "e => e.getAttribute('aria-label') || (e.labels?.[0] ?? e).innerText.trim()"
        names.append(page.evaluate(f"() => ({name})(document.activeElement)"))
        if names[-1].startswith("Tokens of"):
            break
        page.keyboard.press("Tab")
    assert names[:5] == ["Previous", "Row", "Next", "Find", "Find next"]
    assert [re.sub(r" \(.*", "", name) for name in names[5:9]] == [
        "Nothing trained",
        "Answer cut",
        "Longest",
        "Least trained",
    ]
    assert names[-1].startswith("Tokens of row")
    number = page.get_by_label("Row", exact=True)
    number.fill("1")
    number.press("Enter")
    wait_for_row(page, "row 1")
    page.locator(".wb-next").focus()
    page.keyboard.press("Enter")
    wait_for_row(page, "row 2")


def test_text_of_rows_stays_text(page):
    find = page.get_by_label("Find", exact=True)
    find.fill("<SCRIPT>")
    find.press("Enter")
    page.locator(".wb-inspector .wb-row", has_text="document.title = 'taken over'").wait_for()
    row = page.locator(".wb-inspector .wb-row")
    assert row.locator("script, img, b").count() == 0
    assert "taken over" not in page.title()
    photograph(page, "inspector-script-light", ".wb-inspector")
    find.fill("\u200b")
    find.press("Enter")
    page.locator(".wb-inspector .wb-row", has_text="U+200B").wait_for()
    assert "U+202E" in row.inner_text()


def test_the_button_writes_what_is_ticked_and_shows_what_changed(lab, page):
    page.locator(".wb-clean").first.click()
    page.locator(".wb-cleaned").wait_for()
    assert page.locator(".wb-cleaned", has_text="drop_leaks").count() == 1
    assert (lab.root / "outputs" / "clean.jsonl").is_file()
    photograph(page, "cleaned-light", ".wb-clean-to")


def test_both_panels_read_well_in_the_dark_too(page):
    theme = (
        "window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})"
    )
    page.evaluate(f"() => {theme}.then(() => null)")
    page.wait_for_timeout(1000)
    page.locator(".wb-worst-answer-cut").click()
    page.locator(".wb-inspector .wb-row .wb-lost").first.wait_for()
    photograph(page, "report-dark", ".wb-data-report")
    photograph(page, "inspector-dark", ".wb-inspector")
    for css in READ:
        assert page.evaluate(CONTRAST, css) >= 4.5, css


def test_nothing_went_wrong_on_the_page(lab):
    # The badge's picture is on another server, which a machine without network does not reach.
    faults = [text for kind, text in lab.console if kind == "error" and "load resource" not in text]
    assert not faults
