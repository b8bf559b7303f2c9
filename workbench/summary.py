"""A run in words: durations, what became of it, and how well it answers.

Knows nothing of widgets or pictures; reads a History.
"""

from typing import Any

from .events import History

GIB = 2**30


def duration(seconds: float) -> str:
    """Seconds as people say them: "8 s", "1 min 12 s", "2 h 5 min"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: float) -> str:
    """Bytes in GiB, or in MiB below a tenth of one."""
    return f"{count / GIB:.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"


def train_seconds(history: History) -> float:
    """Seconds spent in optimizer steps, without loading, sampling and evaluating."""
    return sum(step["seconds"] for step in history.steps)


def exact_match(history: History, *, adapter: bool) -> dict[str, Any] | None:
    """The newest score with the adapter, or the one of the base before training; None where no rows were scored."""
    scores = [score for score in history.scores if bool(score["adapter"]) == adapter]
    return scores[-1] if scores else None


def in_words(history: History) -> str:
    """One line that says what became of a run: state, steps, losses, exact match and peak memory."""
    parts = [
        f"{history.state}: {history.step:,} of {history.of or '?'} steps in {duration(train_seconds(history))}"
    ]
    if history.steps:
        parts.append(f"loss {history.steps[0]['loss']:.3g} to {history.steps[-1]['loss']:.3g}")
    if history.evals:
        last, best = history.evals[-1], history.best_eval
        text = f"held out {last['loss']:.3g}"
        if best != last:
            text += f" (best {best['loss']:.3g} at step {best['step']:,})"
        parts.append(text)
    match = [exact_match(history, adapter=adapter) for adapter in (False, True)]
    if all(match):
        before, after = (f"{score['correct']} of {score['rows']}" for score in match)
        parts.append(f"exact match {before} before, {after} after")
    if history.memory:
        on_gpu = any(reading["device_total"] for reading in history.memory)
        peak = max(reading["reserved" if on_gpu else "process"] for reading in history.memory)
        parts.append(f"peak {'card' if on_gpu else 'process'} memory {size(peak)}")
    return ", ".join(parts) + "."
