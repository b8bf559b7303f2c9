"""The inspection panel: what 4 bits do to a base, what an adapter on it learned, and adapters mixed.

Each section does what its line of Python does, as a task of the kernel beside the cells. Knows no figures.
"""

from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from ...answers import visible
from ...recipe import Recipe
from ...run import Run
from .. import controls, pages
from ..banner import Banner, guarded
from ..panel import SinglePanel
from ..still import LastingPanel
from .adapter import AdapterSection
from .base import BaseSection
from .mixing import MixingSection
from .section import WRAP, Subject, adapted, subject

NONE = "(none)"


class InspectPanel(SinglePanel, LastingPanel):
    """`base`, `adapter` and `mixing` are its sections; each holds what it found."""

    def __init__(
        self, run_or_model: Run | Recipe | str | Path | None = None, outputs: str | Path = "outputs"
    ) -> None:
        """A run or its name, an adapter's folder, or a model's folder or name; without one there are fields for it.

        Raises RecipeError where the run's recipe cannot be read.
        """
        self._runs_in = Path(outputs)
        chosen = Subject() if run_or_model is None else subject(run_or_model, self._runs_in)
        self.banner, self._title = Banner(), widgets.HTML()
        self.base = BaseSection(self.leave)
        self.adapter = AdapterSection(self._runs_in, self.leave)
        self.mixing = MixingSection(self._runs_in, self.leave)
        self.sections = (self.base, self.adapter, self.mixing)
        self._make_fields()
        fields = [] if run_or_model is not None else [self.fields]
        super().__init__([self._title, *fields, self.banner, *self.sections])
        self.layout.border, self.layout.padding = pages.BORDER, "8px 12px"
        for section in self.sections:
            section.layout.border_top = pages.BORDER
            section.layout.margin, section.layout.padding = "10px 0 0", "6px 0 0"
        self.add_class("wb-inspect")
        self.turn_to(chosen)

    def turn_to(self, chosen: Subject) -> None:
        """Inspects something else; what was found of the one before goes."""
        self.subject = chosen
        self._title.value = pages.heading("Inside", visible(chosen.name))
        for section in self.sections:
            section.follow(chosen)
        self.leave()

    def left(self) -> dict[str, Any]:
        """What was found so far: as text, and as the tables and pictures that were shown."""
        if not self._found():
            return super().left()
        return {"text/plain": repr(self), "text/html": "".join(s.html for s in self.sections)}

    def close(self) -> None:
        """Closes the panel and ends what is under way, with its processes."""
        for work in (self.base.work, self.adapter.work, self.adapter.cutting, self.mixing.work):
            work.end()
        self.mixing.release()
        super().close()

    def bundle(self) -> dict[str, Any]:
        """What a cell's output holds: the text keeps its columns."""
        text = f'<pre style="overflow-x:auto">{escape(repr(self))}</pre>'
        return super().bundle() | {"text/html": text}

    def __repr__(self) -> str:
        about = visible(self.subject.name) or "nothing yet"
        found = self._found() or "Nothing was inspected yet."
        return f"Inside {about}\n\n{found}\n\nThe panel needs its kernel: run this cell again."

    def _found(self) -> str:
        return visible("\n\n".join(filter(None, map(repr, self.sections))))

    def _make_fields(self) -> None:
        says = "Inspects the run's base and its adapter"
        self.run = controls.described(
            widgets.Dropdown, "Run", says, "inspect-run", options=[NONE, *adapted(self._runs_in)],
            layout=controls.form_layout("340px"), style={"description_width": "60px"},
        )  # fmt: skip
        says = "A model's folder or name on the hub, or a folder that holds an adapter"
        self.model = controls.described(
            widgets.Text, "or a model", says, "inspect-model", continuous_update=False,
            layout=controls.form_layout("420px"), style={"description_width": "90px"},
        )  # fmt: skip
        self.model.placeholder = "owner/model or ./folder"
        self.fields = widgets.HBox([self.run, self.model], layout=widgets.Layout(**WRAP))
        self.run.observe(guarded(self.banner, self._choose_run), names="value")
        self.model.observe(guarded(self.banner, self._choose_model), names="value")

    def _choose_run(self) -> None:
        if self.run.value in (NONE, None):
            return
        self.model.value = ""
        self._choose(self.run.value)

    def _choose_model(self) -> None:
        if not self.model.value.strip():
            return
        self.run.value = NONE
        self._choose(self.model.value)

    def _choose(self, name: str) -> None:
        self.banner.clear()
        self.turn_to(subject(name, self._runs_in))
