"""What the model says, as tables: before and after side by side, with what changed marked and exact matches ticked.

All text of rows and models is escaped. Knows no widgets: the tables stay readable in a saved notebook.
"""

import asyncio
import difflib
import re
from collections.abc import Iterable
from html import escape
from typing import Any

from ..data import sides
from ..data.rows import Row
from ..events import History
from ..recipe import Recipe
from ..run import Run
from ..summary import exact_match
from . import pages

POLL_SECONDS = 0.2
_MARK = (
    "background:color-mix(in srgb, var(--jp-warn-color1, #f57c00) 28%, transparent);color:inherit"
)
_TICK = '<span style="color:var(--jp-success-color1, #388e3c)">&#10003; exact</span>'
_CROSS = f'<span style="{pages.MUTED}">&#10007; differs</span>'


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
    pairs = paired(run.history)
    rows = [
        (escape(pair["prompt"]), escape(pair["expected"] or ""), _verdict(pair, "before"))
        for pair in pairs
    ]
    text = _score_text(run.history, adapter=False)
    head = ("Asked", "Expected", "The base model, before training")
    return pages.Page(pages.table(head, rows, caption=text), text)


def compare_samples(run: Run) -> pages.Page:
    """The run's prompts with the answers before and after training, side by side."""
    run.refresh()
    pairs = paired(run.history)
    rows = []
    for pair in pairs:
        before, after = marked(pair["before"] or "", pair["after"] or "")
        rows.append(
            (
                escape(pair["prompt"]),
                escape(pair["expected"] or ""),
                before + _tick(pair["before"], pair["expected"]),
                after + _tick(pair["after"], pair["expected"]),
            )
        )
    texts = [_score_text(run.history, adapter=adapter) for adapter in (False, True)]
    text = " ".join(filter(None, texts)) or f"{len(pairs)} prompts, before and after."
    step = max((pair["step"] for pair in pairs), default=0)
    head = ("Asked", "Expected", "Before", f"After {step:,} steps")
    return pages.Page(pages.table(head, rows, caption=text), text)


def newest(history: History, count: int = 3) -> str:
    """The newest answer to each of the run's prompts, for the monitor; answers being written come first."""
    rows = [("now", "", escape(text)) for text in history.partial.values()]
    latest = {_number(sample): sample for sample in _of_the_run(history)}
    for sample in list(latest.values())[:count]:
        answer = escape(sample["text"]) + _tick(sample["text"], sample["expected"])
        rows.append((f"{sample['step']:,}", escape(sample["prompt"]), answer))
    return pages.table(("Step", "Asked", "Answered"), rows) if rows else ""


def paired(history: History) -> list[dict[str, Any]]:
    """For each of the run's prompts: `prompt`, `expected`, the base's answer `before`, and the newest `after` with its `step`."""
    pairs: dict[str, dict[str, Any]] = {}
    for sample in _of_the_run(history):
        pair = pairs.setdefault(
            _number(sample),
            {"prompt": sample["prompt"], "expected": sample["expected"], "step": 0}
            | {"before": None, "after": None},
        )
        pair["after" if sample["adapter"] else "before"] = sample["text"]
        pair["step"] = max(pair["step"], sample["step"])
    return list(pairs.values())


def marked(before: str, after: str) -> tuple[str, str]:
    """Both texts as escaped HTML, with the words that the other does not have in their place marked."""
    here, there = _words(before), _words(after)
    left, right = [], []
    for what, a, b, c, d in difflib.SequenceMatcher(
        None, here, there, autojunk=False
    ).get_opcodes():
        left.append(_mark("".join(here[a:b]), what != "equal"))
        right.append(_mark("".join(there[c:d]), what != "equal"))
    return "".join(left), "".join(right)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|\s+|[^\w\s]", text)


def _mark(text: str, changed: bool) -> str:
    text = escape(text)
    return f'<mark style="{_MARK}">{text}</mark>' if changed and text else text


def _tick(text: str | None, expected: str | None) -> str:
    if text is None:
        return f'<i style="{pages.MUTED}">not asked</i>'
    if expected is None:
        return ""
    return "<br>" + (_TICK if text.strip() == expected.strip() else _CROSS)


def _verdict(pair: dict[str, Any], which: str) -> str:
    return escape(pair[which] or "") + _tick(pair[which], pair["expected"])


def _of_the_run(history: History) -> Iterable[dict[str, Any]]:
    """The answers to the recipe's prompts; what a user asked has another kind of id."""
    return (sample for sample in history.samples if sample["sample"].startswith("step-"))


def _number(sample: dict[str, Any]) -> str:
    return sample["sample"].rpartition("-")[2]


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
        return str(row.number), "", escape(row.text)
    asked = [f"<i>{escape(m.role)}</i> {escape(m.content)}" for m in row.messages[:-1]]
    return str(row.number), "\n".join(asked), escape(row.messages[-1].content)
