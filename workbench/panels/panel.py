"""What every panel is: a box of widgets that leaves a sentence behind where a notebook is shown without its kernel."""

from collections.abc import Iterable, Iterator
from html import escape
from typing import Any, ClassVar

import ipywidgets as widgets

VIEW = "application/vnd.jupyter.widget-view+json"
OURS = __package__  # objects that are no widgets and may hold some
LONGEST = 500  # entries: a longer list in a panel holds rows, not widgets


class Panel(widgets.VBox):
    """A box of widgets; its `repr` is what a saved notebook shows of it."""

    def bundle(self) -> dict[str, Any]:
        """What a cell's output holds, by MIME type: the live view, and the text for where there is none."""
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        text = repr(self)
        html = f'<pre style="white-space:pre-wrap">{escape(text)}</pre>'
        return {VIEW: view, "text/html": html, "text/plain": text}

    def close(self) -> None:
        """Closes the panel with all that is in it."""
        for part in reversed(everything_in(self)):
            if part is not self:
                part.close()
        super().close()

    def _ipython_display_(self, **_: Any) -> None:
        """Called by IPython for ipywidgets 7 and 8 alike, whose own ways to the same end differ."""
        from IPython.display import display

        display(self.bundle(), raw=True)


class SinglePanel(Panel):
    """A panel of which there is one at a time: widgets live until they are closed, and cells are run again."""

    _open: ClassVar["SinglePanel | None"] = None

    def __init__(self, children: Iterable[widgets.Widget]) -> None:
        kind = type(self)
        if kind._open is not None:
            kind._open.close()
        super().__init__(list(children))
        kind._open = self

    def close(self) -> None:
        """Closes the panel with all that is in it."""
        if type(self)._open is self:
            type(self)._open = None
        super().close()


def everything_in(root: widgets.Widget) -> list[widgets.Widget]:
    """A widget and all that it holds, shown or not, with their layouts and styles, which are widgets of their own."""
    found: dict[int, widgets.Widget] = {}
    seen: set[int] = set()
    waiting: list[Any] = [root]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, widgets.Widget):
            found[id(one)] = one
        waiting += reversed(list(_held(one)))
    return list(found.values())


def _held(one: Any) -> Iterator[Any]:
    """What may hold widgets, or is one, directly in this."""
    if isinstance(one, widgets.Widget):
        for name in ("children", "layout", "style"):
            if one.has_trait(name):
                yield getattr(one, name)
    if isinstance(one, list | tuple | dict):
        inside = one.values() if isinstance(one, dict) else one
        yield from inside if len(one) <= LONGEST else ()
    elif type(one).__module__.startswith(f"{OURS}."):
        yield from getattr(one, "__dict__", {}).values()
