"""The charts of a run that goes on: Apache ECharts in the page, or a still image where the page has no ECharts.

Which of the two is decided by what the page says: ECharts tells the kernel when it is drawn. Knows nothing of how a run
is read; somebody calls `follow`.
"""

import asyncio
import time
import warnings
from base64 import b64encode
from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets as widgets

from ... import charts
from ...charts import echarts
from ...events import History
from .. import controls, pages
from ..panel import everything_in

LEAST_SECONDS = 1.0  # between two drawings
SHARE_OF_TIME = 0.05  # at most: what takes longer to draw is drawn less often
PATIENCE_SECONDS = 2.0  # for the page to say that ECharts is drawn; then the image takes its place


class LiveCharts(widgets.VBox):
    """All charts of one run. `follow` redraws them; the controls above choose what of the run is shown."""

    def __init__(self) -> None:
        self._history: History | None = None
        self._drawn = False  # the page has said that ECharts is there
        self._seen: tuple[Any, ...] = ()
        self._last = self._first = self._took = 0.0
        self._later: asyncio.TimerHandle | None = None
        self.plot = _echarts(self._hear)
        self.plot_box = widgets.VBox([self.plot] if self.plot is not None else [])
        self.image = widgets.HTML()  # and no Image, which has no words for those who do not see it
        self.image.layout.display = "none"
        self.told = widgets.HTML()
        self.code = widgets.HTML()
        self._row = widgets.HBox(
            self._controls(), layout=widgets.Layout(flex_flow="row wrap", align_items="center")
        )
        super().__init__([self._row, self.plot_box, self.image, self.told])
        self.add_class("wb-charts")
        self._choose()
        self._arrange()

    def follow(self, history: History, *, now: bool = False) -> None:
        """Redraws when something has changed, at most once a second unless `now`; what is put off is drawn by itself."""
        self._history = history
        if self._seen == self._fingerprint():
            return
        pause = max(LEAST_SECONDS, self._took / SHARE_OF_TIME)
        if not now and time.monotonic() < self._last + pause:
            self._call_in(self._last + pause - time.monotonic())
            return
        self._draw()

    def close(self) -> None:
        """Closes the widgets with all that is in them."""
        if self._later is not None:
            self._later.cancel()
        self._later = self._history = None
        for part in reversed(everything_in(self)):
            widgets.Widget.close(part)

    def __repr__(self) -> str:
        if self._history is None:
            return "Charts of a run that is not followed yet."
        return charts.newest(charts.live_charts(self._history))

    def _controls(self) -> list[widgets.Widget]:
        self.show = controls.described(
            widgets.Dropdown,
            "Show",
            "How much of the run the charts show. Less of it shows more detail.",
            "chart-show",
            options=charts.SHOWN,
        )
        self.logarithmic = controls.described(
            widgets.Checkbox,
            "Logarithmic",
            "Loss and gradient on a logarithmic axis; values that are not above 0 are left out.",
            "chart-logarithmic",
            value=False,
        )
        self.one_column = controls.described(
            widgets.Checkbox,
            "One column",
            "The charts below each other, each as wide as the page.",
            "chart-column",
            value=False,
        )
        for made in (self.show, self.logarithmic, self.one_column):
            made.layout.width, made.layout.margin = "auto", "2px 14px 2px 2px"
            made.style.description_width = "initial"
            made.observe(self._choose, "value")
        for made in (self.logarithmic, self.one_column):
            made.indent = False
        return [self.show, self.logarithmic, self.one_column, self.code]

    def _choose(self, _: Any = None) -> None:
        self.code.value = pages.code(self._line())
        if self._history is not None:
            self.follow(self._history, now=True)
        if self.plot is not None and self._drawn:  # what was zoomed into is not what is shown now
            self.plot.dispatchAction({"type": "dataZoom", "start": 0, "end": 100})

    def _line(self) -> str:
        """The Python that draws the same as a still image."""
        how = "".join(f", {name}={value!r}" for name, value in self._how().items())
        return f"wb.picture(run{how})"

    def _how(self) -> dict[str, Any]:
        """What the controls say, without what is usual."""
        how: dict[str, Any] = {}
        if self.show.value != charts.SHOWN[0]:
            how["show"] = self.show.value
        if self.logarithmic.value:
            how["logarithmic"] = True
        if self.one_column.value:
            how["columns"] = 1
        return how

    def _hear(self, _: Any, content: Any, __: Any) -> None:
        if isinstance(content, dict) and content.get("action") == "widget_init":
            self._drawn = True
            self._arrange()

    def _draw_late(self) -> None:
        done = self._drawn and self._seen == self._fingerprint()
        if self.comm is not None and not done:  # it may have been closed with the panel around it
            self._draw()

    def _draw(self) -> None:
        """Draws what is there; whatever goes wrong is said below the charts and breaks nothing else."""
        history, began = self._history, time.monotonic()
        if history is None:
            return
        self._seen = self._fingerprint()
        self._first = self._first or began
        try:
            self._draw_charts(history)
        except Exception as error:
            text = f"The charts could not be drawn: {type(error).__name__}: {error}"
            self.told.value = pages.message("warning", text, "The run goes on.")
            self.told.layout.display = ""
        self._last = time.monotonic()
        self._took = self._last - began
        if not self._drawn and self.image.layout.display == "none":
            self._call_in(self._first + PATIENCE_SECONDS - self._last)

    def _draw_charts(self, history: History) -> None:
        made = charts.live_charts(history, self.show.value)
        columns = 1 if self.one_column.value else 2
        late = time.monotonic() >= self._first + PATIENCE_SECONDS
        if self.plot is not None:
            new = echarts.option(made, columns=columns, logarithmic=self.logarithmic.value)
            self.plot.option = echarts.kept(new, self.plot.option)
            self.plot.style = _size(len(made), columns)
        if not self._drawn and (late or self.plot is None):
            self.image.value = _img(charts.png(history, **self._how()), charts.newest(made))
            self._arrange()
        self.told.value = (
            f'<div class="wb-charts-told" style="{pages.MUTED};font-size:12px;line-height:1.4">'
            f"{escape(charts.newest(made))}</div>"
        )

    def _arrange(self) -> None:
        """Shows ECharts once the page has drawn it, else the image once there is one."""
        image = not self._drawn and bool(self.image.value)
        layout = self.plot_box.layout
        layout.height, layout.overflow = ("auto", "auto hidden") if self._drawn else ("0", "hidden")
        self.image.layout.display = "" if image else "none"
        for part in (self._row, self.told):
            part.layout.display = "" if image or self._drawn else "none"

    def _call_in(self, seconds: float) -> None:
        """Draws after so long, if a loop runs; else the next `follow` does."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if self._later is None or self._later.when() <= loop.time():
            self._later = loop.call_later(max(0.0, seconds), self._draw_late)

    def _fingerprint(self) -> tuple[Any, ...]:
        """Changes when something to be drawn does."""
        history = self._history
        if history is None:
            return ()
        return (
            id(history), history.over, history.step, len(history.steps), len(history.evals), len(history.memory),
            len(history.samples), len(history.checkpoints), len(history.commands), len(history.phases),
            *self._how().items(),
        )  # fmt: skip


def _size(count: int, columns: int) -> dict[str, str]:
    return {
        "width": "100%",
        "min-width": f"{echarts.LEAST_WIDTH[columns]}px",
        "height": f"{echarts.height(count, columns)}px",
    }


def _img(png: bytes, words: str) -> str:
    source = f"data:image/png;base64,{b64encode(png).decode()}"
    return f'<img style="width:100%;max-width:1056px" alt="{escape(words)}" src="{source}">'


def _echarts(hear: Callable[..., Any]) -> widgets.DOMWidget | None:
    """The widget that Apache ECharts draws, None where the package does not load."""
    try:
        with warnings.catch_warnings():  # it declares traits as traitlets did before 4.1
            warnings.simplefilter("ignore", DeprecationWarning)
            from ipecharts import EChartsRawWidget
    except Exception:  # not installed, or not made for this Jupyter: then there is the image
        return None
    made = EChartsRawWidget(option={}, style=_size(4, 2))
    made.on_msg(hear)
    return made
