"""Both notebooks from top to bottom without a hand on a widget, on the tiny lane with few steps. Their looks: test_house.py."""

import json
import os
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from workbench.events import History

ROOT = Path(__file__).parents[1]


def execute(name: str, folder: Path, **parameters: object) -> NotebookNode:
    """A notebook's copy in `folder`/notebooks, executed with these parameters; raises what a cell raises."""
    place = folder / "notebooks"
    place.mkdir()
    notebook = nbformat.read(shutil.copy(ROOT / "notebooks" / name, place), as_version=4)
    if parameters:
        code = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
        tagged = [
            i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", [])
        ]
        notebook.cells.insert(tagged[0] + 1, nbformat.v4.new_code_cell(code))
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(place)}}).execute()
    return notebook


def printed(notebook: NotebookNode, code: str) -> str:
    """What the cell with this code prints."""
    cell = next(c for c in notebook.cells if c.cell_type == "code" and code in c.source)
    return "".join(output.get("text", "") for output in cell.outputs)


def shown(notebook: NotebookNode, code: str, kind: str = "text/plain") -> str:
    """What the cell with this code shows, as this MIME type."""
    cell = next(c for c in notebook.cells if c.cell_type == "code" and code in c.source)
    return "".join(str(output.get("data", {}).get(kind, "")) for output in cell.outputs)


@pytest.fixture(autouse=True)
def this_package(monkeypatch):
    """The kernel takes this environment's kernelspec and this checkout's package."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")


def test_00_says_what_the_machine_can_do(tmp_path):
    notebook = execute("00_check_your_machine.ipynb", tmp_path)
    assert "backend: auto takes" in shown(notebook, "check_machine")
    assert "peft: " in printed(notebook, "choose_backend")
    assert printed(notebook, "preflight.check(recipe)").strip() == "Nothing stands in the way."


@pytest.mark.slow
def test_01_trains_compares_and_reports(tmp_path):
    notebook = execute("01_first_finetune.ipynb", tmp_path, LANE="tiny", STEPS=4, SCORED=4)
    assert "2,400 training rows" in shown(notebook, "glance", "text/html")
    assert "Before training: 0 of 4" in shown(notebook, "answers_before")
    assert shown(notebook, "run.finished()").endswith("'ready'")
    assert shown(notebook, "wb.picture", "image/png")
    assert "ready: 4 of 4 steps" in shown(notebook, "wb.picture")
    compared = shown(notebook, "compare_samples", "text/html")
    assert "After 4 steps" in compared
    assert "not asked" not in compared
    run = next(path.parent for path in (tmp_path / "outputs").glob("*/recipe.yaml"))
    assert str(run / "adapter") in shown(notebook, "adapter_path")
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    assert json.loads((tmp_path / "outputs" / "demo.json").read_text())["rows"] == 4
    history = History(run / "events.jsonl")
    history.update()
    assert history.state == "closed"
    assert history.step == 4
    assert len(list((tmp_path / "outputs").glob("*/recipe.yaml"))) == 1
