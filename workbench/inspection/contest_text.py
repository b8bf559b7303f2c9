"""A contest in words: a verdict that the seeds' spread allows, a table for a terminal, and one for a notebook.

Knows no training: it shows a Contest.
"""

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from ..summary import duration, size

if TYPE_CHECKING:
    from .contest import Contest, Spread

BORDER = "1px solid var(--jp-border-color2, #9e9e9e88)"
MUTED = "color:var(--jp-ui-font-color2, #757575)"
CELL = "padding:3px 14px 3px 0;text-align:left;vertical-align:top;font-variant-numeric:tabular-nums"


class Column(NamedTuple):
    """A column of the table: its title, the figure, and how that is said."""

    title: str
    figure: str
    words: Callable[[float], str]


def _peak(count: float) -> str:
    """Bytes with three digits, so that a tiny model's differences show."""
    return f"{count / 2**20:,.0f} MiB" if count < 2**30 else size(count)


COLUMNS = (
    Column("held-out loss", "heldout_loss", lambda loss: f"{loss:.3g}"),
    Column("exact match", "exact", lambda share: f"{share:.0%}"),
    Column("peak memory", "peak_bytes", _peak),
    Column("tokens/s", "tokens_per_second", lambda speed: f"{speed:,.0f}"),
    Column("numbers trained", "trainable", lambda count: f"{count:,.0f}"),
    Column("to keep", "kept_bytes", size),
)


def headline(contest: "Contest") -> str:
    """How much was compared, and on what."""
    seeds, entries = len(contest.seeds), len(contest.entries)
    machine = contest.machine
    return (
        f"{entries} method{'s'[: entries > 1]}, {seeds} seed{'s'[: seeds > 1]}, {contest.steps:,} steps each, "
        f"{contest.rows:,} held-out rows; {machine.get('card')}, {machine.get('precision')}, {machine.get('date')}."
    )


def verdict(contest: "Contest") -> str:
    """The held-out loss of each entry beside the first one's: what the seeds' spread allows to say, and no more."""
    first, *others = contest.entries
    said = (_compared(contest, first, other) for other in others)
    return " ".join(sentence[:1].upper() + sentence[1:] for sentence in said)


def _compared(contest: "Contest", one: str, other: str) -> str:
    both = {name: contest.spread(name, "heldout_loss") for name in (one, other)}
    if lacking := [name for name, spread in both.items() if spread is None]:
        return f"{' and '.join(lacking)}: no held-out loss was measured, so {one} and {other} are not compared."
    a, b = (both[name] for name in (one, other))
    by = f"{abs(a.mean - b.mean):.2g} nats per token"
    if min(len([r for r in contest.of(name) if r.heldout_loss is not None]) for name in both) < 2:
        return f"{one} and {other} differ by {by}; with one seed nobody can say whether that is chance."
    if a.low > b.high or b.low > a.high:
        low, high = (one, other) if a.mean < b.mean else (other, one)
        means = f"{both[low].mean:.2g} against {both[high].mean:.2g}"
        return f"{low} ends lower than {high} whatever the seed: {means} nats per token."
    if abs(a.mean - b.mean) < min(a.width, b.width):
        widths = f"{a.width:.2g} and {b.width:.2g}"
        return f"{one} and {other} differ by {by}, less than their seeds do ({widths})."
    return f"{one} and {other} differ by {by} on average, and their ranges overlap: more seeds would have to tell."


def text(contest: "Contest") -> str:
    """The contest for a terminal."""
    rows = [("", *(column.title for column in COLUMNS), "training")]
    for name in contest.entries:
        cells = [_ranged(contest.spread(name, c.figure), c.words) for c in COLUMNS]
        rows.append((name, *cells, _seconds(contest, name)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([headline(contest), "", *table, "", *_sentences(contest)])


def html(contest: "Contest") -> str:
    """The same for a notebook: safe to show, without script."""
    titles = "".join(
        f'<th scope="col" style="{CELL};border-bottom:{BORDER}">{title}</th>'
        for title in ("", *(column.title for column in COLUMNS), "training")
    )
    rows = []
    for name in contest.entries:
        cells = [_stacked(contest.spread(name, c.figure), c.words) for c in COLUMNS]
        cells.append(escape(_seconds(contest, name)))
        row = [f'<td style="{CELL}">{cell}</td>' for cell in cells]
        rows.append(f'<tr><th scope="row" style="{CELL}">{escape(name)}</th>{"".join(row)}</tr>')
    said = "".join(
        f'<div style="margin:3px 0">{escape(line)}</div>' for line in _sentences(contest)
    )
    style = "border-collapse:collapse;margin:6px 0;line-height:1.4;color:inherit;font-size:13px"
    return (
        f'<div class="wb-contest" style="line-height:1.5;max-width:900px;overflow-x:auto">'
        f'<div style="{MUTED}">{escape(headline(contest))}</div>'
        f'<table style="{style}"><thead><tr>{titles}</tr></thead><tbody>{"".join(rows)}</tbody></table>{said}</div>'
    )


def _sentences(contest: "Contest") -> list[str]:
    """The verdict, what ended early, what to mind, and what the figures are."""
    short = [f"{one.entry}, seed {one.seed}: {one.why}" for one in contest.results if one.why]
    several = len(contest.seeds) > 1
    seeds = "Means over the seeds, with the lowest and highest." if several else ""
    return [line for line in (contest.verdict, *short, *contest.notes, seeds) if line]


def _ranged(spread: "Spread | None", words: Callable[[float], str]) -> str:
    """A mean and its range: "0.066 (0.061 to 0.070)"; the mean alone where all seeds agree."""
    if spread is None:
        return "not measured"
    mean, low, high = map(words, spread)
    return mean if low == high else f"{mean} ({low} to {high})"


def _stacked(spread: "Spread | None", words: Callable[[float], str]) -> str:
    """The same in a cell of HTML, the range below the mean."""
    mean, _, rest = _ranged(spread, words).partition(" (")
    if spread is None or not rest:
        return escape(_ranged(spread, words))
    return f'{escape(mean)}<div style="font-size:11px;{MUTED}">{escape(rest[:-1])}</div>'


def _seconds(contest: "Contest", name: str) -> str:
    spread: Any = contest.spread(name, "seconds")
    return duration(spread.mean) if spread else "not trained"
