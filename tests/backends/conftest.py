"""Both backends, each in processes of its own, on a tiny random Llama: one worker's run and one probe for each.

The real Unsloth runs on the CPU by `tests/unsloth_on_cpu`, of which nothing in the package knows. A GPU that is
there is hidden from both: `tests/gpu` looks at what they do with it.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workbench import spawn
from workbench.recipe import Recipe
from workbench.run import Run

HERE = Path(__file__).parent
ON_CPU = HERE.parent / "unsloth_on_cpu"
TOKENIZER = HERE.parents[1] / "data" / "tiny" / "model"
BACKENDS = ("unsloth", "peft")
WORDS = ("red", "blue", "green", "grey")


@pytest.fixture(scope="session", autouse=True)
def unsloth_installed():
    if importlib.util.find_spec("unsloth") is None:
        pytest.skip("unsloth is not installed: see requirements-cpu.txt")


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("backends")


@pytest.fixture(scope="session")
def recipe(place):
    """Three steps of one short row each: Triton's interpreter takes seconds for them."""
    made = _probe("model", TOKENIZER, place / "model")
    said, _ = made.communicate(timeout=120)
    assert made.returncode == 0, said
    rows = [{"prompt": f"Say {word}", "completion": word} for word in WORDS]  # about 10 tokens each
    (place / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "heldout.jsonl").write_text(json.dumps(rows[0]) + "\n")
    return Recipe(
        model={"name": str(place / "model"), "max_length": 64},
        lora={"rank": 8, "alpha": 16},
        data={"train": str(place / "train.jsonl"), "heldout": str(place / "heldout.jsonl")},
        training={
            "steps": 3,
            "batch_size": 1,
            "accumulation": 1,
            "learning_rate": 2e-2,
            "warmup": 0,
            "eval_every": 0,
            "checkpoint_every": 2,
        },
        samples={"every": 0, "max_new_tokens": 4},
    )


@pytest.fixture(scope="session")
def runs(place, recipe, start_worker):
    """A finished run of each backend. The workers are started as the package starts them, its look for a GPU left out."""
    outputs = place / "outputs"
    for name in BACKENDS:
        folder = outputs / name
        folder.mkdir(parents=True)
        recipe.replace(backend=name).save(folder / "recipe.yaml")
        (folder / "backend.json").write_text(json.dumps({"value": name, "why": "The test asks."}))
        start_worker(folder, "train", name)
    found = {}
    for name in BACKENDS:
        found[name] = Run.open(name, outputs)
        found[name].wait(300)
        found[name].close()
    return found


@pytest.fixture(scope="session")
def measured(place, recipe, runs):
    """What `probe.py` measured of each backend, with the adapter that the Unsloth run trained."""
    recipe.save(place / "recipe.yaml")
    processes = {}
    for name in BACKENDS:
        folder = place / f"probe-{name}"
        folder.mkdir()
        adapter = runs["unsloth"].adapter_path
        processes[name] = _probe(name, place / "recipe.yaml", adapter, folder)
    for name, process in processes.items():
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, f"the probe of {name} failed:\n{said[-3000:]}"
    return {
        name: json.loads((place / f"probe-{name}" / "measured.json").read_text())
        for name in BACKENDS
    }


@pytest.fixture(scope="session")
def start_worker():
    """Starts a worker on a run's folder, for Unsloth with the harness where Python looks for it."""

    def start(folder, mode, name):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CUDA_VISIBLE_DEVICES", "")
            if name == "unsloth":
                patch.setenv("PYTHONPATH", str(ON_CPU))
            spawn.start(folder, mode=mode, backend=name)

    return start


def _probe(*arguments):
    root = HERE.parents[1]
    paths = [root, *([ON_CPU] if arguments[0] == "unsloth" else [])]
    return subprocess.Popen(
        [sys.executable, str(HERE / "probe.py"), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "CUDA_VISIBLE_DEVICES": ""},
    )
