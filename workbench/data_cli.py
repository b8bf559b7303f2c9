"""`workbench data …`: what is in a file of rows, before anything is trained. Standard output has what was asked for, standard error the rest.

Exit codes: 0 done, 2 something stands in a run's way, or a file or command line that cannot be used. Knows no runs.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from . import looking, terminal
from .data import pieces
from .data.kinds import TEXTS
from .data.rows import as_record
from .overrides import changed
from .problems import WorkbenchError
from .recipe import Recipe

say = partial(print, flush=True)
Tell = Callable[[int, int | None], None]
STYLES = {
    "trained": "bold green",
    "truncated": "strike yellow",
    "lost": "bold strike yellow",
    "padding": "dim",
    "hidden": "italic dim",
}
WITH_TOKENS = "Give --model NAME or --recipe FILE to see tokens, and what is learned of them."


def check(args: argparse.Namespace) -> int:
    """What rows are like: figures, lengths, and what is wrong with them, each with its cure."""
    with _bar("looking at the rows", args) as tell:
        report = looking.report_on(_recipe(args), tokens=_has_model(args), progress=tell)
    if args.json:
        say(terminal.in_json(report.to_dict(), ensure_ascii=False, indent=2))
    else:
        say(terminal.printable(str(report)))
        if not _has_model(args):
            say(WITH_TOKENS, file=sys.stderr)
    return 2 if any(found.level == "stop" for found in report.findings) else 0


def show(args: argparse.Namespace) -> int:
    """One row as the model meets it: what of it is trained, what is context, and what is cut off."""
    recipe = _recipe(args)
    with _bar("reading the rows", args) as tell:
        rows = looking.rows_of(recipe, progress=tell)
    row = rows[rows.position(args.row, args.file)]
    if not _has_model(args):
        if args.json:
            said = {"row": row.number, "file": row.file} | as_record(row)
            say(terminal.in_json(said, ensure_ascii=False))
        else:
            _write(row.name, pieces.turns(row))
            say(WITH_TOKENS, file=sys.stderr)
        return 0
    shown = looking.view_row(recipe, row)
    if args.json:
        say(terminal.in_json(pieces.to_dict(shown), ensure_ascii=False))
    else:
        _write(f"{shown.name}: {shown.counts}", pieces.lines(shown))
    return 0


def clean_up(args: argparse.Namespace) -> int:
    """Writes the rows anew with cures applied, and says what each of them dropped or changed."""
    from .data.clean import clean

    with _bar("looking at the rows", args) as tell:
        report = looking.report_on(_recipe(args), tokens=_has_model(args), progress=tell)
    cleaned = clean(report, args.cure or "suggested", to=args.to, replace=args.replace)
    if args.json:
        applied = [cure._asdict() for cure in cleaned.applied]
        said = {"path": str(cleaned.path), "before": cleaned.before, "after": cleaned.after}
        say(terminal.in_json({**said, "applied": applied}, ensure_ascii=False, indent=2))
    else:
        say(terminal.printable(str(cleaned)))
        say(f"Next: workbench data check {cleaned.path}", file=sys.stderr)
    return 0


def _write(title: str, lines: Iterable[tuple[str, str]]) -> None:
    """Runs of text as (kind, text) with their kind before them, and in colour where the terminal has it."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(title))
    for kind, text in lines:
        for place, line in enumerate(text.split("\n")):
            margin = Text(f"{'' if place else kind:>9} | ")
            console.print(margin.append(line, STYLES.get(kind, "")))


def _recipe(args: argparse.Namespace) -> Recipe:
    """The recipe that the arguments describe. Raises RecipeError with all problems."""
    recipe = Recipe.load(args.recipe) if args.recipe else Recipe()
    given = {"data": {"train": args.rows, "heldout": args.heldout}}
    given["model"] = {"name": args.model, "max_length": args.max_length}
    for section, settings in given.items():
        said = {name: value for name, value in settings.items() if value is not None}
        recipe = recipe.replace(**{section: said})
    return changed(recipe, args.set)


def _has_model(args: argparse.Namespace) -> bool:
    return bool(args.model or args.recipe)


@contextmanager
def _bar(says: str, args: argparse.Namespace) -> Iterator[Tell]:
    """A bar on standard error while something long is done, where that is a terminal."""
    console = Console(stderr=True)
    if args.json or not console.is_terminal:
        yield lambda done, of: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(says, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _told(do: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Does it; what is wrong goes to standard error, or as JSON where that was asked for."""
    try:
        return do(args)
    except WorkbenchError as error:
        if args.json:
            problems = [
                {"kind": "unusable", "count": 1, "rows": [], "fact": p.fact, "cure": p.cure}
                for p in error.problems
            ]
            say(terminal.in_json({"rows": 0, "shape": None, "problems": problems}, indent=2))
        say(terminal.printable(str(error)), file=sys.stderr)
        if hasattr(args, "set") and "et data." in str(error):  # the cure is a setting
            say("Settings are given as --set data.encoding=cp1252.", file=sys.stderr)
        return 2


def add_to(commands: Any) -> None:
    """Adds `data` and its commands to those of `workbench`."""
    about = "Looks at rows before they are trained: check, show, clean."
    group = commands.add_parser("data", help=about, description=about)
    inside = group.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, do: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        parser = inside.add_parser(name, help=do.__doc__, description=do.__doc__)
        parser.set_defaults(do=partial(_told, do), outputs=Path("outputs"))
        parser.add_argument(
            "rows", nargs="?", help="a file, a folder, or owner/name on the hub; or give --recipe"
        )
        parser.add_argument("--recipe", type=Path, help="a YAML file that says how they are read")
        parser.add_argument("--model", help="a folder, or owner/name on the hub: to see tokens")
        parser.add_argument("--max-length", type=int, help="tokens at which rows are cut")
        parser.add_argument("--heldout", help="rows that are not trained on")
        parser.add_argument(
            "--set", action="append", default=[], metavar="data.shape=alpaca", help="a setting"
        )
        parser.add_argument("--json", action="store_true", help="for a program to read")
        return parser

    command("check", check)
    showing = command("show", show)
    showing.add_argument("--row", type=int, default=1, help="its number, from 1")
    showing.add_argument("--file", default="", help="in which file, where there are several")
    cleaning = command("clean", clean_up)
    cleaning.add_argument("--to", type=Path, required=True, help="a new file, .jsonl")
    cleaning.add_argument("--replace", action="store_true", help="write over a file that is there")
    cures = sorted({remedy for *_, remedy in TEXTS.values()} - {""} | {"drop_faulty"})
    cleaning.add_argument(
        "--cure", action="append", choices=cures, metavar="NAME",
        help=f"{', '.join(cures)}; without any, those of all findings that are more than hints",
    )  # fmt: skip
