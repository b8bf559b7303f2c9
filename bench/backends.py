"""Trains the same rows by both backends on a CPU and keeps what they say: is it the same loss, step by step?

`python bench/backends.py` takes some minutes and writes tests/backends/recorded.json, which notebook 07 shows. The real
Unsloth runs by tests/unsloth_on_cpu, its Triton kernels interpreted, so that seconds and memory say nothing and are left
out; `make gpu-check` measures them on a card. A model of two layers is all that this way has the time for.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from workbench import spawn
from workbench.inspection import two_backends
from workbench.recipe import Recipe
from workbench.run import Run

ROOT = Path(__file__).resolve().parents[1]
HARNESS = ROOT / "tests" / "unsloth_on_cpu"
STEPS = 20
PATIENCE = 3600  # seconds for a run
COLOURS = "red blue green grey black white brown pink".split()
MODEL = "A Llama of two layers, 128 wide, with random weights"
NOTES = (
    "The rows are eight short sentences: the loss falls because they are learned by heart.",
    "In float32 Unsloth puts no fused LoRA kernels in; in float16 a test holds those to 2 % of PEFT's loss.",
    "Unsloth's Triton kernels were interpreted on a CPU; seconds and memory would say nothing and are left out.",
)


def recipe_in(folder: Path, steps: int) -> Recipe:
    """A recipe with one row of about ten tokens a step; its model and rows are made in `folder`."""
    model = folder / "model"
    probe = ROOT / "tests" / "backends" / "probe.py"
    tokenizer = ROOT / "data" / "tiny" / "model"
    command = [sys.executable, str(probe), "model", str(tokenizer), str(model)]
    subprocess.run(command, check=True, env=spawn.environment())
    rows = [{"prompt": f"Say {colour}", "completion": colour} for colour in COLOURS]
    for name, some in (("train", rows), ("heldout", rows[:1])):
        lines = "".join(json.dumps(row) + "\n" for row in some)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return Recipe(
        model={"name": str(model), "max_length": 64},
        lora={"rank": 8, "alpha": 16},
        data={"train": str(folder / "train.jsonl"), "heldout": str(folder / "heldout.jsonl")},
        training={
            "steps": steps, "batch_size": 1, "accumulation": 1, "learning_rate": 2e-3,
            "warmup": 0, "eval_every": 0, "checkpoint_every": 0, "keep": "last",
        },
        samples={"every": 0, "max_new_tokens": 1, "prompts": ["Say red"]},
    )  # fmt: skip


@contextlib.contextmanager
def harness(backend: str) -> Iterator[None]:
    """Inside, a process that is started sees no GPU, and for Unsloth finds the harness."""
    changed = {
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(HARNESS) if backend == "unsloth" else "",
    }
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def trained(recipe: Recipe, backend: str, outputs: Path) -> Run:
    """A run that was trained to its end, started as the package starts it, its look for a GPU left out."""
    folder = outputs / backend
    folder.mkdir()
    recipe.replace(backend=backend).save(folder / "recipe.yaml")
    choice = {"value": backend, "why": "The benchmark asks for it."}
    (folder / "backend.json").write_text(json.dumps(choice))
    with harness(backend):
        spawn.start(folder, mode="train", backend=backend)
    run = Run.open(backend, outputs)
    try:
        run.wait(PATIENCE)
    finally:
        run.close(timeout=5)
    return run


def main() -> int:
    """Trains both and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--to", type=Path, default=two_backends.ON_CPU)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="workbench-backends-") as name:
        folder = Path(name)
        recipe = recipe_in(folder, args.steps)
        (folder / "outputs").mkdir()
        runs = [trained(recipe, backend, folder / "outputs") for backend in ("peft", "unsloth")]
        found = two_backends.two_backends(runs, model=MODEL, notes=NOTES, timed=False)
        # its rows and model are gone: what is kept names them, not where they lay
        text = found.recipe.replace(str(folder), ".")
        found = two_backends.TwoBackends(found.sides, MODEL, found.machine, text, NOTES)
    print(found)
    print(f"Written to {found.save(args.to)}.")
    return 0 if found.agree else 1


if __name__ == "__main__":
    sys.exit(main())
