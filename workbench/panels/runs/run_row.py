"""One run of the list: a checkbox with its name, and beside it in two lines what its digest tells. Knows no folder."""

import time
from collections.abc import Callable, Sequence
from html import escape

import ipywidgets as widgets

from ...digest import Digest, model_name, said, short
from ...summary import duration, size
from .. import pages

WIDTH, HEIGHT = 84, 18  # of a curve, in CSS pixels
CELL = "display:inline-block;white-space:nowrap;margin-right:14px"
WRONG = "var(--jp-error-color1, #d32f2f)"


class RunRow(widgets.HBox):
    """A row that shows one run after another: pages of the list are turned without making widgets anew."""

    def __init__(self, on_pick: Callable[[bool], None]) -> None:
        """`on_pick` hears what a hand did to the checkbox."""
        self._showing = False
        self.box = widgets.Checkbox(indent=False, layout=widgets.Layout(width="200px"))
        self.box.layout.flex = "0 0 auto"
        self.box.add_class("wb-run-pick")
        self._about = widgets.HTML(layout=widgets.Layout(flex="1 1 380px", min_width="0"))
        across = {"flex_flow": "row wrap", "padding": "2px 0", "display": "none"}
        super().__init__([self.box, self._about], layout=across)
        self.add_class("wb-run")

        def picked(change: dict) -> None:
            if not self._showing:
                on_pick(bool(change["new"]))

        self.box.observe(picked, names="value")

    def show(self, name: str, told: Digest | None, size_on_disk: int, picked: bool) -> None:
        """Shows a run; `told` is None until its log was read."""
        self._showing = True
        try:
            self.box.value = picked
        finally:
            self._showing = False
        self.box.description = name
        tip = f"Picks {name} for the buttons below"
        setattr(self.box, "tooltip" if self.box.has_trait("tooltip") else "description_tooltip", tip)  # fmt: skip
        self._about.value = about(told, size_on_disk)
        self.layout.display = ""

    def hide(self) -> None:
        self.layout.display = "none"


def about(told: Digest | None, size_on_disk: int) -> str:
    """What a row tells beside the name."""
    if told is None:
        return f'<div style="line-height:1.5;{pages.MUTED}">Reading its log.</div>'
    best, step = told.best_loss, told.best_step
    held_out = "no held-out loss" if best is None else f"held out {best:.3g} at {step:,}"
    first = [
        _cell(_state(told.state), 62),
        _cell(escape(f"{told.step:,} of {told.of:,} steps" if told.of else "no steps"), 150),
        _cell(sparkline(told.losses, told.first_loss, told.loss), WIDTH),
        _cell(escape(held_out), 152),
        _cell(escape(duration(told.seconds)) if told.step else "", 78),
        _cell(escape(size(size_on_disk)), 62),
    ]
    second = [model_name(told.model), short(told.changed), _when(told.started)]
    more = ", ".join(f"{name} {said(value)}" for name, value in told.changed.items())
    text = " \N{MIDDLE DOT} ".join(filter(None, second))
    wrong = f'<div style="color:{WRONG}">{escape(told.problem)}</div>' if told.problem else ""
    return (
        f'<div style="line-height:1.5;font-variant-numeric:tabular-nums">{" ".join(first)}'
        f'<div style="{pages.MUTED};overflow-wrap:anywhere" title="{escape(more)}">{escape(text)}</div>{wrong}</div>'
    )


def sparkline(losses: Sequence[float], first: float | None, last: float | None) -> str:
    """The loss as a small curve without axes; its text alternative tells where it began and ended."""
    if len(losses) < 2 or first is None or last is None:
        return ""
    low, high = min(losses), max(losses)
    across, up = (WIDTH - 4) / (len(losses) - 1), (HEIGHT - 4) / ((high - low) or 1)
    corners = " ".join(
        f"{2 + n * across:.1f},{HEIGHT - 2 - (loss - low) * up:.1f}"
        for n, loss in enumerate(losses)
    )
    spoken = f"loss {first:.3g} to {last:.3g}"
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{spoken}" '
        f'style="vertical-align:middle"><title>{spoken}</title><polyline points="{corners}" fill="none" '
        f'stroke="var(--jp-brand-color1, #1e88e5)" stroke-width="1.5" stroke-linejoin="round"/></svg>'
    )


def _state(state: str) -> str:
    colour = f";color:{WRONG}" if state in ("failed", "unreadable") else ""
    return f'<b style="font-weight:600{colour}">{escape(state)}</b>'


def _cell(html: str, width: int) -> str:
    return f'<span style="{CELL};min-width:{width}px">{html}</span>'


def _when(started: float | None) -> str:
    """The day and hour at which it began, in this machine's time."""
    return time.strftime("%d %b, %H:%M", time.localtime(started)) if started else ""
