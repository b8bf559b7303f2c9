"""Where a panel says what is wrong, and the wrapper that keeps a callback's exception from being lost.

Jupyter shows nothing when a widget's callback raises, so every callback here goes through `guarded`.
"""

import traceback
from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets as widgets

from ..problems import WorkbenchError
from . import pages


class Banner(widgets.HTML):
    """Messages above a panel's controls; takes no room while there are none."""

    def __init__(self) -> None:
        super().__init__()
        self.add_class("wb-banner")
        self.clear()

    def show(self, html: str) -> None:
        """Shows HTML that is escaped already."""
        self.value = f'<div role="alert">{html}</div>'
        self.layout.display = ""

    def show_error(self, error: BaseException) -> None:
        """Problems one below the other; anything unforeseen with its traceback to unfold."""
        if isinstance(error, WorkbenchError):
            self.show(pages.problem_list(error.problems))
            return
        fact = f"{type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(error))
        cure = "The panel did not expect this; the same settings in Python may still work."
        self.show(pages.message("error", fact, cure, details=trace))

    def clear(self) -> None:
        self.value = ""
        self.layout.display = "none"


def guarded(banner: Banner, act: Callable[[], Any]) -> Callable[..., None]:
    """A callback that does `act` and shows in the banner whatever it raises."""

    def callback(*_: Any) -> None:
        try:
            act()
        except Exception as error:  # shown, with its traceback: Jupyter would swallow it
            banner.show_error(error)

    return callback


def status_html(text: str) -> str:
    """A text that screen readers announce when it changes."""
    return f'<span role="status" aria-live="polite">{escape(text)}</span>'
