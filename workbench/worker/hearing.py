"""What a worker is asked, and how it obeys: between two steps, before the first one, and after the last.

Knows commands and what each asks for. Knows nothing of how a model is loaded or trained.
"""

import time
import traceback
from collections.abc import Callable
from typing import Any

from ..commands import CommandReader
from ..events import History, State
from . import training
from .changing import change
from .failures import explain
from .questions import Questions
from .shortage import Shortages, forget, is_shortage
from .telling import Telling

POLL_SECONDS = 0.05
ENDS = ("stop", "cancel", "close")


class Ended(Exception):
    """The run was cancelled or closed: leave quietly, with these closing words."""


class Hearing:
    """The commands of one run. `questions` and `cadence` are there once the model is loaded and a trainer is made."""

    def __init__(self, told: Telling, shortages: Shortages) -> None:
        self._told, self._shortages = told, shortages
        self._commands = CommandReader(told.folder / "commands.jsonl")
        self.stopping = self.cancelled = self.closing = False
        self.questions: Questions | None = None
        self.cadence: training.Cadence | None = None
        self._unread = _left_by_the_worker_before(told, self._commands)

    # Looking

    def between_steps(self, callback: Any) -> None:
        """Obeys what was asked; blocks while paused."""
        told = self._told
        told.step = callback.trainer.state.global_step
        paused = self._obey_all(callback)
        if paused:
            told.phase("paused", f"Paused after step {told.step}.")
        while paused and not self.stopping:
            time.sleep(POLL_SECONDS)
            paused = self._obey_all(callback, paused=True)
            if not paused:
                told.phase("training", "Training.")
        callback.stopping = self.stopping

    def before_steps(self, state: State, text: str) -> None:
        """Tells what is done next, and obeys an end of the run; everything else waits for the first step."""
        self._told.phase(state, text)
        if self.closing:
            raise Ended(self._nothing_new())
        for command in self._new():
            if command["do"] in ENDS:
                self._obey(command, None)
            else:
                self._unread.append(command)

    def serve(self, idle_seconds: float) -> None:
        """After training: answers prompts. Raises Ended when told to close, or nobody asked for `idle_seconds`."""
        self.stopping = False
        last = time.monotonic()
        while not self.closing:
            for command in self._new():
                last = time.monotonic()
                self._obey(command, None)
            if time.monotonic() - last > idle_seconds:
                raise Ended(f"Closed after {idle_seconds / 60:.0f} minutes without a question.")
            time.sleep(POLL_SECONDS)
        raise Ended("Closed; the adapter is kept.")

    def interrupted(self) -> bool:
        """Whether a long answer should be cut short, because an end of the run is asked for."""
        self._unread += self._commands.new()
        return self.stopping or any(command["do"] in ENDS for command in self._unread)

    def end(self, *, close: bool = True) -> None:
        """Takes note that the run is to end."""
        self.stopping = True
        self.closing = self.closing or close

    # Answering

    def sample(self, step: int, *, adapter: bool) -> None:
        """Answers the recipe's prompts; where that does not fit into memory, the run goes on without the answers."""
        self._told.step = step
        self._if_it_fits(lambda: self.questions.sample(step, adapter=adapter))

    def score(self, step: int, *, adapter: bool, passing: Callable[[int, int], None]) -> None:
        """Scores the held-out rows; where that does not fit into memory, the run goes on without the score."""
        self._if_it_fits(lambda: self.questions.score(step, adapter=adapter, passing=passing))

    def _if_it_fits(self, ask: Callable[[], object]) -> None:
        try:
            ask()
            return
        except Exception as error:
            if not is_shortage(error):
                raise
            short = error
        problem = self._shortages.tell(short, "answering")
        forget(short)
        self._told.warn(problem.fact, f"The answers are left out. {problem.cure}")

    # Obeying

    def _obey_all(self, callback: Any, *, paused: bool = False) -> bool:
        for command in self._new():
            paused = {"pause": True, "unpause": False}.get(command["do"], paused)
            self._obey(command, callback)
        return paused

    def _new(self) -> list[dict[str, Any]]:
        found, self._unread = self._unread + self._commands.new(), []
        return found

    def _obey(self, command: dict[str, Any], callback: Any) -> None:
        """Does what the command says, or tells why not; `callback` is there only while training.

        A command that cannot be obeyed never ends the run: hours of training may hang on it.
        """
        short = None
        try:
            refusal, changed = self._done(command, callback)
        except Ended:
            self._acknowledge(command)
            raise
        except Exception as error:
            traceback.print_exception(error)
            if is_shortage(error):
                short = error
            problem = explain(error, phase=self._told.state, disk_free=self._told.disk_free())
            refusal, changed = problem.fact, ""
        if short is not None:
            refusal = self._shortages.tell(short, "answering").fact
            forget(short)
        self._acknowledge(command, refusal, changed)

    def _done(self, command: dict[str, Any], callback: Any) -> tuple[str, str]:
        """Obeys the command and returns what stands against it, and what it changed, each perhaps empty."""
        do, state = command["do"], self._told.state
        unfinished = state in ("preparing", "loading", "training", "paused")
        if do == "ask":
            self.questions.ask(command, self._told.step)
        elif do == "sample":
            return self.questions.sample(self._told.step, adapter=True), ""
        elif do == "close" or (do in ENDS and unfinished):
            self.cancelled = do == "cancel"
            self.end(close=do == "close")
            if callback is None:
                raise Ended(self._nothing_new() if unfinished else "Closed on request.")
        elif callback is None:
            return f"{do} needs a run that trains; this one is {state}.", ""
        elif do == "checkpoint":
            callback.checkpoint_now = True
        elif do == "change":
            return change(callback, self.cadence, command)
        return "", ""

    def _nothing_new(self) -> str:
        """What is left of a run that ends before a first step."""
        checkpoint = training.last_checkpoint(self._told.folder / "checkpoints")
        kept = f"{checkpoint.name} is still there" if checkpoint else "there was nothing to keep"
        return f"Ended while {self._told.state}, before the first step; {kept}."

    def _acknowledge(self, command: dict[str, Any], refusal: str = "", changed: str = "") -> None:
        text = f"{refusal} Changed: {changed}." if refusal and changed else refusal or changed
        self._told.log.write(
            "command", id=command["id"], do=command["do"], taken=not refusal, text=text
        )


def _left_by_the_worker_before(told: Telling, commands: CommandReader) -> list[dict[str, Any]]:
    """What was asked so far and still holds.

    There is something when a worker replaced itself after it ran out of memory. What it answered is done, but
    settings that were changed while it trained are changed once more: it has forgotten them.
    """
    asked = commands.new()
    if not asked:
        return []
    history = History(told.folder / "events.jsonl")
    history.update()
    answered = {event["id"] for event in history.commands}
    return [command for command in asked if command["id"] not in answered or _lasts(command)]


def _lasts(command: dict[str, Any]) -> bool:
    return command["do"] == "change"
