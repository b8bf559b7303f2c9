"""TRL's SFTTrainer around rows that are ready, and a callback that tells what happens and hears what is wanted.

Knows nothing of run folders or processes; `session.py` hands it the log, the commands and the samples to take.
"""

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..data.batching import Batching
from ..data.encode import Encoded
from ..events import EventLog
from . import chances, device, feeding
from .shortage import Shortages, is_shortage

MEMORY_SECONDS = 0.5  # between two memory readings while training


def trainer(
    *,
    model: Any,
    tokenizer: Any,
    config: Any,
    train: Encoded,
    heldout: Encoded | None,
    batching: Batching,
    packed_fields: feeding.PackedFields,
    callback: Any,
    order: Any = None,
    shortages: Shortages | None = None,
) -> Any:
    """An SFTTrainer for a model that already carries its adapter; what it evaluates is the mean over trained tokens.

    `peft_config` is never given: after `import unsloth` it would be ignored without a word, and every weight trained.
    `order` is a sampler of the training units, in random order if none is given; with `shortages`, an evaluation that
    runs out of memory is told there and made with fewer rows at once.
    """
    from transformers import PrinterCallback, ProgressCallback

    units = feeding.units(train, batching)
    held = feeding.Rows(heldout, longest_first=True) if heldout else None
    order = order or feeding.Order(
        units.lengths,
        config.per_device_train_batch_size,
        seed=config.data_seed,
        grouped=batching.choice == "grouped",
    )
    # TRL rounds the adapter of a 4-bit model to bfloat16, which is slow on CPUs and breaks float16's loss scaling.
    exact = [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad]
    made = _counting_trainer(order, shortages)(
        model=model,
        args=config,
        train_dataset=feeding.dataset(units),
        eval_dataset=feeding.dataset(held, heldout=True) if held else None,
        processing_class=tokenizer,
        data_collator=feeding.collator(
            units,
            held,
            tokenizer.pad_token_id,
            packed_fields if batching.choice == "packed" else None,
        ),
        callbacks=[callback],
    )
    for parameter, value in exact:
        parameter.data = value
    for theirs in (PrinterCallback, ProgressCallback):
        made.remove_callback(theirs)
    callback.trainer = made
    return made


def _counting_trainer(rows_in_order: Any, shortages: Shortages | None) -> type:
    """The trainer's class, made here since TRL's, or Unsloth's in its place, is known only once it was imported."""
    from trl import SFTTrainer

    class CountingTrainer(SFTTrainer):
        """Feeds rows in our order, and counts tokens: Unsloth's trainer logs none, and TRL counts padding too."""

        tokens = trained_tokens = 0
        order = rows_in_order

        def _get_train_sampler(self, train_dataset=None):  # noqa: ANN001, ANN202 - its signature
            return self.order

        def compute_loss(self, model, inputs, *args, **kwargs):  # noqa: ANN001, ANN202 - TRL's signature
            tokens, trained_tokens = inputs.pop("tokens"), inputs.pop("trained_tokens")
            found = super().compute_loss(model, inputs, *args, **kwargs)
            if model.training:
                self.tokens += tokens
                self.trained_tokens += trained_tokens
            else:
                loss = found[0] if isinstance(found, tuple) else found
                self._evaluated.append((loss.detach(), trained_tokens))
            return found

        def evaluate(self, *args, **kwargs):  # noqa: ANN202 - Transformers' signature
            while True:
                try:
                    return super().evaluate(*args, **kwargs)
                except Exception as error:
                    if shortages is None or not is_shortage(error):
                        raise
                    short = error
                if not shortages.evaluate_fewer(self, short):
                    return {}

        def evaluation_loop(self, *args, **kwargs):  # noqa: ANN202 - Transformers' signature
            self._evaluated = []
            output = super().evaluation_loop(*args, **kwargs)
            # Transformers' is the mean over batches, in which a token of a short answer weighs more.
            nats = math.fsum(float(loss) * tokens for loss, tokens in self._evaluated)
            output.metrics["eval_loss"] = nats / sum(tokens for _, tokens in self._evaluated)
            return output

    return CountingTrainer


def cut_otherwise(trainer: Any, batch_size: int, accumulation: int, order: Any) -> None:
    """Has a trainer that made no step yet feed other micro-batches from here on, in this order."""
    args = trainer.args
    args.per_device_train_batch_size = args.per_device_eval_batch_size = batch_size
    args.gradient_accumulation_steps = accumulation
    trainer._train_batch_size = args.train_batch_size
    trainer.order = order
    trainer.optimizer = trainer.lr_scheduler = None  # made anew when it trains


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

    def __init__(self, *, evaluate: int, sample: int, checkpoint: int, at_end: bool = True) -> None:
        """With `at_end` there is an evaluation after the last step, whatever its number."""
        self.evaluate, self.sample, self.checkpoint = evaluate, sample, checkpoint
        self.at_end = at_end

    @staticmethod
    def due(every: int, step: int) -> bool:
        return every > 0 and step % every == 0


def between_steps(
    log: EventLog,
    cadence: Cadence,
    *,
    listen: Callable[[Any], None],
    sample: Callable[..., None],
    evaluated: Callable[[Any, float], bool] | None = None,
    rehearsal: Any = None,
) -> Any:
    """The callback: after each step it writes what happened, takes samples when due, and then lets `listen` act.

    `listen(callback)` may block (a pause); it sets `stopping` and `checkpoint_now`, and changes the cadence.
    `evaluated(callback, loss)` hears of each evaluation and says whether the training is to end here. `rehearsal` is
    given the trainer once everything is prepared (`begin`) and after each step (`after_step`).
    """
    from transformers import TrainerCallback

    class BetweenSteps(TrainerCallback):
        trainer: Any = None
        stopping = False
        checkpoint_now = False
        updating = False  # an optimizer step is under way: the parameters are neither old nor new
        chance: Any = None  # the random state at the begin of a step

        def __init__(self) -> None:
            self.rehearsal = rehearsal
            self._mark, self._counted, self._memory_read = 0.0, (0, 0), 0.0
            self._lost = False

        def on_train_begin(self, args, state, control, **kwargs):  # noqa: ANN001, ANN202
            if self.rehearsal is not None:
                self.rehearsal.begin(self.trainer)
            self._mark = time.monotonic()

        def on_step_begin(self, args, state, control, **kwargs):  # noqa: ANN001, ANN202
            self.chance = chances.now()

        def on_pre_optimizer_step(self, args, state, control, **kwargs):  # noqa: ANN001, ANN202
            self.updating = True

        def on_step_end(self, args, state, control, **kwargs):  # noqa: ANN001, ANN202
            self._seconds = time.monotonic() - self._mark
            self.updating = False
            if self.rehearsal is not None:
                self.rehearsal.after_step(self.trainer)

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
            control.should_evaluate = self.trainer.eval_dataset is not None and (
                due_eval or (last and cadence.at_end)
            )
            control.should_save = due_checkpoint or self.checkpoint_now or self.stopping
            control.should_training_stop = control.should_training_stop or self.stopping or last
            self.checkpoint_now = False
            self._asked = time.monotonic()
            self._mark = self._asked

        def on_evaluate(self, args, state, control, metrics=None, **kwargs):  # noqa: ANN001, ANN202
            seconds = time.monotonic() - self._asked
            if "eval_loss" not in metrics:  # it did not fit into memory
                return
            log.write("eval", step=state.global_step, loss=metrics["eval_loss"], seconds=seconds)
            if evaluated is not None and evaluated(self, metrics["eval_loss"]):
                control.should_save = control.should_training_stop = True
            self._mark = self._asked = time.monotonic()

        def on_save(self, args, state, control, **kwargs):  # noqa: ANN001, ANN202
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            seconds = time.monotonic() - self._asked
            log.write("checkpoint", step=state.global_step, path=str(path), seconds=seconds)
            self._mark = time.monotonic()

        def asked_now(self) -> None:
            """From here on the seconds of what is asked for are counted."""
            self._asked = time.monotonic()

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
                log.write("memory", step=state.global_step, **device.readings())

    return BetweenSteps()


def keep_last_step(trainer: Any, callback: Any) -> int:
    """Writes a checkpoint of the last step that was finished, after a failure within the next one; returns its step.

    0 when there is none to write: no step was finished, or the failure came while the optimizer changed parameters.
    """
    step = trainer.state.global_step
    trainer.model.zero_grad(set_to_none=True)
    folder = Path(trainer.args.output_dir) / f"checkpoint-{step}"
    if step == 0 or callback.updating or _complete(folder):
        return step if _complete(folder) else 0
    if callback.chance is not None:
        chances.restore(callback.chance)
    callback.asked_now()
    trainer._save_checkpoint(trainer.model, trial=None)
    trainer.callback_handler.on_save(trainer.args, trainer.state, trainer.control)
    return step


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
