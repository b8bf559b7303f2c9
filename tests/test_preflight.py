"""What stands in the way of a run is known before a worker starts, all of it at once, in one sentence and a cure."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from workbench import preflight
from workbench.machine import GIB, Card, Machine, look
from workbench.recipe import Recipe

TINY = Path(__file__).parents[1] / "data" / "tiny"
MODEL = str(TINY / "model")
T4 = Card("Tesla T4", 0, 15 * GIB, 14 * GIB, "550.54.15", (7, 5))


@pytest.fixture(scope="module")
def here() -> Machine:
    return look()


@pytest.fixture
def says(tiny: Recipe, here: Machine):
    def says(machine: Machine = here, **changes: object) -> list[str]:
        return [str(problem) for problem in preflight.check(tiny.replace(**changes), machine)]

    return says


def test_the_tiny_lane_passes_without_heavy_imports() -> None:
    program = (
        "import sys; from workbench import preflight; from workbench.recipe import Recipe\n"
        "found = preflight.check(Recipe.load(sys.argv[1]))\n"
        "print(found, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(TINY / "recipe.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False False"


def test_everything_that_is_wrong_comes_at_once(says, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"messages": [{"role": "user", "content": "Hi"}]}))
    found = says(
        model={"max_length": 4096, "compute_dtype": "float16"},
        lora={"target_modules": ["q_prj", "o_proj"], "modules_to_save": ["embed_token"]},
        data={"train": str(rows), "heldout": str(tmp_path / "gone.jsonl")},
        backend="unsloth",
    )
    has = "has q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj."
    assert found == [
        f"model.max_length is 4,096, but {MODEL} was made for at most 512 tokens. Set it to 512 or less.",
        f"lora.target_modules holds q_prj, which {MODEL} does not have. Did you mean q_proj? It {has}",
        f"lora.modules_to_save holds embed_token, which {MODEL} does not have. It {has}",
        "Unsloth needs an NVIDIA GPU, and none was found."
        " Set backend to auto or peft, or use a machine with a GPU.",
        "model.compute_dtype is float16; on a CPU the loss is not scaled for it, so small gradients become 0. Set it to auto, which takes float32 here.",
        "rows.jsonl, row 1: it has no assistant turn, only user. Add the answer to learn, or remove the row.",
        f"The data file {tmp_path}/gone.jsonl cannot be read: No such file or directory."
        " Give the path of a file or folder, or a name on the hub such as tatsu-lab/alpaca.",
    ]


def test_head_and_embedding_are_modules_that_the_model_has(says) -> None:
    assert (
        says(
            lora={
                "target_modules": ["self_attn.q_proj", "lm_head"],
                "modules_to_save": ["embed_tokens"],
            }
        )
        == []
    )


def test_a_model_that_is_not_there_hides_no_other_problem(says) -> None:
    found = says(model={"name": f"{TINY}/modle"}, backend="unsloth")
    assert found[0] == f"The model folder {TINY}/modle does not exist. Did you mean {MODEL}?"
    assert "Unsloth needs an NVIDIA GPU" in found[1]
    (offline,) = says(model={"name": "owner/model"})
    assert offline == (
        "owner/model is not on this machine, and the hub cannot be read: HF_HUB_OFFLINE is set."
        " Unset HF_HUB_OFFLINE, or give a folder that holds the model (./model)."
    )


def test_held_out_rows_that_are_trained_on_are_refused(says, tmp_path: Path) -> None:
    train = TINY / "train.jsonl"
    assert says(data={"heldout": str(train)}) == [
        f"data.heldout is {train}, the same file as data.train, so it could not tell learning from memorizing."
        " Give rows that are not trained on, or leave it out."
    ]
    some = tmp_path / "some.jsonl"
    some.write_text("\n".join(train.read_text().splitlines()[:10]))
    assert says(data={"heldout": str(some)}) == [
        "All 10 held-out rows are training rows too, so they could not tell learning from memorizing."
        " Take them out of the training rows."
    ]


def test_scoring_needs_heldout_rows(says) -> None:
    alone = {"heldout": None, "heldout_share": 0}
    assert says(data=alone, samples={"score_rows": 5}) == [
        "samples.score_rows is 5, but there are no held-out rows to score."
        " Give data.heldout, or set samples.score_rows to 0.",
    ]
    assert says(data=alone, samples={"score_rows": 0}) == []


def test_rows_are_held_out_where_no_file_is_given(says) -> None:
    assert says(data={"heldout": None}, samples={"score_rows": 5}) == []


def test_rows_that_teach_nothing_are_refused_before_a_worker_starts(says) -> None:
    assert says(model={"max_length": 16}) == [
        "Nothing is left to learn in any of the 2,400 rows: 2,400 are longer than 16 tokens and were cut before"
        " their answers begin. Raise model.max_length; the longest is row 113 with 82 tokens."
    ]
    assert says(data={"loss_on": ["tool"]}) == [
        "Nothing is left to learn in any of the 2,400 rows: no turn has the role tool, which data.loss_on names."
        " Set data.loss_on to assistant, or to the roles that the rows have."
    ]


def test_what_this_machine_cannot_compute_is_refused(says, here: Machine) -> None:
    card = Machine(
        cards=(T4,), versions={**here.versions, "torch": "2.11.0"}, disk_free=here.disk_free
    )
    assert says(card, model={"compute_dtype": "bfloat16"}) == [
        "model.compute_dtype is bfloat16, which Tesla T4 does not have. Set it to auto, which takes float16 here."
    ]
    bare = Machine(
        versions={k: v for k, v in here.versions.items() if k not in ("bitsandbytes", "trl")}
    )
    assert says(bare) == ["Not installed: trl, bitsandbytes. pip install -r requirements-cpu.txt."]
    assert "bitsandbytes" not in says(bare, model={"load_in_4bit": False})[0]


def test_weights_that_are_quantized_already_are_told_apart(says, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(MODEL, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())

    def quantized_by(method: str) -> str:
        (folder / "config.json").write_text(
            json.dumps({**config, "quantization_config": {"quant_method": method}})
        )
        return str(folder)

    assert says(model={"name": quantized_by("bitsandbytes")}) == []
    assert says(model={"name": str(folder), "load_in_4bit": False}) == [
        f"model.load_in_4bit is false, but the weights of {folder} are stored quantized."
        " Set it to true, or give the model's 16-bit version."
    ]
    assert says(model={"name": quantized_by("gptq")}) == [
        f"The weights of {folder} are quantized with gptq, which QLoRA cannot start from."
        " Give the model's 16-bit version."
    ]


def test_a_run_that_the_disk_cannot_hold_is_refused(tiny, here, tmp_path, monkeypatch) -> None:
    usage = shutil._ntuple_diskusage(GIB, GIB, 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    (problem,) = preflight.check(tiny, here, outputs=tmp_path / "not" / "yet")
    assert problem.fact.startswith("The run needs ")
    assert problem.fact.endswith(
        f" MiB of disk for its adapter and checkpoints, and {tmp_path} has 1.0 MiB free."
    )
