"""Plain HTML for a cell's output: escaped tables and messages that survive in a saved notebook. Knows no widgets."""

from collections.abc import Iterable, Sequence
from html import escape

from ..problems import Problem

#: JupyterLab's theme colours, with fallbacks that read well on white and on black.
BORDER = "1px solid var(--jp-border-color2, #9e9e9e88)"
MUTED = "color:var(--jp-ui-font-color2, #757575)"
SMALL = f"font-size:12px;line-height:1.4;{MUTED}"
_LEVELS = {
    "ok": ("&#10003;", "var(--jp-success-color1, #388e3c)"),
    "note": ("&#8226;", "var(--jp-info-color1, #0288d1)"),
    "warning": ("!", "var(--jp-warn-color1, #e65100)"),
    "error": ("&#10007;", "var(--jp-error-color1, #d32f2f)"),
}
_TITLE = "text-align:left;padding:4px 10px"
_CELL = f"{_TITLE};vertical-align:top;white-space:pre-wrap;overflow-wrap:anywhere"


class Page:
    """HTML that a cell shows, with a plain text for where HTML is not shown."""

    def __init__(self, html: str, text: str) -> None:
        self.html, self.text = html, text

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "") -> str:
    """A table; `head` and `caption` are escaped here, the cells of `rows` are HTML already."""
    titles = "".join(f'<th scope="col" style="{_TITLE}">{escape(title)}</th>' for title in head)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    above = f'<caption style="text-align:left;caption-side:top">{escape(caption)}</caption>'
    return (
        f'<table style="border-collapse:collapse;max-width:100%;margin:4px 0;line-height:1.45">'
        f"{above if caption else ''}<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"
    )


def message(level: str, fact: str, cure: str = "", *, details: str = "") -> str:
    """One finding: a mark, the fact, the next step, and a longer text that can be unfolded. All of it is escaped."""
    mark, colour = _LEVELS[level]
    more = ""
    if details:
        text = f'<pre style="max-height:14em;overflow:auto">{escape(details)}</pre>'
        more = f'<details><summary style="{MUTED}">Details</summary>{text}</details>'
    advice = f' <span style="{MUTED}">{escape(cure)}</span>' if cure else ""
    return (
        f'<div style="line-height:1.45;margin:2px 0;padding:2px 8px;border-left:3px solid {colour}">'
        f'<b style="color:{colour}" aria-label="{level}">{mark}</b> {escape(fact)}{advice}{more}</div>'
    )


def problem_list(problems: Iterable[Problem]) -> str:
    """Problems as messages below each other."""
    return "".join(message("error", problem.fact, problem.cure) for problem in problems)


def code(line: str, *, quiet: bool = True) -> str:
    """A line of Python, small; `quiet` ones are muted, so that the others stand out."""
    style = "font-size:11px;line-height:1.4;background:none;padding:0;white-space:pre-wrap"
    if quiet:
        style += f";{MUTED}"
    return f'<div style="line-height:1.3"><code style="{style}">{escape(line)}</code></div>'


def heading(title: str, beside: str = "") -> str:
    """A panel's title, with what it is about beside it."""
    about = f' <span style="{MUTED}">{escape(beside)}</span>' if beside else ""
    return f'<div style="font-size:15px;line-height:1.6"><b>{escape(title)}</b>{about}</div>'


def block(text: str) -> str:
    """Some lines of Python or text as they are, to be selected and copied."""
    style = "font-size:12px;line-height:1.45;margin:2px 0 6px;padding:6px 10px;white-space:pre-wrap"
    return f'<pre style="{style};overflow-wrap:anywhere;border:{BORDER}">{escape(text)}</pre>'


def section(title: str) -> str:
    """A heading inside a panel."""
    return f'<div style="line-height:1.5;margin:6px 0 2px"><b>{escape(title)}</b></div>'
