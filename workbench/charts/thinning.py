"""Long lines as short ones that look the same, running means, and round numbers on an axis.

Knows numbers only. numpy is loaded when it is first needed, so that importing the workbench stays light.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

COLUMNS = 75  # columns that a live line is thinned to, two points each: with more, a page takes over 50 ms to draw them
# What the smoothed loss looks back on: a share of the run's steps, within these bounds.
SMOOTH_SHARE, SMOOTH_LEAST, SMOOTH_MOST = 1 / 30, 3, 50


def decimated(
    xs: Sequence[float], ys: Sequence[float], columns: int = COLUMNS
) -> tuple[list[float], list[float]]:
    """At most `2 * columns + 2` points that keep the ends and each column's lowest and highest point."""
    kept = telling(ys, columns)
    return [xs[i] for i in kept], [ys[i] for i in kept]


def telling(ys: Sequence[float], columns: int) -> Sequence[int]:
    """Where the ends and each column's lowest and highest value are, in order."""
    count = len(ys)
    if count <= 2 * columns:
        return range(count)
    import numpy as np

    width = -(-count // columns)
    values = np.asarray(ys, dtype=float)
    full = np.append(values, np.full(-count % width, values[-1])).reshape(-1, width)
    starts = np.arange(len(full)) * width
    ends = [[0, count - 1], full.argmin(axis=1) + starts, full.argmax(axis=1) + starts]
    return np.unique(np.minimum(np.concatenate(ends), count - 1)).tolist()


def smoothed(values: Sequence[float], window: float) -> list[float]:
    """The running mean over about `window` values with fading weights; over fewer at first, where losses fall steeply."""
    window = min(SMOOTH_MOST, max(SMOOTH_LEAST, window))
    out, total, weight = [], 0.0, 0.0
    for number, value in enumerate(values):
        fading = 1 - 1 / min(window, SMOOTH_LEAST + number / 4)
        total = fading * total + value
        weight = fading * weight + 1
        out.append(total / weight)
    return out


def rates(amounts: Sequence[float], seconds: Sequence[float], over: int) -> "np.ndarray":
    """(steps,), at each step what the last `over` steps did together in a second; not a number where they took no time."""
    import numpy as np

    def lately(values: Sequence[float]) -> "np.ndarray":
        whole = np.cumsum(np.nan_to_num(np.asarray(values, dtype=float)))
        before = np.zeros_like(whole)
        before[over:] = whole[:-over]
        return whole - before

    taken = lately(seconds)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(taken > 0, lately(amounts) / taken, np.nan)


def shortened(values: Sequence[float], digits: int) -> list[float]:
    """The values with so many significant digits, or more where they stand before the point."""
    import numpy as np

    exact = np.asarray(values, dtype=float)
    size = np.log10(np.maximum(np.abs(exact), 1e-30))
    power = 10.0 ** np.clip(digits - 1 - np.floor(size), 0, 300)
    return (np.round(exact * power) / power).tolist()


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) that cover `low` to `high`, about `about` of them."""
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(n * power for n in (1, 2, 5, 10) if n * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]
