"""Cautions: what the evidence speaks against is told with value, cure and source; what is usual is left alone."""

import pytest

import workbench as wb
from workbench import caution as told
from workbench.caution import Caution, cautions
from workbench.panels.setup.settings import changes, names
from workbench.presets import PRESETS, first_recipe, preset
from workbench.recipe import Recipe

GROUPS = {"attention": ["query_key_value", "dense"], "MLP": ["dense_h_to_4h", "dense_4h_to_h"]}


def found(rows: int | None = None, modules=None, **changed: object) -> list[Caution]:
    return cautions(Recipe(**changed), rows=rows, modules=modules)


def settings_of(cautioned: list[Caution]) -> list[str]:
    return [one.setting for one in cautioned]


@pytest.mark.parametrize(
    ("changed", "setting", "says"),
    [
        ({"training": {"learning_rate": 2e-5}}, "training.learning_rate", "2e-5"),
        ({"lora": {"target_modules": ["q_proj", "v_proj"]}}, "lora.target_modules", "q_proj, v_proj"),
        ({"lora": {"target_modules": ["self_attn.q_proj"]}}, "lora.target_modules", "self_attn.q_proj"),
        ({"training": {"batch_size": 8, "accumulation": 8}}, "training.accumulation", "64 rows"),
        ({"lora": {"rank": 64}}, "lora.rslora", "Rank 64 without rsLoRA"),
        ({"lora": {"rank": 256, "alpha": 512}}, "lora.rslora", "Rank 256 without rsLoRA"),
        ({"training": {"epochs": 5}}, "training.epochs", "from 5 times"),
        ({"lora": {"dora": True}}, "lora.dora", "DoRA"),
        ({"model": {"quant_type": "fp4"}}, "model.quant_type", "FP4"),
        ({"model": {"compute_dtype": "float16"}}, "model.compute_dtype", "float16"),
    ],
)  # fmt: skip
def test_each_is_told_with_its_value_a_cure_and_who_found_it_and_the_change_cures_it(
    changed, setting, says
):
    (one,) = found(**changed)
    assert one.setting == setting
    assert setting in names()
    assert says in one.text
    assert one.text.endswith(".") and one.cure.endswith(".")
    assert len(one.source) > 20
    assert one.change
    assert cautions(Recipe(**changed).replace(**changes(one.change))) == []


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"training": {"learning_rate": 5e-5}},
        {"training": {"learning_rate": 1e-5, "optimizer": "sgd"}},
        {"lora": {"target_modules": ["q_proj", "down_proj"]}},
        {"lora": {"target_modules": ["gate_proj", "up_proj", "down_proj"]}},
        {"training": {"batch_size": 8, "accumulation": 4}},
        {"lora": {"rank": 32, "alpha": 64}},
        {"lora": {"rank": 64, "rslora": True}},
        {"training": {"epochs": 3}},
        {"model": {"quant_type": "fp4", "load_in_4bit": False}},
        {"model": {"compute_dtype": "bfloat16"}},
    ],
)
def test_what_is_usual_is_left_alone(changed):
    assert found(**changed) == []


def test_nothing_is_said_of_the_lanes_and_the_presets(tiny):
    for recipe in (tiny, first_recipe("llama"), Recipe()):
        assert cautions(recipe, rows=2400) == []
        for one in PRESETS:
            assert cautions(preset(one.name, recipe), rows=2400) == []


def test_too_few_rows_for_the_steps_are_told_as_passes_over_them():
    steps = {"training": {"steps": 100, "batch_size": 4, "accumulation": 4}}
    assert found(**steps) == []
    assert found(rows=1600, **steps) == []
    (one,) = found(rows=200, **steps)
    assert one.setting == "training.steps"
    assert "Each of 200 training rows is learned from 8 times" in one.text
    assert found(rows=0, **steps) == []
    assert cautions(Recipe(**steps).replace(**changes(one.change)), rows=200) == []


def test_the_models_own_groups_say_what_attention_is():
    targets = {"lora": {"target_modules": ["query_key_value", "dense"]}}
    assert settings_of(found(modules=GROUPS, **targets)) == ["lora.target_modules"]
    assert found(**targets) == []  # "dense" is an MLP's in some models
    other = {"lora": {"target_modules": ["dense_h_to_4h"]}}
    assert found(modules=GROUPS, **other) == []


def test_several_come_together_and_as_lines_of_text():
    many = found(training={"learning_rate": 1e-5, "accumulation": 64}, lora={"rank": 128})
    assert len(many) == 3
    lines = told.text(many).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("! ") and line.endswith(")") for line in lines)


def test_they_can_be_asked_without_a_panel():
    assert wb.cautions(Recipe(lora={"rank": 64}))[0].setting == "lora.rslora"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"training": {"learning_rate": 0.9}}, "The learning rate 0.9 makes very large steps"),
        ({"lora": {"rank": 4, "alpha": 256}}, "The learning rate 0.0002 at a scale of 64"),
    ],
)
def test_steps_that_are_far_too_large_are_told_and_the_cure_mends_them(settings, says):
    recipe = Recipe(**settings)
    (found,) = cautions(recipe)
    assert found.text.startswith(says)
    changes: dict = {}
    for name, value in found.change.items():
        section, _, key = name.partition(".")
        changes.setdefault(section, {})[key] = value
    assert cautions(recipe.replace(**changes)) == []


def test_the_tiny_lane_and_a_high_rate_at_a_small_scale_are_left_alone(tiny):
    assert cautions(tiny) == []
    assert cautions(Recipe(training={"learning_rate": 4e-3}, lora={"rank": 16, "alpha": 16})) == []
