"""`python -m workbench.worker FOLDER [--mode train|resume|reopen|probe]`, or `--spare BACKEND`: import first, get the folder later.

A spare reads one line from its standard input, {"folder": …, "mode": …}, and ends when its input does.
"""

import argparse
import contextlib
import json
import os
import shutil
import sys
from pathlib import Path

from . import backends, device
from .session import Session


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m workbench.worker", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--mode", choices=("train", "resume", "reopen", "probe"), default="train")
    parser.add_argument("--spare", choices=("peft", "unsloth"))
    parser.add_argument(
        "--staging",
        type=Path,
        help="where a spare's backend keeps files until it has a run's folder",
    )
    args = parser.parse_args(arguments)
    folder, mode = args.folder, args.mode
    if args.spare:
        folder, mode = _wait_for_work(args.spare, args.staging)
    session = Session(folder)
    try:
        code = session.work(mode)
    finally:
        if args.staging:  # an empty folder by now, or one with a link into the run's
            shutil.rmtree(args.staging, ignore_errors=True)
    if session.again:
        _replace_this_process(folder, session.card)
    return code


def _replace_this_process(folder: Path, card: int | None) -> None:
    """Resumes the run in a fresh process with the same id, which has all memory back; it never returns.

    The environment is the one that this process was started with: the backend may have changed it since. Of the open
    files only the log goes on, and the lock on the card, so that no other run takes it meanwhile.
    """
    started = Path("/proc/self/environ").read_bytes().decode(errors="surrogateescape")
    environment = dict(one.split("=", 1) for one in started.split("\0") if "=" in one)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2:
            with contextlib.suppress(OSError):  # the one by which the folder was listed
                os.set_inheritable(descriptor, descriptor == card)
    if card is not None:
        environment[device.CARD_HELD] = str(card)
    device.unlimited()
    sys.stdout.flush()
    sys.stderr.flush()
    again = [sys.executable, "-m", "workbench.worker", str(folder), "--mode", "resume"]
    os.execve(sys.executable, again, environment)


def _wait_for_work(backend: str, staging: Path) -> tuple[Path, str]:
    module = backends.get(backend)
    module.prepare(staging)
    module.import_libraries()
    line = sys.stdin.readline()
    if not line:  # the kernel that kept the spare is gone
        sys.exit(0)
    work = json.loads(line)
    folder = Path(work["folder"])
    log = os.open(folder / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    return folder, work["mode"]


if __name__ == "__main__":
    sys.exit(main())
