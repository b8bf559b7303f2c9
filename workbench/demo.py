"""The demonstration: what a run changed as a table and `demo.json`; `python -m workbench.demo` executes notebook 01 for it.

Knows where the repository keeps its notebooks and the tiny lane's prose. Knows nothing of how a run goes.
"""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

from .events import History
from .problems import Problem, RunError
from .run import Run
from .summary import exact_match

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "notebooks" / "01_first_finetune.ipynb"
PROSE = ROOT / "data" / "tiny" / "prose.txt"
OUTPUTS = ROOT / "outputs"
LOOK_SECONDS = 0.2  # between two looks at what the notebook's run wrote


@dataclass(frozen=True)
class Report:
    """What a run changed: shares of `rows` held-out rows that came out exact, seconds, and the base's loss in nats per token."""

    exact_match_before: float | None
    exact_match_after: float | None
    train_seconds: float
    loss_fp32: float
    loss_nf4: float
    rows: int

    def lines(self) -> list[tuple[str, str]]:
        """Names and values as people read them."""

        def share(value: float | None) -> str:
            return "not scored" if value is None else f"{value:.1%} of {self.rows:,} held-out rows"

        return [
            ("exact match before", share(self.exact_match_before)),
            ("exact match after", share(self.exact_match_after)),
            ("training", f"{self.train_seconds:.0f} s, evaluations and checkpoints included"),
            ("loss of the base on prose, float32", f"{self.loss_fp32:.4f} nats/token"),
            ("loss of the base on prose, NF4", f"{self.loss_nf4:.4f} nats/token"),
        ]

    def __str__(self) -> str:
        return "\n".join(f"{name:36}{value}" for name, value in self.lines())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        cells = (f"<tr><td>{escape(n)}</td><td>{escape(v)}</td></tr>" for n, v in self.lines())
        return f"<table>{''.join(cells)}</table>"


def report(run: Run) -> Report:
    """Measures the base model in both precisions, writes `demo.json` beside the run's folder and returns the figures.

    Takes a quarter of a minute on two cores. Raises RunError when the measurement fails.
    """
    run.refresh()
    before, after = (exact_match(run.history, adapter=adapter) for adapter in (False, True))
    scored = after or before
    made = Report(
        exact_match_before=before["correct"] / before["rows"] if before else None,
        exact_match_after=after["correct"] / after["rows"] if after else None,
        train_seconds=training_seconds(run.history),
        rows=scored["rows"] if scored else 0,
        **_base_losses(run.recipe.model.name),
    )
    (run.folder.parent / "demo.json").write_text(json.dumps(asdict(made), indent=2) + "\n")
    return made


def training_seconds(history: History) -> float:
    """Seconds from the beginning of the first step to the last step, evaluation or checkpoint."""
    if not history.steps:
        return 0.0
    first = history.steps[0]
    last = max(e["t"] for e in [*history.steps, *history.evals, *history.checkpoints])
    return last - (first["t"] - first["seconds"])


def _base_losses(model: str) -> dict[str, float]:
    command = [sys.executable, "-m", "workbench.worker.measure", model, str(PROSE)]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}
    )
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        fact = f"The loss of {model} could not be measured: {words}"
        raise RunError([Problem("", fact, "The run itself is not touched; try report() again.")])
    losses = json.loads(done.stdout.splitlines()[-1])
    return {name: losses[name] for name in ("loss_fp32", "loss_nf4")}


def main() -> int:
    """Executes the notebook on the tiny lane, showing its run as it goes, and prints the table."""
    OUTPUTS.mkdir(exist_ok=True)
    (OUTPUTS / "demo.json").unlink(missing_ok=True)
    before = _folders()
    try:
        asyncio.run(_execute_and_show(before))
    except KeyboardInterrupt:
        _close_new(before)
        print("Stopped.", file=sys.stderr)
        return 130
    except RunError as error:
        _close_new(before)
        print(error, file=sys.stderr)
        return 1
    figures = json.loads((OUTPUTS / "demo.json").read_text())
    print(f"\n{Report(**figures)}\n")
    print(f"These figures: {OUTPUTS / 'demo.json'}")
    print(f"The executed notebook: {OUTPUTS / 'demo.ipynb'}")
    return 0


async def _execute_and_show(before: set[Path]) -> None:
    print(f"Executing {NOTEBOOK.relative_to(ROOT)} on the tiny lane.", flush=True)
    executing = asyncio.create_task(_execute())
    await asyncio.gather(executing, _show(executing, before))


async def _execute() -> None:
    """Runs the notebook's cells and saves it with its outputs. Raises RunError with what a failing cell said."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    os.environ["JUPYTER_PREFER_ENV_PATH"] = (
        "1"  # this environment's kernel, not another's of the same name
    )
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    tagged = [i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", [])]
    notebook.cells.insert(tagged[0] + 1, nbformat.v4.new_code_cell('LANE = "tiny"'))
    where = {"metadata": {"path": str(NOTEBOOK.parent)}}
    try:
        await NotebookClient(notebook, timeout=None, resources=where).async_execute()
    except (CellExecutionError, DeadKernelError) as error:
        words = str(error).strip().splitlines()[-1]
        cure = f"Look at the last cell that ran in {OUTPUTS / 'demo.ipynb'}."
        raise RunError([Problem("", f"The notebook stopped: {words}", cure)]) from None
    finally:
        nbformat.write(notebook, OUTPUTS / "demo.ipynb")


async def _show(executing: asyncio.Task[None], before: set[Path]) -> None:
    """Shows the run that the notebook starts, until the notebook has ended."""
    from rich.console import Console

    from .terminal import on_screen

    run: Run | None = None
    bar, show = on_screen(Console())
    with bar:
        while not executing.done():
            await asyncio.sleep(LOOK_SECONDS)
            if run is None and (new := _folders() - before):
                run = Run(new.pop())
            if run and (events := run.refresh()):
                show(events, run.history)


def _folders() -> set[Path]:
    """The runs that have begun to tell."""
    return {path.parent for path in OUTPUTS.glob("*/events.jsonl")}


def _close_new(before: set[Path]) -> None:
    """Ends what the notebook started: its worker is in a session of its own, which Ctrl-C does not reach."""
    for folder in _folders() - before:
        Run(folder).close()


if __name__ == "__main__":
    sys.exit(main())
