"""Picked runs compared: their curves over each other along a chosen axis, and the tables below. Reads runs, draws nothing."""

import base64
from collections.abc import Sequence
from html import escape

import ipywidgets as widgets

from ... import charts
from ...comparing import Compared, compare
from ...run import Run
from .. import controls, pages
from ..banner import Banner, guarded
from ..panel import Panel

AXES = (("Steps", "steps"), ("Tokens", "tokens"), ("Training time", "seconds"))


class SideBySide(Panel):
    """`compared` is what `wb.compare` tells of the runs."""

    def __init__(self, runs: Sequence[Run], banner: Banner) -> None:
        """Raises RunError where they cannot be compared."""
        self.compared: Compared = compare(runs)
        self.runs = list(runs)
        says = "wb.picture(runs, by=...): what the curves run along"
        self.by = controls.described(
            widgets.Dropdown, "Curves along", says, "runs-by", options=AXES, value="steps"
        )
        self._code, self._image = widgets.HTML(), widgets.HTML()
        tables = widgets.HTML(self.compared._repr_html_())
        super().__init__([controls.row(self.by, self._code), self._image, tables])
        self.add_class("wb-side-by-side")
        self.by.observe(guarded(banner, self.draw), names="value")
        self.draw()

    def draw(self) -> None:
        """Draws the curves anew, with what the runs have written meanwhile."""
        by = self.by.value
        names = ", ".join(run.name for run in self.runs)
        image = base64.b64encode(charts.picture(self.runs, by=by).image).decode()
        spoken = f"Loss curves of {names} along {by}. {self.compared.headline}"
        self._image.value = (
            f'<img src="data:image/png;base64,{image}" alt="{escape(spoken)}" '
            f'style="width:100%;max-width:880px;height:auto;display:block">'
        )
        self._code.value = pages.code(f'wb.picture(runs, by="{by}"); wb.compare(runs)')

    def __repr__(self) -> str:
        return str(self.compared)
