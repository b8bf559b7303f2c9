"""The real worker on the tiny lane: it trains, tells, obeys, keeps what it learned, and survives what befalls it."""

import asyncio
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import workbench as wb
from workbench.problems import RecipeError, RunError, WorkbenchError
from workbench.recipe import Recipe
from workbench.run import Run

TINY = Path(__file__).parents[1] / "data" / "tiny"
LONG = {
    "steps": 5000,
    "eval_every": 0,
    "checkpoint_every": 0,
    "scheduler": "constant",
    "warmup": 0,
}
QUIET = {"every": 0, "score_rows": 0, "max_new_tokens": 4}


@pytest.fixture
def long(short: Recipe) -> Recipe:
    """A run that would go on for long, with nothing before its first step."""
    return short.replace(training=LONG, samples=QUIET)


def until(run: Run, true: Callable[[Run], object], seconds: float = 120) -> None:
    """Waits until the history says so; fails with the worker's words if it ends before."""
    end = time.monotonic() + seconds
    while not true(run):
        assert time.monotonic() < end, f"still {run.state} at step {run.history.step}"
        assert run.alive or true(run), [error["text"] for error in run.history.errors]
        time.sleep(0.02)
        run.refresh()


def losses(run: Run) -> list[float]:
    return [step["loss"] for step in run.history.steps]


# What a run tells


def test_a_run_goes_through_its_states(trained: Run):
    states = [phase["state"] for phase in trained.history.phases]
    assert [s for i, s in enumerate(states) if i == 0 or states[i - 1] != s] == [
        "preparing",
        "loading",
        "training",
        "ready",
    ]


def test_each_step_is_told_with_real_figures(trained: Run):
    steps = trained.history.steps
    assert [s["step"] for s in steps] == list(range(1, 13))
    for step in steps:
        assert step["of"] == 12
        assert math.isfinite(step["loss"]) and step["grad_norm"] > 0
        assert 0 < step["trained_tokens"] < step["tokens"]
        assert 0 < step["seconds"] < 60
    assert steps[-1]["loss"] < steps[0]["loss"]


def test_tokens_add_up_to_what_the_rows_hold(trained: Run):
    data = trained.history.data
    per_row = data["tokens"] / data["rows"]
    seen = sum(step["tokens"] for step in trained.history.steps) / (12 * 4)
    assert seen == pytest.approx(per_row, rel=0.1)


def test_evaluations_samples_scores_and_checkpoints_keep_their_cadence(trained: Run):
    history = trained.history
    assert [e["step"] for e in history.evals] == [6, 12]
    assert [s["step"] for s in history.samples if s["sample"].startswith("step")] == [0] * 3 + [
        6
    ] * 3 + [12] * 3
    assert [(s["step"], s["adapter"], s["rows"]) for s in history.scores] == [
        (0, False, 16),
        (12, True, 16),
    ]
    assert [c["step"] for c in history.checkpoints] == [4, 8, 12]
    assert history.memory[-1]["process"] > 100e6


def test_choices_carry_their_reasons(trained: Run):
    choices = {choice["what"]: choice for choice in trained.history.choices}
    assert choices["backend"]["value"] == "peft" and choices["backend"]["why"]
    assert choices["precision"]["why"].endswith(".")


def test_every_field_of_sft_config_is_set_and_written_down(trained: Run, short: Recipe, tmp_path):
    script = (
        "import dataclasses, json, sys; from trl import SFTConfig;"
        "print(json.dumps([f.name for f in dataclasses.fields(SFTConfig) if f.init]))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    written = json.loads((trained.folder / "sft_config.json").read_text())
    assert set(json.loads(out.stdout.splitlines()[-1])) <= set(written)
    assert not [w for w in trained.history.warnings if "does not know" in w["text"]]
    assert written["learning_rate"] == short.training.learning_rate
    assert written["dataset_kwargs"] == {"skip_prepare_dataset": True}


def test_the_worker_uses_nothing_that_its_libraries_deprecate(trained: Run):
    """Told by the libraries that we wrap, or at a line of ours; torch's own house is not looked into."""
    log = (trained.folder / "worker.log").read_text()
    told = re.findall(r".*(?:Deprecation|Future)Warning.*", log)
    wrapped = r"/(?:workbench|transformers|trl|peft|bitsandbytes|accelerate|datasets)/"
    assert [line for line in told if re.search(wrapped, line)] == []


def test_the_model_is_in_four_bits_and_only_the_adapter_is_trained(trained: Run):
    model = trained.history.model
    assert model["trainable"] < 0.2 * model["parameters"]
    assert set(model["target_modules"]) == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    config = json.loads((trained.adapter_path / "adapter_config.json").read_text())
    assert config["r"] == 16


# Asking it


def test_an_answer_comes_piece_by_piece_and_whole(trained: Run):
    async def ask() -> dict:
        return await trained.answer(
            "Ada here.", system="Write the ticket as JSON.", max_new_tokens=12
        )

    before = trained.history._offset
    whole = asyncio.run(ask())
    lines = trained.history.path.read_bytes()[before:].splitlines()
    events = [event for event in map(json.loads, lines) if event.get("sample") == whole["sample"]]
    pieces = [event["text"] for event in events if event["kind"] == "token"]
    assert "".join(pieces) == whole["text"]
    assert whole["tokens"] <= 12


def test_the_same_question_greedily_gives_the_same_answer_and_the_base_is_another(trained: Run):
    async def three() -> list[str]:
        asked = {"prompt": "Ada here. I want a refund.", "system": "Write the ticket as JSON."}
        how = ({}, {}, {"adapter": False})
        return [(await trained.answer(**asked, **h))["text"] for h in how]

    first, again, base = asyncio.run(three())
    assert first == again
    assert first != base


def test_a_prompt_that_is_too_long_is_refused_and_loses_nothing(trained: Run):
    with pytest.raises(RunError, match="it must fit in 128"):
        asyncio.run(trained.answer("Ada " * 500))
    assert trained.state == "ready"


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (
            {"max_new_tokens": "many"},
            "samples.max_new_tokens is 'many'; it must be a whole number.",
        ),
        ({"top_p": 5}, "samples.top_p is 5; it must be at most 1."),
        ({"rank": 5}, "ask does not take rank."),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused_before_it_is_sent(trained: Run, how, says):
    with pytest.raises(WorkbenchError) as caught:
        trained.ask("Ada here.", **how)
    assert says in str(caught.value)
    assert trained.state == "ready"


def test_stop_after_the_end_is_refused_with_the_reason(trained: Run):
    command = trained.stop()
    until(trained, lambda run: any(c["id"] == command for c in run.history.commands))
    told = trained.history.commands[-1]
    assert not told["taken"]
    assert told["text"] == "stop needs a run that trains; this one is ready."


def test_its_prompts_are_answered_once_more_after_the_training(trained: Run):
    before = len(trained.history.samples)
    command = trained.sample_now()
    until(trained, lambda run: any(c["id"] == command for c in run.history.commands))
    assert trained.history.commands[-1]["taken"]
    again = trained.history.samples[before:]
    assert [s["sample"] for s in again] == ["step-12-0", "step-12-1", "step-12-2"]
    last = [
        s["text"] for s in trained.history.samples[:before] if s["step"] == 12 and s["expected"]
    ]
    assert [s["text"] for s in again] == last[:3]


def test_a_sample_carries_the_prompt_as_it_was_fed_to_the_model(trained: Run):
    sample = next(s for s in trained.history.samples if s["expected"])
    system = "<|begin|><|system|>Write the ticket as JSON.<|end|>"
    assert sample["rendered"] == f"{system}<|user|>{sample['prompt']}<|end|><|assistant|>"
    assert all(s["same_as"] is None or s["same_as"] > 0 for s in trained.history.samples)


# Watching it


def test_another_process_sees_everything_so_far(trained: Run):
    script = (
        "import sys; from workbench.run import Run; run = Run.open(sys.argv[1], sys.argv[2]);"
        "print(run.state, run.history.step, run.alive, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", script, trained.name, str(trained.folder.parent)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["ready", "12", "True", "False"]


def test_the_worker_is_in_a_session_of_its_own(trained: Run):
    pid = json.loads((trained.folder / "worker.json").read_text())["pid"]
    assert os.getsid(pid) != os.getsid(0)


def test_runs_lists_it(trained: Run, outputs):
    assert "trained" in [run.name for run in wb.runs(outputs)]


def test_a_run_that_is_not_there(outputs):
    with pytest.raises(RunError, match="There is no run 'nobody'"):
        Run.open("nobody", outputs)


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".hidden", "x" * 200])
def test_names_that_would_leave_the_folder(name: str, outputs):
    with pytest.raises(RunError, match="cannot be the name of a run"):
        Run.open(name, outputs)


def test_a_name_that_is_taken(trained: Run, short: Recipe, outputs):
    with pytest.raises(RunError, match=r"There is a run 'trained' already\."):
        wb.start(short, name="trained", outputs=outputs)


# Steering it


def test_pause_change_checkpoint_and_stop(start, long: Recipe):
    run = start(long)
    until(run, lambda run: run.history.step >= 2)
    run.pause()
    until(run, lambda run: run.history.state == "paused")
    held = run.history.step
    answer = asyncio.run(run.answer("Ada here.", max_new_tokens=3))
    assert answer["tokens"] <= 3
    lowered = run.change(learning_rate=5e-4)
    now = run.sample_now()
    with pytest.raises(WorkbenchError, match=r"training\.learning_rate is 7; it must be at most 1"):
        run.change(learning_rate=7)
    early = run.change(steps=1)
    until(run, lambda run: any(c["id"] == early for c in run.history.commands))
    told = run.history.commands[-1]["text"]
    assert told.startswith(f"steps is 1; it must be from {held} to 5000")
    said = {event["id"]: (event["taken"], event["text"]) for event in run.history.commands}
    assert said[lowered] == (True, f"learning rate 0.0005 from step {held + 1} on")
    assert said[now] == (True, "")
    asked = [s for s in run.history.samples if s["sample"].startswith(f"step-{held}-")]
    assert [(s["step"], s["adapter"]) for s in asked] == [(held, True)] * 3
    assert run.history.step == held
    run.checkpoint()
    run.unpause()
    until(run, lambda run: run.history.step >= held + 2 and run.history.checkpoints)
    assert run.history.steps[-1]["learning_rate"] == pytest.approx(5e-4, rel=0.01)
    before = run.history.step
    run.stop()
    assert run.wait(30) == "stopped"
    assert (
        run.history.step <= before + 2
    )  # the step that was under way, and one between the look and the request
    assert (run.adapter_path / "adapter_model.safetensors").is_file()
    assert re.fullmatch(r"Stopped at step \d+ of 5000; the adapter is kept\.", run.history.text)


def test_a_stop_that_comes_before_the_worker_is_there_is_obeyed(start, long: Recipe):
    run = start(long)
    run.stop()
    assert run.wait(120) == "closed"
    assert run.history.text == (
        "Ended while preparing, before the first step; there was nothing to keep."
    )


def test_interrupting_the_wait_stops_and_keeps(start, long: Recipe):
    run = start(long)

    async def interrupted() -> str:
        waiting = asyncio.create_task(run.finished())
        while run.history.step < 2:
            await asyncio.sleep(0.05)
        waiting.cancel()  # what a kernel does on Interrupt
        return await waiting

    assert asyncio.run(interrupted()) == "stopped"
    assert run.adapter_path.is_dir()


def test_close_while_training_stops_keeps_and_ends_the_worker(start, long: Recipe):
    run = start(long)
    asked_early = run.ask("Ada here.", max_new_tokens=2)  # waits for the model
    until(run, lambda run: run.history.step >= 2)
    assert asked_early in [sample["sample"] for sample in run.history.samples]
    run.close()
    assert (run.state, run.alive) == ("closed", False)
    assert (run.adapter_path / "adapter_model.safetensors").is_file()


def test_stop_is_obeyed_while_the_base_model_is_scored(start, long: Recipe):
    run = start(long.replace(samples={"score_rows": 320, "max_new_tokens": 100}))
    until(run, lambda run: "of 320 held-out rows" in run.history.text)
    run.stop()
    began = time.monotonic()
    assert run.wait(60) == "closed"
    assert time.monotonic() - began < 30  # all of it takes longer
    assert run.history.scores == []


def test_rows_without_room_for_an_answer_are_named_and_not_asked(start, long: Recipe, tmp_path):
    row = json.loads((TINY / "heldout.jsonl").read_text().splitlines()[0])
    row["messages"][1]["content"] *= 20
    heldout = tmp_path / "heldout.jsonl"
    good = (TINY / "heldout.jsonl").read_text().splitlines()[:3]
    heldout.write_text("\n".join([*good, json.dumps(row)]))
    quick = {"steps": 1, "eval_every": 0}
    scored = QUIET | {"score_rows": 4}
    run = start(long.replace(data={"heldout": str(heldout)}, training=quick, samples=scored))
    assert run.wait(120) == "ready"
    told = [warning["text"] for warning in run.history.warnings]
    assert any(text.startswith("Not asked") and "row 4" in text for text in told)
    assert run.history.scores[-1]["rows"] == 3
    run.close()


def test_cancel_keeps_nothing(start, long: Recipe):
    run = start(long.replace(training={"checkpoint_every": 1}))
    until(run, lambda run: run.history.checkpoints)
    run.cancel()
    assert run.wait(30) == "closed"
    assert not run.adapter_path.exists()
    assert not (run.folder / "checkpoints").exists()


def test_a_warm_spare_takes_the_run(start, short: Recipe):
    spare = wb.Spare.warm("peft")
    run = start(short.replace(training={"steps": 1}, samples=QUIET), spare=spare)
    assert run.wait(120) == "ready"
    pid = json.loads((run.folder / "worker.json").read_text())["pid"]
    assert pid == spare.pid
    run.close()
    assert not run.alive and run.state == "closed"


def test_an_unused_spare_ends_when_it_is_closed():
    spare = wb.Spare.warm("peft")
    assert spare.alive
    spare.close()
    assert not spare.alive


# The settings that the tiny lane's own recipe leaves alone


@pytest.mark.parametrize(
    ("changes", "written"),
    [
        (
            {
                "model": {"quant_type": "fp4", "double_quant": False},
                "lora": {"rslora": True, "dropout": 0.1, "target_modules": ["q_proj", "v_proj"]},
                "data": {"loss_on": "all"},
                "training": {
                    "batching": "packed",
                    "optimizer": "adamw_8bit",
                    "gradient_checkpointing": True,
                    "accumulation": 2,
                    "scheduler": "cosine",
                    "weight_decay": 0.01,
                },
            },
            {"use_rslora": True, "lora_dropout": 0.1, "target_modules": {"q_proj", "v_proj"}},
        ),
        (
            {
                "model": {"load_in_4bit": False},
                "lora": {"dora": True, "bias": "lora_only", "modules_to_save": ["lm_head"]},
                "training": {"optimizer": "paged_adamw_8bit", "steps": None, "epochs": 0.005},
                "samples": {"prompts": ["Ada here."], "temperature": 0.7, "top_p": 0.9},
            },
            {"use_dora": True, "bias": "lora_only", "modules_to_save": ["lm_head"]},
        ),
    ],
    ids=["packed fp4", "16-bit DoRA"],
)
def test_the_other_settings_train_too(start, short: Recipe, changes: dict, written: dict):
    quick = {"steps": 3, "eval_every": 0, "checkpoint_every": 0}
    run = start(short.replace(training=quick, samples=QUIET).replace(**changes))
    assert run.wait(120) == "ready"
    assert len(losses(run)) == 3 and all(map(math.isfinite, losses(run)))
    config = json.loads((run.adapter_path / "adapter_config.json").read_text())
    config["target_modules"] = set(config["target_modules"])
    assert {name: config[name] for name in written} == written
    run.close()


# What may befall it


def test_after_a_kill_resume_gives_the_losses_of_the_uninterrupted_run(
    start, trained: Run, short: Recipe
):
    run = start(short)
    until(run, lambda run: run.history.step >= 6)
    os.kill(json.loads((run.folder / "worker.json").read_text())["pid"], signal.SIGKILL)
    while run.alive:
        time.sleep(0.01)
    assert [run.state, run.state] == ["stopped", "stopped"]  # it is told once, and stays so
    assert "resume() goes on from step 4." in run.history.text
    with (run.folder / "events.jsonl").open("ab") as log:
        log.write(b'{"t": 1, "kind": "st')  # as if the kill had come while it wrote
    run.resume()
    assert run.wait(120) == "ready"
    assert losses(run) == pytest.approx(losses(trained), abs=1e-5)
    assert run.history.evals[-1]["loss"] == pytest.approx(
        trained.history.evals[-1]["loss"], abs=1e-5
    )


def test_a_worker_that_dies_before_its_first_word(start, long: Recipe):
    run = start(long)
    os.kill(json.loads((run.folder / "worker.json").read_text())["pid"], signal.SIGKILL)
    with pytest.raises(RunError, match="The worker ended without a word while preparing"):
        run.wait(30)


def test_a_folder_that_is_removed_under_the_run(start, long: Recipe, tmp_path):
    run = start(long, outputs=tmp_path / "outputs")
    pid = json.loads((run.folder / "worker.json").read_text())["pid"]
    shutil.rmtree(run.folder)
    try:
        with pytest.raises(RunError, match="is gone"):
            run.wait(30)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_recipe_that_cannot_be_read_hides_no_other_run(trained: Run, outputs):
    odd = outputs / "odd"
    odd.mkdir()
    (odd / "recipe.yaml").write_text("lora: {rank: 0}\n")
    assert {"odd", "trained"} <= {run.name for run in wb.runs(outputs)}
    with pytest.raises(RecipeError, match=r"recipe\.yaml: lora\.rank is 0"):
        print(Run.open("odd", outputs).recipe)
    shutil.rmtree(odd)


def test_a_worker_that_dies_while_loading(start, long: Recipe):
    run = start(long)
    until(run, lambda run: run.history.phases)
    os.kill(json.loads((run.folder / "worker.json").read_text())["pid"], signal.SIGKILL)
    with pytest.raises(
        RunError, match=r"The worker ended without a word while preparing, at step 0\."
    ):
        run.wait(30)


def test_weights_that_cannot_be_loaded_are_explained(start, long: Recipe, tmp_path):
    broken = shutil.copytree(long.model.name, tmp_path / "model")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"num_attention_heads": 7}))
    run = start(long.replace(model={"name": str(broken)}))
    with pytest.raises(RunError) as caught:
        run.wait(120)
    assert re.search("while (preparing|loading)", str(caught.value))
    run.close()
    assert not run.alive


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 24 MiB of its own."""
    mounted = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(tmp_path)]
    if subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(start, short, small_disk):
    recipe = short.replace(training={"steps": 6, "eval_every": 0}, samples=QUIET)
    run = start(recipe, outputs=small_disk)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(22 * 2**20))  # room for events, not for a checkpoint
    with pytest.raises(RunError, match="The disk is full") as caught:
        run.wait(120)
    assert "Free some space, then resume the run" in str(caught.value)
    filler.unlink()
    run.resume()
    assert run.wait(120) == "ready"
    assert run.history.step == 6
    run.close()
