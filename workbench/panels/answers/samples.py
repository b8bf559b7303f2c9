"""What the model says, as tables: before and after side by side, with what changed marked and exact matches ticked.

Knows no widgets: the tables stay readable in a saved notebook. The answers at each checkpoint are in `sheet.py`.
"""

import asyncio
from html import escape

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
    text = " ".join(filter(None, scores)) or f"{len(pairs)} prompts, before and after."
    step = max((pair.after["step"] for pair in pairs if pair.after), default=0)
    head = ("Asked", "Expected", "Before", f"After {step:,} steps")
    return pages.Page(pages.table(head, rows, caption=text), text)


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
        return ""
    when = f"After {score['step']:,} steps" if adapter else "Before training"
    share = score["correct"] / score["rows"]
    return (
        f"{when}: {score['correct']:,} of {score['rows']:,} held-out answers exact ({share:.1%})."
    )


def _row_cells(row: Row) -> tuple[str, str, str]:
    if not row.messages:
        return str(row.number), "", quoted.html(row.text)
    said = [f"<i>{escape(m.role)}</i> {quoted.html(m.content)}" for m in row.messages[:-1]]
    return str(row.number), "\n".join(said), quoted.html(row.messages[-1].content)
