"""What is amiss in a run that goes on, in words with the next step: a lost loss, rising held-out loss, memory, speed.

Reads a History. Looks at windows of it, so that it can be asked at each redraw; knows nothing of how an alarm is shown.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

from .events import History
from .summary import size

#: Kinds of alarm in the order in which they are told: what spoils the run first, what only slows it last.
KINDS = ("nan", "exploding", "no_trained_tokens", "rising", "memory", "slower", "throttled")

WINDOW = (
    20  # steps: what History.speed looks back on, and enough that one odd batch moves no median
)
SHORT = 5  # steps by which a loss is judged: three bad ones of them are no odd batch, and it is told at once
LOOKS = 64  # windows of the past that are looked at, evenly: the cost is the same for 1,000 and for 100,000 steps
# Nats above the lowest median loss: each token of an answer has become e times less likely. A fine-tune begins at
# 1 to 3 nats and its batches differ by tenths, so that neither overfitting nor a hard batch goes so far.
EXPLODED_NATS = 1.0
EXPLODED_SHARE = 0.5  # and so much of the lowest: a base model that knows little begins near ln(vocabulary), 10 to 12
EXPLODED_NOISE = (
    3.0  # times by how much the steps before differed: with one row at once losses jump by a nat
)
# Evaluations in a row above the best: of one alone, one in two would be chance once the loss is level.
RISEN = 2
SLOWED = 0.6  # of the best sustained speed: rows of other lengths change it by a fifth, a second program by half
FULL = 0.95  # of the card: the last twentieth goes to fragments and to what the driver takes for itself
THROTTLED = 3  # readings in a row: a moment at a limit is usual and costs nothing


class Alarm(NamedTuple):
    """One thing that is amiss. `level` is note, warning or error; `act` is "stop" where stopping and keeping is advised."""

    kind: str
    level: str
    text: str
    cure: str
    act: str = ""


def alarms(
    history: History,
    *,
    planned: Mapping[str, Any] | None = None,
    patience: int = 0,
    keep: str = "best",
) -> list[Alarm]:
    """What is amiss now, in the order of KINDS; each goes when its cause has gone, but a loss that was no number stays.

    `planned` is the run's plan.json (bytes), `patience` and `keep` are the recipe's.
    """
    if history.over:
        return list(_nan(history, keep))
    looks: tuple[Callable[[], Iterator[Alarm]], ...] = (
        lambda: _nan(history, keep),
        lambda: _exploding(history),
        lambda: _no_trained_tokens(history),
        lambda: _rising(history, patience, keep),
        lambda: _memory(history, planned or {}),
        lambda: _slower(history),
        lambda: _throttled(history),
    )
    return [alarm for look in looks for alarm in look()]


def _nan(history: History, keep: str) -> Iterator[Alarm]:
    lost = next((step for step in history.steps if not math.isfinite(step["loss"])), None)
    if lost is None:
        return
    # the worker's own words, so that a monitor can tell that both say the same
    text = f"The loss is {lost['loss']} at step {lost['step']}: the adapter is spoilt."
    again = "start again with a lower training.learning_rate or in another precision."
    best, kept = history.best_eval, history.adapter.get("step")
    if history.over and kept is not None and kept < lost["step"]:
        cure = f"What is kept is the adapter of step {kept:,}, from before. For more, {again}"
        yield Alarm("nan", "warning", text, cure)
    elif not history.over and keep == "best" and best and best["step"] < lost["step"]:
        cure = f"Stop and keep: that of step {best['step']:,} is from before. Then {again}"
        yield Alarm("nan", "error", text, cure, "stop")
    else:
        yield Alarm(
            "nan", "error", text, f"{'Delete it' if history.over else 'Cancel'}, and {again}"
        )


def _exploding(history: History) -> Iterator[Alarm]:
    """Compares the last steps with the lowest that the loss had been down to, in training or held out."""
    losses = [_median_loss(window) for window in _windows(history.steps, size=SHORT)]
    if len(losses) < 2 or losses[-1] is None:
        return
    best = history.best_eval
    numbers = [loss for loss in losses if loss is not None] + ([best["loss"]] if best else [])
    now, lowest = losses[-1], min(numbers)
    noise = _noise(history.steps[-2 * WINDOW - SHORT : -SHORT])
    if now - lowest < max(EXPLODED_NATS, EXPLODED_SHARE * lowest, EXPLODED_NOISE * noise):
        return
    text = f"The loss has risen to {now:.3g} over the last {SHORT} steps; it had been down at {lowest:.3g}."
    cure = "Lower the learning rate, now or in a new run; if it does not fall again, cancel."
    yield Alarm("exploding", "error", text, cure)


def _no_trained_tokens(history: History) -> Iterator[Alarm]:
    last = history.steps[-WINDOW:]
    empty = sum(not step["trained_tokens"] for step in last)
    if not empty:
        return
    whole = "The last step" if len(last) == 1 else f"{empty} of the last {len(last)} steps"
    text = f"{whole} had no trained token: nothing was learned there."
    cure = "The rows' answers are cut away or masked: look at wb.token_inspector(recipe), or raise model.max_length."
    yield Alarm("no_trained_tokens", "error" if empty == len(last) else "warning", text, cure)


def _rising(history: History, patience: int, keep: str) -> Iterator[Alarm]:
    best = history.best_eval
    if best is None or history.step == history.of:
        return
    since = [event for event in history.evals if event["step"] > best["step"]]
    above = [event for event in since[-RISEN:] if not event["loss"] <= best["loss"]]
    if len(above) < RISEN:
        return
    step = f"step {best['step']:,}"
    text = (
        f"The held-out loss did not fall in {len(since)} evaluations: "
        f"{since[-1]['loss']:.3g} at step {since[-1]['step']:,}, {best['loss']:.3g} at {step}."
    )
    left = patience - len(since)
    if keep != "best":
        cure = f"Best at {step}, but this run keeps the last step's adapter (training.keep). Stop before it is worse?"
    else:
        cure = f"Best at {step}; stop and keep it?"
        if patience and left > 0:
            cure += (
                f" After {left} more such evaluation{'s'[: left > 1]} the run does so by itself."
            )
    yield Alarm("rising", "warning", text, cure, "stop")


def _memory(history: History, planned: Mapping[str, Any]) -> Iterator[Alarm]:
    reading = history.memory[-1] if history.memory else {}
    total = reading.get("device_total") or 0
    used = max(reading.get("reserved") or 0, reading.get("device_used") or 0)
    if not total or used < FULL * total:
        return
    text = f"The card's memory is nearly full: {size(used)} of {size(total)}."
    if safe := planned.get("safe"):
        text += f" The plan called {size(safe)} safe."
    cure = (
        "End other programs on the card. If it runs out, the last checkpoint is there, and "
        "run.resume(batch_size=...) goes on with fewer rows at once."
    )
    yield Alarm("memory", "warning", text, cure)


def _slower(history: History) -> Iterator[Alarm]:
    """Compares within what this worker did: after a resume, other rows at once or another card may be slower."""
    started = [phase["t"] for phase in history.phases if phase["state"] == "preparing"]
    first = bisect_left(history.steps, started[-1], key=_time) if started else 0
    speeds = [speed for window in _windows(history.steps, first) if (speed := _speed(window))]
    if len(speeds) < 2 or speeds[-1] >= SLOWED * max(speeds):
        return
    text = (
        f"The training has slowed down to {speeds[-1]:,.0f} tokens/s over the last {WINDOW} steps; "
        f"at best it did {max(speeds):,.0f}."
    )
    cure = "Does another program use the card or the processors? nvidia-smi and top tell."
    yield Alarm("slower", "warning", text, cure)


def _throttled(history: History) -> Iterator[Alarm]:
    last = history.memory[-THROTTLED:]
    reasons = [reading.get("throttled") for reading in last]
    if len(last) < THROTTLED or not all(reasons):
        return
    readings = [
        f"{last[-1][name]:.0f} {unit}"
        for name, unit in (("temperature", "\N{DEGREE SIGN}C"), ("power", "W"))
        if last[-1].get(name) is not None
    ]
    at = f" ({', '.join(readings)})" if readings else ""
    text = f"The card runs slower than it could, because of {reasons[-1]}{at}."
    if reasons[-1] in ("power", "clocks that were set"):  # usual for a card that is well used
        yield Alarm("throttled", "note", text, "Nothing is wrong with the run; it takes longer.")
    else:
        cure = (
            "Give it more air, or wait until its neighbours do less; the run itself is not harmed."
        )
        yield Alarm("throttled", "warning", text, cure)


def _windows(
    steps: Sequence[Any], first: int = 0, *, size: int = WINDOW
) -> Iterator[Sequence[Any]]:
    """Whole windows of `size` steps from number `first` on, at most LOOKS of the past and then the last one.

    The distance between them doubles when they become too many: each that is looked at was looked at before, so that
    an alarm does not come and go with the choice.
    """
    count = len(steps) - first
    stride = size
    while count > LOOKS * stride:
        stride *= 2
    for start in range(first, len(steps) - 2 * size + 1, stride):
        yield steps[start : start + size]
    if count >= size:
        yield steps[-size:]


def _noise(steps: Sequence[Mapping[str, Any]]) -> float:
    """By how many nats the loss of one step usually differs from the next one's."""
    numbers = [step["loss"] for step in steps if math.isfinite(step["loss"])]
    jumps = [abs(after - before) for before, after in pairwise(numbers)]
    return median(jumps) if jumps else 0.0


def _median_loss(steps: Sequence[Mapping[str, Any]]) -> float | None:
    numbers = [step["loss"] for step in steps if math.isfinite(step["loss"])]
    return median(numbers) if numbers else None


def _speed(steps: Sequence[Mapping[str, Any]]) -> float:
    """The median of the steps' tokens/s: an evaluation, a pause or a checkpoint between them weighs nothing."""
    return median(step["tokens"] / step["seconds"] if step["seconds"] else 0.0 for step in steps)


def _time(event: Mapping[str, Any]) -> float:
    return event["t"]
