"""The worker's parts by themselves, in this process: every field of SFTConfig, what a step tells, changes, the card, copies."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from workbench.data import sides, table
from workbench.events import KINDS, EventLog, History
from workbench.worker import card_readings, changing, copies, device, sft_settings, training
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


# Changing settings


@pytest.fixture
def running():
    """A trainer at step 40 of 100, with a learning rate of 1e-3 that has come down to half of it."""
    group = {"lr": 5e-4, "initial_lr": 1e-3}
    scheduler = SimpleNamespace(base_lrs=[1e-3])
    trainer = SimpleNamespace(
        state=SimpleNamespace(global_step=40, max_steps=100),
        lr_scheduler=scheduler,
        optimizer=SimpleNamespace(param_groups=[group]),
    )
    return SimpleNamespace(trainer=trainer)


@pytest.mark.parametrize(
    ("wanted", "refusal", "changed"),
    [
        ({"learning_rate": 5e-4}, "", "learning rate 0.0005 from step 41 on"),
        ({"steps": 60}, "", "end at step 60 instead of 100"),
        (
            {"eval_every": 20, "sample_every": 1, "checkpoint_every": 0},
            "",
            "evaluation every 20 steps, samples every step, no more checkpoints",
        ),
        (
            {"eval_every": 0, "sample_every": 0},
            "",
            "evaluation only at the end, samples only at the end",
        ),
        (
            {"steps": 30, "learning_rate": 5e-4},
            "steps is 30; it must be from 40 to 100 (more would need rows and a schedule that were not planned: "
            "resume with a longer recipe).",
            "learning rate 0.0005 from step 41 on",
        ),
        ({"learning_rate": 2}, "learning_rate is 2; it must be above 0 and at most 1.", ""),
        ({"eval_every": -1}, "eval_every is -1; it must be 0 or more.", ""),
    ],
)
def test_a_change_says_what_it_changed_and_what_it_could_not(running, wanted, refusal, changed):
    cadence = training.Cadence(evaluate=5, sample=5, checkpoint=5)
    assert changing.change(running, cadence, wanted) == (refusal, changed)


def test_a_new_learning_rate_keeps_its_place_in_the_schedule(running):
    cadence = training.Cadence(evaluate=5, sample=5, checkpoint=5)
    changing.change(running, cadence, {"learning_rate": 2e-3, "steps": 60, "eval_every": 7})
    trainer = running.trainer
    assert trainer.optimizer.param_groups == [{"lr": 1e-3, "initial_lr": 2e-3}]
    assert trainer.lr_scheduler.base_lrs == [2e-3]
    assert (trainer.state.max_steps, cadence.evaluate, cadence.sample) == (60, 7, 5)


# The card


@pytest.mark.parametrize(
    ("reasons", "words"),
    [
        (0x0, ""),
        (0x1, ""),  # idle
        (0x4, "power"),
        (0x20, "temperature"),
        (0x8 | 0x40, "temperature"),
        (0x8 | 0x80, "power"),
        (0x8, "the card's own protection"),
        (0x4 | 0x20, "temperature, power"),
        (0x10, "other cards"),
        (0x2, "clocks that were set"),
        (0x8000000000000000, ""),  # of a later NVML
        (None, None),
    ],
)
def test_why_a_card_runs_slower_is_told_in_words(reasons, words):
    found = card_readings.as_fields(percent=97, celsius=71, milliwatts=68_249, reasons=reasons)
    assert found == {"utilisation": 97, "temperature": 71, "power": 68.2, "throttled": words}


def test_what_nvml_does_not_tell_is_null():
    found = card_readings.as_fields(percent=None, celsius=None, milliwatts=None, reasons=None)
    assert found == dict.fromkeys(("utilisation", "temperature", "power", "throttled"))


def test_a_memory_event_has_all_its_fields_with_and_without_a_card():
    found = device.readings()
    assert set(found) | {"step"} == set(KINDS["memory"])
    if not device.on_card():
        assert {found[name] for name in card_readings.NAMES} == {None}


# Copies of training rows


@pytest.fixture
def train(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    answers = [
        "yes",
        "The lamp is red.",
        " The lamp is blue.\n",
        "The lamp is red.",
        "kept apart, all of it",
    ]
    rows = [{"prompt": f"Lamp {n}?", "completion": answer} for n, answer in enumerate(answers)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return sides.Side(table.read(tmp_path / "rows.jsonl"), np.arange(4))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The lamp is red.", 2),
        ("\n The lamp is blue.", 3),
        ("The lamp is red", None),
        ("the lamp is red.", None),
        ("yes", None),  # too short to say anything
        ("kept apart, all of it", None),  # not of the training side
        ("", None),
    ],
)
def test_an_answer_is_the_same_as_a_training_rows_letter_by_letter(train, text, number):
    for _ in ("read", "from the cache"):
        assert copies.Copies(train).same_as(text) == number


def test_a_damaged_note_of_the_answers_is_made_anew(train, tmp_path):
    copies.Copies(train)
    (kept,) = (tmp_path / "cache").glob("answers-*.npy")
    kept.write_bytes(kept.read_bytes()[:-4])
    assert copies.Copies(train).same_as("The lamp is red.") == 2
