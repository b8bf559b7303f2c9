"""The setup panel without a kernel: what its widgets hold becomes the recipe, every change is told, nothing is lost."""

import ast
import re
from collections.abc import Iterator
from html import unescape

import ipywidgets as widgets
import pytest
import yaml
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from test_panels import inside, tooltip

from workbench import preflight, presets
from workbench import recipe as settings
from workbench.memory import known
from workbench.panels import pages
from workbench.panels.banner import Banner
from workbench.panels.panel import everything_in
from workbench.panels.setup import keeping, lookup, model_choice
from workbench.panels.setup import settings as kinds
from workbench.panels.setup.panel import SetupPanel
from workbench.presets import PRESETS, first_recipe, preset
from workbench.problems import Problem, RecipeError, RunError
from workbench.recipe import Recipe

EVIL = "<img src=x onerror=alert(1)>"
EIGHT_B = "unsloth/Llama-3.1-8B-Instruct"
QWEN = "Qwen/Qwen2.5-7B-Instruct"


@pytest.fixture
def setup(tiny: Recipe) -> SetupPanel:
    return SetupPanel(tiny, outputs="nowhere")


@pytest.fixture(scope="module")
def opened(tiny: Recipe) -> SetupPanel:
    panel = SetupPanel(tiny, outputs="nowhere")
    panel.more.open()
    return panel


@pytest.fixture
def whole(opened: SetupPanel, tiny: Recipe) -> Iterator[SetupPanel]:
    """A panel whose folded settings are open; the same for all tests, and set back after each."""
    yield opened
    opened.set(tiny.settings)


def runs_as_shown(html: str, recipe: Recipe) -> Recipe:
    """Runs the one line of Python that the HTML shows."""
    code = unescape(re.search("<code[^>]*>(.*)</code>", html, re.S)[1])
    ast.parse(code)
    names = {"recipe": recipe, "wb": presets}
    exec(code, names)
    return names["recipe"]


def makes(code: str) -> Recipe:
    """The recipe that some lines of Python make."""
    names: dict[str, Recipe] = {}
    exec(f"import workbench as wb\n{code}", names)
    return names["recipe"]


def loud(panel: SetupPanel) -> list[str]:
    """The settings whose lines stand out."""
    return [name for name, code in panel.lines.items() if pages.MUTED not in code.value]


def value_of(recipe: Recipe, name: str) -> object:
    return recipe.settings[name]


# What the controls hold


def test_a_new_panel_shows_the_recipe_that_it_was_given(setup, tiny):
    assert setup.recipe == tiny
    assert setup.valid
    assert setup.banner.value == ""
    assert not setup.changed
    assert loud(setup) == []


@pytest.mark.parametrize(
    "given", [Recipe(), Recipe(training={"epochs": 1}), Recipe(lora={"rank": 7})]
)
def test_any_recipe_comes_back_as_it_was_given_folded_or_not(given, tmp_path):
    panel = SetupPanel(given, outputs=tmp_path)
    assert panel.recipe == given
    panel.more.open()
    assert panel.recipe == given
    assert not panel.changed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lora.rank", 64),
        ("lora.alpha", 8.0),
        ("lora.dropout", 0.1),
        ("lora.rslora", True),
        ("lora.dora", True),
        ("model.load_in_4bit", False),
        ("model.quant_type", "fp4"),
        ("model.double_quant", False),
        ("model.compute_dtype", "bfloat16"),
        ("model.max_length", 256),
        ("training.learning_rate", 1e-4),
        ("training.learning_rate", 0.000123456789),
        ("training.steps", 7),
        ("training.epochs", 2.5),
        ("training.batch_size", 4),
        ("training.accumulation", 4),
    ],
)
def test_a_control_does_what_its_line_of_python_does(setup, tiny, name, value):
    setup.controls[name].value = value
    assert value_of(setup.recipe, name) == value
    assert runs_as_shown(setup.lines[name].value, tiny) == setup.recipe
    assert loud(setup)
    assert setup.changed


#: What is typed or chosen in a folded control, and what it means.
FOLDED = [
    ("model.revision", "5f0b02c", "5f0b02c"),
    ("lora.bias", "all", "all"),
    ("lora.modules_to_save", "embed_tokens\n\nlm_head\n", ["embed_tokens", "lm_head"]),
    ("data.train", "rows.csv", "rows.csv"),
    ("data.heldout", "", None),
    ("data.heldout_share", 0.1, 0.1),
    ("data.columns", "prompt: '{title}'\ncompletion: '{answer}'", {"prompt": "{title}", "completion": "{answer}"}),
    ("data.system", "Be brief.", "Be brief."),
    ("data.loss_on", "last", "last"),
    ("data.loss_on", "assistant, tool", ["assistant", "tool"]),
    ("data.loss_on", "[assistant]", ["assistant"]),
    ("training.batch", "auto", "auto"),
    ("training.optimizer", "sgd", "sgd"),
    ("training.gradient_checkpointing", True, True),
    ("training.patience", 0, 0),
    ("training.keep", "last", "last"),
    ("training.seed", 1, 1),
    ("samples.prompts", "What?\nSay\N{RETURN SYMBOL}it.", ["What?", "Say\nit."]),
    ("samples.temperature", 0.7, 0.7),
    ("backend", "unsloth", "unsloth"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "held", "value"), FOLDED)
def test_a_folded_control_does_what_its_line_of_python_does(whole, tiny, name, held, value):
    whole.controls[name].value = held
    assert value_of(whole.recipe, name) == value
    assert runs_as_shown(whole.lines[name].value, tiny) == whole.recipe
    assert loud(whole) == [name]
    assert whole.banner.value == ""
    assert makes(f"recipe = {whole.recipe.as_code()}") == whole.recipe


def test_every_setting_of_a_recipe_has_a_control_once_the_fold_is_open(setup):
    few = len(everything_in(setup))
    assert "training.optimizer" not in setup.controls
    setup.more.button.click()
    assert {*setup.controls, "lora.target_modules"} == set(kinds.names())
    assert len(everything_in(setup)) > few + 100
    setup.more.button.click()
    assert not setup.more.is_open
    for name in kinds.names():
        control = setup.targets.preset if name == "lora.target_modules" else setup.controls[name]
        assert settings.field(name).title == control.description
        assert settings.field(name).description in tooltip(control)


@limits(max_examples=40, deadline=None)
@given(
    items=st.lists(st.text(min_size=1).filter(lambda text: text.strip() and "\r" not in text), max_size=4),
    text=st.text(),
    table=st.dictionaries(st.sampled_from(["prompt", "completion", "system"]), st.text(), max_size=3),
)  # fmt: skip
def test_what_a_control_is_given_it_gives_back(items, text, table):
    codes = widgets.Layout()
    for name, value in (
        ("samples.prompts", items),
        ("data.system", text),
        ("data.columns", table),
    ):
        entry = kinds.Entry(name, value, codes=codes)
        assert entry.value == value
        entry.put(value)
        assert entry.value == value
    typed = kinds.form_of("samples.prompts", [])
    assert typed.read(typed.write(items)) == [i.replace("\N{RETURN SYMBOL}", "\n") for i in items]


def test_settings_without_a_control_are_shown_as_python_and_taken_over_when_the_fold_opens(setup, tiny):  # fmt: skip
    setup.set({"samples.score_rows": 0, "data.system": "Be\nbrief."})
    assert "score_rows" in setup.memory._kept.value
    assert setup.recipe.samples.score_rows == 0
    setup.more.open()
    assert setup.controls["samples.score_rows"].value == 0
    assert sorted(loud(setup)) == ["data.system", "samples.score_rows"]
    assert setup.memory._kept.value == ""
    assert setup.extra == {}
    assert setup.recipe == tiny.replace(samples={"score_rows": 0}, data={"system": "Be\nbrief."})


def test_set_moves_the_controls_and_offers_a_rank_that_was_not_there(setup):
    setup.set({"lora.rank": 6, "lora.alpha": 12, "lora.target_modules": ["v_proj", "q_proj"]})
    assert setup.controls["lora.rank"].value == 6
    assert 6 in setup.controls["lora.rank"].options
    assert setup.controls["lora.alpha"].value == 12
    assert setup.recipe.lora.target_modules == ["v_proj", "q_proj"]


def test_set_takes_whole_sections_as_replace_does(setup, tiny):
    setup.set({"lora": {"rank": 8, "alpha": 8}, "backend": "auto", "training": {"steps": "7"}})
    changed = {"lora": {"rank": 8, "alpha": 8}, "training": {"steps": 7}}
    assert setup.recipe == tiny.replace(**changed, backend="auto")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"lora.rank": 0}, "lora.rank is 0; it must be at least 1"),
        ({"lora.alpha": 8, "lora.rank": "wide"}, "lora.rank is 'wide'; it must be a whole number"),
        ({"lora.rnak": 8}, "Did you mean lora.rank"),
        ({"nothing.rank": 8}, "nothing is not a setting"),
    ],
)
def test_set_refuses_what_the_recipe_refuses_and_then_sets_nothing(setup, tiny, values, says):
    with pytest.raises(RecipeError, match=re.escape(says)):
        setup.set(values)
    assert setup.recipe == tiny


def test_only_the_lines_of_what_differs_from_the_recipe_stand_out(setup, tiny):
    setup.controls["lora.rank"].value = 4
    setup.targets.preset.value = "MLP"
    assert sorted(loud(setup)) == ["lora.rank", "lora.target_modules"]
    setup.controls["lora.rank"].value = tiny.lora.rank
    setup.targets.preset.value = "all linear"
    assert loud(setup) == []
    assert not setup.changed


def test_ranks_are_powers_of_two_and_the_recipes_own():
    panel = SetupPanel(Recipe(lora={"rank": 24}), outputs="nowhere")
    assert panel.controls["lora.rank"].options == (1, 2, 4, 8, 16, 24, 32, 64, 128, 256)


def test_the_scale_stands_beside_alpha(setup):
    setup.controls["lora.alpha"].value = 32
    assert "scale 2 (alpha / rank)" in setup._scale.value
    setup.controls["lora.rslora"].value = True
    assert "scale 8 (alpha / square root of rank)" in setup._scale.value
    row = next(part for part in inside(setup) if setup._scale in getattr(part, "children", ()))
    assert setup.controls["lora.alpha"] in row.children


# Length


def test_setting_epochs_empties_steps_and_the_other_way_round(setup, tiny):
    setup.length.unit.value = "training.epochs"
    setup.controls["training.epochs"].value = 3
    assert (setup.recipe.training.steps, setup.recipe.training.epochs) == (None, 3)
    assert runs_as_shown(setup.lines["training.epochs"].value, tiny) == setup.recipe
    assert setup.controls["training.steps"].layout.display == "none"
    setup.controls["training.steps"].value = 40
    assert (setup.recipe.training.steps, setup.recipe.training.epochs) == (40, None)
    assert setup.length.unit.value == "training.steps"
    setup.set({"training.epochs": 2})
    assert (setup.recipe.training.steps, setup.recipe.training.epochs) == (None, 2)


def test_a_recipe_without_a_length_is_one_pass_until_something_is_set():
    panel = SetupPanel(Recipe(), outputs="nowhere")
    assert panel.controls["training.epochs"].value == 1
    assert panel.recipe.training.epochs is None
    panel.controls["training.epochs"].value = 2
    assert panel.recipe.training.epochs == 2


# Target modules


def test_presets_choose_the_modules_that_the_model_has(setup, tiny):
    targets = setup.targets
    attention = ["q_proj", "k_proj", "v_proj", "o_proj"]
    mlp = ["gate_proj", "up_proj", "down_proj"]
    assert list(targets.boxes) == attention + mlp
    targets.preset.value = "attention"
    assert setup.recipe.lora.target_modules == attention
    targets.preset.value = "MLP"
    assert setup.recipe.lora.target_modules == mlp
    assert runs_as_shown(targets.code.value, tiny) == setup.recipe
    targets.preset.value = "all linear"
    assert setup.recipe.lora.target_modules == "all-linear"


def test_ticking_a_module_makes_the_preset_custom_or_the_one_that_it_equals(setup):
    setup.targets.boxes["down_proj"].value = False
    assert setup.targets.preset.value == "custom"
    assert "down_proj" not in setup.recipe.lora.target_modules
    setup.targets.boxes["down_proj"].value = True
    assert setup.targets.preset.value == "all linear"


@pytest.mark.parametrize(
    "chosen", [["v_proj", "q_proj"], ["q_proj", "lm_head"], ["self_attn.q_proj"]]
)
def test_a_list_in_the_recipe_is_shown_and_kept_whatever_it_names(tiny, chosen):
    given = tiny.replace(lora={"target_modules": chosen})
    panel = SetupPanel(given, outputs="nowhere")
    assert panel.targets.preset.value == "custom"
    assert panel.recipe == given
    panel.targets.boxes["o_proj"].value = True
    assert set(panel.recipe.lora.target_modules) == {*chosen, "o_proj"}


def test_each_module_tells_its_cost_and_they_add_up_to_what_is_trained(tiny):
    panel = SetupPanel(tiny.replace(model={"name": EIGHT_B}), card="T4", outputs="nowhere")
    assert panel.targets.boxes["q_proj"].description == "q_proj 4.19 M"
    assert "32 layers of 4,096 to 4,096" in tooltip(panel.targets.boxes["q_proj"])
    panel.controls["lora.rank"].value = 32
    assert panel.targets.boxes["q_proj"].description == "q_proj 8.39 M"
    panel.controls["lora.dora"].value = True
    assert panel.targets.boxes["q_proj"].description == "q_proj 8.52 M"


def test_twice_the_rank_is_twice_the_parameters(setup):
    count = trainable(setup)
    setup.controls["lora.rank"].value *= 2
    assert trainable(setup) == 2 * count


def trainable(setup: SetupPanel) -> int:
    return int(setup.summary(setup.recipe)[0].split()[0].replace(",", ""))


# The model


def test_another_model_brings_its_modules_its_memory_and_its_facts_and_keeps_the_rest(setup, tiny):
    setup.controls["lora.rank"].value = 8
    setup.targets.boxes["down_proj"].value = False
    expected, chosen = setup.memory.plan.expected, setup.recipe.lora.target_modules
    setup.controls["model.name"].value = EIGHT_B
    assert setup.memory.plan.expected > 5 * expected
    assert setup.memory.plan.question.rows == 2400
    assert "8.03 B parameters in 32 blocks" in setup.model._told.value
    assert "not here yet" in setup.model._told.value
    kept = {"rank": 8, "target_modules": chosen}
    assert setup.recipe == tiny.replace(model={"name": EIGHT_B}, lora=kept)
    setup.controls["model.name"].value = tiny.model.name
    assert setup.memory.plan.expected == expected
    assert "not here yet" not in setup.model._told.value


def test_modules_that_another_model_lacks_stay_to_be_seen(setup):
    setup.targets.put(["q_proj", "o_proj"])
    setup.controls["model.name"].value = "microsoft/Phi-3.5-mini-instruct"
    assert list(setup.targets.boxes) == [
        "qkv_proj",
        "o_proj",
        "gate_up_proj",
        "down_proj",
        "q_proj",
    ]
    assert "no linear layer in this model" in tooltip(setup.targets.boxes["q_proj"])
    assert setup.recipe.lora.target_modules == ["q_proj", "o_proj"]
    assert setup.memory.plan is not None


def test_changing_the_model_leaves_no_widgets_behind(setup, tiny):
    setup.controls["model.name"].value = EIGHT_B
    shown = setup.targets.children
    setup.controls["model.name"].value = QWEN
    assert all(part.comm is None for row in shown[1:] for part in inside(row))
    assert all(part.comm is not None for part in inside(setup.targets))


def test_searching_offers_models_with_sizes_and_changes_nothing_until_one_is_chosen(setup, tiny):
    setup.model.find.value = "llama 3.2 1b"
    labels = [label for label, _ in setup.model.list.options]
    assert labels[0].endswith("(the recipe's own)")
    assert labels[1:] == ["Llama-3.2-1B, 1.24 B parameters, about 1.0 GiB in 4 bits"]
    assert "1 known model<" in setup.model._found.value
    assert setup.recipe == tiny
    setup.model.list.value = "meta-llama/Llama-3.2-1B"
    assert setup.recipe.model.name == "meta-llama/Llama-3.2-1B"
    setup.model.find.value = "no such words"
    assert "none known" in setup.model._found.value
    assert setup.recipe.model.name == "meta-llama/Llama-3.2-1B"
    setup.model.list.value = tiny.model.name
    assert setup.recipe == tiny


def test_all_known_models_are_listed_and_variants_of_them_are_found_by_their_full_name():
    assert [name for name, _ in model_choice.matching("")] == known.names()
    assert [name for name, _ in model_choice.matching("QWEN 0.5b")] == ["Qwen/Qwen2.5-0.5B"]
    assert [name for name, _ in model_choice.matching(QWEN)] == [QWEN]
    assert model_choice.matching("nobody/nothing") == []


@pytest.mark.parametrize(
    "name", ["./no-such-model", "nobody/no-such-model", "a\0b", "x" * 5000, f"./{EVIL}"]
)
def test_a_model_that_cannot_be_read_is_told_and_the_rest_can_be_set(setup, tiny, name):
    setup.controls["model.name"].value = name
    assert setup.banner.value != ""
    assert "Traceback" not in setup.banner.value
    assert "<img" not in "".join(str(getattr(part, "value", "")) for part in inside(setup) if isinstance(part, widgets.HTML))  # fmt: skip
    assert "The memory is not known." in setup.memory._verdict.value
    setup.controls["lora.rank"].value = 8
    assert setup.recipe.lora.rank == 8
    assert setup.banner.value != ""
    setup.controls["model.name"].value = tiny.model.name
    assert setup.banner.value == ""
    assert setup.recipe == tiny.replace(lora={"rank": 8})


def test_a_hub_that_does_not_answer_is_given_up(tiny, monkeypatch):
    import threading

    waits = threading.Event()
    monkeypatch.setattr(lookup, "PATIENCE", 0.05)
    monkeypatch.setattr(lookup.models, "linear_layers", lambda *_: waits.wait(30))
    found = lookup.look_up(
        tiny.replace(model={"name": "some/model"}), card=None, vram=None, outputs="nowhere"
    )
    waits.set()
    assert "The hub did not answer within 0.05 s about some/model." in str(found.error)


def test_the_model_is_looked_up_again_only_when_it_or_the_rows_change(setup, monkeypatch):
    asked = []
    real = lookup.look_up

    def count(recipe, **where):
        asked.append(recipe.model.name)
        return real(recipe, **where)

    monkeypatch.setattr("workbench.panels.setup.panel.look_up", count)
    setup.controls["lora.rank"].value = 4
    setup.targets.preset.value = "attention"
    assert asked == []
    setup.set({"data.train": str(presets.TINY / "heldout.jsonl")})
    assert len(asked) == 1
    assert "320 training rows" in setup.memory._picture.value


def test_rows_that_cannot_be_read_are_told_among_the_facts(setup):
    setup.set({"data.train": "./no/such.jsonl"})
    assert "the rows are not counted: The data file no/such.jsonl" in setup.consequences.html
    assert "each is taken to fill" in setup.memory._picture.value
    setup.set({"data.train": "a\0b"})
    assert "the rows are not counted" in setup.consequences.html
    assert setup.banner.value == ""
    setup.set({"data.train": "somebody/rows"})  # may be on the hub: the start asks
    assert "not counted" not in setup.consequences.html
    assert setup.valid


# What is wrong


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("lora.alpha", 0, "lora.alpha is 0.0; it must be greater than 0"),
        ("lora.dropout", 1.5, "lora.dropout is 1.5; it must be less than 1"),
        ("training.steps", 0, "training.steps is 0; it must be at least 1"),
        ("training.learning_rate", -1, "training.learning_rate is -1.0; it must be greater than 0"),
        ("training.batch_size", -2, "training.batch_size is -2; it must be at least 1"),
        ("model.name", "", "model.name is ''; it must not be empty"),
        ("data.columns", "just words", "data.columns is 'just words'"),
        ("data.columns", "prompt: [", "data.columns is 'prompt: ['"),
        ("data.columns", "question: '{q}'", "data.columns names question"),
        ("data.loss_on", "everybody", "data.loss_on is 'everybody'"),
        ("samples.temperature", -0.5, "samples.temperature is -0.5; it must be at least 0"),
    ],
)
def test_a_bad_value_is_named_with_its_cure_until_it_is_mended(whole, tiny, name, value, says):
    good = whole.controls[name].value
    whole.controls[name].value = value
    shown = unescape(whole.banner.value)
    assert says in shown
    if "names" not in says:
        assert settings.field(name).json_schema_extra["cure"].split(";")[0] in shown
    assert not whole.valid
    assert whole.controls[name].value == value
    assert "see the message above" in whole.consequences.html
    with pytest.raises(RecipeError):
        _ = whole.recipe
    whole.controls[name].value = good
    assert whole.valid
    assert whole.banner.value == ""
    assert whole.recipe == tiny


def test_no_module_at_all_is_a_problem(setup):
    for box in setup.targets.boxes.values():
        box.value = False
    assert not setup.valid
    assert "lora.target_modules is []" in setup.banner.value


# Presets


@pytest.mark.parametrize("name", [one.name for one in PRESETS])
@pytest.mark.parametrize("model", ["tiny", EIGHT_B])
def test_a_preset_sets_the_controls_and_its_line_does_the_same(tiny, name, model):
    given = tiny if model == "tiny" else Recipe(model={"name": model})
    panel = SetupPanel(given, card="T4", outputs="nowhere")
    panel.controls["training.learning_rate"].value = 3e-4
    before = panel.recipe
    panel.preset.list.value = name
    assert panel.recipe == preset(name, before) != before
    assert runs_as_shown(panel.preset._code.value, before) == panel.recipe
    assert next(one.says for one in PRESETS if one.name == name) in panel.preset._says.value
    assert panel.recipe.training.learning_rate == 3e-4
    assert panel.preset.list.value == name
    assert panel.cautions == []
    panel.controls["lora.rank"].value = 2
    assert panel.preset.list.value == "as set below"
    assert panel.preset._says.value == ""


def test_a_preset_while_a_setting_is_wrong_says_so_and_is_not_taken(setup):
    setup.controls["lora.alpha"].value = 0
    setup.preset.list.value = "first try"
    assert setup.preset.list.value == "as set below"
    assert "lora.alpha is 0.0" in setup.banner.value


@pytest.mark.parametrize("one", PRESETS, ids=[one.name for one in PRESETS])
def test_presets_name_their_trade_off_and_can_be_applied_twice(one, tiny):
    assert re.search(r"\bbut\b", one.says)
    assert one.says.endswith(".")
    for recipe in (tiny, Recipe(), Recipe(training={"batch_size": 4096, "accumulation": 4096})):
        once = preset(one.name, recipe)
        assert preset(one.name, once) == once
        assert once.data == recipe.data
        assert once.training.learning_rate == recipe.training.learning_rate


def test_a_small_card_keeps_the_effective_batch_and_needs_less(tiny):
    given = Recipe(model={"name": EIGHT_B})
    small = preset("small card", given)
    assert small.effective_batch == given.effective_batch
    panel = SetupPanel(given, card="T4", outputs="nowhere")
    assert panel.memory.plan_for(small).expected < panel.memory.plan_for(given).expected


def test_a_preset_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(RecipeError, match="Known are: first try, small card"):
        preset("fastest", Recipe())


def test_the_llama_recipe_passes_every_check_but_those_of_the_machine():
    recipe = first_recipe("llama", steps=3, score_rows=2)
    assert recipe.training.steps == 3
    assert recipe.samples.score_rows == 2
    assert {problem.where for problem in preflight.check(recipe)} <= {"model.name"}


# Warnings


def test_a_caution_shows_its_text_its_source_and_a_cure_that_can_be_pressed(setup):
    setup.controls["training.learning_rate"].value = 2e-5
    row = setup.consequences._cautions.children[0]
    told, cure = row.children
    assert "The learning rate 2e-5 is low for LoRA" in told.value
    assert "LoRA Without Regret" in told.value
    assert cure.description == "Set learning rate 0.0002"
    assert "training={" in cure.tooltip
    assert setup.valid
    cure.click()
    assert setup.recipe.training.learning_rate == 2e-4
    assert setup.consequences._cautions.children == ()


def test_cautions_know_the_rows_and_the_models_own_modules(setup):
    setup.set({"training.steps": 1000})
    assert [one.setting for one in setup.cautions] == ["training.steps"]
    assert "Each of 2,400 training rows is learned from 6.67 times" in repr(setup)
    setup.set({"training.steps": 100, "lora.target_modules": ["q_proj", "v_proj"]})
    assert [one.setting for one in setup.cautions] == ["lora.target_modules"]


# Python and files


def test_show_as_code_is_the_recipe(setup):
    setup.controls["lora.rank"].value = 4
    assert not setup.keeping.code.is_open
    setup.keeping.code.button.click()
    shown = re.search("<pre[^>]*>(.*)</pre>", setup.keeping._block.value, re.S)[1]
    assert makes(unescape(shown)) == setup.recipe


def test_the_lines_of_python_can_be_hidden_all_at_once(whole):
    assert whole._codes.display != "none"
    whole.python.value = False
    assert all(code.layout.display == "none" for code in whole.lines.values())
    whole.python.value = True
    assert not any(code.layout.display == "none" for code in whole.lines.values())


def test_the_recipe_is_saved_and_overwritten_only_when_asked_twice(setup, tmp_path):
    file, keep = tmp_path / "my recipe.yaml", setup.keeping
    keep.file.value = str(file)
    keep.button.click()
    assert Recipe.load(file) == setup.recipe
    assert str(file) in keep._told.value
    setup.controls["lora.rank"].value = 4
    keep.button.click()
    assert keep.button.description == keeping.OVERWRITE
    assert Recipe.load(file).lora.rank == 16
    keep.button.click()
    assert Recipe.load(file).lora.rank == 4
    assert keep.button.description == keeping.SAVE
    keep.button.click()
    keep.file.value = str(tmp_path / "other.yaml")
    assert keep.button.description == keeping.SAVE


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "The recipe's file has no name."),
        ("  ", "The recipe's file has no name."),
        (".", ". is a folder."),
        ("no/such/folder/r.yaml", "cannot be saved"),
        ("x" * 3000, "cannot be saved"),
        ("/proc/recipe.yaml", "cannot be saved"),
    ],
)
def test_a_file_that_cannot_be_written_is_told(setup, monkeypatch, tmp_path, name, says):
    monkeypatch.chdir(tmp_path)
    setup.keeping.file.value = name
    setup.keeping.button.click()
    assert says in unescape(setup.banner.value)
    assert "Traceback" not in setup.banner.value
    assert "Not saved" in setup.keeping._told.value
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_saved_while_a_setting_is_wrong(setup):
    setup.controls["lora.alpha"].value = 0
    assert setup.keeping.button.disabled
    with pytest.raises(RecipeError, match="A setting is wrong"):
        setup.keeping.save()


def test_relative_paths_mean_the_same_from_where_the_recipe_is_saved(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    recipe = Recipe(
        model={"name": "./model"}, data={"train": "../rows.jsonl", "heldout": "own/rows"}
    )
    keeping.save(recipe, "recipes/one.yaml", overwrite=False)
    assert (
        yaml.safe_load((tmp_path / "recipes/one.yaml").read_text())["model"]["name"] == "../model"
    )
    loaded = Recipe.load("recipes/one.yaml")
    assert loaded.model.name == str(tmp_path / "model")
    assert loaded.data.train == str(tmp_path.parent / "rows.jsonl")
    assert loaded.data.heldout == "own/rows"
    with pytest.raises(RecipeError, match="is there already"):
        keeping.save(recipe, "recipes/one.yaml", overwrite=False)


def test_without_its_kernel_a_notebook_shows_the_settings_what_they_mean_and_the_warnings(setup):
    setup.controls["training.learning_rate"].value = 2e-5
    text = repr(setup)
    assert text.startswith("recipe = wb.Recipe(")
    assert "trainable parameters" in text
    assert "! The learning rate 2e-5" in text
    assert "trainable parameters" in setup.bundle()["text/html"]
    setup.controls["lora.alpha"].value = 0
    assert "lora.alpha is 0.0; it must be greater than 0" in repr(setup)


def test_showing_panels_of_a_recipe_again_and_again_closes_the_oldest_and_keeps_its_recipe(tiny):
    panels = [SetupPanel(tiny, outputs="nowhere") for _ in range(6)]
    panels[0].controls["lora.rank"].value = 4
    for panel in panels:
        panel._ipython_display_()
        panel._ipython_display_()
    other = SetupPanel(tiny.replace(lora={"rank": 2}), outputs="nowhere")
    other._ipython_display_()
    assert SetupPanel._shown == [*panels[2:], other]
    assert panels[0].recipe.lora.rank == 4
    for panel in (*panels[2:], other):
        panel.close()
    assert SetupPanel._shown == []


# All controls


def test_tooltips_name_trade_off_and_bounds(setup):
    tip = tooltip(setup.controls["lora.rank"])
    assert settings.field("lora.rank").description in tip
    assert "At least 1, at most 1,024." in tip


def test_every_control_has_a_label_a_tooltip_and_a_mark(whole):
    kinds_of_control = widgets.Button | widgets.Checkbox | widgets.Dropdown | widgets.FloatText
    kinds_of_control |= widgets.IntText | widgets.Text | widgets.Textarea
    for widget in inside(whole):
        if isinstance(widget, kinds_of_control):
            assert widget.description, widget
            assert len(tooltip(widget)) > 10, widget.description
            assert any(mark.startswith("wb-") for mark in widget._dom_classes), widget.description


def test_what_is_wrong_in_a_callback_is_shown(setup, monkeypatch):
    def fails(*_):
        raise RunError([Problem("", "The disk <is> gone.", "Find it.")])

    monkeypatch.setattr(model_choice, "matching", fails)
    setup.model.find.value = "qwen"
    assert "The disk &lt;is&gt; gone." in setup.banner.value
    assert isinstance(setup.banner, Banner)


def test_a_preset_takes_the_place_of_the_one_before_and_can_be_taken_back(setup, tiny):
    choice = setup.preset.list
    for name in ("style only", "small card", "first try"):
        choice.value = name
        assert setup.recipe == preset(name, tiny)
    choice.value = choice.options[0]
    assert setup.recipe == tiny


def test_what_was_changed_by_hand_after_a_preset_stays(setup, tiny):
    setup.preset.list.value = "style only"
    setup.controls["lora.rank"].value = 4
    setup.preset.list.value = "small card"
    setup.preset.list.value = setup.preset.list.options[0]
    assert setup.recipe == tiny.replace(lora={"rank": 4})


def test_a_number_that_is_not_whole_is_refused_and_not_made_another(setup):
    for name in ("training.steps", "training.batch_size"):
        setup.controls[name].value = 1.5
        assert f"{name} is 1.5; it must be a whole number" in setup.banner.value
        setup.controls[name].value = 1e3
        assert setup.valid
        assert setup.recipe.settings[name] == 1000
    assert "1000}" in setup.lines["training.batch_size"].value.replace("&quot;", '"')
