"""The process behind an inspection: what it tells, and what is said when it ends otherwise than it should."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from workbench.inspection.process import Inside, gathered
from workbench.problems import RunError


def test_what_cannot_be_done_comes_as_the_problem_that_it_is(tmp_path):
    with pytest.raises(RunError, match="There is no|does not exist") as caught:
        asyncio.run(gathered("quantization", {"model": str(tmp_path / "nowhere")}))
    (problem,) = caught.value.problems
    assert problem.fact and problem.cure


def test_a_fault_in_the_inspection_is_told_with_its_kind():
    with pytest.raises(RunError, match="The inspection failed: TypeError: .*no_such_thing"):
        asyncio.run(gathered("quantization", {"no_such_thing": 1}))


def test_a_process_that_ends_without_a_word_is_explained():
    async def killed() -> None:
        async with Inside("quantization", {"model": "."}) as inside:
            inside._process.kill()
            await inside.next()

    with pytest.raises(RunError, match="ended without a word .exit code -9.*want of memory"):
        asyncio.run(killed())


def test_whoever_stops_reading_ends_it():
    async def cut_short() -> int:
        async with Inside("mix", {"adapters": {}}) as inside:
            return inside._process.pid

    assert not psutil.pid_exists(asyncio.run(cut_short()))


def test_a_task_that_is_cancelled_ends_it():
    async def cancelled() -> psutil.Process:
        found: list[psutil.Process] = []

        async def reading() -> None:
            async with Inside("quantization", {"model": "."}) as inside:
                found.append(psutil.Process(inside._process.pid))
                await asyncio.sleep(600)

        task = asyncio.create_task(reading())
        while not found:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return found[0]

    assert not asyncio.run(cancelled()).is_running()


def test_it_ends_with_the_one_who_asked():
    """A kernel that is killed cannot end its inspections; they notice."""
    code = (
        "import asyncio, sys\n"
        "from workbench.inspection.process import Inside\n"
        "async def ask():\n"
        "    async with Inside('mix', {'adapters': {}}) as inside:\n"
        "        print(inside._process.pid, flush=True)\n"
        "        await asyncio.sleep(600)\n"
        "asyncio.run(ask())\n"
    )
    asker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    inside = psutil.Process(int(asker.stdout.readline()))
    os.kill(asker.pid, signal.SIGKILL)
    asker.wait()
    until = time.monotonic() + 60
    while inside.is_running() and inside.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, "it goes on for nobody"
        time.sleep(0.1)
