"""Takes the README's picture, notebooks/images/panel.png, from a real run of notebook 01 on the tiny lane.

python tests/browser/picture.py        # some minutes on two cores; then look at it
"""

import os
import tempfile
from pathlib import Path

import nbformat
from lab import Lab

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "notebooks" / "images" / "panel.png"
MARGIN = 12  # pixels around the panel
SHARE = 0.8  # of the steps, when the picture is taken


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="picture-"))
    notebook = nbformat.read(ROOT / "notebooks" / "01_first_finetune.ipynb", as_version=4)
    (folder / "notebooks").mkdir()
    nbformat.write(notebook, folder / "notebooks" / "picture.ipynb")
    code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    begin = next(i for i in code if "launch_panel" in notebook.cells[i].source)
    here = {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", **os.environ}
    with Lab(folder, environment=here) as lab, lab.page(width=1200, height=1400) as page:
        lab.open(page, "notebooks/picture.ipynb")
        for number in code[: code.index(begin) + 1]:
            lab.run_cell(page, number)
        page.locator(".wb-start").click()
        page.wait_for_function(
            """share => { const bar = document.querySelector('.wb-monitor [role=progressbar]');
                return bar && bar.ariaValueNow > 0 && bar.ariaValueNow >= share * bar.ariaValueMax; }""",
            arg=SHARE,
            timeout=1_200_000,
        )
        page.wait_for_timeout(1000)
        page.locator(".wb-launch").scroll_into_view_if_needed()
        box = page.locator(".wb-launch").bounding_box()
        edge = {"x": box["x"] - MARGIN, "y": box["y"] - MARGIN / 2}
        size = {"width": box["width"] + 2 * MARGIN, "height": box["height"] + MARGIN / 2}
        page.screenshot(path=PICTURE, clip=edge | size)
        page.locator(".wb-stop").first.click()
        page.locator(".wb-state", has_text="stopped").wait_for(timeout=120_000)
        lab.ask_kernel(page, "panel.run.close()")
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
