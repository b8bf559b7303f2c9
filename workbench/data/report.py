"""What there is to know about rows before they are trained: figures, what cutting costs, and findings sorted by harm.

Puts together what the modules below count; `report_text.py` writes it for people. Changes nothing (`clean.py` does).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..problems import DataError
from ..recipe import LossOn
from . import batching, duplicates, figures, findings, report_text, split, survey, table
from .faults import Faults
from .rows import Row

if TYPE_CHECKING:
    import numpy as np

    from .tokenizer import ChatTokenizer

CUTS = ("cut", "answer_cut", "answer_cut_off", "longer_than_context")
CHECKED = 64  # rows that the chat template is checked with: what it does to one it does to most
Progress = Callable[[int, int | None], None]
Source = str | Path | Sequence[Any]


@dataclass(frozen=True)
class Asked:
    """The settings that a report depends on, beside its rows; lengths in tokens, batches in rows."""

    tokenizer: "ChatTokenizer | None" = None
    max_length: int = 2048
    loss_on: LossOn = "assistant"
    batch_size: int = 2
    effective_batch: int = 16
    heldout_share: float = 0.05
    context: int | None = None


class Sides(NamedTuple):
    """Positions of what is trained and of what is measured; the latter in `heldout`, which may be the same rows."""

    train: "np.ndarray"
    heldout: Sequence[Row]
    measured: "np.ndarray"
    reserve: int
    why: str


@dataclass(frozen=True, eq=False)
class Report:
    """What `report` found; `str` writes it all, `to_dict` has it as plain values for JSON.

    `rows` could be read, of `records` that were looked at. `figures` is None where tokens were not counted, and then
    `steps` counts all training rows. `origin` is the path of the source, if it was given as one. `seconds` says what each part of the looking took.
    """

    name: str
    shape: str
    why: str
    rows: int
    records: int
    turns: int
    train_rows: int
    heldout_rows: int
    reserve_rows: int
    split: str
    steps: int
    figures: figures.Figures | None
    batching: batching.Batching | None
    findings: tuple[findings.Finding, ...]
    seconds: Mapping[str, float]
    asked: Asked = field(repr=False)
    source: Sequence[Row] = field(repr=False)
    sides: Sides = field(repr=False)
    texts: survey.Survey = field(repr=False)
    origin: Path | None = None

    def __str__(self) -> str:
        return report_text.text(self)

    def of(self, kind: str) -> findings.Finding | None:
        """The first finding of a kind, None if there is none."""
        return next((found for found in self.findings if found.kind == kind), None)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values; `problems` are the findings."""
        said: dict[str, Any] = {
            name: getattr(self, name)
            for name in "name shape why rows records turns train_rows heldout_rows reserve_rows split steps".split()
        }
        said |= {"max_length": self.asked.max_length, "effective_batch": self.asked.effective_batch}
        said["tokens"] = said["trained_tokens"] = None
        if counted := self.figures:
            edges, counts = figures.histogram(counted.lengths, counted.max_length)
            said |= {"tokens": counted.tokens, "trained_tokens": counted.trained_tokens}
            said["lengths"] = {"edges": edges.tolist(), "counts": counts.tolist()}
            said["truncation"] = [cut._asdict() for cut in counted.cuts]
        if planned := self.batching:
            said["batching"] = {
                "choice": planned.choice,
                "why": planned.why,
                "waste": planned.waste,
            }
        said["problems"] = [found.to_dict() for found in self.findings]
        return said


def report(
    source: Source,
    *,
    tokenizer: "ChatTokenizer | None" = None,
    heldout: Source | None = None,
    max_length: int = 2048,
    loss_on: LossOn = "assistant",
    batch_size: int = 2,
    effective_batch: int = 16,
    heldout_share: float = 0.05,
    context: int | None = None,
    progress: Progress | None = None,
    **reading: Any,
) -> Report:
    """Looks at a source (what `read` takes, or rows) and says what is worth knowing before training on it.

    Faulty rows are findings too. `context` is how many tokens the model can read. Without a tokenizer no tokens are
    counted. Raises DataError when the source cannot be read at all.
    """
    asked = Asked(
        tokenizer, max_length, loss_on, batch_size, effective_batch, heldout_share, context
    )
    clock = _Clock()
    rows = _rows(source, progress, reading)
    others = None if heldout is None else _rows(heldout, progress, reading)
    clock.lap("read")
    looked = look_at(rows, others, asked, progress, clock)
    origin = Path(source).expanduser() if isinstance(source, str | Path) else None
    return replace(looked, origin=origin if origin and origin.exists() else None)


def look_at(
    rows: Sequence[Row],
    heldout: Sequence[Row] | None,
    asked: Asked,
    progress: Progress | None = None,
    clock: "_Clock | None" = None,
) -> Report:
    """The report on rows that were read already; `heldout` is None where a share of the rows is held out."""
    clock = clock or _Clock()
    sides = _sides(rows, heldout, asked)
    clock.lap("split")
    texts = survey.survey(rows, signs=_signs(asked.tokenizer), progress=progress)
    found = findings.of_texts(rows, texts)
    clock.lap("texts")
    found += _copies(rows, heldout, sides, texts)
    clock.lap("duplicates")
    counted, planned = _tokens(rows, asked, sides, found, progress)
    clock.lap("tokens")
    for some in (rows, heldout):
        if some is not None:
            found += findings.of_faults(faults_of(some), name_of(some))
    found += findings.too_few(len(rows))
    shape, records = getattr(rows, "shape", None), getattr(rows, "records", len(rows))
    steps = figures.steps(len(sides.train), asked.effective_batch)
    return Report(
        name=name_of(rows),
        shape=shape.name if shape else "messages",
        why=shape.why if shape else "they are rows already",
        rows=len(rows),
        records=records,
        turns=texts.turns,
        train_rows=len(sides.train),
        heldout_rows=len(sides.measured),
        reserve_rows=sides.reserve,
        split=sides.why,
        steps=planned.steps_per_epoch[planned.choice] if planned else steps,
        figures=counted,
        batching=planned,
        findings=findings.ordered(found),
        seconds=clock.laps,
        asked=asked,
        source=rows,
        sides=sides,
        texts=texts,
    )


def _copies(
    rows: Sequence[Row], heldout: Sequence[Row] | None, sides: Sides, texts: survey.Survey
) -> list[findings.Finding]:
    """Rows that are there twice, within the rows and on both sides."""
    sketches = duplicates.Sketches(rows, heldout)
    repeated, near = duplicates.repeats(sketches.keys), duplicates.near(sketches)
    clashing = duplicates.conflicting(texts.prompts, texts.answers)
    leaking = duplicates.leaks(sketches, sides.train, sides.measured)
    return [
        *findings.of_copies(rows, repeated, near, clashing),
        *findings.of_leaks(rows, sides.heldout, leaking),
    ]


def name_of(rows: Sequence[Row]) -> str:
    """A short name for rows, for messages."""
    return getattr(rows, "name", "the rows")


def faults_of(rows: Sequence[Row]) -> Faults:
    """The faults of the rows that could not be read."""
    return getattr(rows, "faults", Faults())


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Notes the seconds since the last lap."""
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now


def _rows(source: Source, progress: Progress | None, reading: Mapping[str, Any]) -> Sequence[Row]:
    """The rows of a source, the readable ones if some are not; rows are passed on as they are."""
    if isinstance(source, table.Rows):
        return source
    listed = isinstance(source, Sequence) and not isinstance(source, str) and len(source) > 0
    if listed and all(isinstance(row, Row) for row in source):
        return source
    return table.look(source, progress=progress, **reading)


def _sides(rows: Sequence[Row], heldout: Sequence[Row] | None, asked: Asked) -> Sides:
    import numpy as np

    if heldout is not None:
        why = f"{len(heldout):,} held-out rows are read from {name_of(heldout)}."
        return Sides(np.arange(len(rows)), heldout, np.arange(len(heldout)), 0, why)
    parted = split.split(rows, share=asked.heldout_share)
    return Sides(parted.train, rows, parted.heldout, len(parted.reserve), parted.why)


def _signs(tokenizer: "ChatTokenizer | None") -> list[str]:
    """The texts that a tokenizer takes for special tokens."""
    if tokenizer is None:
        return []
    return [text for text, added in tokenizer.added.items() if added.special]


def _of_template(rows: Sequence[Row], asked: Asked) -> list[findings.Finding]:
    """What the chat template does to CHECKED of the rows, spread over all of them."""
    import numpy as np

    from . import template

    places = np.unique(np.linspace(0, len(rows) - 1, CHECKED).astype(np.int64))
    some = [rows[int(place)] for place in places]
    problems = template.check(asked.tokenizer, some, asked.loss_on)
    # special tokens in what is said were found in all rows already
    told = [problem for problem in problems if problem.where != "data.train"]
    harmless = [problem for problem in told if problem.cure.startswith("Nothing to do")]
    return [
        *findings.of_problems([one for one in told if one not in harmless], "template", "warning"),
        *findings.of_problems(harmless, "template", "hint"),
    ]


def _tokens(
    rows: Sequence[Row],
    asked: Asked,
    sides: Sides,
    found: list[findings.Finding],
    progress: Progress | None,
) -> tuple[figures.Figures | None, batching.Batching | None]:
    """Counts tokens, if there is a tokenizer and rows that it can write, and adds what that shows to `found`."""
    import numpy as np

    if asked.tokenizer is None or not len(rows):
        return None, None
    from .encode import tokenize  # without tokens a report needs none of it

    try:
        tokenized = tokenize(rows, asked.tokenizer, loss_on=asked.loss_on, progress=progress)
    except DataError as error:
        found += findings.of_problems(error.problems, "template", "stop")
        return None, None
    found += _of_template(rows, asked)
    counted = figures.figures(tokenized, max_length=asked.max_length)
    fed = counted.lengths[sides.train][counted.kept[sides.train] > 0]
    raw_text = all(not row.messages for row in rows[:1])
    planned = None
    if len(fed):
        planned = batching.plan(
            np.maximum(fed, 1),
            batch_size=min(asked.batch_size, asked.effective_batch),
            accumulation=max(1, asked.effective_batch // asked.batch_size),
            max_length=asked.max_length,
            raw_text=raw_text,
        )
    loss_on = asked.loss_on
    ends = loss_on in ("assistant", "last") or (
        isinstance(loss_on, list) and "assistant" in loss_on
    )
    shown = findings.of_tokens(rows, counted, ends=ends, context=asked.context)
    if planned and planned.choice == "wrapped":  # texts run on, so that none is cut
        shown = [one for one in shown if one.kind not in CUTS]
    found += shown
    return counted, planned
