"""Two backends side by side in words, as a table for a terminal, and as one for a notebook.

Knows no runs: it shows a TwoBackends.
"""

from html import escape
from typing import TYPE_CHECKING

from ..summary import size

if TYPE_CHECKING:
    from .two_backends import Side, TwoBackends

BORDER = "1px solid var(--jp-border-color2, #9e9e9e88)"
MUTED = "color:var(--jp-ui-font-color2, #757575)"
CELL = "padding:3px 14px 3px 0;text-align:left;vertical-align:top;font-variant-numeric:tabular-nums"
NAMES = {"unsloth": "Unsloth", "peft": "PEFT"}
TITLES = ("", "first loss", "last loss", "held out", "a step", "tokens/s", "peak memory")


def where(found: "TwoBackends") -> str:
    """The model, and on what it was measured and when."""
    machine = found.machine
    place = machine.get("card") or "a CPU, without a GPU"
    return f"{found.model}, measured on {place}, {machine['precision']}, {machine['date']}."


def verdict(found: "TwoBackends") -> str:
    """How far the losses are apart, and whether that is within the tolerance."""
    if found.difference is None:
        return f"Only {NAMES[found.sides[0].backend]} ran, so there is nothing to compare with."
    what = (
        "The largest difference of a step's loss"
        if found.exact
        else "The difference of the mean losses"
    )
    within = "within" if found.agree else "more than"
    steps = len(found.differences)
    return f"{what} over {steps:,} steps is {found.difference:.2g} of it, {within} the tolerance of {found.tolerance:g}."  # fmt: skip


def versions(found: "TwoBackends") -> str:
    """What it was measured with."""
    told = found.machine.get("versions", {})
    return "With " + ", ".join(f"{name} {number}" for name, number in told.items()) + "."


def text(found: "TwoBackends") -> str:
    """All of it for a terminal."""
    rows = [TITLES, *map(_cells, found.sides)]
    kept = [n for n in range(len(TITLES)) if n == 0 or any(row[n] for row in rows[1:])]
    rows = [tuple(row[n] or "not told" for n in kept) if row is not TITLES else tuple(row[n] for n in kept) for row in rows]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([where(found), verdict(found), "", *table, "", *found.notes, versions(found)])


def html(found: "TwoBackends") -> str:
    """The same for a notebook: safe to show, without script."""
    rows = list(map(_cells, found.sides))
    kept = [n for n in range(1, len(TITLES)) if any(row[n] for row in rows)]
    head = "".join(
        f'<th scope="col" style="{CELL};border-bottom:{BORDER}">{TITLES[n]}</th>'
        for n in (0, *kept)
    )
    body = "".join(
        f'<tr><th scope="row" style="{CELL}">{escape(row[0])}</th>'
        + "".join(f'<td style="{CELL}">{escape(row[n] or "not told")}</td>' for n in kept)
        + "</tr>"
        for row in rows
    )
    small = "".join(
        f'<div style="font-size:12px;{MUTED}">{escape(line)}</div>'
        for line in (*found.notes, versions(found))
    )
    style = "border-collapse:collapse;margin:6px 0;line-height:1.4;color:inherit;font-size:13px"
    return (
        f'<div class="wb-backends" style="line-height:1.5;max-width:900px;overflow-x:auto">'
        f'<div style="{MUTED}">{escape(where(found))}</div><b>{escape(verdict(found))}</b>'
        f'<table style="{style}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{small}</div>'
    )


def _cells(side: "Side") -> tuple[str, ...]:
    """A row of the table; "" for what was not measured."""
    seconds, speed = side.step_seconds, side.tokens_per_second
    return (
        NAMES[side.backend],
        f"{side.losses[0]:.4g}",
        f"{side.losses[-1]:.4g}",
        "" if side.heldout_loss is None else f"{side.heldout_loss:.4g}",
        "" if seconds is None else f"{seconds:.2g} s",
        "" if speed is None else f"{speed:,.0f}",
        "" if side.peak_bytes is None else size(side.peak_bytes),
    )
