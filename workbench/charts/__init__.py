"""What a History looks like: charts as numbers (`series`), live in ECharts (`echarts`), still in matplotlib (`figure`).

Knows nothing of widgets or processes: a History goes in, a dict, text or a Figure comes out.
"""

from .figure import Picture, compared, figure, overlaid, png
from .marks import Mark
from .overlay import curves
from .palette import COLOURS, LINES
from .pictures import picture
from .series import (
    SHOWN,
    Chart,
    Series,
    card_chart,
    learning_chart,
    live_charts,
    loss_chart,
    memory_chart,
    newest,
    speed_chart,
)
from .thinning import decimated, smoothed, ticks

__all__ = [
    "COLOURS",
    "LINES",
    "SHOWN",
    "Chart",
    "Mark",
    "Picture",
    "Series",
    "card_chart",
    "compared",
    "curves",
    "decimated",
    "figure",
    "learning_chart",
    "live_charts",
    "loss_chart",
    "memory_chart",
    "newest",
    "overlaid",
    "picture",
    "png",
    "smoothed",
    "speed_chart",
    "ticks",
]
