"""A plan in words, as a table for a terminal, and as a bar with its table for a notebook. Knows no formulas."""

from html import escape
from typing import TYPE_CHECKING

from ..models import is_local
from ..summary import duration, size

if TYPE_CHECKING:
    from .plan import Plan

SHOWN = 5  # pieces of advice
WIDTH = 32  # characters of a bar


def headline(plan: "Plan") -> str:
    """One line: what is needed, how sure that is, and whether it fits."""
    bounds, place = plan.question.bounds, plan.question.place
    if plan.measured_runs:
        below, above = bounds.expected - bounds.low, bounds.safe - bounds.expected
        runs = f"{plan.measured_runs:,} run{'s'[: plan.measured_runs > 1]}"
        sure = f"\N{MINUS SIGN}{size(below)} / +{size(above)} over {runs}"
    else:
        sure = f"{size(bounds.floor)} at least, {size(bounds.safe)} to be safe; by formula, nothing measured here yet"
    text = f"{size(bounds.expected)} ({sure})"
    if place is None:
        return f"{text}."
    where = "main memory" if not place.on_gpu else place.name
    return f"{text}: {plan.verdict} in {size(place.free)} of {where}."


def facts(plan: "Plan") -> list[str]:
    """What the run amounts to, beside its memory: one fact each."""
    found = plan.speed
    told = [f"{plan.trainable:,} trainable parameters, adapter of {size(plan.disk['adapter'])}"]
    if plan.steps:
        told.append(f"{plan.steps:,} steps")
    if found and (found.measured or not plan.question.place.on_gpu):
        by = "as measured here" if found.measured else "by formula"
        told.append(f"about {_seconds(found.step)} a step, {by}")
    elif found:
        told.append(
            f"about {_seconds(found.step)} a step if {found.share:.0%} of the card's speed is reached; never under {_seconds(found.bound)}"
        )
    if plan.seconds:
        told.append(f"about {duration(plan.seconds)} of training")
    host = {name: count for name, count in plan.question.estimate.host.items() if count}
    if host:
        inside = ", ".join(f"{name} {size(count)}" for name, count in host.items())
        told.append(f"main memory beside the card: {size(sum(host.values()))} ({inside})")
    disk = plan.disk
    if not is_local(plan.question.recipe.model.name):
        told.append(f"fetching the model: up to {size(disk['merged'])} if its files are in 16 bit")
    told.append(
        f"disk: {size(disk['adapter'] + disk['checkpoints'])} for adapter and checkpoints, {size(disk['merged'])} if merged in 16 bit"
    )
    if plan.question.place and plan.longest_that_fits:
        own = plan.question.shapes.context_length
        cap = ", the model's own limit" if own and plan.longest_that_fits + 64 > own else ""
        told.append(f"longest sequence that fits: {plan.longest_that_fits:,} tokens{cap}")
    if plan.question.place and plan.batches:
        rows = plan.batches[-1]
        cap = ", all of it" if rows == plan.question.recipe.effective_batch else ""
        told.append(f"largest batch that fits with the same effective batch: {rows:,}{cap}")
    return told


def _seconds(count: float) -> str:
    return f"{count:.2g} s" if count < 60 else duration(count)


def text(plan: "Plan") -> str:
    """The plan for a terminal."""
    from .plan import shown_parts
    from .plan_bar import short

    question = plan.question
    rows = shown_parts(plan.parts)
    most = max(count for *_, count in rows)
    lines = [f"{question.shapes.name} with {question.backend}: {headline(plan)}", ""]
    for _, name, count in rows:
        bar = "\N{FULL BLOCK}" * max(1, round(count / most * WIDTH))
        lines.append(f"  {name:26} {short(count):>10}  {bar}")
    lines += ["", *facts(plan)]
    if advice := plan.advice[:SHOWN]:
        lines += ["", "What to turn:"]
        lines += [
            f"  {one.text}{' Then it fits.' if one.fits and not plan.fits and not one.text.startswith('Together') else ''}"
            for one in advice
        ]
    lines += ["", *plan.notes] if plan.notes else []
    return "\n".join(lines)


def html(plan: "Plan") -> str:
    """The same for a notebook: safe to show, without script."""
    from .plan_bar import bar

    told = "".join(f"<li>{escape(fact)}</li>" for fact in facts(plan))
    advice = "".join(f"<li>{escape(one.text)}</li>" for one in plan.advice[:SHOWN])
    turn = f"<b>What to turn</b><ul style='margin:4px 0'>{advice}</ul>" if advice else ""
    notes = "".join(f"<div style='opacity:.75'>{escape(note)}</div>" for note in plan.notes)
    return f"<div style='line-height:1.5'>{bar(plan)}<ul style='margin:6px 0'>{told}</ul>{turn}{notes}</div>"
