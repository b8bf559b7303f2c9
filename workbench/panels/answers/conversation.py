"""Questions to a run and their answers, the tuned and the base model's side by side, as HTML and as text.

Puts together what was asked here with what the log tells. Asks nothing, and knows no widgets.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from ... import answers
from ...answers import Sample
from ...events import History
from .. import pages
from . import quoted

KEPT = 5  # questions that are shown
IN_TEXT = 400  # characters of a question or an answer where there is only text
ENDING = 10  # seconds within which an end of the run, asked for while a model answers, is told after its answer
_NAMES = {True: "Tuned (adapter on)", False: "Base model (adapter off)"}
_COLUMNS = "display:flex;flex-wrap:wrap;gap:6px 20px"
_SIDE = "flex:1 1 260px;min-width:0;line-height:1.45"
_TEXT = "white-space:pre-wrap;overflow-wrap:anywhere"


class Wish(NamedTuple):
    """A question as it was asked: when (seconds since 1970), and its commands' ids by whether the adapter is on.

    `longest` is how many tokens an answer may have, `fits` how many together with its prompt; None where not known.
    """

    t: float
    prompt: str
    system: str | None
    ids: dict[bool, str]
    longest: int | None = None
    fits: int | None = None


class Side(NamedTuple):
    """What there is of one model's answer: the sample, or the text so far, or why there will be none.

    `kept` is the step of the adapter that answered if it had been put back, `fits` the bound that cut the answer.
    """

    sample: Sample | None = None
    partial: str | None = None
    refused: str = ""
    kept: int | None = None
    fits: int | None = None

    @property
    def flags(self) -> list[answers.Flag]:
        return answers.flags(self.sample, fits=self.fits) if self.sample else []


class Turn(NamedTuple):
    """A question with one or two answers; without a prompt it was asked elsewhere and is being answered."""

    t: float
    prompt: str | None
    system: str | None
    sides: dict[bool, Side]

    @property
    def rendered(self) -> str | None:
        """The exact text that the model was given, None before it has answered or where an older version ran."""
        texts = (side.sample.get("rendered") for side in self.sides.values() if side.sample)
        return next(filter(None, texts), None)


def turns(history: History, wishes: Sequence[Wish], lost: Collection[str]) -> list[Turn]:
    """The last questions, newest first: those that were asked here, and those that the log tells of.

    `lost` are the ids of commands whose worker ended before it answered.
    """
    own = {command for wish in wishes for command in wish.ids.values()}
    kept = answers.kept(history)
    found = [
        _told(asked, kept) for asked in answers.asked(history.samples) if not _ids(asked) & own
    ]
    if wishes:
        samples = {s["sample"]: s for s in history.samples if s["sample"] in own}
        refused = {c["id"]: c["text"] for c in history.commands if not c["taken"]}
        refused = dict.fromkeys(lost, "Not answered: the worker ended before.") | refused
        found += [_wished(wish, history, samples, refused) for wish in wishes]
    found.sort(key=lambda turn: turn.t)
    found.reverse()  # of two at the same time, the later one comes first
    others = [text for command, text in history.partial.items() if command not in own | {*lost}]
    elsewhere = [Turn(float("inf"), None, None, {True: Side(partial=text)}) for text in others[-1:]]
    return (elsewhere + found)[:KEPT]


def awaited(turn: Turn) -> bool:
    """Whether an answer is still to come."""
    return any(side.sample is None and not side.refused for side in turn.sides.values())


def html(turn: Turn, *, limit: int = quoted.LONG) -> str:
    """A question, and its answers beside each other, below each other where it is narrow."""
    sides = "".join(
        f'<div style="{_SIDE}">{_side(adapter, side, limit, alone=turn.prompt is None)}</div>'
        for adapter, side in turn.sides.items()
    )
    return f'<div class="wb-turn" style="margin:6px 0">{_question(turn, limit)}<div style="{_COLUMNS}">{sides}</div></div>'


def exact_prompt(turn: Turn | None) -> str:
    """The text that the model was given, with its special tokens, in a fixed pitch."""
    rendered = turn.rendered if turn else None
    if rendered is None:
        text = "The exact text comes with the answer."
        if turn and not awaited(turn):
            text = "It was not noted with this answer."
        return f'<div style="{pages.MUTED}">{text}</div>'
    style = f"{_TEXT};font-family:var(--jp-code-font-family, monospace);font-size:12px;border:{pages.BORDER};padding:6px 8px;line-height:1.4"
    return (
        f'<div class="wb-rendered" style="{style}">{quoted.html(rendered, 2 * quoted.LONG)}</div>'
    )


def text(shown: Iterable[Turn]) -> str:
    """Questions and answers as lines of text."""
    lines = []
    for turn in shown:
        lines.append(f"Asked: {_line(turn.prompt or 'elsewhere')}")
        for adapter, side in turn.sides.items():
            flags = [flag.text for flag in side.flags]
            told = f" [{', '.join(flags)}]" if flags else ""
            said = side.sample["text"] if side.sample else side.refused or side.partial or "..."
            lines.append(f"  {'tuned' if adapter else 'base'}: {_line(said)}{told}")
    return "\n".join(lines)


def _told(asked: answers.Asked, kept: answers.Kept | None) -> Turn:
    found = {True: asked.tuned, False: asked.base}
    sides = {
        adapter: Side(sample, kept=kept.behind(sample) if kept else None)
        for adapter, sample in found.items()
        if sample
    }
    when = max(side.sample.get("t", 0.0) for side in sides.values())
    return Turn(when, str(asked.prompt), asked.system, sides)


def _ids(asked: answers.Asked) -> set[str]:
    return {sample["sample"] for sample in (asked.tuned, asked.base) if sample}


def _wished(
    wish: Wish, history: History, samples: Mapping[str, Sample], refused: Mapping[str, str]
) -> Turn:
    kept, sides = answers.kept(history), {}
    for adapter, id in wish.ids.items():
        sides[adapter] = side = Side(samples.get(id), history.partial.get(id), refused.get(id, ""))
        if side.sample:
            step = kept.behind(side.sample) if kept else None
            sides[adapter] = side._replace(kept=step, fits=_bound(wish, side.sample, history))
    return Turn(wish.t, wish.prompt, wish.system, sides)


def _bound(wish: Wish, sample: Sample, history: History) -> int | None:
    """How many tokens prompt and answer may have together, if the answer ends there: it has fewer than were allowed."""
    if wish.longest is None or (sample.get("tokens") or wish.longest) >= wish.longest:
        return None
    ends = (c["t"] for c in history.commands if c["do"] in ("stop", "cancel", "close"))
    by_an_end = any(0 <= t - sample["t"] < ENDING for t in ends)
    return None if by_an_end else wish.fits


def _question(turn: Turn, limit: int) -> str:
    if turn.prompt is None:
        return f'<div style="{pages.MUTED}">A question that was asked elsewhere</div>'
    system = ""
    if turn.system:
        system = f'<div style="{pages.MUTED};{_TEXT};font-size:12px">system: {quoted.plain(turn.system)}</div>'
    prompt = quoted.html(turn.prompt, min(limit, quoted.SHORT))
    return f'<div style="{_TEXT};line-height:1.45"><b>{prompt}</b></div>{system}'


def _side(adapter: bool, side: Side, limit: int, *, alone: bool) -> str:
    name = (
        "" if alone else f'<div style="{pages.MUTED};font-size:12px">{_name(adapter, side)}</div>'
    )
    if side.sample is not None:
        answer = quoted.html(side.sample["text"], limit)
        below = f'<div style="{pages.MUTED};font-size:12px">{quoted.pace(side.sample)}</div>'
        chips = quoted.chips(side.flags)
        return f'{name}<div style="{_TEXT}">{answer}</div>{chips}{below}'
    if side.refused:
        return name + pages.message("error", answers.shown(side.refused, quoted.SHORT).text)
    if side.partial:
        return f'{name}<div style="{_TEXT}">{quoted.ending(side.partial, limit)}&#9612;</div>'
    return f'{name}<div style="{pages.MUTED}">waiting &#8230;</div>'


def _name(adapter: bool, side: Side) -> str:
    """Whose answer it is; of a tuned model's also after how many steps."""
    step = side.sample.get("step") if side.sample else None
    if not adapter or step is None:
        return _NAMES[adapter]
    return f"Tuned, step {step:,}" if side.kept is None else f"Tuned, step {side.kept:,} (kept)"


def _line(text: str) -> str:
    head = answers.shown(text, IN_TEXT)
    return " ".join(head.text.split()) + ("\N{HORIZONTAL ELLIPSIS}" if head.more else "")
