"""`workbench plan` through `main` and as a process: what it says, where, how soon, and with which exit code it ends."""

import json
import re
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_memory_anchors import NOTEBOOKS, reserved
from test_models import write_header

from workbench import machine
from workbench.cli import main
from workbench.memory import gpus, known, learned, place, planning
from workbench.memory.question import Question
from workbench.recipe import Recipe

ROOT = Path(__file__).parents[1]
TINY = ROOT / "data" / "tiny" / "recipe.yaml"
LLAMA = "meta-llama/Llama-3.1-8B"
Plan = Callable[..., tuple[int, str, str]]


@pytest.fixture
def plan(capsys, tmp_path) -> Plan:
    """Runs the command with an empty outputs folder; returns its exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        given = [*map(str, arguments)]
        if "--outputs" not in given:
            given += ["--outputs", str(tmp_path / "outputs")]
        code = main(["plan", *given])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


# For people


def test_the_text_is_that_of_the_plan(plan: Plan, tmp_path: Path):
    code, out, err = plan(LLAMA, "--card", "T4")
    same = planning.plan(Recipe(model={"name": LLAMA}), card="T4", outputs=tmp_path / "outputs")
    assert (code, out, err) == (0, f"{same}\n", "")
    assert "fits in 14.56 GiB of Tesla T4" in out
    assert "Nothing was measured on this card yet: the estimate is by formula alone." in out


@pytest.mark.parametrize("name", ["rtx 4090", "NVIDIA GeForce RTX 4090", "RTX4090"])
def test_a_card_may_be_spelt_in_several_ways(plan: Plan, name: str):
    assert "GiB of NVIDIA GeForce RTX 4090." in plan(LLAMA, "--card", name)[1]


def test_without_a_card_it_is_this_machine(plan: Plan):
    here = machine.look()
    told = json.loads(plan(TINY, "--json")[1])
    assert told["card"] == (here.cards[0].name if here.cards else "CPU")


def test_what_does_not_fit_ends_with_3_and_the_command_that_makes_it_fit(plan: Plan):
    code, out, err = plan(LLAMA, "--vram", "9.8GiB", "--set", "training.batch_size=16")
    assert (code, err) == (3, "")
    command = re.search(r"^With that it fits: workbench plan (.+)$", out, re.M)[1]
    code, out, _ = plan(*shlex.split(command))
    assert code == 0 and "With that it fits" not in out


def test_it_says_so_when_no_setting_helps(plan: Plan):
    code, out, _ = plan(LLAMA, "--vram", "2GiB")
    assert code == 3
    assert out.endswith("\nNo setting makes it fit there: take a larger card or a smaller model.\n")


# For programs


def test_the_json_has_all_figures_in_bytes_and_the_parts_sum_to_what_is_expected(plan: Plan):
    code, out, err = plan(LLAMA, "--card", "T4", "--json")
    told = json.loads(out)
    assert (code, err) == (0, "")
    assert told["fits"] is True and told["verdict"] == "fits"
    assert told["measured_runs"] == 0
    assert sum(told["parts"].values()) == told["expected"]
    assert all(isinstance(part, int) and part >= 0 for part in told["parts"].values())
    assert 0 < told["floor"] <= told["expected"] <= told["safe"] <= told["free"]
    assert {"weights", "scales", "adapters", "optimizer", "loss", "context"} <= set(told["parts"])
    assert all({"text", "saves", "settings", "harm"} <= set(one) for one in told["advice"])


@pytest.mark.parametrize("card", gpus.names())
def test_exit_code_verdict_and_sizes_agree_on_every_card(plan: Plan, card: str):
    code, out, _ = plan("Qwen/Qwen3-14B", "--card", card, "--json")
    told = json.loads(out)
    assert code == (0 if told["fits"] else 3)
    assert told["fits"] == (told["verdict"] == "fits")
    if told["fits"]:
        assert told["safe"] <= told["free"]
    if told["verdict"] == "does not fit":
        assert told["expected"] > told["free"]


def test_a_setting_is_changed(plan: Plan):
    adapters = [
        json.loads(plan(LLAMA, "--card", "T4", "--json", f"--set=lora.rank={rank}")[1])["parts"][
            "adapters"
        ]
        for rank in (8, 16)
    ]
    assert adapters[1] == 2 * adapters[0]


def test_with_the_rows_it_knows_the_longest_one(plan: Plan):
    blind, seen = (
        json.loads(plan(TINY, "--json", "--vram", "8GiB", *more)[1]) for more in ((), ("--rows",))
    )
    assert blind["longest"] == 128 and seen["longest"] < 128
    assert seen["expected"] < blind["expected"]
    assert "The rows were not read: each is taken to fill 128 tokens." in blind["notes"]
    assert not any("rows were not read" in note for note in seen["notes"])


def test_rows_that_cannot_be_read_are_told(plan: Plan, tmp_path: Path):
    recipe = Recipe(model={"name": LLAMA}, data={"train": str(tmp_path / "none.jsonl")})
    path = recipe.save(tmp_path / "recipe.yaml")
    code, out, err = plan(path, "--card", "T4", "--rows")
    assert code == 0 and "fits in" in out
    assert err == ""
    fact = f"The data file {tmp_path / 'none.jsonl'} cannot be read: No such file or directory"
    assert f"The rows could not be counted ({fact}): each is taken to fill 2,048 tokens." in out


def test_what_earlier_runs_measured_is_taken_in(plan: Plan, tmp_path: Path):
    _, out, _ = plan(LLAMA, "--card", "T4", "--json")
    raw = json.loads(out)
    outputs = tmp_path / "measured"
    outputs.mkdir()
    like = learned.key("Tesla T4", raw["backend"], machine.look().versions)
    static = sum(raw["parts"][name] for name in learned.STATIC)
    moving = raw["expected"] - static
    lines = [
        {
            **like,
            "predicted": {"parts": raw["parts"]},
            "measured": {"weights": static, "reserved": static + round(moving * ratio)},
        }
        for ratio in (1.1, 1.2, 1.3)
    ]
    (outputs / learned.FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = json.loads(plan(LLAMA, "--card", "T4", "--json", "--outputs", outputs)[1])
    assert told["measured_runs"] == 3
    assert told["expected"] == pytest.approx(static + 1.2 * moving, rel=1e-3)
    assert "over 3 runs)" in plan(LLAMA, "--card", "T4", "--outputs", outputs)[1]
    assert json.loads(plan(LLAMA, "--card", "L4", "--json", "--outputs", outputs)[1])["measured_runs"] == 0  # fmt: skip


# Lists


def test_it_lists_the_cards(plan: Plan):
    code, out, _ = plan("--cards")
    assert code == 0
    assert re.search(r"^T4 +14\.6 GiB +65 TFLOP/s +320 GB/s +Tesla T4$", out, re.M)
    cards = json.loads(plan("--cards", "--json")[1])
    assert [card["name"] for card in cards] == gpus.names()
    assert all(card["memory"] > 2**30 for card in cards)


def test_it_lists_the_models(plan: Plan):
    code, out, _ = plan("--models")
    assert code == 0
    assert re.search(r"^meta-llama/Llama-3\.1-8B +8\.03 billion parameters$", out, re.M)
    models = json.loads(plan("--models", "--json")[1])
    assert [model["model"] for model in models] == known.names()
    assert {"model": LLAMA, "parameters": 8_030_261_248, "context_length": 131_072} in models


def test_the_table_in_the_readme_is_what_the_command_prints(plan: Plan):
    code, out, _ = plan("--table")
    assert code == 0
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = text.partition("<!-- plan-table -->\n")[2].partition("<!-- /plan-table -->")[0]
    assert shown == out, "make table writes it anew"


def test_the_errors_below_the_table_are_those_of_the_published_runs(plan: Plan):
    rows = [row for row in NOTEBOOKS if row["setup"]["card"] == "T4"]
    peaks = [row["measured"]["peak_reserved_gib"] * 2**30 for row in rows]
    errors = [abs(reserved(row) / peak - 1) for row, peak in zip(rows, peaks, strict=True)]
    said = (
        f"off by {100 * statistics.mean(errors):.0f} % on average and {100 * max(errors):.0f} % at worst "
        f"for {len(rows)} peaks that Unsloth's notebooks published from a T4"
    )
    assert said in plan("--table")[1]


def test_the_table_says_what_the_command_says_of_each_model_and_card(plan: Plan):
    cells = json.loads(plan("--table", "--json")[1])
    cards = list(dict.fromkeys(cell["card"] for cell in cells))
    models = list(dict.fromkeys(cell["model"] for cell in cells))
    assert len(models) >= 14 and len(cells) == len(models) * len(cards)
    lines = plan("--table")[1].splitlines()
    words = {"fits": "fits", "tight": "tight", "does not fit": "no"}
    assert {cell["verdict"] for cell in cells} == set(words)  # it shows each of them once
    for model, line in zip(models, lines[2:], strict=False):
        mine = [cell for cell in cells if cell["model"] == model]
        told = [f"{cell['expected'] / 2**30:.1f} {words[cell['verdict']]}" for cell in mine]
        assert line == f"| {model.rpartition('/')[2]} | {' | '.join(told)} |"
    for cell in cells[:: len(cells) // 5]:
        one = json.loads(
            plan(cell["model"], "--card", cell["card"], "--json", "--set=backend=unsloth")[1]
        )
        assert one["verdict"] == cell["verdict"]
        assert one["expected"] == pytest.approx(cell["expected"], rel=0.001)


# How soon, and without what


def ran(*arguments: object) -> tuple[float, float, set[str]]:
    """Seconds that the command takes as a process, those of its processor, and the packages that it loaded."""
    code = (
        "import json, sys\nfrom workbench.cli import main\n"
        f"code = main({['plan', *map(str, arguments)]!r})\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})), file=sys.stderr)\n"
        "sys.exit(code)"
    )
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    taken, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert out.returncode in (0, 3), out.stderr
    assert "to be safe" in out.stdout
    return taken, worked, set(json.loads(out.stderr.splitlines()[-1]))


@pytest.mark.parametrize("what", [LLAMA, TINY])
def test_the_command_takes_less_than_a_second_and_no_torch(what: object):
    taken, worked, packages = zip(*(ran(what, "--card", "T4") for _ in range(5)), strict=True)
    heavy = {"torch", "transformers", "pandas", "numpy", "datasets", "matplotlib", "ipywidgets"}
    assert not heavy & packages[0]
    assert min(worked) < 1  # on a machine that others use too, its clock tells more of them
    assert min(taken) < 2


def test_an_estimate_takes_less_than_5_milliseconds():
    where, taken = place.there(gpus.find("T4")), []
    for name in known.names():
        recipe, shapes = Recipe(model={"name": name}), known.find(name)
        began = time.perf_counter()
        question = Question(recipe, shapes, "unsloth", where)
        assert question.bounds.expected == question.estimate.expected > 0
        assert question.verdict
        taken.append(time.perf_counter() - began)
    assert statistics.median(taken) < 0.005


# What cannot be used: a sentence each, exit code 2, nothing on standard output

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 512,
}
LAYERS = {"model.embed_tokens.weight": ("F16", [512, 64])}
for number in range(SIZES["num_hidden_layers"]):
    for module in ("q_proj", "k_proj", "v_proj", "o_proj"):
        LAYERS[f"model.layers.{number}.self_attn.{module}.weight"] = ("F16", [64, 64])


def folder(path: Path, config: object, tensors: dict | None = None) -> Path:
    """A model folder with headers for weights; with `tensors={}` without any."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").write_text("{}")
    if tensors := LAYERS if tensors is None else tensors:
        write_header(path / "model.safetensors", tensors)
    return path


def refused(plan: Plan, *arguments: object) -> list[str]:
    """What it says on standard error, line by line."""
    code, out, err = plan(*arguments)
    assert (code, out) == (2, "")
    return err.splitlines()


def test_of_an_unknown_architecture_it_says_what_is_not_known_and_estimates_the_rest(plan, tmp_path):  # fmt: skip
    config = SIZES | {"model_type": "mystery"}
    model = folder(tmp_path / "model", config, {"a.weight": ("F16", [3, 3])})
    code, out, err = plan(model, "--card", "T4")
    assert (code, err) == (0, "")
    assert "fits in 14.56 GiB of Tesla T4" in out
    assert [line for line in out.splitlines() if line.startswith("Not known: ")] == [
        "Not known: whether the head shares the embeddings' weights (assumed: it does not).",
        "Not known: the architecture mystery: counted like Llama's, with q, k, v and o, a gated MLP and two norms in a block.",
        "Not known: the layers' exact figures: they follow from config.json, not from the weights' headers.",
    ]
    assert json.loads(plan(model, "--card", "T4", "--json")[1])["unknown"]


def test_a_card_that_is_not_known(plan: Plan):
    assert refused(plan, LLAMA, "--card", "RTX490") == [
        "No card is known by the name 'RTX490'; near it are RTX4090. "
        "For any other card give its memory: --vram 16GiB."
    ]


def test_a_card_that_is_several(plan: Plan):
    assert refused(plan, LLAMA, "--card", "A100") == [
        "'A100' is the name of 2 cards: A100-40GB, A100-80GB. Give one of these names."
    ]


@pytest.mark.parametrize(
    ("size", "told"),
    [
        ("0", "'0' is not a size of memory; it must be above zero."),
        ("-3", "'-3' is not a size of memory; it must be above zero."),
        ("-16GiB", "'-16GiB' is not a size of memory; it must be above zero."),
        ("1600000", "'1600000' is more than 4 TiB; no card has that."),
        ("much", "'much' is not a size of memory."),
        ("16PB", "'16PB' is not a size of memory."),
        ("nan", "'nan' is not a size of memory."),
    ],
)
def test_a_size_that_no_card_has(plan: Plan, size: str, told: str):
    assert refused(plan, LLAMA, f"--vram={size}") == [f"{told} Write it like 16GiB."]


def test_a_card_and_a_size(plan: Plan):
    assert refused(plan, LLAMA, "--card", "T4", "--vram", "16GiB") == [
        "Both a card (T4) and a size (16GiB) are given; only one of them can be meant. Leave one out."
    ]


def test_a_configuration_without_the_needed_fields(plan: Plan, tmp_path: Path):
    model = folder(tmp_path / "model", {"model_type": "llama", "hidden_size": 64})
    assert refused(plan, model) == [
        f"{model} has no {name}. Take the config.json that the model came with."
        for name in ("num_hidden_layers", "vocab_size")
    ]


def test_a_configuration_with_absurd_sizes(plan: Plan, tmp_path: Path):
    model = folder(tmp_path / "model", SIZES | {"hidden_size": -3, "vocab_size": 10**15})
    assert refused(plan, model) == [
        "hidden_size is -3; it must be a whole number from 1 to 262,144. "
        "Take the config.json that the model came with.",
        "vocab_size is 1000000000000000; it must be a whole number from 1 to 8,388,608. "
        "Take the config.json that the model came with.",
    ]


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_a_model_that_is_quantized_otherwise_already(plan: Plan, tmp_path: Path, method: str):
    config = SIZES | {"model_type": "llama", "quantization_config": {"quant_method": method}}
    model = folder(tmp_path / "model", config)
    assert refused(plan, model) == [
        f"The weights of {model} are quantized with {method}, which QLoRA cannot start from. "
        "Give the model's 16-bit version."
    ]


def test_a_config_alone_is_enough(plan: Plan, tmp_path: Path):
    model = tmp_path / "model"
    model.mkdir()
    config = SIZES | {"model_type": "llama"}
    (model / "config.json").write_text(json.dumps(config))
    code, out, err = plan(model, "--card", "T4", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["trainable"] > 0
    (model / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "gptq"}})
    )
    (said,) = refused(plan, model)
    assert "quantized with gptq, which QLoRA cannot start from" in said
    (model / "config.json").write_text("no json")
    assert any("is not a JSON object" in line for line in refused(plan, model))


def test_a_folder_that_is_not_there(plan: Plan, tmp_path: Path):
    model = tmp_path / "model"
    assert refused(plan, model) == [
        f"The model folder {model} does not exist. The nearest folder that exists is {tmp_path}."
    ]


def test_a_model_that_is_not_known_and_cannot_be_looked_up(plan: Plan):
    there = "is not on this machine, and the hub cannot be read: HF_HUB_OFFLINE is set."
    cure = "Unset HF_HUB_OFFLINE, or give a folder that holds the model (./model)."
    assert refused(plan, "Nobody/Knows-It") == [f"Nobody/Knows-It {there} {cure}"]
    assert refused(plan, "Qwen/Qwen9-14B") == [
        f"Qwen/Qwen9-14B {there} {cure} "
        "The table of known models has Qwen/Qwen3-14B, Qwen/Qwen3-4B, Qwen/Qwen2.5-14B."
    ]


def test_a_recipe_that_is_not_yaml(plan: Plan, tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_text("model: [1")
    (told,) = refused(plan, path)
    assert told.startswith("The recipe is not valid YAML: ")
    assert told.endswith(" Correct that line.")
    path.write_text("just words")
    assert refused(plan, path) == [
        "The recipe is a str; it must be a table of settings. Begin with a line such as 'model:'."
    ]
    path.write_bytes(b"\xff\xfe\x00")
    assert refused(plan, path) == [
        f"The recipe {path} cannot be read: it is not UTF-8 text. Give the path of a YAML file."
    ]
    path.unlink()
    assert refused(plan, path) == [
        f"The recipe {path} cannot be read: No such file or directory. Give the path of a YAML file."
    ]


def test_all_settings_that_are_wrong_are_told_at_once(plan: Plan):
    assert refused(plan, LLAMA, "--set", "lora.rank=0", "--set", "rank=1") == [
        "rank is not a setting. Did you mean lora.rank?",
        "lora.rank is 0; it must be at least 1. 8 or 16 is a good start.",
    ]


def test_problems_of_card_and_model_are_told_together_and_as_json_too(plan: Plan):
    code, out, err = plan("Nobody/Knows-It", "--card", "RTX490", "--json")
    problems = json.loads(out)["problems"]
    assert code == 2 and len(problems) == 2
    assert err.splitlines() == [f"{p['fact']} {p['cure']}" for p in problems]


def test_settings_without_anything_to_plan_are_refused(plan: Plan):
    assert refused(plan, "--table", "--card", "T4", "--rows") == [
        "--card and --rows do nothing without a recipe or a model. Name one: workbench plan RECIPE.yaml."
    ]
    with pytest.raises(SystemExit) as ended:
        plan()
    assert ended.value.code == 2
