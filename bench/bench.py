"""Measures what the workbench adds to training, how soon a run begins, what a redraw costs, and how much memory is held.

`python bench/bench.py` writes outputs/bench.json; with `--gpu` it measures both backends on the card and writes a file
into tests/gpu/results/. Ratios are taken in turns within one session; nothing here passes or fails.
"""

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import live_charts
import plans
import psutil
import rows
from jupyter_client.manager import start_new_kernel
from turns import block, hold, ratio, spread, wait

import workbench as wb
from workbench import machine

ROOT = Path(__file__).resolve().parents[1]
ROUNDS, STEPS = 6, 15  # turns of each kind, and steps in a turn
STARTS = 3
QUIET = {"every": 0, "score_rows": 0, "max_new_tokens": 1}
BUSY = 0.5  # load at the beginning above which figures are doubtful


def overhead(recipe: wb.Recipe, backend: str, folder: Path) -> dict[str, Any]:
    """Step time of a run over that of a plain script with the same settings, unwatched and watched, and peak memory."""
    training = {
        "steps": 20 * ROUNDS * STEPS,
        "eval_every": 0,
        "checkpoint_every": 0,
        "scheduler": "constant",
    }
    recipe = recipe.replace(training=training, samples=QUIET, backend=backend)
    plain_file = folder / "plain.jsonl"
    saved = recipe.save(folder / "recipe.yaml")
    script = [
        sys.executable,
        str(ROOT / "bench" / "plain.py"),
        backend,
        str(saved),
        str(plain_file),
    ]
    with (folder / "plain.log").open("w") as log:
        plain = subprocess.Popen(
            [*script, str(training["steps"])],
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=ROOT,
        )

    def plain_times() -> dict[int, float]:
        lines = plain_file.read_text().splitlines()[:-1] if plain_file.exists() else []
        return {line["step"]: line["t"] for line in map(json.loads, lines)}

    def alive_at(times: Callable[[], dict[int, float]]) -> bool:
        if plain.poll() is not None:
            raise SystemExit((folder / "plain.log").read_text()[-2000:])
        return len(times()) > 2

    wait(lambda: alive_at(plain_times), "the plain script")
    hold(plain.pid)
    run = wb.start(recipe, name=f"bench-{backend}", outputs=folder)
    worker = json.loads((run.folder / "worker.json").read_text())["pid"]

    def run_times() -> dict[int, float]:
        run.refresh()
        if not run.alive:
            raise SystemExit(run.history.text)
        return {step["step"]: step["t"] for step in run.history.steps}

    wait(lambda: len(run_times()) > 2, "the run's first steps")
    hold(worker)
    kernel, client = watching_kernel(run)
    try:
        ratios = take_turns(plain.pid, worker, kernel.provisioner.pid, plain_times, run_times)
        rss = {"kernel_rss": peak(kernel.provisioner.pid), "worker_rss": peak(worker)}
    finally:
        for pid in (plain.pid, worker, kernel.provisioner.pid):
            os.killpg(pid, signal.SIGKILL)
        client.stop_channels()
    same = max(abs(a - b) for a, b in zip(losses(plain_file), run_losses(run), strict=False))
    return ratios | {k: spread([v]) for k, v in rss.items()} | {"largest_loss_difference": same}


def watching_kernel(run: wb.Run) -> tuple[Any, Any]:
    """A real kernel that shows the run's monitor, held."""
    kernel, client = start_new_kernel(cwd=str(ROOT), stderr=subprocess.DEVNULL)
    reply = client.execute_interactive(
        f"import workbench as wb; wb.monitor(wb.Run.open({run.name!r}, {str(run.folder.parent)!r}))",
        timeout=120,
        output_hook=lambda message: None,
    )
    if reply["content"]["status"] != "ok":
        raise SystemExit(f"The monitor does not show: {reply['content']['evalue']}")
    hold(kernel.provisioner.pid)
    return kernel, client


def take_turns(
    plain: int, worker: int, kernel: int, plain_times: Callable, run_times: Callable
) -> dict[str, Any]:
    """Alternates the plain script with the run, unwatched and watched, over the same steps."""
    found: dict[str, list[float]] = {"overhead_unwatched": [], "overhead_watched": []}
    target = max(*plain_times(), *run_times())
    for number in range(2 * ROUNDS):
        name, others = (
            ("overhead_watched", (worker, kernel))
            if number % 2
            else ("overhead_unwatched", (worker,))
        )
        target += STEPS
        sides = [(plain_times, (plain,)), (run_times, others)]
        if number // 2 % 2:  # who goes first takes turns as well
            sides.reverse()
        seconds = {times: block(times, target, *pids) for times, pids in sides}
        found[name].append(ratio(seconds[run_times], seconds[plain_times]))
        print(f"  {name} {found[name][-1]:.4f}", flush=True)
    return {name: spread(values) for name, values in found.items()}


def losses(file: Path) -> list[float]:
    return [float(json.loads(line)["loss"]) for line in file.read_text().splitlines()[:-1]]


def run_losses(run: wb.Run) -> list[float]:
    return [step["loss"] for step in run.history.steps]


def peak(pid: int) -> int:
    """The most resident memory that a process has held, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def first_loss(recipe: wb.Recipe, backend: str, folder: Path) -> dict[str, Any]:
    """Seconds from Start to the first loss with a new worker and with one that was warm, in turns."""
    recipe = recipe.replace(training={"steps": 1, "eval_every": 0}, samples=QUIET, backend=backend)
    found: dict[str, list[float]] = {"first_loss_cold_s": [], "first_loss_warm_s": []}
    for number in range(2 * STARTS):
        spare = warm(backend) if number % 2 else None
        began = time.time()
        run = wb.start(recipe, name=f"start-{backend}-{number}", outputs=folder, spare=spare)
        run.wait(600)
        name = "first_loss_warm_s" if spare else "first_loss_cold_s"
        found[name].append(run.history.steps[0]["t"] - began)
        run.close()
        print(f"  {name} {found[name][-1]:.2f}", flush=True)
    return {name: spread(values, 2) for name, values in found.items()}


def warm(backend: str) -> wb.Spare:
    """A spare that has imported everything: its processor time stands still."""
    spare = wb.Spare.warm(backend)
    process, before = psutil.Process(spare.pid), -1.0
    while (now := sum(process.cpu_times()[:2])) - before > 0.05 or now < 2:
        before = now
        time.sleep(1.5)
    return spare


def conditions(recipe: wb.Recipe) -> dict[str, Any]:
    """What a reader needs to judge the figures."""
    here = machine.look()
    return {
        "date": date.today().isoformat(),
        "load": round(os.getloadavg()[0], 2),
        "cpus": here.cpu_count,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cards": [card.name for card in here.cards],
        "versions": here.versions,
        "recipe": recipe.model_dump(exclude={"data", "samples"}),
    }


def main() -> int:
    """Measures what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gpu", action="store_true", help="both backends on the card")
    parser.add_argument("--recipe", type=Path, help="another recipe than the first notebook's")
    args = parser.parse_args()
    cards = machine.look().cards
    if args.gpu and not cards:
        print("There is no NVIDIA GPU here, so nothing was measured.")
        return 0
    recipe = (
        wb.Recipe.load(args.recipe)
        if args.recipe
        else wb.first_recipe("llama" if args.gpu else "tiny")
    )
    result: dict[str, Any] = {"conditions": conditions(recipe)}
    if result["conditions"]["load"] > BUSY:
        print(
            f"The machine is busy (load {result['conditions']['load']}): the figures will be noisy."
        )
    with tempfile.TemporaryDirectory(prefix="workbench-bench-") as name:
        for backend in ("unsloth", "peft") if args.gpu else ("peft",):
            print(f"Measuring {backend}: a few minutes.", flush=True)
            figures = overhead(recipe, backend, Path(name)) | first_loss(
                recipe, backend, Path(name)
            )
            result |= {backend: figures} if args.gpu else figures
    result |= live_charts.measure() | plans.measure()
    if not args.gpu:
        print("Measuring rows: some minutes.", flush=True)
        result |= rows.measure()
    file = ROOT / "outputs" / "bench.json"
    if args.gpu:
        card = re.sub(r"[^a-z0-9]+", "-", cards[0].name.lower()).strip("-")
        file = ROOT / "tests" / "gpu" / "results" / f"{date.today().isoformat()}-{card}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "conditions"}, indent=2))
    print(f"Written to {file}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
