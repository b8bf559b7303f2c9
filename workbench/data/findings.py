"""What is worth telling about rows: each finding with its harm, its rows and a cure of one line.

Judges what `survey.py`, `duplicates.py` and `figures.py` counted. Knows no files, and changes no rows (`clean.py`).
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..problems import Problem
from . import languages
from .duplicates import Near
from .faults import Faults
from .figures import Figures
from .kinds import LEVELS, TEXTS, Level
from .rows import NAMED, Row, named
from .survey import ENOUGH, Survey, Told

if TYPE_CHECKING:
    import numpy as np

LISTED = 20  # rows that a finding lists; `positions` has all of them
FEW = 32  # rows below which a model learns them by heart and nothing else
USUAL = 0.9  # share of the rows from which on something is usual, and the others stand out
FREE = (
    0.3  # different answers of all, from which on answers are free text and not a choice among few
)
OFTEN = 0.1  # share of the rows that may have the same answer where answers are free text
GUESSED = 0.5  # share of the rows whose language must be told before others are called unlike it


class Finding(NamedTuple):
    """Something about the rows at `positions`: its harm, a sentence, and what to do.

    `rows` lists the first of them, by number, or as "7 of b.csv" where there are several files. `remedy` names a cure
    that `clean` can apply, or is empty. Rows that could not be read have no positions.
    """

    kind: str
    level: Level
    count: int
    positions: "np.ndarray"
    rows: tuple[int | str, ...]
    fact: str
    cure: str
    remedy: str = ""

    def to_dict(self) -> dict[str, object]:
        """As plain values for JSON, without the positions."""
        return {name: value for name, value in self._asdict().items() if name != "positions"} | {
            "rows": list(self.rows)
        }


def of_faults(faults: Faults, name: str) -> list[Finding]:
    """A finding for each kind of fault that kept rows from being read."""
    import numpy as np

    found = []
    for group in sorted(faults.groups, key=lambda group: (group.file, group.numbers[0])):
        where = f"{group.file or name}, {named(group.numbers)}"
        rows = tuple(
            f"{number} of {group.file}" if group.file else number
            for number in group.numbers[:LISTED]
        )
        fact = f"{where}: {group.fact}."
        nowhere = np.empty(0, np.int64)
        numbers = len(group.numbers)
        found.append(
            Finding(group.kind, "stop", numbers, nowhere, rows, fact, group.cure, "drop_faulty")
        )
    if faults.others:
        fact = f"{faults.others:,} more rows cannot be read, for yet other reasons."
        cure = "They are shown when those above are mended."
        nowhere = np.empty(0, np.int64)
        found.append(
            Finding("malformed", "stop", faults.others, nowhere, (), fact, cure, "drop_faulty")
        )
    return found


def of_problems(problems: Iterable[Problem], kind: str, level: Level) -> list[Finding]:
    """Findings that concern the tokenizer or the template and not single rows."""
    import numpy as np

    return [
        Finding(kind, level, 1, np.empty(0, np.int64), (), problem.fact, problem.cure)
        for problem in problems
    ]


def of_texts(rows: Sequence[Row], survey: Survey) -> list[Finding]:
    """What the texts by themselves show: roles, answers, scripts, secrets."""
    found = [of_rows(kind, rows, positions) for kind, positions in survey.order.items()]
    found += of_shares(rows, survey)
    kinds = {"secret": "secrets", "personal": "personal_data", "special_tokens": "special_tokens"}
    found += [_told(kinds[kind], rows, told) for kind, told in survey.told.items()]
    return [finding for finding in found if finding.count]


def of_shares(rows: Sequence[Row], survey: Survey) -> list[Finding]:
    """What stands out from the rest: answers, scripts, languages. It depends on what the rest is."""
    found = _answers(rows, survey)
    found += _unlike(rows, survey.scripts, languages.SCRIPTS, "other_script", known=0)
    found += _unlike(rows, survey.languages, languages.LANGUAGES, "other_language", known=GUESSED)
    return found


def of_copies(
    rows: Sequence[Row], repeated: "np.ndarray", near: Near, conflicting: "np.ndarray"
) -> list[Finding]:
    """Rows that are there more than once, or contradict each other."""
    found = [
        of_rows("duplicates", rows, repeated),
        of_rows("near_duplicates", rows, near.later, like=near.earlier, more=_sampled(near)),
        of_rows("conflicting_answers", rows, conflicting),
    ]
    return [finding for finding in found if finding.count]


def of_leaks(rows: Sequence[Row], heldout: Sequence[Row], leaks: Near) -> list[Finding]:
    """Training rows that the held-out rows hold too."""
    found = of_rows(
        "leaks", rows, leaks.later, like=leaks.earlier, others=heldout, more=_sampled(leaks)
    )
    return [found] if found.count else []


def of_tokens(
    rows: Sequence[Row], figures: Figures, *, ends: bool, context: int | None
) -> list[Finding]:
    """What tokens show: rows that are cut, teach nothing, or do not teach to stop (asked for with `ends`)."""
    import numpy as np

    longer, nothing = figures.lengths > figures.max_length, figures.kept == 0
    asked = {
        "nothing_trained": nothing & ~(longer & (figures.lost > 0)),
        "answer_cut_off": nothing & longer & (figures.lost > 0),
        "answer_cut": ~nothing & (figures.lost > 0),
        "cut": ~nothing & longer & (figures.lost == 0),
    }
    if context:
        asked["longer_than_context"] = figures.lengths > context
    if ends:
        asked["no_end"] = ~figures.ended & (figures.trained > 0)
    found = [of_rows(kind, rows, np.flatnonzero(which)) for kind, which in asked.items()]
    if nothing.all() and len(rows):
        found = [
            finding._replace(level="stop") if finding.kind in ("nothing_trained", "answer_cut_off") else finding
            for finding in found
        ]  # fmt: skip
    return [finding for finding in found if finding.count]


def too_few(rows: int) -> list[Finding]:
    """Whether there are hardly any rows."""
    import numpy as np

    if rows >= FEW:
        return []
    level: Level = "warning" if rows else "stop"
    what = f"There {'is' if rows == 1 else 'are'} only {rows:,} row{'' if rows == 1 else 's'}"
    what = what if rows else "There are no rows"
    fact = f"{what}: " + (
        "the model learns them by heart." if rows else "there is nothing to learn."
    )
    nowhere = np.empty(0, np.int64)
    return [
        Finding("too_few", level, rows, nowhere, (), fact, "A few hundred good rows are a start.")
    ]


def of_rows(
    kind: str,
    rows: Sequence[Row],
    positions: Iterable[int],
    *,
    shown: Sequence[str] = (),
    like: Sequence[int] = (),
    others: Sequence[Row] = (),
    more: str = "",
) -> Finding:
    """A finding of TEXTS; `shown` says something of the first rows, `like` which of `others` (or rows) they resemble."""
    import numpy as np

    positions = np.asarray(positions, np.int64)
    level, does, cure, remedy = TEXTS[kind]
    first = [rows[int(place)] for place in positions[:LISTED]]
    words = list(shown[:NAMED])
    if len(like):
        near = [(others or rows)[int(place)].name for place in like[:NAMED]]
        words = [f"as {'held-out ' if others else ''}{name}" for name in near]
    numbers = tuple(f"{row.number} of {row.file}" if row.file else row.number for row in first)
    count = len(positions)
    said = _plural(does, count)
    fact = f"{count:,} {said}{more}: {_names(first, count, words)}."
    return Finding(kind, level, count, positions, numbers, fact, cure, remedy)


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sorted by harm, then by the number of rows, then as the kinds are told in TEXTS."""
    kinds = list(TEXTS)

    def harm(found: Finding) -> tuple[int, int, int]:
        known = kinds.index(found.kind) if found.kind in TEXTS else -1
        return LEVELS.index(found.level), -found.count, known

    return tuple(sorted(findings, key=harm))


def _plural(does: str, count: int) -> str:
    """ "rows have no end" or, for one, "row has no end"."""
    if count != 1:
        return f"rows {does}"
    verb, _, rest = does.partition(" ")
    one = {"are": "is", "have": "has", "do": "does", "go": "goes", "lose": "loses"}
    return f"row {one.get(verb, verb + 's')} {rest}"


def _names(first: Sequence[Row], count: int, words: Sequence[str]) -> str:
    """ "rows 1 (…), 2 (…), 3 (…) and 17 more", with the file where there are several."""
    several = any(row.file for row in first)
    said = [row.name if several else f"{row.number:,}" for row in first[:NAMED]]
    notes = [f" ({word})" for word in words] or [""] * len(said)
    names = ", ".join(name + note for name, note in zip(said, notes, strict=True))
    start = "" if several else ("row " if count == 1 else "rows ")
    more = f" and {count - NAMED:,} more" if count > NAMED else ""
    return f"{start}{names}{more}"


def _sampled(near: Near) -> str:
    return f" ({near.looked:,} of {near.rows:,} were compared)" if near.sampled else ""


def _told(kind: str, rows: Sequence[Row], told: Sequence[Told]) -> Finding:
    """One finding for rows in which something was found; each row is counted once, with the first that it holds."""
    first: dict[int, Told] = {}
    for each in told:
        first.setdefault(each.position, each)
    shown = [
        each.shown if each.what == each.shown else f"{each.what}, {each.shown}"
        for each in list(first.values())[:NAMED]
    ]
    return of_rows(kind, rows, list(first), shown=shown)


def _answers(rows: Sequence[Row], survey: Survey) -> list[Finding]:
    """Answers that are empty, that are shorter than usual, or that come again and again."""
    import numpy as np

    if not len(survey):
        return []
    found = [of_rows("empty_answer", rows, np.flatnonzero(survey.words == 0))]
    one = (survey.words > 0) & (survey.words < ENOUGH)
    if one.mean() < 1 - USUAL:
        places = np.flatnonzero(one)
        shown = [repr(rows[int(p)].answer or rows[int(p)].text) for p in places[:NAMED]]
        found.append(of_rows("short_answer", rows, places, shown=shown))
    answers = survey.answers[survey.answers != 0]
    if len(answers) >= FEW:
        different, counts = np.unique(answers, return_counts=True)
        top = counts.argmax()
        free = len(different) >= FREE * len(answers)
        if counts[top] >= (OFTEN if free else USUAL) * len(answers):
            places = np.flatnonzero(survey.answers == different[top])
            found.append(of_rows("same_answer", rows, places))
    return found


def _unlike(
    rows: Sequence[Row],
    which: "np.ndarray",
    names: Sequence[str],
    kind: str,
    *,
    known: float,
) -> list[Finding]:
    """The rows whose script or language is not that of nearly all; `known` is the share that must be told."""
    import numpy as np

    counts = np.bincount(which, minlength=len(names))
    counts[0] = 0
    told, main = counts.sum(), counts.argmax()
    if not told or told < known * len(which) or counts[main] < USUAL * told:
        return []
    places = np.flatnonzero((which != main) & (which != 0))
    return [of_rows(kind, rows, places, shown=[names[which[place]] for place in places[:NAMED]])]
