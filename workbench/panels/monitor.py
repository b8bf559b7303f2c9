"""The live view of a run: state, progress, charts, newest answers, what went wrong, and the buttons.

A task on the kernel's own loop reads the run a few times a second and redraws what changed; there is no thread.
"""

import asyncio
import time
from html import escape
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import ipywidgets as widgets
import traitlets

from .. import charts
from ..events import History
from ..run import Run
from ..summary import duration, in_words, size
from . import pages, samples
from .banner import Banner, button, guarded, status_html
from .panel import Panel

POLL_SECONDS = 0.25
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
        for part, mark in (
            (self._status, "status"),
            (self._charts, "chart"),
            (self._samples, "samples"),
            (self._messages, "messages"),
        ):
            part.add_class(f"wb-{mark}")
        self.buttons = _Buttons(run, self.banner)
        parts = (self._status, self._bar, self._numbers, self.banner, self._messages)
        super().__init__([*parts, self.buttons, self._charts, self._samples])
        self.layout.border = pages.BORDER
        self.layout.padding = "8px 12px"
        self.layout.margin = "8px 0"
        self.add_class("wb-monitor")
        self._seen: tuple[Any, ...] = ()
        self._spoken = 0.0
        self.update()
        self._task = _task_of_the_kernel(self._follow())

    def update(self) -> None:
        """Reads what is new and redraws if anything changed."""
        self.run.refresh()
        history = self.run.history
        seen = _fingerprint(history)
        if seen == self._seen:
            return
        self._draw(history, before=self._seen)
        self._seen = seen
        self.state = history.state

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        super().close()

    def __repr__(self) -> str:
        again = f"monitor(Run.open({self.run.name!r}, outputs={str(self.run.folder.parent)!r}))"
        return f"{self.run.name} was {in_words(self.run.history)} {again} shows it again."

    async def _follow(self) -> None:
        history = self.run.history
        guard = guarded(self.banner, self.update)
        while not (history.state in ("closed", "failed") and self._seen == _fingerprint(history)):
            await asyncio.sleep(IDLE_POLL_SECONDS if history.over else POLL_SECONDS)
            guard()

    def _draw(self, history: History, *, before: tuple[Any, ...]) -> None:
        state_changed = history.state != self.state
        if state_changed or time.monotonic() - self._spoken > SPOKEN_SECONDS:
            self._spoken = time.monotonic()
            self._status.value = _status(self.run.name, history)
        self._bar.value = _bar(history)
        self._numbers.value = f'<div style="{pages.MUTED}">{escape(_numbers(history))}</div>'
        self._messages.value = _messages(history)
        self.buttons.follow(history)
        drawn = _fingerprint(history)
        if drawn[:4] != before[:4]:
            self._charts.value = charts.live(history)
        if drawn[4:6] != before[4:6]:
            self._samples.value = samples.newest(history)


class _Buttons(widgets.VBox):
    """Stop, pause, checkpoint and cancel, each enabled where it can be obeyed, with what is still awaited."""

    def __init__(self, run: Run, banner: Banner) -> None:
        self._run = run
        self._asked: dict[str, str] = {}
        self.stop = button(
            "Stop and keep",
            "run.stop(): ends after this step and keeps the adapter",
            "stop",
            "stop",
            "primary",
        )
        self.pause = button("Pause", "run.pause(): holds after this step", "pause", "pause")
        self.checkpoint = button(
            "Checkpoint",
            "run.checkpoint(): writes a checkpoint after this step",
            "save",
            "checkpoint",
        )
        self.cancel = button(
            "Cancel...", "run.cancel(): ends and keeps nothing; asks first", "times", "cancel"
        )
        self.yes = button(
            "Discard this run",
            "run.cancel(): ends the run; what it learned is lost",
            "trash",
            "cancel-yes",
            "danger",
        )
        self.no = button("Go on training", "Leaves the run as it is", "check", "cancel-no")
        self._note = widgets.HTML()
        self._confirm = widgets.HBox(
            [widgets.HTML("Discard what this run has learned?"), self.yes, self.no]
        )
        self._confirm.layout = widgets.Layout(
            display="none", align_items="center", flex_flow="row wrap"
        )
        bar = widgets.HBox([self.stop, self.pause, self.checkpoint, self.cancel, self._note])
        bar.layout = widgets.Layout(flex_flow="row wrap", align_items="center")
        super().__init__([bar, self._confirm])
        for made, act in (
            (self.stop, lambda: self._ask("stop", run.stop)),
            (self.pause, self._pause_or_go_on),
            (self.checkpoint, lambda: self._ask("checkpoint", run.checkpoint)),
            (self.cancel, lambda: self._show_confirm(True)),
            (self.yes, self._discard),
            (self.no, lambda: self._show_confirm(False)),
        ):
            made.on_click(guarded(banner, act))

    def follow(self, history: History) -> None:
        """Enables what can be done in this state, and drops what was obeyed from the note."""
        live = not history.over
        training = history.state in ("training", "paused")
        paused = history.state == "paused"
        self.stop.disabled = self.cancel.disabled = not live
        self.pause.disabled = self.checkpoint.disabled = not training
        self.pause.description, self.pause.icon = (
            ("Continue", "play") if paused else ("Pause", "pause")
        )
        if not live:
            self._show_confirm(False)
        refused = [c["text"] for c in history.commands if c["id"] in self._asked and not c["taken"]]
        answered = {command["id"] for command in history.commands}
        waiting = [do for id, do in self._asked.items() if id not in answered and live]
        note = f"Asked to {' and '.join(waiting)}: after this step." if waiting else _hint(live)
        self._note.value = status_html(" ".join([*refused[-1:], note]).strip())

    def _ask(self, do: str, send: Any) -> None:
        self._asked[send()] = do
        self.follow(self._run.history)

    def _pause_or_go_on(self) -> None:
        paused = self._run.history.state == "paused"
        self._ask(*(("continue", self._run.unpause) if paused else ("pause", self._run.pause)))

    def _discard(self) -> None:
        self._show_confirm(False)
        self._ask("cancel", self._run.cancel)

    def _show_confirm(self, shown: bool) -> None:
        self._confirm.layout.display = "" if shown else "none"


def _task_of_the_kernel(work: Any) -> asyncio.Task | None:
    """Runs `work` on the running loop. Where there is none (a script, a test) the panel is drawn once and `update` redraws it."""
    try:
        return asyncio.get_running_loop().create_task(work)
    except RuntimeError:
        work.close()
        return None


def _fingerprint(history: History) -> tuple[Any, ...]:
    """Changes when something to be drawn does; while a run begins, once a second."""
    waited = 0
    if history.state in BEGINNING and history.phases:
        waited = int(time.time() - history.phases[-1]["t"])
    return (
        len(history.steps), history.step, len(history.evals), len(history.memory),
        len(history.samples), sum(map(len, history.partial.values())),
        history.state, history.text, len(history.warnings), len(history.errors),
        len(history.commands), len(history.checkpoints), len(history.scores), waited,
    )  # fmt: skip


def _status(name: str, history: History) -> str:
    parts = [f"step {history.step:,} of {history.of:,}"] if history.steps else []
    if history.seconds_left is not None:
        parts.append(f"{duration(history.seconds_left)} left")
    if not parts or history.over:
        parts.append(history.text)
    chip = "border:1px solid;border-radius:10px;padding:1px 9px;font-size:12px;margin:0 6px"
    state = f'<span class="wb-state" style="{chip}">{escape(history.state)}</span>'
    about = escape(" \N{MIDDLE DOT} ".join(filter(None, parts)))
    return (
        f'<div style="font-size:15px;line-height:1.6" role="status" aria-live="polite">'
        f'<b>Run {escape(name)}</b> {state} <span class="wb-progress">{about}</span></div>'
    )


def _bar(history: History) -> str:
    of = history.of or 0
    share = history.step / of if of else 0.0
    return (
        f'<div role="progressbar" aria-label="steps" aria-valuemin="0" aria-valuemax="{of}" '
        f'aria-valuenow="{history.step}" style="height:4px;border-radius:2px;'
        f'background:var(--jp-border-color2, #9e9e9e55)"><div style="height:4px;border-radius:2px;'
        f'width:{share:.1%};background:var(--jp-brand-color1, #1e88e5)"></div></div>'
    )


def _numbers(history: History) -> str:
    parts = []
    if not history.steps:
        since = history.phases[-1]["t"] if history.phases else time.time()
        parts.append(f"{duration(time.time() - since)} so far" if not history.over else "")
    else:
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
    if history.state == "training" and history.steps and history.text != "Training.":
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


def _hint(live: bool) -> str:
    """Colab's kernel hears no button while a cell runs; there Interrupt does the same as Stop."""
    try:
        old = int(version("ipykernel").split(".")[0]) < 7
    except PackageNotFoundError:
        old = False
    return (
        "While a cell runs, use its stop button (Interrupt): it stops and keeps."
        if live and old
        else ""
    )
