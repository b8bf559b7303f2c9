"""What may be changed while a run trains, and what is said of it: the learning rate, the last step, how often what is done.

Knows a trainer and its cadence. Knows nothing of commands beyond their values.
"""

from typing import Any

from .training import Cadence

#: Of a cadence: the command's name -> the attribute, what is done, and what is left with 0.
CADENCES = {
    "eval_every": ("evaluate", "evaluation", "evaluation only at the end"),
    "sample_every": ("sample", "samples", "samples only at the end"),
    "checkpoint_every": ("checkpoint", "checkpoints", "no more checkpoints"),
}


def change(callback: Any, cadence: Cadence, wanted: dict[str, Any]) -> tuple[str, str]:
    """Applies a `change` command; returns what cannot be done and why, and what was changed, each perhaps empty."""
    trainer = callback.trainer
    step, last = trainer.state.global_step, trainer.state.max_steps
    refusals, changed = [], []
    if (rate := wanted.get("learning_rate")) is not None:
        if 0 < rate <= 1:
            _change_learning_rate(trainer, rate)
            changed.append(f"learning rate {rate:g} from step {step + 1} on")
        else:
            refusals.append(f"learning_rate is {rate}; it must be above 0 and at most 1.")
    if (steps := wanted.get("steps")) is not None:
        if step <= steps <= last:
            trainer.state.max_steps = steps
            changed.append(f"end at step {steps} instead of {last}")
        else:
            why = "more would need rows and a schedule that were not planned: resume with a longer recipe"
            refusals.append(f"steps is {steps}; it must be from {step} to {last} ({why}).")
    for name, (attribute, what, never) in CADENCES.items():
        if (every := wanted.get(name)) is None:
            continue
        if every < 0:
            refusals.append(f"{name} is {every}; it must be 0 or more.")
            continue
        setattr(cadence, attribute, every)
        steps_each = "every step" if every == 1 else f"every {every} steps"
        changed.append(f"{what} {steps_each}" if every else never)
    return " ".join(refusals), ", ".join(changed)


def _change_learning_rate(trainer: Any, peak: float) -> None:
    """Sets a new peak; the schedule goes on from where it is."""
    scheduler = getattr(trainer.lr_scheduler, "scheduler", trainer.lr_scheduler)
    for group, base in zip(trainer.optimizer.param_groups, scheduler.base_lrs, strict=True):
        group["lr"] *= peak / base
        group["initial_lr"] = peak
    scheduler.base_lrs = [peak for _ in scheduler.base_lrs]
