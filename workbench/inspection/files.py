"""A result kept as a JSON file: written beside and renamed over, and read only if it is of the kind that was asked for.

Knows nothing of what a result says.
"""

import json
from pathlib import Path
from typing import Any

from ..problems import Problem, RunError

VERSION = 1


def write(told: dict[str, Any], kind: str, path: str | Path) -> Path:
    """Writes a result, its folder too, and returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    text = json.dumps({"kind": kind, "version": VERSION, **told}, indent=1, ensure_ascii=False)
    partial.write_text(f"{text}\n", encoding="utf-8")
    partial.replace(path)
    return path


def read(path: str | Path, kind: str, *needed: str) -> dict[str, Any]:
    """What `write` wrote. Raises RunError for a file that cannot be read, is of another kind, or lacks what is `needed`."""
    try:
        told = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        fact = f"{path} cannot be read: {error.strerror}."
        raise RunError([Problem("", fact, f"Give the path of a saved {kind}.")]) from None
    except ValueError:
        told = None
    if not isinstance(told, dict) or told.get("kind") != kind or not told.keys() >= set(needed):
        fact = f"{path} holds no {kind}."
        raise RunError([Problem("", fact, "Give a file that its save() wrote.")])
    return told
