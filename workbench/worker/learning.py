"""One training, from the trainer that is made for it to its end or to where the memory ran out.

Knows the order of rehearsal, choice of the micro-batch, and training. Knows nothing of loading, answering or serving.
"""

import json
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from ..problems import Problem
from ..recipe import Recipe
from . import feeding, fitting, microbatch, probing, sft_settings, training
from .best import Best
from .failures import explain
from .hearing import Hearing
from .material import Material
from .precision import Precision
from .rehearsal import Rehearsal
from .shortage import Shortages, forget, is_shortage
from .telling import Telling


class OutOfMemory(Exception):
    """The memory ran out in training: told in the log already, with what was learned kept."""

    def __init__(self, problem: Problem, cause: str) -> None:
        self.problem, self.cause = problem, cause
        super().__init__(problem.fact)


class Learning:
    """The training of a model that carries its adapter; `trainer` is there after `prepare`.

    `best` knows which adapter is to be kept, `stopped_early` is the sentence why it ended by itself, if it did.
    """

    def __init__(
        self,
        told: Telling,
        hearing: Hearing,
        shortages: Shortages,
        recipe: Recipe,
        material: Material,
        *,
        backend: ModuleType,
        precision: Precision,
        model: Any,
        tokenizer: Any,
        before_weights: int,
    ) -> None:
        self._told, self._hearing, self._shortages = told, hearing, shortages
        self._recipe, self._material = recipe, material
        self._backend, self._precision = backend, precision
        self._model, self._tokenizer = model, tokenizer
        self._before_weights = before_weights
        self._units = feeding.units(material.train, material.batching)
        self.trainer: Any = None
        self.best = Best(told, recipe.training, model)
        self.stopped_early = ""
        self._take(microbatch.of(recipe, told.folder))

    def prepare(self) -> None:
        """Makes the trainer for the micro-batch as it is."""
        self._hearing.cadence = self._cadence()
        self._make(microbatch.fed(self._recipe, self._micro), self._order())

    def go(self, checkpoint: Path | None) -> bool:
        """Trains to the end, or to where it is stopped; True when the run is to be resumed in a fresh process.

        Raises OutOfMemory when the memory ran out and the recipe does not wish to go on by itself.
        """
        short = self._choose_and_train(checkpoint)
        return short is not None and self._goes_on(short)

    def probe(self) -> None:
        """Two steps on the longest rows, one answer and one held-out batch; tells what they took."""
        self._take(
            self._micro._replace(accumulation=min(self._micro.accumulation, probing.ACCUMULATION))
        )
        recipe = microbatch.fed(self._recipe, self._micro)
        recipe = recipe.replace(training={"steps": probing.STEPS, "epochs": None})
        self._hearing.cadence = probing.cadence()
        self._make(recipe, feeding.LongestFirst(self._units.lengths), aside=True)
        short = self._trained(None)
        if short is not None:
            problem, cause = self._told_shortage(short, retrying=False)
            raise OutOfMemory(problem, cause)
        self._rehearsal.add_answers(self.trainer, self._hearing.questions)
        self._rehearsal.tell(self.trainer.state.global_step)

    # Making

    def _take(self, micro: microbatch.MicroBatch) -> None:
        self._micro = self._shortages.micro = micro

    def _make(self, recipe: Recipe, order: Any, *, aside: bool = False) -> None:
        import torch

        fields = sft_settings.settings(
            recipe,
            self._precision,
            self._told.folder,
            on_gpu=torch.cuda.is_available(),
            backend=self._backend.trainer_options(recipe),
        )
        config, unknown = sft_settings.sft_config(fields)
        if unknown:
            text = f"This TRL has settings that the workbench does not know: {', '.join(unknown)}."
            self._told.warn(text, "Their defaults are used; see sft_config.json.")
        material = self._material
        self._rehearsal = Rehearsal(
            self._told,
            recipe,
            self._units,
            backend=self._backend.NAME,
            batching=material.batching.choice,
            context=self._before_weights,
            aside=aside,
        )
        self._shortages.measured = self._rehearsal.measured
        self._callback = training.between_steps(
            self._told.log,
            self._hearing.cadence,
            listen=self._hearing.between_steps,
            sample=self._hearing.sample,
            evaluated=self._evaluated,
            rehearsal=self._rehearsal,
        )
        self.trainer = self._shortages.trainer = training.trainer(
            model=self._model,
            tokenizer=self._tokenizer,
            config=config,
            train=material.train,
            heldout=material.heldout,
            batching=material.batching,
            packed_fields=self._backend.packed_fields,
            callback=self._callback,
            order=order,
            shortages=self._shortages,
        )
        self._write_settings()

    def _write_settings(self) -> None:
        write_json(self._told.folder / "sft_config.json", self.trainer.args.to_dict())

    def _cadence(self) -> training.Cadence:
        recipe = self._recipe
        return training.Cadence(
            evaluate=recipe.training.eval_every,
            sample=recipe.samples.every,
            checkpoint=recipe.training.checkpoint_every,
        )

    def _order(self) -> feeding.Order:
        """The order of the rows by the recipe's own batch size, whatever goes through at once."""
        settings, grouped = self._recipe.training, self._material.batching.choice == "grouped"
        cut_otherwise = grouped and self._micro.batch_size != settings.batch_size
        return feeding.Order(
            self._units.lengths,
            settings.batch_size,
            seed=settings.seed,
            grouped=grouped,
            sorted_by=self._micro.effective if cut_otherwise else None,
        )

    # Choosing

    def _choose_and_train(self, checkpoint: Path | None) -> Exception | None:
        wished = self._recipe.training.batch == "auto" and checkpoint is None
        if wished and not microbatch.is_kept(self._told.folder):
            short = self._choose()
            if short is not None:
                return short
        return self._trained(checkpoint)

    def _choose(self) -> Exception | None:
        """Finds the fastest micro-batch that fits and goes on with it; an error when not even one row does."""
        told = self._told
        told.phase("training", "Trying how many rows at once are fastest.")
        tried = fitting.Fitting(self._units, self._recipe, told.folder)
        self._callback.rehearsal = tried
        try:
            self.trainer.train()
        except fitting.Tried:
            pass
        finally:
            self._callback.rehearsal = self._rehearsal
        if tried.short is not None:
            return tried.short
        self._take(tried.best)
        microbatch.keep(told.folder, self._micro)
        told.log.write(
            "choice", what="micro_batch", value=str(self._micro.batch_size), why=tried.why
        )
        training.cut_otherwise(self.trainer, *self._micro, self._order())
        self._rehearsal.recipe = microbatch.fed(self._recipe, self._micro)
        self._write_settings()
        told.phase("training", "Training.")
        return None

    # Training

    def _evaluated(self, callback: Any, loss: float) -> bool:
        """Takes an evaluation in; True when the held-out loss did not fall for long enough to end the training here."""
        state = callback.trainer.state
        last = state.global_step >= state.max_steps
        why = self.best.evaluated(state.global_step, loss, last=last)
        if not why or self._hearing.stopping:  # it ends here anyway, as somebody wished
            return False
        best = self.best.evaluations.best
        value = str(best.step if best else 0)
        self._told.log.write("choice", what="early_stop", value=value, why=why)
        self._told.phase("training", why)
        self.stopped_early = why
        return True

    def _trained(self, checkpoint: Path | None) -> Exception | None:
        """Trains, and returns the error by which the memory ran out, if it did."""
        try:
            self.trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except Exception as error:
            if not is_shortage(error):
                raise
            return error
        return None

    def _goes_on(self, short: Exception) -> bool:
        """After a shortage: tells it, keeps what was learned, and says whether a fresh process is to go on."""
        smaller = microbatch.halved(self._micro)
        wished = self._recipe.training.on_oom == "retry" and not self._hearing.stopping
        retrying = wished and smaller is not None
        problem, cause = self._told_shortage(short, retrying=retrying)
        if not retrying:
            raise OutOfMemory(problem, cause)
        microbatch.keep(self._told.folder, smaller)
        rows = f"{smaller.batch_size} row{'s'[: smaller.batch_size > 1]} at once"
        cure = (
            f"It goes on by itself with {rows} and the same effective batch of {smaller.effective}."
        )
        self._told.warn(problem.fact, cure)
        self._told.phase("preparing", f"Starting afresh with {rows}.")
        return True

    def _told_shortage(self, short: Exception, *, retrying: bool) -> tuple[Problem, str]:
        """Frees what the failed step held, writes a checkpoint of the one before, and tells it all."""
        traceback.print_exception(short)
        cause = "".join(traceback.format_exception(short))
        forget(short)
        state = self.trainer.state
        self._told.step = state.global_step
        saved = 0 if self._hearing.cadence.at_end is False else self._saved()
        return self._shortages.tell(short, "training", retrying=retrying, saved=saved), cause

    def _saved(self) -> int:
        """The step of the newest checkpoint, after one of the last finished step was written if it can be."""
        try:
            training.keep_last_step(self.trainer, self._callback)
        except Exception as error:
            traceback.print_exception(error)
            free = self._told.disk_free()
            problem = explain(error, phase="writing a checkpoint", disk_free=free)
            self._told.warn(problem.fact, problem.cure)
        found = training.last_checkpoint(self._told.folder / "checkpoints")
        return int(found.name.rpartition("-")[2]) if found else 0


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a file of the run's folder in one go."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2, default=str))
    partial.replace(path)
