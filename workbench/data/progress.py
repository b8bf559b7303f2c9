"""How far the reading is: counts what is done and tells it, a few times a second at most.

Knows nothing of what is read.
"""

import time
from collections.abc import Callable

EVERY = 0.1  # seconds between two calls
Progress = Callable[[int, int | None], None]


class Meter:
    """Bytes or rows that are done, `now`, over all parts of a source; `progress` is told of them."""

    def __init__(self, progress: Progress | None, of: int | None) -> None:
        self._progress, self._of = progress, of
        self._before = self.now = 0
        self._told = time.monotonic()

    def at(self, done: int) -> None:
        """Where the present part is read up to."""
        self.now = self._before + done

    def finish(self, size: int) -> None:
        """Counts a part of this size as done."""
        self._before += size
        self.now = self._before

    def tell(self, *, last: bool = False) -> None:
        """Calls `progress` unless it was called just before; the last call is always made."""
        if self._progress is None:
            return
        now = time.monotonic()
        if last or now - self._told >= EVERY:
            self._told = now
            self._progress(self.now, self._of)
