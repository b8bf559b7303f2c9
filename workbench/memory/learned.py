"""What earlier runs measured: read from `outputs/memory.jsonl`, turned into a correction with its error band.

The worker appends a line for each run (worker/rehearsal.py). Knows nothing of formulas; compares figures.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from .estimate import STATIC

FILE = "memory.jsonl"
#: Share by which what is not weights, adapters and optimizer may be off before anything was measured. A single run
#: tells no spread, so a part of this stays until there are some: SPREAD / (runs + 1).
SPREAD = 0.25
#: Packages whose versions decide what a run holds.
DECISIVE = ("torch", "transformers", "trl", "peft", "bitsandbytes", "unsloth", "unsloth_zoo")


class Learned(NamedTuple):
    """How measured memory compares with predicted, without the parts that are exact: the median, least and most ratio.

    `share` is the median share of the bound on speed that these runs reached, None where none told.
    """

    runs: int
    ratio: float
    low: float
    high: float
    share: float | None = None


def past(outputs: str | Path) -> list[dict[str, Any]]:
    """All lines of the file that can be read, oldest first; none where there is no file."""
    try:
        lines = (Path(outputs) / FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # torn by a full disk
            continue
        if isinstance(record, dict):
            found.append(record)
    return found


def key(card: str, backend: str, versions: Mapping[str, str]) -> dict[str, Any]:
    """What must be the same for a measurement to tell of another run: the card, the backend, the versions it stands on."""
    mine = ("unsloth", "unsloth_zoo") if backend == "peft" else ()
    kept = {n: versions[n] for n in DECISIVE if n in versions and n not in mine}
    return {"card": card, "backend": backend, "versions": kept}


def learn(records: Iterable[Mapping[str, Any]], like: Mapping[str, Any]) -> Learned | None:
    """The correction by all records of the same card, backend and versions, None when there are none."""
    mine = [record for record in records if _same(record, like)]
    ratios = [found for record in mine if (found := ratio(record)) is not None]
    if not ratios:
        return None
    shares = [found for record in mine if (found := _share(record)) is not None]
    middle, spread = median(ratios), SPREAD / (len(ratios) + 1)
    return Learned(
        runs=len(ratios),
        ratio=middle,
        low=min(min(ratios), middle - spread),
        high=max(max(ratios), middle + spread),
        share=median(shares) if shares else None,
    )


def _same(record: Mapping[str, Any], like: Mapping[str, Any]) -> bool:
    try:
        mine = key(record["card"], record["backend"], record["versions"])
    except (KeyError, TypeError, AttributeError):
        return False
    return mine == dict(like)


def ratio(record: Mapping[str, Any]) -> float | None:
    """Measured against predicted memory, beyond the parts that are known exactly; None where either is missing."""
    try:
        plan, measured = record["predicted"], record["measured"]
        predicted = plan.get("raw") or plan["parts"]
        expected = sum(predicted.values()) - _sum(predicted, STATIC)
        found = total(measured) - _sum(measured, STATIC)
    except (KeyError, TypeError, AttributeError):
        return None
    return found / expected if expected > 0 and found > 0 else None


def total(measured: Mapping[str, int]) -> int:
    """Bytes that a run took: on a card what torch reserved and the context, on a CPU the process's memory."""
    if measured.get("reserved"):
        return measured["reserved"] + measured.get("context", 0)
    return measured["process"]


def _share(record: Mapping[str, Any]) -> float | None:
    try:
        share = record["predicted"]["bound_seconds"] / record["seconds"]
    except (KeyError, TypeError, ZeroDivisionError):
        return None
    return share if 0 < share <= 1.5 else None


def _sum(sizes: Mapping[str, int], names: Sequence[str]) -> int:
    return sum(sizes.get(name, 0) for name in names)
