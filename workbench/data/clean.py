"""Writes a source anew with chosen cures applied, and accounts for every row that was dropped or changed.

Applies what `cures.py` does to single rows and drops the rows that `findings.py` tells of. Never writes over its source.
"""

import difflib
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from ..problems import DataError, Problem
from . import duplicates, findings, table
from .cures import CHANGES
from .differences import difference
from .report import Report, Source, faults_of, look_at, name_of, report
from .rows import NAMED, Row, named

if TYPE_CHECKING:
    import numpy as np

# cures -> the findings whose rows they drop; of the first, what stands out depends on what the rest is
STANDING_OUT = {
    "drop_empty": ("empty_answer",),
    "drop_short": ("short_answer",),
    "drop_other_script": ("other_script",),
    "drop_other_language": ("other_language",),
}
WITHOUT_ANSWER = {
    "drop_untrained": ("nothing_trained", "answer_cut_off"),
    "drop_cut": ("answer_cut",),
}
COPIES = ("drop_duplicates", "drop_near_duplicates", "drop_leaks")
CURES = ("drop_faulty", *CHANGES, *STANDING_OUT, *WITHOUT_ANSWER, *COPIES)


class Applied(NamedTuple):
    """What a cure did: the rows that it dropped or changed, the first of them by name, and examples of changes."""

    cure: str
    rows: int
    dropped: bool
    names: tuple[str, ...]
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Cleaned:
    """What was written to `path`: of `before` rows that were looked at, `after` are in it.

    Those that are not are in `applied`, each under the first cure that dropped it.
    """

    path: Path
    name: str
    before: int
    after: int
    applied: tuple[Applied, ...]

    @property
    def dropped(self) -> int:
        """Rows that are not in the new file."""
        return sum(each.rows for each in self.applied if each.dropped)

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.before:,} rows looked at, {self.after:,} are in {self.path}."]
        wide = max((len(each.cure) for each in self.applied), default=0)
        figures = max((len(f"{each.rows:,}") for each in self.applied), default=0)
        for each in self.applied:
            done = "dropped" if each.dropped else "changed"
            line = f"  {each.cure:<{wide}}  {each.rows:>{figures},} {done}"
            lines.append(line + (f": {_list(each.names, each.rows)}" if each.rows else ""))
            lines += [textwrap.indent(example, " " * 6) for example in each.examples]
        return "\n".join(lines)


def clean(
    source: Report | Source,
    cures: Sequence[str] | Literal["suggested"],
    *,
    to: str | Path,
    replace: bool = False,
    **asked: Any,
) -> Cleaned:
    """Writes the rows to the JSONL file `to` with the cures applied, and says what they did.

    `suggested` takes the cures of all findings that are more than hints. `replace` allows to write over a file, but
    never over the rows themselves. What is no report yet is looked at as `report` does, with its arguments. Raises
    DataError, and then nothing is written.
    """
    looked = source if isinstance(source, Report) else report(source, **asked)
    chosen = _chosen(looked, cures)
    path = _target(looked, Path(to).expanduser(), replace=replace)
    changed = _Changed(looked.source, {name: CHANGES[name] for name in CHANGES if name in chosen})
    again = looked
    if changed.steps and set(chosen) - {"drop_faulty", *CHANGES}:
        heldout = None if looked.sides.heldout is looked.source else looked.sides.heldout
        again = look_at(changed, heldout, looked.asked)
    gone = _dropped(changed, again, chosen)
    kept = _Part(changed, _rest(len(changed), [places for _, places in gone]))
    if not len(kept):
        fact = f"{', '.join(chosen)} would leave none of the {len(changed):,} rows."
        raise DataError([Problem(looked.name, fact, "Choose fewer cures.")])
    applied = [*_faulty(looked, chosen), *_changes(changed, kept.positions)]
    for cure, places in gone:
        first = [changed.rows[int(place)] for place in places[:NAMED]]
        names = tuple(row.name for row in first)
        applied.append(Applied(cure, len(places), True, names, ()))
    written = table.write(kept, path)
    return Cleaned(written, looked.name, looked.records, len(kept), tuple(applied))


class _Changed(Sequence[Row]):
    """Rows with changes applied as they are read; nothing is kept but which rows change."""

    def __init__(self, rows: Sequence[Row], steps: dict[str, Callable[[Row], Row]]) -> None:
        self.rows, self.steps = rows, steps
        self.name, self.faults = name_of(rows), faults_of(rows)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        if isinstance(place, slice):
            return [self._after(row) for row in self.rows[place]]
        return self._after(self.rows[place])

    def __iter__(self) -> Iterator[Row]:
        return map(self._after, self.rows)

    @cached_property
    def content_keys(self) -> "np.ndarray":
        """As of the rows, anew where a row was changed."""
        keys = duplicates.content_keys(self.rows)
        if not self.steps:
            return keys
        keys = keys.copy()
        for position, row in enumerate(self.rows):
            after = self._after(row)
            if after is not row:
                keys[position] = after.content_key()
        return keys

    def _after(self, row: Row) -> Row:
        for step in self.steps.values():
            row = _step(step, row)
        return row


class _Part(Sequence[Row]):
    """Some of the rows, by position."""

    def __init__(self, rows: Sequence[Row], positions: "np.ndarray") -> None:
        self.rows, self.positions = rows, positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, place: int) -> Row:
        return self.rows[int(self.positions[place])]

    def __iter__(self) -> Iterator[Row]:
        kept = set(self.positions.tolist()) if len(self.positions) < len(self.rows) else None
        for position, row in enumerate(self.rows):
            if kept is None or position in kept:
                yield row


def _step(step: Callable[[Row], Row], row: Row) -> Row:
    """The changed row, or the very same one where nothing changes."""
    after = step(row)
    return row if after == row else after


def _chosen(looked: Report, cures: Sequence[str] | str) -> list[str]:
    """The cures in the order in which they are applied. Raises DataError for those that cannot be."""
    if cures == "suggested":
        wanted = {found.remedy for found in looked.findings if found.level != "hint"} - {""}
        # to lose a long row, or one that ends too early, is for its owner to decide
        wanted -= {"drop_cut"}
    else:
        wanted = {cures} if isinstance(cures, str) else set(cures)
    problems = []
    if unknown := sorted(wanted - set(CURES)):
        close = difflib.get_close_matches(unknown[0], CURES, 1)
        cure = f"Did you mean {close[0]}?" if close else f"Known are {', '.join(CURES)}."
        problems.append(Problem("cures", f"There is no cure {', '.join(unknown)}.", cure))
    untold = [cure for cure in WITHOUT_ANSWER if cure in wanted]
    if untold and looked.figures is None:
        fact = f"{' and '.join(untold)} cannot be applied: no tokens were counted."
        problems.append(Problem("cures", fact, "Give a report that has a tokenizer."))
    faulty = looked.records - looked.rows
    if faulty and "drop_faulty" not in wanted:
        fact = f"{faulty:,} row{'' if faulty == 1 else 's'} of {looked.name} cannot be read, and so not be written."
        problems.append(Problem("cures", fact, "Mend them, or add drop_faulty to the cures."))
    if problems:
        raise DataError(problems)
    return [cure for cure in CURES if cure in wanted]


def _target(looked: Report, path: Path, *, replace: bool) -> Path:
    """The path to write to. Raises DataError where that would change what the rows are read from, or another file."""
    origin = looked.origin
    if origin is not None and path.exists() and path.samefile(origin):
        fact = f"{path} is the file that the rows come from."
    elif origin is not None and origin.is_dir() and path.resolve().parent == origin.resolve():
        fact = f"{path} would lie in the folder that the rows come from, and be read with them."
    elif origin is None and path.exists() and path.name in getattr(looked.source, "files", ()):
        fact = f"{path} has the name of a file that the rows come from."
    elif path.exists() and path.name in getattr(looked.sides.heldout, "files", ()):
        fact = f"{path} has the name of a file that the held-out rows come from."
    elif path.exists() and not replace:
        cure = "Give another path, or replace=True (--replace)."
        raise DataError([Problem(str(path), f"There is a file {path} already.", cure)])
    else:
        return path
    raise DataError([Problem(str(path), fact, "Give another path; the source is kept.")])


def _dropped(rows: "_Changed", looked: Report, chosen: list[str]) -> list[tuple[str, "np.ndarray"]]:
    """For each cure that drops rows the positions that it drops, none of them twice."""
    import numpy as np

    kept = np.ones(len(rows), bool)
    gone = {
        cure: np.empty(0, np.int64) for cure in CURES[1:] if cure in chosen and cure not in CHANGES
    }

    def drop(cure: str, positions: "np.ndarray") -> bool:
        positions = np.unique(positions[kept[positions]])
        kept[positions] = False
        gone[cure] = np.union1d(gone[cure], positions)
        return len(positions) > 0

    def drop_standing_out() -> None:
        """Until nothing does: without some of the rows others may."""
        more = True
        while more and kept.any():
            left = np.flatnonzero(kept)
            found = findings.of_shares(_Part(rows, left), looked.texts.part(left))
            more = False
            for cure, kinds in STANDING_OUT.items():
                for each in found:
                    if cure in chosen and each.kind in kinds:
                        more |= drop(cure, left[each.positions])

    for cure, kinds in WITHOUT_ANSWER.items():
        for each in looked.findings:
            if cure in chosen and each.kind in kinds:
                drop(cure, each.positions)
    drop_standing_out()
    _drop_copies(rows, looked, chosen, kept, drop)
    drop_standing_out()
    return list(gone.items())


def _drop_copies(
    rows: "_Changed",
    looked: Report,
    chosen: list[str],
    kept: "np.ndarray",
    drop: Callable[[str, "np.ndarray"], bool],
) -> None:
    """Drops what is there twice; `kept` says what is left before each of the cures."""
    import numpy as np

    if "drop_duplicates" in chosen:
        left = np.flatnonzero(kept)
        drop("drop_duplicates", left[duplicates.repeats(rows.content_keys[left])])
    if "drop_near_duplicates" in chosen:
        sketches = duplicates.Sketches(rows, among=np.flatnonzero(kept))
        drop("drop_near_duplicates", duplicates.near(sketches).later)
    if "drop_leaks" in chosen:
        sides, two = looked.sides, looked.sides.heldout is not looked.source
        sketches = duplicates.Sketches(
            rows, sides.heldout if two else None, among=np.flatnonzero(kept)
        )
        measured = sides.measured if two else sides.measured[kept[sides.measured]]
        trained = sides.train[kept[sides.train]]
        drop("drop_leaks", duplicates.leaks(sketches, trained, measured).later)


def _rest(count: int, gone: "list[np.ndarray]") -> "np.ndarray":
    import numpy as np

    return np.setdiff1d(np.arange(count), np.concatenate([np.empty(0, np.int64), *gone]))


def _faulty(looked: Report, chosen: list[str]) -> list[Applied]:
    if "drop_faulty" not in chosen:
        return []
    groups = faults_of(looked.source).groups
    found = sorted((group.file, number) for group in groups for number in group.numbers)
    names = [named([number]) + (f" of {file}" if file else "") for file, number in found]
    return [Applied("drop_faulty", looked.records - looked.rows, True, tuple(names[:NAMED]), ())]


def _changes(changed: _Changed, kept: "np.ndarray") -> list[Applied]:
    """What each change did to the rows that are kept."""
    counts = dict.fromkeys(changed.steps, 0)
    names: dict[str, list[str]] = {name: [] for name in changed.steps}
    examples: dict[str, list[str]] = {name: [] for name in changed.steps}
    part = _Part(changed.rows, kept)
    for row in part if changed.steps else ():
        for name, step in changed.steps.items():
            after = _step(step, row)
            if after is not row:
                counts[name] += 1
                if counts[name] <= NAMED:
                    names[name].append(row.name)
                    examples[name].append(f"{row.name}: {difference(row, after)}")
            row = after
    return [
        Applied(name, counts[name], False, tuple(names[name]), tuple(examples[name]))
        for name in changed.steps
    ]


def _list(names: Sequence[str], count: int) -> str:
    more = f" and {count - len(names):,} more" if count > len(names) else ""
    return ", ".join(names) + more
