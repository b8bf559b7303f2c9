"""Measures what rows cost: tokenizing against a plain loop, the second time from the cache, and a look into a large file.

Called by bench.py; `python bench/rows.py FILE` reads, checks and counts one file and prints seconds and peak memory.
Knows the data layer and Transformers' tokenizer; nothing of training.
"""

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from turns import spread

import workbench as wb
from workbench.data import cache, masks, table
from workbench.data.encode import encode, tokenize
from workbench.data.tokenizer import ChatTokenizer

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "data" / "tiny" / "model"
ROWS, SLICES = 50_000, 10  # of real-looking rows, and turns in which both ways tokenize them
LARGE = 1_000_000
LOOKS = 20  # rows of the large file that are looked at
LENGTH = 512


def conversations(count: int, sentences: tuple[int, int], seed: int = 7) -> Any:
    """Chats of one to three exchanges, their turns made of sentences of the tiny lane's prose, each with a number."""
    prose = (ROOT / "data" / "tiny" / "prose.txt").read_text().split("\n")
    prose = [line for line in prose if len(line) > 20 and "<|" not in line]
    draw = random.Random(seed)

    def turn(role: str) -> dict[str, str]:
        said = draw.choices(prose, k=draw.randint(*sentences))
        return {"role": role, "content": " ".join(said) + f" Case {draw.randrange(10**7)}."}

    for _ in range(count):
        exchanges = draw.choices((1, 2, 3), (6, 3, 1))[0]
        roles = ["system", *("user", "assistant") * exchanges]
        yield {"messages": [turn(role) for role in roles]}


def write(rows: Any, path: Path) -> Path:
    with path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def seconds(act: Callable[[], Any]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def tokenizing(folder: Path) -> dict[str, Any]:
    """Rows per second with masks over those of a plain loop, in turns over the same rows; then the cached second time."""
    from transformers import AutoTokenizer

    rows = table.read(write(conversations(ROWS, (1, 3)), folder / "chats.jsonl"))
    theirs = AutoTokenizer.from_pretrained(MODEL)
    ours = ChatTokenizer.load(str(MODEL))

    def plain(some: list[Any]) -> None:
        for row in some:
            theirs.apply_chat_template(
                [{"role": m.role, "content": m.content} for m in row.messages],
                tokenize=True,
                return_dict=True,
                return_assistant_tokens_mask=True,
            )

    def quick(some: list[Any]) -> None:
        for _ in masks.tokens(some, ours, loss_on="assistant"):
            continue

    speedups, size = [], ROWS // SLICES
    for number in range(SLICES):
        some = rows[number * size : (number + 1) * size]
        ways = (plain, quick) if number % 2 else (quick, plain)
        taken = {way: seconds(partial(way, some)) for way in ways}
        speedups.append(taken[plain] / taken[quick])
        print(f"  tokenize_speedup {speedups[-1]:.2f}", flush=True)

    def all_of_it() -> None:
        again = table.read(folder / "chats.jsonl")
        encode(tokenize(again, ours, loss_on="assistant"), max_length=LENGTH)

    first, *cached = [seconds(all_of_it) for _ in range(4)]
    print(f"  {ROWS / first:,.0f} rows/s tokenized, counted and kept the first time", flush=True)
    return {
        "tokenize_speedup": spread(speedups, 2),
        "tokenize_rows_per_s": spread([ROWS / first], 0),
        "cache_s": spread(cached, 3),
    }


def large(folder: Path) -> dict[str, Any]:
    """A million rows, each time in a process of its own: seconds and peak memory, cold and cached, and looks at rows."""
    path = write(conversations(LARGE, (1, 2)), folder / "large.jsonl")
    size = path.stat().st_size
    print(f"  {LARGE:,} rows, {size / 1e6:,.0f} MB", flush=True)
    runs = []
    for _ in range(2):
        out = subprocess.run(
            [sys.executable, __file__, str(path)], capture_output=True, text=True, check=True
        )
        runs.append(json.loads(out.stdout.splitlines()[-1]))
        print(f"  {runs[-1]}", flush=True)
    draw = random.Random(1)
    recipe = wb.Recipe(model={"name": str(MODEL)}, data={"train": str(path)})
    looks = [
        seconds(lambda: wb.show_tokens(recipe, draw.randrange(LARGE) + 1)) for _ in range(LOOKS)
    ]
    return {
        "preview_s": spread(looks, 3),
        "million_rows_s": spread([runs[0]["seconds"]], 1),
        "million_rows_cached_s": spread([runs[1]["seconds"]], 2),
        "million_rows_rss": spread([max(run["rss"] for run in runs)], 0),
    }


def measure() -> dict[str, Any]:
    """All of it, in a cache of its own that goes away."""
    with tempfile.TemporaryDirectory(prefix="workbench-bench-rows-") as name:
        before = os.environ.get("WORKBENCH_CACHE")
        os.environ["WORKBENCH_CACHE"] = f"{name}/cache"
        try:
            assert cache.folder().is_relative_to(name)
            return tokenizing(Path(name)) | large(Path(name))
        finally:
            os.environ.pop("WORKBENCH_CACHE")
            if before:
                os.environ["WORKBENCH_CACHE"] = before


def main(path: str) -> None:
    """Reads, checks and counts one file."""
    began = time.perf_counter()
    report = wb.data.report(path)
    taken = time.perf_counter() - began
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": taken, "rss": rss, "rows": report.rows}))


if __name__ == "__main__":
    main(*sys.argv[1:])
