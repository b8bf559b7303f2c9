"""Histories for the tests of what reads them: written with EventLog, read with History, no worker."""

import math
from pathlib import Path
from typing import Any

from workbench.events import KINDS, EventLog, History

GIB = 2**30


def event(log: EventLog, kind: str, **fields: Any) -> None:
    """Writes an event; fields that are not given are None."""
    log.write(kind, **(dict.fromkeys(KINDS[kind]) | fields))


def made(
    folder: Path,
    steps: int = 20,
    of: int | None = None,
    *,
    gpu: bool = False,
    state: str = "training",
) -> History:
    """A run that learns: a falling loss, an evaluation in the middle and at the end, samples before and after."""
    log = EventLog(folder / "events.jsonl")
    event(log, "phase", state="preparing", text="Reading the recipe.")
    sample(log, 0, "The radio was late.", adapter=False)
    event(log, "phase", state="training", text="Training.")
    for step in range(1, steps + 1):
        loss = 4 * math.exp(-3 * step / steps) + 0.3 * math.sin(step)
        take_step(log, step, of or steps, loss)
        memory(log, step, gpu=gpu)
        if step in (steps // 2, steps):
            event(log, "eval", step=step, loss=loss + 0.1, seconds=1.0)
    if state != "training":
        sample(log, steps, '{"problem": "late"}', adapter=True)
        event(log, "score", step=0, correct=0, rows=20, adapter=False, seconds=1.0)
        event(log, "score", step=steps, correct=19, rows=20, adapter=True, seconds=1.0)
        event(log, "phase", state=state, text="Trained.")
    return read(folder)


def take_step(log: EventLog, step: int, of: int, loss: float) -> None:
    known = {"epoch": step / of, "learning_rate": 1e-3, "grad_norm": 1.0}
    counts = {"tokens": 1000, "trained_tokens": 400, "seconds": 0.5}
    event(log, "step", step=step, of=of, loss=loss, **known, **counts)


def memory(log: EventLog, step: int, *, gpu: bool = False) -> None:
    card = (3 * GIB, 4 * GIB, 5 * GIB, 15 * GIB) if gpu else (0, 0, 0, 0)
    names = ("allocated", "reserved", "device_used", "device_total")
    event(log, "memory", step=step, process=GIB + step, **dict(zip(names, card, strict=True)))


def sample(
    log: EventLog, step: int, text: str, *, adapter: bool, prompt: str = "It was late."
) -> None:
    said = {"prompt": prompt, "system": None, "expected": '{"problem": "late"}', "text": text}
    event(log, "sample", sample=f"step-{step}-0", step=step, adapter=adapter, ended=True, **said)


def read(folder: Path) -> History:
    history = History(folder / "events.jsonl")
    history.update()
    return history
