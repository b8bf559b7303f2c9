"""Processes that take turns: all but one are held, so that what is compared runs at the same time of day on the same machine.

Knows processes and lists of step times. Knows nothing of what is compared.
"""

import contextlib
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

Times = Callable[[], dict[int, float]]  # step -> when it was done, so far
PATIENCE = 900  # seconds for one block


def hold(*pids: int) -> None:
    """Halts processes where they are, with everything that they started in their group."""
    for pid in pids:
        os.killpg(pid, signal.SIGSTOP)


@contextlib.contextmanager
def turn(*pids: int) -> Iterator[None]:
    """Lets processes run meanwhile."""
    for pid in pids:
        os.killpg(pid, signal.SIGCONT)
    try:
        yield
    finally:
        hold(*pids)


def wait(reached: Callable[[], bool], what: str) -> None:
    """Waits for something. Raises TimeoutError after a quarter of an hour."""
    until = time.monotonic() + PATIENCE
    while not reached():
        if time.monotonic() > until:
            raise TimeoutError(f"waited {PATIENCE} s for {what}")
        time.sleep(0.02)


def block(times: Times, target: int, *pids: int) -> dict[int, float]:
    """Lets processes run until step `target` is done; returns the seconds of each step that lay wholly in this turn."""
    began = time.time()
    with turn(*pids):
        wait(lambda: max(times(), default=0) >= target, f"step {target}")
    done = times()
    return {s: t - done[s - 1] for s, t in done.items() if done.get(s - 1, 0) > began}


def ratio(seconds: dict[int, float], yardstick: dict[int, float]) -> float:
    """Median ratio over the steps that both did: the same step has the same rows."""
    both = sorted(seconds.keys() & yardstick.keys())
    return statistics.median(seconds[step] / yardstick[step] for step in both)


def spread(values: Sequence[float], digits: int = 4) -> dict[str, float]:
    """The median with the lowest and highest value and their number."""
    figures = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return {name: round(value, digits) for name, value in figures.items()} | {"n": len(values)}
