"""How a run stands, as HTML: the line with its state, the bar, the numbers, what went wrong, and what was kept.

Reads a History. Knows no widgets.
"""

import time
from collections.abc import Mapping
from html import escape
from typing import Any

from ...answers import visible
from ...events import History
from ...summary import duration, ended_early, kept, size, speed
from .. import pages
from ..banner import status_html

SHOWN_WARNINGS = 5
BEGINNING = ("preparing", "loading")
DOT = " \N{MIDDLE DOT} "


def fingerprint(history: History, waited: int | None) -> tuple[Any, ...]:
    """Changes when something to be drawn does; while there are no steps, once a second (`waited`)."""
    return (
        len(history.steps), history.step, len(history.evals), len(history.memory),
        len(history.samples), sum(map(len, history.partial.values())),
        history.state, history.text, len(history.warnings), len(history.errors),
        len(history.commands), len(history.checkpoints), len(history.scores),
        history.stopped_early, len(history.adapter), waited,
    )  # fmt: skip


def waited(history: History, begun: float) -> int | None:
    """Whole seconds in what goes on without steps, None while steps tell the time or the training is over.

    `begun` is when the watching began (seconds since 1970): it counts until the worker has said its first word.
    """
    if history.over or (history.steps and history.state not in BEGINNING):
        return None
    since = begun
    for phase in reversed(history.phases):  # "Asking the base model: 3 of 20 ..." goes on
        if phase["state"] != history.state or _doing(phase["text"]) != _doing(history.text):
            break
        since = phase["t"]
    return max(0, int(time.time() - since))


def _doing(text: str) -> str:
    """What a phase's text says before its count."""
    return text.partition(":")[0].rstrip(".")


def progress(history: History) -> str:
    """Step, time left, and what is being done where steps do not say it."""
    parts = [f"step {history.step:,} of {history.of:,}"] if history.steps else []
    if history.seconds_left is not None:
        parts.append(f"{duration(history.seconds_left)} left")
    if history.seconds_left is None:
        parts.append(history.text)
    return DOT.join(filter(None, parts))


def status(name: str, history: History) -> str:
    """The run's name, its state, and how far it is."""
    chip = "border:1px solid;border-radius:10px;padding:1px 9px;font-size:12px;margin:0 6px"
    state = f'<span class="wb-state" style="{chip}">{escape(history.state)}</span>'
    return (
        f'<div style="font-size:15px;line-height:1.6"><b>Run {escape(visible(name))}</b> {state} '
        f'<span class="wb-progress">{escape(visible(progress(history)))}</span></div>'
    )


def unseen(text: str) -> str:
    """For screen readers only: said when it changes, and so changed less often than what is seen."""
    return f'<div style="position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden">{status_html(text)}</div>'


def bar(history: History) -> str:
    """How many of the steps are done, as a thin bar."""
    of = history.of or 0
    share = history.step / of if of else 0.0
    return (
        f'<div role="progressbar" aria-label="steps" aria-valuemin="0" aria-valuemax="{of}" '
        f'aria-valuenow="{history.step}" style="height:4px;border-radius:2px;'
        f'background:var(--jp-border-color2, #9e9e9e55)"><div style="height:4px;border-radius:2px;'
        f'width:{share:.1%};background:var(--jp-brand-color1, #1e88e5)"></div></div>'
    )


def numbers(history: History, seconds: int | None) -> str:
    """The newest numbers in a muted line; `seconds` are those of waiting, None where steps tell the time."""
    parts = [] if seconds is None else [f"{duration(seconds)} so far"]
    if history.steps:
        step = history.steps[-1]
        parts.append(f"loss {step['loss']:.4g}")
        parts.append(f"epoch {step['epoch']:.2f}")
        parts.append(speed(history))
        parts.append(f"learning rate {step['learning_rate']:.2e}")
    if history.memory:
        reading = history.memory[-1]
        held = reading["reserved"] if reading["device_total"] else reading["process"]
        parts.append(f"memory {size(held)}")
    if history.checkpoints:
        parts.append(f"checkpoint at step {history.checkpoints[-1]['step']:,}")
    going_on = history.state == "training" and history.seconds_left is not None
    if going_on and history.text != "Training.":
        parts.append(history.text)
    text = DOT.join(filter(None, parts)) or "\N{NO-BREAK SPACE}"  # the line keeps its height
    return f'<div style="{pages.MUTED};line-height:1.45;padding:3px 0">{escape(text)}</div>'


def messages(history: History, told: frozenset[str] = frozenset()) -> str:
    """What failed and what the worker warned of, without the warnings that were `told` as alarms."""
    shown = [_message("error", e, details=visible(e["cause"] or "")) for e in history.errors]
    warnings = [warning for warning in history.warnings if warning["text"] not in told]
    hidden = len(warnings) - SHOWN_WARNINGS
    if hidden > 0:
        shown.append(
            pages.message("note", f"{hidden} earlier warnings are in {history.path.name}.")
        )
    last = warnings[-SHOWN_WARNINGS:]
    return "".join([*shown, *(_message("warning", warning) for warning in last)])


def _message(level: str, event: Mapping[str, Any], *, details: str = "") -> str:
    """What the worker tells may hold what a library, a file or a model wrote."""
    return pages.message(level, visible(event["text"]), visible(event["cure"]), details=details)


def outcome(history: History) -> str:
    """Why the training stopped early, where it did, and which adapter is kept; "" while that is open."""
    early, which = ended_early(history), kept(history) if history.over else ""
    shown = [pages.message("note", text) for text in (early,) if text]
    return "".join([*shown, *([pages.message("ok", which)] if which else [])])
