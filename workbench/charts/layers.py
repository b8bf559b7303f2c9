"""What 4 bits do to a model's layers as a matplotlib Figure: the error block by block, a line for each kind of module.

Knows no formulas; pyplot is not touched.
"""

from itertools import zip_longest
from typing import TYPE_CHECKING

from ..inspection.quantization_text import by_place, headline, mean, modules_of, share
from .palette import LINES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..inspection.quantization import QuantizationErrors

MARKERS = "so^vDP*X<>"  # with the colours: lines are told apart by both
WORST = 3  # layers that are ringed


def error_by_block(found: "QuantizationErrors") -> "Figure":
    """Relative error in percent by block number; the worst layers are ringed, the first is named, normal weights are a dotted line.

    A model of several stacks (language, vision) gets a plot for each.
    """
    from matplotlib.figure import Figure

    places = by_place(found)
    made = Figure(
        figsize=(8, 0.6 + 3.6 * max(1, len(places))), layout="constrained", facecolor="white"
    )
    rows = made.subplots(max(1, len(places)), squeeze=False)[:, 0]
    for axes, (stack, blocks) in zip_longest(rows, places.items(), fillvalue=("", {})):
        _draw(axes, found, blocks)
        axes.set_title(stack if len(places) > 1 else "", loc="left", fontsize=9)
    made.suptitle(headline(found), fontsize=9, x=0.01, ha="left", wrap=True)
    return made


def _draw(axes: "Axes", found: "QuantizationErrors", blocks: dict) -> None:
    """One stack: its lines, normal weights for comparison, rings around the worst."""
    for number, module in enumerate(modules_of(blocks)):
        xs = [block for block, cells in blocks.items() if module in cells]
        ys = [100 * mean(blocks[block][module]) for block in xs]
        axes.plot(
            xs, ys, marker=MARKERS[number % len(MARKERS)], markersize=4, linewidth=1.2,
            color=LINES[number % len(LINES)], linestyle="-" if number < len(LINES) else "--",
            label=_text(module),
        )  # fmt: skip
    axes.axhline(
        100 * found.normal, color="#444", linestyle=":", linewidth=1,
        label=f"normal weights {share(found.normal)}",
    )  # fmt: skip
    _ring_the_worst(axes, found, blocks)
    axes.set_xlabel("block", fontsize=9)
    axes.set_ylabel("relative error (%)", fontsize=9)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.tick_params(labelsize=8)
    axes.margins(y=0.15)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        frameon=False, fontsize=7, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.01),
        borderaxespad=0,
    )  # fmt: skip


def _ring_the_worst(axes: "Axes", found: "QuantizationErrors", blocks: dict) -> None:
    """A ring around each of the worst layers that are in this stack, and a name at the first of them."""
    drawn = {
        (block, 100 * mean(layers)): layer
        for layer in found.worst(WORST)
        for block, cells in blocks.items()
        if layer in (layers := cells.get(layer.module, []))
    }
    if not drawn:
        return
    axes.plot(
        *zip(*drawn, strict=True), "o", markersize=11, markerfacecolor="none",
        markeredgecolor="#222", label=f"the worst {len(drawn)}" if len(drawn) > 1 else "the worst",
    )  # fmt: skip
    at, layer = next(iter(drawn.items()))
    late = at[0] > max(blocks) / 2  # its name goes where there is room
    axes.annotate(
        f"{_text(layer.module)} of block {layer.block}, {share(layer.error)}", at,
        xytext=(-10 if late else 10, 4), ha="right" if late else "left",
        fontsize=8, textcoords="offset points",
    )  # fmt: skip


def _text(name: str) -> str:
    """A name as it is: matplotlib takes dollars for formulas."""
    return name.replace("$", r"\$")
