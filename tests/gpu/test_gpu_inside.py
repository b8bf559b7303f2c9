"""What notebooks 06 and 07 compare, on a real card: both backends, LoRA beside QLoRA, and a paged optimizer under pressure.

`make gpu-check` runs these, some minutes and some 20 GB of disk for weights. Speed and memory are measured with random
weights of real shapes, learning with the tiny model. What is measured goes to tests/gpu/results/, which the notebooks
read, also where a test then fails. The last test tries the same functions without a card, on tiny shapes.
"""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_gpu_memory import (
    BACKENDS,
    CARDS,
    LENGTH,
    MODELS,
    PATIENCE,
    TINY,
    config_of,
    files,
    model_of,
    write_model,
)  # fmt: skip

import workbench as wb
from workbench.inspection import contest as contests
from workbench.inspection.two_backends import TwoBackends, two_backends
from workbench.memory import planning
from workbench.recipe import Recipe

__all__ = ["files", "model_of"]  # fixtures: rows and each model are written once for this file
RESULTS = Path(__file__).parent / "results"
ROWS, STEPS = 2, 12  # rows at once, and steps of which the first two warm up
METHODS = {"QLoRA": {"model": {"load_in_4bit": True}}, "LoRA": {"model": {"load_in_4bit": False}}}
on_a_card = [
    pytest.mark.gpu,
    pytest.mark.skipif(not CARDS, reason="there is no NVIDIA GPU here"),
]


def marked(test):
    """A test that needs a card."""
    for mark in on_a_card:
        test = mark(test)
    return test


def place(kind: str, of: str = "") -> Path:
    """The file that keeps what this card did."""
    parts = [kind, CARDS[0].name, *([of.rpartition("/")[2]] if of else [])]
    return (
        RESULTS
        / f"{'-'.join(re.sub(r'[^a-z0-9.]+', '-', p.lower()).strip('-') for p in parts)}.json"
    )


def recipe_of(
    model: Path, files: tuple[Path, Path], *, length: int = LENGTH, steps: int = STEPS
) -> Recipe:
    """Rank 16 on all linear layers, the defaults for the rest; nothing is answered or saved on the way."""
    return Recipe(
        model={"name": str(model), "max_length": length},
        data={"train": str(files[0]), "heldout": str(files[1])},
        training={
            "steps": steps, "batch_size": ROWS, "accumulation": 1, "eval_every": 0,
            "checkpoint_every": 0, "keep": "last", "batching": "padded",
        },
        samples={"every": 0, "max_new_tokens": 1},
    )  # fmt: skip


def both(
    recipe: Recipe, outputs: Path, backends: tuple[str, ...] = BACKENDS, name: str = ""
) -> TwoBackends:
    """A run by each backend, one after the other, side by side."""
    runs = []
    for backend in backends:
        run = wb.start(recipe.replace(backend=backend), name=f"{backend}-inside", outputs=outputs)
        try:
            run.wait(PATIENCE)
        finally:
            run.close(timeout=10)
        runs.append(run)
    return two_backends(runs, model=name)


@marked
@pytest.mark.parametrize("name", MODELS)
def test_both_backends_at_full_size(name: str, model_of, files, tmp_path: Path):
    recipe = recipe_of(model_of(name), files)
    plan = planning.plan(recipe, outputs=tmp_path)
    if plan.floor > plan.free:
        pytest.skip(f"at least {plan.floor:,} bytes are needed, {plan.free:,} are free")
    found = both(recipe, tmp_path, name=f"Random weights in the shape of {name}")
    found.save(place("backends", name))
    print(found)
    assert found.agree, str(found)
    assert all(side.tokens_per_second and side.peak_bytes > 2**30 for side in found.sides)


@marked
def test_both_backends_learn_the_same(tmp_path: Path):
    recipe = wb.first_recipe("tiny", score_rows=0).replace(samples={"every": 0})
    found = both(recipe, tmp_path, name="The tiny model and its task")
    found.save(place("backends", "tiny"))
    print(found)
    assert found.agree, str(found)
    assert all(side.losses[-1] < side.losses[0] / 10 for side in found.sides)


@marked
@pytest.mark.parametrize("name", MODELS)
def test_lora_and_qlora_at_full_size(name: str, model_of, files):
    recipe = recipe_of(model_of(name), files)
    found = asyncio.run(
        contests.contest(recipe, METHODS, seeds=(1,), steps=STEPS, rows=4, told=print)
    )
    found.save(place("contest", name))
    print(found)
    qlora, lora = (found.spread(entry, "peak_bytes") for entry in METHODS)
    assert qlora is not None, str(found)
    if lora is not None:  # 16 bits may not fit: then the file says so
        assert qlora.mean < lora.mean


@marked
def test_lora_qlora_and_all_weights_learn(tmp_path: Path):
    recipe = wb.first_recipe("tiny")
    found = asyncio.run(contests.contest(recipe, seeds=(1, 2, 3), steps=60, told=print))
    found.save(place("contest", "tiny"))
    print(found)
    for entry in found.entries:
        assert found.spread(entry, "heldout_loss").mean < 1, str(found)


@marked
@pytest.mark.parametrize("optimizer", ["paged_adamw_32bit", "paged_adamw_8bit"])
def test_pages_give_way_to_a_spike(optimizer: str):
    """In a process of its own: bitsandbytes gives pages back only when the process ends."""
    code = (
        "import json; from workbench.inside.optimizers import paging;"
        f"print(json.dumps(paging(name={optimizer!r}).as_dict()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    here = wb.machine.look()
    place("paging", optimizer).write_text(
        json.dumps({"versions": here.versions, "total": CARDS[0].total, **found}, indent=1) + "\n"
    )
    print(found)
    assert found["card"] and found["state_bytes"] > 2**27
    assert found["seconds_during"] is not None, "a step while the spike lasted ran out of memory"
    assert found["moved_bytes"] > 0, "no page gave way"


@pytest.mark.slow
def test_the_same_without_a_card_on_tiny_shapes(files, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    full = config_of(MODELS[0])
    small = full | {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 16,
        "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": json.loads((TINY / "model" / "config.json").read_text())["vocab_size"],
    }  # fmt: skip
    model = write_model(tmp_path / "model", small)
    recipe = recipe_of(model, files, length=64, steps=4)
    found = both(recipe, tmp_path / "outputs", ("peft",), name="Random weights")
    assert len(found.sides[0].losses) == 4 and found.sides[0].tokens_per_second > 0
    assert TwoBackends.load(found.save(tmp_path / "backends.json")) == found
    compared = asyncio.run(contests.contest(recipe, METHODS, seeds=(1,), steps=3, rows=2))
    assert all(len(result.losses) == 3 and not result.why for result in compared.results)
    qlora, lora = (compared.spread(entry, "trainable").mean for entry in METHODS)
    assert qlora == lora
    kept = compared.save(tmp_path / "contest-cpu-tiny.json")
    assert contests.recorded(kept.parent) == [contests.Contest.load(kept)]
