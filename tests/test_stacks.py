"""Panels in real kernels, this environment's and one with Colab's versions: they update while the kernel is idle, and leak nothing."""

import json
import queue
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager
from made_history import made, memory, take_step
from stacks import COLAB, NAMES, kernelspecs

from workbench.events import EventLog
from workbench.recipe import Recipe

RERUNS, FEWER = 200, 10  # of a monitor here, and of each panel with Colab's versions
CELLS = (
    "monitor = wb.monitor(run); monitor",
    "panel = wb.launch_panel(run.recipe, outputs=OUTPUTS, warm=False); panel",
    "asking = wb.ask_panel(run); asking",
    "shelf = wb.runs_panel(OUTPUTS); shelf",
    "tokens = wb.token_inspector(run.recipe); tokens",
)
#: How many widgets and tasks a kernel has, in ipywidgets 7 and 8.
COUNTS = """
import asyncio, ipywidgets
live = getattr(ipywidgets.widgets.widget, "_instances", None)
counted = len(ipywidgets.Widget.widgets if live is None else live), len(asyncio.all_tasks())
"""


class Kernel:
    """A kernel and what it says."""

    def __init__(self, name: str) -> None:
        self._manager = KernelManager(kernel_name=name)
        self._manager.start_kernel()
        self._client = self._manager.blocking_client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=120)

    def run(self, code: str) -> list[dict[str, Any]]:
        """Runs a cell; returns the messages until the kernel is idle again. Fails with what the cell raised."""
        asked = self._client.execute(code)
        told = []
        while True:
            message = self._client.get_iopub_msg(timeout=120)
            told.append(message)
            content = message["content"]
            if message["msg_type"] == "error":
                raise AssertionError("\n".join(content["traceback"]))
            mine = message["parent_header"].get("msg_id") == asked
            if mine and content.get("execution_state") == "idle":
                return told

    def value(self, expression: str) -> Any:
        """What an expression is, by way of JSON."""
        told = self.run(f"import json; print(json.dumps({expression}))")
        text = "".join(m["content"]["text"] for m in told if m["msg_type"] == "stream")
        return json.loads(text.strip().splitlines()[-1])

    def hears(self, text: str, seconds: float = 60) -> bool:
        """Whether a widget's new state holds this text before so many seconds are over; nothing is asked of the kernel."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                message = self._client.get_iopub_msg(timeout=1)
            except queue.Empty:
                continue
            if message["msg_type"] == "comm_msg" and text in json.dumps(message["content"]):
                return True
        return False

    def end(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


@pytest.fixture(params=NAMES, scope="module")
def kernel(request, tmp_path_factory) -> Iterator[Kernel]:
    """A kernel of each stack, with the workbench imported and a run to look at in `outputs`."""
    if request.param == "colab" and not COLAB.is_dir():
        pytest.fail(f"There is no {COLAB}: run make test, which fills it from colab_stack.txt.")
    folder = tmp_path_factory.mktemp(request.param)
    kernelspecs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        patch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
        kernel = Kernel(request.param)
    kernel.name, kernel.outputs = request.param, folder / "outputs"
    kernel.run(f"import workbench as wb; OUTPUTS = {str(kernel.outputs)!r}")
    yield kernel
    kernel.end()


@pytest.fixture
def run(kernel, tiny: Recipe) -> Path:
    """The folder of a run that trains, without a worker: its log grows by hand."""
    folder = kernel.outputs / f"run-{time.monotonic_ns()}"
    folder.mkdir(parents=True)
    tiny.save(folder / "recipe.yaml")
    made(folder, steps=5, of=10)
    kernel.run(f"run = wb.Run.open({folder.name!r}, OUTPUTS)")
    return folder


def test_it_has_the_versions_that_it_stands_for(kernel):
    kernel.run("import ipykernel, ipywidgets, IPython")
    found = kernel.value("[ipykernel.__version__, IPython.__version__, ipywidgets.__version__]")
    if kernel.name == "colab":
        assert found == ["6.17.1", "7.34.0", "7.7.1"]
    else:
        assert int(found[0].split(".")[0]) >= 7 and int(found[2].split(".")[0]) >= 8


def test_a_monitor_follows_while_the_kernel_is_idle(kernel, run):
    told = kernel.run("monitor = wb.monitor(run); monitor")
    assert any(m["msg_type"] == "display_data" for m in told)
    log = EventLog(run / "events.jsonl")
    take_step(log, 6, 10, 0.5)
    memory(log, 6)
    assert kernel.hears("step 6 of 10")
    take_step(log, 7, 10, 0.4)
    assert kernel.hears("step 7 of 10")
    kernel.run("monitor.close()")


def test_two_monitors_of_one_run_stay_in_step(kernel, run):
    kernel.run("both = wb.monitor(run), wb.monitor(wb.Run.open(run.name, OUTPUTS))")
    take_step(EventLog(run / "events.jsonl"), 6, 10, 0.5)
    kernel.run("import asyncio; await asyncio.sleep(2)")
    shown = kernel.value("[one._status.value for one in both]")
    assert all("step 6 of 10" in text for text in shown)
    kernel.run("for one in both: one.close()")


@pytest.mark.parametrize(
    ("kernel", "cell", "reruns"),
    [("here", CELLS[0], RERUNS), *(("colab", cell, FEWER) for cell in CELLS)],
    ids=["here", *(cell.split(" ", maxsplit=1)[0] for cell in CELLS)],
    indirect=["kernel"],
)
def test_a_cell_that_is_run_again_and_again_leaves_nothing_behind(kernel, run, cell, reruns):
    counts = []
    for number in range(reruns):
        kernel.run(cell)
        if number in (reruns // 2, reruns - 1):
            kernel.run(f"import asyncio, gc; await asyncio.sleep(0.5); gc.collect()\n{COUNTS}")
            counts.append(kernel.value("counted"))
    (widgets, tasks), (widgets_at_last, tasks_at_last) = counts
    assert widgets_at_last <= widgets
    assert tasks_at_last <= tasks
