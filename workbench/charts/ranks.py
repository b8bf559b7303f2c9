"""What an adapter learned as a matplotlib Figure: how much of its rank each module uses, and how its singular values fall.

Draws AdapterUpdates. pyplot is not touched.
"""

import math
from typing import TYPE_CHECKING

from ..inspection.adapter_text import SHOWN, cell, fullness, grid, kinds, largest
from .figure import MARKERS
from .palette import LINES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..inspection.adapter import AdapterUpdates, Shown

DARKEST, LETTERS = (
    0.8,
    "#111111",
)  # of the blue in a full cell: letters keep a contrast of over 4.5:1
FLOOR = (
    1e-4  # of the largest singular value: what is smaller holds a hundred-millionth of its energy
)
CELL, TALLEST = (0.62, 0.25), 0.8  # inches of a cell, wide and at least high, and at most
FALL = 4.6, 3.2  # inches of the singular values' plot


def ranks(found: "AdapterUpdates", show: "Shown" = "rank90") -> "Figure":
    """The map block by module of what `show` names, with its numbers, and beside it the singular values, logarithmic.

    Raises ValueError for a `show` that is not in adapter_text.SHOWN.
    """
    from matplotlib.figure import Figure

    if show not in SHOWN:
        raise ValueError(f"show is {show!r}; it can be {', '.join(SHOWN)}.")
    modules, blocks, _ = grid(found)
    wide = CELL[0] * max(len(modules), 4)
    high = max(CELL[1] * len(blocks), min(FALL[1], TALLEST * len(blocks)))
    left, right, above, below = 0.75, 0.9, 0.6, 0.35
    legend = 0.7
    height = above + max(high, FALL[1] + legend) + below
    width = left + wide + right + FALL[0] + 0.25
    made = Figure(figsize=(width, height), facecolor="white")

    def placed(x: float, w: float, h: float) -> "Axes":
        return made.add_axes((x / width, (height - above - h) / height, w / width, h / height))

    _map(placed(left, wide, high), found, show)
    _fall(placed(left + wide + right, FALL[0], FALL[1]), found)
    return made


def _map(axes: "Axes", found: "AdapterUpdates", show: "Shown") -> None:
    modules, blocks, cells = grid(found)
    most = largest(found)
    full = [[fullness(cells.get((b, m)), show, most) for m in modules] for b in blocks]
    axes.imshow(
        [[_shade(share) for share in row] for row in full], aspect="auto", interpolation="nearest"
    )
    for y, block in enumerate(blocks):
        for x, module in enumerate(modules):
            told = cell(cells.get((block, module)), show).removesuffix(" %")
            axes.text(x, y, told, ha="center", va="center", fontsize=8, color=LETTERS)
    axes.set_xticks(range(len(modules)), [name.removesuffix("_proj") for name in modules])
    axes.set_yticks(range(len(blocks)), ["none" if b is None else str(b) for b in blocks])
    axes.set_xticks([x + 0.5 for x in range(len(modules) - 1)], minor=True)
    axes.set_yticks([y + 0.5 for y in range(len(blocks) - 1)], minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0, labelsize=8)
    axes.set_ylabel("block", fontsize=9)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(_wrapped(SHOWN[show], len(modules)), loc="left", fontsize=10, pad=8)


def _fall(axes: "Axes", found: "AdapterUpdates") -> None:
    """Each module's singular values against its largest, faint; the geometric mean of each kind on top."""
    axes.set_title("Singular values, against each module's largest", loc="left", fontsize=10, pad=8)
    axes.set_xlabel("number of the singular value", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if not found.learned:
        axes.text(
            0.5, 0.5, "Nothing was learned: all are 0.", ha="center", transform=axes.transAxes
        )
        return
    every = max(1, found.rank // 8)
    for place, module in enumerate(kinds(found)):
        curves = [
            _relative(update.singular)
            for update in found.updates
            if update.module == module and update.update
        ]
        if not curves:
            continue
        colour, marker = LINES[place % len(LINES)], MARKERS[place % len(MARKERS)]
        faint = max(0.04, min(0.2, 1 / len(curves)))
        for curve in curves[:64]:
            axes.plot(range(1, len(curve) + 1), curve, color=colour, alpha=faint, linewidth=0.8)
        mean = _mean(curves)
        axes.plot(
            range(1, len(mean) + 1), mean, color=colour, marker=marker, markersize=4, linewidth=1.6,
            linestyle="-" if place < len(LINES) else "--", markevery=every,
            label=module.replace("$", r"\$").removesuffix("_proj"),
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlim(0.5, found.rank + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    for energy, height in ((0.9, 0.97), (0.99, 0.90)):
        used = found.used(energy)
        axes.axvline(used, color="#555555", linestyle=(0, (1, 3)), linewidth=1)
        late = used > found.rank * 0.7  # then there is no room to its right
        axes.annotate(
            f"{used:.1f} hold {energy:.0%}".replace("%", " %"), (used, height),
            xycoords=axes.get_xaxis_transform(), fontsize=8, va="top", ha="right" if late else "left",
            xytext=(-4 if late else 4, 0), textcoords="offset points",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )  # fmt: skip
    axes.legend(
        frameon=False, fontsize=8, ncols=4, handlelength=3, loc="upper left",
        bbox_to_anchor=(0, -0.16), borderaxespad=0, borderpad=0,
    )  # fmt: skip


def _relative(singular: "tuple[float, ...]") -> list[float]:
    """Against the largest, not below what is drawn."""
    return [max(value / singular[0], FLOOR) for value in singular]


def _mean(curves: list[list[float]]) -> list[float]:
    """The geometric mean at each number, as far as all curves go."""
    length = min(map(len, curves))
    return [
        math.exp(sum(math.log(curve[n]) for curve in curves) / len(curves)) for n in range(length)
    ]


def _shade(share: float) -> tuple[float, float, float]:
    """From nearly white to the first colour of the lines."""
    blue = tuple(int(LINES[0][place : place + 2], 16) / 255 for place in (1, 3, 5))
    light = 0.95
    return tuple(light + (part - light) * share * DARKEST for part in blue)


def _wrapped(title: str, modules: int) -> str:
    """In two lines where the map is narrow."""
    import textwrap

    text = title[:1].upper() + title[1:]
    return textwrap.fill(text, max(24, 9 * modules))
