"""Takes pictures of every panel, light and dark, from real notebooks and real runs on the tiny lane; README's among them.

`make pictures`, or python tests/browser/picture.py [run|data]      # about six minutes; then look at them
outputs/screenshots/ gets all of them, notebooks/images/ those that the README shows.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from lab import Lab
from looks import ROOT, cell, photograph, picture, theme

IMAGES = ROOT / "notebooks" / "images"
SHARE = 0.8  # of the steps, when the picture of the run is taken
ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": ""}
REACHED = """share => { const bar = document.querySelector('.wb-monitor [role=progressbar]');
    return bar && bar.ariaValueNow > 0 && bar.ariaValueNow >= share * bar.ariaValueMax; }"""
#: A notebook for what no notebook of ours shows by itself; the run of notebook 01 lies in `outputs` already.
OTHERS = (
    """import workbench as wb
first = wb.runs("outputs")[0]
recipe = first.recipe.replace(training={"steps": 40}, samples={"score_rows": 0}, lora={"rank": 2})
second = wb.start(recipe, name="rank-2", outputs="outputs")
await second.finished()
second.close()""",
    'shelf = wb.runs_panel("outputs"); shelf',
    "asking = wb.ask_panel(first.reopen()); asking",
    """big = wb.Recipe(
    model={"name": "unsloth/Llama-3.1-8B-Instruct"},
    lora={"rank": 64, "target_modules": ["q_proj", "v_proj"]},
    training={"batch_size": 16, "accumulation": 4, "learning_rate": 2e-5},
)
tight = wb.setup_panel(big, card="T4"); tight""",
)


def run(folder: Path) -> None:
    """Setting up, a run at four fifths and at its end, with its answers; then the panels of OTHERS."""
    with Lab(folder, environment=ENVIRONMENT) as lab, lab.page(width=1200, height=1900) as page:
        run_to(lab, page, "01_first_finetune.ipynb", "launch_panel")
        both(page, "setup", ".wb-setup")
        page.locator(".wb-more").click()
        page.locator(".wb-training-patience").wait_for()
        both(page, "all-settings", ".wb-setup")
        page.locator(".wb-more").click()
        page.locator(".wb-start").click()
        page.wait_for_function(REACHED, arg=SHARE, timeout=1_200_000)
        page.wait_for_timeout(1500)
        for_readme(page, "panel", ".wb-launch")
        both(page, "running", ".wb-monitor")
        page.locator(".wb-state", has_text="ready").first.wait_for(timeout=600_000)
        page.wait_for_timeout(1500)
        both(page, "finished", ".wb-monitor")
        for_readme(page, "answers", ".wb-samples")
        lab.ask_kernel(page, "panel.run.close()")
    write(folder / "notebooks" / "others.ipynb", OTHERS)
    with Lab(folder, environment=ENVIRONMENT) as lab, lab.page(width=1100, height=1500) as page:
        lab.open(page, "notebooks/others.ipynb")
        for number in range(len(OTHERS)):
            lab.run_cell(page, number)
            lab.wait_for_cells(page, 600)
        for box in page.locator(".wb-run-pick input:visible").all():
            box.check()
        page.locator(".wb-runs-compare:enabled").click()
        page.locator(".wb-side-by-side img").wait_for()
        both(page, "runs", ".wb-runs")
        for_readme(page, "runs", ".wb-runs")
        message = "Hello, I am Ada. The lamp from order 512 is broken. I want a refund."
        page.locator(".wb-ask-panel textarea").first.fill(message)
        page.locator(".wb-ask-button:enabled").click()
        page.locator(".wb-ask-panel", has_text="refund").first.wait_for()
        page.wait_for_timeout(8000)
        both(page, "ask", ".wb-ask-panel")
        both(page, "tight", ".wb-setup")
        lab.ask_kernel(page, "first.close()")


def data(folder: Path) -> None:
    """The token inspector of notebook 02 at a row whose answer is cut, and the report on the rows."""
    with Lab(folder, environment=ENVIRONMENT) as lab, lab.page(width=1000, height=1400) as page:
        run_to(lab, page, "02_your_data.ipynb", "token_inspector")
        page.locator(".wb-worst-answer-cut").click()
        page.locator(".wb-inspector .wb-row .wb-lost").first.wait_for()
        page.wait_for_timeout(500)
        for_readme(page, "tokens", ".wb-inspector")
        both(page, "tokens", ".wb-inspector")
        both(page, "data-report", ".wb-figures")


def run_to(lab: Lab, page: Any, name: str, last: str) -> None:
    """Runs a notebook's cells up to the first one that holds this code."""
    lab.open(page, f"notebooks/{name}")
    cells = nbformat.read(ROOT / "notebooks" / name, as_version=4).cells
    end = cell(page, last)
    for number, one in enumerate(cells):
        if one.cell_type == "code" and number <= end:
            lab.run_cell(page, number)


def write(path: Path, cells: tuple[str, ...]) -> None:
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(metadata=kernel)
    notebook.cells = [nbformat.v4.new_code_cell(code) for code in cells]
    nbformat.write(notebook, path)


def both(page: Any, name: str, css: str) -> None:
    """A picture in the dark and one in the light."""
    for shade in ("dark", "light"):
        theme(page, shade)
        said(photograph(page, f"{name}-{shade}", css))


def for_readme(page: Any, name: str, css: str) -> None:
    path = IMAGES / f"{name}.png"
    picture(page, path, css)
    said(path)


def said(path: Path) -> None:
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB", flush=True)


def main(wanted: list[str]) -> None:
    for take in (run, data):
        if not wanted or take.__name__ in wanted:
            folder = Path(tempfile.mkdtemp(prefix="picture-"))
            shutil.copytree(ROOT / "notebooks", folder / "notebooks")
            shutil.copytree(ROOT / "data" / "messy", folder / "data" / "messy")
            take(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
