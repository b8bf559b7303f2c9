"""`python -m workbench.worker FOLDER [--mode train|resume|reopen]`, or `--spare BACKEND`: import first, get the folder later.

A spare reads one line from its standard input, {"folder": …, "mode": …}, and ends when its input does.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from . import backends
from .session import Session


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m workbench.worker", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--mode", choices=("train", "resume", "reopen"), default="train")
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
    try:
        return Session(folder).work(mode)
    finally:
        if args.staging:  # an empty folder by now, or one with a link into the run's
            shutil.rmtree(args.staging, ignore_errors=True)


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
