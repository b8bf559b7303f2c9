"""What settings amount to: facts in a list, and calm warnings with who found it. Sets nothing: a click hands the cure on.

Reads recipes, plans and cautions; computes nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import ipywidgets as widgets

from ...caution import Caution
from ...memory.plan import Plan
from ...recipe import Recipe, field
from ...summary import size
from .. import pages
from ..buttons import button
from ..controls import line_of

NOT_READY = "Not ready: see the message above."


class Consequences(widgets.VBox):
    """Facts and cautions, redrawn with each recipe."""

    def __init__(self, apply: Callable[[dict[str, Any]], Any]) -> None:
        """`apply` is called with the settings of a caution's cure when its button is pressed."""
        self._summary, self._cautions = widgets.HTML(), widgets.VBox()
        self._summary.add_class("wb-summary")
        self._cautions.add_class("wb-cautions")
        self._apply = apply
        self._rows: list[_Row] = []
        super().__init__([self._summary, self._cautions])

    @property
    def html(self) -> str:
        """The facts as they are shown."""
        return self._summary.value

    def show(self, facts: Sequence[str], found: Sequence[Caution]) -> None:
        """Shows these facts, and these cautions below them."""
        lines = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
        style = f"margin:0;padding:0 0 0 14px;list-style:none;line-height:1.7;border-left:{pages.BORDER}"
        # the role is another element's: a list that had it would be none any more
        self._summary.value = (
            f'<div role="status" aria-live="polite"><ul style="{style}">{lines}</ul></div>'
        )
        while len(self._rows) < len(found):
            self._rows.append(_Row(self._apply))
        for row, caution in zip(self._rows, found, strict=False):
            row.show(caution)
        shown = tuple(self._rows[: len(found)])
        if shown != self._cautions.children:
            self._cautions.children = shown


class _Row(widgets.VBox):
    """One caution: the text, its source, and a button where one change follows it."""

    def __init__(self, apply: Callable[[dict[str, Any]], Any]) -> None:
        self._told, self._change = widgets.HTML(), {}
        self._button = button("", "", "", "caution-cure")
        self._button.layout.margin, self._button.layout.align_self = "0 0 4px 12px", "flex-start"
        self._button.on_click(lambda _: apply(dict(self._change)))
        super().__init__([self._told, self._button])

    def show(self, caution: Caution) -> None:
        said = pages.message("warning", caution.text, caution.cure)
        source = f'<div style="{pages.SMALL};margin:0 0 0 12px">{escape(caution.source)}</div>'
        self._told.value = f'<div role="status" aria-live="polite">{said}{source}</div>'
        self._change = caution.change
        self._button.layout.display = "" if caution.change else "none"
        self._button.description = _in_short(caution.change)
        self._button.tooltip = line_of(caution.change)


def _in_short(change: Mapping[str, Any]) -> str:
    """ "Set learning rate 0.0002", "Set rsLoRA on, alpha 16": what a button does."""
    parts = []
    for name, value in change.items():
        title = field(name).title
        if value is not None:  # what becomes empty goes without saying
            title = title.lower() if title[1:].islower() else title
            parts.append(f"{title} {_shown(value)}")
    return f"Set {', '.join(parts)}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def facts(recipe: Recipe, plan: Plan | None, rows_fault: str = "") -> list[str]:
    """What the settings amount to, one fact each; `rows_fault` says why the rows cannot be read."""
    training, found = recipe.training, []
    if plan:
        share = plan.trainable / (plan.question.shapes.parameters + plan.trainable)
        found.append(f"{plan.trainable:,} trainable parameters, {share:.2%} of the model")
        found.append(f"adapter of about {size(plan.disk['adapter'])}")
    found.append(f"effective {scale(recipe)}")
    batch = f"{training.batch_size} \N{MULTIPLICATION SIGN} {training.accumulation}"
    if training.batch == "auto":
        batch = "the rows at once are tried at the start"
    found.append(f"effective batch {recipe.effective_batch:,} rows ({batch})")
    found.append(length(recipe, plan))
    if rows_fault:
        found.append(f"the rows are not counted: {rows_fault}")
    if plan and plan.seconds:
        by = "as measured here" if plan.speed.measured else "by formula"
        found.append(f"about {roughly(plan.seconds)} of training, {by}")
    return found


def scale(recipe: Recipe) -> str:
    """ "scale 2 (alpha / rank)": what the adapter's output is multiplied by."""
    below = "square root of rank" if recipe.lora.rslora else "rank"
    return f"scale {recipe.lora_scale:.3g} (alpha / {below})"


def length(recipe: Recipe, plan: Plan | None) -> str:
    """Steps, and the rows or passes that they mean."""
    training = recipe.training
    if training.steps:
        rows = training.steps * recipe.effective_batch
        return f"{training.steps:,} steps, {rows:,} rows in all"
    epochs = training.epochs or 1
    passes = f"{epochs:g} pass{'es'[: 2 * (epochs != 1)]}"
    if plan is None or plan.steps is None:
        return f"{passes} over the rows"
    return f"{plan.steps:,} steps, {passes} over {plan.question.rows:,} rows"


def roughly(seconds: float) -> str:
    """Seconds as an estimate is told: "40 s", "2 min", "3.5 h"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
