"""Measures a redraw of the live charts of a run with 10,000 steps, in a real JupyterLab and Chromium.

Called by bench.py; `python bench/live_charts.py` prints the figures. Times are processor times of the kernel's and the page's
main threads, so that a busy machine tells nearly the same. Needs what `make test` sets up; without it there are no figures.
"""

import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from turns import spread

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "browser")]
STEPS, FIRST, EACH = (
    10_000,
    8_500,
    25,
)  # of the run, that were there before, and between two redraws
ROUNDS, REDRAWS = 5, 8  # in which the page works and idles in turns; a redraw a second in each
CELLS = (
    f"""
import asyncio, json, pathlib, sys, tempfile, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from made_history import go_on, long
from workbench.panels.monitor.live_charts import LiveCharts
history = long(pathlib.Path(tempfile.mkdtemp()), {FIRST}, {STEPS})
panel, taken = LiveCharts(), []
panel.follow(history)
panel""",
    f"""
async def redraw():
    for _ in range({REDRAWS}):
        go_on(history, history.step + {EACH}, {STEPS})
        began, worked = time.monotonic(), time.thread_time()
        panel.follow(history, now=True)
        taken.append(1000 * (time.thread_time() - worked))
        await asyncio.sleep(max(0, 1 - (time.monotonic() - began)))
await redraw()""",
)


def measure() -> dict[str, Any]:
    """Milliseconds of the kernel and of the page, and bytes to the page, for one redraw of all five charts; an idle page's time is taken off."""
    from lab import CHROMIUM, Lab

    if importlib.util.find_spec("playwright") is None:
        print("Without playwright (make test installs it) the live charts are not measured.")
        return {}
    if not Path(CHROMIUM).exists():
        print(f"There is no Chromium at {CHROMIUM}: the live charts are not measured.")
        return {}
    with tempfile.TemporaryDirectory(prefix="workbench-charts-") as name:
        _write_notebook(Path(name) / "charts.ipynb")
        with Lab(Path(name)) as lab, lab.page() as page:
            received = _frames(page)
            clock = page.context.new_cdp_session(page)
            clock.send("Performance.enable", {"timeDomain": "threadTicks"})
            lab.open(page, "charts.ipynb")
            lab.run_cell(page, 0)
            page.wait_for_selector(".wb-charts canvas")
            page.wait_for_timeout(3000)
            browser, sizes = [], []
            for _ in range(ROUNDS):
                with _busy(clock) as idle:
                    page.wait_for_timeout(1000 * REDRAWS)
                before = len(received)
                with _busy(clock) as drawing:
                    lab.run_cell(page, 1)
                browser.append(1000 * (drawing[0] - idle[0] * drawing[1] / idle[1]) / REDRAWS)
                sizes.append(sum(received[before:]) / REDRAWS)
            kernel = json.loads(lab.ask_kernel(page, "json.dumps(taken)").strip("'"))
    return {
        "chart_kernel_ms": spread(kernel, 1),
        "chart_browser_ms": spread(browser, 1),
        "chart_bytes": spread(sizes, 0),
    }


def _write_notebook(file: Path) -> None:
    import nbformat

    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    notebook.cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in CELLS]
    nbformat.write(notebook, file)


def _frames(page: Any) -> list[int]:
    """A list that grows by the size of each message that the page receives."""
    received: list[int] = []

    def listen(socket: Any) -> None:
        socket.on("framereceived", lambda frame: received.append(len(frame)))

    page.on("websocket", listen)
    return received


@contextmanager
def _busy(clock: Any) -> Iterator[list[float]]:
    """Fills a list with the seconds that the page's main thread worked meanwhile, and those that passed."""

    def worked() -> float:
        metrics = clock.send("Performance.getMetrics")["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")

    found: list[float] = []
    before, began = worked(), time.monotonic()
    yield found
    found += [worked() - before, time.monotonic() - began]


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
