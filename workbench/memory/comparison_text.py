"""Predicted against measured memory in words, as a table for a terminal, and with paired bars for a notebook.

Knows no formulas and no events: it shows a Comparison.
"""

from html import escape
from typing import TYPE_CHECKING

from .plan_bar import BORDER, COLOURS, MUTED, short

if TYPE_CHECKING:
    from .comparison import Comparison, Pair

GIB = 2**30
WIDTH = 24  # characters of a bar
SMALL = 0.005  # of the whole: what differs by less is said to be right
PREDICTED, MEASURED = COLOURS[0], COLOURS[1]


def headline(comparison: "Comparison") -> str:
    """The whole, and by how much the prediction was off: "Predicted 1.03 GiB, measured 1.11 GiB: 7 % too little."."""
    whole, error = comparison.whole, comparison.error
    if error is None:
        return f"Measured {_precise(whole.measured or 0)}; nothing was predicted."
    off = f"{abs(error):.1%}".replace(".0%", "%") if abs(error) < 0.1 else f"{abs(error):.0%}"
    verdict = f"{off.replace('%', ' %')} too {'much' if error > 0 else 'little'}"
    if abs(error) < SMALL:
        verdict = "right within half a percent"
    return f"Predicted {_precise(whole.predicted)}, measured {_precise(whole.measured)}: {verdict}."


def conditions(comparison: "Comparison") -> str:
    """What was measured."""
    rows = comparison.batch_size
    return (
        f"{rows:,} row{'s'[: rows > 1]} at once, {comparison.tokens:,} tokens with padding, "
        f"{comparison.seconds:.2g} s forward and backward."
    )


def text(comparison: "Comparison") -> str:
    """The comparison for a terminal."""
    most = _most(comparison)
    lines = [f"{comparison.run}: {headline(comparison)}", conditions(comparison), ""]
    lines.append(f"  {'':36} {'predicted':>10} {'measured':>10} {'difference':>11}")
    for pair in (*comparison.pairs, comparison.whole):
        bars = "" if pair is comparison.whole else _block(pair.measured, most)
        cells = f"{_cell(pair.predicted):>10} {_cell(pair.measured):>10} {difference(pair):>11}"
        lines.append(f"  {pair.name:36} {cells}  {bars}".rstrip())
    return "\n".join(lines)


def html(comparison: "Comparison") -> str:
    """The same for a notebook: safe to show, without script."""
    most = _most(comparison)
    cell = "padding:2px 10px 2px 0;vertical-align:middle;text-align:left;white-space:nowrap"
    number = f"{cell};text-align:right;font-variant-numeric:tabular-nums"
    head = "".join(
        f'<th scope="col" style="{number if at else cell};border-bottom:1px solid {BORDER}">{title}</th>'
        for at, title in enumerate(("", "predicted", "measured", "difference"))
    )
    rows = []
    for pair in (*comparison.pairs, comparison.whole):
        last = pair is comparison.whole
        bold = ";font-weight:600" if last else ""
        numbers = (_cell(pair.predicted), _cell(pair.measured), difference(pair))
        rows.append(
            f'<tr><th scope="row" style="{cell};white-space:normal;min-width:120px;font-weight:{600 if last else 400}">{escape(pair.name)}</th>'
            + "".join(f'<td style="{number}{bold}">{each}</td>' for each in numbers)
            + f'<td aria-hidden="true" style="width:100%;min-width:40px">{"" if last else _bars(pair, most)}</td></tr>'
        )
    key = "".join(
        f'<span style="display:inline-block;width:11px;height:7px;margin:0 5px 0 0;background:{colour}"></span>'
        f'<span style="margin-right:14px">{name}</span>'
        for name, colour in (("predicted (above)", PREDICTED), ("measured (below)", MEASURED))
    )
    style = "border-collapse:collapse;width:100%;max-width:820px;line-height:1.4;color:inherit;font-size:12px"
    return (
        f'<div class="wb-comparison" style="line-height:1.5"><b>{escape(headline(comparison))}</b>'
        f'<div style="font-size:12px;{MUTED}">{escape(conditions(comparison))}</div>'
        f'<div style="font-size:12px;margin-top:4px">{key}</div>'
        f'<table style="{style}"><thead><tr>{head}<td style="border-bottom:1px solid {BORDER}"></td>'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def difference(pair: "Pair") -> str:
    """Predicted less measured, with its sign; nothing where either is not known."""
    if pair.predicted is None or pair.measured is None:
        return ""
    off = pair.predicted - pair.measured
    if abs(off) < 2**20 / 20:  # would be shown as 0.0 MiB
        return "0"
    return f"{'+' if off > 0 else chr(0x2212)}{short(abs(off))}"


def _bars(pair: "Pair", most: int) -> str:
    return "".join(
        f'<div style="height:6px;margin:1px 0;width:{100 * (count or 0) / most:.1f}%;background:{colour}"></div>'
        for count, colour in ((pair.predicted, PREDICTED), (pair.measured, MEASURED))
    )


def _block(count: int | None, most: int) -> str:
    return "\N{FULL BLOCK}" * round((count or 0) / most * WIDTH)


def _most(comparison: "Comparison") -> int:
    return max([1, *(count or 0 for pair in comparison.pairs for count in pair[1:])])


def _cell(count: int | None) -> str:
    return "not told" if count is None else _precise(max(0, count))


def _precise(count: int) -> str:
    """Three digits, as a comparison needs them."""
    return f"{count / GIB:.2f} GiB" if count >= GIB / 10 else short(count)
