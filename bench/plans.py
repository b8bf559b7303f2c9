"""Measures what a plan costs: one estimate, the command, and the setup panel's memory bar after a change.

Called by bench.py; `python bench/plans.py` prints the figures. Knows plans and the panel; nothing of training.
"""

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from turns import spread

import workbench as wb
from workbench.memory import gpus, known, place
from workbench.memory.question import Question

ROOT = Path(__file__).resolve().parents[1]
MODEL, CARD = "meta-llama/Llama-3.1-8B", "T4"
ESTIMATES, COMMANDS, CHANGES = 200, 7, 30


def seconds(act: Callable[[], Any]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def estimates() -> dict[str, Any]:
    """Milliseconds for the estimate of a recipe that was not asked before, with its bounds and whether it fits."""
    recipe, shapes = wb.Recipe(model={"name": MODEL}), known.find(MODEL)
    where = place.there(gpus.find(CARD))

    def one() -> None:
        question = Question(recipe, shapes, "unsloth", where)
        assert question.estimate.expected and question.bounds and question.verdict

    return {"plan_ms": spread([1000 * seconds(one) for _ in range(ESTIMATES)], 3)}


def commands() -> dict[str, Any]:
    """Seconds of `workbench plan` as a process, from its start to its end."""
    command = [sys.executable, "-m", "workbench", "plan", MODEL, "--card", CARD, "--json"]

    def one() -> None:
        # 0 where it fits, 3 where it does not
        assert subprocess.run(command, capture_output=True, cwd=ROOT).returncode in (0, 3)

    return {"plan_cli_s": spread([seconds(one) for _ in range(COMMANDS)], 3)}


def redraws(folder: Path) -> dict[str, Any]:
    """Milliseconds that the setup panel takes from a change of a setting to its redrawn memory bar."""
    shutil.copytree(ROOT / "data" / "tiny" / "model", folder, dirs_exist_ok=True)
    headers_only(folder)
    recipe = wb.Recipe(model={"name": str(folder)}, backend="unsloth")
    panel = wb.setup_panel(recipe, card=CARD)
    shown = set()

    def change(number: int) -> None:
        name, values = (("lora.rank", (8, 16, 32)), ("training.batch_size", (1, 2, 4, 8)))[
            number % 2
        ]
        panel.controls[name].value = values[number // 2 % len(values)]

    taken = []
    for number in range(CHANGES):
        before = panel.recipe
        milliseconds = 1000 * seconds(lambda n=number: change(n))
        if panel.recipe != before:
            taken.append(milliseconds)
        shown.add(panel.memory.plan.expected)
    assert len(taken) > CHANGES / 2 and len(shown) > 3, "the bar did not follow the settings"
    return {"memory_bar_ms": spread(taken, 2)}


def headers_only(folder: Path) -> None:
    """Makes a folder one of a Llama-3.1-8B, as far as configuration and headers go; its weights are left out."""
    shapes = known.find(MODEL)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "hidden_size": shapes.hidden, "num_hidden_layers": shapes.layers, "vocab_size": shapes.vocab,
        "num_attention_heads": shapes.heads, "num_key_value_heads": shapes.kv_heads,
        "head_dim": shapes.head_dim, "intermediate_size": shapes.mlp, "tie_word_embeddings": False,
        "max_position_embeddings": shapes.context_length,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: [shapes.vocab, shapes.hidden] for name in ("model.embed_tokens", "lm_head")}
    for kind in shapes.linears:
        part = "self_attn" if kind.group == "attention" else "mlp"
        for layer in range(shapes.layers):
            name = f"model.layers.{layer}.{part}.{kind.module}"
            tensors[name] = [kind.out_features, kind.in_features]
    header = {
        f"{name}.weight": {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]}
        for name, shape in tensors.items()
    }
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)


def measure() -> dict[str, Any]:
    """All of it; nothing is looked up on the hub."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory(prefix="workbench-bench-plans-") as name:
        return estimates() | commands() | redraws(Path(name) / "model")


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
