"""What a monitor shows of a run that ended because its memory ran out: what held it, what to turn, and a button to go on.

Reads a History; what the button does is given to it.
"""

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import ipywidgets as widgets

from ...events import History
from ...memory import plan_bar
from ...memory.estimate import NAMES
from .. import pages
from ..banner import Banner, guarded
from ..buttons import button
from ..fold import Fold

SHOWN = 4  # pieces of advice


class Shortage(widgets.VBox):
    """Takes no room unless the run failed for want of memory. `half` is how many rows at once the button goes on with."""

    def __init__(self, banner: Banner, resume: Callable[[int], Any]) -> None:
        """`resume` goes on with so many rows at once."""
        self.half: int | None = None
        self._told, self._table, self._advice, self._code = (widgets.HTML() for _ in range(4))
        self.parts = Fold("All parts", "every part with its bytes", "shortage-parts", self._table)
        says = "run.resume(batch_size=...): goes on from the last checkpoint"
        self.button = button("Continue", says, "play", "continue-half", "primary")
        self.button.layout.align_self = "flex-start"
        self.button.on_click(guarded(banner, lambda: resume(self.half)))
        self._continue = widgets.VBox([self.button, self._code])
        shown = [self._told, self.parts.button, self._table, self._advice, self._continue]
        super().__init__(shown)
        self.add_class("wb-shortage")
        self.layout.display = "none"

    def follow(self, history: History, effective: Callable[[], int]) -> None:
        """Shows the shortage that ended the run, if one did; `effective` tells its effective batch."""
        found = ended_by(history)
        self.layout.display = "none" if found is None else ""
        if found is None:
            return
        self._told.value = told(found, _device_total(history))
        self._table.value = plan_bar.table(_parts(found["held"]))
        self._advice.value = advised(found["advice"])
        self.half = half(found["batch_size"], effective()) if found["phase"] == "training" else None
        self._continue.layout.display = "none" if self.half is None else ""
        if self.half is not None:
            rows = f"{self.half} row{'s'[: self.half > 1]}"
            self.button.description = f"Continue with half the batch ({rows}, same effective batch)"
            self.button.tooltip = f"run.resume(batch_size={self.half}): goes on from the last checkpoint, or from the start"
            self._code.value = pages.code(f"run.resume(batch_size={self.half})", quiet=False)


def ended_by(history: History) -> Mapping[str, Any] | None:
    """The shortage that a run failed by; None where it did not, or went on after it."""
    if history.state != "failed" or not history.shortages:
        return None
    last = history.shortages[-1]
    starts = [phase["t"] for phase in history.phases if phase["state"] == "preparing"]
    went_on = [event["t"] for event in (*history.steps[-1:], *history.evals[-1:])]
    if (
        last["retrying"]
        or last["t"] < max(starts, default=0)
        or last["t"] < max(went_on, default=0)
    ):
        return None
    return last


def half(rows: int | None, effective: int) -> int | None:
    """The most rows, at most half as many, that divide the effective batch; None where there is one row already."""
    smaller = range((rows or 0) // 2, 0, -1)
    return next((count for count in smaller if effective % count == 0), None)


def told(shortage: Mapping[str, Any], total: int | None) -> str:
    """What held the memory when it ran out, and what was wanted more, with the bar; `total` is the card's memory."""
    pieces = plan_bar.groups(_parts(shortage["held"]))
    held, wanted = sum(piece.size for piece in pieces), shortage["wanted"] or 0
    more = f", {plan_bar.short(wanted)} more were wanted" if wanted else ""
    rows = shortage["batch_size"]
    at_once = f" with {rows:,} row{'s'[: rows > 1]} at once" if rows else ""
    text = f"Out of memory in {shortage['phase']}{at_once}: {plan_bar.short(held)} were held{more}."
    legend = [plan_bar.hatched(f"wanted +{plan_bar.short(wanted)}")] if wanted else []
    strip = plan_bar.strip(
        pieces, spoken=text, safe=held + wanted, free=total, legend=legend, ends="on the card"
    )
    return f'<div role="status" style="line-height:1.5"><b>{escape(text)}</b></div>{strip}'


def advised(advice: list[Mapping[str, Any]]) -> str:
    """What to turn, with what each saves."""
    lines = "".join(f"<li>{escape(str(one.get('text', '')))}</li>" for one in advice[:SHOWN])
    if not lines:
        return ""
    return f'<div style="line-height:1.5"><b>What to turn</b><ul style="margin:2px 0">{lines}</ul></div>'


def _parts(held: Mapping[str, int]) -> dict[str, int]:
    """Those of what is told that are parts, in the order in which they are shown; totals are no parts."""
    names = [*NAMES]
    names.insert(names.index("answers"), "activations")
    return {name: held[name] for name in names if held.get(name)}


def _device_total(history: History) -> int | None:
    return max((reading["device_total"] or 0 for reading in history.memory), default=0) or None
