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

from .. import lock
from ..commands import CommandReader
from ..data.encode import Encoded, encode
from ..data.rows import read_rows
from ..events import EventLog, State
from ..recipe import Recipe
from . import backends, device, precision, sft_settings, training
from .answering import Answerer
from .failures import explain
from .questions import Questions

Mode = Literal["train", "resume", "reopen"]
IDLE_SECONDS = 30 * 60  # without a command, after training: then the memory is given back
POLL_SECONDS = 0.05


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
        self.stopping = self.cancelled = False
        self._unread: list[dict[str, Any]] = []

    def work(self, mode: Mode) -> int:
        """Does all of it; returns the exit code: 0, or 1 after a failure that the log explains."""
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stopping", True))
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
        self._hold_card()
        self.precision = precision.choose(self.recipe.model.compute_dtype)
        name, why = self.precision
        self.log.write("choice", what="precision", value=name, why=why)
        _write_json(self.folder / "environment.json", device.environment())

    def _hold_card(self) -> None:
        """One run to a card: a second one would take the memory that the first was promised."""
        import torch

        if (
            torch.cuda.is_available()
            and torch.version.cuda
            and lock.hold(lock.card_lock(), self.folder) is None
        ):
            lock.check_free(lock.card_lock())

    def _load(self, mode: Mode) -> None:
        import datasets
        import transformers

        transformers.utils.logging.disable_progress_bar()  # worker.log is read by people
        datasets.disable_progress_bars()
        recipe = self.recipe
        train, heldout = ([], []) if mode == "reopen" else self._encode_rows()
        self._listen_while("loading", f"Loading {recipe.model.name}.")
        self.model, self.tokenizer, source = self.backend.load(recipe, self.precision)
        transformers.set_seed(
            recipe.training.seed
        )  # the adapter's start depends on nothing before it
        if mode == "reopen":
            self.model = self.backend.attach_saved(self.model, self.folder / "adapter")
        else:
            self.model = self.backend.attach(self.model, recipe)
        answerer = Answerer(self.backend, self.model, self.tokenizer, recipe.model.max_length)
        self.questions = Questions(self.log, recipe, answerer, heldout=heldout, train=train)
        counts = training.parameter_counts(self.model)
        self.log.write("model", name=recipe.model.name, source=source, **counts)
        self._read_memory()

    def _encode_rows(self) -> tuple[list[Any], list[Any]]:
        """Renders, masks and cuts all rows before any weight is loaded; returns the training and held-out rows read."""
        self._listen_while("preparing", "Rendering the chat template and masking the rows.")
        tokenizer = self.backend.load_tokenizer(self.recipe)
        data = self.recipe.data
        train = read_rows(data.train)
        self.train = self._encode(train, tokenizer)
        heldout = read_rows(data.heldout) if data.heldout else []
        self.heldout = self._encode(heldout, tokenizer) if heldout else None
        self.log.write(
            "data",
            rows=len(self.train.rows),
            heldout_rows=len(self.heldout.rows) if self.heldout else 0,
            tokens=self.train.tokens,
            trained_tokens=self.train.trained_tokens,
            cut_rows=self.train.cut_rows,
        )
        return train, heldout

    def _encode(self, rows: list[Any], tokenizer: Any) -> Encoded:
        length, loss_on = self.recipe.model.max_length, self.recipe.data.loss_on
        encoded = encode(rows, tokenizer, max_length=length, loss_on=loss_on)
        for problem in encoded.warnings:
            self.log.write("warning", text=problem.fact, cure=problem.cure)
        return encoded

    # Training

    def _train(self, *, resume: bool) -> None:
        trainer = self._trainer()
        checkpoint = training.last_checkpoint(self.folder / "checkpoints") if resume else None
        if checkpoint is None:
            self._listen_while("training", "Asking the base model, before any training.")
            self.questions.sample(0, adapter=False)
            self.questions.score(0, adapter=False)
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
            train=self.train,
            heldout=self.heldout,
            pack_to=recipe.model.max_length if recipe.training.packing else None,
            packed_fields=self.backend.packed_fields,
            callback=training.between_steps(
                self.log, self.cadence, listen=self._listen, sample=self.questions.sample
            ),
        )
        _write_json(self.folder / "sft_config.json", trainer.args.to_dict())
        return trainer

    def _keep_or_discard(self, step: int, of: int) -> None:
        if self.cancelled:
            shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
            raise Ended(f"Cancelled at step {step}; nothing was kept.")
        adapter = self.folder / "adapter"
        partial = self.folder / "adapter.partial"
        self.backend.save(self.model, self.tokenizer, partial)
        training.replace_folder(partial, adapter)
        self.log.write("adapter", step=step, path=str(adapter))
        if self.stopping:
            self._phase("stopped", f"Stopped at step {step} of {of}; the adapter is kept.")
            return
        self._phase("training", "Asking the tuned model.")
        self.questions.sample(step, adapter=True)
        self.questions.score(step, adapter=True)
        self._phase("ready", f"Trained {step} steps; the adapter is saved.")

    # Commands

    def _serve(self) -> None:
        """After training: answers prompts until it is told to close, or nobody asked for a while."""
        if self.state not in ("ready", "stopped"):
            self._phase("ready", "The adapter is loaded.")
        self.stopping = False
        last = time.monotonic()
        while not self.stopping:  # SIGTERM sets it
            for command in self._new_commands():
                last = time.monotonic()
                self._obey(command, None)
            if time.monotonic() - last > IDLE_SECONDS:
                raise Ended(f"Closed after {IDLE_SECONDS // 60} minutes without a question.")
            time.sleep(POLL_SECONDS)
        raise Ended("Closed by a signal; the adapter is kept.")

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
        """Before training there is nothing to keep yet: stop and cancel end the run here."""
        self._phase(state, text)
        for command in self._new_commands():
            self._obey(command, None)

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
        return self.stopping or any(c["do"] in ("stop", "cancel", "close") for c in self._unread)

    def _obey(self, command: dict[str, Any], callback: Any) -> None:
        """Does what the command says, or tells why not; `callback` is there only while training."""
        do, training_now = command["do"], callback is not None
        refusal = ""
        if do == "ask" and hasattr(self, "questions"):
            self._acknowledge(command, "")
            self.questions.ask(command, self.step, self._interrupted)
            return
        if do in ("stop", "cancel") and self.state in (
            "preparing",
            "loading",
            "training",
            "paused",
        ):
            self.stopping, self.cancelled = True, do == "cancel"
            if not training_now:
                self._acknowledge(command, "")
                raise Ended(
                    f"Ended while {self.state}, before the first step; there was nothing to keep."
                )
        elif do == "close":
            self.stopping = True
            if not training_now:
                self._acknowledge(command, "")
                raise Ended("Closed on request.")
        elif not training_now:
            refusal = f"{do} needs a run that trains; this one is {self.state}."
        elif do == "checkpoint":
            callback.checkpoint_now = True
        elif do == "change":
            refusal = training.change(callback, self.cadence, command)
        self._acknowledge(command, refusal)

    def _acknowledge(self, command: dict[str, Any], refusal: str) -> None:
        self.log.write(
            "command", id=command["id"], do=command["do"], taken=not refusal, text=refusal
        )

    # Telling

    def _phase(self, state: State, text: str) -> None:
        self.state = state
        self.log.write("phase", state=state, text=text)

    def _read_memory(self) -> None:
        self.log.write("memory", step=self.step, **device.memory())

    def _fail(self, error: Exception) -> None:
        disk_free = shutil.disk_usage(self.folder).free
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
