"""A button that shows and hides a box. Knows nothing of what is in it."""

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from .buttons import button


class Fold:
    """A button that shows and hides a box; ipywidgets' own cannot be reached by keyboard."""

    def __init__(
        self,
        text: str,
        holds: str,
        mark: str,
        body: widgets.Widget,
        *,
        fill: Callable[[], Any] | None = None,
    ) -> None:
        """`holds` says what is in the box; `fill` is called once, before it is opened for the first time."""
        self.body, self._holds, self._fill = body, holds, fill
        self.button = button(text, "", "caret-right", mark)
        self.button.layout.align_self = "flex-start"
        self.button.on_click(lambda _: self.open(not self.is_open))
        self.open(False)

    @property
    def is_open(self) -> bool:
        return self.body.layout.display != "none"

    def open(self, wanted: bool = True) -> None:
        fill, self._fill = (self._fill, None) if wanted else (None, self._fill)
        if fill is not None:
            fill()
        self.body.layout.display = "" if wanted else "none"
        self.button.icon = "caret-down" if wanted else "caret-right"
        self.button.tooltip = f"{'Hides' if wanted else 'Shows'} {self._holds}"
