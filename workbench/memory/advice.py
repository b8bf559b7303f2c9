"""Which setting to turn: what each saves, by how much it hurts, and how large a batch or how long a row fits.

Asks the same question again with one setting changed; knows no formulas.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from ..summary import size
from .question import Question

LEAST = 2**20  # bytes: what saves less is no advice
SHORTEST = 128  # tokens; a row that is cut shorter says little
LEAST_RANK = 4
VALUES = 2  # of one setting that are advised: more of them say nothing new
STEP = 64  # tokens between sequence lengths that are tried


class Advice(NamedTuple):
    """One change: in words, in settings by dotted name, the bytes it `saves`, its `harm` in words and as a weight.

    `fits` tells whether the run would fit with it alone, None without a place.
    """

    text: str
    settings: dict[str, Any]
    saves: int
    harm: str
    weight: float
    fits: bool | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: getattr(self, name) for name in ("text", "settings", "saves", "harm", "fits")}


class Change(NamedTuple):
    """A change that might be advised; `weight` says how much it hurts, from 0 (nothing) to 1."""

    settings: dict[str, Any]
    text: str
    harm: str
    weight: float


NOTHING = "changes nothing in the maths"


def advise(question: Question) -> list[Advice]:
    """What saves memory, the best first: what alone makes it fit by the harm done, then bytes saved for the harm."""
    found: list[Advice] = []
    for change in changes(question):
        after = question.with_settings(change.settings)
        saves = question.raw.expected - after.raw.expected
        # of one setting, a larger change must save more than the smaller one before it
        milder = [one.saves for one in found if set(one.settings) == set(change.settings)]
        if saves < LEAST + max(milder, default=0):
            continue
        fits = None if question.place is None else after.verdict == "fits"
        text = f"{change.text} saves {size(saves)}"
        text += f" and {change.harm}." if change.harm == NOTHING else f"; {change.harm}."
        text = text[:1].upper() + text[1:]
        found.append(Advice(text, change.settings, saves, change.harm, change.weight, fits))
    helps = question.place is not None and question.verdict != "fits"
    found.sort(key=lambda one: _rank(one, cured=helps and bool(one.fits)))
    told: Counter[tuple[str, ...]] = Counter()
    return [one for one in found if _first(tuple(one.settings), told)]


def _first(setting: tuple[str, ...], told: Counter[tuple[str, ...]]) -> bool:
    """Whether this is among the first values of its setting; counts it."""
    told[setting] += 1
    return told[setting] <= VALUES


def _rank(one: Advice, *, cured: bool) -> tuple[bool, float]:
    # 0.02 keeps what costs nothing from coming first where it saves next to nothing
    return (not cured, one.weight if cured else -one.saves / (0.02 + one.weight))


def together(question: Question) -> Advice | None:
    """The least harmful changes that make it fit when they are made together; None if it fits, or none do."""
    if question.place is None or question.verdict == "fits":
        return None
    made: list[Change] = []
    now = question
    for change in sorted(_strongest(question), key=lambda change: change.weight):
        after = now.with_settings(change.settings)
        if now.raw.expected - after.raw.expected < LEAST:
            continue
        made.append(change)
        now = after
        if now.verdict == "fits":
            break
    if now.verdict != "fits":
        return None
    settings = {name: value for change in made for name, value in change.settings.items()}
    saves = question.raw.expected - now.raw.expected
    text = f"Together: {'; '.join(change.text for change in made)}. It saves {size(saves)}, and it fits."
    harm = "; ".join(dict.fromkeys(change.harm for change in made))
    return Advice(text, settings, saves, harm, sum(change.weight for change in made), True)


def changes(question: Question) -> Iterator[Change]:
    """All changes that the recipe leaves open."""
    yield from _of_the_batch(question)
    yield from _of_the_form(question)
    yield from _of_the_length(question)
    yield from _of_the_adapter(question)


def batches(question: Question) -> list[int]:
    """Micro-batches that keep the effective batch and fit, smallest first; all of them where there is no place."""
    effective = question.recipe.effective_batch
    return [
        rows
        for rows in divisors(effective)
        if question.place is None or _with_rows(question, rows).verdict == "fits"
    ]


def longest_that_fits(question: Question) -> int | None:
    """The longest sequence (tokens, a multiple of 64) that fits with rows that fill it; None where none does or no place is known."""
    if question.place is None:
        return None
    most = question.shapes.context_length or 131_072
    fits = 0
    low, high = 0, most // STEP
    while low < high:  # the estimate grows with the length
        middle = (low + high + 1) // 2
        if _with_length(question, middle * STEP).verdict == "fits":
            low = fits = middle
        else:
            high = middle - 1
    return fits * STEP or None


def divisors(effective: int) -> list[int]:
    return [rows for rows in range(1, effective + 1) if effective % rows == 0]


def _with_rows(question: Question, rows: int) -> Question:
    accumulation = question.recipe.effective_batch // rows
    return question.with_settings(
        {"training.batch_size": rows, "training.accumulation": accumulation}
    )


def _with_length(question: Question, length: int) -> Question:
    longer = question.with_settings({"model.max_length": max(length, 16)})
    return replace(longer, longest=None)


def _of_the_batch(question: Question) -> Iterator[Change]:
    training = question.recipe.training
    for rows in reversed(divisors(question.recipe.effective_batch)):
        if rows >= training.batch_size:
            continue
        accumulation = question.recipe.effective_batch // rows
        # small micro-batches expand the same weights for fewer tokens: below 2,000 it costs over 10 %
        slow = (
            0.05
            if rows * question.work.length < 2000 and question.recipe.model.load_in_4bit
            else 0.0
        )
        settings = {"training.batch_size": rows, "training.accumulation": accumulation}
        text = f"batch {training.batch_size} to {rows} with accumulation {accumulation}"
        yield Change(settings, text, NOTHING, slow + 0.01 * training.batch_size / rows)


def _of_the_form(question: Question) -> Iterator[Change]:
    """The same training held otherwise."""
    model, training, lora = (getattr(question.recipe, n) for n in ("model", "training", "lora"))
    if not training.gradient_checkpointing:
        settings = {"training.gradient_checkpointing": True}
        yield Change(settings, "gradient checkpointing", "takes about a third more time", 0.2)
    if not model.load_in_4bit:
        text, harm = "4-bit weights", "rounds the frozen weights, and takes some more time"
        yield Change({"model.load_in_4bit": True}, text, harm, 0.3)
    elif not model.double_quant:
        text, harm = "double quantization", "rounds the block scales, at no measurable loss"
        yield Change({"model.double_quant": True}, text, harm, 0.02)
    if training.optimizer in ("adamw_torch", "paged_adamw_32bit"):
        paged = "paged_" if training.optimizer.startswith("paged") else ""
        settings = {"training.optimizer": f"{paged}adamw_8bit"}
        yield Change(settings, "8-bit optimizer", "rounds the optimizer's state to 8 bits", 0.05)
    if lora.dora:
        yield Change({"lora.dora": False}, "DoRA off", "gives up the learned sizes", 0.2)
    if lora.dropout:
        yield Change({"lora.dropout": 0.0}, "dropout 0", "gives up a brake on over-fitting", 0.2)
    if lora.modules_to_save:
        text, harm = "no modules trained in full", "new tokens are then not learned"
        yield Change({"lora.modules_to_save": []}, text, harm, 0.6)
    if question.recipe.samples.score_rows > 1:
        settings = {"samples.score_rows": 0}
        yield Change(settings, "no exact match", "answers are then not scored", 0.3)


def _of_the_length(question: Question) -> Iterator[Change]:
    length = question.recipe.model.max_length
    longest = min(question.longest or length, length)
    for share in (0.75, 0.5, 0.25):
        shorter = int(longest * share) // STEP * STEP
        if SHORTEST <= shorter < longest:
            harm = f"cuts rows longer than {shorter:,} tokens"
            text = f"sequence {length:,} to {shorter:,}"
            yield Change({"model.max_length": shorter}, text, harm, 0.8 * (1 - share))


def _of_the_adapter(question: Question) -> Iterator[Change]:
    lora = question.recipe.lora
    for part, weight in ((2, 0.3), (4, 0.45)):
        smaller = lora.rank // part
        if smaller >= LEAST_RANK:
            alpha = lora.alpha * smaller / lora.rank
            text = f"rank {lora.rank} to {smaller} with alpha {alpha:g}"
            settings = {"lora.rank": smaller, "lora.alpha": alpha}
            yield Change(settings, text, "the adapter can learn less", weight)
    attention = [k.module for k in question.shapes.linears if k.group == "attention" and k.adapted]
    others = any(k.group != "attention" and k.adapted for k in question.shapes.linears)
    if lora.target_modules == "all-linear" and attention and others:
        settings = {"lora.target_modules": list(dict.fromkeys(attention))}
        yield Change(settings, "attention only", "learns clearly less than all linear layers", 0.7)


def _strongest(question: Question) -> list[Change]:
    """For each setting the change that is tried together with others: the least one that makes it fit, else the largest."""
    best: dict[tuple[str, ...], Change] = {}
    for change in changes(question):
        name = tuple(change.settings)
        kept = best.get(name)
        if kept is None or question.with_settings(kept.settings).verdict != "fits":
            best[name] = change
    return list(best.values())
