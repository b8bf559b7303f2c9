"""The choice of target modules: a preset and a checkbox for each kind of linear layer that the model has.

Knows the layers' names and shapes only. Each box tells what its adapter costs at the present rank.
"""

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

from ... import models
from .. import pages
from ..banner import Banner, guarded
from ..controls import IN_FORM, code_for, described, form_layout, form_style, line, row, tip
from ..panel import everything_in

NAME = "lora.target_modules"
EVERY, ATTENTION, MLP, CUSTOM = "all linear", "attention", "MLP", "custom"
ELSEWHERE = "others"  # modules that were named and are no layer of a block


class Targets(widgets.VBox):
    """`value` is what a recipe's `lora.target_modules` takes; `chosen` names the modules that it means here."""

    def __init__(
        self,
        layers: Sequence[models.LinearLayer],
        value: str | list[str],
        *,
        banner: Banner,
        codes: widgets.Layout,
    ) -> None:
        """`codes` is the layout that all lines of Python share."""
        self.preset = described(
            widgets.Dropdown,
            "Target modules",
            tip(NAME),
            "preset",
            options=[EVERY, CUSTOM],
            layout=form_layout(),
            style=form_style(),
        )
        self.code = code_for(NAME, value, codes)
        self._changed: Callable[..., Any] | None = None
        self._setting = False
        self._at_first = value
        self._price = (0, False)
        self._given: list[str] = []
        self.groups: dict[str, list[str]] = {}
        self.boxes: dict[str, widgets.Checkbox] = {}
        super().__init__([row(self.preset, self.code)])
        self.add_class("wb-targets")
        self._take_box = guarded(banner, self._match_preset)
        self.preset.observe(guarded(banner, self._tick_boxes), names="value")
        self.take(layers, value)

    @property
    def chosen(self) -> list[str]:
        return [module for module, box in self.boxes.items() if box.value]

    @property
    def value(self) -> str | list[str]:
        if self.preset.value == EVERY:
            return "all-linear"
        chosen = self.chosen  # in the order in which they were given, as long as they are the same
        return list(self._given) if set(chosen) == set(self._given) else chosen

    def on_change(self, tell: Callable[..., Any]) -> None:
        """Has `tell` called after each change."""
        self._changed = tell

    def take(self, layers: Sequence[models.LinearLayer], value: str | list[str]) -> None:
        """Shows these layers as they are chosen in `value`; names that are none of them get a box too."""
        first, *before = self.children
        named = self._given = [] if value == "all-linear" else list(dict.fromkeys(value))
        modules = models.target_modules(layers) if layers else []
        self.groups = _groups(modules, layers)
        self._layers = layers
        others = [name for name in named if name not in modules]
        alike = widgets.Layout(width="auto", min_width="122px", margin="2px 10px 2px 2px")
        self.boxes = {name: _box(name, layers, value, alike) for name in (*modules, *others)}
        for box in self.boxes.values():
            box.observe(self._take_box, names="value")
        self._setting = True
        self.preset.options = [*(self.groups or [EVERY]), CUSTOM]
        self.preset.value = EVERY if value == "all-linear" else self._matching()
        self._setting = False
        self.children = [first, *self._box_rows(others)]
        for part in (part for old in before for part in everything_in(old)):
            part.close()
        self.tell_costs(*self._price)

    def put(self, value: str | list[str]) -> None:
        """Chooses these modules: by the preset that means them, else box by box."""
        if value != "all-linear" and any(name not in self.boxes for name in value):
            self.take(self._layers, value)
            return
        members = self.groups.get(EVERY, []) if value == "all-linear" else value
        self._given = [] if value == "all-linear" else list(dict.fromkeys(value))
        self._setting = True
        for module, box in self.boxes.items():
            box.value = module in members
        self.preset.value = EVERY if value == "all-linear" else self._matching()
        self._setting = False

    def tell_costs(self, rank: int, dora: bool) -> None:
        """Writes beside each module the parameters of its adapter at this rank, and shows the line of Python."""
        self._price = (rank, dora)
        for module, box in self.boxes.items():
            count = models.lora_parameters(self._layers, rank, [module], dora=dora)
            box.description = f"{module} {few(count)}" if count and rank else module
        self.code.value = pages.code(line(NAME, self.value), quiet=self.value == self._at_first)

    def _tick_boxes(self) -> None:
        if self._setting:
            return
        members = self.groups.get(self.preset.value)
        if members is not None:  # custom keeps what is ticked
            self._setting = True
            for module, box in self.boxes.items():
                box.value = module in members
            self._setting = False
        self._tell()

    def _match_preset(self) -> None:
        if self._setting:
            return
        self._setting = True
        self.preset.value = self._matching()
        self._setting = False
        self._tell()

    def _tell(self) -> None:
        self.code.value = pages.code(line(NAME, self.value), quiet=self.value == self._at_first)
        if self._changed is not None:
            self._changed()

    def _matching(self) -> str:
        chosen = self.chosen
        return next((name for name, members in self.groups.items() if members == chosen), CUSTOM)

    def _box_rows(self, others: list[str]) -> list[widgets.Widget]:
        named = {name: members for name, members in self.groups.items() if name != EVERY}
        if others:
            named[ELSEWHERE if self.groups else ""] = others
        rows = []
        for name, members in named.items():
            label = widgets.HTML(
                f'<div style="text-align:right;{pages.MUTED}">{name}</div>',
                layout=widgets.Layout(width=IN_FORM, flex="0 0 auto", margin="2px 8px 2px 2px"),
            )
            boxes = widgets.HBox(
                [self.boxes[module] for module in members],
                layout=widgets.Layout(flex_flow="row wrap", flex="1 1 220px"),
            )
            rows.append(widgets.HBox([label, boxes]))
        return rows


def few(count: int) -> str:
    """A count with few digits: "8.2 k", "0.26 M", "1.24 B"."""
    for size, unit in ((10**9, "B"), (10**5, "M"), (10**3, "k")):
        if count >= size:
            shown = count / (10**6 if unit == "M" else size)
            return f"{shown:.2f} {unit}" if shown < 10 else f"{shown:,.0f} {unit}"
    return f"{count}"


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
    module: str,
    layers: Sequence[models.LinearLayer],
    value: str | list[str],
    layout: widgets.Layout,
) -> widgets.Checkbox:
    says = f"An adapter on {module}"
    shapes: dict[tuple[int, int], int] = {}
    for layer in models.targeted(layers, [module]):
        shape = (layer.in_features, layer.out_features)
        shapes[shape] = shapes.get(shape, 0) + 1
    if shapes:
        told = (f"{n} layers of {into:,} to {out:,}" for (into, out), n in shapes.items())
        says += f": {', '.join(told)}"
    elif layers:
        says += ", which is no linear layer in this model's blocks"
    on = value == "all-linear" or module in value
    mark = f"target-{module}"
    return described(widgets.Checkbox, module, says, mark, value=on, indent=False, layout=layout)
