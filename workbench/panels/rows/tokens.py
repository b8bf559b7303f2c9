"""A row as coloured tokens: what is trained, what is context, what is cut off. Readable without colour, and in a saved notebook.

All text of rows is escaped, and what cannot be seen is named. Knows no widgets; `inspector.py` has the controls.
"""

from collections.abc import Iterable
from html import escape
from itertools import groupby

from ... import looking
from ...data import pieces
from ...data.pieces import Piece, View
from ...recipe import Recipe
from .. import pages, progress


def _tint(colour: str, share: int) -> str:
    return f"color-mix(in srgb, {colour} {share}%, transparent)"


_BLUE = "var(--jp-brand-color1, #1976d2)"
_ORANGE = "var(--jp-warn-color1, #f57c00)"
_GREY = "var(--jp-ui-font-color3, #9e9e9e)"
_LINE = "text-decoration-thickness:1px;text-underline-offset:3px"
# kind -> the element, which tells the kinds apart even where styles are removed, and its style
_LOOKS = {
    "trained": (
        "mark",
        f"color:inherit;background:{_tint(_BLUE, 24)};text-decoration:underline solid {_BLUE};"
        "text-decoration-thickness:2px;text-underline-offset:3px",
    ),
    "context": ("span", f"text-decoration:underline dotted {_GREY};{_LINE}"),
    "truncated": (
        "del",
        f"background:{_tint(_ORANGE, 22)};text-decoration:line-through solid {_ORANGE};"
        "text-decoration-thickness:1px",
    ),
    "lost": (
        "del",
        f"background:{_tint(_ORANGE, 22)};text-decoration:line-through underline solid {_ORANGE};"
        "text-decoration-thickness:2px;text-underline-offset:3px",
    ),
    "padding": (
        "span",
        "background:repeating-linear-gradient(135deg,"
        f"{_tint(_GREY, 30)} 0 2px,transparent 2px 6px)",
    ),
}
_SPECIAL = "outline:1px solid currentColor;outline-offset:-1px;border-radius:3px;padding:0 2px"
_EDGE = "border-right:1px solid #88888866"  # short, since every token has it
_FAINT = f"{pages.MUTED};font-size:85%"
_UNSEEN = "font-size:85%;border:1px dashed currentColor;border-radius:3px;padding:0 2px"
_BOX = (
    f"white-space:pre-wrap;overflow-wrap:anywhere;max-height:32em;overflow:auto;border:{pages.BORDER};"
    "border-radius:4px;padding:8px 10px;margin:4px 0;line-height:1.9;color:var(--jp-content-font-color1, inherit);"
    "font-family:var(--jp-code-font-family, monospace);font-size:var(--jp-code-font-size, 13px)"
)
_SAYS = {
    "trained": "trained",
    "context": "context: read, not learned",
    "truncated": "truncated",
    "lost": "lost: truncated, would be trained",
    "padding": "padding",
}


def show_tokens(
    recipe: Recipe, row: int = 1, *, file: str = "", pad_to: int | None = None
) -> pages.Page:
    """The training row of this number as the recipe's model meets it.

    `file` says in which one, where there are several; `pad_to` is in tokens. Raises DataError.
    """
    with progress.bar("Reading the rows") as tell:
        rows = looking.rows_of(recipe, progress=tell)
    found = rows[rows.position(row, file)]
    return page(looking.view_row(recipe, found, pad_to=pad_to))


def page(shown: View) -> pages.Page:
    """The row with its counts, the legend and the tokens, each with its place and id on hover; the text is its plain twin."""
    return pages.Page(html(shown), pieces.as_text(shown))


def html(shown: View) -> str:
    """The row as HTML that is safe to show."""
    last, body = 0, []
    for start, part in shown.parts:
        body.append(_gap(start - last))
        body += _runs(part, start)
        last = start + sum(len(piece.ids) for piece in part if not piece.padding)
    body.append(_gap(shown.counts.tokens - last))
    title = f"Tokens of {shown.name}"
    return (
        f'<div class="wb-tokens">{pages.heading(shown.name, str(shown.counts))}{_legend(shown)}'
        f'<div class="wb-row" role="group" tabindex="0" aria-label="{escape(title)}" style="{_BOX}">'
        f"{''.join(body)}</div>{_ids(shown)}</div>"
    )


def _runs(part: Iterable[Piece], place: int) -> Iterable[str]:
    """Runs of pieces with the same fate, each in its element; texts are kept from turning the writing direction around them."""
    for kind, run in groupby(part, key=lambda piece: piece.kind):
        inside = []
        for special, group in groupby(run, key=lambda piece: piece.special):
            tokens = []
            for piece in group:
                tokens.append(_token(piece, place))
                place += len(piece.ids)
            inside.append("".join(tokens) if special else f"<bdi>{''.join(tokens)}</bdi>")
        tag, style = _LOOKS[kind]
        yield f'<{tag} class="wb-{kind}" style="{style}">{"".join(inside)}</{tag}>'


def _token(piece: Piece, place: int) -> str:
    ids = " ".join(map(str, piece.ids))
    if piece.padding:
        said = f"{_text(piece.text)} &times; {len(piece.ids):,}"
        return f'<span title="{len(piece.ids):,} times id {piece.ids[0]}">{said}</span>'
    which = f"token {place + 1:,}" + (f" to {place + len(piece.ids):,}" if piece.ids[1:] else "")
    style = _SPECIAL if piece.special else _EDGE
    return f'<span title="{which}, id {ids}" style="{style}">{_text(piece.text)}</span>'


def _text(text: str) -> str:
    """Escaped; line breaks have a sign before them, and what cannot be seen has its name."""
    out = []
    for part, named in pieces.visible(text):
        if named:
            out.append(f'<span style="{_UNSEEN}">{part}</span>')
        else:
            sign = f'<span aria-hidden="true" style="{_FAINT}">&#8629;</span>\n'
            tab = f'<span aria-hidden="true" style="{_FAINT}">&#8677;</span>\t'
            out.append(escape(part).replace("\n", sign).replace("\t", tab))
    return "".join(out)


def _gap(tokens: int) -> str:
    if not tokens:
        return ""
    said = f"&#8230; {tokens:,} more token{'' if tokens == 1 else 's'} &#8230;"
    return f'<div class="wb-gap" style="{pages.MUTED};text-align:center">{said}</div>'


def _legend(shown: View) -> str:
    """A sample of each look that occurs, with how many tokens have it."""
    counts = shown.counts
    kinds = {
        "trained": counts.trained,
        "context": counts.kept - counts.trained,
        "truncated": counts.tokens - counts.kept - counts.lost,
        "lost": counts.lost,
        "padding": counts.padding,
    }
    items = []
    for kind, count in kinds.items():
        tag, style = _LOOKS[kind]
        items.append((f'<{tag} style="{style}">&nbsp;{_SAYS[kind]}&nbsp;</{tag}>', count))
    items.append((f'<span style="{_SPECIAL}">special token</span>', counts.special))
    looks = "".join(
        f'<span style="white-space:nowrap;margin-right:16px">{sample} {count:,}</span>'
        for sample, count in items
        if count
    )
    return f'<div class="wb-legend" style="line-height:1.9">{looks}</div>'


def _ids(shown: View) -> str:
    """The ids of what is shown, to unfold: a hover is nothing for a keyboard."""
    ids = " ".join(
        str(token) for _, part in shown.parts for p in part if not p.padding for token in p.ids
    )
    style = f"max-height:10em;overflow:auto;white-space:pre-wrap;{pages.MUTED}"
    return (
        f'<details><summary style="{pages.MUTED}">Ids</summary>'
        f'<code style="{style};display:block">{ids}</code></details>'
    )
