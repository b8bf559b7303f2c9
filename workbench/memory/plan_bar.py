"""A plan as a bar: what a run holds against what is free, in HTML that follows JupyterLab's theme and holds no script.

Draws what it is given; knows no formulas. `strip` draws any memory: panels show with it what a run held when it ran out.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from .estimate import NAMES

if TYPE_CHECKING:
    from .plan import Plan

GIB, MIB = 2**30, 2**20
#: The parts that a bar shows as one, in its order, and their colours: apart for all kinds of colour blindness, 4.5:1
#: under white letters, and at least 3:1 beside JupyterLab's light and dark pages.
GROUPS = {
    "weights": ("weights", "scales", "kept16", "experts", "embeddings", "head", "norms"),
    "adapter, gradients, optimizer": ("adapters", "gradients", "optimizer"),
    "activations and loss": ("checkpoints", "layer", "workspace", "loss", "activations"),
    "answering": ("answers",),
    "libraries and reserve": ("context", "slack"),
}
COLOURS = ("#0077bb", "#c05500", "#00865f", "#8e5aa8", "#6f6f6f")
LETTERED = 0.14  # share of the bar from which on a segment holds its size as letters
MUTED = "color:var(--jp-ui-font-color2, #757575)"
BORDER = "var(--jp-border-color1, #9e9e9e)"
MARKS = {
    "fits": ("&#10003;", "var(--jp-success-color1, #388e3c)"),
    "tight": ("!", "var(--jp-warn-color1, #e65100)"),
    "does not fit": ("&#10007;", "var(--jp-error-color1, #d32f2f)"),
    None: ("&#8226;", "var(--jp-info-color1, #0288d1)"),
}
_HATCH = (
    "background-image:repeating-linear-gradient(135deg, currentColor 0 1px, transparent 1px 5px);"
    "border:1px dashed currentColor;opacity:.75"
)


class Piece(NamedTuple):
    """A segment of a strip: its name in words, its bytes, its colour."""

    name: str
    size: int
    colour: str


def bar(plan: "Plan") -> str:
    """The verdict in words, the strip with its legend, and all parts to unfold."""
    told = f'<summary style="cursor:pointer;{MUTED}">All parts</summary>'
    details = f"<details>{told}{table(plan.parts)}</details>"
    return f'<div class="wb-memory" style="line-height:1.5">{heading(plan)}{picture(plan)}{details}</div>'


def heading(plan: "Plan") -> str:
    """The verdict with a mark in its colour, and how sure it is."""
    mark, colour = MARKS[plan.verdict]
    return (
        f'<div style="line-height:1.4"><b aria-hidden="true" style="color:{colour}">{mark}</b> '
        f"<b>{escape(verdict(plan))}</b></div>"
        f'<div style="font-size:12px;line-height:1.4;{MUTED}">{escape(certainty(plan))}</div>'
    )


def verdict(plan: "Plan") -> str:
    """In words, with few digits: "Fits: 9.1 of 14.6 GiB, 10.8 to be safe."."""
    if plan.free is None:
        expected, safe = _figures(plan.expected, plan.safe)
        return f"Needs {expected} GiB, {safe} to be safe."
    expected, free, safe = _figures(plan.expected, plan.free, plan.safe)
    word = plan.verdict[:1].upper() + plan.verdict[1:]
    return f"{word}: {expected} of {free} GiB, {safe} to be safe."


def certainty(plan: "Plan") -> str:
    """Where that is, and what the estimate stands on."""
    place = plan.question.place
    where = "" if place is None else place.name if place.on_gpu else "main memory"
    where = f"{where[:1].upper()}{where[1:]}: " if where else ""
    if not plan.measured_runs:
        return f"{where}by formula, nothing measured yet"
    bounds = plan.question.bounds
    below, above = bounds.expected - bounds.low, bounds.safe - bounds.expected
    runs = f"{plan.measured_runs:,} run{'s'[: plan.measured_runs > 1]}"
    return f"{where}\N{MINUS SIGN}{short(below)} / +{short(above)} over {runs}"


def picture(plan: "Plan") -> str:
    """The strip of a plan: the groups, hatched what is added to be safe, and a mark where the memory ends."""
    extra = plan.safe - plan.expected
    legend = [hatched(f"to be safe +{short(extra)}")] if extra > 0 else []
    spoken = f"{verdict(plan)} {certainty(plan)}."
    return strip(groups(plan.parts), safe=plan.safe, free=plan.free, spoken=spoken, legend=legend)


def hatched(text: str) -> tuple[str, str]:
    """A legend's entry for what is hatched."""
    return text, f"{_HATCH};box-sizing:border-box"


def groups(parts: Mapping[str, int]) -> list[Piece]:
    """The groups of parts that take anything; parts of no group that is known come last."""
    known = {name for members in GROUPS.values() for name in members}
    sums = {name: sum(parts.get(part, 0) for part in members) for name, members in GROUPS.items()}
    pieces = [Piece(*each, colour) for each, colour in zip(sums.items(), COLOURS, strict=True)]
    pieces += [
        Piece(name, count, COLOURS[-1]) for name, count in parts.items() if name not in known
    ]
    return [piece for piece in pieces if piece.size > 0]


def strip(
    pieces: Sequence[Piece],
    *,
    spoken: str,
    safe: int = 0,
    free: int | None = None,
    legend: Sequence[tuple[str, str]] = (),
    ends: str = "free",
) -> str:
    """Segments one after the other on a track that ends at `free` bytes, hatched up to `safe`; with its legend.

    `spoken` opens what a screen reader hears; `legend` adds entries, each a text and a style; `ends` is what the size
    of the track is called.
    """
    held = sum(piece.size for piece in pieces)
    end = max(held, safe, (free or 0)) or 1
    share = 100 / (end * (1.02 if free is None or free < end else 1))
    inside = [_track(share * (end if free is None else free))]
    at = 0
    for piece in pieces:
        left, width = share * at, share * piece.size
        hidden = free is not None and left < share * free < left + 100 * LETTERED
        inside.append(_segment(piece, left, width, lettered=not hidden))
        at += piece.size
    if safe > held:
        inside.append(_box(share * held, share * (safe - held), _HATCH))
    if free is not None:
        inside.append(_mark(share * free))
    names = ", ".join(f"{piece.name} {short(piece.size)}" for piece in pieces)
    room = f'<div style="position:relative;height:28px;margin:4px 0 2px">{"".join(inside)}</div>'
    return (
        f'<div class="wb-strip" role="img" aria-label="{escape(f"{spoken} {names}.")}">{room}'
        f"{_scale(free, share, ends)}{_legend(pieces, legend)}</div>"
    )


def table(parts: Mapping[str, int]) -> str:
    """Every part with its bytes and a small bar of its share; a colour tells its group, a line above the group's name."""
    shown = [(name, count) for name, count in parts.items() if count > 0]
    most = max((count for _, count in shown), default=1)
    rows, group = [], ""
    for name, count in shown:
        mine, colour = _group_of(name)
        cell = "padding:1px 10px 1px 0;white-space:nowrap"
        width = f"{max(1.0, 100 * count / most):.1f}%"
        inner = f'<div style="height:9px;width:{width};background:{colour}"></div>'
        if mine != group:
            group = mine
            rows.append(
                f'<tr><th colspan="3" scope="rowgroup" style="text-align:left;font-weight:600;padding:4px 0 0">{escape(mine)}</th></tr>'
            )
        rows.append(
            f'<tr><td style="{cell}">{escape(NAMES.get(name, name))}</td>'
            f'<td style="{cell};text-align:right;font-variant-numeric:tabular-nums">{short(count)}</td>'
            f'<td style="width:100%;min-width:60px" aria-hidden="true">{inner}</td></tr>'
        )
    style = "border-collapse:collapse;width:100%;max-width:560px;margin:2px 0;line-height:1.35;color:inherit;font-size:12px"
    return f'<table class="wb-parts" style="{style}"><tbody>{"".join(rows)}</tbody></table>'


def short(count: float) -> str:
    """Bytes with two digits or three: "9.1 GiB", "0.16 GiB", "23 MiB", "83 KiB"."""
    if count >= GIB:
        return f"{count / GIB:.1f} GiB"
    if count >= GIB / 10:
        return f"{count / GIB:.2f} GiB"
    if count >= MIB:
        return f"{count / MIB:.0f} MiB" if count >= 10 * MIB else f"{count / MIB:.1f} MiB"
    return f"{count / 1024:.0f} KiB"


def _figures(*sizes: int) -> list[str]:
    """GiB with one decimal, or with two where different sizes would look the same."""
    for digits in (1, 2):
        shown = [f"{size / GIB:.{digits}f}" for size in sizes]
        if len(set(shown)) == len(set(sizes)):
            break
    return shown


def _group_of(part: str) -> tuple[str, str]:
    for (name, members), colour in zip(GROUPS.items(), COLOURS, strict=True):
        if part in members:
            return name, colour
    return "other", COLOURS[-1]


def _box(left: float, width: float, style: str, inside: str = "", title: str = "") -> str:
    told = f' title="{escape(title)}"' if title else ""
    place = f"position:absolute;top:0;height:28px;box-sizing:border-box;left:{left:.2f}%;width:{width:.2f}%"
    return f'<div{told} style="{place};{style}">{inside}</div>'


def _track(width: float) -> str:
    return _box(0, width, f"border:1px solid {BORDER}")


def _segment(piece: Piece, left: float, width: float, *, lettered: bool) -> str:
    letters = short(piece.size) if lettered and width >= 100 * LETTERED else ""
    style = (
        f"background:{piece.colour};color:#fff;font-size:12px;line-height:28px;padding-left:6px;"
        "overflow:hidden;white-space:nowrap;border-right:2px solid var(--jp-layout-color0, #fff)"
    )
    return _box(left, max(width, 0.4), style, letters, f"{piece.name}: {short(piece.size)}")


def _mark(left: float) -> str:
    """A thick line where the memory ends, which stands out over the strip."""
    style = "top:-4px;height:36px;border-left:3px solid var(--jp-ui-font-color0, currentColor)"
    return f'<div style="position:absolute;left:calc({left:.2f}% - 3px);{style}"></div>'


def _scale(free: int | None, share: float, ends: str) -> str:
    """Where the memory ends, in letters below its mark."""
    if free is None:
        return ""
    left = share * free
    text = f"{short(free)} {escape(ends)}"
    side = f"right:{100 - left:.2f}%;text-align:right" if left > 30 else f"left:{left:.2f}%"
    return (
        '<div style="position:relative;height:17px;font-size:12px">'
        f'<span style="position:absolute;{side};white-space:nowrap">{text}</span></div>'
    )


def _legend(pieces: Sequence[Piece], more: Sequence[tuple[str, str]]) -> str:
    entries = [(f"{p.name} {short(p.size)}", f"background:{p.colour}") for p in pieces]
    items = "".join(
        '<span style="white-space:nowrap"><span style="display:inline-block;width:11px;height:11px;'
        f'margin-right:5px;{style}"></span>{escape(text)}</span>'
        for text, style in [*entries, *more]
    )
    style = "display:flex;flex-wrap:wrap;gap:0 14px;font-size:12px;line-height:1.6"
    return f'<div style="{style}">{items}</div>'
