"""The inspection panel in a real JupyterLab and Chromium: the tiny model and two made adapters on it, by real processes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from made_runs import made_run
from test_panels_inspection import made_adapter

from .lab import CHROMIUM, Lab
from .looks import controls, faults, photograph, tabbed, theme

PANEL = ".wb-inspect"
PARTS = {"base": "-base-section", "adapter": "-adapter-section", "mixing": "-mixing-section"}
CELLS = (
    "import workbench as wb",
    "panel = wb.inspect_panel('one'); panel",
    "chosen = wb.inspect_panel(); chosen",
)
LONG = 240_000  # ms that a process may take on a busy machine
WIDER = """css => [...document.querySelectorAll(css + ', ' + css + ' .widget-box')]
    .filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.className)"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"there is no Chromium at {CHROMIUM}"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny) -> Path:
    """A notebook with the panel, and two runs in `outputs` whose adapters are made."""
    folder = tmp_path_factory.mktemp("inspection")
    settings = tiny.model_dump(include={"model", "data", "samples"})
    for age, name in enumerate(("one", "two")):
        run = made_run(folder / "outputs", name, age=age, **settings)
        made_adapter(run.adapter_path, rank=8, seed=age)
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(metadata=kernel)
    notebook.cells = [nbformat.v4.new_code_cell(code) for code in CELLS]
    nbformat.write(notebook, folder / "inspect.ipynb")
    return folder


@pytest.fixture(scope="module")
def lab(folder) -> Iterator[Lab]:
    with Lab(folder, environment={"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}) as lab:
        yield lab


@pytest.fixture(scope="module")
def page(lab) -> Iterator[Any]:
    """The notebook with the panel of run `one`."""
    with lab.page(width=1200, height=1900) as page:
        lab.open(page, "inspect.ipynb")
        for number in range(2):
            lab.run_cell(page, number)
        page.locator(f"{PANEL} .wb-inspect-base").wait_for()
        yield page


def processes(lab: Lab) -> list[str]:
    """What the kernels' inspections run just now."""
    found = psutil.Process(lab._server.pid).children(recursive=True)
    lines = [" ".join(one.cmdline()) for one in found if one.is_running()]
    return [line for line in lines if "workbench.inside" in line]


def test_all_sections_work_at_once_while_the_kernel_answers(lab, page):
    page.locator(".wb-mix-known select").select_option("two")
    page.get_by_label("Prompt", exact=True).fill("The lamp in the hall is broken.")
    page.get_by_label("Longest (tokens)", exact=True).fill("12")
    page.locator(".wb-mix-ask:enabled").click()
    page.locator(".wb-inspect-base:enabled").click()
    page.locator(".wb-inspect-adapter:enabled").click()
    page.locator(".wb-inspect-base-section progress").wait_for()
    assert page.locator(".wb-inspect-base-section .wb-inspect-stop").is_enabled()
    assert lab.ask_kernel(page, "1 + 1") == "2"
    for mark in PARTS.values():
        section = page.locator(f"{PANEL}{mark}")
        section.locator(".wb-inspect-note", has_text="Took").first.wait_for(timeout=LONG)
    assert page.locator(f"{PANEL} img[alt*='NF4 with double quantization']").count() == 1
    assert page.locator(f"{PANEL} img[alt^='Rank 8 uses']").count() == 1
    assert page.locator(f"{PANEL} .wb-mix").count() == 4
    assert lab.ask_kernel(page, "len(panel.base.result.layers)") == "28"
    assert len(processes(lab)) == 1  # the mixer's


def test_the_maps_follow_and_stop_ends_the_process(lab, page):
    before = page.locator(f"{PANEL} img").last.get_attribute("src")
    page.get_by_label("The maps show", exact=True).select_option(index=2)
    changed = "was => [...document.querySelectorAll('.wb-inspect img')].at(-1).src !== was"
    page.wait_for_function(changed, arg=before)
    page.locator(".wb-inspect-truncate").click()
    page.locator(".wb-inspect-adapter-section .wb-inspect-stop:enabled").click()
    stopped = page.locator(".wb-inspect-adapter-section .wb-inspect-note", has_text="Stopped.")
    stopped.wait_for()
    assert len(processes(lab)) == 1


@pytest.mark.parametrize("name", ["light", "dark"])
def test_axe_finds_no_grave_fault(page, name):
    theme(page, name)
    assert faults(page, PANEL) == []
    for part, mark in PARTS.items():
        photograph(page, f"inspect-{part}-{name}", f"{PANEL}{mark}")


def test_it_fits_in_800_pixels(page):
    theme(page, "light")
    page.set_viewport_size({"width": 800, "height": 1900})
    page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
    page.wait_for_timeout(500)
    assert page.evaluate(WIDER, PANEL) == []
    for part, mark in PARTS.items():
        photograph(page, f"inspect-{part}-800", f"{PANEL}{mark}")
    page.set_viewport_size({"width": 1200, "height": 1900})


def test_tab_reaches_every_control(page):
    there = controls(page, PANEL)
    assert all(there) and tabbed(page, PANEL) == there


def test_another_panel_ends_the_processes_and_what_was_found_stays(lab, page):
    lab.run_cell(page, 2)
    page.locator(f"{PANEL} .wb-inspect-run").wait_for()
    left = page.locator(".jp-OutputArea-output", has_text="NF4 with double quantization").first
    left.wait_for()
    assert left.locator("img").count() == 2
    assert processes(lab) == []
    page.get_by_label("Run", exact=True).select_option("two")
    page.locator(".wb-inspect-base:enabled").wait_for()
    photograph(page, "inspect-chosen-light", PANEL)


def test_nothing_went_wrong_on_the_page(lab):
    found = [text for kind, text in lab.console if kind == "error" and "load resource" not in text]
    assert not found
