"""What goes wrong before a run starts, said so that it can be mended: the fact with its value, and the next step."""

from typing import NamedTuple


class Problem(NamedTuple):
    """One finding. `where` is a setting's dotted name, a row ("train.jsonl, row 7") or empty; `cure` the next step."""

    where: str
    fact: str
    cure: str

    def __str__(self) -> str:
        return f"{self.fact} {self.cure}".rstrip()


class WorkbenchError(Exception):
    """Carries all problems found, so that they can be mended in one go; `str` gives one line for each."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


class RecipeError(WorkbenchError):
    """The recipe holds settings that cannot be used."""


class DataError(WorkbenchError):
    """The rows cannot be used."""


class RunError(WorkbenchError):
    """A run cannot be started, opened, resumed or commanded."""
