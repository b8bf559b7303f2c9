"""Histories for the tests of what reads them: written with EventLog, read with History, no worker."""

import math
import random
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


def long(folder: Path, steps: int = 10_000, of: int | None = None, *, gpu: bool = True) -> History:
    """A long run that has never been written down: it learns, then learns by heart from three fifths of it on."""
    history = History(folder / "events.jsonl")
    history.absorb({"t": 0.0, "kind": "phase", "state": "preparing", "text": ""})
    history.absorb({"t": 5.0, "kind": "phase", "state": "training", "text": "Training."})
    go_on(history, steps, of or steps, gpu=gpu)
    return history


def go_on(history: History, steps: int, of: int, *, gpu: bool = True) -> None:
    """Adds the steps up to `steps` of `of`, a second each, with readings, and 40 evaluations over the whole run."""
    noise = random.Random(history.step)
    for step in range(history.step + 1, steps + 1):
        t, done = 10.0 + step, step / of
        falling = 0.35 + 1.9 * math.exp(-7 * done)
        known = {"t": t, "step": step, "of": of, "epoch": 3 * done}
        counts = {
            "tokens": round(noise.gauss(1900, 120)),
            "trained_tokens": round(noise.gauss(700, 90)),
        }
        rate = 2e-4 * min(1, 20 * done) * (1 + math.cos(math.pi * done)) / 2
        told = {
            "loss": falling * noise.lognormvariate(0, 0.16),
            "grad_norm": 0.4 + falling * noise.lognormvariate(0, 0.3),
        }
        history.absorb(
            {"kind": "step", **known, **counts, **told, "learning_rate": rate, "seconds": 1.0}
        )
        card = dict.fromkeys(("allocated", "reserved", "device_used", "device_total"), 0)
        heat = {}
        if gpu:
            sizes = (7.2 + 0.9 * noise.random(), 9.4 + min(1.2, 3 * done), 11.1, 15.0)
            card = {name: round(GIB * size) for name, size in zip(card, sizes, strict=True)}
            heat = {
                "utilisation": round(noise.gauss(93, 3)),
                "temperature": round(52 + 22 * min(1, 8 * done)),
                "power": noise.gauss(64, 3),
            }
        main = round(GIB * (2.1 + 0.2 * done))
        history.absorb({"kind": "memory", "t": t, "step": step, "process": main, **card, **heat})
        if step % max(1, of // 40) == 0:
            held = falling + 0.06 + max(0.0, done - 0.6) ** 2 * 1.5 + noise.gauss(0, 0.008)
            history.absorb({"kind": "eval", "t": t, "step": step, "loss": held, "seconds": 2.0})
        if step % max(1, of // 10) == 0:
            history.absorb({"kind": "checkpoint", "t": t, "step": step, "path": "", "seconds": 1.0})
            history.absorb(
                {"kind": "sample", "t": t, "step": step, "sample": f"step-{step}-0", "text": "late"}
            )
