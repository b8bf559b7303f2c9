"""What a failure means and what to do about it, in words. Knows exceptions; writes nothing."""

import errno

from ..problems import Problem, WorkbenchError

FULL = 2**20  # bytes free, below which a failure is put down to the disk


def explain(error: BaseException, *, phase: str, disk_free: int) -> Problem:
    """The fact and the next step for an exception that ended the run while it was in `phase`.

    `disk_free` is in bytes: torch's own writer does not say that the disk is full ("unexpected pos 542464 vs 542356").
    """
    if isinstance(error, WorkbenchError):
        fact = " ".join(problem.fact for problem in error.problems)
        return Problem("", fact, " ".join(problem.cure for problem in error.problems))
    no_room = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if no_room or disk_free < FULL or "No space left on device" in str(error):
        fact = f"The disk is full: {disk_free / 2**20:.1f} MiB are free, and a file of the run could not be written."
        cure = "Free some space, then resume the run: it goes on from its last checkpoint."
        return Problem("", fact, cure)
    if type(error).__name__ == "OutOfMemoryError" or "out of memory" in str(error).lower():
        fact = f"The memory ran out while {phase}: {_first_line(error)}"
        cure = "Halve training.batch_size and double training.accumulation, or shorten model.max_length; then resume."
        return Problem("", fact, cure)
    fact = f"{type(error).__name__} while {phase}: {_first_line(error)}"
    cure = "worker.log in the run's folder has all of it"
    going_on = (
        "; resume() goes on from the last checkpoint" if phase in ("training", "paused") else ""
    )
    return Problem("", fact, f"{cure}{going_on}.")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else "no message")[:300].rstrip(".") + "."
