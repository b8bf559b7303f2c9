"""What the sections of the inspection panel share: what is inspected, and the work under way, shown and stopped.

Knows nothing of what an inspection finds.
"""

import asyncio
import base64
import contextlib
import re
import time
from collections.abc import Awaitable, Callable
from html import escape
from pathlib import Path
from typing import NamedTuple

import ipywidgets as widgets

from ...charts import Picture
from ...digest import found
from ...inspection.adapter_folder import CONFIG, locate
from ...models import is_local
from ...names import NAME
from ...problems import WorkbenchError
from ...recipe import Recipe
from ...run import Run
from ...summary import duration
from .. import pages, progress
from ..banner import Banner, guarded, status_html
from ..buttons import button
from ..following import task_of_the_kernel

LISTED = 50  # runs of a list: the newest
WRAP = {"flex_flow": "row wrap", "align_items": "center"}
_COUNTED = re.compile(r"\b(\d[\d,]*) of (\d[\d,]*)\b")


class Subject(NamedTuple):
    """What is inspected: a base model, and an adapter (a run's name or a folder) where there is one; "" stands for none."""

    model: str = ""
    revision: str | None = None
    adapter: str = ""
    recipe: Recipe | None = None

    @property
    def name(self) -> str:
        """The adapter on its base, or the base alone, in a few words."""
        model = "/".join(Path(self.model).parts[-2:])
        adapter = "/".join(Path(self.adapter).parts[-2:])
        return f"{adapter} on {model}" if adapter and model else adapter or model


def subject(given: Run | Recipe | str | Path, outputs: Path) -> Subject:
    """What is meant by a run, its name or folder, an adapter's folder, or a model's name or folder.

    Raises RecipeError where the run's recipe cannot be read.
    """
    if isinstance(given, Recipe):
        return Subject(given.model.name, given.model.revision, recipe=given)
    if isinstance(given, Run):
        model = given.recipe.model
        near = given.folder.parent == outputs.resolve()
        adapter = given.name if near else str(given.adapter_path)
        return Subject(model.name, model.revision, adapter, given.recipe)
    text = str(given).strip()
    folders = [outputs / text] if NAME.fullmatch(text) else []
    for folder in [*folders, Path(text).expanduser()]:
        if (folder / "recipe.yaml").is_file():
            return subject(Run(folder.resolve()), outputs)
        if (folder / CONFIG).is_file():
            place = locate(folder, outputs)
            return Subject(place.base, place.revision, text)
    return Subject(text)


def adapted(outputs: Path, *, model: str = "") -> list[str]:
    """The names of the newest runs that have an adapter, newest first; of those on this `model` if it is given."""
    names = []
    for run in found(outputs)[:LISTED]:
        if not (run.adapter_path / CONFIG).is_file():
            continue
        with contextlib.suppress(WorkbenchError, OSError):
            if not model or _place(run.recipe.model.name) == _place(model):
                names.append(run.name)
    return names


class Underway(widgets.HBox):
    """The button that begins a piece of work, the one that stops it, and how far it is; one at a time.

    The work is a task of the kernel: no cell waits for it. What it raises is shown in the banner.
    """

    def __init__(self, begin: widgets.Button, banner: Banner, act: Callable[[], Awaitable[None]]) -> None:  # fmt: skip
        """`act` does the work; it may call `tell` with what is going on."""
        self.begin, self._banner, self._act = begin, banner, act
        says = "Ends the process that computes; what was found before stays"
        self.stop = button("Stop", says, "stop", "inspect-stop")
        self.stop.disabled = True
        self._note = widgets.HTML()
        self._bar = widgets.HTML(layout=widgets.Layout(flex="1 1 260px", min_width="0"))
        self._note.add_class("wb-inspect-note")
        self._task: asyncio.Task | None = None
        self._why_not, self._told = "", ""
        self._next: asyncio.TimerHandle | None = None
        layout = widgets.Layout(**WRAP, min_height="34px")  # words come and go beside the buttons
        super().__init__([begin, self.stop, self._note, self._bar], layout=layout)
        begin.on_click(guarded(banner, self.start))
        self.stop.on_click(guarded(banner, self.end))

    @property
    def busy(self) -> bool:
        """Whether the work is under way."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begins, unless it is under way."""
        if not self.busy:
            self._task = task_of_the_kernel(self._do())

    def end(self) -> None:
        """Stops what is under way, with its process."""
        if self._task is not None:
            self._task.cancel()

    def allow(self, why_not: str) -> None:
        """Enables the button; with a reason against it, that is told instead."""
        self._why_not = why_not
        if not self.busy:
            self._say(why_not)
        self.begin.disabled = bool(why_not) or not self.stop.disabled

    def tell(self, text: str) -> None:
        """Shows in words what is going on; where they count ("layer 3 of 28"), as a bar too."""
        self._told = text
        if self.busy and self._next is None:  # else it is drawn when its time has come
            self._draw()

    async def _do(self) -> None:
        begun = time.monotonic()
        self._banner.clear()
        self._say("Under way.")
        self.tell("a process is being started")
        self.begin.disabled, self.stop.disabled = True, False
        said = ""
        try:
            await self._act()
            said = f"Took {duration(time.monotonic() - begun)}."
        except asyncio.CancelledError:
            said = "Stopped."
        except Exception as error:  # shown: nobody awaits this task
            self._banner.show_error(error)
        finally:
            if self._next is not None:
                self._next.cancel()
            self._next, self._bar.value = None, ""
            self.begin.disabled, self.stop.disabled = bool(self._why_not), True
            self._say(said or self._why_not)

    def _draw(self) -> None:
        """Draws what was told last, and again after a while if it has changed by then."""
        self._bar.value, drawn = moving(self._told), self._told

        def again() -> None:
            self._next = None
            if self._told != drawn:
                self._draw()

        self._next = asyncio.get_running_loop().call_later(progress.EVERY, again)

    def _say(self, text: str) -> None:
        self._note.value = f'<div style="margin:0 8px;{pages.MUTED}">{status_html(text)}</div>'


def moving(text: str) -> str:
    """What is going on, with a bar that is as far as the words count."""
    counted, value, share = _COUNTED.search(text), "", ""
    if counted:
        done, of = (int(number.replace(",", "")) for number in counted.groups())
        if of:
            value, share = f' value="{min(done, of)}" max="{of}"', f"{min(1, done / of):.0%} "
    told = escape(text)  # behind the bar, which so stays where it is
    style = "line-height:1.6;white-space:nowrap;overflow:hidden;text-overflow:ellipsis"
    return (
        f'<div style="{style}"><progress{value} aria-label="{told}"></progress> '
        f'<span style="{pages.MUTED}">{share}</span>{told}</div>'
    )


def image(picture: Picture) -> str:
    """A picture as HTML."""
    data = base64.b64encode(picture.image).decode()
    style = "width:100%;max-width:880px;height:auto;display:block"
    return f'<img src="data:image/png;base64,{data}" alt="{escape(picture.text)}" style="{style}">'


def wide(html: str) -> str:
    """A result that scrolls sideways in its own box, so that the panel does not."""
    style = "overflow-x:auto;width:0;min-width:100%"  # else its table would widen what it is in
    return f'<div tabindex="0" role="region" aria-label="Result" style="{style}">{html}</div>'


def _place(model: str) -> str:
    """The same text for the same model: a run's recipe holds whole paths."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        if is_local(model):
            return str(Path(model).expanduser().resolve())
    return model
