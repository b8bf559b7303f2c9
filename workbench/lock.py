"""One run to a card: the file that a worker holds locked while it uses a GPU.

The system frees the lock when the process ends, however it ends.
"""

import fcntl
import os
import tempfile
from pathlib import Path

from .problems import Problem, RunError


def card_lock(index: int = 0) -> Path:
    """The file that a worker holds locked while it uses a card: one for each user of the machine."""
    return Path(tempfile.gettempdir()) / f"workbench-{os.getuid()}-card-{index}.lock"


def hold(lock: Path, folder: Path) -> int | None:
    """Locks the file for the run and returns a file descriptor that holds it until this process ends; None if it is held."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(folder).encode())
    return descriptor


def check_free(lock: Path) -> None:
    """Raises RunError, naming the run, when a worker holds the lock."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        folder = Path(lock.read_text())
        fact = f"The GPU is busy with run {folder.name!r}."
        cure = f"Close it with Run.open({folder.name!r}, outputs={str(folder.parent)!r}).close(), or wait for its end."
        raise RunError([Problem("", fact, cure)]) from None
    finally:
        os.close(descriptor)
