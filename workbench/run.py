"""A run is a folder: this starts a worker on it, reads what the worker writes there, and writes what is wanted.

Knows files, processes and asyncio. Knows nothing of torch, and nothing of how anything is drawn.
"""

import asyncio
import json
import os
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from . import commands, lock, preflight, spawn
from .events import History, State
from .machine import choose_backend, look
from .models import is_local
from .names import folder_of, new_folder
from .problems import Problem, RecipeError, RunError
from .recipe import Recipe

POLL_SECONDS = 0.1


class Run:
    """One run: its `folder`, `recipe` and `history`. Made by `start` and `Run.open`."""

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

    def resume(self) -> "Run":
        """Starts a new worker that goes on from the last checkpoint, and returns the run."""
        self._must_be_gone("resume")
        finished = (
            self.history.adapter and self.history.step and self.history.step == self.history.of
        )
        if finished:
            fact = f"Run {self.name} has done all of its {self.history.of} steps; there is nothing to resume."
            raise RunError([Problem("", fact, "Ask it with reopen(), or start a longer recipe.")])
        return self._spawn("resume")

    def reopen(self) -> "Run":
        """Starts a new worker that loads the model with the run's adapter to answer prompts, and returns the run."""
        self._must_be_gone("reopen")
        if not self.adapter_path.is_dir():
            fact = f"Run {self.name} has no adapter."
            raise RunError([Problem("", fact, "Resume it, or start it again.")])
        return self._spawn("reopen")

    def _spawn(self, mode: spawn.Mode, spare: spawn.Spare | None = None) -> "Run":
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
        spoilt = (
            self._told_vanished and self.history.state == "stopped"
        )  # killed, not asked to stop
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
        history, now = self.history, time.time()
        self._told_vanished = True
        trained = history.state in ("ready", "stopped")
        if trained:
            text = f"The worker has ended; {history.text[:1].lower()}{history.text[1:]}"
            phase = {"t": now, "kind": "phase", "state": "closed", "text": text}
            history.absorb(phase)
            return [phase]
        fact = f"The worker ended without a word while {history.state}, at step {history.step}."
        saved = history.checkpoints[-1]["step"] if history.checkpoints else None
        if not self.folder.exists():
            fact, saved = f"The folder of run {self.name} is gone.", None
        cure = (
            f"resume() goes on from step {saved}."
            if saved
            else "There is no checkpoint yet: start it again."
        )
        cause = spawn.last_words(self.folder)
        error = {"t": now, "kind": "error", "text": fact, "cause": cause, "cure": cure}
        state = "stopped" if saved else "failed"
        phase = {"t": now, "kind": "phase", "state": state, "text": f"{fact} {cure}"}
        for event in (error, phase):
            history.absorb(event)
        return [error, phase]


def start(
    recipe: Recipe,
    *,
    name: str | None = None,
    outputs: str | Path = "outputs",
    spare: spawn.Spare | None = None,
) -> Run:
    """Checks the recipe against this machine, makes the run's folder and starts its worker.

    Raises WorkbenchError with all problems that can be known before; then nothing was made. A `spare` worker that
    has the right backend is used if it is warm.
    """
    folder = folder_of(name, Path(outputs)) if name else new_folder(Path(outputs))
    machine = look()
    problems = preflight.check(recipe, machine, outputs=outputs)
    if folder.exists():
        fact = f"There is a run {folder.name!r} already."
        problems.append(Problem("", fact, "Choose another name, or open it with Run.open()."))
    if machine.cards and not problems:
        lock.check_free(lock.card_lock())
    if problems:
        raise RunError(problems)
    choice = choose_backend(recipe.backend, machine)
    try:
        folder.mkdir(parents=True)
        _absolute(recipe).save(folder / "recipe.yaml")
        (folder / "backend.json").write_text(json.dumps({"value": choice.value, "why": choice.why}))
    except OSError as error:
        fact = f"The run's folder {folder} cannot be made: {error.strerror}."
        raise RunError([Problem("", fact, "Give another outputs folder.")]) from None
    return Run(folder)._spawn("train", spare)


def runs(outputs: str | Path = "outputs") -> list[Run]:
    """All runs in a folder, newest first."""
    recipes = Path(outputs).glob("*/recipe.yaml")
    found = [Run(path.parent) for path in sorted(recipes, key=os.path.getmtime, reverse=True)]
    for run in found:
        run.refresh()
    return found


def _absolute(recipe: Recipe) -> Recipe:
    """The recipe with paths that mean the same from any folder; names on the hub and templates stay as they are."""
    data = {}
    for name in ("train", "heldout", "template"):
        if (value := getattr(recipe.data, name)) and _is_there(value):
            data[name] = str(Path(value).expanduser().resolve())
    changed = recipe.replace(data=data)
    if is_local(recipe.model.name):
        changed = changed.replace(
            model={"name": str(Path(recipe.model.name).expanduser().resolve())}
        )
    return changed


def _is_there(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (
        OSError,
        ValueError,
    ):  # a template's text is too long for a path, or holds what none may
        return False
