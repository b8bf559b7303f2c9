"""Questions to mixed adapters and what each mix answered, side by side, as HTML and as text. Knows no widgets."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...answers import shown
from .. import pages
from ..answers import quoted

Weights = Mapping[str, float]


@dataclass
class Turn:
    """A question, the mixes that are asked, {} for the base alone, and their answers so far, in the same order."""

    prompt: str
    mixes: list[dict[str, float]]
    answers: list[str] = field(default_factory=list)
    losses: list[float | None] = field(default_factory=list)
    over: bool = False


def named(mix: Weights) -> str:
    """A mix in words: "base alone", "rank-16 alone", "0.7 x rank-16 + 0.3 x rank-4"."""
    if not mix:
        return "base alone"
    if list(mix.values()) == [1.0]:
        return f"{_end(*mix)} alone"
    return " + ".join(f"{weight:g} \N{MULTIPLICATION SIGN} {_end(name)}" for name, weight in mix.items())  # fmt: skip


def _end(name: str) -> str:
    """A run's name, or the end of a path."""
    return "/".join(Path(name).parts[-2:])


def html(turn: Turn) -> str:
    """A question, and its answers beside each other, below each other where it is narrow."""
    wraps = "white-space:pre-wrap;overflow-wrap:anywhere"
    sides = []
    for number, mix in enumerate(turn.mixes):
        name = f'<div style="font-size:12px;{pages.MUTED}">{quoted.plain(named(mix))}</div>'
        told = f'<div style="{pages.MUTED}">{"no answer" if turn.over else "waiting &#8230;"}</div>'
        if number < len(turn.answers):
            answer = turn.answers[number]
            told = quoted.html(answer) if answer.strip() else f'<i style="{pages.MUTED}">empty</i>'
            told = f'<div style="{wraps}">{told}</div>'
            if (loss := turn.losses[number]) is not None:
                told += f'<div style="font-size:12px;{pages.MUTED}">held-out loss {loss:.3g}</div>'
        sides.append(f'<div class="wb-mix" style="flex:1 1 200px;min-width:0;max-width:420px">{name}{told}</div>')  # fmt: skip
    asked = f'<div style="{wraps}"><b>{quoted.html(turn.prompt)}</b></div>'
    columns = f'<div style="display:flex;flex-wrap:wrap;gap:6px 20px">{"".join(sides)}</div>'
    style = f"margin:6px 0;padding-top:4px;line-height:1.45;border-top:{pages.BORDER}"
    return f'<div class="wb-mix-turn" style="{style}">{asked}{columns}</div>'


def text(turn: Turn) -> str:
    """The same as lines of text."""
    lines = [f"Asked: {_line(turn.prompt)}"]
    for mix, answer, loss in zip(turn.mixes, turn.answers, turn.losses, strict=False):
        measured = "" if loss is None else f" (held-out loss {loss:.3g})"
        lines.append(f"  {named(mix)}{measured}: {_line(answer)}")
    return "\n".join(lines)


def _line(text: str) -> str:
    return " ".join(shown(text, 400).text.split())
