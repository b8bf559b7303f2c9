"""How long rows are, as a histogram with the sequence length drawn in: inline SVG that follows the theme and needs no script.

Knows edges and counts, nothing of rows or widgets.
"""

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise

from ...charts import COLOURS, ticks

WIDTH, HEIGHT = 460, 200  # in its own units; it scales with the page
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 22, 36  # margins around the plotting area
LEAST = 2  # height of a bar: a single row among a million is seen too
LABELS = 9  # of the lengths below, at most


def svg(edges: Sequence[int], counts: Sequence[int], max_length: int) -> str:
    """Bars for the rows with more tokens than one edge and at most the next, `(bins + 1,)` and `(bins,)`.

    The axis is logarithmic. Bars behind `max_length`, in which rows are cut, have another colour and an outline.
    """
    edges, counts = [int(edge) for edge in edges], [int(count) for count in counts]
    last = max(edges[-1], max_length)
    first = min(max(1, edges[0]), max_length)
    marks = ticks(0, max(counts))
    across = (WIDTH - LEFT - RIGHT) / max(math.log2(last / first), 1)
    up = (HEIGHT - TOP - BOTTOM) / marks[-1]

    def x(length: int) -> float:
        return LEFT + math.log2(max(length, first) / first) * across

    def y(count: float) -> float:
        return HEIGHT - BOTTOM - count * up

    parts = [_level(mark, y(mark)) for mark in marks if mark == int(mark)]
    for (low, high), count in zip(pairwise(edges), counts, strict=True):
        if count:
            top = min(y(count), HEIGHT - BOTTOM - LEAST)
            box = (x(low), top, x(high) - x(low), HEIGHT - BOTTOM - top)
            parts.append(_bar(box, low, high, count, cut=low >= max_length))
    parts += [
        _text(x(length), HEIGHT - BOTTOM + 14, f"{length:,}") for length in _powers(first, last)
    ]
    parts.append(_text((WIDTH + LEFT) / 2, HEIGHT - 6, "tokens of a row"))
    parts.append(_limit(x(max_length), max_length))
    spoken = _spoken(edges, counts, max_length)
    return (
        f'<svg class="wb-lengths" viewBox="0 0 {WIDTH} {HEIGHT}" style="width:100%;max-width:640px;display:block" '
        f'role="img" aria-label="{escape(spoken)}">{"".join(parts)}</svg>'
    )


def _spoken(edges: list[int], counts: list[int], max_length: int) -> str:
    most = counts.index(max(counts))
    return (
        f"Histogram of the rows' lengths: {sum(counts):,} rows of up to {edges[-1]:,} tokens, most of them"
        f" {edges[most] + 1:,} to {edges[most + 1]:,} long; the sequence length is {max_length:,}."
    )


def _bar(box: tuple[float, ...], low: int, high: int, count: int, *, cut: bool) -> str:
    left, top, width, height = box
    colour = COLOURS[1 if cut else 0]
    rows = f"{count:,} row{'' if count == 1 else 's'}"
    outline = f'stroke="{colour}" stroke-dasharray="3 2"' if cut else ""
    return (
        f'<rect x="{left + 0.5:.1f}" y="{top:.1f}" width="{max(width - 1, 1):.1f}" height="{height:.1f}" '
        f'fill="{colour}" fill-opacity="{0.35 if cut else 0.8}" {outline}>'
        f"<title>{low + 1:,} to {high:,} tokens: {rows}{', cut' if cut else ''}</title></rect>"
    )


def _level(mark: float, y: float) -> str:
    line = f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" opacity=".15"/>'
    return line + _text(LEFT - 6, y + 4, f"{mark:,.0f}", "end")


def _limit(x: float, max_length: int) -> str:
    """The sequence length as a line with its name above, which keeps inside the picture."""
    anchor = "end" if x > WIDTH * 0.7 else "start" if x < WIDTH * 0.3 else "middle"
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4}" y2="{HEIGHT - BOTTOM}" stroke="currentColor" '
        'stroke-width="1.5" stroke-dasharray="5 3"/>'
        + _text(x, TOP - 9, f"sequence length {max_length:,}", anchor)
    )


def _powers(first: int, last: int) -> list[int]:
    """Powers of two from `first` to `last`, LABELS of them at most."""
    powers = [2**n for n in range(math.ceil(math.log2(first)), math.floor(math.log2(last)) + 1)]
    return powers[:: -(-len(powers) // LABELS)] if powers else []


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="11" text-anchor="{anchor}" fill="currentColor" '
        f'opacity=".8">{escape(text)}</text>'
    )
