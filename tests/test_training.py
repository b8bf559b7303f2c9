"""The worker's parts by themselves, in this process: every field of SFTConfig, what a step tells, checkpoints."""

import json
import math
from types import SimpleNamespace

import pytest

from workbench.events import EventLog, History
from workbench.worker import sft_settings, training
from workbench.worker.backends import peft
from workbench.worker.failures import explain
from workbench.worker.precision import Precision

FLOAT32 = Precision("float32", "for the test")


def test_each_field_of_sft_config_is_set_on_purpose(tiny, tmp_path):
    fields = sft_settings.settings(
        tiny, FLOAT32, tmp_path, on_gpu=False, backend=peft.trainer_options(tiny)
    )
    config, unknown = sft_settings.sft_config(fields)
    assert unknown == []
    assert config.learning_rate == tiny.training.learning_rate
    assert config.max_steps == tiny.training.steps


@pytest.mark.parametrize(
    ("training_length", "fields"),
    [({}, (1.0, -1)), ({"steps": 7}, (1.0, 7)), ({"epochs": 2.5}, (2.5, -1))],
)
def test_steps_and_epochs_reach_the_trainer(tiny, tmp_path, training_length, fields):
    recipe = tiny.replace(training={"steps": None, "epochs": None} | training_length)
    told = sft_settings.settings(recipe, FLOAT32, tmp_path, on_gpu=False, backend={})
    assert (told["num_train_epochs"], told["max_steps"]) == fields


def test_a_loss_that_is_lost_is_told_once_with_what_to_do(tmp_path):
    from transformers import TrainerControl, TrainerState

    log = EventLog(tmp_path / "events.jsonl")
    cadence = training.Cadence(evaluate=0, sample=0, checkpoint=0)
    callback = training.between_steps(log, cadence, listen=lambda _: None, sample=lambda *_: None)
    callback.trainer = SimpleNamespace(tokens=8, trained_tokens=4, eval_dataset=None)
    for step, loss in enumerate((2.0, math.nan, math.nan), 1):
        state, control = TrainerState(global_step=step, max_steps=9), TrainerControl()
        callback.on_train_begin(None, state, control)
        callback.on_step_end(None, state, control)
        figures = {"loss": loss, "epoch": 0.1, "learning_rate": 1e-3, "grad_norm": 1.0}
        callback.on_log(None, state, control, logs=figures)
    history = History(log.path)
    history.update()
    assert [s["step"] for s in history.steps] == [1, 2, 3]
    (warning,) = history.warnings
    assert warning["text"] == "The loss is nan at step 2: the adapter is spoilt."
    assert "lower training.learning_rate" in warning["cure"]


def test_a_checkpoint_that_was_torn_is_passed_over(tmp_path):
    for step, state in ((4, json.dumps({"global_step": 4})), (10, '{"global_st')):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(state)
    assert training.last_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    assert training.last_checkpoint(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "The disk is full: 2048.0 MiB are free"),
        (RuntimeError("CUDA out of memory. Tried"), "The memory ran out while training"),
        (ValueError("odd"), "ValueError while training: odd. worker.log in the run's folder"),
    ],
)
def test_failures_are_explained_with_a_next_step(error, words):
    assert words in str(explain(error, phase="training", disk_free=2**31))


def test_any_failure_on_a_full_disk_is_put_down_to_it():
    error = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 542464")
    told = explain(error, phase="training", disk_free=4096)
    assert told.fact.startswith("The disk is full: 0.0 MiB are free")
    assert told.cure.startswith("Free some space, then resume the run")
