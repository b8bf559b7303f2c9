"""One labelled control for one setting: label, tooltip and bounds come from `recipe.py`, and so does the line of Python.

Uses only what ipywidgets 7.7 (Colab) and 8.1 have in common.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from .. import recipe as settings
from . import pages

LABEL, NARROW = "120px", "300px"
IN_FORM, BESIDE = "170px", "180px"  # labels of a form, and where what stands below a control begins
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
    if "layout" not in options:  # one that is made and not used lives as long as the kernel
        options["layout"] = widgets.Layout(width="240px", flex="0 0 auto")
    options.setdefault("style", {"description_width": LABEL})
    made = kind(description=label, **options)
    setattr(made, "tooltip" if made.has_trait("tooltip") else "description_tooltip", says)
    made.add_class("wb-" + mark.replace(".", "-"))
    return made


def line(name: str, value: Any) -> str:
    """The Python that does what the control does."""
    return line_of({name: value})


def line_of(changes: Mapping[str, Any]) -> str:
    """The Python that changes these settings, by dotted name; those of a section come together."""
    sections: dict[str, list[str]] = {}
    for name, value in changes.items():
        section, _, key = name.rpartition(".")
        inside = f"{json.dumps(key)}: {_python(value)}" if section else _python(value)
        sections.setdefault(section or key, []).append(inside)
    arguments = []
    for name, parts in sections.items():
        nested = any(change.startswith(f"{name}.") for change in changes)
        arguments.append(f"{name}={{{', '.join(parts)}}}" if nested else f"{name}={parts[0]}")
    return f"recipe = recipe.replace({', '.join(arguments)})"


def _python(value: Any) -> str:
    """A setting as Python writes it, with few digits where they say all of it."""
    if isinstance(value, bool | None):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return f'float("{value}")'
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return json.dumps(value, ensure_ascii=False)


def row(
    control: widgets.Widget, code: widgets.HTML, layout: widgets.Layout | None = None
) -> widgets.HBox:
    """A control with its line of Python beside it, or below it where there is no room."""
    layout = layout or widgets.Layout(align_items="center", flex_flow="row wrap")
    return widgets.HBox([control, code], layout=layout)


def code_for(name: str, value: Any, layout: widgets.Layout | None = None) -> widgets.HTML:
    """The line of Python for a control; with a shared `layout` all lines are shown and hidden together."""
    layout = layout or code_layout()
    return widgets.HTML(pages.code(line(name, value)), layout=layout)


def code_layout() -> widgets.Layout:
    """How a line of Python stands beside its control."""
    return widgets.Layout(margin="2px 2px 2px 12px", flex="1 1 220px")


def form_style() -> dict[str, str]:
    """The style of a control in a form, whose labels are longer."""
    return {"description_width": IN_FORM}


def form_layout(width: str = NARROW) -> widgets.Layout:
    """The layout of a control in a form."""
    return widgets.Layout(width=width, max_width="99%", flex="0 1 auto")


def box_layout(width: str = NARROW) -> widgets.Layout:
    """The layout of a checkbox in a form: as wide as its name, which stands behind it, needs."""
    return widgets.Layout(width="auto", min_width=width, flex="0 0 auto")


def cell(*, lines: bool) -> dict[str, str]:
    """How a row with a control stands when its line of Python is shown, and when rows stand beside each other."""
    return {"width": "100%" if lines else "auto", "align_items": "center", "flex_flow": "row wrap"}


def side_by_side(rows: Sequence[widgets.Widget]) -> widgets.HBox:
    """Rows beside each other as far as there is room."""
    return widgets.HBox(rows, layout=widgets.Layout(flex_flow="row wrap"))


def section(title: str) -> widgets.HTML:
    """A heading inside a form."""
    return widgets.HTML(pages.section(title))
