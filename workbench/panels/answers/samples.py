"""What the model says, as tables: before and after side by side, with what changed marked and exact matches ticked.

Knows no widgets: the tables stay readable in a saved notebook. The answers at each checkpoint are in `sheet.py`.
"""

import asyncio
import math
from collections.abc import Collection, Mapping
from html import escape
from typing import Any

from ... import answers
from ...answers import Sample
from ...data import sides
from ...data.rows import Row
from ...events import History
from ...recipe import Recipe
from ...run import Run
from ...summary import exact_match
from .. import pages
from . import quoted

POLL_SECONDS = 0.2
_NOT_ASKED = f'<i style="{pages.MUTED}">not asked</i>'


def glance(recipe: Recipe, count: int = 3) -> pages.Page:
    """The recipe's data at a glance: how many rows, and the first few as the model will meet them.

    Raises DataError when a file cannot be used.
    """
    both = sides.read(recipe.data)
    rows = [_row_cells(row) for row in both.train.first(count)]
    sizes = f"{len(both.train):,} training rows, {len(both.heldout or ()):,} held out rows"
    text = f"{sizes}; the first {len(rows)} training rows:"
    return pages.Page(pages.table(("Row", "Asked", "To be answered"), rows, caption=text), text)


async def answers_before(run: Run) -> pages.Page:
    """Waits until the untrained model has answered the run's prompts, and shows its answers.

    Raises RunError with the cause and the cure when the run fails before that.
    """
    while not _asked_before(run.history):
        if run.state == "failed":
            await run.finished()
        if run.history.over:
            break
        await asyncio.sleep(POLL_SECONDS)
    rows = [
        (
            quoted.html(pair.asked),
            quoted.html(pair.expected or ""),
            _said(pair.before, quoted.html(_text(pair.before))),
        )
        for pair in answers.paired(run.history)
    ]
    text = _score_text(run.history, adapter=False)
    head = ("Asked", "Expected", "The base model, before training")
    return pages.Page(pages.table(head, rows, caption=text), text)


def compare_samples(run: Run) -> pages.Page:
    """The run's prompts with the answers before and after training, side by side."""
    run.refresh()
    pairs = answers.paired(run.history)
    rows = []
    for pair in pairs:
        texts = quoted.marked(_text(pair.before), _text(pair.after), quoted.LONG)
        said = map(_said, (pair.before, pair.after), texts)
        rows.append((quoted.html(pair.asked), quoted.html(pair.expected or ""), *said))
    scores = [_score_text(run.history, adapter=adapter) for adapter in (False, True)]
    told = " ".join(filter(None, scores)) or f"{len(pairs)} prompts, before and after."
    newest = max((pair.after for pair in pairs if pair.after), key=_step, default=None)
    when, step = _when(run.history, newest) if newest else ("After training", None)
    own = unasked(run.history, set() if step is None else {step}) if pairs else ""
    text = f"{told} {own}".strip()
    head = ("Asked", "Expected", "Before", when)
    return pages.Page(pages.table(head, rows, caption=text), text)


def _step(sample: Sample) -> int:
    return sample["step"]


def _when(history: History, said: Mapping[str, Any]) -> tuple[str, int]:
    """After how many steps the adapter behind a sample or a score was left, in words and as a number."""
    own = answers.kept(history)
    step = own.behind(said) if own else None
    if step is None:
        return f"After {said['step']:,} steps", said["step"]
    return f"After {step:,} steps (kept)", step


def unasked(history: History, steps: Collection[int]) -> str:
    """That the answers, which are of these steps' adapters, are not the kept one's; "" where they are, or may yet be."""
    own = answers.kept(history)
    if own is None or not history.over or own.until < math.inf or own.step in steps:
        return ""
    fact = f"The kept adapter is that of step {own.step:,}; "
    fact += f"these answers are of step {max(steps):,}" if steps else "it was not asked"
    return f"{fact}. Press Sample now, or ask it, to see its own."


def _text(sample: Sample | None) -> str:
    return sample["text"] if sample else ""


def _said(sample: Sample | None, text: str) -> str:
    """An answer's text, HTML already, with what is to be told of it below."""
    return text + quoted.verdict(sample) if sample else _NOT_ASKED


def _asked_before(history: History) -> bool:
    """Whether the base model's turn is over: it has answered, and a later phase or step came."""
    first = next((s for s in history.samples if not s["adapter"]), None)
    later = [*history.phases[-1:], *history.steps[-1:]]
    return first is not None and any(event["t"] > first["t"] for event in later)


def _score_text(history: History, *, adapter: bool) -> str:
    score = exact_match(history, adapter=adapter)
    if score is None:
        before = exact_match(history, adapter=False)
        return (
            "Not scored after training: the run was stopped."
            if before and _stopped(history)
            else ""
        )
    when = _when(history, score)[0] if adapter else "Before training"
    share = score["correct"] / score["rows"]
    return (
        f"{when}: {score['correct']:,} of {score['rows']:,} held-out answers exact ({share:.1%})."
    )


def _stopped(history: History) -> bool:
    """Whether the last training ended because it was stopped."""
    ends = (phase["state"] for phase in reversed(history.phases))
    return next((state for state in ends if state in ("training", "stopped")), "") == "stopped"


def _row_cells(row: Row) -> tuple[str, str, str]:
    if not row.messages:
        return str(row.number), "", quoted.html(row.text)
    said = [f"<i>{escape(m.role)}</i> {quoted.html(m.content)}" for m in row.messages[:-1]]
    return str(row.number), "\n".join(said), quoted.html(row.messages[-1].content)
