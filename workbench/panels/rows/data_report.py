"""The panel that shows what is wrong with rows, and writes them anew with the cures that are ticked.

Never changes the file that it looks at. The line of Python below the boxes does what the button does.
"""

import json
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from ... import looking
from ...data.clean import CURES, Cleaned, clean
from ...data.findings import Finding
from ...data.report import Report
from ...recipe import Recipe
from .. import pages, progress
from ..banner import Banner, guarded
from ..buttons import button
from ..controls import described
from ..panel import SinglePanel
from . import report_page

LEFT_TO_THE_OWNER = ("drop_cut",)  # not ticked at first: whether a long row is worth its cut end


class DataReport(SinglePanel):
    """`panel.report` is the report, `panel.cures` what is ticked, `panel.clean()` does what the button does.

    `panel.cleaned` is what that did, None before.
    """

    def __init__(self, recipe: Recipe, *, to: str | Path = "clean.jsonl") -> None:
        """`to` is the new file. Raises DataError when the rows cannot be looked at at all."""
        with progress.bar("Looking at the rows") as tell:
            self.report = looking.report_on(recipe, progress=tell)
        self.cleaned: Cleaned | None = None
        self.banner = Banner()
        self.boxes = {name: _box(name, found) for name, found in by_cure(self.report).items()}
        says = "The new file, .jsonl; the one that was read stays as it is"
        self.to = described(widgets.Text, "New file", says, "clean-to", value=str(to))
        self.to.style.description_width, self.to.layout.width = "70px", "420px"
        self.button = button(
            "Write cleaned file", "wb.data.clean(...): applies what is ticked", "check", "clean",
            "primary",
        )  # fmt: skip
        self._code, self._done = widgets.HTML(), widgets.HTML()
        super().__init__(self._rows())
        self.add_class("wb-data-report")
        refresh = guarded(self.banner, self._refresh)
        for made in (*self.boxes.values(), self.to):
            made.observe(refresh, names="value")
        self.button.on_click(guarded(self.banner, self.clean))
        self._refresh()

    @property
    def cures(self) -> list[str]:
        """The names of the cures that are ticked."""
        return [name for name, box in self.boxes.items() if box.value]

    def clean(self) -> Cleaned:
        """Writes the new file and shows what changed. Raises DataError when that cannot be done."""
        self._done.value = ""
        self.cleaned = clean(self.report, self.cures, to=self.to.value, replace=True)
        self.banner.clear()
        self._done.value = cleaned_html(self.cleaned)
        return self.cleaned

    def bundle(self) -> dict[str, Any]:
        """What a cell's output holds; without its kernel a saved notebook shows the report."""
        return super().bundle() | {"text/html": report_page.html(self.report)}

    def __repr__(self) -> str:
        return f"{self.report}\n\nThe panel needs its kernel: run this cell again."

    def _refresh(self) -> None:
        self.button.disabled = not self.cures
        cures, to = json.dumps(self.cures), json.dumps(self.to.value, ensure_ascii=False)
        self._code.value = pages.code(f"wb.data.clean(report, {cures}, to={to}, replace=True)")

    def _rows(self) -> list[widgets.Widget]:
        shown = widgets.HTML(report_page.html(self.report))
        if not self.boxes:
            return [shown, self.banner]
        title = widgets.HTML(pages.heading("Cures", "of what was found; tick what you want"))
        layout = {"flex_flow": "row wrap", "align_items": "center"}
        boxes = widgets.HBox(list(self.boxes.values()), layout=widgets.Layout(**layout))
        bar = widgets.HBox([self.to, self.button], layout=widgets.Layout(**layout))
        return [shown, title, boxes, bar, self._code, self.banner, self._done]


def by_cure(report: Report) -> dict[str, list[Finding]]:
    """The cures that `clean` has for the findings, in the order in which it applies them."""
    found = {name: [f for f in report.findings if f.remedy == name] for name in CURES}
    return {name: findings for name, findings in found.items() if findings}


def cleaned_html(cleaned: Cleaned) -> str:
    """What cleaning did, cure by cure, with examples of what changed."""
    fact = f"{cleaned.before:,} rows looked at, {cleaned.after:,} are in {cleaned.path}."
    rows = []
    for each in cleaned.applied:
        done = f"{each.rows:,} {'dropped' if each.dropped else 'changed'}"
        more = each.rows - len(each.names)
        which = "\n".join(each.examples) or ", ".join(each.names)
        which += f" and {more:,} more" if more > 0 else ""
        cells = (f'<span style="white-space:nowrap">{cell}</span>' for cell in (each.cure, done))
        rows.append((*cells, escape(which)))
    table = pages.table(("Cure", "Rows", "Which, and what changed in them"), rows)
    return f'<div class="wb-cleaned" role="status">{pages.message("ok", fact)}{table}</div>'


def _box(name: str, found: list[Finding]) -> widgets.Checkbox:
    count = sum(finding.count for finding in found)
    label = f"{name.replace('_', ' ')} ({count:,})"
    says = " ".join(f"{finding.fact} {finding.cure}" for finding in found)[:400]
    on = name not in LEFT_TO_THE_OWNER and any(finding.level != "hint" for finding in found)
    box = described(widgets.Checkbox, label, says, f"cure-{name}", value=on, indent=False)
    box.layout.width = "220px"
    return box
