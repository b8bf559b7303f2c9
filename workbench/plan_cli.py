"""`workbench plan …`: whether a recipe fits on a card, before anything is loaded; and the tables of cards and models behind it.

Exit codes: 0 it fits, or there is no card to compare with; 3 it is not sure to fit (tight, or it does not); 2 a recipe,
model or card that cannot be used. So `workbench plan R && workbench train R` trains only what fits. Knows no formulas.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import terminal
from .overrides import changed
from .problems import Problem, RecipeError, WorkbenchError
from .recipe import Recipe

if TYPE_CHECKING:
    from .memory.plan import Plan
    from .memory.question import Question

say = partial(print, flush=True)
GIB = 2**30
OUTPUTS = Path("outputs")
NOT_SURE = 3  # the exit code of what is tight or does not fit
#: The README's table: models that many people tune, from 1B to 70B, and cards that many people have.
MODELS = (
    "meta-llama/Llama-3.2-1B", "Qwen/Qwen3-1.7B", "meta-llama/Llama-3.2-3B", "Qwen/Qwen3-4B",
    "mistralai/Mistral-7B-v0.3", "meta-llama/Llama-3.1-8B", "Qwen/Qwen3-8B", "google/gemma-2-9b",
    "mistralai/Mistral-Nemo-Base-2407", "Qwen/Qwen3-14B", "mistralai/Mistral-Small-24B-Base-2501",
    "Qwen/Qwen3-32B", "meta-llama/Llama-3.3-70B-Instruct", "Qwen/Qwen2.5-72B",
)  # fmt: skip
CARDS = ("T4", "RTX4070", "RTX4090", "A100-40GB", "H100-SXM")
#: Runs that Unsloth's notebooks published from a T4, and by how much of the peak such estimates are off: on average, at
#: worst. tests/memory_anchors.md tells of them; a test computes the figures anew.
PUBLISHED, MEAN_ERROR, WORST_ERROR = 16, 0.05, 0.15
MARKS = {"fits": "fits", "tight": "tight", "does not fit": "no"}


def plan(args: argparse.Namespace) -> int:
    """What a recipe needs of a card: part by part, whether it fits, and what to turn if it does not."""
    from .memory import planning

    recipe = _recipe(args)
    where = {"card": args.card, "vram": args.vram}
    found = planning.plan(recipe, **where, rows=args.rows, outputs=args.outputs)
    if args.json:
        say(terminal.in_json(found.as_dict(), ensure_ascii=False, indent=2))
    else:
        say(terminal.printable(str(found)))
        say(_next(found, args), end="")
    return NOT_SURE if found.fits is False else 0


def list_cards(args: argparse.Namespace) -> int:
    """The cards that are known by name, from small to large memory."""
    from .memory import gpus

    cards = [gpus.find(name) for name in gpus.names()]
    if args.json:
        say(terminal.in_json([card._asdict() for card in cards], ensure_ascii=False, indent=2))
        return 0
    for card in cards:
        figures = f"{card.tflops:6.0f} TFLOP/s  {card.bandwidth / 1e9:6,.0f} GB/s"
        say(f"{card.name:16} {card.memory / GIB:6.1f} GiB  {figures}  {card.label}")
    say("Any other card is given by its memory: --vram 16GiB.")
    return 0


def list_models(args: argparse.Namespace) -> int:
    """The models whose shapes are known without a network."""
    from .memory import known

    found = [known.find(name) for name in known.names()]
    if args.json:
        rows = [
            {
                "model": shapes.name,
                "parameters": shapes.parameters,
                "context_length": shapes.context_length,
            }
            for shapes in found
        ]
        say(terminal.in_json(rows, ensure_ascii=False, indent=2))
        return 0
    for shapes in found:
        say(f"{shapes.name:42} {shapes.parameters / 1e9:7.2f} billion parameters")
    say("Trained variants and Unsloth's copies of them are known too; others are read from a folder or the hub.")  # fmt: skip
    return 0


def table(args: argparse.Namespace) -> int:
    """Models against cards with the default recipe, as Markdown: the README's table."""
    asked = [(model, card, _asked(model, card)) for model in MODELS for card in CARDS]
    if args.json:
        rows = [
            {"model": model, "card": card, **question.bounds._asdict(), "verdict": question.verdict}
            for model, card, question in asked
        ]
        say(terminal.in_json(rows, indent=2))
        return 0
    say(markdown([(model, question) for model, _, question in asked]))
    return 0


def markdown(asked: list[tuple[str, "Question"]]) -> str:
    """The table of questions, a row for each model, and below it what its figures are."""
    rows: dict[str, list[Question]] = {}
    for model, question in asked:
        rows.setdefault(model, []).append(question)
    places = [question.place for question in next(iter(rows.values()))]
    heads = [
        f"{name} ({place.total / GIB:.1f} GiB)" for name, place in zip(CARDS, places, strict=True)
    ]
    lines = [f"| Model | {' | '.join(heads)} |", f"|---|{'--:|' * len(heads)}"]
    for model, cells in rows.items():
        told = [f"{one.bounds.expected / GIB:.1f} {MARKS[one.verdict]}" for one in cells]
        lines.append(f"| {model.rpartition('/')[2]} | {' | '.join(told)} |")
    return "\n".join([*lines, "", _legend(asked[0][1].recipe)])


def _legend(recipe: Recipe) -> str:
    """What the figures are, and how far off such figures were."""
    training, lora, length = recipe.training, recipe.lora, recipe.model.max_length
    return (
        f"GiB expected at the fullest moment of the default recipe under Unsloth: 4-bit weights, rank {lora.rank} on all "
        f"linear layers, {training.batch_size} rows of {length:,} tokens at once, 8-bit AdamW; Unsloth's loss takes up to 4 GiB more where that is free. *fits*: with a margin; "
        "*tight*: without one; *no*: not even so. Computed, not measured: such estimates were off by "
        f"{100 * MEAN_ERROR:.0f} % on average and {100 * WORST_ERROR:.0f} % at worst for {PUBLISHED} peaks that Unsloth's notebooks "
        "published from a T4 (two Gemmas of 2024 apart), to which some constants were fitted."
    )


def _asked(model: str, card: str) -> "Question":
    """The default recipe with this model on this card, as on a machine that never measured anything."""
    from .memory import gpus, known, place
    from .memory.question import Question

    recipe = Recipe(model={"name": model})
    return Question(recipe, known.find(model), "unsloth", place.there(gpus.find(card)))


def _recipe(args: argparse.Namespace) -> Recipe:
    """The recipe that is meant: a file's, or the default one with a model. Raises RecipeError with all problems."""
    from .memory import planning

    return changed(planning.named(args.what), args.set)


def _next(found: "Plan", args: argparse.Namespace) -> str:
    """What to do where it is not sure to fit: the command that plans with the first advice that makes it fit."""
    if found.fits is not False:
        return ""
    advice = next((one for one in found.advice if one.fits), None)
    if advice is None and found.verdict == "tight":
        return "\nIt fits without a margin only, and no setting gives it one: try it, or take a larger card.\n"
    if advice is None:
        return "\nNo setting makes it fit there: take a larger card or a smaller model.\n"
    given = {"--card": args.card, "--vram": args.vram}
    given |= {"--outputs": None if args.outputs == OUTPUTS else str(args.outputs)}
    words = ["workbench", "plan", args.what]
    words += [word for name, value in given.items() if value for word in (name, value)]
    kept = [one for one in args.set if one.partition("=")[0] not in advice.settings]
    words += [word for setting in kept for word in ("--set", setting)]
    for name, value in advice.settings.items():
        words += ["--set", f"{name}={json.dumps(value)}"]
    return f"\nWith that it fits: {shlex.join(words)}\n"


def _told(args: argparse.Namespace) -> int:
    """Does what was asked; what is wrong goes to standard error, or as JSON too where that was asked for."""
    try:
        if args.what is None:
            _refuse_idle(args)
            return args.show(args)
        return plan(args)
    except WorkbenchError as error:
        if args.json:
            say(terminal.in_json({"problems": [p._asdict() for p in error.problems]}, indent=2))
        say(terminal.printable(str(error)), file=sys.stderr)
        return 2


def _refuse_idle(args: argparse.Namespace) -> None:
    """Settings beside a list would do nothing. Raises RecipeError."""
    given = {"--card": args.card, "--vram": args.vram, "--set": args.set, "--rows": args.rows}
    if idle := [name for name, value in given.items() if value]:
        fact = f"{' and '.join(idle)} {'does' if len(idle) == 1 else 'do'} nothing without a recipe or a model."
        raise RecipeError([Problem("", fact, "Name one: workbench plan RECIPE.yaml.")])


def add_to(commands: Any) -> None:
    """Adds `plan` to the commands of `workbench`."""
    parser = commands.add_parser(
        "plan", help=plan.__doc__, description=plan.__doc__, allow_abbrev=False
    )
    parser.set_defaults(do=_told, show=None)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "what", nargs="?", metavar="RECIPE|MODEL",
        help="a YAML file; or a model (a name or a folder), for the default recipe with it",
    )  # fmt: skip

    def lists(option: str, show: Callable[[argparse.Namespace], int]) -> None:
        what.add_argument(option, dest="show", action="store_const", const=show, help=show.__doc__)

    lists("--cards", list_cards)
    lists("--models", list_models)
    lists("--table", table)
    parser.add_argument("--card", metavar="T4", help="a card by name; without, this machine's")
    parser.add_argument("--vram", metavar="16GiB", help="any card with so much memory")
    parser.add_argument(
        "--set", action="append", default=[], metavar="lora.rank=8", help="change a setting"
    )
    parser.add_argument(
        "--rows", action="store_true", help="read the rows too, for the longest one and the steps"
    )
    parser.add_argument(
        "--outputs",
        type=Path,
        default=Path("outputs"),
        help="folder of runs, which measured memory",
    )
    parser.add_argument("--json", action="store_true", help="for a program to read")
