"""A control for the learning rate of a run while it trains. Shows the peak that holds now; what is asked goes through the buttons."""

import re
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from ...events import History
from .. import pages
from ..banner import Banner, guarded
from ..buttons import button
from ..controls import described

TOLD = re.compile(
    r"learning rate ([\d.e+-]*\d) from step"
)  # the worker's words for a change that was made
TIP = (
    "The peak of the learning rate; warmup and decay go on from where they are. "
    "Lower it when the loss jumps, raise it when the loss hardly falls."
)


class LearningRate(widgets.HBox):
    """`box` holds the peak, which `button` sets from the next step on."""

    def __init__(self, banner: Banner, planned: float, change: Callable[[float], Any]) -> None:
        """`planned` is the recipe's; `change` asks the run for another."""
        self._planned = self._peak = planned
        self.box = described(
            widgets.FloatText, "Learning rate", TIP, "learning-rate-now", value=planned
        )
        self.box.layout.width, self.box.style.description_width = "180px", "initial"
        self.button = button("Set", "", "check", "learning-rate-set")
        self._code = widgets.HTML(layout=widgets.Layout(margin="2px 2px 2px 12px"))
        layout = widgets.Layout(align_items="center", flex_flow="row wrap")
        super().__init__([self.box, self.button, self._code], layout=layout)
        self.add_class("wb-steering")
        self.box.observe(guarded(banner, self._show_line), names="value")
        self.button.on_click(guarded(banner, lambda: change(self.box.value)))
        self._show_line()

    def follow(self, history: History) -> None:
        """Enables the control while there are steps to come; a peak that was changed, by whom ever, is shown."""
        peak = now(history, self._planned)
        if peak != self._peak:
            self._peak = self.box.value = peak
        open_ = history.state in ("training", "paused") and history.step != (history.of or -1)
        self.box.disabled = self.button.disabled = not open_

    def _show_line(self) -> None:
        line = f"run.change(learning_rate={self.box.value:g})"
        self._code.value = pages.code(line)
        self.button.tooltip = f"{line}: from the next step on"


def now(history: History, planned: float) -> float:
    """The peak that holds: the last that was changed since this worker was started, or else the recipe's."""
    started = max((p["t"] for p in history.phases if p["state"] == "preparing"), default=0.0)
    for command in reversed(history.commands):
        if command["t"] < started:
            break
        told = TOLD.search(
            command["text"] or ""
        )  # one that was refused in part has changed the rest
        if command["do"] == "change" and told:
            return float(told[1])
    return planned
