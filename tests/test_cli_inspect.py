"""`workbench inspect`: what it says and where, what it asks the inspections for, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from workbench import inspect_cli
from workbench.cli import main
from workbench.inspection import contest, mixing, quantization, truncation

ROOT = Path(__file__).parents[1]
TINY = ROOT / "data" / "tiny" / "model"


@pytest.fixture
def inspect(capsys):
    """Runs the command; returns its exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["inspect", *map(str, arguments)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.fixture
def one_block(tmp_path) -> Path:
    """The tiny model with its first attention alone: seconds are the process's start."""
    folder = tmp_path / "one-block"
    folder.mkdir()
    (folder / "config.json").write_text((TINY / "config.json").read_text())
    weights = load_file(TINY / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "layers.0.self_attn" in name}
    save_file(kept, folder / "model.safetensors")
    return folder


@pytest.fixture
def asked(monkeypatch) -> dict:
    """What the other inspections were asked for; they find a text."""
    seen: dict = {}

    class Found:
        broken = ()

        def __str__(self) -> str:
            return "rank 4; wb.truncate_adapter(…, rank=4) measures what that costs. \x1b[2J"

        def as_dict(self) -> dict:
            return {"rank": 4, "loss": float("nan")}

        def save(self, path: Path) -> None:
            path.write_text("{}")

    def heard(name: str):
        async def inspection(*given: object, **how: object) -> Found:
            seen.update(name=name, given=given, how=how)
            return Found()

        return inspection

    monkeypatch.setattr(quantization, "inspect_quantization", heard("quantization"))
    monkeypatch.setattr(truncation, "truncate_adapter", heard("truncate"))
    monkeypatch.setattr(mixing, "mix_adapters", heard("mix"))
    monkeypatch.setattr(contest, "contest", heard("contest"))
    return seen


# Quantization


def test_a_recipe_is_inspected_and_a_broken_layer_is_an_exit_code(inspect, one_block, tmp_path):
    weights = load_file(one_block / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.weight"][0, 0] = float("nan")
    save_file(weights, one_block / "model.safetensors")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: {{name: {one_block}, double_quant: false}}\n")
    code, out, err = inspect("quantization", recipe, "--fp4", "--json")
    told = json.loads(out)
    assert code == 2 and err.startswith("layer 1 of 4: ")
    assert told["broken"] == [{"name": "model.layers.0.self_attn.q_proj", "count": 1}]
    assert (told["quant_type"], told["double_quant"], told["others"]) == ("fp4", False, None)
    assert {layer["module"] for layer in told["layers"]} == {"k_proj", "v_proj", "o_proj"}
    assert told["worst"][0] == "model.layers.0.self_attn.o_proj"


def test_what_is_given_goes_before_the_recipe(inspect, asked):
    assert inspect("quantization", "some/model", "--revision", "v1", "--compare")[0] == 0
    how = {"quant_type": None, "double_quant": None, "compare": True, "revision": "v1"}
    assert {name: asked["how"][name] for name in how} == how
    inspect("quantization", "some/model", "--no-double-quant", "--fp4")
    assert (asked["how"]["quant_type"], asked["how"]["double_quant"]) == ("fp4", False)


def test_what_cannot_be_used_is_told_on_standard_error_and_in_json(inspect, tmp_path):
    code, out, err = inspect("quantization", tmp_path / "nowhere", "--json")
    assert code == 2
    (problem,) = json.loads(out)["problems"]
    assert "does not exist" in problem["fact"] and problem["fact"] in err
    code, out, err = inspect("quantization", tmp_path / "no.yaml")
    assert (code, out) == (2, "") and "no.yaml" in err


def test_ctrl_c_ends_it_at_once_and_leaves_no_process(one_block):
    command = [sys.executable, "-m", "workbench", "inspect", "quantization", str(one_block)]
    begun = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    children = Path(f"/proc/{begun.pid}/task/{begun.pid}/children")
    if not children.exists():
        begun.kill()
        pytest.skip("this system does not tell a process's children")
    while not (child := children.read_text().split()):
        assert begun.poll() is None
        time.sleep(0.02)
    os.kill(begun.pid, signal.SIGINT)
    _, err = begun.communicate(timeout=60)
    assert begun.returncode == 130
    assert "Traceback" not in err
    assert not Path(f"/proc/{child[0]}").exists()


# The others


def test_an_adapter_is_inspected(inspect, tmp_path):
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    torch.manual_seed(0)
    factors = {
        f"{name}.lora_A.weight": torch.randn(4, 256),
        f"{name}.lora_B.weight": torch.randn(256, 4),
    }
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["q_proj"]}
    save_file(factors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(
        json.dumps(settings | {"base_model_name_or_path": str(TINY)})
    )
    code, out, err = inspect("adapter", tmp_path, "--json")
    assert (code, err) == (0, "")
    (update,) = json.loads(out)["updates"]
    assert update["module"] == "q_proj" and update["rank"] == 4


def test_truncating_asks_for_a_rank_or_a_share_of_the_energy(inspect, asked):
    code, out, _ = inspect("truncate", "lamp", "--rank", 4, "--to", "small", "--rows", 0)
    assert (code, asked["name"], asked["given"]) == (0, "truncate", ("lamp",))
    how = {name: asked["how"][name] for name in ("rank", "energy", "to", "rows", "base")}
    assert how == {"rank": 4, "energy": None, "to": Path("small"), "rows": 0, "base": None}
    assert "workbench inspect truncate lamp --rank 4 measures what that costs." in out
    assert "\x1b" not in out
    for wrong in ([], ["--rank", "4", "--energy", "0.9"]):
        with pytest.raises(SystemExit) as ended:
            inspect("truncate", "lamp", *wrong)
        assert ended.value.code == 2


def test_mixing_asks_the_base_each_alone_and_all_together(inspect, asked):
    prompts = ["--prompt", "one", "--prompt", "two"]
    assert inspect("mix", "lamp=1", "a=b/oak=-0.5", *prompts)[0] == 0
    assert asked["given"] == (
        [{}, {"lamp": 1.0}, {"a=b/oak": -0.5}, {"lamp": 1.0, "a=b/oak": -0.5}],
        ["one", "two"],
    )
    assert "system" not in asked["how"]
    assert inspect("mix", "lamp", "--prompt", "one", "--system", "")[0] == 0
    assert asked["given"][0] == [{}, {"lamp": 1.0}] and asked["how"]["system"] == ""
    code, out, err = inspect("mix", "lamp=much", "--prompt", "one")
    assert (code, out) == (2, "")
    assert err == "The weight of lamp is 'much', which is no number. Give one: lamp=0.5.\n"
    assert inspect("mix", "lamp=1", "lamp=2", "--prompt", "one")[0] == 2


def test_a_contest_gets_a_recipe_seeds_and_steps_and_may_be_kept(inspect, asked, tmp_path):
    given = ["--seeds", "1, 2", "--steps", 5, "--set", "lora.rank=2", "--save", tmp_path / "c.json"]
    code, out, err = inspect("contest", ROOT / "data" / "tiny" / "recipe.yaml", *given, "--json")
    assert (code, json.loads(out)) == (0, {"rank": 4, "loss": None})
    assert asked["given"][0].lora.rank == 2
    assert (asked["how"]["seeds"], asked["how"]["steps"]) == ((1, 2), 5)
    assert asked["how"]["keep"] == tmp_path / "c.json" and "c.json" in err
    code, out, err = inspect("contest", "some/model", "--seeds", "one")
    assert (code, out) == (2, "")
    assert "--seeds is 'one'; seeds are whole numbers with commas between." in err


def test_progress_is_one_line_on_a_terminal_and_lines_elsewhere(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with inspect_cli._progress() as told:
        told("layer 1 of 2:\n\x1b[31mred")
    lines = capsys.readouterr().err.split(inspect_cli.CLEAR)
    assert lines[1] == "loading torch and bitsandbytes"
    assert lines[2].startswith("layer 1 of 2: ") and "\n" not in lines[2] and lines[3] == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    with inspect_cli._progress() as told:
        told("1 of 9:\ndone")
        told("2 of 9: too soon for a log")
    assert capsys.readouterr().err == "1 of 9: done\n"


@pytest.mark.parametrize("what", ["quantization", "adapter", "truncate", "mix", "contest"])
def test_each_help_has_an_example(what, capsys):
    with pytest.raises(SystemExit):
        main(["inspect", what, "--help"])
    assert f"For example: workbench inspect {what} " in " ".join(capsys.readouterr().out.split())
