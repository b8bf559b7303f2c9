"""`workbench inspect …`: what is inside a model, an adapter or a method, without a notebook.

Exit codes: 0 done; 1 the inspection failed; 2 a model, adapter, recipe or command line that cannot be used, or a model of
which some weights are no numbers; 130 stopped by Ctrl-C. Knows arguments; what is computed is in `inspection/`.
"""

import argparse
import asyncio
import math
import re
import shutil
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from . import terminal
from .problems import Problem, RunError, WorkbenchError

say = partial(print, flush=True)
FAILED = "The inspection "  # how the problems begin that are not the input's
CLEAR = "\r\x1b[K"  # begins the terminal's line anew
LOG_SECONDS = 5  # between two lines of progress in a log
Told = Callable[[str], None] | None
#: How results and problems put it in Python -> on a command line.
PYTHON = {
    r"wb\.truncate_adapter\(…, rank=(\d+)\)": r"workbench inspect truncate … --rank \1",
    r"\brank=(\d+), or energy=": r"--rank \1, or --energy ",
    r"\bbase=": "--base",
    r"\bto=": "--to",
    r"\bseeds=\(1, 2, 3\)": "--seeds 1,2,3",
}


def quantization(args: argparse.Namespace) -> int:
    """What 4 bits do to each linear layer of a model, read piece by piece: the worst layers, and what 16 bit would cost."""
    from .inspection.quantization import inspect_quantization
    from .memory.planning import named

    def asked(told: Told) -> Coroutine[Any, Any, Any]:
        return inspect_quantization(
            named(args.model),
            revision=args.revision,
            quant_type="fp4" if args.fp4 else None,
            double_quant=False if args.no_double_quant else None,
            compare=args.compare,
            told=told,
        )

    return 2 if _shown(args, asked).broken else 0


def adapter(args: argparse.Namespace) -> int:
    """What an adapter learned: the size of each module's update, and how much of its rank the update uses."""
    from .inspection.adapter import inspect_adapter

    where = {"base": args.base, "outputs": args.outputs}
    _shown(args, lambda told: inspect_adapter(args.adapter, **where, told=told))
    return 0


def truncate(args: argparse.Namespace) -> int:
    """Writes an adapter of a smaller rank beside the old one, and measures the loss before and after."""
    from .inspection.truncation import truncate_adapter

    how = {"rank": args.rank, "energy": args.energy, "to": args.to, "rows": args.rows}
    how |= {"base": args.base, "outputs": args.outputs}
    _shown(args, lambda told: truncate_adapter(args.adapter, **how, told=told))
    return 0


def mix(args: argparse.Namespace) -> int:
    """Asks the base, each adapter by itself, and all of them together with their weights the same prompts."""
    from .inspection.mixing import mix_adapters

    given = [_weight(text) for text in args.adapters]
    weights = dict(given)
    if len(weights) < len(given):
        fact = f"An adapter is given twice: {' '.join(args.adapters)}."
        raise RunError([Problem("", fact, "Give each once, with one weight.")])
    mixes: list[dict[str, float]] = [{}, weights]
    if len(weights) > 1:
        mixes[1:1] = [{name: weight} for name, weight in weights.items()]
    how = {"base": args.base, "outputs": args.outputs, "max_new_tokens": args.max_new_tokens}
    if args.system is not None:
        how["system"] = args.system
    _shown(args, lambda told: mix_adapters(mixes, args.prompt, **how, told=told))
    return 0


def contest(args: argparse.Namespace) -> int:
    """Trains a recipe by QLoRA, by LoRA beside whole weights, and in full, on several seeds, and compares them with their spread."""
    from .inspection.contest import contest
    from .memory.planning import named
    from .overrides import changed

    recipe = changed(named(args.recipe), args.set)
    how = {"seeds": _seeds(args.seeds), "steps": args.steps, "keep": args.save}
    try:
        _shown(args, lambda told: contest(recipe, **how, told=told))
    except KeyboardInterrupt:
        if args.save and args.save.exists():
            say(f"Stopped; what was measured so far is in {args.save}.", file=sys.stderr)
        raise
    if args.save:
        say(f"The figures are in {args.save}.", file=sys.stderr)
    return 0


def _shown(args: argparse.Namespace, asked: Callable[[Told], Coroutine[Any, Any, Any]]) -> Any:
    """Asks, tells how it goes on, and shows what was found; returns that. Raises WorkbenchError."""
    with _progress() as told:
        found = asyncio.run(asked(told))
    if args.json:
        say(terminal.in_json(found.as_dict(), ensure_ascii=False, indent=2))
    else:
        text = _as_commands(str(found)).replace("…", getattr(args, "adapter", "…"))
        say(terminal.printable(text))
    return found


@contextmanager
def _progress() -> Iterator[Told]:
    """What shows progress on standard error: one line that is written anew on a terminal, now and then a line elsewhere."""
    if not sys.stderr.isatty():
        yield _now_and_then()
        return

    def told(text: str) -> None:
        room = shutil.get_terminal_size().columns - 1
        shown = terminal.printable(" ".join(text.split()))[:room]
        say(f"{CLEAR}{shown}", end="", file=sys.stderr)

    told("loading torch and bitsandbytes")
    try:
        yield told
    finally:
        say(CLEAR, end="", file=sys.stderr)


def _now_and_then() -> Callable[[str], None]:
    last = -math.inf

    def told(text: str) -> None:
        nonlocal last
        if time.monotonic() - last > LOG_SECONDS:
            last = time.monotonic()
            say(terminal.printable(" ".join(text.split())), file=sys.stderr)

    return told


def _as_commands(text: str) -> str:
    for python, command in PYTHON.items():
        text = re.sub(python, command, text)
    return text


def _weight(text: str) -> tuple[str, float]:
    """ "lamp=0.5" as a name and a weight; a name alone weighs 1. Raises RunError."""
    name, sign, number = text.rpartition("=")
    if not sign:
        return text, 1.0
    try:
        return name, float(number)
    except ValueError:
        fact = f"The weight of {name} is {number!r}, which is no number."
        raise RunError([Problem("", fact, f"Give one: {name}=0.5.")]) from None


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        fact = f"--seeds is {text!r}; seeds are whole numbers with commas between."
        raise RunError([Problem("", fact, "Give them so: --seeds 1,2,3.")]) from None


def _told(do: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Does it; what is wrong goes to standard error, or as JSON too where that was asked for."""
    try:
        return do(args)
    except WorkbenchError as error:
        if args.json:
            say(terminal.in_json({"problems": [p._asdict() for p in error.problems]}, indent=2))
        name = getattr(args, "adapter", "NAME")
        say(_as_commands(terminal.refusal(error, name, args.outputs)), file=sys.stderr)
        return 1 if error.problems[0].fact.startswith(FAILED) else 2


def add_to(commands: Any) -> None:
    """Adds `inspect` and its commands to those of `workbench`."""
    about = "Looks inside a model, an adapter or a method: measures instead of believing."
    group = commands.add_parser("inspect", help=about, description=about)
    inside = group.add_subparsers(required=True, metavar="COMMAND")

    def command(do: Callable[[argparse.Namespace], int], example: str) -> argparse.ArgumentParser:
        parser = inside.add_parser(
            do.__name__, help=do.__doc__, description=do.__doc__,
            epilog=f"For example: workbench inspect {do.__name__} {example}",
        )  # fmt: skip
        parser.set_defaults(do=partial(_told, do), outputs=terminal.OUTPUTS)
        parser.add_argument("--json", action="store_true", help="for a program to read")
        return parser

    _add_quantization(command(quantization, "unsloth/Llama-3.2-1B-Instruct --compare"))
    _add_adapter(command(adapter, "1123-lamp"))
    _add_truncate(command(truncate, "1123-lamp --rank 4"))
    _add_mix(command(mix, '1123-lamp=1 1124-oak=0.5 --prompt "The lamp is red."'))
    _add_contest(command(contest, "recipe.yaml --seeds 1,2,3 --steps 60"))


def _add_quantization(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL|RECIPE", help="a folder, a name on the hub, or a recipe's YAML file"
    )
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument("--fp4", action="store_true", help="quantize to FP4 instead of NF4")
    parser.add_argument("--no-double-quant", action="store_true", help="keep the scales in 32 bits")
    parser.add_argument(
        "--compare", action="store_true", help="the error of NF4, FP4 and int4 too; takes longer"
    )


def _add_adapter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", metavar="RUN|FOLDER", help="a run, or an adapter in PEFT's form")
    _add_base(parser)


def _add_truncate(parser: argparse.ArgumentParser) -> None:
    _add_adapter(parser)
    most = parser.add_mutually_exclusive_group(required=True)
    most.add_argument("--rank", type=int, metavar="4", help="the rank of every module from then on")
    most.add_argument(
        "--energy", type=float, metavar="0.9", help="as much rank as holds this share of the update"
    )
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="a new folder for it")
    parser.add_argument(
        "--rows", type=int, default=64, help="held-out rows to measure the loss on; 0 for none"
    )


def _add_mix(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "adapters", nargs="+", metavar="RUN=WEIGHT", help="adapters of one base, by run or folder"
    )
    parser.add_argument(
        "--prompt", action="append", required=True, help="what is asked; may be given again"
    )
    parser.add_argument("--system", help="system prompt, by default the first run's; '' for none")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="of each answer; 64")
    _add_base(parser)


def _add_contest(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", metavar="RECIPE", help="a YAML file; or a model, for the default recipe with it"
    )
    parser.add_argument("--seeds", default="1,2,3", metavar="1,2,3", help="one training for each")
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument(
        "--set", action="append", default=[], metavar="lora.rank=8", help="change a setting"
    )
    parser.add_argument(
        "--save", type=Path, metavar="FILE.json", help="keep the figures, after each training"
    )


def _add_base(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base", metavar="MODEL", help="the model that it was trained on, if not as it says"
    )
    parser.add_argument("--outputs", type=Path, default=terminal.OUTPUTS, help="folder of runs")
