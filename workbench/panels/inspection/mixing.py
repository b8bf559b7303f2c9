"""Adapters blended on one base, as a section of the inspection panel: a question, and what each mix answers, side by side.

Calls `Mixer`, whose process holds the model between questions. Ends it when asked, when the panel is closed, and after ten
minutes without a question.
"""

import asyncio
import json
import math
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from ...inspection.mixing import Mixer
from ...problems import Problem, RunError
from ...recipe import Recipe
from .. import controls, pages
from ..banner import Banner, guarded, status_html
from ..buttons import button
from ..following import task_of_the_kernel
from ..setup.settings import whole
from .section import WRAP, Subject, Underway, adapted
from .turns import Turn, Weights, html, named, text

MOST = 4  # adapters: more columns than these and the base and the mix cannot be read
IDLE_SECONDS = 600.0  # without a question, until the process and its memory are let go
KEPT = 4  # questions that are shown
TYPED = "(type one below)"


class Slot(widgets.HBox):
    """One of the adapters that can be mixed: whether it is on, which it is, and its weight."""

    def __init__(self, number: int) -> None:
        says = "Whether it is asked and mixed; one that is off costs nothing"
        self.on = controls.described(
            widgets.Checkbox, f"On {number}", says, f"mix-on-{number}", value=False, indent=False,
            layout=widgets.Layout(width="64px", flex="0 0 auto"),
        )  # fmt: skip
        says = "A run's name, or a folder with an adapter on the same base"
        self.name = controls.described(
            widgets.Text, f"Adapter {number}", says, f"mix-adapter-{number}", continuous_update=False,
            layout=controls.form_layout("320px"), style={"description_width": "80px"},
        )  # fmt: skip
        self.name.placeholder = "a run or ./folder"
        says = "What its update is multiplied with: 1 as it was trained, 0.5 half of it, 0 nothing, below 0 against it"
        self.weight = controls.described(
            widgets.FloatText, f"Weight {number}", says, f"mix-weight-{number}", value=1.0, step=0.1,
            layout=controls.form_layout("160px"), style={"description_width": "70px"},
        )  # fmt: skip
        super().__init__([self.on, self.name, self.weight], layout=widgets.Layout(**WRAP))


class MixingSection(widgets.VBox):
    """`turns` are the last questions with their answers, newest first; `await ask()` does what the button does."""

    def __init__(self, outputs: Path, changed: Callable[[], Any]) -> None:
        """`changed` is called when a question was answered."""
        self.turns: list[Turn] = []
        self._subject, self._outputs, self._changed = Subject(), outputs, changed
        self._stack: AsyncExitStack | None = None
        self._mixer: Mixer | None = None
        self._held: list[str] = []
        self._idle: asyncio.TimerHandle | None = None
        self.banner = Banner()
        self.slots = [Slot(number + 1) for number in range(MOST)]
        self._code, self._answers, self._state = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self._make_controls()
        title = widgets.HTML(pages.heading("Mix adapters", "on this base, without merging them"))
        how = widgets.HBox([self.longest, self.measured], layout=widgets.Layout(**WRAP))
        there = widgets.HBox([self.end, self._state], layout=widgets.Layout(**WRAP))
        super().__init__([
            title, self.known, *self.slots, self.prompt, self.system, how, self._code, self.banner, self.work,
            there, self._answers,
        ])  # fmt: skip
        self.add_class("wb-inspect-mixing-section")
        self._listen()
        self.follow(self._subject)

    def follow(self, subject: Subject) -> None:
        """Turns to another base; the process and the answers of the one before go."""
        self.release()
        self._subject, self.turns = subject, []
        names = adapted(self._outputs, model=subject.model) if subject.model else []
        self.known.options = [TYPED, *names]
        first = [subject.adapter] if subject.adapter else []
        for slot, name in zip(self.slots, first + [""] * MOST, strict=False):
            slot.name.value, slot.on.value, slot.weight.value = name, bool(name), 1.0
        if subject.recipe is not None:
            self.system.value = _system(subject.recipe)
        self._refresh()
        self._draw()

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the adapters that are on, by name. Raises RunError for one that is no number, or given twice."""
        found: dict[str, float] = {}
        for slot in self.slots:
            name = slot.name.value.strip()
            if not (slot.on.value and name):
                continue
            weight = slot.weight.value
            if not math.isfinite(weight):
                fact = f"The weight of {name} is {weight}."
                raise RunError([Problem("", fact, "Give a number, such as 0.5.")])
            if name in found:
                raise RunError([Problem("", f"{name} is there twice.", "Add up its weights.")])
            found[name] = weight
        return found

    @property
    def mixes(self) -> list[dict[str, float]]:
        """What is asked: the base alone, each adapter alone as it was trained, and all of them as they are weighted."""
        weights = self.weights
        alone: list[dict[str, float]] = [{}, *({name: 1.0} for name in weights)]
        mix = {name: weight for name, weight in weights.items() if weight}
        return alone if mix in alone else [*alone, mix]

    async def ask(self) -> Turn:
        """Asks the base, each adapter and their mix, and shows each answer when it comes. Raises RunError."""
        turn = Turn(self.prompt.value, self.mixes)
        if not turn.prompt.strip():
            raise RunError([Problem("", "The prompt is empty.", "Type what to ask.")])
        self._stay()
        self.turns = [turn, *self.turns][:KEPT]
        self._draw()
        try:
            mixer = await self._opened(list(self.weights))
            names = dict(zip(self.weights, mixer.names, strict=True))
            for number, mix in enumerate(turn.mixes, start=1):
                self.work.tell(f"answer {number} of {len(turn.mixes)}: {named(mix)}")
                weights = {names[name]: weight for name, weight in mix.items()}
                told = await mixer.ask([turn.prompt], weights, **self._how())
                turn.answers.append(told["answers"][0])
                turn.losses.append(told["loss"])
                self._draw()
        except BaseException:  # when stopped, too: what is being answered would go on
            self.release()
            raise
        finally:
            turn.over = True
            self._draw()
        self._wait_idle()
        self._changed()
        return turn

    def release(self) -> None:
        """Ends the process, if there is one; the next question starts another."""
        self._stay()
        stack, self._stack, self._mixer = self._stack, None, None
        if stack is not None:
            task_of_the_kernel(stack.aclose())
        self._say_state()

    def close(self) -> None:
        """Closes the section and ends its process."""
        self.work.end()
        self.release()
        super().close()

    def __repr__(self) -> str:
        return "\n".join(text(turn) for turn in self.turns)

    @property
    def html(self) -> str:
        """What is shown, for a saved notebook."""
        return self._answers.value

    async def _opened(self, names: list[str]) -> Mixer:
        """The process with these adapters: the one that is there, or a new one."""
        if self._mixer is None or names != self._held:
            self.release()
            mixer = Mixer(names, **self._where(), outputs=self._outputs, told=self.work.tell)
            if len(mixer.names) < len(names):
                fact = f"Two of {', '.join(names)} are the same adapter."
                raise RunError([Problem("", fact, "Leave one of them, with both weights added.")])
            stack = AsyncExitStack()
            self._mixer = await stack.enter_async_context(mixer)
            self._stack, self._held = stack, names
            self._say_state()
        return self._mixer

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _wait_idle(self) -> None:
        self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self.release)

    def _make_controls(self) -> None:
        says = "Runs on the same base that have an adapter: choosing one writes it into the next free place"
        self.known = controls.described(
            widgets.Dropdown, "Add a run", says, "mix-known", options=[TYPED],
            layout=controls.form_layout("420px"),
        )  # fmt: skip
        says = "What all of them are asked"
        self.prompt = controls.described(widgets.Textarea, "Prompt", says, "mix-prompt", rows=2)
        self.prompt.placeholder = "Ask all of them something"
        self.system = controls.described(
            widgets.Textarea, "System prompt", controls.tip("samples.system"), "mix-system", rows=1
        )
        for large in (self.prompt, self.system):
            large.layout.width, large.layout.max_width = "auto", "760px"
        self.longest = controls.described(
            widgets.FloatText, "Longest (tokens)", controls.tip("samples.max_new_tokens"), "mix-longest",
            value=64, step=1, layout=controls.form_layout("210px"),
        )  # fmt: skip
        says = "Held-out rows of the first adapter's run on which each mix's loss is measured; 0 for none"
        self.measured = controls.described(
            widgets.FloatText, "Held-out rows", says, "mix-rows", value=0, step=16,
            layout=controls.form_layout("210px"),
        )  # fmt: skip
        says = (
            "wb.mix_adapters(...): loads the base with the adapters and asks it once for each mix"
        )
        begin = button("Ask all", says, "comment", "mix-ask", "primary")
        self.work = Underway(begin, self.banner, self.ask)
        says = "Ends the process that holds the model, so that its memory is free"
        self.end = button("Unload the model", says, "power-off", "mix-end")

    def _listen(self) -> None:
        self.known.observe(guarded(self.banner, self._add), names="value")
        self.end.on_click(guarded(self.banner, self.release))
        for slot in self.slots:
            for made in slot.children:
                made.observe(guarded(self.banner, self._refresh), names="value")
        for made in (self.prompt, self.system, self.longest, self.measured):
            made.observe(guarded(self.banner, self._refresh), names="value")

    def _add(self) -> None:
        """Writes the chosen run into the first free place."""
        name = self.known.value
        if name in (TYPED, None):
            return
        free = [slot for slot in self.slots if slot.name.value.strip() in ("", name)]
        self.known.value = TYPED
        if not free:
            fact = f"All {MOST} places are taken."
            raise RunError([Problem("", fact, "Empty one of them, then add the run.")])
        free[0].name.value, free[0].on.value = name, True

    def _how(self) -> dict[str, Any]:
        """What a question is asked with; an empty system prompt is one, where the run has its own."""
        own = self._subject.recipe is not None and _system(self._subject.recipe)
        how = {"system": self.system.value} if self.system.value or own else {}
        how |= {"max_new_tokens": whole(self.longest.value)}
        return how | ({"rows": whole(self.measured.value)} if self.measured.value else {})

    def _where(self) -> dict[str, str]:
        """The base, where no adapter told which it is."""
        named = self._subject.model and not self._subject.adapter
        return {"base": self._subject.model} if named else {}

    def _refresh(self) -> None:
        """Enables what can be used, and says in Python what the button does."""
        taken = [bool(slot.name.value.strip()) for slot in self.slots]
        for number, slot in enumerate(self.slots):  # one more place than are taken, at least two
            last = max((at for at, there in enumerate(taken) if there), default=0)
            slot.layout.display = "" if number <= max(1, last + 1) else "none"
            slot.on.disabled = slot.weight.disabled = not taken[number]
        why_not = "" if any(taken) else "Add a run, or type an adapter's folder."
        if not self._subject.model and not any(taken):
            why_not = "Choose a run or a model first."
        self.work.allow(why_not)
        self._say_code()
        self.banner.clear()

    def _say_code(self) -> None:
        try:
            mixes = json.dumps([_short(mix) for mix in self.mixes], ensure_ascii=False)
        except RunError:  # told by the button
            mixes = "mixes"
        how = {**self._how(), **self._where()}
        how = "".join(f", {name}={value!r}" for name, value in how.items())
        place = "" if str(self._outputs) == "outputs" else f", outputs={str(self._outputs)!r}"
        prompt = repr(self.prompt.value) if len(self.prompt.value) <= 120 else "prompt"
        call = f"mixed = await wb.mix_adapters({mixes}, [{prompt}]{how}{place})"
        self._code.value = pages.code(call)

    def _say_state(self) -> None:
        there = self._mixer is not None
        self.end.disabled = not there
        minutes = IDLE_SECONDS / 60
        told = f"The model stays loaded for {minutes:g} minutes after a question." if there else ""
        self._state.value = f'<div style="margin:0 8px;{pages.MUTED}">{status_html(told)}</div>'

    def _draw(self) -> None:
        self._answers.value = "".join(html(turn) for turn in self.turns)


def _system(recipe: Recipe) -> str:
    """The system prompt that a run's own prompts get."""
    return recipe.samples.system or recipe.data.system or ""


def _short(mix: Weights) -> dict[str, float]:
    return {name: whole(weight) for name, weight in mix.items()}
