"""What models, rows and users say, quoted in a page: escaped, harmless, short, and to be unfolded where it is long.

All text that comes from outside goes through here. Knows no widgets.
"""

from collections.abc import Iterable
from html import escape

from ... import answers
from ...answers import Flag, Piece, Sample
from .. import pages

SHORT = 600  # characters in a cell of a table
LONG = 2000  # characters where there is room
UNFOLDED = 8000  # characters more, at most: a page that holds 100,000 is slow
# A dotted line as well, so that it is not told by colour alone.
_MARK = (
    "background:color-mix(in srgb, var(--jp-warn-color1, #f57c00) 28%, transparent);color:inherit;"
    "text-decoration:underline dotted 1px;text-underline-offset:3px"
)
# Mixed with the text's colour: the themes' own green is too pale to read on white.
_GREEN = "color:color-mix(in srgb, var(--jp-success-color1, #388e3c) 65%, var(--jp-ui-font-color0, currentcolor))"
_CHIP = "display:inline-block;border:1px solid;border-radius:8px;padding:0 7px;margin:3px 4px 0 0;font-size:11px;line-height:1.5"
_FAULT = "color:var(--jp-ui-font-color1, inherit);border-color:var(--jp-warn-color1, #e65100)"
_KNOWN = f"{pages.MUTED};border-color:var(--jp-border-color1, #9e9e9e)"
_EXACT = f'<span style="{_GREEN}">&#10003; exact</span>'
_DIFFERS = f'<span style="{pages.MUTED}">&#10007; differs</span>'


def plain(text: str, limit: int = 200) -> str:
    """A text in one piece for a heading or a line: cut at `limit` characters, without anything to unfold."""
    head = answers.shown(text, limit)
    return f"<bdi>{escape(head.text)}{'&#8230;' if head.more else ''}</bdi>"


def html(text: str, limit: int = SHORT) -> str:
    """A text whose first `limit` characters are shown, and some thousand more when they are unfolded."""
    text = str(text)
    return f"<bdi>{escape(answers.visible(text[:limit]))}</bdi>{_rest(text, limit)}"


def ending(text: str, limit: int = LONG) -> str:
    """The last `limit` characters of a text that is being written."""
    hidden = max(0, len(text) - limit)
    before = f'<span style="{pages.MUTED}">{hidden:,} earlier characters &#8230;</span> '
    return f"{before if hidden else ''}<bdi>{escape(answers.visible(text[hidden:]))}</bdi>"


def marked(before: str, after: str, limit: int = SHORT) -> tuple[str, str]:
    """Two texts, those words marked that the other does not have in their place; what is folded away is not compared."""
    heads = (answers.visible(text[:limit]) for text in (before, after))
    left, right = answers.marked(*heads)
    return _pieces(left) + _rest(before, limit), _pieces(right) + _rest(after, limit)


def verdict(sample: Sample, *, crossed: bool = True) -> str:
    """Below an answer: whether it is the expected one, and what else is worth knowing; a cross only if `crossed`."""
    right = answers.is_expected(sample)
    mark = _EXACT if right else _DIFFERS if right is False and crossed else ""
    below = f"{mark} {chips(answers.flags(sample))}".strip()
    return f"<div>{below}</div>" if below else ""


def chips(flags: Iterable[Flag]) -> str:
    """Small labels under an answer; each says in words what it tells, and more in its tooltip."""
    return "".join(
        f'<span class="wb-flag wb-flag-{flag.kind}" title="{escape(flag.says)}" '
        f'style="{_CHIP};{_FAULT if flag.fault else _KNOWN}">'
        f"{'&#9888; ' if flag.fault else ''}<bdi>{escape(flag.text)}</bdi></span>"
        for flag in flags
    )


def chip(text: str) -> str:
    """A label that is no fault."""
    return f'<span style="{_CHIP};{_KNOWN}">{escape(text)}</span>'


def pace(sample: Sample) -> str:
    """How many tokens an answer has, the seconds that it took, and tokens/s; empty where that was not noted."""
    tokens, seconds = sample.get("tokens"), sample.get("seconds")
    if not tokens or not seconds:
        return ""
    rate = tokens / seconds
    speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
    return f"{tokens:,} tokens in {seconds:.1f} s, {speed} tokens/s"


def _pieces(pieces: Iterable[Piece]) -> str:
    return f"<bdi>{''.join(map(_piece, pieces))}</bdi>"


def _piece(piece: Piece) -> str:
    words = piece.text.rstrip()
    if not piece.changed or not words:
        return escape(piece.text)
    return f'<mark style="{_MARK}">{escape(words)}</mark>{escape(piece.text[len(words) :])}'


def _rest(text: str, limit: int) -> str:
    """What lies beyond the limit, to be unfolded."""
    hidden = len(text) - limit
    if hidden <= 0:
        return ""
    rest = answers.shown(text[limit:], UNFOLDED)
    end = (
        f'<i style="{pages.MUTED}"> &#8230; {rest.more:,} more, in the run\'s events.jsonl</i>'
        if rest.more
        else ""
    )
    title = f'<summary style="{pages.MUTED};cursor:pointer">&#8230; {hidden:,} more characters</summary>'
    return f"<details>{title}<bdi>{escape(rest.text)}</bdi>{end}</details>"
