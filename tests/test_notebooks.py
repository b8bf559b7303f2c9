"""All notebooks from top to bottom without a hand on a widget, on the tiny lane with few steps, by a kernel like Colab's.

Their looks: test_house.py. With this environment's own kernel they are stepped through in tests/browser.
"""

import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from stacks import COLAB, kernelspecs

from workbench.events import History
from workbench.inspection.contest import Contest
from workbench.recipe import Recipe

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
    where = {"metadata": {"path": str(place)}}
    NotebookClient(notebook, timeout=900, kernel_name="colab", resources=where).execute()
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
def kernels(monkeypatch, tmp_path_factory):
    """The kernelspecs that JUPYTER_PATH leads to."""
    assert COLAB.is_dir(), "run make test, which fills it from colab_stack.txt"
    folder = tmp_path_factory.mktemp("jupyter")
    kernelspecs(folder)
    monkeypatch.setenv("JUPYTER_PATH", str(folder))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")


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


def test_02_goes_from_the_first_error_to_a_clean_run(tmp_path):
    shutil.copytree(ROOT / "data" / "messy", tmp_path / "data" / "messy")
    notebook = execute("02_your_data.ipynb", tmp_path)
    assert "messages[1] has the role 'robot'." in printed(notebook, "wb.data.read(FILE)")
    assert "120 of 128 rows can be read" in printed(notebook, "wb.data.look(FILE)")
    assert "wb-figures" in shown(notebook, "panel = wb.data_report", "text/html")
    assert "48 trained" in shown(notebook, "show_tokens(recipe, row=1)")
    assert "wb-tokens" in shown(notebook, "token_inspector", "text/html")
    masks = shown(notebook, "for loss_on in", "text/html")
    shares = [int(found) for found in re.findall(r"tokens, \d+ trained \((\d+)%\)", masks)]
    assert shares == sorted(shares, key=lambda share: (share == 100, -share))
    assert len(set(shares)) == 3
    assert "<|assistant|>" in printed(notebook, "check_template")
    assert "128 rows looked at, 108 are in" in printed(notebook, "panel.clean()")
    after = shown(notebook, "after = wb.show_report", "text/html")
    assert 'aria-label="error"' not in after
    assert "rows are held out, chosen by what they say" in printed(notebook, "heldout_share")
    assert "padding" in printed(notebook, "batching.why")
    assert "Nothing stands in the way." in printed(notebook, "preflight.check(recipe)")
    run = printed(notebook, "wb.start(")
    assert "shape: messages." in run and "heldout: 16." in run and "batching: " in run
    assert "ready: 10 of 10 steps" in run
    data = Recipe.load(tmp_path / "outputs" / "your_data.yaml").data
    assert len(Path(data.train).read_text(encoding="utf-8").splitlines()) == 108
    assert Path(data.heldout).is_file()


def test_02_takes_ones_own_file_with_one_line_changed(tmp_path):
    rows = ["question;answer", *(f"What is {n} plus {n}?;It is {2 * n}." for n in range(200))]
    (tmp_path / "own.csv").write_text("\n".join(rows), encoding="utf-8")
    notebook = execute("02_your_data.ipynb", tmp_path, FILE="../own.csv", HELDOUT=None, STEPS=2)
    assert printed(notebook, "wb.data.read(FILE)") == ""
    assert "200 of 200 rows can be read" in printed(notebook, "wb.data.look(FILE)")
    assert "Nothing stands in the way." in printed(notebook, "preflight.check(recipe)")


@pytest.mark.slow
def test_03_predicts_measures_and_learns(tmp_path):
    notebook = execute("03_will_it_fit.ipynb", tmp_path, LANE="tiny")
    assert "to be safe" in printed(notebook, "plan.floor")
    assert "does not fit in 14.56 GiB of Tesla T4" in printed(notebook, "for place in")
    assert "changes nothing in the maths" in printed(notebook, "for advice in")
    first = shown(notebook, "measured = run.measured()")
    assert "Predicted" in first and "nothing was predicted" not in first
    assert shown(notebook, "wb.picture(measured)", "image/png")
    assert "over 1 run" in shown(notebook, "wb.plan(smaller")
    before, now = printed(notebook, "again = wb.plan").splitlines()
    assert "nothing measured here yet" in before and "over 2 runs" in now
    assert "tokens/s" in printed(notebook, '"batch": "auto"')
    assert len((tmp_path / "outputs" / "memory.jsonl").read_text().splitlines()) == 3


@pytest.mark.slow
def test_04_lays_three_runs_over_each_other(tmp_path):
    notebook = execute(
        "04_choose_rank_alpha_targets.ipynb", tmp_path, LANE="tiny", STEPS=3, SCORED=4
    )
    assert "rank  16:    65,536 numbers,  1.6% of the layer's" in printed(notebook, "inside, outside")  # fmt: skip
    assert len(printed(notebook, "big = wb.Recipe").splitlines()) == 4
    assert "rank 256:  0.062 with alpha 16, 1.000 with alpha = rank" in printed(notebook, "rslora")
    counts = [int(line.split()[0].replace(",", "")) for line in printed(notebook, "for targets in").splitlines()]  # fmt: skip
    assert counts == sorted(counts, reverse=True)
    for by in ("steps", "seconds"):
        assert shown(notebook, f'wb.picture(runs, by="{by}")', "image/png")
    compared = shown(notebook, "wb.compare(runs)")
    differ = [line.split()[0] for line in compared.splitlines() if line.startswith("lora.")]
    assert differ == ["lora.rank", "lora.alpha", "lora.target_modules"]
    assert "the scale alpha / rank is 1 in all" in compared
    assert "1 to 3 of 3 runs." in shown(notebook, "wb.runs_panel")
    histories = [History(path) for path in (tmp_path / "outputs").glob("*/events.jsonl")]
    for history in histories:
        history.update()
    assert [(h.state, h.step) for h in histories] == [("closed", 3)] * 3


@pytest.mark.slow
def test_05_holds_each_claim_against_its_measurement(tmp_path):
    """Its cells assert what they say; here only that they measured, and showed it."""
    notebook = execute("05_inside_qlora.ipynb", tmp_path, DOCUMENTS=40)
    assert "largest difference to bitsandbytes: 0e+00" in printed(notebook, "formats.nf4()")
    assert "double_quant=True: scales 0.1270 bits, all 4.1270" in printed(notebook, "for double in")
    assert "paper 27.41" in printed(notebook, "paper = {")
    assert "56 tensors have a gradient" in printed(notebook, "first = steps.backward")
    assert "41,943,040" in printed(notebook, "modules = ")
    assert "0 bytes in pages here" in printed(notebook, "paged = optimizers")
    for code in ("drawn_levels(", "drawn_errors(errors"):
        assert shown(notebook, code, "image/png")


@pytest.mark.slow
def test_06_sets_three_methods_side_by_side_with_their_spread(tmp_path):
    notebook = execute(
        "06_lora_or_qlora.ipynb", tmp_path, LANE="tiny", STEPS=2, SEEDS=(1, 2), ROWS=16
    )
    assert "6 of 6: full fine-tuning, seed 2: " in printed(notebook, "await wb.contest")
    table = shown(notebook, "await wb.contest")
    assert "3 methods, 2 seeds, 2 steps each, 16 held-out rows; CPU, float32" in table
    assert "327,680" in table and "3,803,392" in table
    assert shown(notebook, "wb.picture(contest)", "image/png")
    assert "nats per token" in printed(notebook, "contest.verdict")
    assert "times less" in printed(notebook, "four, sixteen")
    assert len(printed(notebook, "for name in contest.entries").splitlines()) == 3
    assert printed(notebook, "recorded()")
    kept = Contest.load(tmp_path / "outputs" / "contest.json")
    assert kept.verdict in printed(notebook, "contest.verdict")


@pytest.mark.slow
def test_07_runs_what_can_run_here_and_shows_what_was_recorded(tmp_path):
    notebook = execute("07_two_backends.ipynb", tmp_path, LANE="tiny", STEPS=4)
    assert "BitsAndBytesConfig" in shown(notebook, "two_paths.peft(recipe)", "text/html")
    assert "FastLanguageModel" in shown(notebook, "two_paths.unsloth(recipe)", "text/html")
    assert "5 of " in printed(notebook, "same = [")
    assert "use_bf16_immediately" in shown(notebook, "corrections.corrections()", "text/html")
    assert "2.1" in printed(notebook, "more = 2 *")
    assert shown(notebook, "wb.picture(runs)", "image/png")
    assert "PEFT" in shown(notebook, "here = two_backends", "text/html")
    assert "within the tolerance of 0.0001" in shown(notebook, "cpu, *on_cards")
    assert shown(notebook, "drawn.picture(cpu)", "image/png")
    assert "GiB with Unsloth" in printed(notebook, "plans = [")
    assert len(list((tmp_path / "outputs").glob("peft-*/adapter/adapter_config.json"))) == 1
