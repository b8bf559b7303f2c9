"""The choice of target modules: a preset and a checkbox for each kind of linear layer that the model has.

Knows the layers' names and shapes only.
"""

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

from .. import models
from . import pages
from .controls import LABEL, code_for, described, line, row, tip

NAME = "lora.target_modules"
EVERY, ATTENTION, MLP, CUSTOM = "all linear", "attention", "MLP", "custom"


class Targets(widgets.VBox):
    """`value` is what a recipe's `lora.target_modules` takes; `chosen` names the modules that it means here."""

    def __init__(self, layers: Sequence[models.LinearLayer], value: str | list[str]) -> None:
        named = [] if value == "all-linear" else list(value)
        modules = models.target_modules(layers) if layers else named
        self.groups = _groups(modules, layers)
        self.boxes = {module: _box(module, layers, value) for module in modules}
        self.preset = described(
            widgets.Dropdown,
            "Target modules",
            tip(NAME),
            "preset",
            options=[*(self.groups or [EVERY]), CUSTOM],
        )
        self._code = code_for(NAME, value)
        self._changed: Callable[..., Any] | None = None
        self._setting = False
        self.preset.value = EVERY if value == "all-linear" else self._matching()
        self._at_first = self.value
        super().__init__([row(self.preset, self._code), *self._box_rows()])
        self.add_class("wb-targets")

    @property
    def chosen(self) -> list[str]:
        return [module for module, box in self.boxes.items() if box.value]

    @property
    def value(self) -> str | list[str]:
        return "all-linear" if self.preset.value == EVERY else self.chosen

    def on_change(self, tell: Callable[..., Any]) -> None:
        """Has `tell` called after each change; it also gets to show what goes wrong here."""
        self._changed = tell
        self.preset.observe(self._take_preset, names="value")
        for box in self.boxes.values():
            box.observe(self._take_box, names="value")

    def _take_preset(self, _: Any) -> None:
        if self._setting:
            return
        members = self.groups.get(self.preset.value)
        if members is not None:  # custom keeps what is ticked
            self._setting = True
            for module, box in self.boxes.items():
                box.value = module in members
            self._setting = False
        self._tell()

    def _take_box(self, _: Any) -> None:
        if self._setting:
            return
        self._setting = True
        self.preset.value = self._matching()
        self._setting = False
        self._tell()

    def _tell(self) -> None:
        self._code.value = pages.code(line(NAME, self.value), quiet=self.value == self._at_first)
        self._changed()

    def _matching(self) -> str:
        chosen = self.chosen
        return next((name for name, members in self.groups.items() if members == chosen), CUSTOM)

    def _box_rows(self) -> list[widgets.Widget]:
        rows = []
        names = [name for name in self.groups if name != EVERY]
        for name, members in [(name, self.groups[name]) for name in names] or [
            ("", list(self.boxes))
        ]:
            label = widgets.HTML(f'<div style="text-align:right;{pages.MUTED}">{name}</div>')
            label.layout = widgets.Layout(width=LABEL, margin="2px 10px 2px 2px")
            layout = widgets.Layout(align_items="center", flex_flow="row wrap")
            boxes = [self.boxes[module] for module in members]
            rows.append(widgets.HBox([label, *boxes], layout=layout))
        return rows


def _groups(modules: list[str], layers: Sequence[models.LinearLayer]) -> dict[str, list[str]]:
    """The presets and their modules; none while the model's layers are not known."""
    if not layers:
        return {}
    attention = {
        layer.module for layer in layers if "attn" in layer.name or "attention" in layer.name
    }
    groups = {
        EVERY: modules,
        ATTENTION: [module for module in modules if module in attention],
        MLP: [module for module in modules if module not in attention],
    }
    return {name: members for name, members in groups.items() if members}


def _box(
    module: str, layers: Sequence[models.LinearLayer], value: str | list[str]
) -> widgets.Checkbox:
    same = [layer for layer in layers if layer.module == module]
    says = f"An adapter on {module}"
    if same:
        says += f": {len(same)} layers of {same[0].in_features:,} to {same[0].out_features:,}"
    on = value == "all-linear" or module in value
    box = described(widgets.Checkbox, module, says, f"target-{module}", value=on, indent=False)
    box.layout.width = "108px"
    return box
