"""What a failure means and what to do about it, in words. Knows exceptions; writes nothing."""

import errno

from ..problems import Problem, WorkbenchError


def explain(error: BaseException, *, phase: str) -> Problem:
    """The fact and the next step for an exception that ended the run while it was in `phase`."""
    if isinstance(error, WorkbenchError):
        fact = " ".join(problem.fact for problem in error.problems)
        return Problem("", fact, " ".join(problem.cure for problem in error.problems))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        fact = f"The disk is full: {error.filename or 'a file of the run'} could not be written."
        return Problem(
            "", fact, "Free some space, then resume the run: it goes on from its last checkpoint."
        )
    if type(error).__name__ == "OutOfMemoryError" or "out of memory" in str(error).lower():
        fact = f"The memory ran out while {phase}: {_first_line(error)}"
        cure = "Halve training.batch_size and double training.accumulation, or shorten model.max_length; then resume."
        return Problem("", fact, cure)
    if isinstance(error, FloatingPointError):
        return Problem(
            "", str(error), "Lower training.learning_rate and start again from the last checkpoint."
        )
    # safetensors and torch report a full disk in an exception of their own, with the system's words in it
    if "No space left on device" in str(error):
        fact = f"The disk is full: {_first_line(error)}"
        return Problem(
            "", fact, "Free some space, then resume the run: it goes on from its last checkpoint."
        )
    fact = f"{type(error).__name__} while {phase}: {_first_line(error)}"
    return Problem(
        "",
        fact,
        "worker.log in the run's folder has all of it; resume goes on from the last checkpoint.",
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else "no message")[:300].rstrip(".") + "."
