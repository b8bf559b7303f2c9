"""The memory bar of the setup panel: whether the recipe fits, by parts, and what to turn, one click each.

Asks the question that it is given again with each recipe shown; sets nothing itself: a click hands the advice on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import ipywidgets as widgets

from ...memory import plan_bar
from ...memory.advice import Advice
from ...memory.plan import Plan
from ...memory.question import Question
from ...recipe import Recipe
from .. import pages
from ..buttons import button
from ..controls import line
from ..fold import Fold

SHOWN = 4  # pieces of advice
TOGETHER = "Make it fit"


class MemoryBar(widgets.VBox):
    """`plan` is that of the recipe last shown, None where it is not known."""

    def __init__(self, apply: Callable[[dict[str, Any]], Any]) -> None:
        """`apply` is called with the settings of a clicked advice."""
        self.plan: Plan | None = None
        self._question: Question | None = None
        self._why_not, self._apply = "", apply
        self._verdict, self._picture, self._table = (widgets.HTML() for _ in range(3))
        self._rows = [self._advice_row(number) for number in range(SHOWN)]
        self._offered: list[Advice] = []
        self.parts = Fold("All parts", "every part with its bytes", "memory-parts", self._table)
        self.advice = Fold(
            "What would save memory?", "settings to turn, and what each saves", "memory-advice",
            widgets.VBox(),
        )  # fmt: skip
        self._kept = widgets.HTML()
        folds = widgets.HBox(
            [self.parts.button, self.advice.button], layout=widgets.Layout(flex_flow="row wrap")
        )
        shown = [self._verdict, self._picture, folds, self._table, self.advice.body, self._kept]
        super().__init__(shown)
        self._folds = folds
        self.layout.margin = "8px 0 0"
        self.add_class("wb-memory")

    def ask(self, question: Question | None, why_not: str) -> None:
        """Takes this question from here on; `why_not` says why there is none."""
        self._question, self._why_not = question, why_not

    def learn(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Corrects the plans from here on by these lines of `memory.jsonl`."""
        if self._question is not None:
            self._question = replace(self._question, records=records)

    def plan_for(self, recipe: Recipe) -> Plan | None:
        """The plan of a recipe that differs in settings only."""
        return Plan(replace(self._question, recipe=recipe)) if self._question else None

    def show(self, recipe: Recipe, kept: dict[str, Any]) -> Plan | None:
        """Draws the recipe's plan and returns it; `kept` are settings that were advised and have no control."""
        self.plan = self.plan_for(recipe)
        lines = "".join(pages.code(line(name, value), quiet=False) for name, value in kept.items())
        self._kept.value = f"<div>Also set:{lines}</div>" if kept else ""
        if self.plan is None:
            self.say(self._why_not)
            return None
        self._folds.layout.display = ""
        note = f'<div style="{pages.MUTED};font-size:12px;line-height:1.4">{escape(_about_rows(self.plan))}</div>'
        self._verdict.value = f'<div role="status">{plan_bar.heading(self.plan)}</div>'
        self._picture.value = plan_bar.picture(self.plan) + note
        self._table.value = plan_bar.table(self.plan.parts)
        self._offer(self.plan)
        return self.plan

    def say(self, text: str) -> None:
        """Shows a sentence in place of the bar."""
        self._picture.value = ""
        self._folds.layout.display = "none"
        self.parts.open(False)
        self.advice.open(False)
        self._verdict.value = pages.message("note", "The memory is not known.", text)

    def _offer(self, plan: Plan) -> None:
        self._offered = plan.advice[:SHOWN]
        for row, advice in zip(self._rows, self._offered, strict=False):
            made, told = row.children
            made.description, says = in_short(advice, helps=not plan.fits)
            made.tooltip = "; ".join(line(*each) for each in advice.settings.items())
            told.value = f'<div style="line-height:1.35">{escape(says)}</div>'
        shown = self._rows[: len(self._offered)]
        if tuple(shown) != self.advice.body.children:
            self.advice.body.children = shown
        self.advice.button.layout.display = "" if shown else "none"
        if plan.verdict in ("tight", "does not fit"):
            self.advice.open()

    def _advice_row(self, number: int) -> widgets.HBox:
        made = button("", "", "", f"advice-{number}")
        told = widgets.HTML(layout=widgets.Layout(flex="1 1 200px", margin="0 0 0 6px"))
        made.on_click(lambda _: self._apply(self._offered[number].settings))
        layout = widgets.Layout(align_items="center", flex_flow="row wrap", margin="0 0 4px")
        return widgets.HBox([made, told], layout=layout)


def in_short(advice: Advice, *, helps: bool) -> tuple[str, str]:
    """What a button says, and what stands beside it: what the change saves and does, and whether it then fits."""
    change = advice.text.partition(" saves ")[0]
    says = f"saves {plan_bar.short(advice.saves)}; {advice.harm}"
    if change.startswith("Together: "):
        change, says = TOGETHER, f"{change.removeprefix('Together: ').removesuffix('. It')}: {says}"
    elif helps and advice.fits:
        says += "; then it fits"
    return change, says


def _about_rows(plan: Plan) -> str:
    """What the estimate takes the longest row to be, and what could not be told."""
    asked = plan.question
    length = asked.work.length
    if asked.rows is None:
        told = f"The rows were not counted: each is taken to fill {length:,} tokens."
    elif asked.mean is None:
        told = (
            f"{asked.rows:,} training rows, not tokenized: each is taken to fill {length:,} tokens."
        )
    elif asked.longest is None:
        told = f"Not all rows were tokenized: the longest is taken to fill {length:,} tokens."
    else:
        told = f"{asked.rows:,} training rows, the longest with {asked.longest:,} tokens."
        if asked.longest > length:
            told = f"{told.removesuffix('.')}, cut at {length:,}."
    return " ".join([told, *(f"Not known: {one}." for one in asked.estimate.unknown)])
