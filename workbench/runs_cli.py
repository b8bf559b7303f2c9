"""`workbench runs`, `compare`, `rename`, `trash` and `restore`: what was trained, side by side, and tidied up.

Reads digests, so that a hundred runs are listed at once. Knows arguments and columns; decides nothing.
"""

import argparse
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from . import terminal
from .digest import Digest, digest, found, sparks
from .listing import NOTHING, cells, lines, nothing_in
from .problems import WorkbenchError
from .run import Run
from .tidying import size_of

say = partial(print, flush=True)


def list_runs(args: argparse.Namespace) -> int:
    """All runs, newest first."""
    runs = found(args.outputs)
    digests = [digest(run) for run in runs]
    if args.json:
        told = [_row(run, each) for run, each in zip(runs, digests, strict=True)]
        say(terminal.in_json(told, indent=2))
        return 0
    if not runs:
        say(nothing_in(args.outputs))
        return 0
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    rows = [cells(run, each) for run, each in zip(runs, digests, strict=True)]
    if not _knows_blocks():
        rows = [row | {"curve": NOTHING} for row in rows]
    for text in lines(rows, width):
        say(terminal.printable(text))
    for run, told in zip(runs, digests, strict=True):
        if told.problem:
            say(terminal.printable(f"{run.name}: {told.problem}"), file=sys.stderr)
    return 0


def compare(args: argparse.Namespace) -> int:
    """Runs side by side: the settings that differ, what came of them, and their curves as a picture."""
    from .comparing import compare

    runs = [Run.open(name, args.outputs) for name in args.runs]
    told = compare(runs)
    if args.picture:
        from .charts import picture  # with matplotlib, which takes longer than all the rest

        args.picture.write_bytes(picture(runs, by=args.by).image)
    if args.json:
        say(terminal.in_json(told.as_dict(), ensure_ascii=False, indent=2))
    else:
        say(terminal.printable(str(told)))
        if args.picture:
            say(f"The curves by {args.by} are in {args.picture}.")
    return 0


def rename(args: argparse.Namespace) -> int:
    """Gives a run that has ended another name, which is its folder's too."""
    from .tidying import rename

    run = rename(args.run, args.new, outputs=args.outputs)
    _say_done(args, f"{args.run} is now {run.name}.", run=run.name, folder=str(run.folder))
    return 0


def trash(args: argparse.Namespace) -> int:
    """Moves runs that have ended to the trash, a folder in which nothing is ever deleted."""
    from .tidying import trash

    def move(name: str) -> None:
        place = trash(name, outputs=args.outputs)
        _say_done(args, f"{name} is in {place}.", run=name, folder=str(place))

    return _each(args, move)


def restore(args: argparse.Namespace) -> int:
    """Brings runs back from the trash, by their names; the newest where there are several of one name."""
    from .tidying import restore

    def bring(name: str) -> None:
        run = restore(name, outputs=args.outputs, to=args.to or "")
        _say_done(args, f"{run.name} is back.", run=run.name, folder=str(run.folder))

    return _each(args, bring)


def _row(run: Run, told: Digest) -> dict[str, Any]:
    """A run for a program: nats per token, seconds, bytes; null for what is not known."""
    return {
        "run": run.name,
        "state": told.state,
        "step": told.step,
        "of": told.of,
        "loss": told.loss,
        "heldout_loss": told.heldout_loss,
        "best_heldout_loss": told.best_loss,
        "best_step": told.best_step,
        "exact_match": told.exact_match,
        "seconds": told.seconds,
        "size": size_of(run),
        "model": told.model,
        "folder": str(run.folder),
        "problem": told.problem,
    }


def _each(args: argparse.Namespace, act: Callable[[str], None]) -> int:
    """Does it with each name; what cannot be done is told, and the others are done all the same."""
    failed = 0
    for name in args.runs:
        try:
            act(name)
        except WorkbenchError as error:
            say(terminal.refusal(error, name, args.outputs), file=sys.stderr)
            failed = 1
    return failed


def _say_done(args: argparse.Namespace, text: str, **told: str) -> None:
    say(terminal.in_json(told, ensure_ascii=False) if args.json else terminal.printable(text))


def _knows_blocks() -> bool:
    """Whether what is written to knows the letters of a curve."""
    try:
        sparks([0, 1]).encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def add_to(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the commands; `command` makes a parser from a name and what it does."""
    command("runs", list_runs, run=False)
    comparing = command("compare", compare, run=False)
    comparing.add_argument("runs", nargs="+", metavar="RUN", help="two names of runs or more")
    comparing.add_argument(
        "--by", choices=("steps", "tokens", "seconds"), default="steps", help="what the curves run along"
    )  # fmt: skip
    comparing.add_argument(
        "--picture", type=Path, metavar="FILE.png", help="draw the loss curves over each other"
    )
    command("rename", rename).add_argument("new", metavar="NEW", help="its name from now on")
    command("trash", trash, run=False).add_argument("runs", nargs="+", metavar="RUN")
    back = command("restore", restore, run=False)
    back.add_argument("runs", nargs="+", metavar="RUN")
    back.add_argument("--to", metavar="NAME", help="another name, where the old one is taken")
