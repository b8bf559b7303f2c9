"""Quantization errors in words, as tables for a terminal, and as a map of blocks and modules for a notebook.

Knows no formulas: it shows QuantizationErrors. HTML is escaped, without script, and follows JupyterLab's theme.
"""

import re
from html import escape
from typing import TYPE_CHECKING

from ..memory.plan_bar import BORDER, MUTED, short
from ..models import target_modules
from ..summary import duration

if TYPE_CHECKING:
    from .quantization import Layer, QuantizationErrors

NAMES = {"nf4": "NF4", "fp4": "FP4", "int4": "int4"}
SHADE = "245, 124, 0"  # orange that reads under black letters and under white ones up to the depth below
DEEPEST = 0.42  # how much of it the worst cell gets
SPREAD = 1.3  # of the smallest error: what the deepest shade means at least, so that an even model looks even
MARK = "\N{BLACK UP-POINTING TRIANGLE}"
CELL = "padding:2px 8px;text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums"
LEFT = CELL.replace("right", "left")
#: Rows of the map by what stands before a block's number ("model"), each with its cells by module.
Map = dict[str, dict[int, dict[str, "list[Layer]"]]]
_STACK = re.compile(r"(.*?)\.?(?:layers|h|blocks?)\.\d+\.")


def headline(found: "QuantizationErrors") -> str:
    """The error of all weights together: "NF4 with double quantization changes the weights of its 28 linear layers by 9.4 %."."""
    count = len(found.layers)
    layers = f"{count:,} linear layer{'s'[: count > 1]}"
    return (
        f"{found.model}: {method(found)} changes the weights of its {layers} by {share(found.error)} "
        f"(size of the difference over size of the weights; {duration(found.seconds)})."
    )


def method(found: "QuantizationErrors") -> str:
    """How it was quantized: "NF4 with double quantization"."""
    return f"{NAMES[found.quant_type]}{' with double quantization' * found.double_quant}"


def meaning(found: "QuantizationErrors") -> str:
    """What the figures say: even weights, or layers with outliers."""
    usual = f"Normally distributed weights lose {share(found.normal)}, whatever their size"
    out = found.outliers
    worst = found.worst(1)[0]
    if not out:
        return f"{usual}. No layer is clearly above that; the worst, {worst.name}, loses {share(worst.error)}."
    count = f"{len(out):,} of {len(found.layers):,} layers {'is' if len(out) == 1 else 'are'} clearly above that"
    return (
        f"{usual}. {count}: in their blocks of 64 a few weights are far larger than the others, for which the steps are then "
        f"coarse. The worst, {worst.name}, loses {share(worst.error)}."
    )


def formats(found: "QuantizationErrors") -> str:
    """The formats side by side, best first; "" where they were not compared."""
    if not found.others:
        return ""
    ranked = sorted(found.others.items(), key=lambda item: item[1])
    told = ", ".join(f"{NAMES[form]} {share(error)}" for form, error in ranked)
    return f"All weights, with scales in 32 bits: {told}."


def beside(found: "QuantizationErrors") -> list[str]:
    """What has no error: layers whose weights are no numbers, and what QLoRA leaves in 16 bit."""
    told = [
        f"{one.name} holds {one.count:,} weights that are no numbers (NaN or infinite): it cannot be used so. Copy or "
        "download the model again."
        for one in found.broken
    ]
    return told + [
        f"Not quantized: {one.name}, {one.tensors:,} tensor{'s'[: one.tensors > 1]} with {one.parameters:,} parameters; "
        f"{one.why}."
        for one in found.kept
    ]


def cure(found: "QuantizationErrors") -> str:
    """What can be done about bad layers; "" where none stands out."""
    if not found.outliers:
        return ""
    return (
        "Copies of models whose name ends in -unsloth-bnb-4bit keep some layers in 16 bit for this reason; a run takes "
        "one as model.name."
    )


def text(found: "QuantizationErrors") -> str:
    """All of it for a terminal."""
    lines = [headline(found), meaning(found), cure(found), formats(found), *beside(found)]
    lines = [line for line in lines if line]
    width = max(len(layer.name) for layer in found.worst())
    lines += ["", f"  {'worst layers':{width}} {'error':>8} {'largest':>8} {'weights':>13}"]
    for layer in found.worst():
        figures = f"{share(layer.error):>8} {share(layer.largest):>8} {layer.parameters:>13,}"
        lines.append(f"  {layer.name:{width}} {figures}{mark(found, layer.error)}")
    lines += ["", "  left in 16 bit          costs  and removes of the squared error"]
    lines += [f"  {what:20} {cost:>8}  {gone}" for what, cost, gone in exemptions(found)]
    for stack, rows in by_place(found).items():
        modules = modules_of(rows)
        widths = [max(9, len(module) + 2) for module in modules]
        heads = "".join(f"{m:>{w}}" for m, w in zip(modules, widths, strict=True))
        lines += ["", *([f"  {stack}"] if len(by_place(found)) > 1 else []), f"  block{heads}"]
        for block, cells in rows.items():
            shown = (
                f"{_cell(found, cells.get(module)):>{w}}"
                for module, w in zip(modules, widths, strict=True)
            )
            lines.append(f"  {block:5}{''.join(shown)}".rstrip())
        means = (
            f"{share(found.by_module[module]):>{w}}"
            for module, w in zip(modules, widths, strict=True)
        )
        lines.append(f"  mean {''.join(means)}")
    return "\n".join(lines)


def html(found: "QuantizationErrors") -> str:
    """The same for a notebook: the map with shades, the worst layers, the costs, and all layers to unfold."""
    small = f"font-size:12px;line-height:1.5;{MUTED}"
    said = [meaning(found), cure(found), formats(found)]
    told = "".join(f'<div style="{small}">{escape(line)}</div>' for line in said if line)
    warned = "".join(f"<div>{escape(line)}</div>" for line in beside(found))
    maps = "".join(_map(found, stack, rows) for stack, rows in by_place(found).items())
    key = f"{MARK} clearly above {share(found.normal)}; the deeper the shade, the larger the error."
    costs = _table(
        ("left in 16 bit", "costs", "removes of the squared error"),
        [[escape(cell) for cell in row] for row in exemptions(found)],
    )
    every = "<details><summary style='cursor:pointer'>All layers by their error</summary>"
    return (
        f'<div class="wb-quantization" style="line-height:1.5"><b>{escape(headline(found))}</b>{told}{warned}'
        f'{maps}<div style="{small}">{escape(key)}</div>{_layers(found, found.worst())}{costs}'
        f"{every}{_scrolled(_layers(found, found.worst(None)), 'All layers by their error')}</details></div>"
    )


def exemptions(found: "QuantizationErrors") -> list[tuple[str, str, str]]:
    """Rows of what leaving the worst layers in 16 bit costs and removes; equal ones once."""
    rows = {}
    for one in found.exempt:
        count = "the worst layer" if one.layers == 1 else f"the worst {one.layers:,} layers"
        rows[one.layers] = (count, short(one.bytes), share(one.removed))
    return list(rows.values())


def by_place(found: "QuantizationErrors") -> Map:
    """The layers by stack ("model"), block and module; several of a module in a block are experts or the like."""
    places: Map = {}
    for layer in found.layers:
        if layer.block is None:
            continue
        stack = _STACK.match(layer.name)
        rows = places.setdefault(stack[1] if stack else "", {})
        rows.setdefault(layer.block, {}).setdefault(layer.module, []).append(layer)
    return places


def modules_of(rows: "dict[int, dict[str, list[Layer]]]") -> list[str]:
    """The modules of a stack, attention first."""
    layers = [layer for cells in rows.values() for group in cells.values() for layer in group]
    return target_modules(layers)


def share(part: float) -> str:
    """A share in percent with three digits at most: "9.4 %", "0.31 %"."""
    percent = 100 * part
    return f"{percent:.1f} %" if percent >= 1 or not percent else f"{percent:.2g} %"


def mark(found: "QuantizationErrors", error: float) -> str:
    """A triangle behind what is clearly above normal weights."""
    return f" {MARK}" if found.stands_out(error) else ""


def mean(layers: "list[Layer]") -> float:
    """Their mean relative error."""
    return sum(layer.error for layer in layers) / len(layers)


def _cell(found: "QuantizationErrors", layers: "list[Layer] | None") -> str:
    return f"{share(mean(layers))}{mark(found, mean(layers))}" if layers else ""


def _map(found: "QuantizationErrors", stack: str, rows: "dict[int, dict[str, list[Layer]]]") -> str:
    """Blocks down, modules across; a shade is never alone, each cell has its figure."""
    least = min(layer.error for layer in found.layers)
    most = max(SPREAD * least, *(layer.error for layer in found.layers), 1e-9)
    modules = modules_of(rows)
    heads = "".join(f'<th scope="col" style="{CELL}">{escape(module)}</th>' for module in modules)
    body = []
    for block, cells in rows.items():
        shown = []
        for module in modules:
            layers = cells.get(module)
            depth = DEEPEST * (mean(layers) - least) / (most - least or 1) if layers else 0
            names = escape(", ".join(layer.name for layer in layers[:3])) if layers else ""
            style = f"{CELL};background:rgba({SHADE}, {depth:.2f})"
            shown.append(f'<td style="{style}" title="{names}">{escape(_cell(found, layers))}</td>')
        body.append(f'<tr><th scope="row" style="{CELL}">{block}</th>{"".join(shown)}</tr>')
    name = f"Relative error by block and module, {stack or found.model}"
    table = (
        f'<table style="border-collapse:collapse;font-size:12px;line-height:1.35;color:inherit">'
        f'<caption style="text-align:left;font-weight:600">{escape(name)}</caption>'
        f'<thead><tr><th scope="col" style="{CELL}">block</th>{heads}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    )
    return _scrolled(table, name)


def _layers(found: "QuantizationErrors", layers: "list[Layer]") -> str:
    rows = [
        [
            escape(layer.name),
            escape(f"{share(layer.error)}{mark(found, layer.error)}"),
            share(layer.largest),
            f"{layer.parameters:,}",
            short(layer.extra_bytes),
        ]
        for layer in layers
    ]
    heads = ("worst layers", "error", "largest difference", "weights", "16 bit would cost")
    return _table(heads if layers == found.worst() else ("layer", *heads[1:]), rows)


def _table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    """A table of cells that are HTML already, the first column of which names the row."""
    titles = "".join(
        f'<th scope="col" style="{CELL if at else LEFT};border-bottom:1px solid {BORDER}">{escape(title)}</th>'
        for at, title in enumerate(head)
    )
    body = "".join(
        f'<tr><th scope="row" style="{LEFT};font-weight:400">{first}</th>'
        + "".join(f'<td style="{CELL}">{cell}</td>' for cell in others)
        + "</tr>"
        for first, *others in rows
    )
    style = "border-collapse:collapse;font-size:12px;line-height:1.4;margin:6px 0;color:inherit"
    return f'<table style="{style}"><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>'


def _scrolled(inside: str, name: str) -> str:
    """What may be long or wide, in a region of its own that the keyboard can scroll."""
    style = "max-height:420px;max-width:100%;overflow:auto;margin:6px 0"
    return f'<div role="region" tabindex="0" aria-label="{escape(name)}" style="{style}">{inside}</div>'
