"""The report on rows as a page: figures, lengths, what cutting costs, batches, and findings with their cures.

All text of rows is escaped. Knows no widgets, so that it stays readable in a saved notebook; `data_report.py` has the controls.
"""

from collections.abc import Iterable, Sequence
from html import escape

from ... import looking
from ...data.figures import histogram
from ...data.findings import Finding
from ...data.report import Report
from ...data.report_text import ORDERS, left_out, of_files, of_which_trained, running_on, share
from ...recipe import Recipe
from .. import pages, progress
from . import lengths

LEVELS = {"stop": "error", "warning": "warning", "hint": "note"}
_COUNTS = {"stop": "must be mended", "warning": "should be looked at", "hint": "may be meant"}
_SIDE = "flex:1 1 320px;min-width:280px;max-width:640px"


class ReportPage(pages.Page):
    """The whole report as a page, with the `report` itself; its text is `str(report)`."""

    def __init__(self, report: Report) -> None:
        super().__init__(html(report), str(report))
        self.report = report


def show_report(recipe: Recipe) -> ReportPage:
    """Looks at the recipe's rows with its model's tokenizer and shows the report. Raises DataError."""
    with progress.bar("Looking at the rows") as tell:
        return ReportPage(looking.report_on(recipe, progress=tell))


def html(report: Report) -> str:
    """The report as HTML that is safe to show."""
    files = of_files(report)
    about = "a folder" if len(files) > 1 else f"{report.shape}: {report.why.rstrip('.')}."
    told = "".join(f'<div style="{pages.MUTED}">{escape(line)}</div>' for line in files)
    parts = [pages.heading(report.name, about), told, figures_html(report)]
    if report.figures and len(report.figures.lengths):
        parts.append(
            f'<div style="display:flex;flex-wrap:wrap;gap:8px 24px">{_lengths(report)}</div>'
        )
    if report.batching:
        parts.append(_batching(report))
    parts.append(findings_html(report.findings))
    return f'<div class="wb-report">{"".join(parts)}</div>'


def figures_html(report: Report) -> str:
    """The figures, each with its name below it."""
    unread = report.records - report.rows
    shown = [
        ("rows", f"{report.rows:,}", f"{unread:,} more cannot be read" if unread else ""),
        ("trained rows", f"{report.train_rows:,}", left_out(report)),
        ("held-out rows", f"{report.heldout_rows:,}", ""),
        ("turns", f"{report.turns:,}", ""),
    ]
    if counted := report.figures:
        trained = of_which_trained(report, counted)
        shown.append(("tokens", f"{counted.tokens:,}", ""))
        shown.append(("trained tokens", f"{counted.trained_tokens:,}", trained))
    shown.append(("steps per epoch", f"{report.steps:,}", ""))
    boxes = "".join(_figure(*figure) for figure in shown)
    split = f'<div style="{pages.MUTED};line-height:1.45">{escape(report.split)}</div>'
    style = "display:flex;flex-wrap:wrap;gap:4px 28px;margin:6px 0"
    return f'<div class="wb-figures" style="{style}">{boxes}</div>{split}'


def findings_html(findings: Sequence[Finding]) -> str:
    """The findings as messages, the most harmful first; their cures' names are what `clean` takes."""
    if not findings:
        return pages.message("ok", "Nothing was found that is worth a look.")
    levels = [found.level for found in findings]
    counts = [f"{levels.count(n)} {words}" for n, words in _COUNTS.items() if n in levels]
    title = f'<div style="margin-top:8px;line-height:1.6"><b>Found</b>: {", ".join(counts)}</div>'
    return title + "".join(_finding(found) for found in findings)


def _finding(found: Finding) -> str:
    remedy = f" Cure: {found.remedy}." if found.remedy else ""
    return pages.message(LEVELS[found.level], found.fact, found.cure + remedy)


def _figure(name: str, value: str, note: str) -> str:
    below = f"{name}, {note}" if note else name
    return (
        f'<div><div style="font-size:18px;line-height:1.3">{value}</div>'
        f'<div style="{pages.MUTED};line-height:1.3">{escape(below)}</div></div>'
    )


def _lengths(report: Report) -> str:
    counted = report.figures
    picture = lengths.svg(*histogram(counted.lengths), counted.max_length)
    head = ("Sequence length", "Rows cut", "Tokens lost", "Learned lost", "Nothing left")
    rows = []
    for cut in counted.cuts:
        set_here = cut.length == counted.max_length
        cells = (
            f"{cut.length:,}",
            f"{cut.rows:,}",
            share(cut.tokens_lost, counted.tokens),
            share(cut.trained_lost, counted.trained_tokens),
            f"{cut.unanswered:,}",
        )
        rows.append(_chosen(cells, "set") if set_here else cells)
    table = pages.table(head, rows, caption="What cutting costs")
    title = '<div style="line-height:1.6"><b>Lengths</b></div>'
    if running_on(report):  # nothing is cut, so that it costs nothing
        return f'<div style="{_SIDE}">{title}{picture}</div>'
    return f'<div style="{_SIDE}">{title}{picture}</div><div style="{_SIDE}">{table}</div>'


def _batching(report: Report) -> str:
    planned = report.batching
    rows = []
    for name, waste in planned.waste.items():
        cells = (
            f"{name} <span style='{pages.MUTED}'>{escape(ORDERS[name])}</span>",
            share(round(1e6 * waste), 10**6),
            f"{planned.rows_per_step[name]:,.0f}",
            f"{planned.steps_per_epoch[name]:,}",
        )
        rows.append(_chosen(cells, "taken") if name == planned.choice else cells)
    head = ("Batches", "Left empty", "Rows a step", "Steps an epoch")
    table = pages.table(head, rows, caption="How rows come into batches")
    return table + f'<div style="{pages.MUTED};line-height:1.45">{escape(planned.why)}</div>'


def _chosen(cells: Iterable[str], word: str) -> tuple[str, ...]:
    """A table's row that stands out, with the reason in a word."""
    first, *rest = (f"<b>{cell}</b>" for cell in cells)
    mark = f'<span style="color:var(--jp-success-color1, #388e3c)">&#10003; {word}</span>'
    return (f"{first} {mark}", *rest)
