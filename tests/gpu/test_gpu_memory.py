"""The plan against the memory of a real card: random weights in the shapes of Llama-3.1-8B and 3.2-1B, both backends.

`make gpu-check` runs it, some 40 probes of about a minute. Every row goes to tests/gpu/results/memory-<card>.json with
versions, also where a bar is missed or the card is too small. It needs about 20 GB of disk for the weights.
"""

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench import machine
from workbench.memory import known, learned, planning
from workbench.memory.plan import Plan
from workbench.memory.shapes import Shapes, from_config
from workbench.recipe import Recipe
from workbench.run import Run
from workbench.starting import probe

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TINY = ROOT / "data" / "tiny"
CARDS = machine.look().cards
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not CARDS, reason="there is no NVIDIA GPU here"),
]
MODELS = ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B")
BACKENDS = ("unsloth", "peft")
LENGTH = 2048
ROWS = 32  # of each file; more than the largest micro-batch
ALLOCATED, PROCESS = 0.03, 0.10  # the bars: shares by which the plan may be off
PATIENCE = 900  # seconds for one probe
#: Rows at once, gradient checkpointing, optimizer. The optimizer's state does not depend on the rows.
WAYS = [(rows, on, "adamw_8bit") for on in (True, False) for rows in (1, 2, 4, 8)]
WAYS += [(2, on, "adamw_torch") for on in (True, False)]
NOT_TENSORS = ("context", "slack", "answers")  # answers are measured apart from the training's peak


# A model folder with random weights, without torch


def config_of(name: str) -> dict[str, Any]:
    """A config.json in the model's shape, with the tiny lane's tokens."""
    shapes = known.find(name)
    table = ROOT / "workbench" / "memory" / "known_models.json"
    config = json.loads((TINY / "model" / "config.json").read_text())
    config |= json.loads(table.read_text())[name]
    return config | {"dtype": "bfloat16", "head_dim": shapes.head_dim}


def write_model(folder: Path, config: dict[str, Any]) -> Path:
    """Shards of random bfloat16 weights, one for each layer, beside the tiny lane's tokenizer."""
    folder.mkdir(parents=True)
    for path in (TINY / "model").glob("*token*.json"):
        shutil.copy(path, folder)
    shutil.copy(TINY / "model" / "chat_template.jinja", folder)
    (folder / "config.json").write_text(json.dumps(config))
    hidden, middle, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = (config[f"num_{kind}_heads"] * head for kind in ("attention", "key_value"))
    block = {
        "self_attn.q_proj": (queries, hidden), "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden), "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (middle, hidden), "mlp.up_proj": (middle, hidden),
        "mlp.down_proj": (hidden, middle),
        "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
    }  # fmt: skip
    ends = {"model.embed_tokens": (config["vocab_size"], hidden), "model.norm": (hidden,)}
    if not config["tie_word_embeddings"]:
        ends["lm_head"] = (config["vocab_size"], hidden)
    layers = range(config["num_hidden_layers"])
    shards = [{f"model.layers.{n}.{path}": shape for path, shape in block.items()} for n in layers]
    where = {}
    for number, shard in enumerate([ends, *shards]):
        file = f"model-{number:05}.safetensors"
        write_shard(folder / file, {f"{name}.weight": shape for name, shape in shard.items()})
        where |= dict.fromkeys((f"{name}.weight" for name in shard), file)
    index = {"metadata": {"total_size": 2 * from_config(config).parameters}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_shard(path: Path, tensors: dict[str, tuple[int, ...]]) -> None:
    """Norms are ones; all else repeats a block of small random numbers, which take memory like any other."""
    draw = np.random.default_rng(1).normal(0, 0.02, 2**22).astype(np.float32)
    some = (draw.view(np.uint32) >> 16).astype("<u2")  # the upper half of a float32 is a bfloat16
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in tensors.values():
            values = np.full(2**16, 0x3F80, "<u2") if len(shape) == 1 else some  # 1.0
            left = math.prod(shape)
            while left > 0:
                file.write(values[:left].tobytes())
                left -= len(values)


def write_rows(path: Path, seed: int) -> Path:
    """Conversations that fill 2,048 tokens and more."""
    lines = (TINY / "prose.txt").read_text().split("\n")
    prose = [line for line in lines if len(line) > 40 and "<|" not in line]  # no special tokens
    draw = np.random.default_rng(seed)
    with path.open("w") as file:
        for number in range(ROWS):
            told = " ".join(draw.choice(prose, 200))
            turns = [("user", f"Tell me story {number}."), ("assistant", told)]
            messages = [{"role": role, "content": content} for role, content in turns]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


def recipe_for(
    model: Path, files: tuple[Path, Path], backend: str, rows: int, on: bool, optimizer: str
) -> Recipe:
    """Rank 16 on all linear layers, the defaults for what is not varied."""
    return Recipe(
        model={"name": str(model), "max_length": LENGTH},
        data={"train": str(files[0]), "heldout": str(files[1])},
        lora={"rank": 16, "target_modules": "all-linear"},
        training={
            "steps": 2,
            "batch_size": rows,
            "accumulation": 2,
            "gradient_checkpointing": on,
            "optimizer": optimizer,
            "batching": "padded",
        },
        samples={"max_new_tokens": 16},
        backend=backend,
    )


# Measuring


def finished(run: Run) -> dict[str, Any]:
    """The probe event of a run, once it is over. Raises RunError when it failed."""
    try:
        run.wait(PATIENCE)
    finally:
        run.close(timeout=5)
    assert run.history.probes, f"the worker told of no probe: {run.history.text}"
    return run.history.probes[-1]


def compared(plan: Plan, event: dict[str, Any]) -> dict[str, Any]:
    """Predicted and measured bytes of torch's tensors and of the process at training's peak, and by how much it is off."""
    parts, found = plan.for_the_run()["raw"], event["measured"]
    predicted = {
        "allocated": sum(size for name, size in parts.items() if name not in NOT_TENSORS),
        "process": sum(size for name, size in parts.items() if name != "answers"),
    }
    taken = {"allocated": found["allocated"], "process": learned.total(found)}
    return {
        "predicted": predicted | {"parts": parts, "safe": plan.safe, "verdict": plan.verdict},
        "measured": found | {"process": taken["process"]},
        "error": {name: round(predicted[name] / taken[name] - 1, 4) for name in taken},
        "seconds": event["seconds"],
    }


class Table:
    """The file of results; what this session measured replaces the same row of an earlier one."""

    def __init__(self, path: Path, head: dict[str, Any]) -> None:
        self.path, self.head, self.mine = path, head, []
        before = json.loads(path.read_text()) if path.exists() else {}
        same = before.get("versions") == head["versions"] and before.get("card") == head["card"]
        self.before = before["rows"] if same else []

    def add(self, row: dict[str, Any]) -> None:
        """Keeps a row, on disk at once."""
        self.mine.append(row)
        done = [one["way"] for one in self.mine]
        rows = [row for row in self.before if row["way"] not in done] + self.mine
        whole = self.head | {"date": date.today().isoformat(), "rows": rows}
        self.path.write_text(json.dumps(whole, indent=1) + "\n")


@pytest.fixture(scope="module")
def table() -> Table:
    card = CARDS[0]
    name = re.sub(r"[^a-z0-9]+", "-", card.name.lower()).strip("-")
    bars = {"allocated": ALLOCATED, "process": PROCESS}
    versions = machine.look().versions
    head = {"card": card.name, "total": card.total, "versions": versions, "bars": bars}
    return Table(HERE / "results" / f"memory-{name}.json", head)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("rows")
    return write_rows(folder / "train.jsonl", 1), write_rows(folder / "heldout.jsonl", 2)


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Makes each model once; they are large, so they go with the module."""
    folder = tmp_path_factory.mktemp("models")
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            shapes: Shapes = known.find(name)
            free, need = shutil.disk_usage(folder).free, 2 * shapes.parameters + 2**30
            assert free > need, f"{folder} has {free:,} bytes free; the weights take {need:,}"
            made[name] = write_model(folder / name.rpartition("/")[2], config_of(name))
        return made[name]

    yield get
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(("rows", "on", "optimizer"), WAYS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MODELS)
def test_the_plan_meets_the_card(
    name, backend, rows, on, optimizer, model_of, files, table: Table, tmp_path: Path
):
    recipe = recipe_for(model_of(name), files, backend, rows, on, optimizer)
    plan = planning.plan(recipe, rows=True, outputs=tmp_path)
    way = {"model": name, "backend": backend, "rows": rows, "length": LENGTH, "rank": 16}
    way |= {"checkpointing": on, "optimizer": optimizer}
    # its floor, not its verdict: a run that is thought too large and is not tells of the plan's error
    if plan.floor > plan.free:
        told = f"at least {plan.floor:,} bytes are needed, {plan.free:,} are free"
        table.add({"way": way, "not_measured": told})
        pytest.skip(told)
    run = probe(recipe, outputs=tmp_path)
    try:
        event = finished(run)
    except Exception as error:
        table.add({"way": way, "not_measured": str(error), "verdict": plan.verdict})
        if not run.history.shortages or plan.verdict == "fits":
            raise
        pytest.skip(f"it ran out of memory, and the plan had said: {plan.verdict}")
    row = compared(plan, event)
    table.add({"way": way, **row})
    assert event["tokens"] == rows * LENGTH == plan.question.work.tokens
    assert abs(row["error"]["allocated"]) <= ALLOCATED, row["error"]
    assert abs(row["error"]["process"]) <= PROCESS, row["error"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_something_was_measured(backend: str, table: Table):
    """The tests above may skip what is too large for the card, but not everything."""
    done = [row for row in table.mine if row["way"]["backend"] == backend and "error" in row]
    assert done
    assert any(row["measured"]["allocated"] > 2**30 for row in done)
