"""How a panel goes on by itself: a task on the kernel's own loop, never a thread. Knows nothing of what is shown."""

import asyncio
from collections.abc import Coroutine
from typing import Any


def task_of_the_kernel(work: Coroutine[Any, Any, Any]) -> asyncio.Task | None:
    """Runs `work` on the running loop. Where there is none (a script, a test) nothing runs, and None is returned."""
    try:
        return asyncio.get_running_loop().create_task(work)
    except RuntimeError:
        work.close()
        return None
