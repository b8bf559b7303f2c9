"""What may be asked of a running worker: one JSON line each in the run's commands file, appended here, read by the worker.

Knows nothing of processes. A command is obeyed between two steps; the worker answers each with a `command` event.
"""

import json
import time
import uuid
from pathlib import Path
from typing import Any

from .problems import Problem, RunError
from .recipe import Recipe

# what to do -> the values that may come with it, each with the recipe's field that says what it may be
COMMANDS: dict[str, dict[str, str]] = {
    "stop": {},
    "cancel": {},
    "pause": {},
    "unpause": {},
    "checkpoint": {},
    "sample": {},
    "close": {},
    "change": {
        "learning_rate": "training.learning_rate",
        "steps": "training.steps",
        "eval_every": "training.eval_every",
        "sample_every": "samples.every",
        "checkpoint_every": "training.checkpoint_every",
    },
    "ask": {
        "prompt": "",
        "adapter": "",
        "system": "samples.system",
        "temperature": "samples.temperature",
        "top_p": "samples.top_p",
        "max_new_tokens": "samples.max_new_tokens",
    },
}


def send(path: Path, do: str, **values: Any) -> str:
    """Appends a command and returns its id. Raises WorkbenchError for values that it does not have or that cannot be."""
    known = COMMANDS[do]
    if unknown := sorted(set(values) - set(known)):
        fact = f"{do} does not take {', '.join(unknown)}."
        raise RunError([Problem("", fact, f"It takes {', '.join(known) or 'nothing'}.")])
    if do == "ask" and not str(values["prompt"]).strip():
        raise RunError([Problem("", "The prompt is empty.", "Ask something.")])
    checked = {name: _checked(known[name], value) for name, value in values.items()}
    command = {"id": uuid.uuid4().hex[:12], "do": do, "t": time.time(), **checked}
    with path.open("ab") as file:
        file.write(json.dumps(command, ensure_ascii=False).encode() + b"\n")
    return command["id"]


def _checked(field: str, value: Any) -> Any:
    """The value as the recipe's field takes it: the bounds are written there, once."""
    if not field:
        return value
    section, _, name = field.partition(".")
    recipe = Recipe().replace(**{section: {name: value}})
    return getattr(getattr(recipe, section), name)


def clear(path: Path) -> None:
    """Forgets what was asked of an earlier worker; done before a new one starts, so that it misses nothing."""
    path.write_bytes(b"")


class CommandReader:
    """The worker's end: what was asked since the last look, from before the worker was there on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        path.touch()

    def new(self) -> list[dict[str, Any]]:
        """The complete commands that came since the last call; a line that is no command is skipped."""
        if (
            self._path.stat().st_size <= self._offset
        ):  # one system call a step when nothing is asked
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            block = file.read()
        whole = block.rfind(b"\n") + 1
        self._offset += whole
        return [command for line in block[:whole].splitlines() if (command := _parsed(line))]


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        command = json.loads(line)
    except ValueError:
        return None
    return command if isinstance(command, dict) and command.get("do") in COMMANDS else None
