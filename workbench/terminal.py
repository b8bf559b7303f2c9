"""A run on a terminal: each event as a line of text, a progress bar while it trains, or JSON for a program.

Knows a Run and its History. Knows nothing of arguments or exit codes.
"""

import json
import math
import re
import shlex
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from .events import History, State
from .memory.learned import total
from .problems import WorkbenchError
from .run import Run
from .summary import duration, size

OUTPUTS = Path("outputs")  # where runs are kept unless another folder is given
POLL_SECONDS = 0.1
LINE_SECONDS = 5  # between two step lines where there is no bar to redraw
Show = Callable[[list[dict[str, Any]], History], None]


def printable(text: str) -> str:
    """A model's text without the control characters by which it could take over a terminal."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def in_json(value: Any, **how: Any) -> str:
    """JSON that every program can read: null where a figure is not a number or infinite."""
    return json.dumps(_finite(value), allow_nan=False, **how)


def as_commands(text: str, run: str) -> str:
    """What a message tells someone in Python to do, as commands of a terminal; `run` is what follows them."""
    for python, command in _COMMANDS.items():
        text = re.sub(python, lambda found, c=command: found.expand(c).replace("RUN", run), text)
    return text


def refusal(error: WorkbenchError, run: str, outputs: Path) -> str:
    """What is wrong in the words of the command line; `run` is the run that it is about."""
    where = "" if outputs == OUTPUTS else f" --outputs {shlex.quote(str(outputs))}"
    return printable(as_commands(str(error), run + where))


def line(event: dict[str, Any]) -> str | None:
    """An event as one line; None for what is not worth a line (readings, tokens, obeyed commands)."""
    words = _WORDS.get(event["kind"])
    text = words(event) if words else None
    return printable(" ".join(text.split())) if text else None


def progress(history: History) -> str:
    """Where the training is: step, loss, speed and time left."""
    step = history.steps[-1]
    parts = [f"step {step['step']:,} of {step['of']:,}", f"loss {step['loss']:.3f}"]
    if history.speed:
        parts.append(f"{history.speed:,.0f} tokens/s")
    if history.seconds_left:
        parts.append(f"{duration(history.seconds_left)} left")
    return ", ".join(parts)


def lines(out: Callable[[str], Any], *, every: float = LINE_SECONDS) -> Show:
    """Shows a run line by line; steps at most once in `every` seconds, and the last one."""
    last = float("-inf")

    def show(events: list[dict[str, Any]], history: History) -> None:
        nonlocal last
        for event in events:
            if event["kind"] != "step" and (text := line(event)):
                out(text)
        trained = [event for event in events if event["kind"] == "step"]
        due = time.monotonic() - last >= every
        if trained and (due or trained[-1]["step"] == trained[-1]["of"]):
            last = time.monotonic()
            out(progress(history))

    return show


def as_json(out: Callable[[str], Any]) -> Show:
    """Shows each event as its line of JSON."""

    def show(events: list[dict[str, Any]], history: History) -> None:
        for event in events:
            out(in_json(event, ensure_ascii=False))

    return show


def on_screen(console: Console) -> tuple[AbstractContextManager[Any], Show]:
    """A bar while it trains and lines above it on a terminal; lines alone where the output is a file or a pipe."""

    def out(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    if not console.is_terminal:
        return nullcontext(), lines(out)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[says]}"),
        console=console,
    )
    task = bar.add_task("preparing", total=None, says="")
    above = lines(out, every=float("inf"))

    def show(events: list[dict[str, Any]], history: History) -> None:
        above([event for event in events if event["kind"] != "step"], history)
        says = progress(history) if history.steps else ""
        bar.update(
            task, description=history.state, completed=history.step, total=history.of, says=says
        )

    return bar, show


def follow(run: Run, show: Show, *, on_interrupt: Callable[[], Any] | None = None) -> State:
    """Shows what the run writes until its training is over, and returns the state.

    The first Ctrl-C calls `on_interrupt`; the second, or the first without it, ends the watching.
    Raises RunError when the run failed.
    """
    while True:
        try:
            if events := run.refresh():
                show(events, run.history)
            if run.history.over:
                break
            time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            if on_interrupt is None:
                raise
            on_interrupt()
            on_interrupt = None
    return run.wait() if run.history.state == "failed" else run.history.state


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inside) for inside in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _step(event: dict[str, Any]) -> str:
    return f"step {event['step']:,} of {event['of']:,}, loss {event['loss']:.3f}"


def _score(event: dict[str, Any]) -> str:
    who = "with the adapter" if event["adapter"] else "before training"
    return f"exact match {who}: {event['correct']:,} of {event['rows']:,} held-out rows"


def _sample(event: dict[str, Any]) -> str:
    who = "" if event["adapter"] else ", without the adapter"
    return f"answer at step {event['step']:,}{who}: {event['text']}"


def _data(event: dict[str, Any]) -> str:
    share = event["trained_tokens"] / max(event["tokens"], 1)
    held = f", {event['heldout_rows']:,} held out" if event["heldout_rows"] else ""
    return f"data: {event['rows']:,} rows{held}; {event['tokens']:,} tokens, {share:.0%} of them trained on"


def _probe(event: dict[str, Any]) -> str:
    rows, expected = event["batch_size"], (event["predicted"] or {}).get("expected")
    planned = f", {size(expected)} expected" if expected else ""
    return (
        f"memory: {size(total(event['measured']))} with the {rows:,} longest rows at once{planned}"
    )


def _choice(event: dict[str, Any]) -> str | None:
    if event["what"] == "early_stop":  # a phase says the same
        return None
    return f"{event['what']}: {event['value']}. {event['why']}"


def _command(event: dict[str, Any]) -> str | None:
    if not event["taken"]:
        return f"not done: {event['text']}"
    return f"changed: {event['text']}" if event["text"] else None


# How the errors put it in Python -> on a terminal, RUN standing for the run's name and folder. The lock names its run.
_COMMANDS = {
    r"another name, or open it with Run\.open\(\)": "another --name, or see it with workbench watch RUN",
    r"Run\.open\((.+?), outputs=(.+?)\)\.close\(\)": r"workbench stop \1 --outputs \2",
    r"\bresume\(\)": "workbench resume RUN",
    r"\bresume\(batch_size=(\d+)\)": r"workbench resume RUN --batch-size \1",
    r"\breopen\(\)": 'workbench sample RUN "…"',
    r"\bclose\(\)": "workbench stop RUN",
    r"compare\(\[a, b\]\)": "workbench compare A B",
    r"another name with to=": "another name with --to",
    r"another outputs folder": "another folder with --outputs",
}

_WORDS: dict[str, Callable[[dict[str, Any]], str | None]] = {
    "phase": lambda e: f"{e['state']}: {e['text']}",
    "choice": _choice,
    "data": _data,
    "model": lambda e: (
        f"model: {e['name']}, {e['parameters']:,} parameters, {e['trainable']:,} trainable"
    ),
    "step": _step,
    "eval": lambda e: f"held-out loss at step {e['step']:,}: {e['loss']:.3f}",
    "score": _score,
    "sample": _sample,
    "checkpoint": lambda e: f"checkpoint at step {e['step']:,}",
    "probe": _probe,
    "oom": lambda e: (
        f"out of memory while {e['phase']}{': it goes on with fewer rows at once' if e['retrying'] else ''}"
    ),
    "adapter": lambda e: f"adapter saved: {e['path']}. {e.get('why') or ''}",
    "command": _command,
    "warning": lambda e: f"warning: {e['text']} {e['cure']}",
}
