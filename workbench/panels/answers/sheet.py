"""The sheet of answers: a row for each of the recipe's prompts, a column for each checkpoint, what changed marked.

Shows the answers of a History. Asks nothing.
"""

from collections.abc import Mapping, Sequence
from typing import get_args

import ipywidgets as widgets

from ... import answers
from ...answers import FEW, Column, Columns, Prompt, Sample
from ...events import History
from ...problems import Problem, RunError
from ...run import Run
from ...summary import exact_match
from .. import pages
from ..banner import Banner, guarded, status_html
from ..buttons import button
from ..controls import described
from . import quoted
from .samples import unasked

IN_TEXT = 160  # characters of an answer where there is only text
_CHOICES = {
    "spread": f"first to last ({FEW})",
    "all": "all",
    "ends": "first and last",
    "newest": f"the newest {FEW}",
}
_MARKING = "Words that differ from the column before are marked."
_SURFACE = "background:var(--colab-primary-surface-color, var(--jp-layout-color1, transparent))"
_BOX = f"overflow:auto;max-height:34em;margin:4px 0;border-top:{pages.BORDER};border-bottom:{pages.BORDER}"
_HEAD = (
    f"text-align:left;padding:4px 10px;position:sticky;top:0;z-index:1;{_SURFACE};font-weight:600"
)
_CELL = (
    f"text-align:left;vertical-align:top;padding:5px 10px;border-top:{pages.BORDER};"
    "white-space:pre-wrap;overflow-wrap:anywhere;min-width:130px;font-weight:normal"
)
_NONE = f'<i style="{pages.MUTED}">not asked</i>'

#: Cells that were drawn before, by the answer before and the answer: comparing words takes time.
Drawn = dict[tuple[int, int], str]


class SampleSheet(widgets.VBox):
    """The answers at each checkpoint; `columns` and `first` (the first prompt shown, from 1) are what its controls set."""

    def __init__(self, banner: Banner | None = None) -> None:
        """`banner` is where trouble is told; without one the sheet has its own."""
        self.first = 1
        self._history: History | None = None
        self._seen: tuple[object, ...] = ()
        self._taken = 0
        self._drawn: Drawn = {}
        self.banner = banner or Banner()
        self._make_controls()
        self._about, self._code, self._table = (widgets.HTML() for _ in range(3))
        wrap = widgets.Layout(flex_flow="row wrap", align_items="center")
        self._controls = widgets.HBox([self.columns, self._pages, self._code], layout=wrap)
        own = [] if banner else [self.banner]
        super().__init__([*own, self._about, self._table, self._controls])
        self.add_class("wb-samples")
        self._draw()

    def follow(self, history: History) -> None:
        """Shows the answers of a run; draws only when there are new ones, or a new score, or another adapter is kept."""
        if history is not self._history:
            self._history, self._taken, self._drawn = history, 0, {}
        new = history.samples[self._taken :]
        self._taken += len(new)
        seen = (len(history.scores), answers.kept(history), history.over)
        if seen != self._seen or any(answers.placed(sample["sample"]) for sample in new):
            self._seen = seen
            self._draw()

    def _make_controls(self) -> None:
        self.columns = described(
            widgets.Dropdown,
            "Columns",
            "Which checkpoints stand side by side: many are hard to compare",
            "sheet-columns",
            options=[(says, choice) for choice, says in _CHOICES.items()],
        )
        self.columns.style.description_width = "60px"
        self.previous = button("", "The prompts before these", "arrow-left", "sheet-previous")
        self.next = button("", "The prompts after these", "arrow-right", "sheet-next")
        self.previous.description, self.next.description = "Earlier prompts", "Later prompts"
        self._place = widgets.HTML()
        self._pages = widgets.HBox(
            [self.previous, self._place, self.next],
            layout=widgets.Layout(flex_flow="row wrap", align_items="center"),
        )
        self.columns.observe(guarded(self.banner, self._draw), names="value")
        self.previous.on_click(guarded(self.banner, lambda: self._turn(-FEW)))
        self.next.on_click(guarded(self.banner, lambda: self._turn(FEW)))

    def _turn(self, by: int) -> None:
        self.first = max(1, self.first + by)
        self._draw()

    def _draw(self) -> None:
        rows = answers.prompts(self._history) if self._history else []
        page = _from(rows, self.first)
        columns = answers.columns(rows)
        shown = answers.chosen(columns, self.columns.value)
        last = self.first + len(page) - 1
        self._about.value = _heading(self._history, columns, shown)
        before = self._drawn
        self._drawn = {}  # what is not shown any more is let go
        self._table.value = _table(page, shown, before, self._drawn)
        self._controls.layout.display = "" if rows else "none"
        self._pages.layout.display = "" if len(rows) > FEW else "none"
        self.previous.disabled, self.next.disabled = self.first == 1, last >= len(rows)
        where = f"prompts {self.first:,} to {last:,} of {len(rows):,}"
        self._place.value = f'<div style="margin:0 6px">{status_html(where)}</div>'
        call = f'wb.sample_sheet(run, columns="{self.columns.value}", first={self.first})'
        self._code.value = pages.code(call)


def sheet_page(run: Run, *, columns: Columns = "spread", first: int = 1) -> pages.Page:
    """The run's answers at each checkpoint as a page that stays in a saved notebook: five prompts from the `first` on.

    `columns` is spread (first, last and some between), all, ends or newest. Raises RunError for anything else.
    """
    run.refresh()
    if columns not in get_args(Columns):
        cure = f"Give {', '.join(get_args(Columns))}."
        raise RunError([Problem("columns", f"columns is {columns!r}.", cure)])
    rows = answers.prompts(run.history)
    page, all_columns = _from(rows, first), answers.columns(rows)
    shown = answers.chosen(all_columns, columns)
    html = _heading(run.history, all_columns, shown) + _table(page, shown, {}, {})
    return pages.Page(html, _text(page, shown))


def as_text(history: History, columns: Columns = "ends") -> str:
    """The answers to the first prompts, short, as lines of text."""
    rows = answers.prompts(history)
    return _text(_from(rows, 1), answers.chosen(answers.columns(rows), columns))


def _from(rows: Sequence[Prompt], first: int) -> Sequence[Prompt]:
    return rows[max(0, min(first, len(rows)) - 1) :][:FEW]


def _heading(history: History | None, columns: Sequence[Column], shown: Sequence[Column]) -> str:
    if history is None or not columns:
        return pages.heading("Answers", "none yet")
    count = len({column.step for column in columns})
    some = (
        f", {len(shown):,} columns of {len(columns):,} shown" if len(shown) < len(columns) else ""
    )
    said = f"asked at {count:,} step{'s'[: count > 1]}{some}."
    marking = _MARKING if len(shown) > 1 else ""
    steps = {
        column.step if column.kept is None else column.kept for column in columns if column.adapter
    }
    parts = (said, _scored(history), marking, unasked(history, steps))
    return pages.heading("Answers", " ".join(filter(None, parts)))


def _scored(history: History) -> str:
    """How many held-out answers were exactly right before and after training; "" where none was scored."""
    kept, parts = answers.kept(history), []
    for adapter in (False, True):
        if score := exact_match(history, adapter=adapter):
            step = kept.behind(score) if kept else None
            when = "after" if adapter else "before"
            own = "" if step is None else f" (step {step:,}, kept)"
            parts.append(f"{score['correct']:,} of {score['rows']:,} {when}{own}")
    return f"Exact match {', '.join(parts)}." if parts else ""


def _table(
    rows: Sequence[Prompt], columns: Sequence[Column], before: Mapping[tuple[int, int], str],
    drawn: Drawn,
) -> str:  # fmt: skip
    """The table; cells that are in `before` are taken from there, and all of them are left in `drawn`."""
    if not rows:
        return ""
    titles = ["Asked", *(column.title for column in columns)]
    head = "".join(f'<th scope="col" style="{_HEAD}">{title}</th>' for title in titles)
    body = "".join(f"<tr>{_row(prompt, columns, before, drawn)}</tr>" for prompt in rows)
    table = f'<table style="border-collapse:collapse;width:100%;line-height:1.45"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    about = 'role="region" aria-label="Answers at each checkpoint" tabindex="0"'
    return f'<div class="wb-sheet" {about} style="{_BOX}">{table}</div>'


def _row(
    prompt: Prompt, columns: Sequence[Column], before: Mapping[tuple[int, int], str], drawn: Drawn
) -> str:
    cells = [f'<th scope="row" style="{_CELL}">{_question(prompt)}</th>']
    previous: Sample | None = None
    for column in columns:
        sample = prompt.answers.get(column)
        if sample is None:
            cells.append(f'<td style="{_CELL}">{_NONE}</td>')
            continue
        key = (id(previous), id(sample))
        drawn[key] = before.get(key) or _answer(previous, sample)
        cells.append(f'<td style="{_CELL}">{drawn[key]}</td>')
        previous = sample
    return "".join(cells)


def _question(prompt: Prompt) -> str:
    asked = quoted.html(prompt.asked)
    if prompt.expected is None:
        return asked
    return f'{asked}<div style="{pages.MUTED};margin-top:4px">expected: {quoted.html(prompt.expected)}</div>'


def _answer(before: Sample | None, sample: Sample) -> str:
    if before is None:
        text = quoted.html(sample["text"])
    else:
        _, text = quoted.marked(before["text"], sample["text"])
    return text + quoted.verdict(sample, crossed=False)


def _text(rows: Sequence[Prompt], columns: Sequence[Column]) -> str:
    lines = []
    for prompt in rows:
        expected = "" if prompt.expected is None else f" (expected: {_line(prompt.expected)})"
        lines.append(f"{prompt.number + 1}. {_line(prompt.asked)}{expected}")
        for column in columns:
            sample = prompt.answers.get(column)
            if sample is not None:
                lines.append(f"   {column.title}: {_line(sample['text'])}{_told(sample)}")
    return "\n".join(lines) or "No prompt was answered yet."


def _line(text: str) -> str:
    head = answers.shown(text, IN_TEXT)
    return " ".join(head.text.split()) + ("\N{HORIZONTAL ELLIPSIS}" if head.more else "")


def _told(sample: Sample) -> str:
    told = ["exact"] if answers.is_expected(sample) else []
    told += [flag.text for flag in answers.flags(sample)]
    return f" [{', '.join(told)}]" if told else ""
