"""The life of a worker: read the recipe, encode the rows, load, train, answer prompts, and tell it all to the folder.

Knows the order of things. How each thing is done is in the modules beside this one.
"""

import json
import shutil
import signal
import time
import traceback
from pathlib import Path
from typing import Literal

from ..data.tokenizer import ChatTokenizer
from ..events import History
from ..recipe import Recipe
from . import backends, device, precision, training
from .answering import Answerer
from .failures import explain
from .hearing import Ended, Hearing
from .learning import Learning, OutOfMemory, write_json
from .material import Material, gather
from .questions import Questions
from .shortage import Shortages, is_shortage
from .telling import Telling

Mode = Literal["train", "resume", "reopen", "probe"]
IDLE_SECONDS = 30 * 60  # without a command, after training: then the memory is given back
TELL_SECONDS = 1  # between two words on how far the rows are


class Session:
    """One run in one process. `again` says that it is to be resumed in a fresh one, which has all memory back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told = Telling(folder)
        self.log = self.told.log
        self.shortages = Shortages(self.told)
        self.hearing = Hearing(self.told, self.shortages)
        self.again = False
        self.card: int | None = None

    def work(self, mode: Mode) -> int:
        """Does all of it; returns the exit code: 0, or 1 after a failure that the log explains."""
        signal.signal(signal.SIGTERM, lambda *_: self.hearing.end())
        try:
            self._prepare()
            self._load(mode)
            if mode != "reopen":
                self._train(mode)
            if not self.again:
                self._serve()
        except Ended as end:
            self.told.phase("closed", str(end))
        except (
            Exception
        ) as error:  # the last line of defence: whatever happened is told in the run's folder
            self._fail(error)
            return 1
        return 0

    # Before training

    def _prepare(self) -> None:
        self.told.phase("preparing", "Reading the recipe.")
        self.recipe = Recipe.load(self.folder / "recipe.yaml")
        choice = json.loads((self.folder / "backend.json").read_text())
        self.log.write("choice", what="backend", value=choice["value"], why=choice["why"])
        self.backend = backends.get(choice["value"])
        self.backend.prepare(self.folder)
        self.told.phase(
            "preparing", "Importing the libraries: 10 to 30 s, less when a spare worker was warm."
        )
        self.backend.import_libraries()
        self.card = device.hold_card(self.folder)
        self.before_weights = device.before_weights()
        self.precision = precision.choose(self.recipe.model.compute_dtype)
        name, why = self.precision
        self.log.write("choice", what="precision", value=name, why=why)
        write_json(self.folder / "environment.json", device.environment())

    def _load(self, mode: Mode) -> None:
        import datasets
        import transformers

        transformers.utils.logging.disable_progress_bar()  # worker.log is read by people
        datasets.disable_progress_bars()
        recipe = self.recipe
        prompts = ChatTokenizer.of(
            self.backend.load_tokenizer(recipe), template=recipe.data.template
        )
        rows = None if mode == "reopen" else self._gather(prompts)
        self.hearing.before_steps("loading", f"Loading {recipe.model.name}.")
        device.limit_memory()
        self.model, self.tokenizer, source = self.backend.load(recipe, self.precision)
        if recipe.data.template:
            self.tokenizer.chat_template = prompts.template  # saved beside the adapter
        # The adapter's start depends on the seed alone, not on what was drawn before it.
        transformers.set_seed(recipe.training.seed)
        if mode == "reopen":
            self.model = self.backend.attach_saved(self.model, self.folder / "adapter")
            self.told.step = self._history().step  # of which the answers are from here on
        else:
            self.model = self.backend.attach(self.model, recipe)
        self.shortages.model = self.model
        answerer = Answerer(
            self.backend,
            self.model,
            self.tokenizer,
            max_length=recipe.model.max_length,
            end_ids=prompts.end_ids,
        )
        self.hearing.questions = Questions(
            self.log,
            recipe,
            answerer,
            prompts,
            heldout=rows.askable_heldout if rows else [],
            train=rows.askable_train if rows else [],
            copies=rows.copies if rows else None,
            interrupted=self.hearing.interrupted,
        )
        counts = training.parameter_counts(self.model)
        self.log.write("model", name=recipe.model.name, source=source, **counts)
        self.log.write("memory", step=0, **device.readings())

    def _gather(self, tokenizer: ChatTokenizer) -> Material:
        """Prepares all rows before any weight is loaded."""
        told = 0.0

        def passing(text: str) -> None:
            nonlocal told
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                self.hearing.before_steps("preparing", text)

        self.material = gather(self.recipe, tokenizer, self.log, passing=passing)
        return self.material

    # Training

    def _train(self, mode: Mode) -> None:
        resume = mode == "resume"
        checkpoint = training.last_checkpoint(self.folder / "checkpoints") if resume else None
        learning = Learning(
            self.told,
            self.hearing,
            self.shortages,
            self.recipe,
            self.material,
            backend=self.backend,
            precision=self.precision,
            model=self.model,
            tokenizer=self.tokenizer,
            before_weights=self.before_weights,
        )
        if mode == "probe":
            self.hearing.before_steps("training", "Measuring the longest rows.")
            learning.probe()
            raise Ended("Measured; nothing was kept.")
        learning.prepare()
        if checkpoint is None and not (resume and self._base_was_asked()):
            self.hearing.before_steps("training", "Asking the base model.")
            self._measure("Asking the base model", 0, adapter=False)
        going_on = f"Going on from {checkpoint.name}." if checkpoint else "Training."
        self.hearing.before_steps("training", going_on)
        if not self.hearing.stopping:
            self.again = learning.go(checkpoint)
        if not self.again:
            self._keep_or_discard(learning)

    def _base_was_asked(self) -> bool:
        """Whether the worker before this one has the base model's answers in the log."""
        history = self._history()
        sampled = any(s["sample"].startswith("step-0-") for s in history.samples)
        return sampled and (bool(history.scores) or not self.recipe.samples.score_rows)

    def _history(self) -> History:
        """What the run's log says so far."""
        history = History(self.log.path)
        history.update()
        return history

    def _measure(self, words: str, step: int, *, adapter: bool) -> None:
        """Takes the samples and the score; cut short when an end of the run is asked for."""

        def passing(done: int, of: int) -> None:
            self.told.phase("training", f"{words}: {done} of {of} held-out rows.")

        self.told.phase("training", f"{words}.")
        self.hearing.sample(step, adapter=adapter)
        self.hearing.score(step, adapter=adapter, passing=passing)

    def _keep_or_discard(self, learning: Learning) -> None:
        adapter, state, best = self.folder / "adapter", learning.trainer.state, learning.best
        step, of = state.global_step, state.max_steps
        if self.hearing.cancelled:
            shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
            best.forget()
            kept = "the adapter from before it was resumed" if adapter.exists() else "nothing"
            raise Ended(f"Cancelled at step {step}; {kept} was kept.")
        kept = best.put_back(step)
        partial = self.folder / "adapter.partial"
        self.backend.save(self.model, self.tokenizer, partial)
        training.replace_folder(partial, adapter)
        self.log.write("adapter", step=kept.step, path=str(adapter), why=kept.why)
        if step >= of:  # else the run may go on from its checkpoint, and from the best so far
            best.forget()
        which = (
            f" of step {kept.step}, whose held-out loss was the lowest," if kept.put_back else ""
        )
        if self.hearing.stopping:
            text = f"Stopped at step {step} of {of}; the adapter{which} is kept."
            self.told.phase("stopped", text)
            return
        self._measure("Asking the tuned model", step, adapter=True)
        done = (
            f"Ended at step {step} of {of}" if learning.stopped_early else f"Trained {step} steps"
        )
        text = f"{learning.stopped_early} {done}; the adapter{which} is saved."
        self.told.phase("ready", text.lstrip())

    def _serve(self) -> None:
        if self.told.state not in ("ready", "stopped"):
            self.told.phase("ready", "The adapter is loaded.")
        self.hearing.serve(IDLE_SECONDS)

    # Telling

    def _fail(self, error: Exception) -> None:
        traceback.print_exception(error)
        cause = "".join(traceback.format_exception(error))
        if isinstance(error, OutOfMemory):
            problem, cause = error.problem, error.cause
        elif is_shortage(error):
            phase = "training" if self.told.state in ("training", "paused") else "loading"
            problem = self.shortages.tell(error, phase)
        else:
            problem = explain(error, phase=self.told.state, disk_free=self.told.disk_free())
        self.told.fail(problem.fact, cause, problem.cure)
