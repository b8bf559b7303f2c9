"""The buttons that command a run, each enabled where it can be obeyed, with what is still awaited beside them.

Knows what may be asked in which state; what then happens, the worker tells.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import ipywidgets as widgets

from ..answers import visible
from ..events import History
from ..run import Run
from .banner import Banner, guarded, status_html

ENDS = ("stop", "cancel")
ANSWERING = ("ready", "stopped")  # the training is over, and the worker there


def button(text: str, tip: str, icon: str, mark: str, style: str = "") -> widgets.Button:
    """A button with a tooltip, and a class `wb-...` by which it can be found."""
    made = widgets.Button(
        description=text, tooltip=tip, icon=icon, button_style=style, layout={"width": "auto"}
    )
    made.add_class(f"wb-{mark}")
    return made


class Buttons(widgets.VBox):
    """Stop, pause, checkpoint, sample and cancel, each enabled where it can be obeyed, with what is still awaited."""

    def __init__(self, run: Run, banner: Banner) -> None:
        self._banner = banner
        self._run = run
        self._asked: dict[str, str] = {}
        self._told = len(run.history.commands)  # refusals from before this view are old news
        self._answer = ""
        self._make()
        #: What is awaited, refused or changed; it is placed by whom the buttons belong to.
        self.note = widgets.HTML(layout=widgets.Layout(min_height="28px"))  # texts come and go
        bar = [self.stop, self.pause, self.checkpoint, self.sample, self.cancel]
        super().__init__([_row(bar), self._confirm])
        for made, act in (
            (self.stop, lambda: self.ask("stop", run.stop)),
            (self.pause, self._pause_or_go_on),
            (self.checkpoint, lambda: self.ask("checkpoint", run.checkpoint)),
            (self.sample, lambda: self.ask("sample", run.sample_now)),
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
        done = history.steps and history.step == history.of and not paused
        self.stop.disabled = self.cancel.disabled = not live
        self.pause.disabled = self.checkpoint.disabled = not training or bool(done)
        self.sample.disabled = not training and history.state not in ANSWERING
        self.pause.description, self.pause.icon = (
            ("Continue", "play") if paused else ("Pause", "pause")
        )
        if not live:
            self._show_confirm(False)
        for command in history.commands[self._told :]:
            self._answer = _answered(command, self._answer)
        self._told = len(history.commands)
        note = f"{self._answer} {self._awaited(history) or _hint(live)}".strip()
        self.note.value = status_html(visible(note))

    def ask(self, do: str, send: Callable[[], str]) -> None:
        """Sends a command, `do` in words, and says that it is awaited until the worker has answered."""
        self._answer = ""  # it has been read by now
        self._asked[send()] = do
        self._banner.clear()  # what was wrong with the wish before
        self.follow(self._run.history)

    def _make(self) -> None:
        ends = "run.stop(): ends after this step and keeps the adapter"
        self.stop = button("Stop and keep", ends, "stop", "stop", "primary")
        self.pause = button("Pause", "run.pause(): holds after this step", "pause", "pause")
        writes = "run.checkpoint(): writes a checkpoint after this step"
        self.checkpoint = button("Checkpoint", writes, "save", "checkpoint")
        answers = "run.sample_now(): answers the recipe's prompts after this step"
        self.sample = button("Sample now", answers, "comment", "sample-now")
        asks = "run.cancel(): ends and keeps nothing; asks first"
        self.cancel = button("Cancel...", asks, "times", "cancel")
        loses = "run.cancel(): ends the run; what it learned is lost"
        self.yes = button("Discard this run", loses, "trash", "cancel-yes", "danger")
        self.no = button("Go on training", "Leaves the run as it is", "check", "cancel-no")
        question = widgets.HTML("Discard what this run has learned?")
        self._confirm = _row([question, self.yes, self.no])
        self._confirm.layout.display = "none"

    def _awaited(self, history: History) -> str:
        """What was asked for and is still to come, and when it will."""
        answered = {command["id"] for command in history.commands}
        waiting = dict.fromkeys(do for id, do in self._asked.items() if id not in answered)
        if history.over:  # the worker answers and does nothing else
            return _asked_to([do for do in waiting if do == "sample"], "in a moment")
        if history.steps:
            return _asked_to(waiting, "after this step")
        # Before the first step an end is obeyed between two phases or answers; all else waits.
        ends = [do for do in waiting if do in ENDS]
        rest = [do for do in waiting if do not in ENDS]
        told = (_asked_to(ends, "as soon as possible"), _asked_to(rest, "after the first step"))
        return " ".join(filter(None, told))

    def _pause_or_go_on(self) -> None:
        paused = self._run.history.state == "paused"
        self.ask(*(("continue", self._run.unpause) if paused else ("pause", self._run.pause)))

    def _discard(self) -> None:
        self._show_confirm(False)
        self.ask("cancel", self._run.cancel)

    def _show_confirm(self, shown: bool) -> None:
        self._confirm.layout.display = "" if shown else "none"


def _row(parts: Sequence[widgets.Widget]) -> widgets.HBox:
    layout = widgets.Layout(flex_flow="row wrap", align_items="center")
    return widgets.HBox(list(parts), layout=layout)


def _answered(command: Mapping[str, Any], before: str) -> str:
    """What the worker said to a command: why it was not done, or what was changed."""
    if command["taken"] and command["do"] != "change":
        return before
    text = command["text"] or ""
    return f"Changed: {text.rstrip('.')}." if command["taken"] and text else text


def _asked_to(what: Iterable[str], when: str) -> str:
    wishes = " and ".join(what)
    return f"Asked to {wishes}: {when}." if wishes else ""


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
