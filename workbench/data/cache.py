"""Where what was read and tokenized is kept for the next time: files that are whole or not there.

Knows keys and files, nothing of what is in them. WORKBENCH_CACHE names the folder; otherwise it is in the user's cache.
"""

import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

DAYS = 30  # an entry that nobody asked for so long goes when another is written


def folder() -> Path:
    """The folder of the cache; it need not exist yet."""
    if told := os.environ.get("WORKBENCH_CACHE"):
        return Path(told)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "qlora-workbench"


def key(*parts: object) -> str:
    """A name for what depends on nothing but these parts."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def stamp(path: Path) -> tuple[str, int, int]:
    """What tells a file from a changed one: its whole path, bytes and time of change in nanoseconds."""
    status = path.stat()
    return str(path.resolve()), status.st_size, status.st_mtime_ns


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """The entry of this name; if it is not there, `make` writes it to the path that it is given.

    Whatever `make` raises is passed on, and nothing of its file stays.
    """
    place = folder() / name
    if place.exists():
        with contextlib.suppress(OSError):  # a cache that may only be read is a cache too
            os.utime(place)
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    _forget_old(place.parent)
    with beside(place) as new:
        make(new)
    return place


@contextlib.contextmanager
def beside(place: Path) -> Iterator[Path]:
    """A path to write to, renamed to `place` at the end; removed when the block raises."""
    new = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        yield new
        new.replace(place)
    finally:
        new.unlink(missing_ok=True)


def _forget_old(there: Path) -> None:
    """Removes entries that were not used for DAYS, and what a killed process left half written."""
    now = time.time()
    for path in there.iterdir():
        with contextlib.suppress(OSError):  # another process may remove it at the same time
            unused = now - path.stat().st_mtime
            if unused > DAYS * 86_400 or (path.name.startswith(".") and unused > 86_400):
                path.unlink()
