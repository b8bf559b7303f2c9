"""The life of a worker: read the recipe, encode the rows, load, train, answer prompts, and tell it all to the folder.

Knows the order of things and obeys commands. How each thing is done is in the modules beside this one.
"""

import json
import shutil
import signal
import time
import traceback
from pathlib import Path
from typing import Any, Literal

from ..commands import CommandReader
from ..data.rows import Row
from ..data.tokenizer import ChatTokenizer
from ..events import EventLog, State
from ..recipe import Recipe
from . import backends, device, precision, sft_settings, training
from .answering import Answerer
from .failures import explain
from .material import gather
from .questions import Questions

Mode = Literal["train", "resume", "reopen"]
IDLE_SECONDS = 30 * 60  # without a command, after training: then the memory is given back
POLL_SECONDS = 0.05
TELL_SECONDS = 1  # between two words on how far the rows are
ENDS = ("stop", "cancel", "close")


class Ended(Exception):
    """The run was cancelled or closed: leave quietly, with these closing words."""


class Session:
    """One run in one process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = EventLog(folder / "events.jsonl")
        self.commands = CommandReader(folder / "commands.jsonl")
        self.state: State = "preparing"
        self.step = 0
        self.stopping = self.cancelled = self.closing = False
        self._unread: list[dict[str, Any]] = []

    def work(self, mode: Mode) -> int:
        """Does all of it; returns the exit code: 0, or 1 after a failure that the log explains."""
        signal.signal(signal.SIGTERM, lambda *_: self._end())
        try:
            self._prepare()
            self._load(mode)
            if mode != "reopen":
                self._train(resume=mode == "resume")
            self._serve()
        except Ended as end:
            self._phase("closed", str(end))
        except (
            Exception
        ) as error:  # the last line of defence: whatever happened is told in the run's folder
            self._fail(error)
            return 1
        return 0

    # Before training

    def _prepare(self) -> None:
        self._phase("preparing", "Reading the recipe.")
        self.recipe = Recipe.load(self.folder / "recipe.yaml")
        choice = json.loads((self.folder / "backend.json").read_text())
        self.log.write("choice", what="backend", value=choice["value"], why=choice["why"])
        self.backend = backends.get(choice["value"])
        self.backend.prepare(self.folder)
        self._phase(
            "preparing", "Importing the libraries: 10 to 30 s, less when a spare worker was warm."
        )
        self.backend.import_libraries()
        device.hold_card(self.folder)
        self.precision = precision.choose(self.recipe.model.compute_dtype)
        name, why = self.precision
        self.log.write("choice", what="precision", value=name, why=why)
        _write_json(self.folder / "environment.json", device.environment())

    def _load(self, mode: Mode) -> None:
        import datasets
        import transformers

        transformers.utils.logging.disable_progress_bar()  # worker.log is read by people
        datasets.disable_progress_bars()
        recipe = self.recipe
        prompts = ChatTokenizer.of(
            self.backend.load_tokenizer(recipe), template=recipe.data.template
        )
        train, heldout = ([], []) if mode == "reopen" else self._gather(prompts)
        self._listen_while("loading", f"Loading {recipe.model.name}.")
        self.model, self.tokenizer, source = self.backend.load(recipe, self.precision)
        if recipe.data.template:
            self.tokenizer.chat_template = prompts.template  # saved beside the adapter
        # The adapter's start depends on the seed alone, not on what was drawn before it.
        transformers.set_seed(recipe.training.seed)
        if mode == "reopen":
            self.model = self.backend.attach_saved(self.model, self.folder / "adapter")
        else:
            self.model = self.backend.attach(self.model, recipe)
        answerer = Answerer(
            self.backend,
            self.model,
            self.tokenizer,
            max_length=recipe.model.max_length,
            end_ids=prompts.end_ids,
        )
        self.questions = Questions(
            self.log,
            recipe,
            answerer,
            prompts,
            heldout=heldout,
            train=train,
            interrupted=self._interrupted,
        )
        counts = training.parameter_counts(self.model)
        self.log.write("model", name=recipe.model.name, source=source, **counts)
        self.log.write("memory", step=0, **device.memory())

    def _gather(self, tokenizer: ChatTokenizer) -> tuple[list[Row], list[Row]]:
        """Prepares all rows before any weight is loaded; returns those that can be asked."""
        told = 0.0

        def passing(text: str) -> None:
            nonlocal told
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                self._listen_while("preparing", text)

        self.material = gather(self.recipe, tokenizer, self.log, passing=passing)
        return self.material.askable_train, self.material.askable_heldout

    # Training

    def _train(self, *, resume: bool) -> None:
        trainer = self._trainer()
        checkpoint = training.last_checkpoint(self.folder / "checkpoints") if resume else None
        if checkpoint is None:
            self._listen_while("training", "Asking the base model.")
            self._measure("Asking the base model", 0, adapter=False)
        self._listen_while(
            "training", f"Going on from {checkpoint.name}." if checkpoint else "Training."
        )
        if not self.stopping:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        self._keep_or_discard(trainer.state.global_step, trainer.state.max_steps)

    def _trainer(self) -> Any:
        import torch

        recipe = self.recipe
        fields = sft_settings.settings(
            recipe,
            self.precision,
            self.folder,
            on_gpu=torch.cuda.is_available(),
            backend=self.backend.trainer_options(recipe),
        )
        config, unknown = sft_settings.sft_config(fields)
        if unknown:
            text = f"This TRL has settings that the workbench does not know: {', '.join(unknown)}."
            self.log.write(
                "warning", text=text, cure="Their defaults are used; see sft_config.json."
            )
        self.cadence = training.Cadence(
            evaluate=recipe.training.eval_every,
            sample=recipe.samples.every,
            checkpoint=recipe.training.checkpoint_every,
        )
        trainer = training.trainer(
            model=self.model,
            tokenizer=self.tokenizer,
            config=config,
            train=self.material.train,
            heldout=self.material.heldout,
            batching=self.material.batching,
            packed_fields=self.backend.packed_fields,
            callback=training.between_steps(
                self.log, self.cadence, listen=self._listen, sample=self.questions.sample
            ),
        )
        _write_json(self.folder / "sft_config.json", trainer.args.to_dict())
        return trainer

    def _measure(self, words: str, step: int, *, adapter: bool) -> None:
        """Takes the samples and the score; cut short when an end of the run is asked for."""

        def passing(done: int, of: int) -> None:
            self._phase("training", f"{words}: {done} of {of} held-out rows.")

        self._phase("training", f"{words}.")
        self.questions.sample(step, adapter=adapter)
        self.questions.score(step, adapter=adapter, passing=passing)

    def _keep_or_discard(self, step: int, of: int) -> None:
        adapter = self.folder / "adapter"
        if self.cancelled:
            shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
            kept = "the adapter from before it was resumed" if adapter.exists() else "nothing"
            raise Ended(f"Cancelled at step {step}; {kept} was kept.")
        partial = self.folder / "adapter.partial"
        self.backend.save(self.model, self.tokenizer, partial)
        training.replace_folder(partial, adapter)
        self.log.write("adapter", step=step, path=str(adapter))
        if self.stopping:
            self._phase("stopped", f"Stopped at step {step} of {of}; the adapter is kept.")
            return
        self._measure("Asking the tuned model", step, adapter=True)
        self._phase("ready", f"Trained {step} steps; the adapter is saved.")

    # Commands

    def _serve(self) -> None:
        """After training: answers prompts until it is told to close, or nobody asked for a while."""
        if self.state not in ("ready", "stopped"):
            self._phase("ready", "The adapter is loaded.")
        self.stopping = False
        last = time.monotonic()
        while not self.closing:
            for command in self._new_commands():
                last = time.monotonic()
                self._obey(command, None)
            if time.monotonic() - last > IDLE_SECONDS:
                raise Ended(f"Closed after {IDLE_SECONDS // 60} minutes without a question.")
            time.sleep(POLL_SECONDS)
        raise Ended("Closed; the adapter is kept.")

    def _listen(self, callback: Any) -> None:
        """Between two steps: obeys what was asked; blocks while paused."""
        self.step = callback.trainer.state.global_step
        paused = self._obey_all(callback)
        if paused:
            self._phase("paused", f"Paused after step {self.step}.")
        while paused and not self.stopping:
            time.sleep(POLL_SECONDS)
            paused = self._obey_all(callback, paused=True)
            if not paused:
                self._phase("training", "Training.")
        callback.stopping = self.stopping

    def _listen_while(self, state: State, text: str) -> None:
        """Before the first step: an end of the run is obeyed here, everything else waits for the first step."""
        self._phase(state, text)
        if self.closing:
            raise Ended(self._nothing_new())
        for command in self._new_commands():
            if command["do"] in ENDS:
                self._obey(command, None)
            else:
                self._unread.append(command)

    def _obey_all(self, callback: Any, *, paused: bool = False) -> bool:
        for command in self._new_commands():
            paused = {"pause": True, "unpause": False}.get(command["do"], paused)
            self._obey(command, callback)
        return paused

    def _new_commands(self) -> list[dict[str, Any]]:
        found, self._unread = self._unread + self.commands.new(), []
        return found

    def _interrupted(self) -> bool:
        """Whether a long answer should be cut short, because an end of the run is asked for."""
        self._unread += self.commands.new()
        return self.stopping or any(command["do"] in ENDS for command in self._unread)

    def _obey(self, command: dict[str, Any], callback: Any) -> None:
        """Does what the command says, or tells why not; `callback` is there only while training.

        A command that cannot be obeyed never ends the run: hours of training may hang on it.
        """
        try:
            refusal = self._done(command, callback)
        except Ended:
            self._acknowledge(command, "")
            raise
        except Exception as error:
            traceback.print_exception(error)
            problem = explain(error, phase=self.state, disk_free=self._disk_free())
            refusal = problem.fact
        self._acknowledge(command, refusal)

    def _done(self, command: dict[str, Any], callback: Any) -> str:
        """Obeys the command and returns what stands against it, or an empty text."""
        do = command["do"]
        unfinished = self.state in ("preparing", "loading", "training", "paused")
        if do == "ask":
            self.questions.ask(command, self.step)
        elif do == "close" or (do in ENDS and unfinished):
            self.cancelled = do == "cancel"
            self._end(close=do == "close")
            if callback is None:
                raise Ended(self._nothing_new() if unfinished else "Closed on request.")
        elif callback is None:
            return f"{do} needs a run that trains; this one is {self.state}."
        elif do == "checkpoint":
            callback.checkpoint_now = True
        elif do == "change":
            return training.change(callback, self.cadence, command)
        return ""

    def _end(self, *, close: bool = True) -> None:
        self.stopping = True
        self.closing = self.closing or close

    def _nothing_new(self) -> str:
        """What is left of a run that ends before a first step."""
        checkpoint = training.last_checkpoint(self.folder / "checkpoints")
        kept = f"{checkpoint.name} is still there" if checkpoint else "there was nothing to keep"
        return f"Ended while {self.state}, before the first step; {kept}."

    def _acknowledge(self, command: dict[str, Any], refusal: str) -> None:
        self.log.write(
            "command", id=command["id"], do=command["do"], taken=not refusal, text=refusal
        )

    # Telling

    def _phase(self, state: State, text: str) -> None:
        self.state = state
        self.log.write("phase", state=state, text=text)

    def _disk_free(self) -> int:
        """Bytes free where the run writes; its folder may have been removed under it."""
        return shutil.disk_usage(self.folder if self.folder.exists() else "/").free

    def _fail(self, error: Exception) -> None:
        disk_free = self._disk_free()
        self.log.give_up_reserve()
        traceback.print_exception(error)
        problem = explain(error, phase=self.state, disk_free=disk_free)
        cause = "".join(traceback.format_exception(error))[-4000:]
        self.log.write("error", text=problem.fact, cause=cause, cure=problem.cure)
        self._phase("failed", problem.fact)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2, default=str))
    partial.replace(path)
