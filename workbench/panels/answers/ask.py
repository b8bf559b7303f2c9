"""The prompt box: questions to a run's live model, with the base model's answer beside the tuned one's, as they are written.

Calls `run.ask` and reads the History; the worker answers between two steps.
"""

import asyncio
import time
from collections.abc import Callable
from html import escape
from typing import Any, ClassVar

import ipywidgets as widgets

from ...answers import visible
from ...events import History
from ...problems import Problem, RunError, WorkbenchError
from ...recipe import Recipe
from ...run import Run
from .. import pages
from ..banner import Banner, guarded, status_html
from ..buttons import button
from ..controls import described, tip
from ..fold import Fold
from ..following import task_of_the_kernel
from ..panel import Panel
from . import conversation
from .conversation import Turn, Wish
from .quoted import SHORT

POLL_SECONDS = 0.1  # while an answer is written: as often as the worker passes pieces on
IDLE_POLL_SECONDS = 1.0
REMEMBERED = 50  # questions of which the box knows when they were asked
OPEN = 4  # panels at once: cells are run again, and nothing tells that an output was replaced
SHOWN_PROMPT = 120  # characters that a line of Python still has room for
_NOTES = {
    "preparing": "The model can be asked when it is loaded.",
    "loading": "The model can be asked when it is loaded.",
    "training": "Answered between two steps.",
    "paused": "Answered at once: the training is paused.",
    "ready": "The model is there to answer.",
    "stopped": "The model is there to answer.",
}
_CAN_ASK = ("training", "paused", "ready", "stopped")


class AskBox(widgets.VBox):
    """What is asked, how, and the last answers. It follows by itself while an answer is awaited."""

    def __init__(
        self, run: Run, banner: Banner, *, reopen: Callable[[], Any] | None = None
    ) -> None:
        """`reopen` loads the model again once the worker has ended, `run.reopen` if it is not given.

        What is wrong with a question stands above the box's own button; `banner` tells of trouble in reading the run.
        """
        self._run, self._reopen = run, reopen or run.reopen
        self._banner, self._reading = Banner(), banner
        self._wishes: list[Wish] = []
        self._lost: set[str] = set()
        self._seen: tuple[Any, ...] = ()
        self._task: asyncio.Task | None = None
        self.turns: list[Turn] = []
        recipe = _recipe_of(run, self._banner)
        self._fits = recipe.model.max_length
        self._make_controls(recipe.samples)
        self._note, self._code, self._newest, self._earlier = (widgets.HTML() for _ in range(4))
        self._rendered = widgets.HTML()
        says = "the text that the model was given, with its special tokens"
        self.exact = Fold("Exact prompt", says, "ask-exact", self._rendered)
        wrap = {"flex_flow": "row wrap", "align_items": "center"}
        how = widgets.HBox([self.temperature, self.longest, self.base], layout={**wrap})
        act = widgets.HBox([self.ask, self.load, self._note], layout={**wrap})
        answer = [self._newest, self.exact.button, self._rendered, self._earlier]
        super().__init__([self.prompt, self.system, how, self._code, self._banner, act, *answer])
        self.add_class("wb-ask")
        self._listen()
        self._say_code()
        self.follow(run.history)

    def follow(self, history: History) -> None:
        """Shows what is new of the answers, and whether the model can be asked; draws only when something changed."""
        ended = _has_ended(self._run, history)
        if ended:
            self._lost |= self._awaited(history) | set(history.partial)
        seen = (
            history.state, ended, len(history.samples), len(history.commands), len(self._wishes),
            len(self._lost), sum(map(len, history.partial.values())),
        )  # fmt: skip
        if seen == self._seen:
            return
        self._seen = seen
        self.turns = conversation.turns(history, self._wishes, self._lost)
        self._draw(history, ended=ended)

    def __repr__(self) -> str:
        return conversation.text(self.turns) or "Nothing was asked yet."

    def _make_controls(self, samples: Any) -> None:
        says = "What the model is asked; the answers come below"
        self.prompt = described(widgets.Textarea, "Prompt", says, "ask-prompt", rows=3)
        self.system = described(
            widgets.Textarea, "System prompt", tip("samples.system"), "ask-system",
            value=samples.system or "", rows=1,
        )  # fmt: skip
        for wide in (self.prompt, self.system):
            wide.layout.width, wide.layout.max_width = "auto", "760px"
        self.prompt.placeholder = "Ask the model something"
        self.temperature = described(
            widgets.FloatText, "Temperature", tip("samples.temperature"), "ask-temperature",
            value=samples.temperature, step=0.1,
        )  # fmt: skip
        self.longest = described(
            widgets.FloatText, "Longest (tokens)", tip("samples.max_new_tokens"), "ask-longest",
            value=samples.max_new_tokens, step=1,
        )  # fmt: skip
        self.base = described(
            widgets.Checkbox, "Also ask the base model",
            "Asks twice, the second time with the adapter switched off, so that both can be compared",
            "ask-base", value=True, indent=False,
        )  # fmt: skip
        for narrow in (self.temperature, self.longest):
            narrow.layout.width = "210px"
        self.base.layout.margin = "2px 12px"
        says = "run.ask(...): the model answers between two steps"
        self.ask = button("Ask", says, "comment", "ask-button", "primary")
        says = "run.reopen(): a new worker loads the model with the run's adapter to answer"
        self.load = button("Load the model again", says, "refresh", "ask-load")

    def _listen(self) -> None:
        self.ask.on_click(guarded(self._banner, self._ask))
        self.load.on_click(guarded(self._banner, self._load))
        for control in (self.prompt, self.system, self.temperature, self.longest, self.base):
            control.observe(guarded(self._banner, self._say_code), names="value")

    def _ask(self) -> None:
        prompt, how = self.prompt.value, self._how()
        _must_be_text(prompt, self.system.value)
        ids: dict[bool, str] = {}
        try:
            for adapter in (True, False)[: 1 + self.base.value]:
                ids[adapter] = self._run.ask(prompt, adapter=adapter, **how)
        finally:  # where only the first was asked, its answer comes nevertheless
            if ids:
                bounds = (how["max_new_tokens"], self._fits)
                asked = Wish(time.time(), prompt, how.get("system"), ids, *bounds)
                self._wishes = [*self._wishes, asked][-REMEMBERED:]
                self.follow(self._run.history)
                self._watch()
        self._banner.clear()

    def _load(self) -> None:
        self._reopen()
        self._banner.clear()
        self.follow(self._run.history)
        self._watch()

    def _how(self) -> dict[str, Any]:
        longest = (
            self.longest.value
        )  # a field for whole numbers would drop "." and "e" without a word
        longest = int(longest) if longest.is_integer() else longest
        how = {"temperature": self.temperature.value, "max_new_tokens": longest}
        return how | ({"system": self.system.value} if self.system.value else {})

    def _say_code(self) -> None:
        prompt = repr(self.prompt.value) if len(self.prompt.value) <= SHOWN_PROMPT else "prompt"
        values = dict(self._how())
        if len(values.get("system", "")) > SHOWN_PROMPT:
            values["system"] = _Name("system")
        how = "".join(f", {name}={value!r}" for name, value in values.items())
        lines = [f"answer = await run.answer({prompt}{how})"]
        if self.base.value:
            lines.append(f"base = await run.answer({prompt}{how}, adapter=False)")
        self._code.value = "".join(map(pages.code, lines))

    def _draw(self, history: History, *, ended: bool) -> None:
        can_load = ended and self._run.adapter_path.is_dir()
        self.ask.disabled = ended or history.state not in _CAN_ASK
        self.load.layout.display = "" if can_load else "none"
        self._note.value = f'<div style="margin:0 8px;{pages.MUTED}">{status_html(self._says(history, ended, can_load))}</div>'
        newest, earlier = self.turns[:1], self.turns[1:]
        self._newest.value = "".join(map(conversation.html, newest))
        self.exact.button.layout.display = "" if newest else "none"
        self._rendered.value = conversation.exact_prompt(newest[0]) if newest else ""
        log = "".join(conversation.html(turn, limit=SHORT) for turn in earlier)
        title = f'<div style="{pages.MUTED};border-top:{pages.BORDER};margin-top:8px;padding-top:4px">Earlier questions</div>'
        self._earlier.value = title + log if log else ""

    def _says(self, history: History, ended: bool, can_load: bool) -> str:
        if ended:
            return "The worker has ended." + ("" if can_load else " It left no adapter to ask.")
        if self._awaited(history) and history.state == "training":
            return "Asked: it is answered between two steps."
        return _NOTES.get(history.state, "")

    def _awaited(self, history: History) -> set[str]:
        """The ids of what was asked here and has no answer yet."""
        asked = {command for wish in self._wishes for command in wish.ids.values()}
        told = {sample["sample"] for sample in history.samples}
        refused = {command["id"] for command in history.commands if not command["taken"]}
        return asked - told - refused - self._lost if asked else asked

    def _watch(self) -> None:
        """Follows the run until nothing is awaited; a panel around it may look less often, or have stopped looking."""
        if self._task is None or self._task.done():
            self._task = task_of_the_kernel(self._follow())

    async def _follow(self) -> None:
        look = guarded(self._reading, self._look)
        while self.comm is not None and self._is_busy():  # a closed widget has no comm
            await asyncio.sleep(POLL_SECONDS)
            look()

    def _look(self) -> None:
        self._run.refresh()
        self.follow(self._run.history)

    def _is_busy(self) -> bool:
        history = self._run.history
        return bool(self._awaited(history)) or history.state in ("preparing", "loading")


class AskPanel(Panel):
    """The prompt box of a run by itself; it follows the run until it is closed, as the oldest of `OPEN` is by the next one."""

    _open: ClassVar[list["AskPanel"]] = []
    _task: asyncio.Task | None = None

    def __init__(self, run: Run) -> None:
        for panel in self._open[: 1 - OPEN]:
            panel.close()
        self.run = run
        self.banner = Banner()
        run.refresh()
        self.box = AskBox(run, self.banner)
        title = widgets.HTML(pages.heading("Ask", f"run {visible(run.name)}"))
        super().__init__([title, self.banner, self.box])
        self.layout.border, self.layout.padding, self.layout.margin = (
            pages.BORDER, "8px 12px", "8px 0",
        )  # fmt: skip
        self.add_class("wb-ask-panel")
        self._task = task_of_the_kernel(self._follow())
        self._open.append(self)

    def update(self) -> None:
        """Reads what is new and shows it."""
        self.run.refresh()
        self.box.follow(self.run.history)

    def close(self) -> None:
        if self in self._open:
            self._open.remove(self)
        if self._task is not None:
            self._task.cancel()
        super().close()

    def bundle(self) -> dict[str, Any]:
        """What a cell's output holds; without its kernel a saved notebook shows the last questions line by line."""
        return super().bundle() | {"text/html": f"<pre>{escape(repr(self))}</pre>"}

    def __repr__(self) -> str:
        name = visible(self.run.name)
        again = f"ask_panel(Run.open({name!r}, outputs={str(self.run.folder.parent)!r}))"
        return f"Run {name}, asked with {again}:\n{self.box!r}"

    async def _follow(self) -> None:
        look = guarded(self.banner, self.update)
        while self.comm is not None:
            await asyncio.sleep(IDLE_POLL_SECONDS)
            look()


class _Name(str):
    """A name in a line of Python, which is not quoted."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _recipe_of(run: Run, banner: Banner) -> Recipe:
    """The run's recipe with the system prompt that its own prompts get; the defaults where it cannot be read."""
    try:
        recipe = run.recipe
    except WorkbenchError as error:
        fact = "The run's recipe cannot be read: the box begins with the defaults, without a system prompt."
        banner.show(pages.message("note", fact, details=visible(str(error))))
        recipe = Recipe()
    system = recipe.samples.system or recipe.data.system
    return recipe.model_copy(
        update={"samples": recipe.samples.model_copy(update={"system": system})}
    )


def _has_ended(run: Run, history: History) -> bool:
    """Whether there is no worker to answer; one that was killed leaves a run that can be resumed as stopped."""
    if history.state == "stopped":
        return not run.alive
    return history.state in ("failed", "closed")


def _must_be_text(*texts: str) -> None:
    """Raises RunError for halves of characters, which no file can hold."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            fact = f"Character {error.start + 1:,} of the question is half of one."
            raise RunError([Problem("", fact, "Delete it, or type it again.")]) from None
