"""What every panel is: a box of widgets that leaves a sentence behind where a notebook is shown without its kernel."""

from html import escape
from typing import Any

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
