"""TRL's SFTTrainer around rows that are ready, and a callback that tells what happens and hears what is wanted.

Knows nothing of run folders or processes; `session.py` hands it the log, the commands and the samples to take.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..data.encode import Encoded
from ..events import EventLog
from . import device

MEMORY_SECONDS = 0.5  # between two memory readings while training


def dataset(encoded: Encoded, *, pack_to: int | None) -> Any:
    """The rows as a `datasets.Dataset` with `input_ids` and `labels`; joined up to `pack_to` tokens (best fit) if given."""
    from datasets import Dataset
    from trl import pack_dataset

    columns = {
        "input_ids": [row.input_ids for row in encoded.rows],
        "labels": [row.labels for row in encoded.rows],
    }
    rows = Dataset.from_dict(columns)
    return pack_dataset(rows, seq_length=pack_to, strategy="bfd") if pack_to else rows


def collator(
    pad_token_id: int, packed_fields: Callable[[list[int]], dict[str, Any]] | None
) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Turns rows into a batch of `input_ids` and `labels` `(batch, longest)`, with its counts of real and trained tokens.

    With `packed_fields` (the backend's), packed rows are laid end to end, `(1, total)`. `position_ids` start anew with
    each row, by which Transformers keeps rows from seeing each other; what a backend needs beside that it adds.
    """
    import torch

    def counts(tokens: int, labels: Iterable[list[int]]) -> dict[str, int]:
        trained = sum(label != -100 for row in labels for label in row)
        return {"tokens": int(tokens), "trained_tokens": trained}

    def pad(rows: list[dict[str, Any]]) -> dict[str, Any]:
        longest = max(len(row["input_ids"]) for row in rows)

        def block(key: str, filler: int) -> torch.Tensor:
            return torch.tensor(
                [[*row[key], *[filler] * (longest - len(row[key]))] for row in rows]
            )

        sizes = torch.tensor([[len(row["input_ids"])] for row in rows])
        return {
            "input_ids": block("input_ids", pad_token_id),
            "labels": block("labels", -100),
            "attention_mask": (torch.arange(longest) < sizes).long(),
            **counts(sizes.sum(), (row["labels"] for row in rows)),
        }

    def lay_end_to_end(rows: list[dict[str, Any]]) -> dict[str, Any]:
        ids = [token for row in rows for token in row["input_ids"]]
        labels = [label for row in rows for label in row["labels"]]
        lengths = [length for row in rows for length in row["seq_lengths"]]
        positions = [position for length in lengths for position in range(length)]
        # The first token of each row has no predecessor of its own to be predicted from.
        labels = [
            -100 if position == 0 else label
            for label, position in zip(labels, positions, strict=True)
        ]
        names = ("input_ids", "labels", "position_ids")
        tensors = (torch.tensor([column]) for column in (ids, labels, positions))
        batch = dict(zip(names, tensors, strict=True)) | packed_fields(lengths)
        return batch | counts(len(ids), [labels])

    return lay_end_to_end if packed_fields else pad


def trainer(
    *,
    model: Any,
    tokenizer: Any,
    config: Any,
    train: Encoded,
    heldout: Encoded | None,
    pack_to: int | None,
    packed_fields: Callable[[list[int]], dict[str, Any]],
    callback: Any,
) -> Any:
    """An SFTTrainer for a model that already carries its adapter.

    `peft_config` is never given: after `import unsloth` it would be ignored without a word, and every weight trained.
    """
    from transformers import PrinterCallback, ProgressCallback
    from trl import SFTTrainer

    class CountingTrainer(SFTTrainer):
        """Counts the tokens that are really there: Unsloth's trainer logs none, and TRL counts padding too."""

        tokens = trained_tokens = 0

        def compute_loss(self, model, inputs, *args, **kwargs):  # noqa: ANN001, ANN202 - TRL's signature
            tokens, trained_tokens = inputs.pop("tokens"), inputs.pop("trained_tokens")
            if model.training:
                self.tokens += tokens
                self.trained_tokens += trained_tokens
            return super().compute_loss(model, inputs, *args, **kwargs)

    # TRL rounds the adapter of a 4-bit model to bfloat16, which is slow on CPUs and breaks float16's loss scaling.
    exact = [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad]
    made = CountingTrainer(
        model=model,
        args=config,
        train_dataset=dataset(train, pack_to=pack_to),
        eval_dataset=dataset(heldout, pack_to=pack_to) if heldout else None,
        processing_class=tokenizer,
        data_collator=collator(tokenizer.pad_token_id, packed_fields if pack_to else None),
        callbacks=[callback],
    )
    for parameter, value in exact:
        parameter.data = value
    for theirs in (PrinterCallback, ProgressCallback):
        made.remove_callback(theirs)
    callback.trainer = made
    return made


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end: the Trainer writes trainer_state.json last."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    return next((path for path in reversed(found) if _complete(path)), None)


def _complete(checkpoint: Path) -> bool:
    try:
        return bool(json.loads((checkpoint / "trainer_state.json").read_text()))
    except (OSError, ValueError):
        return False


class Cadence:
    """How often to evaluate, sample and checkpoint, in steps (0: never, or only at the end); can change while training."""

    def __init__(self, *, evaluate: int, sample: int, checkpoint: int) -> None:
        self.evaluate, self.sample, self.checkpoint = evaluate, sample, checkpoint

    @staticmethod
    def due(every: int, step: int) -> bool:
        return every > 0 and step % every == 0


def between_steps(
    log: EventLog, cadence: Cadence, *, listen: Callable[[Any], None], sample: Callable[..., None]
) -> Any:
    """The callback: after each step it writes what happened, takes samples when due, and then lets `listen` act.

    `listen(callback)` may block (a pause); it sets `stopping` and `checkpoint_now`, and calls `change`.
    """
    from transformers import TrainerCallback

    class BetweenSteps(TrainerCallback):
        trainer: Any = None
        stopping = False
        checkpoint_now = False

        def __init__(self) -> None:
            self._mark, self._counted, self._memory_read = 0.0, (0, 0), 0.0
            self._lost = False

        def on_train_begin(self, args, state, control, **kwargs):  # noqa: ANN001, ANN202
            self._mark = time.monotonic()

        def on_step_end(self, args, state, control, **kwargs):  # noqa: ANN001, ANN202
            self._seconds = time.monotonic() - self._mark

        def on_log(self, args, state, control, logs=None, **kwargs):  # noqa: ANN001, ANN202
            if "loss" not in logs:  # the summary at the end, or an evaluation
                return
            self._tell(state, logs)
            if (
                Cadence.due(cadence.sample, state.global_step)
                and state.global_step < state.max_steps
            ):
                sample(state.global_step, adapter=True)
            listen(self)
            last = state.global_step >= state.max_steps  # `listen` may have brought it forward
            due_eval = Cadence.due(cadence.evaluate, state.global_step)
            due_checkpoint = Cadence.due(cadence.checkpoint, state.global_step)
            control.should_evaluate = self.trainer.eval_dataset is not None and (due_eval or last)
            control.should_save = due_checkpoint or self.checkpoint_now or self.stopping
            control.should_training_stop = control.should_training_stop or self.stopping or last
            self.checkpoint_now = False
            self._asked = time.monotonic()
            self._mark = self._asked

        def on_evaluate(self, args, state, control, metrics=None, **kwargs):  # noqa: ANN001, ANN202
            seconds = time.monotonic() - self._asked
            log.write("eval", step=state.global_step, loss=metrics["eval_loss"], seconds=seconds)
            self._mark = self._asked = time.monotonic()

        def on_save(self, args, state, control, **kwargs):  # noqa: ANN001, ANN202
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            seconds = time.monotonic() - self._asked
            log.write("checkpoint", step=state.global_step, path=str(path), seconds=seconds)
            self._mark = time.monotonic()

        def _tell(self, state: Any, logs: dict[str, Any]) -> None:
            counts = (self.trainer.tokens, self.trainer.trained_tokens)
            tokens, trained = (now - then for now, then in zip(counts, self._counted, strict=True))
            self._counted = counts
            log.write(
                "step",
                step=state.global_step,
                of=state.max_steps,
                epoch=logs["epoch"],
                loss=float(logs["loss"]),
                learning_rate=logs["learning_rate"],
                grad_norm=float(logs["grad_norm"]),
                tokens=tokens,
                trained_tokens=trained,
                seconds=self._seconds,
            )
            if not self._lost and not math.isfinite(float(logs["loss"])):
                self._lost = True  # told once: from here on every step is lost
                text = f"The loss is {logs['loss']} at step {state.global_step}: the adapter is spoilt."
                cure = "Cancel, and start again with a lower training.learning_rate or in another precision."
                log.write("warning", text=text, cure=cure)
            if time.monotonic() - self._memory_read > MEMORY_SECONDS:
                self._memory_read = time.monotonic()
                log.write("memory", step=state.global_step, **device.memory())

    return BetweenSteps()


def change(callback: Any, cadence: Cadence, wanted: dict[str, Any]) -> str:
    """Applies a `change` command; returns what cannot be done and why, or an empty text."""
    trainer = callback.trainer
    step, last = trainer.state.global_step, trainer.state.max_steps
    refusals = []
    for name in ("learning_rate", "steps", "eval_every", "sample_every", "checkpoint_every"):
        if name not in wanted:
            continue
        value = wanted[name]
        if name == "learning_rate" and not 0 < value <= 1:
            refusals.append(f"learning_rate is {value}; it must be above 0 and at most 1.")
        elif name == "learning_rate":
            _change_learning_rate(trainer, value)
        elif name == "steps" and not step <= value <= last:
            why = "more would need rows and a schedule that were not planned: resume with a longer recipe"
            refusals.append(f"steps is {value}; it must be from {step} to {last} ({why}).")
        elif name == "steps":
            trainer.state.max_steps = value
        elif value < 0:
            refusals.append(f"{name} is {value}; it must be 0 or more.")
        else:
            attribute = {"eval_every": "evaluate", "sample_every": "sample"}.get(name, "checkpoint")
            setattr(cadence, attribute, value)
    return " ".join(refusals)


def _change_learning_rate(trainer: Any, peak: float) -> None:
    """Sets a new peak; the schedule goes on from where it is."""
    scheduler = getattr(trainer.lr_scheduler, "scheduler", trainer.lr_scheduler)
    for group, base in zip(trainer.optimizer.param_groups, scheduler.base_lrs, strict=True):
        group["lr"] *= peak / base
        group["initial_lr"] = peak
    scheduler.base_lrs = [peak for _ in scheduler.base_lrs]


def parameter_counts(model: Any) -> dict[str, Any]:
    """Parameters in all (a packed 4-bit weight counted as what it stands for), trainable ones, and the adapted modules."""
    trainable, parameters = model.get_nb_trainable_parameters()
    adapted = {
        name.split(".lora_A")[0].rpartition(".")[2]
        for name, _ in model.named_parameters()
        if ".lora_A" in name
    }
    return {"parameters": parameters, "trainable": trainable, "target_modules": sorted(adapted)}


def replace_folder(new: Path, place: Path) -> None:
    """Puts a folder that is complete in the place of an older one."""
    if place.exists():
        shutil.rmtree(place)
    new.rename(place)
