"""How long a run trains: steps or epochs, of which only one can be set.

Knows the two settings; nothing of rows.
"""

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from ... import recipe as settings
from ...recipe import Training
from .. import pages
from ..banner import Banner, guarded
from ..controls import control, described, form_layout, form_style, line_of, tip
from .settings import whole

STEPS, EPOCHS = "training.steps", "training.epochs"
FIRST_STEPS = 100  # when a user changes from epochs to steps and the rows were not counted


class Length(widgets.HBox):
    """`values` holds both settings, one of them None; setting one's control makes it the one that counts."""

    def __init__(self, training: Training, *, banner: Banner, codes: widgets.Layout) -> None:
        """`codes` is the layout that all lines of Python share."""
        self.at_first = {STEPS: training.steps, EPOCHS: training.epochs}
        self.unset = training.steps is None and training.epochs is None  # which is one pass
        passes = 1.0 if training.epochs is None else training.epochs
        self.steps = _number(widgets.FloatText, STEPS, training.steps or FIRST_STEPS, step=1)
        self.epochs = _number(widgets.FloatText, EPOCHS, passes, step=0.5)
        says = f"Steps: {tip(STEPS)} Epochs: {tip(EPOCHS)}"
        self.unit = described(
            widgets.Dropdown, "counted in", says, "length",
            options=[(settings.field(name).title.lower(), name) for name in (STEPS, EPOCHS)],
            value=EPOCHS if training.steps is None else STEPS,
            layout=widgets.Layout(width="180px", flex="0 0 auto"),
        )  # fmt: skip
        self.unit.style.description_width = "80px"
        self.code = widgets.HTML(layout=codes)
        self._changed: Callable[..., Any] | None = None
        self._setting = False
        super().__init__([self.steps, self.epochs, self.unit, self.code])
        self.layout.flex_flow, self.layout.align_items = "row wrap", "center"
        for made, which in (
            (self.steps, lambda: STEPS),
            (self.epochs, lambda: EPOCHS),
            (self.unit, lambda: self.unit.value),
        ):
            take = guarded(banner, lambda which=which: self._take(which()))
            made.observe(take, names="value")
        self._show()

    @property
    def values(self) -> dict[str, Any]:
        """Both settings, valid or not."""
        if self.unit.value == STEPS:
            return {STEPS: whole(self.steps.value), EPOCHS: None}
        same = self.unset and self.epochs.value == 1
        return {STEPS: None, EPOCHS: None if same else self.epochs.value}

    def on_change(self, tell: Callable[..., Any]) -> None:
        """Has `tell` called after each change."""
        self._changed = tell

    def put(self, values: dict[str, Any]) -> None:
        """Shows these settings of the two; none of them is one pass."""
        steps, epochs = values.get(STEPS), values.get(EPOCHS)
        if steps is not None:
            self.steps.value, self.unit.value = steps, STEPS
        elif epochs is not None or EPOCHS in values or STEPS in values:
            self.unset = epochs is None
            self.epochs.value, self.unit.value = 1.0 if epochs is None else epochs, EPOCHS

    def show_line(self) -> None:
        """Brings the line of Python in step; it empties the other setting where the recipe had that one."""
        values, given = self.values, self.at_first
        used = self.unit.value
        other = EPOCHS if used == STEPS else STEPS
        told = {used: values[used], **({other: None} if given[other] is not None else {})}
        if used == EPOCHS and values[used] is None:
            told[used] = self.epochs.value
        self.code.value = pages.code(line_of(told), quiet=values == given)

    def _take(self, name: str) -> None:
        """Makes this setting the one that counts, and tells of it once."""
        if self._setting:
            return
        self._setting = True
        self.unit.value = name
        self._setting = False
        self._show()
        if self._changed is not None:
            self._changed()

    def _show(self) -> None:
        for name, made in ((STEPS, self.steps), (EPOCHS, self.epochs)):
            made.layout.display = "" if name == self.unit.value else "none"
        self.show_line()


def _number(
    kind: type[widgets.Widget], name: str, value: float, **options: float
) -> widgets.Widget:
    return control(kind, name, value, layout=form_layout(), style=form_style(), **options)
