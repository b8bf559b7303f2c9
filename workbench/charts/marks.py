"""What happened at which step: answers, checkpoints, a changed learning rate, pauses, an early stop, a resume.

Pure; an event that has no step gets that of the last step before it.
"""

from bisect import bisect_right
from operator import itemgetter
from typing import NamedTuple

from ..events import History

#: What marks of each kind are called.
NAMES = {
    "sample": "answers", "checkpoint": "checkpoints", "change": "changed", "pause": "paused",
    "resume": "resumed", "stop": "stopped early",
}  # fmt: skip
MOST = 60  # marks of a kind: beyond that every second, third, ... is left out


class Mark(NamedTuple):
    """A step (`x`), what happened at it in words, and its kind (one of NAMES)."""

    x: float
    label: str
    kind: str


def marks(history: History, *, since: int = 0) -> list[Mark]:
    """All marks from step `since` on, by step."""

    def step_at(moment: float) -> int:
        before = bisect_right(history.steps, moment, key=itemgetter("t"))
        return history.steps[before - 1]["step"] if before else 0

    found = [Mark(s, f"answers at step {s:,}", "sample") for s in _steps(history.samples)]
    found += [
        Mark(s, f"checkpoint at step {s:,}", "checkpoint") for s in _steps(history.checkpoints)
    ]
    for command in history.commands:
        if command["do"] == "change" and command["taken"]:
            found.append(Mark(step_at(command["t"]), command["text"] or "a setting", "change"))
    begun = False
    for phase in history.phases:
        at = step_at(phase["t"])
        if phase["state"] == "paused":
            found.append(Mark(at, f"paused at step {at:,}", "pause"))
        if phase["state"] == "preparing" and begun:
            found.append(Mark(at, f"resumed at step {at:,}", "resume"))
        begun = begun or phase["state"] == "training"
    if history.stopped_early:
        found.append(Mark(history.step, history.stopped_early, "stop"))
    return sorted(mark for mark in _thinned(found) if mark.x >= since)


def rare(found: list[Mark]) -> list[Mark]:
    """Without the answers and checkpoints, which come again and again."""
    return [mark for mark in found if mark.kind not in ("sample", "checkpoint")]


def _steps(events: list[dict]) -> list[int]:
    return sorted({event["step"] for event in events if event["step"] is not None})


def _thinned(found: list[Mark]) -> list[Mark]:
    kept = []
    for kind in dict.fromkeys(mark.kind for mark in found):
        mine = [mark for mark in found if mark.kind == kind]
        kept += mine[:: -(-len(mine) // MOST)]
    return kept
