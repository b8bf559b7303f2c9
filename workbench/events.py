"""What happens in a run, one JSON line each: the append-only log that the worker writes, and the History read from it.

Knows nothing of torch, widgets or processes: a log is a file, a History is lists of numbers.
"""

import errno
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

State = Literal[
    "preparing", "loading", "training", "paused", "ready", "stopped", "failed", "closed"
]
#: States in which the training is over: the worker answers prompts (ready, stopped) or has ended (failed, closed).
OVER = ("ready", "stopped", "failed", "closed")

# kind -> the fields that a line has beside "t" (seconds since 1970) and "kind". Bytes, seconds, nats per token.
KINDS: dict[str, tuple[str, ...]] = {
    "phase": ("state", "text"),
    "choice": ("what", "value", "why"),
    "data": ("rows", "heldout_rows", "tokens", "trained_tokens", "cut_rows"),
    "model": ("name", "source", "parameters", "trainable", "target_modules"),
    "step": (
        "step", "of", "epoch", "loss", "learning_rate", "grad_norm", "tokens", "trained_tokens", "seconds",
    ),
    "eval": ("step", "loss", "seconds"),
    # What the card says beside its memory is null where it is not known; `throttled` is why it runs slower than it could.
    "memory": (
        "step", "allocated", "reserved", "process", "device_used", "device_total",
        "utilisation", "temperature", "power", "throttled",
    ),
    "token": ("sample", "text"),
    # `rendered` is the prompt with its special tokens, `same_as` the number of a training row with this very answer or null.
    "sample": (
        "sample", "step", "prompt", "system", "expected", "text", "adapter", "ended", "tokens", "seconds",
        "rendered", "same_as",
    ),
    "score": ("step", "correct", "rows", "adapter", "seconds"),
    "checkpoint": ("step", "path", "seconds"),
    # `step` is that of the adapter that is kept, which `why` gives the reason for; it need not be the last one.
    "adapter": ("step", "path", "why"),
    # `text` is why it was not done, or what a `change` changed.
    "command": ("id", "do", "taken", "text"),
    # `predicted` is the run's plan.json or null, `measured` bytes by part, `tokens` of the longest micro-batch, padded.
    "probe": ("step", "batch_size", "longest", "tokens", "predicted", "measured", "seconds"),
    # `phase` is loading, training, evaluation or answering; `held` bytes by part, `wanted` those that could not be had.
    "oom": ("phase", "step", "batch_size", "held", "wanted", "advice", "retrying"),
    "warning": ("text", "cure"),
    "error": ("text", "cause", "cure"),
}  # fmt: skip


class EventLog:
    """The writing end: one flushed line per event.

    A small reserve file lies beside the log. When the disk is full it is given up, so that the reason can still be told.
    """

    RESERVE = 64 * 1024  # bytes: a few hundred events

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._reserve = self.path.with_name(".reserve")
        if not self._reserve.exists():
            self._reserve.write_bytes(os.urandom(self.RESERVE))
        self._end_torn_line()
        self._file = self.path.open("ab", buffering=0)

    def write(self, kind: str, **fields: Any) -> None:
        """Appends an event. Raises OSError when the disk is full, ValueError for fields that the kind does not have."""
        if set(fields) != set(KINDS[kind]):
            raise ValueError(f"a {kind} event has the fields {KINDS[kind]}, not {tuple(fields)}")
        event = {"t": round(time.time(), 3), "kind": kind, **fields}
        self._append(json.dumps(event, ensure_ascii=False, default=float).encode() + b"\n")

    def give_up_reserve(self) -> None:
        """Frees the reserve, so that what follows fits on a full disk."""
        self._reserve.unlink(missing_ok=True)

    def _append(self, line: bytes) -> None:
        try:
            written = self._file.write(line)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            written = 0
        if written != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def _end_torn_line(self) -> None:
        """A worker that was killed may have left half a line: end it, so that it spoils no other."""
        try:
            with self.path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                torn = file.read(1) != b"\n"
        except OSError:  # no file yet, or an empty one
            return
        if torn:
            with self.path.open("ab") as file:
                file.write(b"\n")


class History:
    """The reading end: everything that a run's log says so far; `update` reads what is new.

    `steps`, `evals`, `memory`, `samples`, `scores`, `choices`, `checkpoints`, `probes`, `shortages` (oom events), `warnings` and `errors` are lists of the
    events' fields, oldest first. After a resume, steps that were trained again replace the earlier ones.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.state: State = "preparing"
        self.text = ""
        self.steps: list[dict[str, Any]] = []
        self.evals: list[dict[str, Any]] = []
        self.memory: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self.scores: list[dict[str, Any]] = []
        self.choices: list[dict[str, Any]] = []
        self.checkpoints: list[dict[str, Any]] = []
        self.probes: list[dict[str, Any]] = []
        self.shortages: list[dict[str, Any]] = []
        self.commands: list[dict[str, Any]] = []
        self.warnings: list[dict[str, Any]] = []
        self.errors: list[dict[str, Any]] = []
        self.data: dict[str, Any] = {}
        self.model: dict[str, Any] = {}
        self.adapter: dict[str, Any] = {}
        self.phases: list[dict[str, Any]] = []
        #: Why the training ended before its last step by itself, in a sentence; "" when it did not, or went on since.
        self.stopped_early = ""
        #: Text of answers that are still being written, by sample id.
        self.partial: dict[str, str] = {}
        self._offset = 0

    def update(self) -> list[dict[str, Any]]:
        """Reads the lines that were completed since the last call and returns their events; a torn line becomes a warning."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                block = file.read()
        except FileNotFoundError:
            return []
        whole = block.rfind(b"\n") + 1
        events = []
        for line in block[:whole].splitlines():
            if not line.strip():
                continue
            try:
                event = json.loads(line)
                self.absorb(event)
            except (ValueError, KeyError, TypeError, AttributeError):
                event = self._torn(line)
            events.append(event)
        self._offset += whole
        return events

    @property
    def step(self) -> int:
        """The last optimizer step that was done, 0 before the first."""
        return self.steps[-1]["step"] if self.steps else 0

    @property
    def of(self) -> int | None:
        """The step at which the run will end, None before it is known."""
        return self.steps[-1]["of"] if self.steps else None

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def speed(self) -> float | None:
        """Real (not padding) tokens/s over the last 20 steps, None before the first."""
        return self._rate("tokens")

    @property
    def trained_speed(self) -> float | None:
        """Tokens/s that are learned from, over the last 20 steps; None before the first."""
        return self._rate("trained_tokens")

    @property
    def seconds_left(self) -> float | None:
        """Seconds of training that are left at the median pace of the last 20 steps; None when no step is to come."""
        if self.step == (self.of or 0) or self.state not in ("training", "paused"):
            return None
        pace = sorted(step["seconds"] for step in self.steps[-20:])[len(self.steps[-20:]) // 2]
        return (self.of - self.step) * pace

    @property
    def best_eval(self) -> dict[str, Any] | None:
        """The evaluation with the lowest held-out loss, None while no loss was a number."""
        numbers = [event for event in self.evals if math.isfinite(event["loss"])]
        return min(numbers, key=lambda event: event["loss"], default=None)

    def absorb(self, event: dict[str, Any]) -> None:
        """Takes one event in; `update` does it for each line of the log."""
        into: dict[str, Callable[[dict[str, Any]], Any]] = {
            "phase": self._take_phase,
            "step": self._take_step,
            "eval": lambda e: _replace_from_step(self.evals, e),
            "memory": self.memory.append,
            "choice": self._take_choice,
            "token": self._take_token,
            "sample": self._take_sample,
            "score": self.scores.append,
            "checkpoint": self.checkpoints.append,
            "command": self.commands.append,
            "probe": self.probes.append,
            "oom": self.shortages.append,
            "warning": self.warnings.append,
            "error": self.errors.append,
            "data": self.data.update,
            "model": self._take_model,
            "adapter": self.adapter.update,
        }
        take = into.get(event["kind"])
        if take:  # a kind that a later version writes is no fault
            take(event)

    def _take_phase(self, event: dict[str, Any]) -> None:
        self.state, self.text = event["state"], event["text"]
        self.phases.append(event)
        if self.state == "preparing":  # a worker before this one may have been killed in mid-answer
            self.partial.clear()

    def _take_model(self, event: dict[str, Any]) -> None:
        # a worker that only answers trains nothing: what the run trained stands
        trainable = event["trainable"] or self.model.get("trainable", 0)
        self.model.update(event | {"trainable": trainable})

    def _take_step(self, event: dict[str, Any]) -> None:
        _replace_from_step(self.steps, event)
        self.stopped_early = ""

    def _take_choice(self, event: dict[str, Any]) -> None:
        self.choices.append(event)
        if event["what"] == "early_stop":
            self.stopped_early = event["why"]

    def _take_token(self, event: dict[str, Any]) -> None:
        self.partial[event["sample"]] = self.partial.get(event["sample"], "") + event["text"]

    def _take_sample(self, event: dict[str, Any]) -> None:
        self.partial.pop(event["sample"], None)
        self.samples.append(event)

    def _rate(self, what: str) -> float | None:
        last = self.steps[-20:]
        seconds = sum(step["seconds"] for step in last)
        return sum(step[what] for step in last) / seconds if seconds else None

    def _torn(self, line: bytes) -> dict[str, Any]:
        text = f"A line of {self.path.name} is torn ({len(line)} bytes) and was skipped."
        cure = "Nothing to do: the worker was killed while it wrote."
        warning = {"t": time.time(), "kind": "warning", "text": text, "cure": cure}
        self.warnings.append(warning)
        return warning


def vanished(history: History, cause: str, *, gone: str = "") -> list[dict[str, Any]]:
    """The events by which a log would have told that its worker ended without a word; they are not written to it.

    `cause` is the end of what the worker printed, `gone` the name of a run whose folder is not there any more.
    """
    now = time.time()
    if history.state in ("ready", "stopped"):
        text = f"The worker has ended; {history.text[:1].lower()}{history.text[1:]}"
        return [{"t": now, "kind": "phase", "state": "closed", "text": text}]
    fact = f"The worker ended without a word while {history.state}, at step {history.step}."
    saved = history.checkpoints[-1]["step"] if history.checkpoints else None
    if gone:
        fact, saved = f"The folder of run {gone} is gone.", None
    cure = (
        f"resume() goes on from step {saved}."
        if saved
        else "There is no checkpoint yet: start it again."
    )
    state = "stopped" if saved else "failed"
    return [
        {"t": now, "kind": "error", "text": fact, "cause": cause, "cure": cure},
        {"t": now, "kind": "phase", "state": state, "text": f"{fact} {cure}"},
    ]


def _replace_from_step(events: list[dict[str, Any]], event: dict[str, Any]) -> None:
    while events and events[-1]["step"] >= event["step"]:
        events.pop()
    events.append(event)
