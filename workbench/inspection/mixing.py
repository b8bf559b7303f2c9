"""Adapters blended on one base: each with a weight, the answers of the mixes side by side.

A process of `python -m workbench.inside mix` holds the model, and this side asks it. Knows no tensors.
"""

import asyncio
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from itertools import count
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

from ..problems import Problem, RecipeError, RunError
from ..recipe import Recipe
from ..run import Run
from .adapter_folder import Place, locate
from .adapter_text import BORDER, MUTED
from .process import Inside, Told

if TYPE_CHECKING:
    Given = Run | str | Path
    Weights = Mapping[Given, float]

#: What the hub's ready-made 4-bit copies are called, beside the model that they were made from.
_COPY = re.compile(r"(?:-unsloth)?-bnb-4bit$", re.IGNORECASE)


@dataclass(frozen=True)
class Mixed:
    """Answers by mix and prompt; a mix has weights by the adapter's name, {} is the base alone.

    `losses` are in nats per trained token on held-out rows, None where none were asked for.
    """

    mixes: tuple[dict[str, float], ...]
    prompts: tuple[str, ...]
    answers: tuple[tuple[str, ...], ...]
    losses: tuple[float | None, ...]

    def __str__(self) -> str:
        lines = []
        for place, prompt in enumerate(self.prompts):
            lines += [prompt, ""]
            for name, answers in zip(self._titles, self.answers, strict=True):
                lines += [f"  {name}:", indent(answers[place], "    ")]
            lines.append("")
        if not self.prompts:
            lines = list(self._titles)
        return "\n".join(lines).rstrip()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        cell = f"padding:4px 10px;vertical-align:top;text-align:left;border-top:{BORDER}"
        heads = "".join(
            f'<th scope="col" style="{cell};font-weight:600">{escape(name)}</th>'
            for name in ("prompt", *self._titles)
        )
        rows = "".join(
            f'<tr><th scope="row" style="{cell};font-weight:400;{MUTED}">{escape(prompt)}</th>'
            + "".join(
                f'<td style="{cell};white-space:pre-wrap;overflow-wrap:anywhere">{escape(answers[place])}</td>'
                for answers in self.answers
            )
            + "</tr>"
            for place, prompt in enumerate(self.prompts)
        )
        return (
            '<div class="wb-mixed" style="overflow-x:auto;max-width:100%"><table style="border-collapse:collapse;'
            f'line-height:1.45;color:inherit"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
        )

    @property
    def _titles(self) -> list[str]:
        """What each mix is called, with its loss if it was measured."""
        return [
            title(mix) + ("" if loss is None else f" (held-out loss {loss:.3g})")
            for mix, loss in zip(self.mixes, self.losses, strict=True)
        ]

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        return asdict(self)


class Mixer:
    """A base with several adapters in a process that stays to answer; use it in `async with`.

    `adapters` are runs, runs' names or folders, all of one base: `base` if it is given, or what the first was trained
    on. `names` are what the weights are given for: a run's name, or the folder as it was written.
    """

    def __init__(
        self,
        adapters: "Sequence[Given]",
        *,
        base: str | None = None,
        outputs: str | Path = "outputs",
        told: Told | None = None,
    ) -> None:
        """Raises RunError for adapters that are not there or were trained on different bases."""
        self._places = {name_of(adapter): locate(adapter, outputs) for adapter in adapters}
        if not self._places:
            raise RunError([Problem("", "No adapter is given.", "Give at least one.")])
        self._recipe = _recipe(self._places, base)
        self._told, self._numbers, self._turn = told, count(), asyncio.Lock()

    @property
    def names(self) -> list[str]:
        """The adapters by name, in the order in which they were given."""
        return list(self._places)

    @property
    def base(self) -> str:
        """The model that they are mixed on."""
        return self._recipe.model.name

    @property
    def system(self) -> str:
        """The system prompt that the first adapter's run asks its own prompts with, "" if none."""
        return self._recipe.samples.system or self._recipe.data.system or ""

    async def __aenter__(self) -> "Mixer":
        """Loads the base and the adapters. Raises RunError when they do not fit, or the card is busy."""
        first = next(iter(self._places.values()))
        arguments = {
            "recipe": self._recipe.to_yaml(),
            "adapters": {name: str(place.folder) for name, place in self._places.items()},
            "holder": str(first.run or first.folder),
        }
        self._inside = await Inside("mix", arguments).__aenter__()
        try:
            await self._hear("ready")
        except BaseException:  # an interrupted cell too leaves no process behind
            await self._inside.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._inside.__aexit__()

    async def answer(
        self,
        prompt: str,
        weights: "Weights",
        *,
        system: str | None = None,
        max_new_tokens: int = 64,
    ) -> str:
        """What the mix answers, greedily; {} is the base alone, and so is a weight of 0.

        `system` is by default the first run's own. Raises RunError for a prompt that is too long, and what cannot be mixed.
        """
        told = await self.ask([prompt], weights, system=system, max_new_tokens=max_new_tokens)
        return told["answers"][0]

    async def ask(
        self,
        prompts: Sequence[str],
        weights: "Weights",
        *,
        system: str | None = None,
        max_new_tokens: int = 64,
        rows: int = 0,
    ) -> dict[str, Any]:
        """The mix's `answers` to several prompts at once, and its `loss` on the first run's held-out `rows`, None for 0."""
        request = {
            "id": next(self._numbers),
            "prompts": list(prompts),
            "weights": self.named(weights),
            "system": (self.system if system is None else system) or None,
            "max_new_tokens": max_new_tokens,
            "rows": rows,
        }
        async with self._turn:
            await self._inside.send(**request)
            return await self._hear("answers", request["id"])

    def named(self, weights: "Weights") -> dict[str, float]:
        """The weights by the adapters' names. Raises RunError for one that is not here, or no number."""
        found = {}
        for adapter, weight in weights.items():
            name = name_of(adapter)
            if name not in self._places:
                fact = f"There is no adapter {name!r} in this mix."
                raise RunError([Problem("", fact, f"It has {', '.join(self._places)}.")])
            if (
                isinstance(weight, bool)
                or not isinstance(weight, int | float)
                or not math.isfinite(weight)
            ):
                fact = f"The weight of {name} is {weight!r}; it must be a number."
                raise RunError([Problem("", fact, "1 is the adapter as it was trained, 0 is off.")])
            found[name] = float(weight)
        return found

    async def _hear(self, kind: str, number: int | None = None) -> dict[str, Any]:
        """The next line of this kind, for this request: answers to one that was given up are passed over."""
        while (line := await self._inside.next()) is not None:
            if line["kind"] == "progress":
                if self._told is not None:
                    self._told(line["text"])
            elif line.get("id") == number:
                if line["kind"] == "refused":
                    raise RunError([Problem(*problem) for problem in line["problems"]])
                if line["kind"] == kind:
                    return line
        raise RunError([Problem("", "The mixing process has ended.", "Load the adapters again.")])


async def mix_adapters(
    mixes: "Sequence[Weights]",
    prompts: Sequence[str],
    *,
    system: str | None = None,
    max_new_tokens: int = 64,
    rows: int = 0,
    base: str | None = None,
    outputs: str | Path = "outputs",
    told: Told | None = None,
) -> Mixed:
    """Asks several mixes of adapters on one base the same prompts; a mix is {run, name or folder: weight}, {} the base.

    A mix adds each adapter's output times its weight, exactly, in every layer. `system` is by default what the first
    adapter's run asks with; with `rows` each mix's loss is measured on so many of its held-out rows. Raises RunError.
    """
    _check(mixes, max_new_tokens)
    adapters = {name_of(adapter): adapter for mix in mixes for adapter in mix}
    answers, losses = [], []
    waiting = Mixer(list(adapters.values()), base=base, outputs=outputs, told=told)
    named = [waiting.named(mix) for mix in mixes]  # what is wrong is told before anything is loaded
    async with waiting as mixer:
        for number, mix in enumerate(mixes, start=1):
            if told is not None:
                told(f"Asking mix {number} of {len(mixes)}: {title(named[number - 1])}.")
            said = await mixer.ask(
                prompts, mix, system=system, max_new_tokens=max_new_tokens, rows=rows
            )
            answers.append(tuple(said["answers"]))
            losses.append(said["loss"])
    return Mixed(tuple(named), tuple(prompts), tuple(answers), tuple(losses))


def _check(mixes: object, max_new_tokens: int) -> None:
    """Raises RunError for what cannot be meant."""
    problems = []
    if isinstance(mixes, Mapping | str) or not all(isinstance(mix, Mapping) for mix in mixes):
        fact = f"mixes is {mixes!r}; it must be a list of mixes."
        problems.append(Problem("", fact, 'Write [{}, {"lamp": 1}, {"lamp": 0.5, "reef": 0.5}].'))
    if max_new_tokens < 1:
        fact = f"max_new_tokens is {max_new_tokens}; it must be at least 1."
        problems.append(Problem("", fact, "64 is usual."))
    if problems:
        raise RunError(problems)


def title(mix: Mapping[str, float]) -> str:
    """What a mix is called: "base alone", "lamp", "0.5 lamp + 2 reef"."""
    on = {name: weight for name, weight in mix.items() if weight}
    if not on:
        return "base alone"
    return " + ".join(name if weight == 1 else f"{weight:g} {name}" for name, weight in on.items())


def name_of(adapter: "Given") -> str:
    """What an adapter is called in a mix: a run's name, or what was written."""
    return adapter.name if isinstance(adapter, Run) else str(adapter)


def _recipe(found: Mapping[str, Place], base: str | None) -> Recipe:
    """How to load the base: by the recipe of the first that is a run's. Raises RunError when the bases differ."""
    places = list(found.values())
    known = {name: place.base for name, place in found.items() if place.base}
    if base is None:
        if len({_plain(name) for name in known.values()}) > 1:
            told = "; ".join(f"{name} is for {of}" for name, of in known.items())
            fact = f"The adapters are for different bases: {told}."
            raise RunError([Problem("", fact, "Mix adapters of one base, or name it with base=.")])
        if not known:
            fact = "None of the adapters tells the base that it was trained on."
            raise RunError([Problem("", fact, "Name it with base=.")])
    try:
        of_run = next((place.recipe for place in places if place.recipe), None)
        recipe = Recipe.load(of_run) if of_run else Recipe()
        first = next((place for place in places if place.base), None)
        if base or not of_run:
            model = {"name": base or first.base, "revision": None if base else first.revision}
            recipe = recipe.replace(model=model)
    except RecipeError as error:
        raise RunError(error.problems) from None
    return recipe


def _plain(base: str) -> str:
    """A base's name, so that a ready-made 4-bit copy is the same as what it was made from."""
    path = Path(base).expanduser()
    return str(path.resolve()) if path.exists() else _COPY.sub("", base).casefold()
