"""The panels of runs that are over, in a real JupyterLab and Chromium, on made logs: the list, a monitor with alarms, the prompt box.

What models and people wrote is as bad as it can be: HTML, colour codes, letters that turn the line around, 100,000 of them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_history
import nbformat
import pytest
from made_runs import made_run

from workbench.events import EventLog

from .lab import CHROMIUM, Lab
from .looks import controls, faults, photograph, tabbed, theme

BAD = (
    "<img src=x onerror='window.caught=1'><script>window.caught=1</script>\x1b[31mred\x1b[0m \u202egnp.exe \x00"
    + "word " * 20_000
)
CELLS = {
    "runs": "shelf = wb.runs_panel(OUTPUTS); shelf",
    "bad": "monitor = wb.monitor(wb.Run.open('bad', OUTPUTS)); monitor",
    "ask": "asking = wb.ask_panel(wb.Run.open('bad', OUTPUTS)); asking",
    "sheet": "wb.sample_sheet(wb.Run.open('bad', OUTPUTS))",
    "answers": "wb.compare_samples(wb.Run.open('bad', OUTPUTS))",
    "large": (
        "large = wb.setup_panel(wb.Recipe(model={'name': 'unsloth/Llama-3.1-8B-Instruct'}, "
        "lora={'rank': 128}, training={'batch_size': 16, 'accumulation': 4, 'learning_rate': 1e-5}), card='T4'); large"
    ),
}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"there is no Chromium at {CHROMIUM}"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny) -> Path:
    """A folder with a notebook, a cell for each panel, and made runs in `outputs`."""
    folder = tmp_path_factory.mktemp("runs")
    model = tiny.model.model_dump()
    for age, rank in enumerate((2, 4, 8, 16)):
        steps = 20 + 10 * age
        made_run(
            folder / "outputs",
            f"rank-{rank}",
            age=age,
            steps=steps,
            model=model,
            lora={"rank": rank},
        )
    for age in range(10, 18):
        made_run(folder / "outputs", f"older-{age}", age=age, model=model)
    bad = made_run(folder / "outputs", "bad", age=9, steps=40, state="training", model=model)
    log = EventLog(bad.folder / "events.jsonl")
    for step in (10, 20, 30):
        made_history.event(
            log, "sample", sample=f"step-{step}-0", step=step, prompt=BAD, text=BAD, expected=BAD, adapter=True,
            ended=False, rendered=f"<|user|>{BAD}", tokens=9, seconds=1.0,
        )  # fmt: skip
    made_history.event(log, "warning", text=BAD[:400], cure=BAD[:400])
    made_history.event(log, "error", text=BAD[:400], cause=BAD, cure="Nothing.")
    made_history.event(log, "phase", state="failed", text=BAD[:400])
    cells = ["import workbench as wb\nOUTPUTS = 'outputs'", *CELLS.values()]
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(metadata=kernel)
    notebook.cells = [nbformat.v4.new_code_cell(code) for code in cells]
    nbformat.write(notebook, folder / "panels.ipynb")
    return folder


@pytest.fixture(scope="module")
def lab(folder) -> Iterator[Lab]:
    with Lab(folder) as lab:
        yield lab


@pytest.fixture(scope="module")
def page(lab) -> Iterator[Any]:
    """The notebook with all its cells run."""
    with lab.page() as page:
        lab.open(page, "panels.ipynb")
        for number in range(len(CELLS) + 1):
            lab.run_cell(page, number)
        page.locator(".wb-runs .wb-run:visible").first.wait_for()
        yield page


def pick(page: Any, *names: str) -> None:
    if page.locator(".wb-runs-none:enabled").count():
        page.locator(".wb-runs-none").click()
    for name in names:
        page.locator(".wb-runs").get_by_label(name, exact=True).check()


# The list


def test_the_list_is_newest_first_paged_and_filtered(page):
    names = page.locator(".wb-run-pick:visible").all_inner_texts()
    assert [name.strip() for name in names][:4] == ["rank-2", "rank-4", "rank-8", "rank-16"]
    assert len(names) == 10
    page.locator(".wb-runs-older").click()
    page.locator(".wb-run-pick:visible", has_text="older-17").wait_for()
    page.locator(".wb-runs-newer").click()
    page.get_by_label("Filter", exact=True).fill("rank 8")
    page.locator(".wb-run-pick:visible", has_text="rank-2").wait_for(state="hidden")
    assert [text.strip() for text in page.locator(".wb-run-pick:visible").all_inner_texts()] == [
        "rank-8"
    ]
    page.get_by_label("Filter", exact=True).fill("")
    page.locator(".wb-run-pick:visible", has_text="rank-2").wait_for()


def test_picked_runs_are_compared_along_what_is_chosen(page):
    assert page.locator(".wb-runs-compare").is_disabled()
    pick(page, "rank-2", "rank-16")
    page.locator(".wb-runs-compare:enabled").click()
    page.locator(".wb-side-by-side img").wait_for()
    first = page.locator(".wb-side-by-side img").get_attribute("src")
    page.locator(".wb-side-by-side", has_text="lora.rank").wait_for()
    page.get_by_label("Curves along", exact=True).select_option(label="Tokens")
    page.get_by_text('by="tokens"').wait_for()
    page.wait_for_function(
        "first => document.querySelector('.wb-side-by-side img').src !== first", arg=first
    )


def test_a_run_is_opened_renamed_copied_deleted_and_brought_back(lab, page, folder):
    pick(page, "rank-8")
    page.locator(".wb-runs-open").click()
    page.locator(".wb-runs .wb-monitor", has_text="rank-8").wait_for()
    page.locator(".wb-runs-name input").fill("narrow")
    page.locator(".wb-runs-rename:enabled").click()
    page.locator(".wb-run-pick:visible", has_text="narrow").wait_for()
    assert (folder / "outputs" / "narrow" / "events.jsonl").is_file()
    page.locator(".wb-runs-duplicate:enabled").click()
    page.locator(".wb-runs .wb-launch .wb-start").wait_for()
    assert page.locator(".wb-runs").get_by_label("Rank", exact=True).input_value() in ("8", "3")
    page.locator(".wb-runs-trash").click()
    page.locator(".wb-runs-trash-yes").click()
    page.locator(".wb-run-pick:visible", has_text="narrow").wait_for(state="hidden")
    assert not (folder / "outputs" / "narrow").exists()
    page.locator(".wb-runs-back").click()
    page.locator(".wb-run-pick:visible", has_text="narrow").wait_for()
    assert (folder / "outputs" / "narrow" / "events.jsonl").is_file()


# What others wrote


def test_nothing_that_a_model_wrote_gets_to_run_or_to_turn_the_page_around(page):
    assert page.evaluate("() => window.caught") is None
    for css in (".wb-monitor", ".wb-ask-panel", ".jp-OutputArea-output table"):
        assert page.locator(f"{css} img[src='x']").count() == 0
    text = page.locator(".wb-samples").first.inner_text()
    assert "\x1b" not in text and "\u202e" not in text
    assert "<img" in text and "more characters" in text
    lengths = "css => [...document.querySelectorAll(css)].map(one => one.innerText.length)"
    assert max(page.evaluate(lengths, ".wb-samples")) < 60_000


def test_letters_that_are_too_long_do_not_stretch_the_page(page):
    wider = "() => [...document.querySelectorAll('.jp-OutputArea-output')].map(e => e.scrollWidth - e.clientWidth)"
    assert max(page.evaluate(wider)) <= 1


# Looks and access


@pytest.mark.parametrize("name", ["light", "dark"])
@pytest.mark.parametrize("css", [".wb-runs", ".wb-monitor", ".wb-ask-panel", ".wb-setup"])
def test_axe_finds_no_grave_fault(page, css, name):
    theme(page, name)
    mark = {".wb-setup": ".jp-Cell:last-of-type .wb-setup"}.get(css, css)
    assert faults(page, css) == [], mark
    photograph(page, f"{css.removeprefix('.wb-')}-of-made-runs-{name}", css)


def test_tab_reaches_every_control_of_the_list(page):
    theme(page, "light")
    pick(page, "rank-2")
    page.locator(
        ".wb-runs", has_text="wb.Run.open('rank-2'"
    ).wait_for()  # the buttons have followed
    there = controls(page, ".wb-runs")
    assert all(there)
    assert tabbed(page, ".wb-runs") == there


def test_advice_and_cautions_are_applied_by_a_click(lab, page):
    before = lab.ask_kernel(page, "large.recipe.training.learning_rate, large.memory.plan.verdict")
    assert before == "(1e-05, 'does not fit')"
    page.locator(".wb-caution-cure:visible", has_text="rate").last.click()
    page.locator(".wb-advice-0:visible").last.click()
    page.wait_for_timeout(500)
    rate = float(lab.ask_kernel(page, "large.recipe.training.learning_rate"))
    assert rate >= 5e-5
    assert lab.ask_kernel(page, "large.memory.plan.verdict") != "'does not fit'"


def test_nothing_went_wrong_on_the_page(lab):
    found = [text for kind, text in lab.console if kind == "error" and "load resource" not in text]
    assert not found
