"""What every panel is: a box of widgets that leaves a sentence behind where a notebook is shown without its kernel."""

from collections.abc import Iterable
from html import escape
from typing import Any, ClassVar

import ipywidgets as widgets

VIEW = "application/vnd.jupyter.widget-view+json"


class Panel(widgets.VBox):
    """A box of widgets; its `repr` is what a saved notebook shows of it."""

    def bundle(self) -> dict[str, Any]:
        """What a cell's output holds, by MIME type: the live view, and the text for where there is none."""
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        html = f"<p>{escape(repr(self))}</p>"
        return {VIEW: view, "text/html": html, "text/plain": repr(self)}

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
        for part in reversed(everything_in(self)):
            widgets.Widget.close(part)


def everything_in(root: widgets.Widget) -> list[widgets.Widget]:
    """A widget and all below it, with their layouts and styles, which are widgets of their own."""
    found = [root, root.layout, *([root.style] if root.has_trait("style") else [])]
    for child in getattr(root, "children", ()):
        found += everything_in(child)
    return found
