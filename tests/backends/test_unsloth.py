"""The real Unsloth, end to end: what the worker does with it, and what the backend makes of its answers."""

import json
import shutil

import pytest

from workbench.run import Run

pytestmark = pytest.mark.slow


def test_a_run_trains_and_tells_what_it_did(runs, recipe):
    run = runs["unsloth"]
    assert run.state == "closed"
    assert [step["step"] for step in run.history.steps] == [1, 2, 3]
    assert all(step["trained_tokens"] > 0 for step in run.history.steps)
    assert [entry["adapter"] for entry in run.history.samples] == [False, True]
    assert len(run.history.evals) == 1
    assert run.history.model["source"] == recipe.model.name


def test_the_weights_are_in_nf4_and_only_the_adapter_is_trained(runs, measured):
    assert measured["unsloth"]["layers"] == ["Linear4bit"]
    names = measured["unsloth"]["trainable"]
    assert names and all("lora_" in name for name in names)
    assert runs["unsloth"].history.model["trainable"] == runs["peft"].history.model["trainable"]


def test_the_trainer_is_unsloths_and_every_field_is_known(runs):
    run = runs["unsloth"]
    effective = json.loads((run.folder / "sft_config.json").read_text())
    assert effective["max_seq_length"] == 64
    assert effective["unsloth_num_chunks"] == -1
    assert effective["padding_free"] is False and effective["packing"] is False
    assert effective["per_device_train_batch_size"] == 1 and effective["seed"] == 3407
    assert not [w for w in run.history.warnings if "does not know" in w["text"]]


def test_generated_modules_stay_in_the_run(runs, measured, place):
    cache = runs["unsloth"].folder / "unsloth_cache"
    assert (cache / "UnslothSFTTrainer.py").is_file()
    # A spare worker wrote them elsewhere, before it knew the run: they moved, and a link is left.
    assert "UnslothSFTTrainer.py" in measured["unsloth"]["cache"]
    left = place / "probe-unsloth" / "staging" / "unsloth_cache"
    assert left.is_symlink() and left.resolve() == place / "probe-unsloth" / "unsloth_cache"


def test_answering_leaves_the_model_as_it_was(measured):
    said = measured["unsloth"]["answers"]
    assert said["training_inside"] is False
    assert said["training_after"] is True
    assert said["training_after_interrupt"] is True


@pytest.mark.parametrize("backend", ["unsloth", "peft"])
def test_the_best_adapter_is_put_back_and_answers(measured, backend):
    found = measured[backend]["put_back"]
    assert found["restored"] and found["equal"]
    kept, changed, back = found["said"]
    assert changed["losses"] != kept["losses"]
    assert changed["answer"] != kept["answer"]
    assert back["losses"] == pytest.approx(kept["losses"], rel=1e-6)
    assert back["answer"] == kept["answer"]


def test_the_fused_kernels_are_used_on_16_bit_weights(measured):
    assert measured["unsloth"]["fused"]["kernels"] == [
        "apply_lora_qkv",
        "apply_lora_o",
        "apply_lora_mlp_swiglu",
    ]


def test_a_resumed_run_goes_on_with_the_same_losses(runs, place, start_worker):
    whole = runs["unsloth"]
    cut = place / "outputs" / "resumed"
    shutil.copytree(whole.folder, cut)
    lines = (cut / "events.jsonl").read_text().splitlines(keepends=True)
    saved = next(i for i, line in enumerate(lines) if json.loads(line)["kind"] == "checkpoint")
    (cut / "events.jsonl").write_text("".join(lines[: saved + 1]))  # as a killed worker leaves it
    shutil.rmtree(cut / "adapter")
    for later in cut.glob("checkpoints/checkpoint-3"):
        shutil.rmtree(later)

    start_worker(cut, "resume", "unsloth")
    run = Run.open("resumed", place / "outputs")
    run.history.state = "preparing"
    assert run.wait(300) == "ready"
    run.close()

    losses = [step["loss"] for step in run.history.steps]
    assert losses == pytest.approx([step["loss"] for step in whole.history.steps], abs=1e-5)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (
            "head",
            "lora.target_modules has lm_head; Unsloth gives those no adapter and trains them in full. "
            "Move them to lora.modules_to_save, which says so, or set backend: peft.",
        ),
        (
            "whole",
            "lora.modules_to_save is q_proj; Unsloth trains only lm_head, embed_tokens and norms in full. "
            "Name only those, or set backend: peft.",
        ),
        (
            "bfloat16",
            "model.compute_dtype is bfloat16, which this GPU lacks; Unsloth would take float16 without a word. "
            "Leave model.compute_dtype at auto.",
        ),
    ],
)
def test_what_unsloth_cannot_do_is_refused(measured, what, text):
    assert measured["unsloth"]["refusals"][what] == text


def test_a_missing_model_is_named(measured):
    said = measured["unsloth"]["refusals"]["missing"]
    assert said.startswith("Unsloth finds no model ")
    assert said.endswith(
        "Check the name and the network; a gated model needs a token: run `hf auth login`."
    )
