"""How far a long cell is, as a bar in its output that goes when the work is done. Knows nothing of what is done."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape

from . import pages

FIRST = 1.0  # seconds; what is done before shows no bar
EVERY = 0.25  # seconds between two drawings


@contextmanager
def bar(says: str) -> Iterator[Callable[[int, int | None], None]]:
    """Yields what takes (done, of): `of` is None where the end is not known. Outside of a notebook nothing is shown."""
    from IPython import get_ipython
    from IPython.display import HTML, display

    if get_ipython() is None:
        yield lambda done, of: None
        return
    started = drawn = time.monotonic()
    handle = None

    def tell(done: int, of: int | None) -> None:
        nonlocal drawn, handle
        now = time.monotonic()
        if now - started < FIRST or now - drawn < EVERY:
            return
        drawn, shown = now, HTML(html(says, done, of))
        if handle is None:
            handle = display(shown, display_id=True)
        else:
            handle.update(shown)

    try:
        yield tell
    finally:
        if handle is not None:
            handle.update(HTML(""))


def html(says: str, done: int, of: int | None) -> str:
    """The bar as HTML."""
    share = f"{done / of:.0%}" if of else f"{done:,}"
    value = f' value="{min(done, of)}" max="{of}"' if of else ""
    return (
        f'<div style="line-height:1.6">{escape(says)} <progress{value} aria-label="{escape(says)}">'
        f'</progress> <span style="{pages.MUTED}">{share}</span></div>'
    )
