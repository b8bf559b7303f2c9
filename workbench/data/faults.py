"""What is wrong with rows: told once for each kind of fault, with the numbers of the rows that have it.

Knows neither files nor shapes: those say what the fault is, here it is collected and put into words.
"""

from typing import NamedTuple

from ..problems import Problem
from .rows import named

SHOWN = 20  # kinds of faults that are told in full; of the rest only the number of rows is
KINDS = 1_000  # kinds whose rows are kept apart: a file in which every row has its own fault must not fill the memory


class Fault(Exception):
    """What is wrong with one row: the fact without the row's number and full stop, and the cure.

    `kind` is its name for programs: malformed, too_long, ragged, empty_answer, no_answer, role_order, ...
    """

    def __init__(self, fact: str, cure: str, *, kind: str = "malformed") -> None:
        super().__init__(fact)
        self.fact, self.cure, self.kind = printable(fact), printable(cure), kind


def printable(text: str) -> str:
    """The text with halves of characters spelled out: a column may be called "\\ud83d", and nothing could write that."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


class Group(NamedTuple):
    """The same fault in one file: its words, and the numbers of the rows that have it, in order."""

    fact: str
    cure: str
    kind: str
    file: str
    numbers: list[int]


class Faults:
    """The faulty rows of a source, grouped by what is wrong with them. True when there are any.

    `groups` come in the order of their first rows; `others` counts rows with yet other faults after KINDS of them.
    """

    def __init__(self) -> None:
        self.others = 0
        self._groups: dict[tuple[str, str, str], Group] = {}

    def add(self, fault: Fault, number: int, file: str = "") -> None:
        """Notes that the row of this number, counted within its file, has the fault."""
        key = (fault.fact, fault.cure, file)
        group = self._groups.get(key)
        if group is None and len(self._groups) == KINDS:
            self.others += 1
        elif group is None:
            self._groups[key] = Group(fault.fact, fault.cure, fault.kind, file, [number])
        else:
            group.numbers.append(number)

    @property
    def groups(self) -> list[Group]:
        """The kinds of faults, in the order of their first rows."""
        files: dict[str, int] = {}
        for group in self._groups.values():
            files.setdefault(group.file, len(files))
        return sorted(self._groups.values(), key=lambda g: (files[g.file], g.numbers[0]))

    @property
    def count(self) -> int:
        """Faulty rows in all."""
        return self.others + sum(len(group.numbers) for group in self._groups.values())

    def __bool__(self) -> bool:
        return bool(self._groups)

    def problems(self, name: str) -> list[Problem]:
        """A problem for each of the first SHOWN kinds, and one that counts the rest; `name` is that of the source."""
        groups = self.groups
        problems = [_problem(group, name) for group in groups[:SHOWN]]
        rest = self.others + sum(len(group.numbers) for group in groups[SHOWN:])
        if rest:
            rows = "row has a problem" if rest == 1 else "rows have problems"
            fact = f"{name}: {rest:,} more {rows}."
            problems.append(Problem(name, fact, "They are shown when those above are mended."))
        return problems

    def to_json(self) -> dict[str, object]:
        """As plain lists, for the cache."""
        return {"others": self.others, "groups": [list(group) for group in self.groups]}

    @classmethod
    def from_json(cls, said: dict) -> "Faults":
        """The faults that `to_json` wrote."""
        faults = cls()
        faults.others = said["others"]
        for parts in said["groups"]:
            group = Group(*parts)
            faults._groups[group.fact, group.cure, group.file] = group
        return faults


def _problem(group: Group, name: str) -> Problem:
    where = f"{group.file or name}, {named(group.numbers)}"
    return Problem(where, f"{where}: {group.fact}.", group.cure)
