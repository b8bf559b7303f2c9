"""Early stopping, and the adapter that is kept: by the figures alone, on a module of torch, on the tiny model, and in real runs."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import workbench as wb
from workbench.events import EventLog, History
from workbench.recipe import Recipe, Training
from workbench.run import Run
from workbench.worker import best, training
from workbench.worker.backends import peft
from workbench.worker.best import Best, Evaluated, Evaluations
from workbench.worker.precision import Precision
from workbench.worker.telling import Telling

TINY = Path(__file__).parents[1] / "data" / "tiny"


# The figures


def seen(*losses: float, every: int = 10) -> Evaluations:
    return Evaluations(Evaluated(number * every, loss) for number, loss in enumerate(losses, 1))


@pytest.mark.parametrize(
    ("losses", "count"),
    [
        ((2.0,), 0),
        ((2.0, 1.0, 0.5), 0),
        ((2.0, 1.0, 1.0), 1),  # as low is no fall
        ((1.0, 2.0, 1.5, 1.2), 3),  # falling, but not below the best
        ((1.0, math.nan, math.inf), 2),
        ((math.nan, math.nan), 2),
        ((math.nan, 1.0), 0),
    ],
)
def test_evaluations_without_a_fall_are_counted_from_the_best(losses, count):
    assert seen(*losses).without_fall == count


def test_the_best_is_the_first_lowest_number():
    assert seen(2.0, 1.0, 1.0, math.nan).best == Evaluated(20, 1.0)
    assert seen(math.nan).best is None and seen().latest is None


def test_steps_that_are_trained_again_are_evaluated_anew():
    found = seen(2.0, 1.0, 1.5, 1.7)
    found.add(20, 1.2)
    assert (found.best, found.without_fall) == (Evaluated(20, 1.2), 0)
    assert 20 in found and 30 not in found


# A module of torch


@pytest.fixture
def told(tmp_path) -> Telling:
    return Telling(tmp_path)


@pytest.fixture
def model():
    import torch

    made = torch.nn.Linear(3, 2)
    made.bias.requires_grad_(False)
    return made


def held(told: Telling, model, **settings) -> tuple[Best, Callable[..., str]]:
    """What a run keeps, and a way to evaluate: the weights are set to the number of the step."""
    import torch

    kept = Best(told, Training(**settings), model)

    def evaluate(step: int, loss: float, *, last: bool = False) -> str:
        with torch.no_grad():
            model.weight.fill_(step)
        told.log.write("eval", step=step, loss=loss, seconds=0.1)
        return kept.evaluated(step, loss, last=last)

    return kept, evaluate


def weight(model) -> int:
    (value,) = set(model.weight.detach().flatten().tolist())
    return value


def test_the_best_is_put_back_and_the_reason_names_both(told, model):
    kept, evaluate = held(told, model, patience=2)
    assert [evaluate(10, 0.5), evaluate(20, 0.41), evaluate(30, 0.45)] == [""] * 3
    why = "The held-out loss did not fall in 2 evaluations: best 0.410 at step 20."
    assert evaluate(40, 0.52) == why
    found = kept.put_back(40)
    assert (found.step, found.put_back, weight(model)) == (20, True, 20)
    assert found.why == "Its held-out loss of 0.410 was the lowest; that of step 40 was 0.520."
    assert not model.bias.requires_grad and model.weight.requires_grad


@pytest.mark.parametrize(
    ("losses", "last", "settings", "why"),
    [
        ((), 7, {}, "It is the last step's: no held-out loss was measured."),
        ((0.5, 0.4), 20, {}, "Its held-out loss of 0.400 was the lowest."),
        (
            (0.5, 0.4),
            27,
            {},
            "It is the last step's: the latest held-out loss, 0.400 at step 20, was the lowest.",
        ),
        ((0.4, 0.5), 20, {"keep": "last"}, "It is the last step's, as training.keep asks."),
        ((math.nan,), 10, {}, "It is the last step's: no held-out loss was a number."),
    ],
)
def test_what_the_model_carries_is_kept_unless_an_earlier_one_was_better(
    told, model, losses, last, settings, why
):
    kept, evaluate = held(told, model, patience=0, **settings)
    for number, loss in enumerate(losses, 1):
        evaluate(number * 10, loss)
    before = model.weight.detach().clone()
    assert kept.put_back(last) == (last, why, False)
    assert bool((model.weight == before).all())
    assert kept.path.exists() == (
        bool(losses) and math.isfinite(losses[0]) and settings.get("keep") != "last"
    )
    kept.forget()
    assert not kept.path.exists()


def test_a_loss_that_is_lost_gives_the_last_good_adapter_back(told, model):
    kept, evaluate = held(told, model, patience=2)
    evaluate(10, 0.5)
    assert not evaluate(20, math.nan)
    assert evaluate(30, math.nan).startswith("The held-out loss did not fall in 2 evaluations")
    assert kept.put_back(30).step == 10 and weight(model) == 10


def test_a_loss_that_never_is_a_number_ends_the_training_too(told, model):
    _, evaluate = held(told, model, patience=1)
    assert evaluate(10, math.nan) == "The held-out loss was not a number in 1 evaluation."


def test_with_a_patience_of_0_nothing_ends_early(told, model):
    _, evaluate = held(told, model, patience=0)
    assert not any(evaluate(step, float(step)) for step in range(1, 20))


def test_after_the_last_step_nothing_is_written_for_it_is_in_the_model(told, model):
    kept, evaluate = held(told, model, patience=1)
    evaluate(10, 0.5)
    assert evaluate(20, 0.6, last=True) == ""
    evaluate(20, 0.4, last=True)
    assert best.header(kept.path) == (10, 0.5)
    assert kept.put_back(20) == (20, "Its held-out loss of 0.400 was the lowest.", False)


def test_a_worker_that_resumes_goes_on_from_the_log_and_the_file(told, model):
    _, evaluate = held(told, model)
    for step, loss in ((10, 0.5), (20, 0.4), (30, 0.6)):
        evaluate(step, loss)
    kept, evaluate = held(told, model, patience=2)
    assert evaluate(40, 0.45).endswith("in 2 evaluations: best 0.400 at step 20.")
    assert kept.put_back(40).step == 20 and weight(model) == 20


def test_a_file_of_a_step_that_the_log_does_not_know_is_not_used(told, model):
    best.keep(model, told.folder / best.FILE, Evaluated(50, 0.1))
    kept, evaluate = held(told, model)
    evaluate(10, 0.5)
    assert best.header(kept.path) == (10, 0.5)


def test_a_best_whose_adapter_is_gone_is_told(told, model):
    _, evaluate = held(told, model, keep="last")
    evaluate(10, 0.3)
    evaluate(20, 0.6)
    kept, evaluate = held(told, model, keep="best")
    assert kept.put_back(20).why == (
        "It is the last step's: that of step 10, with the lowest held-out loss of 0.300, is not there any more."
    )
    evaluate(30, 0.4)
    evaluate(40, 0.5)
    assert kept.put_back(40) == (
        30,
        "Its held-out loss of 0.400 was lower than the latest; that of step 40 was 0.500, "
        "and the adapter of step 10, with 0.300, is not there any more.",
        True,
    )


def test_a_run_that_was_ended_early_and_is_resumed_gets_its_patience_anew(told, model):
    kept, evaluate = held(told, model, patience=2)
    whys = [evaluate(step, loss) for step, loss in ((10, 0.4), (20, 0.5), (30, 0.5))]
    told.log.write("choice", what="early_stop", value="10", why=whys[-1])
    kept, evaluate = held(told, model, patience=2)
    assert evaluate(40, 0.6) == ""
    assert evaluate(50, 0.6).startswith("The held-out loss did not fall in 2 evaluations: best")
    assert kept.put_back(50).step == 10 and weight(model) == 10


def test_a_file_that_cannot_be_written_ends_nothing(told, model):
    kept, evaluate = held(told, model)
    kept.path.mkdir()
    assert evaluate(10, 0.5) == ""
    history = History(told.log.path)
    history.update()
    (warning,) = history.warnings
    assert warning["text"].startswith(
        "The adapter of step 10, the best so far, could not be kept: "
    )
    assert evaluate(20, 0.6) == ""
    assert kept.put_back(20).step == 20 and weight(model) == 20
    assert [path.name for path in told.folder.glob("*.partial")] == []


def test_a_file_of_another_adapter_changes_nothing(tmp_path, model):
    import torch

    path = tmp_path / best.FILE
    best.keep(torch.nn.Linear(3, 2), path, Evaluated(1, 1.0))  # its bias is trained, too
    before = model.weight.detach().clone()
    assert not best.restore(model, path)
    path.write_bytes(b"no such thing")
    assert not best.restore(model, path) and best.header(path) is None
    assert bool((model.weight == before).all())


# The tiny model


@pytest.mark.filterwarnings(
    "ignore:Model has `tie_word_embeddings=True`"
)  # PEFT; it is as in a run
def test_all_that_is_trained_comes_back(tmp_path, tiny: Recipe):
    import torch

    lora = {"dora": True, "bias": "lora_only", "modules_to_save": ["lm_head"]}
    recipe = tiny.replace(lora=lora, model={"load_in_4bit": False})
    model = peft.load(recipe, Precision("float32", "for the test")).model
    model = peft.attach(model, recipe)
    names = [name for name, _ in best.trained(model)]
    for part in ("lora_A", "lora_magnitude_vector", "modules_to_save"):
        assert any(part in name for name in names)
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    best.keep(model, tmp_path / best.FILE, Evaluated(3, 0.25))
    with torch.no_grad():
        for _, parameter in best.trained(model):
            parameter.add_(1)
    assert best.restore(model, tmp_path / best.FILE)
    assert all(bool((one == before[name]).all()) for name, one in model.named_parameters())
    assert best.header(tmp_path / best.FILE) == Evaluated(3, 0.25)


# Real runs


@pytest.fixture(scope="module")
def few(short: Recipe, tmp_path_factory) -> Recipe:
    """Four rows and far too high a learning rate: the held-out loss turns up after the sixth step."""
    place = tmp_path_factory.mktemp("few")
    for name, count in (("train", 4), ("heldout", 8)):
        rows = (TINY / f"{name}.jsonl").read_text().splitlines()[:count]
        (place / f"{name}.jsonl").write_text("\n".join(rows))
    schedule = {"learning_rate": 1e-2, "scheduler": "constant", "warmup": 0}
    often = {"steps": 500, "batch_size": 2, "eval_every": 3, "checkpoint_every": 6, "patience": 2}
    return short.replace(
        data={name: str(place / f"{name}.jsonl") for name in ("train", "heldout")},
        training=schedule | often,
        samples={"every": 3, "max_new_tokens": 16, "score_rows": 0},
    )


@pytest.fixture(scope="module")
def ended(few: Recipe, outputs: Path) -> Run:
    """A run that ended early."""
    run = wb.start(few, name="ended-early", outputs=outputs)
    try:
        assert run.wait(300) == "ready"
    finally:
        run.close()
    return run


def tensors(folder: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def same(ours: dict, theirs: dict) -> bool:
    return ours.keys() == theirs.keys() and all(
        bool((ours[name] == theirs[name]).all()) for name in ours
    )


def test_a_run_ends_where_its_held_out_loss_did_not_fall(ended: Run):
    history = ended.history
    assert [event["step"] for event in history.evals] == [3, 6, 9, 12]
    lowest = history.best_eval
    assert (lowest["step"], history.step, history.of) == (6, 12, 500)
    why = f"The held-out loss did not fall in 2 evaluations: best {lowest['loss']:.3f} at step 6."
    assert history.stopped_early == why
    (choice,) = [one for one in history.choices if one["what"] == "early_stop"]
    assert (choice["value"], choice["why"]) == ("6", why)
    said = [(phase["state"], phase["text"]) for phase in history.phases]
    assert ("training", why) in said
    closing = "Ended at step 12 of 500; the adapter of step 6, whose held-out loss was the lowest, is saved."
    assert ("ready", f"{why} {closing}") in said
    assert [event["step"] for event in history.checkpoints] == [6, 12]


def test_what_it_keeps_is_the_adapter_of_the_lowest_held_out_loss(ended: Run):
    kept = ended.history.adapter
    assert kept["step"] == 6
    assert kept["why"].startswith("Its held-out loss of ")
    checkpoints = ended.folder / "checkpoints"
    assert same(tensors(ended.adapter_path), tensors(checkpoints / "checkpoint-6"))
    assert not same(tensors(ended.adapter_path), tensors(checkpoints / "checkpoint-12"))


def test_what_answers_is_what_is_kept(ended: Run):
    told = [s for s in ended.history.samples if s["adapter"]]
    said = {step: [s["text"] for s in told if s["step"] == step] for step in (6, 12)}
    assert (
        len(said[6]) == 3 and len(said[12]) == 6
    )  # those of the last step, then those of the kept one
    assert said[12][3:] == said[6]
    assert said[12][:3] != said[6]


def test_after_a_kill_the_best_is_still_kept(ended: Run, outputs: Path):
    cut = outputs / "killed"
    shutil.copytree(ended.folder, cut)
    lines = (cut / "events.jsonl").read_text().splitlines(keepends=True)
    saved = next(i for i, line in enumerate(lines) if json.loads(line)["kind"] == "checkpoint")
    (cut / "events.jsonl").write_text("".join(lines[: saved + 1]))  # as a killed worker leaves it
    shutil.rmtree(cut / "adapter")
    shutil.rmtree(cut / "checkpoints" / "checkpoint-12")
    run = Run.open("killed", outputs)
    assert run.state == "stopped"
    run.resume()
    assert run.wait(300) == "ready"
    run.close()
    assert (run.history.step, run.history.adapter["step"]) == (12, 6)
    assert run.history.stopped_early == ended.history.stopped_early
    assert same(tensors(run.adapter_path), tensors(ended.adapter_path))


def test_a_run_whose_last_evaluation_is_its_best_keeps_its_last_step(trained: Run):
    history = trained.history
    assert history.adapter["step"] == history.step == 12
    loss = history.evals[-1]["loss"]
    assert history.adapter["why"] == f"Its held-out loss of {loss:.3f} was the lowest."
    assert history.stopped_early == ""
    assert not (trained.folder / best.FILE).exists()


def test_an_early_end_writes_a_checkpoint_as_a_stop_does(tmp_path):
    from transformers import TrainerControl, TrainerState

    log = EventLog(tmp_path / "events.jsonl")
    cadence = training.Cadence(evaluate=1, sample=0, checkpoint=0)
    for ends in (True, False):
        callback = training.between_steps(
            log,
            cadence,
            listen=lambda _: None,
            sample=lambda *_: None,
            evaluated=lambda _, loss, ends=ends: ends and loss == 0.5,
        )
        callback.trainer = SimpleNamespace(tokens=8, trained_tokens=4, eval_dataset=[1])
        state, control = TrainerState(global_step=3, max_steps=9), TrainerControl()
        callback.asked_now()
        callback.on_evaluate(None, state, control, metrics={"eval_loss": 0.5})
        assert control.should_save == control.should_training_stop == ends
