"""What an adapter learned, in words, as a table for a terminal, and as a map block by module for a notebook.

Knows no formulas: it shows AdapterUpdates.
"""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from ..models import USUAL
from ..summary import size

if TYPE_CHECKING:
    from .adapter import AdapterUpdates, Shown, Update

MUTED = "color:var(--jp-ui-font-color2, #757575)"
BORDER = "1px solid var(--jp-border-color2, #9e9e9e88)"
ENOUGH = 0.95  # of the energy: what a smaller rank that is proposed would hold
DARKEST = (
    0.42  # opacity of the fullest cell: letters on it keep a contrast of 4.5:1 on white and on #111
)
#: What a map shows, in words.
SHOWN = {
    "rank90": "rank that holds 90 % of the update",
    "rank99": "rank that holds 99 % of the update",
    "share": "size of the update, in % of the weight",
}


def headline(found: "AdapterUpdates") -> str:
    """How much of the rank is used: "Rank 16 uses 4.1 here (90 % of what it learned), 9.3 (99 %)."."""
    if not found.learned:
        return f"This adapter of rank {found.rank} has learned nothing: every B is 0, as at its start. Effective rank 0."
    return (
        f"Rank {found.rank} uses {found.used(0.9):.1f} here (90 % of what it learned), "
        f"{found.used(0.99):.1f} (99 %)."
    )


def advice(found: "AdapterUpdates") -> str:
    """What a smaller rank would hold; "" where nothing was learned."""
    if not found.learned:
        return ""
    smaller = [rank for rank in (2**power for power in range(12)) if rank < found.rank]
    enough = next((rank for rank in smaller if found.kept(rank) >= ENOUGH), None)
    if enough is not None:
        return (
            f"Rank {enough} would hold {percent(found.kept(enough))} of it: "
            f"wb.truncate_adapter(…, rank={enough}) measures what that costs."
        )
    if not smaller:
        return "A rank of 1 cannot be made smaller."
    half = smaller[-1]
    return f"Rank {half} would hold only {percent(found.kept(half))} of it: the rank is used."


def conditions(found: "AdapterUpdates") -> str:
    """Of what the figures are."""
    of = f"{len(found.updates):,} modules, {found.parameters:,} parameters, {size(found.bytes)}"
    return f"{found.folder}, {of}; base {found.base or 'not told'}."


def notes(found: "AdapterUpdates") -> list[str]:
    """What is not in the figures, and why."""
    return [*found.notes, *([found.without] if found.without else [])]


def text(found: "AdapterUpdates") -> str:
    """The report for a terminal: by kind of module, then block by module."""
    head = ("", "modules", "rank", "90 %", "99 %", "update / weight")
    rows = [head, *by_module(found)]
    lines = [headline(found), *filter(None, [advice(found)]), conditions(found), *notes(found), ""]
    lines += [_aligned(row, (14, 7, 5, 6, 6, 15)) for row in rows]
    modules, blocks, cells = grid(found)
    if len(blocks) > 1:
        lines += ["", f"Blocks, {SHOWN['rank90']}:"]
        names = [name.removesuffix("_proj")[:9] for name in modules]
        lines.append(_aligned(("", *names), (6, *[9] * len(modules))))
        for block in blocks:
            told = [cell(cells.get((block, module)), "rank90") for module in modules]
            lines.append(_aligned((_block(block), *told), (6, *[9] * len(modules))))
    return "\n".join(lines)


def html(found: "AdapterUpdates", show: "Shown" = "rank90") -> str:
    """The same for a notebook: safe to show, without script. Raises ValueError for a `show` that is not in SHOWN."""
    if show not in SHOWN:
        raise ValueError(f"show is {show!r}; it can be {', '.join(SHOWN)}.")
    told = "".join(
        f'<div style="font-size:12px;{MUTED}">{escape(line)}</div>'
        for line in (conditions(found), *notes(found))
    )
    return (
        f'<div class="wb-adapter" style="line-height:1.5"><b>{escape(headline(found))}</b>'
        f"<div>{escape(advice(found))}</div>{told}{_map(found, show)}</div>"
    )


def by_module(found: "AdapterUpdates") -> list[tuple[str, ...]]:
    """A row for each kind of module: its name, how many, rank, mean effective ranks, and the updates' mean size."""
    rows = []
    for module in kinds(found):
        mine = [update for update in found.updates if update.module == module]
        ranks = sorted({update.rank for update in mine})
        rank = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}"
        shares = [update.share for update in mine if update.share is not None]
        mean = percent(sum(shares) / len(shares)) if shares else "not known"
        used = (
            _mean([update.rank90 for update in mine]),
            _mean([update.rank99 for update in mine]),
        )
        rows.append((module, f"{len(mine):,}", rank, *used, mean))
    return rows


def kinds(found: "AdapterUpdates") -> list[str]:
    """The kinds of module that there are, in the usual order."""
    known = {module: place for place, module in enumerate(USUAL)}
    names = {update.module: None for update in found.updates}
    return sorted(names, key=lambda name: (known.get(name, len(known)), name))


def grid(
    found: "AdapterUpdates",
) -> tuple[list[str], list[int | None], dict[tuple[int | None, str], list["Update"]]]:
    """Modules, blocks (None for what is in no block, last), and the updates of each cell: experts share one."""
    cells: dict[tuple[int | None, str], list[Update]] = {}
    for update in found.updates:
        cells.setdefault((update.block, update.module), []).append(update)
    blocks = sorted({block for block, _ in cells}, key=lambda block: (block is None, block or 0))
    return kinds(found), blocks, cells


def value(updates: "list[Update] | None", show: "Shown") -> float | None:
    """A cell's figure, the mean where several modules share it; None where there is none."""
    found = [getattr(update, show) for update in updates or ()]
    known = [each for each in found if each is not None]
    return sum(known) / len(known) if known else None


def cell(updates: "list[Update] | None", show: "Shown") -> str:
    """The same in words."""
    found = value(updates, show)
    if found is None:
        return ""
    if show == "share":
        return percent(found)
    return f"{found:.0f}" if len(updates or ()) == 1 else f"{found:.1f}"


def fullness(updates: "list[Update] | None", show: "Shown", most: float) -> float:
    """0 to 1: of its rank, or of the largest share."""
    found = value(updates, show)
    if not found:
        return 0.0
    of = most if show == "share" else max(update.rank for update in updates or ())
    return min(1.0, found / of)


def largest(found: "AdapterUpdates") -> float:
    """The largest share of all modules, by which a map of shares is shaded."""
    return max((update.share or 0.0 for update in found.updates), default=0.0) or 1.0


def percent(share: float) -> str:
    """A share with two or three digits, never rounded up to all of it."""
    if share >= 0.9995 and share < 1:
        return "over 99.9 %"
    digits = f"{100 * share:.3g}" if share < 0.1 else f"{100 * share:.1f}".removesuffix(".0")
    return f"{digits} %"


def _map(found: "AdapterUpdates", show: "Shown") -> str:
    modules, blocks, cells = grid(found)
    most = largest(found)
    if show == "share" and all(update.share is None for update in found.updates):
        return f'<div style="{MUTED}">The size of the updates cannot be compared: see above.</div>'
    style = f"padding:2px 8px;text-align:right;border:{BORDER};font-variant-numeric:tabular-nums"
    heads = "".join(
        f'<th scope="col" style="padding:2px 8px;font-weight:600">{escape(name)}</th>'
        for name in ("block", *modules)
    )
    rows = []
    for block in blocks:
        row = f'<th scope="row" style="padding:2px 8px;font-weight:400">{_block(block)}</th>'
        for module in modules:
            mine = cells.get((block, module))
            shade = DARKEST * fullness(mine, show, most)
            title = escape(_told(mine))
            row += f'<td title="{title}" style="{style};background:rgba(0,119,187,{shade:.2f})">{cell(mine, show)}</td>'
        rows.append(f"<tr>{row}</tr>")
    caption = f"{SHOWN[show].capitalize()}; the fuller the blue, the more of it."
    return (
        '<div style="overflow-x:auto;max-width:100%"><table style="border-collapse:collapse;'
        f'margin:6px 0;line-height:1.4;font-size:12px;color:inherit"><caption style="text-align:left;caption-side:top;{MUTED}">'
        f"{escape(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _told(updates: "list[Update] | None") -> str:
    """A cell in full."""
    if not updates:
        return ""
    first = updates[0]
    share = "" if first.share is None else f", {percent(first.share)} of the weight"
    more = f", and {len(updates) - 1} more" if len(updates) > 1 else ""
    return f"{first.name}: {first.rank90} of {first.rank} hold 90 %, {first.rank99} hold 99 %{share}{more}"


def _block(block: int | None) -> str:
    return "none" if block is None else str(block)


def _mean(numbers: Sequence[float]) -> str:
    return f"{sum(numbers) / len(numbers):.1f}"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    right = "".join(f"  {told:>{width}}" for told, width in others)
    return f"  {first[0]:{first[1]}}{right}".rstrip()
