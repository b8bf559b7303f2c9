"""Two backends side by side, and the scripts by hand: what is kept and shown, and that the scripts do what they say."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from workbench.charts import two_backends as charted
from workbench.inspection import corrections, two_backends, two_paths
from workbench.inspection.two_backends import Side, TwoBackends
from workbench.problems import RecipeError, RunError

ROOT = Path(__file__).parents[1]
CPU = {"card": None, "precision": "float32", "date": "2026-11-25", "versions": {"trl": "1.14.2"}}
CARD = CPU | {"card": "Tesla <T4>", "precision": "float16"}
SIDES = (
    Side("unsloth", (2.0, 1.0), 1.1, 0.5, 1000.0, 2**30),
    Side("peft", (2.0, 1.00005), 1.1, 1.0, 500.0, 2**31),
)


def made(machine=CPU, sides=SIDES, **more) -> TwoBackends:
    return TwoBackends(sides, "tiny", machine, "model: {}", **more)


def test_what_is_saved_is_read_again(tmp_path):
    found = made(notes=("A note.",))
    assert TwoBackends.load(found.save(tmp_path / "a.json")) == found
    json.dumps(found.as_dict(), allow_nan=False)


def test_a_file_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(RunError, match="holds no comparison of two backends"):
        TwoBackends.load(tmp_path / "a.json")
    with pytest.raises(RunError, match="cannot be read: No such file"):
        TwoBackends.load(tmp_path / "b.json")


def test_in_float32_every_step_counts_and_in_16_bits_the_mean():
    exact, rounded = made(), made(CARD)
    assert exact.difference == pytest.approx(5e-5, rel=1e-3) and exact.agree
    assert rounded.difference == pytest.approx(5e-5 / 3, rel=1e-2)
    apart = (SIDES[0], replace(SIDES[1], losses=(2.02, 1.0)))
    assert made(sides=apart).agree is False and made(CARD, apart).agree is True
    alone = made(sides=SIDES[1:])
    assert alone.difference is None and alone.agree is None
    assert "nothing to compare with" in str(alone)


def test_it_is_told_in_words_and_as_a_table():
    found = made(CARD, notes=("<b>A note.",))
    assert "Tesla <T4>, float16, 2026-11-25." in str(found)
    assert "1,000" in str(found) and "2.00 GiB" in str(found)
    shown = found._repr_html_()
    assert "Tesla &lt;T4&gt;" in shown and "&lt;b&gt;A note." in shown and "<script" not in shown
    untimed = made(sides=tuple(Side(s.backend, s.losses) for s in SIDES))
    assert "tokens/s" not in str(untimed) and "held out" not in untimed._repr_html_()


@pytest.mark.parametrize("found", [made(), made(CARD), made(sides=SIDES[1:])])
def test_it_is_drawn(found):
    picture = charted.picture(found)
    assert picture.image.startswith(b"\x89PNG") and found.model in repr(picture)


def test_a_run_alone_stands_for_itself_and_twice_it_is_refused(trained):
    found = two_backends.two_backends([trained])
    assert [side.backend for side in found.sides] == ["peft"] and len(found.sides[0].losses) == 12
    assert found.sides[0].step_seconds > 0 and found.sides[0].peak_bytes > 2**20
    assert found.exact and found.machine["versions"]["trl"] and found.agree is None
    assert found.sides[0].heldout_loss == trained.history.evals[-1]["loss"]
    with pytest.raises(RunError, match="it takes one of each backend"):
        two_backends.two_backends([trained, trained])
    with pytest.raises(RunError, match="The runs are none"):
        two_backends.two_backends([])


def test_what_the_repository_keeps_agrees_and_says_where_it_is_from():
    first, *others = two_backends.recorded()
    assert first.machine["card"] is None and first.exact
    assert {side.backend for side in first.sides} == {"unsloth", "peft"}
    assert first.agree and first.difference <= two_backends.EXACT
    assert first.machine["versions"]["unsloth"] and "a CPU, without a GPU" in str(first)
    assert all(side.step_seconds is None for side in first.sides)  # they would say nothing
    assert first.sides[0].losses[-1] < first.sides[0].losses[0] / 2
    assert all(one.machine["card"] for one in others)


def test_no_place_on_somebodys_disk_is_kept():
    assert not re.search(r"/(tmp|home|work|root)/", two_backends.ON_CPU.read_text())


# The scripts by hand


@pytest.fixture(scope="module")
def by_hand(tiny, tmp_path_factory):
    """What the script with PEFT did with the tiny model in two steps, and what Transformers and TRL say to old calls."""
    folder = tmp_path_factory.mktemp("by_hand")
    recipe = tiny.replace(training={"steps": 2, "batch_size": 4}, lora={"rank": 4, "alpha": 8})
    after = f"""
import json, dataclasses
found = {{"trainable": model.get_nb_trainable_parameters()[0],
         "losses": [e["loss"] for e in trainer.state.log_history if "loss" in e],
         "layers": sorted({{type(m).__name__ for n, m in model.named_modules() if n.endswith("base_layer")}}),
         "dtypes": sorted({{str(p.dtype) for p in model.parameters() if p.requires_grad}}),
         "default_rate": {{f.name: f.default for f in dataclasses.fields(SFTConfig)}}["learning_rate"]}}
for argument in ("load_in_4bit", "use_bf16_immediately"):
    try:
        AutoModelForCausalLM.from_pretrained({recipe.model.name!r}, **{{argument: True}})
    except TypeError as error:
        found[argument] = str(error)
open("found.json", "w").write(json.dumps(found))
"""
    (folder / "script.py").write_text(two_paths.peft(recipe).code + after)
    hidden = {"CUDA_VISIBLE_DEVICES": "", "HF_DATASETS_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, env=os.environ | hidden, text=True, capture_output=True
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return recipe, folder, json.loads((folder / "found.json").read_text())


def test_the_script_with_peft_trains_an_adapter_of_the_recipe(by_hand):
    from workbench import models

    recipe, folder, found = by_hand
    wanted = models.lora_parameters(models.linear_layers(recipe.model.name), rank=4)
    assert found["trainable"] == wanted
    assert len(found["losses"]) == 2 and 3 < found["losses"][0] < 7  # as notebook 04 says
    assert found["layers"] == ["Linear4bit"] and found["dtypes"] == ["torch.float32"]
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8)


def test_the_corrections_are_right_about_the_installed_libraries(by_hand):
    found = by_hand[2]
    assert "load_in_4bit" in found["load_in_4bit"]
    assert "use_bf16_immediately" in found["use_bf16_immediately"]
    assert found["default_rate"] == 2e-5


def source_of(package: str, file: str) -> ast.Module:
    found = importlib.util.find_spec(package)
    if found is None:
        pytest.skip(f"{package} is not installed")
    return ast.parse((Path(found.origin).parent / file).read_text(encoding="utf-8"))


def arguments(package: str, file: str, owner: str, function: str) -> set[str]:
    """The names of a method's arguments, read from its source: importing Unsloth takes half a minute."""
    classes = [n for n in source_of(package, file).body if isinstance(n, ast.ClassDef)]
    methods = next(c for c in classes if c.name == owner).body
    method = next(n for n in methods if isinstance(n, ast.FunctionDef) and n.name == function)
    each = (*method.args.args, *method.args.kwonlyargs)
    return {argument.arg for argument in each}


def keywords(code: str, function: str) -> set[str]:
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    (call,) = [c for c in calls if ast.unparse(c.func) == function]
    return {keyword.arg for keyword in call.keywords}


def test_the_script_with_unsloth_gives_only_arguments_that_it_has(tiny):
    recipe = tiny.replace(model={"quant_type": "fp4", "revision": "main"})
    code = two_paths.unsloth(recipe).code
    loading = arguments("unsloth", "models/loader.py", "FastLanguageModel", "from_pretrained")
    attaching = arguments("unsloth", "models/llama.py", "FastLlamaModel", "get_peft_model")
    assert keywords(code, "FastLanguageModel.from_pretrained") - {"quantization_config"} <= loading
    to_peft = {"use_dora"}  # **kwargs go to LoraConfig
    assert keywords(code, "FastLanguageModel.get_peft_model") - to_peft <= attaching
    assert "use_bf16_immediately" not in loading | attaching
    peft = two_paths.peft(recipe).code
    assert keywords(code, "SFTConfig") == keywords(peft, "SFTConfig")  # which was executed


def test_unsloth_comes_first_and_nobody_gives_the_trainer_a_peft_config(tiny):
    for listing in (two_paths.unsloth(tiny), two_paths.peft(tiny)):
        assert "peft_config" not in keywords(listing.code, "SFTTrainer")
        assert "prepare_model_for_kbit_training" not in listing.code
    first = next(line for line in two_paths.unsloth(tiny).code.splitlines() if "import" in line)
    assert first.startswith("from unsloth import")


def test_the_scripts_follow_the_recipe(tiny):
    whole = tiny.replace(
        model={"load_in_4bit": False},
        training={"steps": None, "epochs": 2, "learning_rate": 3e-4},
        lora={"rank": 7, "target_modules": ["q_proj"]},
    )
    for made_of in (two_paths.peft, two_paths.unsloth):
        code = made_of(whole).code
        compile(code, "script", "exec")
        assert "r=7" in code and "0.0003" in code and "num_train_epochs=2.0" in code
        assert 'target_modules=["q_proj"]' in code and "load_in_4bit=True" not in code
        assert "max_steps" not in code


def test_names_with_quotes_stay_names(tiny):
    odd = tiny.replace(model={"name": "a\"); import os  # '"}, data={"train": "b'\"\\.jsonl"})
    for made_of in (two_paths.peft, two_paths.unsloth):
        found = ast.parse(made_of(odd).code)
        assert odd.model.name in [n.value for n in ast.walk(found) if isinstance(n, ast.Constant)]
        assert odd.data.train in [n.value for n in ast.walk(found) if isinstance(n, ast.Constant)]
        assert "<script" not in made_of(odd)._repr_html_()


def test_each_part_is_told(tiny):
    for listing in (two_paths.peft(tiny), two_paths.unsloth(tiny)):
        ast.parse(str(listing))  # what each part does is a comment
        shown = listing._repr_html_()
        assert all(part.says for part in listing.parts) and shown.count("<tr>") == len(listing.parts) + 1  # fmt: skip
    table = corrections.corrections()
    assert table._repr_html_().count("<tr>") == len(table) + 1
    assert "use_bf16_immediately" in str(table)


def test_rows_that_are_no_messages_are_refused(tiny):
    for data in ({"shape": "alpaca"}, {"columns": {"text": "{a}"}}):
        with pytest.raises(RecipeError, match="The script reads rows of messages"):
            two_paths.peft(tiny.replace(data=data))
        with pytest.raises(RecipeError):
            two_paths.unsloth(tiny.replace(data=data))
