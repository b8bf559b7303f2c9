"""What may be asked of a running worker: one JSON line each in the run's commands file, appended here, read by the worker.

Knows nothing of processes. A command is obeyed between two steps; the worker answers each with a `command` event.
"""

import json
import time
import uuid
from pathlib import Path
from typing import Any

from .problems import Problem, RunError

# what to do -> the values that may come with it
COMMANDS: dict[str, tuple[str, ...]] = {
    "stop": (),
    "cancel": (),
    "pause": (),
    "unpause": (),
    "checkpoint": (),
    "close": (),
    "change": ("learning_rate", "steps", "eval_every", "sample_every", "checkpoint_every"),
    "ask": ("prompt", "system", "adapter", "temperature", "top_p", "max_new_tokens"),
}


def send(path: Path, do: str, **values: Any) -> str:
    """Appends a command and returns its id. Raises RunError for a value that the command does not have."""
    unknown = set(values) - set(COMMANDS[do])
    if unknown:
        fact = f"{do} does not take {', '.join(sorted(unknown))}."
        raise RunError([Problem("", fact, f"It takes {', '.join(COMMANDS[do]) or 'nothing'}.")])
    command = {"id": uuid.uuid4().hex[:12], "do": do, "t": time.time(), **values}
    with path.open("ab") as file:
        file.write(json.dumps(command, ensure_ascii=False).encode() + b"\n")
    return command["id"]


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
