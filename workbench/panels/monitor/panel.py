"""The live view of a run: state, progress, alarms, buttons, charts, answers, what went wrong, and what was kept.

A task on the kernel's own loop reads the run a few times a second and redraws what changed; there is no thread.
"""

import asyncio
import json
import time
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any, ClassVar

import ipywidgets as widgets
import traitlets

from ... import charts
from ...alarm import Alarm, alarms
from ...answers import visible
from ...events import OVER, History
from ...problems import RecipeError
from ...recipe import Recipe
from ...run import Run
from ...summary import in_words
from .. import pages
from ..answers.ask import AskBox
from ..answers.sheet import SampleSheet
from ..banner import Banner, guarded
from ..buttons import Buttons
from ..fold import Fold
from ..following import task_of_the_kernel
from ..still import LastingPanel
from . import standing
from .alarm_list import AlarmList
from .live_charts import LiveCharts
from .shortage import Shortage
from .steering import LearningRate

POLL_SECONDS = 0.25
SHARE_OF_TIME = 0.05  # at most: what takes longer to draw is drawn less often
IDLE_POLL_SECONDS = 1.0  # after training: only answers to questions still come
SPOKEN_SECONDS = 2.0  # at most this often does a screen reader hear the progress
MOST = 4  # views of one run: cells are run again, and widgets live until they are closed
ROOM = "34px"  # for one alarm or message, so that the first moves nothing
SHOWN_ANSWERS = 3  # in the text form


class Monitor(LastingPanel):
    """Watches a run. `state` follows the run's; other panels observe it. The fifth view of a run closes the first."""

    state = traitlets.Unicode("")
    _open: ClassVar[list["Monitor"]] = []

    def __init__(self, run: Run, *, own: bool = False) -> None:
        """An `own` one is part of another panel, which closes it."""
        self.run = run
        self._task: asyncio.Task | None = None
        self.banner = Banner()
        self._recipe, self._planned = _recipe(run), _planned(run.folder)
        self._status, self._bar, self._numbers, self._messages = (widgets.HTML() for _ in range(4))
        self._voice = widgets.HTML(layout=widgets.Layout(height="0", margin="0"))
        self._status.add_class("wb-status")
        self._messages.add_class("wb-messages")
        self.buttons = Buttons(run, self.banner)
        self.alarms = AlarmList(self.banner, lambda: self.buttons.ask("stop", run.stop))
        self.steering = LearningRate(
            self.banner,
            self._recipe.training.learning_rate,
            lambda peak: self.buttons.ask(
                "change the learning rate", lambda: run.change(learning_rate=peak)
            ),
        )
        room = widgets.Layout(min_height=ROOM, justify_content="center")
        told = widgets.VBox([self.alarms, self._messages], layout=room)
        self.shortage = Shortage(self.banner, self.resume)
        self.charts, self.sheet = LiveCharts(), SampleSheet(self.banner)
        self.ask = AskBox(run, self.banner, reopen=self.reopen)
        fold = Fold("Ask the model", "a box for a prompt", "ask-fold", self.ask)
        super().__init__([
            self._status, self._voice, self._bar, self._numbers, self.banner, told, self.shortage, self.buttons,
            self.steering, self.buttons.note, self.charts, self.sheet, fold.button, self.ask,
        ])  # fmt: skip
        self.layout.border, self.layout.padding = pages.BORDER, "8px 12px"
        self.layout.margin = "8px 0"
        self.add_class("wb-monitor")
        self._seen: tuple[Any, ...] = ()
        self._picture: tuple[Any, bytes] = (None, b"")
        self._alarms: list[Alarm] = []
        self._spoken, self._took, self._begun = 0.0, 0.0, time.time()
        self.update()
        self._task = task_of_the_kernel(self._follow())
        if not own:
            self._make_room()

    def update(self) -> None:
        """Reads what is new and redraws if anything changed."""
        self.run.refresh()
        history = self.run.history
        seen = standing.fingerprint(history, standing.waited(history, self._begun))
        if seen == self._seen:
            return
        ended = history.over and self.state not in ("", *OVER)
        self._draw(history, waited=seen[-1], now=history.state != self.state)
        self._seen = seen
        self.state = history.state
        if ended:
            self.leave()

    def resume(self, batch_size: int) -> None:
        """Has the run go on with so many rows at once and the same effective batch, and watches it."""
        self._go_on(lambda: self.run.resume(batch_size=batch_size))

    def reopen(self) -> None:
        """Loads the model again with the run's adapter, to answer, and watches it."""
        self._go_on(self.run.reopen)

    def _go_on(self, begin: Callable[[], Any]) -> None:
        begin()
        self._begun = time.time()
        self.banner.clear()
        self.update()
        if self._task is not None:  # it ended with the worker before
            self._task.cancel()
            self._task = task_of_the_kernel(self._follow())

    def bundle(self) -> dict[str, Any]:
        """The live view; the words for where there is none hold true however the run goes on."""
        history = self.run.history
        then = f"{history.state}, {standing.progress(history)}".rstrip(", .")
        text = f"The live view of run {self.run.name} ({then} when it was shown) needs its kernel. {self._again()}"
        text = visible(text)
        return super().bundle() | {"text/html": f"<p>{escape(text)}</p>", "text/plain": text}

    def left(self) -> dict[str, Any]:
        """Once the run is over: what became of it in words, and its charts as a picture."""
        history = self.run.history
        if not history.over:
            return super().left()
        left: dict[str, Any] = {"text/plain": repr(self)}
        if history.steps:
            if self._picture[0] != self._seen:  # it takes a second, and two panels may want it
                self._picture = (self._seen, charts.png(history, title=in_words(history)))
            left["image/png"] = self._picture[1]
        return left

    def close(self) -> None:
        """Closes the view with all that is in it; the run goes on."""
        if self._task is not None:
            self._task.cancel()
        if self in Monitor._open:
            Monitor._open.remove(self)
        super().close()

    def __repr__(self) -> str:
        history = self.run.history
        lines = [f"{self.run.name} was {in_words(history)}"]
        lines += [f"{alarm.text} {alarm.cure}" for alarm in self._alarms]
        lines += [f"{error['text']} {error['cure']}" for error in history.errors[-1:]]
        lines += _answers(history)
        return visible("\n".join([*lines, self._again()]))

    def _again(self) -> str:
        place = f"Run.open({self.run.name!r}, outputs={str(self.run.folder.parent)!r})"
        return f"wb.monitor(wb.{place}) shows it again."

    async def _follow(self) -> None:
        history = self.run.history
        look = guarded(self.banner, self.update)
        while not (
            history.state in ("closed", "failed")
            and self._seen == standing.fingerprint(history, None)
        ):
            idle = history.over and not history.partial
            pause = IDLE_POLL_SECONDS if idle else POLL_SECONDS
            await asyncio.sleep(max(pause, self._took / SHARE_OF_TIME))
            look()

    def _draw(self, history: History, *, waited: int | None, now: bool) -> None:
        """Draws all that is not drawn so; `now` when the state has changed, which is said and drawn at once."""
        begun = time.monotonic()
        training = self._recipe.training
        self._alarms = alarms(
            history, planned=self._planned, patience=training.patience, keep=training.keep
        )
        self._status.value = standing.status(self.run.name, history)
        self._bar.value = standing.bar(history)
        self._numbers.value = standing.numbers(history, waited)
        told = frozenset(alarm.text for alarm in self._alarms)
        self._messages.value = standing.messages(history, told) + standing.outcome(history)
        known = self.alarms.spoken
        self.alarms.follow(self._alarms, quiet=not self._messages.value)
        new = self.alarms.spoken not in ("", known)
        if now or new or time.monotonic() - self._spoken > SPOKEN_SECONDS:
            self._spoken = time.monotonic()
            says = f"{history.state}, {standing.progress(history)}"
            self._voice.value = standing.unseen(visible(f"{self.alarms.spoken} {says}".strip()))
        self.buttons.follow(history)
        self.steering.follow(history)
        self.shortage.follow(history, lambda: self.run.recipe.effective_batch)
        self.sheet.follow(history)
        self.ask.follow(history)
        self._took = time.monotonic() - begun
        self.charts.follow(
            history, now=now
        )  # which see to it themselves that they take little time

    def _make_room(self) -> None:
        """Closes the oldest views of this run when there are too many."""
        others = [view for view in Monitor._open if view.run.folder == self.run.folder]
        for oldest in others[: max(0, len(others) - MOST + 1)]:
            oldest.close()
        Monitor._open.append(self)


def _recipe(run: Run) -> Recipe:
    """The run's recipe, or the defaults where this version cannot read it: the view is worth more than what it advises."""
    try:
        return run.recipe
    except RecipeError:
        return Recipe()


def _planned(folder: Path) -> dict[str, Any] | None:
    try:
        planned = json.loads((folder / "plan.json").read_text())
    except (OSError, ValueError):
        return None
    return planned if isinstance(planned, dict) else None


def _answers(history: History) -> list[str]:
    """The last answers as lines of text."""
    shown = []
    for sample in history.samples[-SHOWN_ANSWERS:]:
        asked, said = (" ".join(sample[name].split()) for name in ("prompt", "text"))
        who = "" if sample["adapter"] else " (base model)"
        shown.append(f"Step {sample['step']:,}{who}: {asked[:80]} -> {said[:160]}")
    return shown
