"""What is measured in a run's first seconds: real tensors by part, and no trace of it in the training that follows."""

import contextlib
import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import workbench as wb
from workbench.data.tokenizer import ChatTokenizer
from workbench.events import EventLog
from workbench.problems import RunError
from workbench.starting import probe
from workbench.worker import feeding, fitting, microbatch, parts, sft_settings, training
from workbench.worker.backends import peft
from workbench.worker.material import gather
from workbench.worker.precision import Precision
from workbench.worker.rehearsal import RECORD, Rehearsal
from workbench.worker.telling import Telling

FLOAT32 = Precision("float32", "for the test")
STEPS = 3
QUIET = {"every": 0, "score_rows": 0, "max_new_tokens": 4}
#: The parts of what is always held, and what a pass adds.
TENSORS = {*parts.OF_THE_MODEL, "gradients", "optimizer", "activations"}


@pytest.fixture(scope="module")
def few(short, tmp_path_factory):
    """Quick steps, with dropout, which draws numbers, and 8 held-out rows."""
    heldout = tmp_path_factory.mktemp("rows") / "heldout.jsonl"
    rows = Path(short.data.heldout).read_text(encoding="utf-8").splitlines()[:8]
    heldout.write_text("\n".join(rows), encoding="utf-8")
    return short.replace(
        lora={"dropout": 0.1},
        data={"heldout": str(heldout)},
        training={"steps": STEPS, "accumulation": 2, "eval_every": 0, "checkpoint_every": 0},
        samples=QUIET,
    )


@pytest.fixture(scope="module")
def trained_here(few, tmp_path_factory):
    """Trains in this process, with a rehearsal or without; returns the trainer and the rehearsal."""

    def train(*, rehearsed: bool) -> SimpleNamespace:
        import transformers

        folder = tmp_path_factory.mktemp("run") / "run"
        folder.mkdir()
        told = Telling(folder)
        model, tokenizer, _ = peft.load(few, FLOAT32)
        transformers.set_seed(few.training.seed)
        model = peft.attach(model, few)
        material = gather(few, ChatTokenizer.of(tokenizer), told.log, passing=lambda _: None)
        units = feeding.units(material.train, material.batching)
        rehearsal = Rehearsal(told, few, units, backend="peft", batching="padded", context=0)
        fields = sft_settings.settings(
            few, FLOAT32, folder, on_gpu=False, backend=peft.trainer_options(few)
        )
        cadence = training.Cadence(evaluate=0, sample=0, checkpoint=0, at_end=False)
        callback = training.between_steps(
            told.log,
            cadence,
            listen=lambda _: None,
            sample=lambda *_, **__: None,
            rehearsal=rehearsal if rehearsed else None,
        )
        trainer = training.trainer(
            model=model,
            tokenizer=tokenizer,
            config=sft_settings.sft_config(fields)[0],
            train=material.train,
            heldout=None,
            batching=material.batching,
            packed_fields=peft.packed_fields,
            callback=callback,
        )
        trainer.train()
        history = wb.History(told.log.path)
        history.update()
        return SimpleNamespace(
            trainer=trainer, rehearsal=rehearsal, history=history, folder=folder, units=units
        )

    return train


@pytest.fixture(scope="module")
def rehearsed(trained_here):
    return trained_here(rehearsed=True)


def test_the_training_is_the_same_to_the_last_bit_with_and_without_a_rehearsal(
    rehearsed, trained_here
):
    plain = trained_here(rehearsed=False)
    assert plain.history.probes == [] and len(rehearsed.history.probes) == 1
    for what in ("loss", "grad_norm", "tokens", "trained_tokens"):
        ours, theirs = ([s[what] for s in made.history.steps] for made in (rehearsed, plain))
        assert ours == theirs and len(ours) == STEPS
    ours, theirs = (
        {n: p for n, p in made.trainer.model.named_parameters() if p.requires_grad}
        for made in (rehearsed, plain)
    )
    assert ours and all(bool((ours[name] == theirs[name]).all()) for name in ours)


def test_the_parts_are_the_bytes_of_the_real_tensors(rehearsed):
    measured, model = rehearsed.history.probes[0]["measured"], rehearsed.trainer.model
    trained = [p for p in model.parameters() if p.requires_grad]
    numbers = sum(p.numel() for p in trained)
    packed = [p for p in model.parameters() if p.dtype.itemsize == 1]
    assert measured["weights"] == sum(p.numel() for p in packed)
    assert measured["adapters"] == measured["gradients"] == 4 * numbers
    # AdamW: two numbers of 32 bits for each parameter, and one count of steps for each tensor
    assert measured["optimizer"] == 8 * numbers + 4 * len(trained)
    assert measured["embeddings"] == 4 * model.get_input_embeddings().weight.numel()
    assert measured["head"] == 0  # tied
    frozen = sum(measured[name] for name in parts.OF_THE_MODEL) - measured["adapters"]
    storages = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        if not tensor.requires_grad:
            storages[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        state = getattr(tensor, "quant_state", None)
        for kept in (state, getattr(state, "state2", None)):
            for scale in (kept.absmax, kept.code) if kept is not None else ():
                storages[scale.data_ptr()] = scale.untyped_storage().nbytes()
        if (offset := getattr(state, "offset", None)) is not None:
            storages[offset.data_ptr()] = offset.untyped_storage().nbytes()
    assert frozen == sum(storages.values())
    assert measured["peak"] == sum(measured[name] for name in TENSORS)


def test_the_batch_is_the_longest_one(rehearsed, few):
    (told,) = rehearsed.history.probes
    longest = int(rehearsed.units.lengths.max())
    assert told["longest"] == longest
    assert (told["step"], told["batch_size"]) == (1, few.training.batch_size)
    assert told["tokens"] == few.training.batch_size * longest  # padded to the longest
    assert told["predicted"] is None
    assert told["seconds"] > 0


def test_the_peak_of_a_program_that_is_known():
    import torch

    kept = torch.empty(1000, dtype=torch.uint8)
    with parts.peak() as found:
        first = torch.empty(300_000, dtype=torch.uint8)
        second = torch.empty(500_000, dtype=torch.uint8)
        del first, kept
        third = torch.empty(200_000, dtype=torch.uint8)
    assert found.above == 800_000
    assert second.numel() + third.numel() == 700_000
    with contextlib.suppress(KeyError), parts.peak() as failed:
        third = torch.empty(300_000, dtype=torch.uint8)
        raise KeyError
    assert failed.above == third.numel()


def test_what_is_kept_apart_is_counted_apart_and_what_is_shared_once():
    import torch

    model = torch.nn.Module()
    model.embed, model.head = torch.nn.Embedding(10, 4), torch.nn.Linear(4, 10, bias=False)
    model.layer, model.norm = torch.nn.Linear(4, 8), torch.nn.LayerNorm(4)
    model.experts = torch.nn.Parameter(torch.zeros(3, 4, 4))
    model.requires_grad_(False)
    model.get_input_embeddings = lambda: model.embed
    model.get_output_embeddings = lambda: model.head
    found = parts.held(model)
    assert {name: count for name, count in found.items() if count} == {
        "weights": 4 * 32, "embeddings": 160, "head": 160, "experts": 4 * 48, "norms": 4 * (8 + 8),
    }  # fmt: skip
    model.head.weight = model.embed.weight
    assert parts.held(model)["head"] == 0


# As a run


@pytest.mark.parametrize("name", ["gone", "there"])
def test_a_record_that_cannot_be_written_ends_no_run(rehearsed, tmp_path, few, name):
    folder = tmp_path / "run"
    folder.mkdir()
    told = Telling(folder)
    if name == "there":
        (tmp_path / RECORD).mkdir()  # where the file should be
    rehearsal = Rehearsal(told, few, rehearsed.units, backend="peft", batching="padded", context=0)
    rehearsal.measured = {"weights": 1}
    rehearsal.tell(1)
    history = wb.History(told.log.path)
    history.update()
    assert history.probes[0]["measured"] == {"weights": 1}
    assert len(history.warnings) == (name == "there")


def test_a_probe_measures_answers_too_leaves_a_line_and_keeps_nothing(few, tmp_path):
    run = probe(few, outputs=tmp_path)
    plan = {"parts": {"weights": 7}, "expected": 9}
    (run.folder / "plan.json").write_text(json.dumps(plan))
    assert run.wait(120) == "closed"
    (told,) = run.history.probes
    assert told["predicted"] == plan
    assert told["step"] == len(run.history.steps) == 2
    assert all(told["measured"][name] > 0 for name in ("generation", "evaluation", "optimizer"))
    assert told["measured"]["answers"] >= 0
    assert (run.history.samples, run.history.evals, run.history.checkpoints) == ([], [], [])
    assert not run.adapter_path.exists() and not list(run.folder.glob("checkpoints/*"))
    (line,) = map(json.loads, (tmp_path / RECORD).read_text().splitlines())
    assert line["measured"] == told["measured"] and line["predicted"] == plan
    assert (line["run"], line["backend"]) == (run.name, "peft") and line["versions"]["torch"]
    assert line["settings"]["longest"] == told["longest"]
    assert line["settings"]["batching"] in ("padded", "grouped")
    deadline = time.monotonic() + 20
    while run.alive and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not run.alive


# Choosing the micro-batch


def test_auto_takes_the_fastest_and_learns_the_same(few, start, rehearsed):
    recipe = few.replace(training={"batch": "auto", "steps": 4}, lora={"dropout": 0.0})
    run = start(recipe)
    assert run.wait(120) == "ready"
    (choice,) = [c for c in run.history.choices if c["what"] == "micro_batch"]
    micro = json.loads((run.folder / "micro_batch.json").read_text())
    assert str(micro["batch_size"]) == choice["value"]
    assert micro["batch_size"] * micro["accumulation"] == recipe.effective_batch == 8
    assert "tokens/s" in choice["why"] and choice["why"].startswith(choice["value"])
    rates = [float(word.replace(",", "")) for word in _rates(choice["why"])]
    assert rates[0] == max(rates) and len(rates) > 1
    assert run.history.probes[0]["batch_size"] == micro["batch_size"]
    assert run.recipe.training.batch_size == 4  # the user's
    run.close()
    other = 8 if micro["batch_size"] < 8 else 2
    given = start(
        recipe.replace(
            training={"batch": "as_given", "batch_size": other, "accumulation": 8 // other}
        )
    )
    assert given.wait(120) == "ready"
    ours, theirs = ([s["loss"] for s in made.history.steps] for made in (run, given))
    assert ours == pytest.approx(theirs, abs=1e-4) and len(ours) == 4
    given.close()


def _padding(lengths, order, rows):
    batches = [lengths[order[start : start + rows]] for start in range(0, len(order), rows)]
    return sum(int((batch.max() - batch).sum()) for batch in batches)


def _rates(why: str) -> list[str]:
    return [
        part.split(" in ")[1].split()[0].rstrip(".") for part in why.split(";") if " in " in part
    ]


@pytest.mark.parametrize("grouped", [False, True])
def test_a_step_learns_from_the_same_rows_whatever_goes_through_at_once(grouped):
    lengths = np.random.default_rng(0).integers(5, 99, 100)
    given = feeding.Order(lengths, 4, seed=1, grouped=grouped)
    cut = feeding.Order(lengths, 4, seed=1, grouped=grouped, sorted_by=16 if grouped else None)
    for epoch in (0, 1):
        given.set_epoch(epoch), cut.set_epoch(epoch)
        steps = [np.array(list(order)) for order in (given, cut)]
        for start in range(0, 100, 16):
            assert set(steps[0][start : start + 16]) == set(steps[1][start : start + 16])
        assert not grouped or _padding(lengths, steps[1], 8) <= _padding(lengths, steps[0], 8)


@pytest.mark.parametrize(
    ("effective", "plan", "found"),
    [
        (16, None, [1, 2, 4, 8, 16]),
        (12, None, [1, 2, 4, 12]),
        (7, None, [1, 7]),
        (16, {"batches": [1, 2, 3, 4]}, [1, 2, 4]),
        (16, {"batches": []}, [1, 2, 4, 8, 16]),
    ],
)
def test_the_sizes_that_are_tried_divide_the_effective_batch(effective, plan, found):
    assert fitting.candidates(effective, plan) == found


@pytest.mark.parametrize(
    ("rows", "steps", "half"), [(8, 2, (4, 4)), (6, 1, (3, 2)), (3, 4, (1, 12)), (1, 8, None)]
)
def test_a_half_keeps_the_effective_batch(rows, steps, half):
    assert microbatch.halved(microbatch.MicroBatch(rows, steps)) == half


def test_a_micro_batch_that_does_not_fit_the_recipe_is_passed_over(few, tmp_path):
    own = microbatch.of(few, tmp_path)
    assert own == (4, 2)
    microbatch.keep(tmp_path, microbatch.MicroBatch(2, 4))
    assert microbatch.of(few, tmp_path) == (2, 4)
    for said in ("{", '{"batch_size": 3, "accumulation": 3}', "[]", '{"batch_size": 0}'):
        (tmp_path / microbatch.FILE).write_text(said)
        assert microbatch.of(few, tmp_path) == own


@pytest.mark.parametrize("rows", [0, -2, 3, 16])
def test_a_resume_with_rows_that_do_not_divide_is_refused_and_changes_nothing(few, tmp_path, rows):
    folder = tmp_path / "run"
    folder.mkdir()
    few.save(folder / "recipe.yaml")
    log = EventLog(folder / "events.jsonl")
    log.write("phase", state="failed", text="It failed.")
    run = wb.Run.open("run", tmp_path)
    with pytest.raises(RunError) as caught:
        run.resume(batch_size=rows)
    assert str(caught.value) == (
        f"batch_size is {rows}; it must divide the effective batch of 8. Give one of 1, 2, 4, 8."
    )
    assert not (folder / microbatch.FILE).exists()
    shutil.rmtree(folder)
