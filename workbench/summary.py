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


def speed(history: History) -> str:
    """Tokens/s over the last 20 steps, with those that are learned from; "" before the first step."""
    if not history.speed:
        return ""
    trained = f" ({history.trained_speed:,.0f} trained)" if history.trained_speed else ""
    return f"{history.speed:,.0f} tokens/s{trained}"


def kept(history: History) -> str:
    """Which step's adapter is kept and why; "" before one is."""
    adapter = history.adapter
    if not adapter:
        return ""
    return f"The adapter of step {adapter['step']:,} is kept. {adapter.get('why') or ''}".strip()


def ended_early(history: History) -> str:
    """Why the training ended before its last step by itself; "" when it did not."""
    reason = history.stopped_early
    return f"Stopped early: {reason[:1].lower()}{reason[1:]}" if reason else ""


def in_words(history: History) -> str:
    """What became of a run, in a line or two: state, steps, losses, exact match, peak memory, why it stopped early."""
    seconds = train_seconds(history)
    parts = [
        f"{history.state}: {history.step:,} of {history.of or '?'} steps in {duration(seconds)}"
    ]
    if trained := sum(step["trained_tokens"] for step in history.steps):
        parts.append(f"{trained / seconds:,.0f} trained tokens/s" if seconds else "")
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
    told = ", ".join(filter(None, parts)) + "."
    other = history.adapter.get("step", history.step) != history.step  # else it goes without saying
    return " ".join(filter(None, [told, ended_early(history), kept(history) if other else ""]))
