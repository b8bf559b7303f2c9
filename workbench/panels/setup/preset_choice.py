"""The choice of a preset, with the sentence that names its trade-off and the line of Python that does the same.

Knows the presets' names and sentences; what one changes, the panel around it asks for.
"""

from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets as widgets

from ... import presets
from ...recipe import Recipe
from .. import pages
from ..banner import Banner, guarded
from ..controls import BESIDE, described, form_layout, form_style, row

NONE = "as set below"


class PresetChoice(widgets.VBox):
    """Names the preset that was chosen, as long as the recipe still is what it makes of it."""

    def __init__(
        self, choose: Callable[[str | None], Any], *, banner: Banner, codes: widgets.Layout
    ) -> None:
        """`choose` is called with the name of a preset, or None for none; `codes` is the layout that all lines of Python share."""
        says = "Settings that go together; another choice takes them back first, and leaves what you changed by hand"
        self.list = described(
            widgets.Dropdown, "Preset", says, "presets", value=NONE,
            options=[NONE, *(one.name for one in presets.PRESETS)],
            layout=form_layout(), style=form_style(),
        )  # fmt: skip
        self._code = widgets.HTML(layout=codes)
        self._says = widgets.HTML(layout=widgets.Layout(margin=f"0 0 0 {BESIDE}"))
        self._choose, self._setting = choose, False
        super().__init__([row(self.list, self._code), self._says])
        self.list.observe(guarded(banner, self._take), names="value")
        self._show()

    def follow(self, recipe: Recipe) -> None:
        """Lets go of the preset where the recipe has become another."""
        name = self.list.value
        if name != NONE and presets.preset(name, recipe) != recipe:
            self._let_go()

    def _take(self) -> None:
        if self._setting:
            return
        name = self.list.value
        self._show()
        try:
            self._choose(name if name != NONE else None)
        except Exception:
            self._let_go()
            raise

    def _let_go(self) -> None:
        self._setting = True
        self.list.value = NONE
        self._setting = False
        self._show()

    def _show(self) -> None:
        chosen = next((one for one in presets.PRESETS if one.name == self.list.value), None)
        says = chosen.says if chosen else ""
        self._says.value = f'<div style="{pages.SMALL}">{escape(says)}</div>' if says else ""
        made = f'recipe = wb.preset("{chosen.name}", recipe)' if chosen else ""
        self._code.value = pages.code(made, quiet=False) if made else ""
