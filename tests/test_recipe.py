"""The recipe: it survives YAML, refuses what cannot be, and says all that is wrong at once, with the cure."""

import pytest

import workbench
from workbench.problems import RecipeError
from workbench.recipe import Recipe, bounds, field


def all_fields() -> list[str]:
    names = []
    for section, info in Recipe.model_fields.items():
        inner = getattr(info.annotation, "model_fields", None)
        names += [f"{section}.{name}" for name in inner] if inner else [section]
    return names


def test_defaults_follow_the_evidence_not_trl():
    recipe = Recipe()
    assert recipe.lora.target_modules == "all-linear"
    assert (recipe.lora.rank, recipe.lora.alpha) == (16, 16)
    assert recipe.training.learning_rate == 2e-4
    assert recipe.effective_batch == 16
    assert recipe.training.optimizer == "adamw_8bit"
    assert recipe.model.load_in_4bit and recipe.model.double_quant


@pytest.mark.parametrize("name", all_fields())
def test_each_setting_has_label_sentence_and_cure(name: str):
    info = field(name)
    assert info.title
    assert info.description.endswith(".")
    assert info.json_schema_extra["cure"].endswith(".")


def test_all_problems_are_reported_together_with_value_and_cure():
    with pytest.raises(RecipeError) as caught:
        Recipe(
            lora={"rank": 0, "rnk": 3},
            training={"learning_rate": 3},
            backend="tpu",
        )
    assert str(caught.value).splitlines() == [
        "lora.rank is 0; it must be at least 1. 8 or 16 is a good start.",
        "lora.rnk is not a setting. Did you mean lora.rank?",
        "training.learning_rate is 3; it must be at most 1. 1e-4 to 3e-4 is usual for LoRA.",
        "backend is 'tpu'; it must be 'auto', 'unsloth' or 'peft'. Leave it at auto.",
    ]


def test_early_stopping_is_on_and_the_best_adapter_is_kept_unless_said_otherwise():
    training = Recipe().training
    assert (training.patience, training.keep) == (3, "best")
    with pytest.raises(RecipeError) as caught:
        Recipe(training={"patience": -1, "keep": "first"})
    assert str(caught.value).splitlines() == [
        "training.patience is -1; it must be at least 0. 3 is usual; give 0 to train all steps.",
        "training.keep is 'first'; it must be 'best' or 'last'. Give best or last.",
    ]


def test_steps_and_epochs_exclude_each_other():
    with pytest.raises(RecipeError, match="steps is 5 and epochs is 2; only one of them"):
        Recipe(training={"steps": 5, "epochs": 2})


def test_yaml_round_trip(tmp_path):
    recipe = Recipe().replace(lora={"rank": 8, "target_modules": ["q_proj"]}, backend="peft")
    assert Recipe.load(recipe.save(tmp_path / "recipe.yaml")) == recipe


def test_paths_in_a_file_count_from_its_folder(tmp_path):
    (tmp_path / "recipe.yaml").write_text("model: {name: ./model}\ndata: {train: ../rows.jsonl}\n")
    recipe = Recipe.load(tmp_path / "recipe.yaml")
    assert recipe.model.name == str(tmp_path / "model")
    assert recipe.data.train == str(tmp_path.parent / "rows.jsonl")


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("model: [", "is not valid YAML"),
        ("- a list", "The recipe is a list"),
        ("lora: 7", "lora is 7; it must be a group of settings."),
        ("lora: {rank: sixteen}", "lora.rank is 'sixteen'; it must be a whole number."),
        ("lora: {target_modules: []}", "lora.target_modules is []; it must not be empty."),
    ],
)
def test_bad_files_are_explained(text: str, fact: str):
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(text)
    assert fact in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(RecipeError, match=r"cannot be read: No such file or directory\."):
        Recipe.load(tmp_path / "none.yaml")


def test_replace_changes_a_copy_and_validates():
    recipe = Recipe()
    changed = recipe.replace(lora={"rank": 64})
    assert (recipe.lora.rank, changed.lora.rank) == (16, 64)
    assert changed.lora.alpha == recipe.lora.alpha
    with pytest.raises(RecipeError, match=r"lora\.rank is -1"):
        recipe.replace(lora={"rank": -1})


def test_code_of_a_recipe_makes_the_same_recipe():
    recipe = Recipe().replace(lora={"rank": 8}, training={"steps": 7}, backend="peft")
    namespace = {"wb": type("wb", (), {"Recipe": Recipe})}
    assert eval(recipe.as_code(), namespace) == recipe


def test_scale_and_differences():
    recipe = Recipe(lora={"rank": 64, "alpha": 32})
    assert recipe.lora_scale == 0.5
    assert recipe.replace(lora={"rslora": True}).lora_scale == 4.0
    assert recipe.differences(Recipe()) == {"lora.rank": (64, 16), "lora.alpha": (32, 16)}


def test_bounds_come_from_the_field():
    assert bounds("lora.rank") == {"ge": 1, "le": 1024}


def test_a_map_of_columns_is_one_setting_and_comes_back_from_its_code():
    recipe = Recipe(data={"columns": {"prompt": "{title}", "completion": "{answer}"}})
    assert list(recipe.differences(Recipe())) == ["data.columns"]
    made = eval(recipe.as_code(), {"wb": workbench})
    assert made == recipe
