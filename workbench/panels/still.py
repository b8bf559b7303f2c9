"""Panels that leave a picture and a text in the notebook: for where a saved one is shown without widgets.

The live view and what is left are two outputs of the cell. JupyterLab draws a widget's view anew whenever its output is
updated, and shows of one output with both the view only, even when its kernel has gone; a second output stays readable.
While the view is there, a style in it hides the output below it.
"""

import contextlib
import uuid
from typing import Any

import ipywidgets as widgets

from .panel import Panel

MARK = "wb-leaves"
HIDES = f"<style>.jp-OutputArea-child:has(.{MARK}) + .jp-OutputArea-child{{display:none}}</style>"
REMEMBERED = 8  # cells that show the same panel and are updated
CLOSED = "This view was closed; run the cell again to see it."


class LastingPanel(Panel):
    """A panel whose cell keeps what `left` returns, below the live view and hidden by it."""

    def __init__(self, children: Any) -> None:
        self._outputs: list[tuple[str, str]] = []  # for each cell that shows the panel
        hides = widgets.HTML(HIDES, layout=widgets.Layout(display="none"))
        super().__init__([*children, hides])
        self.add_class(MARK)

    def left(self) -> dict[str, Any]:
        """What is left of the panel, by MIME type: nothing to be seen, until there is something."""
        return {"text/plain": ""}

    def leave(self) -> None:
        """Has each cell that shows the panel keep what is to be left now."""
        if self._outputs:
            left = self.left()
            for _, below in self._outputs:
                _update(left, below)

    def close(self) -> None:
        """Closes the panel; cells that still show it say so, and show what was left."""
        outputs, self._outputs = self._outputs, []
        for view, _ in outputs:
            _update({"text/html": f"<p>{CLOSED}</p>", "text/plain": CLOSED}, view)
        super().close()

    def _ipython_display_(self, **_: Any) -> None:
        from IPython.display import display

        view, below = uuid.uuid4().hex, uuid.uuid4().hex
        self._outputs = [*self._outputs, (view, below)][-REMEMBERED:]
        display(self.bundle(), raw=True, display_id=view)
        display(self.left(), raw=True, display_id=below)


def _update(bundle: dict[str, Any], output: str) -> None:
    from IPython.display import update_display

    with contextlib.suppress(Exception):  # the kernel is going: nobody is there to see it
        update_display(bundle, raw=True, display_id=output)
