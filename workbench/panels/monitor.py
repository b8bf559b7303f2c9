"""The live view of a run: state, progress, charts, newest answers, what went wrong, and the buttons.

A task on the kernel's own loop reads the run a few times a second and redraws what changed; there is no thread.
"""

import asyncio
import time
from html import escape
from typing import Any

import ipywidgets as widgets
import traitlets

from .. import charts
from ..events import History
from ..run import Run
from ..summary import duration, in_words, size
from . import pages, samples
from .banner import Banner, guarded, status_html
from .buttons import Buttons
from .panel import Panel
from .shortage import Shortage

POLL_SECONDS = 0.25
SHARE_OF_TIME = 0.05  # at most: a long run's charts take longer to draw, and are drawn less often
IDLE_POLL_SECONDS = 1.0  # after training: only answers to questions still come
SPOKEN_SECONDS = 2.0  # at most this often does a screen reader hear the progress
SHOWN_WARNINGS = 5
BEGINNING = ("preparing", "loading")


class Monitor(Panel):
    """Watches a run. `state` follows the run's; other panels observe it."""

    state = traitlets.Unicode("")

    def __init__(self, run: Run) -> None:
        self.run = run
        self.banner = Banner()
        self._status, self._bar, self._numbers, self._charts, self._samples, self._messages = (
            widgets.HTML() for _ in range(6)
        )
        self._voice = widgets.HTML(layout=widgets.Layout(height="0", margin="0"))
        for part, mark in (
            (self._status, "status"),
            (self._charts, "chart"),
            (self._samples, "samples"),
            (self._messages, "messages"),
        ):
            part.add_class(f"wb-{mark}")
        self.buttons = Buttons(run, self.banner)
        self.shortage = Shortage(self.banner, self.resume)
        parts = (self._status, self._voice, self._bar, self._numbers, self.banner, self._messages)
        super().__init__([*parts, self.shortage, self.buttons, self._charts, self._samples])
        self.layout.border = pages.BORDER
        self.layout.padding = "8px 12px"
        self.layout.margin = "8px 0"
        self.add_class("wb-monitor")
        self._seen: tuple[Any, ...] = ()
        self._spoken = 0.0
        self._begun = time.time()
        self.update()
        self._task = _task_of_the_kernel(self._follow())

    def update(self) -> None:
        """Reads what is new and redraws if anything changed."""
        self.run.refresh()
        history = self.run.history
        seen = _fingerprint(history, _waited(history, self._begun))
        if seen == self._seen:
            return
        self._draw(history, seen, before=self._seen)
        self._seen = seen
        self.state = history.state

    def resume(self, batch_size: int) -> None:
        """Has the run go on with so many rows at once and the same effective batch, and watches it."""
        self.run.resume(batch_size=batch_size)
        self._begun = time.time()
        self.banner.clear()
        self.update()
        if self._task is not None:  # it ended when the run failed
            self._task.cancel()
            self._task = _task_of_the_kernel(self._follow())

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        super().close()

    def __repr__(self) -> str:
        again = f"monitor(Run.open({self.run.name!r}, outputs={str(self.run.folder.parent)!r}))"
        return f"{self.run.name} was {in_words(self.run.history)} {again} shows it again."

    async def _follow(self) -> None:
        history = self.run.history
        guard, took = guarded(self.banner, self.update), 0.0
        while not (
            history.state in ("closed", "failed") and self._seen == _fingerprint(history, None)
        ):
            pause = IDLE_POLL_SECONDS if history.over else POLL_SECONDS
            await asyncio.sleep(max(pause, took / SHARE_OF_TIME))
            begun = time.monotonic()
            guard()
            took = time.monotonic() - begun

    def _draw(self, history: History, drawn: tuple[Any, ...], *, before: tuple[Any, ...]) -> None:
        self._status.value = _status(self.run.name, history)
        if history.state != self.state or time.monotonic() - self._spoken > SPOKEN_SECONDS:
            self._spoken = time.monotonic()
            self._voice.value = _unseen(f"{history.state}, {_progress(history)}")
        self._bar.value = _bar(history)
        self._numbers.value = (
            f'<div style="{pages.MUTED}">{escape(_numbers(history, drawn[-1]))}</div>'
        )
        self._messages.value = _messages(history)
        self.buttons.follow(history)
        self.shortage.follow(history, lambda: self.run.recipe.effective_batch)
        if drawn[:4] != before[:4]:
            self._charts.value = charts.live(history)
        if drawn[4:6] != before[4:6]:
            self._samples.value = samples.newest(history)


def _task_of_the_kernel(work: Any) -> asyncio.Task | None:
    """Runs `work` on the running loop. Where there is none (a script, a test) the panel is drawn once and `update` redraws it."""
    try:
        return asyncio.get_running_loop().create_task(work)
    except RuntimeError:
        work.close()
        return None


def _waited(history: History, begun: float) -> int | None:
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


def _fingerprint(history: History, waited: int | None) -> tuple[Any, ...]:
    """Changes when something to be drawn does; while there are no steps, once a second."""
    return (
        len(history.steps), history.step, len(history.evals), len(history.memory),
        len(history.samples), sum(map(len, history.partial.values())),
        history.state, history.text, len(history.warnings), len(history.errors),
        len(history.commands), len(history.checkpoints), len(history.scores), waited,
    )  # fmt: skip


def _progress(history: History) -> str:
    """Step, time left, and what is being done where steps do not say it."""
    parts = [f"step {history.step:,} of {history.of:,}"] if history.steps else []
    if history.seconds_left is not None:
        parts.append(f"{duration(history.seconds_left)} left")
    if history.seconds_left is None:
        parts.append(history.text)
    return " \N{MIDDLE DOT} ".join(filter(None, parts))


def _status(name: str, history: History) -> str:
    chip = "border:1px solid;border-radius:10px;padding:1px 9px;font-size:12px;margin:0 6px"
    state = f'<span class="wb-state" style="{chip}">{escape(history.state)}</span>'
    return (
        f'<div style="font-size:15px;line-height:1.6"><b>Run {escape(name)}</b> {state} '
        f'<span class="wb-progress">{escape(_progress(history))}</span></div>'
    )


def _unseen(text: str) -> str:
    """For screen readers only: said when it changes, and so changed less often than what is seen."""
    return f'<div style="position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden">{status_html(text)}</div>'


def _bar(history: History) -> str:
    of = history.of or 0
    share = history.step / of if of else 0.0
    return (
        f'<div role="progressbar" aria-label="steps" aria-valuemin="0" aria-valuemax="{of}" '
        f'aria-valuenow="{history.step}" style="height:4px;border-radius:2px;'
        f'background:var(--jp-border-color2, #9e9e9e55)"><div style="height:4px;border-radius:2px;'
        f'width:{share:.1%};background:var(--jp-brand-color1, #1e88e5)"></div></div>'
    )


def _numbers(history: History, waited: int | None) -> str:
    parts = [] if waited is None else [f"{duration(waited)} so far"]
    if history.steps:
        step = history.steps[-1]
        parts.append(f"loss {step['loss']:.4g}")
        parts.append(f"epoch {step['epoch']:.2f}")
        parts.append(f"{history.speed:,.0f} tokens/s" if history.speed else "")
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
    return " \N{MIDDLE DOT} ".join(filter(None, parts))


def _messages(history: History) -> str:
    shown = [
        pages.message("error", e["text"], e["cure"], details=e["cause"] or "")
        for e in history.errors
    ]
    hidden = len(history.warnings) - SHOWN_WARNINGS
    if hidden > 0:
        shown.append(
            pages.message("note", f"{hidden} earlier warnings are in {history.path.name}.")
        )
    last = history.warnings[-SHOWN_WARNINGS:]
    return "".join([*shown, *(pages.message("warning", w["text"], w["cure"]) for w in last)])
