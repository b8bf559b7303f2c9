"""The estimate against what others measured and published: `memory_anchors.json`, and `memory_anchors.md` on its worth."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workbench.memory import gpus, known
from workbench.memory.estimate import GIB, MIB, Estimate, estimate
from workbench.memory.habits import EAGER_KEPT, EAGER_PEAK, UNSLOTH_PEAK, Habits
from workbench.memory.place import Place, there
from workbench.memory.question import Question
from workbench.memory.work import Work
from workbench.recipe import Recipe

ROWS = json.loads((Path(__file__).parent / "memory_anchors.json").read_text())["rows"]
#: Models that are built exactly like one in the table.
BUILT_LIKE = {
    "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "Qwen/Qwen2.5-Coder-14B-Instruct": "Qwen/Qwen2.5-14B",
    "Qwen/Qwen2-7B": "Qwen/Qwen2.5-7B",
}
#: Two Gemmas of 2024 whose logits cost two to three times what those of every other model did then: see the .md.
UNEXPLAINED = ("unsloth-gemma-2-2b-alpaca", "unsloth-codegemma-7b-guanaco")


def group(name: str) -> list[dict[str, Any]]:
    return [row for row in ROWS if row["group"] == name]


def shapes_of(row: dict[str, Any]):
    model = row["setup"]["model"]
    found = known.find(BUILT_LIKE.get(model, model))
    assert found is not None, model
    return found


def by_tutorial(row: dict[str, Any]) -> Estimate:
    """What is held after prepare_model_for_kbit_training, with all logits: the way of the tutorials, not ours."""
    setup = row["setup"]
    size = 4 if setup["kbit_upcast"] else 2
    habits = Habits(
        "peft", 2, size, setup["adapter_bytes"], size, kept=EAGER_KEPT, peak=EAGER_PEAK, loss="full"
    )
    work = Work(
        rows=setup["batch_size"],
        length=setup["sequence"],
        rank=setup["rank"],
        targets=tuple(setup["targets"]),
        double_quant=setup["double_quant"],
        optimizer="adamw_torch",
    )
    return estimate(shapes_of(row), work, habits)


CHECKPOINTED = [
    row
    for row in group("canifinetune")
    if "-ckpt" not in row["id"] and row["setup"]["checkpointing"] == "on"
]


@pytest.mark.parametrize("row", CHECKPOINTED, ids=lambda row: row["id"])
def test_eight_runs_on_an_rtx_4080_are_met_within_one_percent(row):
    measured = row["measured"]["peak_allocated_gib"] * GIB
    assert by_tutorial(row).allocated == pytest.approx(measured, rel=0.01)


def test_they_are_eight():
    assert len(CHECKPOINTED) == 8


FITCHECK = [
    row
    for row in group("fitcheck")
    if row["setup"]["load_in_4bit"]
    and row["setup"]["attention"] == "sdpa"
    and known.find(BUILT_LIKE.get(row["setup"]["model"], row["setup"]["model"]))
]


@pytest.mark.parametrize("row", FITCHECK, ids=lambda row: row["id"])
def test_runs_on_a_t4_that_nothing_was_fitted_to_are_met_within_one_percent(row):
    measured = row["measured"]["peak_allocated_mib"] * MIB
    assert by_tutorial(row).allocated == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize("row", FITCHECK, ids=lambda row: row["id"])
def test_the_parts_that_were_measured_one_by_one(row):
    parts, measured = by_tutorial(row).parts, row["measured"]
    assert parts["optimizer"] == pytest.approx(measured["optimizer_mib"] * MIB, rel=0.01)
    assert parts["gradients"] == pytest.approx(measured["gradient_mib"] * MIB, rel=0.01)
    assert parts["weights"] == pytest.approx(measured["packed_mib"] * MIB, rel=0.001)
    assert parts["scales"] == pytest.approx(measured["scales_mib"] * MIB, rel=0.001)


def test_torchtunes_8b_within_two_percent():
    row = next(row for row in group("torchtune") if "8b" in row["id"])
    setup = row["setup"]
    targets = tuple(target.replace("output_proj", "o_proj") for target in setup["targets"])
    work = Work(2, 2048, setup["rank"], targets, optimizer="adamw_torch")
    habits = Habits("peft", adapter_bytes=setup["adapter_bytes"], loss="chunked")  # compiled: lean
    found = estimate(shapes_of(row), work, habits).allocated
    assert found == pytest.approx(row["measured"]["peak_allocated_gib"] * GIB, rel=0.02)


@pytest.mark.parametrize("name", ["context-8b-unsloth", "context-70b-unsloth"])
def test_unsloths_published_bytes_for_a_token_within_two_percent(name):
    row = next(row for row in ROWS if row["id"] == name)
    setup = row["setup"]
    card = Place("large", 400 * GIB, 400 * GIB)
    habits = Habits(
        "unsloth",
        peak=UNSLOTH_PEAK,
        loss="fused",
        loss_limit=GIB // 4,
        offloads=True,
        keeps_workspace=True,
    )

    def allocated(tokens: int) -> int:
        work = Work(1, tokens, setup["rank"], tuple(setup["targets"]))
        return estimate(shapes_of(row), work, habits, card).allocated

    slope = (allocated(60_000) - allocated(20_000)) / 40_000
    assert slope / 1e6 == pytest.approx(row["measured"]["line_mb_per_token"], rel=0.02)


def question(row: dict[str, Any], free: float | None = None) -> Question:
    """A notebook's run as a recipe of ours, with the longest micro-batch that is inferred for it."""
    setup = row["setup"]
    rows = setup["batch_size"]
    longest = row["inferred"]["longest_micro_batch_tokens"]["expected"] // rows
    recipe = Recipe(
        model={"name": setup["model"], "max_length": setup["max_seq_length"]},
        lora={"rank": setup["rank"], "target_modules": setup["targets"]},
        training={
            "batch_size": rows,
            "accumulation": setup["accumulation"],
            "gradient_checkpointing": setup["checkpointing"] != "off",
        },
    )
    full = setup["loss"] == "full logits"
    versions = {"unsloth": setup.get("versions", {}).get("unsloth", "2024.8" if full else "2025.1")}
    card = there(gpus.find(setup["card"]))
    if free is not None:
        card = replace(card, free=int(free))
    return Question(recipe, shapes_of(row), "unsloth", card, versions, longest=longest)


NOTEBOOKS = [row for row in group("unsloth-notebooks") if row["id"] not in UNEXPLAINED]


def reserved(row: dict[str, Any]) -> int:
    """What torch would reserve: torch.cuda.max_memory_reserved knows nothing of the context."""
    asked = question(row)
    return asked.bounds.expected - asked.estimate.parts["context"]


def test_unsloths_notebooks_on_average_and_at_worst():
    on_t4 = [row for row in NOTEBOOKS if row["setup"]["card"] == "T4"]
    assert len(on_t4) >= 12
    errors = {
        row["id"]: reserved(row) / (row["measured"]["peak_reserved_gib"] * GIB) - 1 for row in on_t4
    }
    shown = {name: f"{error:+.1%}" for name, error in errors.items()}
    assert sum(map(abs, errors.values())) / len(errors) <= 0.08, shown
    assert max(map(abs, errors.values())) <= 0.15, shown


@pytest.mark.parametrize("row", NOTEBOOKS, ids=lambda row: row["id"])
def test_no_run_is_said_to_fit_in_less_than_it_took(row):
    took = row["measured"]["peak_reserved_gib"] * GIB + question(row).estimate.parts["context"]
    assert question(row, free=took - MIB).verdict != "fits"


def test_what_ran_out_of_memory_is_not_said_to_fit():
    """Unsloth's table: plain Transformers cannot train 8B on 8 GB, nor 70B on 48 GB, at any length."""
    for model, size in (
        ("meta-llama/Llama-3.1-8B", 8e9),
        ("meta-llama/Llama-3.3-70B-Instruct", 48e9),
    ):
        recipe = Recipe(
            model={"name": model, "max_length": 512},
            lora={"rank": 32},
            training={"batch_size": 1},
        )
        card = Place("card", int(size), int(size))
        assert Question(recipe, known.find(model), "peft", card).verdict != "fits"
