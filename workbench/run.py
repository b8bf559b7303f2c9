"""A run is a folder: this reads what a worker writes there, writes what is wanted, and has workers go on with it.

Knows files, processes and asyncio. Knows nothing of torch, and nothing of how anything is drawn.
"""

import asyncio
import json
import os
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from . import commands, lock, spawn
from .events import History, State, vanished
from .machine import look
from .memory.comparison import Comparison, compare
from .names import folder_of
from .problems import Problem, RecipeError, RunError
from .recipe import Recipe

POLL_SECONDS = 0.1


class Run:
    """One run: its `folder`, `recipe` and `history`. Made by `starting.start` and `Run.open`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name
        self.history = History(folder / "events.jsonl")
        self._told_vanished = False

    @classmethod
    def open(cls, name: str, outputs: str | Path = "outputs") -> "Run":
        """A run that was started before, perhaps by another kernel, with everything it wrote so far."""
        folder = folder_of(name, Path(outputs))
        if not (folder / "recipe.yaml").is_file():
            known = ", ".join(run.name for run in runs(outputs)[:5]) or "none"
            fact = f"There is no run {name!r} in {Path(outputs).resolve()}."
            raise RunError([Problem("", fact, f"The newest runs there: {known}.")])
        run = cls(folder)
        run.refresh()
        return run

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe as it was started. Raises RecipeError, naming the file, when this version cannot read it."""
        file = self.folder / "recipe.yaml"
        try:
            return Recipe.load(file)
        except RecipeError as error:
            told = [Problem(p.where, f"In {file}: {p.fact}", p.cure) for p in error.problems]
            raise RecipeError(told) from None

    def __repr__(self) -> str:
        return f"<Run {self.name}: {self.state}, step {self.history.step}>"

    # Reading

    def refresh(self) -> list[dict[str, Any]]:
        """Reads what is new and returns those events; notices a worker that ended without a word."""
        events = self.history.update()
        if self._vanished():
            events += self.history.update()  # what it wrote between the look at the log and its end
            if self._vanished():
                events += self._say_vanished()
        return events

    @property
    def state(self) -> State:
        self.refresh()
        return self.history.state

    @property
    def alive(self) -> bool:
        """Whether the worker is running."""
        return spawn.is_alive(self.folder)

    @property
    def adapter_path(self) -> Path:
        """Where the adapter is, or will be."""
        return self.folder / "adapter"

    def measured(self) -> Comparison:
        """Predicted against measured memory, part by part, from the first seconds of the run. Raises RunError before those."""
        self.refresh()
        if not self.history.probes:
            fact = f"Run {self.name} has measured nothing yet."
            cure = "It measures after its first step: await run.finished()."
            raise RunError([Problem("", fact, cure)])
        return compare(self.name, self.history.probes[-1])

    # Asking: each appends a command and returns its id; the worker obeys between two steps

    def stop(self) -> str:
        """Ends the training after the current step and keeps the adapter; the worker stays to answer prompts."""
        return self._send("stop")

    def cancel(self) -> str:
        """Ends the training after the current step and keeps nothing."""
        return self._send("cancel")

    def pause(self) -> str:
        """Holds the training after the current step; prompts are answered meanwhile."""
        return self._send("pause")

    def unpause(self) -> str:
        """Goes on after a pause."""
        return self._send("unpause")

    def checkpoint(self) -> str:
        """Writes a checkpoint after the current step."""
        return self._send("checkpoint")

    def sample_now(self) -> str:
        """Answers the recipe's prompts after the current step, while paused, or after the training, and writes sample events."""
        return self._send("sample")

    def change(self, **settings: float) -> str:
        """Changes `learning_rate`, `steps` (sooner only), `eval_every`, `sample_every` or `checkpoint_every` while training."""
        return self._send("change", **settings)

    def ask(self, prompt: str, **how: Any) -> str:
        """Asks the live model; `system`, `adapter`, `temperature`, `top_p` and `max_new_tokens` are optional.

        The answer arrives token by token as `token` events and whole as a `sample` event that carry the returned id.
        """
        return self._send("ask", prompt=prompt, **how)

    async def answer(self, prompt: str, **how: Any) -> dict[str, Any]:
        """Asks like `ask` and waits; returns the sample event, its `text` among it.

        A question that comes before the model is loaded waits for it. Raises RunError when it cannot be answered.
        """
        sample = self.ask(prompt, **how)
        while True:
            self.refresh()
            for event in self.history.samples:
                if event["sample"] == sample:
                    return event
            for told in self.history.commands:
                if told["id"] == sample and not told["taken"]:
                    raise RunError([Problem("", told["text"], "Ask again.")])
            self._still_there()
            await asyncio.sleep(POLL_SECONDS)

    def close(self, timeout: float = 120) -> None:
        """Ends the worker, so that its memory is free; a training is stopped and kept first.

        Waits up to `timeout` seconds, then kills it.
        """
        if self.alive:
            self._send("close")
            spawn.wait_or_kill(self.folder, timeout)
        self.refresh()

    # Waiting

    async def finished(self) -> State:
        """Waits until the training is over and returns the state; Interrupt means stop and keep.

        Raises RunError with the cause and the cure when the run failed.
        """
        asked_to_stop = False
        while not self._over():
            try:
                await asyncio.sleep(POLL_SECONDS)
            except (asyncio.CancelledError, KeyboardInterrupt):
                if asked_to_stop:  # a second Interrupt: leave the worker to itself
                    raise
                asked_to_stop = True
                self.stop()
        return self._ended_well()

    def wait(self, timeout: float | None = None) -> State:
        """The same for scripts: blocks. Raises TimeoutError after `timeout` seconds; Ctrl-C means stop and keep."""
        until = time.monotonic() + timeout if timeout is not None else float("inf")
        asked_to_stop = False
        while not self._over():
            if time.monotonic() > until:
                raise TimeoutError(
                    f"Run {self.name} is still {self.history.state} after {timeout:g} s."
                )
            try:
                time.sleep(POLL_SECONDS)
            except KeyboardInterrupt:
                if asked_to_stop:
                    raise
                asked_to_stop = True
                self.stop()
        return self._ended_well()

    # Going on

    def resume(self, *, batch_size: int | None = None) -> "Run":
        """Starts a new worker that goes on from the last checkpoint, and returns the run.

        With a `batch_size`, so many rows go through at once from here on; it must divide the effective batch, which
        stays: each step learns from the same rows.
        """
        self._must_be_gone("resume")
        step, of = self.history.step, self.history.of
        if self.history.adapter and step and step == of:
            fact = f"Run {self.name} has done all of its {of} steps; there is nothing to resume."
            raise RunError([Problem("", fact, "Ask it with reopen(), or start a longer recipe.")])
        if batch_size is not None:
            self._keep_micro_batch(batch_size)
        return self.start_worker("resume")

    def reopen(self) -> "Run":
        """Starts a new worker that loads the model with the run's adapter to answer prompts, and returns the run."""
        self._must_be_gone("reopen")
        if not self.adapter_path.is_dir():
            fact = f"Run {self.name} has no adapter."
            raise RunError([Problem("", fact, "Resume it, or start it again.")])
        return self.start_worker("reopen")

    def _keep_micro_batch(self, batch_size: int) -> None:
        effective = self.recipe.effective_batch
        if batch_size < 1 or effective % batch_size:
            fact = f"batch_size is {batch_size}; it must divide the effective batch of {effective}."
            can = [str(rows) for rows in range(1, effective + 1) if effective % rows == 0]
            raise RunError([Problem("training.batch_size", fact, f"Give one of {', '.join(can)}.")])
        kept = {"batch_size": batch_size, "accumulation": effective // batch_size}
        (self.folder / "micro_batch.json").write_text(json.dumps(kept))

    def start_worker(self, mode: spawn.Mode, spare: spawn.Spare | None = None) -> "Run":
        """Has a worker do the run's work, a warm `spare` if it is given, and returns the run."""
        backend = json.loads((self.folder / "backend.json").read_text())["value"]
        if look().cards:
            lock.check_free(lock.card_lock())
        # The log's last word is from the worker before this one: what counts from here on is what comes next.
        self.history.update()
        self.history.state = "preparing"
        self.history.text = (
            "Starting the worker: its imports take 10 to 30 s, less when a spare is warm."
        )
        self._told_vanished = False
        spawn.start(self.folder, mode=mode, backend=backend, spare=spare)
        return self

    def _must_be_gone(self, wish: str) -> None:
        if self.state in ("failed", "closed"):  # it has said its last word and is on its way out
            spawn.wait_or_kill(self.folder, timeout=10)
        if self.alive:
            fact = f"Run {self.name} is {self.state}: its worker is still there."
            raise RunError([Problem("", fact, f"Close it with close() first, then {wish}.")])

    def _send(self, do: str, **values: Any) -> str:
        self._still_there()
        return commands.send(self.folder / "commands.jsonl", do, **values)

    def _still_there(self) -> None:
        if not self.alive:
            fact = f"Run {self.name} is {self.state}: its worker has ended."
            raise RunError(
                [Problem("", fact, "resume() goes on training, reopen() answers prompts.")]
            )

    def _over(self) -> bool:
        self.refresh()
        return self.history.over

    def _ended_well(self) -> State:
        # killed, not asked to stop
        spoilt = self._told_vanished and self.history.state == "stopped"
        if self.history.state == "failed" or spoilt:
            error = self.history.errors[-1]
            raise RunError([Problem("", error["text"], error["cure"])])
        return self.history.state

    def _vanished(self) -> bool:
        last_word = self._told_vanished or self.history.state in ("closed", "failed")
        started = (self.folder / "worker.json").exists() or not self.folder.exists()
        return started and not last_word and not self.alive

    def _say_vanished(self) -> list[dict[str, Any]]:
        """What the log cannot say itself. These events are not written: the log is the worker's."""
        self._told_vanished = True
        gone = "" if self.folder.exists() else self.name
        said = vanished(self.history, spawn.last_words(self.folder), gone=gone)
        for event in said:
            self.history.absorb(event)
        return said


def runs(outputs: str | Path = "outputs") -> list[Run]:
    """All runs in a folder, newest first."""
    recipes = Path(outputs).glob("*/recipe.yaml")
    found = [Run(path.parent) for path in sorted(recipes, key=os.path.getmtime, reverse=True)]
    for run in found:
        run.refresh()
    return found
