"""One labelled control for one setting: label, tooltip and bounds come from `recipe.py`, and so does the line of Python.

Uses only what ipywidgets 7.7 (Colab) and 8.1 have in common.
"""

import json
from typing import Any

import ipywidgets as widgets

from .. import recipe as settings
from . import pages

LABEL = "120px"
_WORDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def tip(name: str) -> str:
    """What a setting trades, and its bounds."""
    limits = [f"{_WORDS[kind]} {value:,g}" for kind, value in settings.bounds(name).items()]
    text = ", ".join(limits)
    return f"{settings.field(name).description} {text[:1].upper()}{text[1:]}{'.' if text else ''}"


def control(kind: type[widgets.Widget], name: str, value: Any, **options: Any) -> widgets.Widget:
    """A widget of this kind for the setting with this dotted name."""
    return described(kind, settings.field(name).title, tip(name), name, value=value, **options)


def described(
    kind: type[widgets.Widget], label: str, says: str, mark: str, **options: Any
) -> widgets.Widget:
    """A widget with label, tooltip and the class `wb-...`; without a tooltip the page would show "null"."""
    layout = widgets.Layout(width="240px", flex="0 0 auto")
    made = kind(description=label, style={"description_width": LABEL}, layout=layout, **options)
    setattr(made, "tooltip" if made.has_trait("tooltip") else "description_tooltip", says)
    made.add_class("wb-" + mark.replace(".", "-"))
    return made


def line(name: str, value: Any) -> str:
    """The Python that does what the control does."""
    section, _, key = name.rpartition(".")
    shown = value if isinstance(value, bool | None) else json.dumps(value)
    if isinstance(value, float):
        shown = f"{value:g}"
    return f'recipe = recipe.replace({section}={{"{key}": {shown}}})'


def row(control: widgets.Widget, code: widgets.HTML) -> widgets.HBox:
    """A control with its line of Python beside it."""
    return widgets.HBox([control, code], layout=widgets.Layout(align_items="center"))


def code_for(name: str, value: Any) -> widgets.HTML:
    made = widgets.HTML(pages.code(line(name, value)))
    made.layout = widgets.Layout(margin="2px 2px 2px 12px", flex="1 1 auto")
    return made
