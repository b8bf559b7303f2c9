"""A control for any setting of a recipe, made from the kind of its field: no second list of settings.

Knows how a value is shown and read back; whether it can be used is for the recipe to say.
"""

import contextlib
import math
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import ipywidgets as widgets
import yaml

from ... import recipe as settings
from ...recipe import Recipe, Section
from .. import pages
from ..controls import code_for, control, form_style, line, row

BREAK = "\N{RETURN SYMBOL}"  # stands for a line break inside one of several lines


class Form(NamedTuple):
    """How a kind of setting is shown: the widget, its options, and the ways from a value to what it holds and back."""

    widget: type[widgets.Widget]
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]
    options: Mapping[str, Any]


class Entry:
    """A setting with its control and its line of Python. A value that was not touched comes back as it was given."""

    def __init__(
        self, name: str, value: Any, *, codes: widgets.Layout, form: Form | None = None, **how: Any
    ) -> None:
        """`codes` is the layout that all lines of Python share, `how` is for the control."""
        self.name, self._given, self._form = name, value, form or form_of(name, value)
        shown = self._form.write(value)
        options = {"style": form_style(), **self._form.options, **how}
        self.control = control(self._form.widget, name, shown, **options)
        self.code = code_for(name, value, codes)
        self._shown = self.control.value
        self.at_first = value

    @property
    def value(self) -> Any:
        """What is set, valid or not; what a control cannot read is its text."""
        held = self.control.value
        return self._given if held == self._shown else self._form.read(held)

    def put(self, value: Any) -> None:
        """Shows a value that the recipe takes; a choice that is not offered yet is added."""
        shown = self._form.write(value)
        offered = getattr(self.control, "options", None)
        if offered is not None and shown not in offered:
            self.control.options = _in_order([*offered, shown])
        self._given, self._shown = value, None  # so that a change on the way is read
        self.control.value = shown
        self._shown = self.control.value

    def show_line(self) -> None:
        """Brings the line of Python in step; it is muted while it says what was there at first."""
        value = self.value
        self.code.value = pages.code(line(self.name, value), quiet=value == self.at_first)

    def row(self, layout: widgets.Layout | None = None) -> widgets.HBox:
        return row(self.control, self.code, layout)


def names() -> list[str]:
    """The dotted names of all settings, in the order of the recipe."""
    found = []
    for name, info in Recipe.model_fields.items():
        section = info.annotation
        inside = isinstance(section, type) and issubclass(section, Section)
        found += [f"{name}.{key}" for key in section.model_fields] if inside else [name]
    return found


def title(section: str) -> str:
    """What a section is called; the settings in none come under the name of their own."""
    return Recipe.model_fields[section].title


def changes(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name as arguments of `Recipe.replace`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        section, _, key = name.rpartition(".")
        if section:
            found.setdefault(section, {})[key] = value
        else:
            found[name] = value
    return found


def by_name(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name, where whole sections may be given too: {"lora": {"rank": 8}}."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inside = name in Recipe.model_fields and name not in names() and isinstance(value, Mapping)
        found |= {f"{name}.{key}": each for key, each in value.items()} if inside else {name: value}
    return found


def form_of(name: str, value: Any) -> Form:
    """The form for a setting, by its annotation; `value` says whether a text needs more than one line."""
    kind = settings.field(name).annotation
    if kind is bool:
        return Form(widgets.Checkbox, _same, _same, {"indent": True})
    if kind is int:  # an IntText drops "." and "e" while they are typed, and makes 15 of 1.5
        return Form(widgets.FloatText, float, whole, {"step": 1})
    if kind is float:
        return Form(widgets.FloatText, _same, _same, {"step": _step(name)})
    if get_origin(kind) is Literal:
        return Form(widgets.Dropdown, _same, _same, {"options": list(get_args(kind))})
    typed = {"continuous_update": False}
    if kind is str:
        return Form(_text(value), _same, str.strip, typed)
    if get_origin(kind) is list:
        return Form(widgets.Textarea, _lines, _from_lines, typed | {"rows": 3})
    if get_origin(kind) is dict:
        return Form(widgets.Textarea, _table, _from_yaml, typed | {"rows": 3})
    if get_origin(kind) in (Union, types.UnionType):
        return _form_of_union(get_args(kind), value, typed)
    return Form(widgets.Text, _flow, _from_yaml, typed)


def _form_of_union(kinds: tuple[Any, ...], value: Any, typed: dict[str, Any]) -> Form:
    """One of several kinds: nothing is an empty text, a list is written with commas."""
    optional = type(None) in kinds
    if str in kinds:
        return Form(_text(value), lambda held: held or "", lambda text: text.strip() or None, typed)
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]

    def read(text: str) -> Any:
        if not text.strip():
            return None if optional else ""
        if text.strip() in words:
            return text.strip()
        return _from_yaml(f"[{text}]") if "," in text and "[" not in text else _from_yaml(text)

    about = {"placeholder": ", ".join(words)} if words else {}
    return Form(widgets.Text, lambda held: "" if held is None else _flow(held), read, typed | about)


def whole(number: float) -> int | float:
    """A number as an int where it is whole; what is not is for the recipe to refuse."""
    return int(number) if math.isfinite(number) and number == int(number) else number


def _same(value: Any) -> Any:
    return value


def _text(value: Any) -> type[widgets.Widget]:
    """A field of one line would lose the breaks of a longer text."""
    return widgets.Textarea if "\n" in (value or "") else widgets.Text


def _step(name: str) -> float:
    """How far the arrows of a number go: about a hundredth of the most that it can be, 1 where that is not told."""
    limits, default = settings.bounds(name), settings.field(name).default
    if default and default < 0.01:
        return 10.0 ** -len(f"{1 / default:.0f}")
    most = limits.get("le", limits.get("lt", 100))
    return 0.01 if most <= 1 else 0.1 if most <= 10 else 1


def _lines(items: Iterable[str]) -> str:
    return "\n".join(item.replace("\n", BREAK) for item in items)


def _from_lines(text: str) -> list[str]:
    return [item.replace(BREAK, "\n") for item in text.split("\n") if item.strip()]


def _table(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True) if value else ""


def _flow(value: Any) -> str:
    """A value on one line, as YAML."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True).strip()


def _from_yaml(text: str) -> Any:
    """What a text says as YAML; the text itself where it is none, which the recipe then refuses."""
    if not text.strip():
        return {}
    with contextlib.suppress(yaml.YAMLError, ValueError):  # ValueError: a date such as 2024-13-45
        return yaml.safe_load(text)
    return text


def _in_order(options: list[Any]) -> list[Any]:
    """Numbers in order; of other choices a new one comes last."""
    numbers = all(isinstance(option, int | float) for option in options)
    return sorted(options) if numbers else options
