"""A report as calm, aligned text for terminals and notebooks. Knows the report's figures, and counts nothing itself."""

import textwrap
from typing import TYPE_CHECKING

from .figures import Figures, histogram

if TYPE_CHECKING:
    from .batching import Batching
    from .report import Report

WIDTH = 88  # columns
BAR = 32  # columns of the longest bar
SIGNS = {"stop": "✗", "warning": "!", "hint": "·"}
COUNTS = {"stop": "must be mended", "warning": "should be looked at", "hint": "may be meant"}
ORDERS = {
    "padded": "in random order",
    "grouped": "beside rows of like length",
    "packed": "packed whole",
    "wrapped": "running on",
}


def text(report: "Report") -> str:
    """The whole report."""
    parts = [_head(report), f"{_figures(report)}\n{_wrapped(report.split, '  ')}"]
    if report.figures and report.rows:
        run_on = running_on(report)
        parts.append(_lengths(report.figures, cut=not run_on))
        parts += [] if run_on else [_cuts(report.figures)]
    elif report.rows:
        parts.append(_uncounted(report))
    if report.batching:
        parts.append(_batching(report.batching))
    return "\n\n".join([*parts, _findings(report)])


def share(part: int, whole: int) -> str:
    """A share in per cent that is never rounded to nothing or to all."""
    if not part or not whole:
        return "0 %"
    percent = 100 * part / whole
    if part == whole or 0.5 <= percent <= 99.5:
        return f"{percent:.0f} %"
    return "under 1 %" if percent < 1 else "over 99 %"


def _head(report: "Report") -> str:
    why = report.why.rstrip(".")
    told = [_wrapped(line, "  ") for line in of_files(report)]
    if len(told) > 1:
        return "\n".join([f"{report.name}: a folder", *told])
    return "\n".join([_wrapped(f"{report.name}: {report.shape}, because {why}."), *told])


def of_files(report: "Report") -> list[str]:
    """What each file of a folder was read as, and what in it was not read; nothing for a single file."""
    files, shapes = (getattr(report.source, name, ()) for name in ("files", "shapes"))
    told = []
    if len(files) > 1:
        told = [
            f"{file}: {shape.name}, because {shape.why.rstrip('.')}."
            if shape
            else f"{file}: no row could be read."
            for file, shape in zip(files, shapes, strict=True)
        ]
    if ignored := getattr(report.source, "ignored", ()):
        told.append(f"Not read: {', '.join(map(str, ignored))}.")
    return told


def _figures(report: "Report") -> str:
    unread = report.records - report.rows
    lines = [
        ("rows", report.rows, f"{unread:,} more cannot be read" if unread else ""),
        ("turns", report.turns, ""),
        ("trained rows", report.train_rows, left_out(report)),
        ("held-out rows", report.heldout_rows, _reserve(report.reserve_rows)),
    ]
    if counted := report.figures:
        lines += [
            ("tokens", counted.tokens, ""),
            ("trained tokens", counted.trained_tokens, of_which_trained(report, counted)),
        ]
    lines.append(
        (
            "steps per epoch",
            report.steps,
            f"each learns from {report.asked.effective_batch:,} rows"
            if not report.batching or report.batching.choice in ("padded", "grouped")
            else f"each learns from {report.asked.effective_batch:,} sequences",
        )
    )
    wide = max(len(f"{number:,}") for _, number, _ in lines)
    return "\n".join(
        f"  {name:<15}  {f'{number:,}':>{wide}}  {note}".rstrip() for name, number, note in lines
    )


def left_out(report: "Report") -> str:
    """How many of the trained rows have nothing to learn, in words; empty for none."""
    if report.figures is None or running_on(report):
        return ""
    nothing = int((report.figures.kept[report.sides.train] == 0).sum())
    return f"less {nothing:,} that have nothing to learn" if nothing else ""


def of_which_trained(report: "Report", counted: Figures) -> str:
    """The share of all tokens that is learned, and what cutting leaves of it, in words."""
    said = f"{share(counted.trained_tokens, counted.tokens)} of them"
    lost = int(counted.lost.sum())
    if not lost or running_on(report):
        return said
    return f"{said}; {counted.trained_tokens - lost:,} after cutting"


def running_on(report: "Report") -> bool:
    """Whether rows go on in the next sequence, so that none is cut."""
    return report.batching is not None and report.batching.choice == "wrapped"


def _reserve(rows: int) -> str:
    return f"{rows:,} more are kept apart, unused" if rows else ""


def _uncounted(report: "Report") -> str:
    if report.asked.tokenizer is None:
        return _wrapped(
            "Tokens were not counted: that needs the model's tokenizer."
            " Give it with tokenizer=..., or check the recipe's data with its model."
        )
    return "Tokens were not counted: the chat template cannot write these rows."


def _lengths(counted: Figures, *, cut: bool) -> str:
    """The histogram, with a line at the sequence length."""
    edges, counts = histogram(counted.lengths, counted.max_length)
    top, marked = int(counts.max()), False
    wide = len(f"{int(edges[-1]):,}")
    lines = ["Tokens of a row"]
    what = "rows are cut here, at" if cut else "rows go on in the next sequence, of"
    rule = f"  {'─' * (wide + 8)} {what} {counted.max_length:,} tokens"
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        if not marked and low >= counted.max_length:
            lines.append(rule)
            marked = True
        bar = "█" * (int(count) * BAR // top) or ("▏" if count else "")
        lines.append(f"  up to {int(high):>{wide},}  {bar:<{BAR}} {int(count):,}".rstrip())
    return "\n".join(lines if marked else [*lines, rule])


def _cuts(counted: Figures) -> str:
    rows = [("sequence length", "rows cut", "tokens lost", "learned lost", "nothing left")]
    for cut in counted.cuts:
        name = f"{cut.length:,}{' *' if cut.length == counted.max_length else '  '}"
        lost = share(cut.trained_lost, counted.trained_tokens)
        tokens = share(cut.tokens_lost, counted.tokens)
        rows.append((name, f"{cut.rows:,}", tokens, lost, f"{cut.unanswered:,}"))
    return "What cutting costs (* is the length that is set)\n" + _table(rows)


def _batching(planned: "Batching") -> str:
    rows = [("batches", "left empty", "rows a step", "steps")]
    for name, waste in planned.waste.items():
        chosen = " *" if name == planned.choice else "  "
        learned, steps = planned.rows_per_step[name], planned.steps_per_epoch[name]
        empty = share(round(1e6 * waste), 10**6)
        rows.append((f"{ORDERS[name]}{chosen}", empty, f"{learned:,.0f}", f"{steps:,}"))
    return f"Batches (* is the choice)\n{_table(rows)}\n{_wrapped(planned.why, '  ')}"


def _findings(report: "Report") -> str:
    if not report.findings:
        return "Nothing was found that is worth a look."
    levels = [found.level for found in report.findings]
    counts = ", ".join(
        f"{levels.count(level)} {words}" for level, words in COUNTS.items() if level in levels
    )
    parts = [f"Found: {counts}"]
    for found in report.findings:
        parts.append(_wrapped(found.fact, "    ", first=f"  {SIGNS[found.level]} "))
        remedy = f" [{found.remedy}]" if found.remedy else ""
        parts.append(_wrapped(found.cure + remedy, "      "))
    return "\n".join(parts)


def _table(rows: list[tuple[str, ...]]) -> str:
    """Columns aligned: the first to the left, figures to the right."""
    wide = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join(
        "  "
        + "  ".join(
            f"{cell:<{wide[place]}}" if place == 0 else f"{cell:>{wide[place]}}"
            for place, cell in enumerate(row)
        ).rstrip()
        for row in rows
    )


def _wrapped(said: str, indent: str = "", *, first: str | None = None) -> str:
    return textwrap.fill(
        said, WIDTH, initial_indent=indent if first is None else first, subsequent_indent=indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
