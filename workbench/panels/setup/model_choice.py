"""Which model: a search through the known ones with their sizes, and any other name or path.

Knows the table of known models. What else a model is, the panel around it looks up and tells it.
"""

import functools
from collections.abc import Sequence
from html import escape
from pathlib import Path

import ipywidgets as widgets

from ...memory import known
from ...memory.question import Question
from ...memory.shapes import Shapes
from ...memory.speed import BYTES_OF_4BIT
from ...summary import GIB
from .. import pages
from ..banner import Banner, guarded, status_html
from ..controls import BESIDE, described, form_layout, form_style
from .settings import Entry
from .targets import few

NAME = "model.name"
SIXTEEN_BIT = 2  # bytes


class ModelChoice(widgets.VBox):
    """`entry` holds the name; choosing from the list sets it, as typing it does."""

    def __init__(self, name: str, *, banner: Banner, codes: widgets.Layout) -> None:
        """`codes` is the layout that all lines of Python share."""
        self._own, self._setting = name, False
        self.entry = Entry(NAME, name, codes=codes, layout=form_layout("460px"))
        self.entry.control.placeholder = "owner/model or ./folder"
        says = "Words that the known models' names are searched for, such as: qwen 7b"
        self.find = described(
            widgets.Text, "Find a model", says, "find-model", value="",
            layout=form_layout(), style=form_style(),
        )  # fmt: skip
        self.find.placeholder = "qwen 7b"
        says = "The known models with this name: choosing one writes it below"
        self.list = described(
            widgets.Dropdown, "Known models", says, "known-models",
            options=self._options(name), value=name,
            layout=form_layout("700px"), style=form_style(),
        )  # fmt: skip
        self._found = widgets.HTML()
        self._told = widgets.HTML(layout=widgets.Layout(margin=f"0 0 4px {BESIDE}"))
        self._told.add_class("wb-model-facts")
        search = widgets.HBox([self.find, self._found])
        super().__init__([search, self.list, self.entry.row(), self._told])
        self._search()
        self.find.observe(guarded(banner, self._search), names="value")
        self.list.observe(guarded(banner, self._choose), names="value")
        self.entry.control.observe(guarded(banner, self._take), names="value")

    def follow(self, question: Question | None, *, here: bool) -> None:
        """Says what the model is, and whether its weights have still to be fetched."""
        told = []
        if question is not None:
            shapes = question.shapes
            told = [f"{few(shapes.parameters)} parameters in {shapes.layers} blocks"]
            if shapes.context_length:
                told.append(f"made for up to {shapes.context_length:,} tokens")
        if question is not None and not here:
            told.append("its weights are not here yet: a run fetches them")
        self._say("; ".join(told))

    def wait(self) -> None:
        """Says that the model is being looked up, which takes seconds where the hub is asked."""
        self._say("Looking at the model and the rows.")

    def _say(self, text: str) -> None:
        self._told.value = f'<div style="{pages.SMALL}">{status_html(text)}</div>'

    def _search(self) -> None:
        """Offers what is found; the model that is set stays among it, so that nothing changes by searching."""
        name = self.entry.control.value
        options = self._options(name)
        self._setting = True
        if list(self.list.options) != options:
            self.list.options = options
            self.list.value = name
        self._setting = False
        count = len(matching(self.find.value))
        told = f"{count} known model{'s'[: count != 1]}" if count else "none known; type it below"
        self._found.value = f'<span style="{pages.MUTED}">{escape(told)}</span>'

    def _options(self, name: str) -> list[tuple[str, str]]:
        found = dict(matching(self.find.value))
        first = {own: self._label(own) for own in (self._own, name) if own not in found}
        return [(label, model) for model, label in (first | found).items()]

    def _label(self, name: str) -> str:
        shapes = known.find(name)
        label = in_words(name, shapes) if shapes else short(name) or "(none)"
        return f"{label} (the recipe's own)" if name == self._own else label

    def _choose(self) -> None:
        if not self._setting:
            self.entry.control.value = self.list.value

    def _take(self) -> None:
        self._search()
        self._setting = True
        self.list.value = self.entry.control.value
        self._setting = False


def short(name: str) -> str:
    """The end of a name or a path, at most 60 letters."""
    end = "/".join(Path(name).parts[-2:])
    return end if len(end) <= 60 else f"...{end[-57:]}"


def matching(text: str) -> Sequence[tuple[str, str]]:
    """Known models whose names hold all these words, as (name, name with size); a known variant's full name too."""
    words = text.casefold().replace("_", " ").split()
    found = [(name, label) for name, label in listed() if all(w in name.casefold() for w in words)]
    if not found and "/" in text and (shapes := known.find(text)):
        return [(text.strip(), in_words(text.strip(), shapes))]
    return found


@functools.cache
def listed() -> tuple[tuple[str, str], ...]:
    """The known models, as (name, name with size); the table does not change."""
    shapes = ((name, known.find(name)) for name in known.names())
    return tuple((name, in_words(name, each)) for name, each in shapes if each)


def in_words(name: str, shapes: Shapes) -> str:
    """ "Llama-3.2-1B, 1.24 B parameters, about 1.0 GiB in 4 bits"."""
    size = bytes_in_4bit(shapes) / GIB
    about = f"{size:.1f}" if size < 10 else f"{size:.0f}"
    model = name.rpartition("/")[2]
    return f"{model}, {few(shapes.parameters)} parameters, about {about} GiB in 4 bits"


def bytes_in_4bit(shapes: Shapes) -> float:
    """Bytes of the weights when the linear layers are held in 4 bits with double quantization, the rest in 16."""
    packed = sum(k.in_features * k.out_features * k.count for k in shapes.linears if k.packed)
    return packed * BYTES_OF_4BIT + (shapes.parameters - packed) * SIXTEEN_BIT
