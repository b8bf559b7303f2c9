"""The first seconds of a training: the longest micro-batch goes through the model, and what it takes is measured by part.

It leaves no trace: the training that follows gives the same losses as one that was not rehearsed. Knows a trainer and
its rows; nothing of how memory was estimated, whose figures it only writes beside its own.
"""

import contextlib
import copy
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..recipe import Recipe
from . import chances, device, feeding, foreseen, parts, probing
from .questions import Questions
from .telling import Telling

Batch = dict[str, Any]
PASSES = 2  # the first one pays for what is made once: kernels, workspaces, gradients; the last one counts
RECORD = "memory.jsonl"


class Rehearsal:
    """Measures one training. `measured` holds bytes by part as far as they are known."""

    def __init__(
        self,
        told: Telling,
        recipe: Recipe,
        units: feeding.Units,
        *,
        backend: str,
        batching: str,
        context: int,
        aside: bool = False,
    ) -> None:
        """`recipe` has the micro-batch that is fed; `context` is what the process held before any weight, in bytes.

        With `aside` it does not tell by itself: there is more to measure.
        """
        self._told, self.recipe, self._units = told, recipe, units
        self._backend, self._batching, self._context = backend, batching, context
        self.measured: parts.Bytes = {}
        self.seconds = 0.0
        self._tokens, self._done, self._aside = 0, False, aside
        self._process = 0

    def begin(self, trainer: Any) -> None:
        """Before the first step, with everything prepared: forward and backward passes on the longest micro-batch."""
        size = self.recipe.training.batch_size
        batch = longest(trainer, self._units, size)
        self._tokens = batch["input_ids"].numel()
        with leaving_no_trace(trainer):
            alone = self._alone(trainer, batch)
            self._pass(trainer, batch)
            self.measured |= parts.held(trainer.model)
        if (
            not device.on_card()
        ):  # a GPU keeps count by itself, so that its watched pass is as quick as any
            self.seconds = alone

    def _alone(self, trainer: Any, batch: Batch) -> float:
        """Passes that nothing watches, for that takes time and memory too; returns the seconds of the last one.

        The first one pays for what is made once: kernels, workspaces, threads.
        """
        device.restart_peak()
        for _ in range(1 if device.on_card() else 2):
            started = time.monotonic()
            one_pass(trainer, batch)
        self._process = device.peak_of_process()
        return time.monotonic() - started

    def _pass(self, trainer: Any, batch: Batch) -> None:
        """Measures one pass, as far as it comes."""
        found = parts.Peak()
        try:
            with parts.peak() as found:
                one_pass(trainer, batch)
        finally:
            self.measured["activations"], self.seconds = found.above, found.seconds

    def after_step(self, trainer: Any) -> None:
        """After the first real step, when the optimizer holds what it will hold."""
        if self._done:
            return
        self._done = True
        self.measured["optimizer"] = parts.held(trainer.model, trainer.optimizer)["optimizer"]
        self.measured["peak"] = sum(self.measured.values())
        process = self._process + self.measured["optimizer"]  # made after it was looked at
        self.measured |= device.process_memory(self._context, process)
        if not self._aside:
            self.tell(trainer.state.global_step)

    def add_answers(self, trainer: Any, questions: Questions) -> None:
        """Measures an answer and a held-out batch too: `generation` and `evaluation` above what is always held, and
        `answers`, by which the larger of them exceeds the peak of training."""
        measured = self.measured
        passing = measured["activations"] + measured["gradients"]
        trainer.model.zero_grad(set_to_none=True)
        with parts.peak() as found:
            questions.try_one(probing.TOKENS)
        measured["generation"] = found.above
        if trainer.eval_dataset is not None:
            rows = min(trainer.args.per_device_eval_batch_size, len(trainer.eval_dataset))
            longest_first = trainer.get_eval_dataloader(trainer.eval_dataset.select(range(rows)))
            with parts.peak() as found:
                trainer.evaluation_loop(longest_first, description="", prediction_loss_only=True)
            measured["evaluation"] = found.above
        most = max(measured["generation"], measured.get("evaluation", 0))
        measured["answers"] = max(most - passing, 0)

    def tell(self, step: int) -> None:
        """Writes the probe event, and a line in the record that all runs beside this one share."""
        told, training = self._told, self.recipe.training
        plan = foreseen.read(told.folder)
        of_longest = int(self._units.lengths.max())
        told.log.write(
            "probe",
            step=step,
            batch_size=training.batch_size,
            longest=of_longest,
            tokens=self._tokens,
            predicted=plan,
            measured=self.measured,
            seconds=self.seconds,
        )
        line = _line(told.folder, self.recipe, self._backend, plan)
        line |= {"measured": self.measured, "tokens": self._tokens, "seconds": self.seconds}
        line["settings"] |= {"longest": of_longest, "batching": self._batching}
        try:
            _append(told.folder.parent / RECORD, line)
        except OSError as error:
            text = f"What was measured could not be kept in {told.folder.parent / RECORD}: {error.strerror}."
            told.warn(text, "Nothing to do: the run goes on, and later estimates do without it.")


def longest(trainer: Any, units: feeding.Units, size: int) -> Batch:
    """The micro-batch of the `size` longest units; of packed rows those are the fullest."""
    import numpy as np

    return of_places(trainer, np.argsort(-units.lengths, kind="stable")[:size])


def of_places(trainer: Any, places: Any) -> Batch:
    """The micro-batch of the units at these places, by the trainer's own collator."""
    return trainer.data_collator([{"place": int(place), "heldout": False} for place in places])


def one_pass(trainer: Any, batch: Batch) -> None:
    """Forward and backward of a micro-batch by the trainer's own step; the gradients add up."""
    samples, items = trainer.get_batch_samples(iter([dict(batch)]), 1, trainer.args.device)
    trainer.current_gradient_accumulation_steps = 1
    trainer.training_step(trainer.model_wrapped, samples[0], items)


@contextlib.contextmanager
def leaving_no_trace(trainer: Any) -> Iterator[None]:
    """Inside, passes may be made; afterwards chance, counters and gradients are as if there had been none."""
    chance = chances.now()
    counted = trainer.tokens, trainer.trained_tokens
    # TRL's own sums, which its next line of log would show
    theirs = {
        name: copy.deepcopy(getattr(trainer, name))
        for name in ("_metrics", "_total_train_tokens")
        if hasattr(trainer, name)
    }
    try:
        yield
    finally:
        chances.restore(chance)
        trainer.tokens, trainer.trained_tokens = counted
        for name, value in theirs.items():
            setattr(trainer, name, value)
        trainer.model.zero_grad(set_to_none=True)


def _line(
    folder: Path, recipe: Recipe, backend: str, plan: dict[str, Any] | None
) -> dict[str, Any]:
    training = recipe.training
    return {
        "t": round(time.time(), 3),
        "run": folder.name,
        "card": device.card(),
        "backend": backend,
        "versions": device.versions(),
        "model": recipe.model.name,
        "settings": {
            "batch_size": training.batch_size,
            "rank": recipe.lora.rank,
            "optimizer": training.optimizer,
            "gradient_checkpointing": training.gradient_checkpointing,
            "load_in_4bit": recipe.model.load_in_4bit,
        },
        "predicted": plan,
    }


def _append(path: Path, line: dict[str, Any]) -> None:
    """One write, so that lines of runs that end together do not mix."""
    place = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(place, json.dumps(line, default=float).encode() + b"\n")
    finally:
        os.close(place)
