"""Takes the README's pictures from real notebooks on the tiny lane: notebooks/images/panel.png and tokens.png.

python tests/browser/picture.py [panel|tokens]       # some minutes on two cores; then look at them
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from lab import Lab

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "notebooks" / "images"
MARGIN = 12  # pixels around the panel
SHARE = 0.8  # of the steps, when the picture of the run is taken
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


def panel(folder: Path) -> None:
    """The panel of notebook 01 while the tiny model trains."""
    with Lab(folder, environment=ENVIRONMENT) as lab, lab.page(width=1200, height=1400) as page:
        run_to(lab, page, "01_first_finetune.ipynb", "launch_panel")
        page.locator(".wb-start").click()
        page.wait_for_function(
            """share => { const bar = document.querySelector('.wb-monitor [role=progressbar]');
                return bar && bar.ariaValueNow > 0 && bar.ariaValueNow >= share * bar.ariaValueMax; }""",
            arg=SHARE,
            timeout=1_200_000,
        )
        page.wait_for_timeout(1000)
        photograph(page, ".wb-launch", "panel")
        page.locator(".wb-stop").first.click()
        page.locator(".wb-state", has_text="stopped").wait_for(timeout=120_000)
        lab.ask_kernel(page, "panel.run.close()")


def tokens(folder: Path) -> None:
    """The token inspector of notebook 02 at a row whose answer is cut."""
    with Lab(folder, environment=ENVIRONMENT) as lab, lab.page(width=1000, height=1400) as page:
        run_to(lab, page, "02_your_data.ipynb", "token_inspector")
        page.locator(".wb-worst-answer-cut").click()
        page.locator(".wb-inspector .wb-row .wb-lost").first.wait_for()
        page.wait_for_timeout(500)
        photograph(page, ".wb-inspector", "tokens")


def run_to(lab: Lab, page: Any, name: str, last: str) -> None:
    """Runs a notebook's cells up to the first one that holds this code."""
    lab.open(page, f"notebooks/{name}")
    cells = nbformat.read(ROOT / "notebooks" / name, as_version=4).cells
    for number, cell in enumerate(cells):
        if cell.cell_type == "code":
            lab.run_cell(page, number)
            if last in cell.source:
                return


def photograph(page: Any, css: str, name: str) -> None:
    page.locator(css).scroll_into_view_if_needed()
    box = page.locator(css).bounding_box()
    edge = {"x": box["x"] - MARGIN, "y": box["y"] - MARGIN / 2}
    size = {"width": box["width"] + 2 * MARGIN, "height": box["height"] + MARGIN}
    path = PICTURES / f"{name}.png"
    page.screenshot(path=path, clip=edge | size)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def main(wanted: list[str]) -> None:
    for take in (panel, tokens):
        if not wanted or take.__name__ in wanted:
            folder = Path(tempfile.mkdtemp(prefix="picture-"))
            shutil.copytree(ROOT / "notebooks", folder / "notebooks")
            shutil.copytree(ROOT / "data" / "messy", folder / "data" / "messy")
            take(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
