"""`workbench …`: the same things without a notebook. What is told goes to standard output, what is wrong to standard error.

Exit codes: 0 done, 1 failed, 2 a recipe, data or command line that cannot be used, 3 not sure to fit (plan), 130 stopped
by Ctrl-C with the adapter kept. Knows nothing of how a run works; it only starts, reads and commands one.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from . import data_cli, inspect_cli, machine, plan_cli, runs_cli, terminal
from .overrides import changed
from .problems import Problem, RunError, WorkbenchError
from .recipe import Recipe
from .run import Run
from .summary import in_words

say = partial(print, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    args = _parser().parse_args(arguments)
    if hasattr(sys.stdout, "reconfigure"):  # a terminal that knows ASCII only gets "?" for the rest
        sys.stdout.reconfigure(errors="replace")
    try:
        return args.do(args)
    except WorkbenchError as error:
        _tell(error, args)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has read enough; Python would complain at its end once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a file where a folder should be, no permission
        what = f"{error.filename} cannot be used: " if error.filename else ""
        print(f"{what}{error.strerror or error}.", file=sys.stderr)
        return 1


def doctor(args: argparse.Namespace) -> int:
    """What this machine has, which backend it gets and why, and what to do about each problem."""
    here = machine.look()
    findings = machine.report(here)
    if args.json:
        found = [{"level": level, "fact": fact, "cure": cure} for level, fact, cure in findings]
        say(terminal.in_json({"machine": asdict(here), "findings": found}, indent=2, default=str))
    else:
        for level, fact, cure in findings:
            say(f"{level:5} {fact} {cure}".rstrip())
    return int(any(level == "stop" for level, *_ in findings))


def train(args: argparse.Namespace) -> int:
    """Trains a recipe to its end, or until Ctrl-C, which keeps the adapter."""
    from .starting import start  # it reads rows: 0.1 s that no other command needs

    try:
        recipe = changed(Recipe.load(args.recipe), args.set)
        run = start(recipe, name=args.name, outputs=args.outputs)
    except WorkbenchError as error:
        _tell(error, args)
        return 2
    args.run = run.name  # for what is told of it later
    return _train_on(run, args)


def resume(args: argparse.Namespace) -> int:
    """Goes on from the last checkpoint of a run that was stopped, killed, or out of memory."""
    run = Run.open(args.run, args.outputs)
    return _train_on(run.resume(batch_size=args.batch_size), args)


def watch(args: argparse.Namespace) -> int:
    """Shows a run from its beginning and as it goes on; Ctrl-C ends the watching, not the run."""
    run = Run(Run.open(args.run, args.outputs).folder)  # one that has not read its log yet
    try:
        _follow(run, args)
    except KeyboardInterrupt:
        print(f"Run {run.name} goes on; workbench stop {run.name} ends it.", file=sys.stderr)
    return 0


def sample(args: argparse.Namespace) -> int:
    """Asks a run's model; loads it first if its worker has ended."""
    run = Run.open(args.run, args.outputs)
    system = run.recipe.samples.system if args.system is None else args.system
    how = {"system": system or None, "adapter": not args.base, "temperature": args.temperature}
    how |= {"top_p": args.top_p, "max_new_tokens": args.max_new_tokens}
    given = {name: value for name, value in how.items() if value is not None}
    reopened = not run.alive
    try:
        if reopened:
            terminal.follow(run.reopen(), lambda events, history: None)
        answer = _answer(run, args.prompt, given, stream=not args.json)
    except KeyboardInterrupt:
        if reopened:
            print("Ending the worker that was started for this question.", file=sys.stderr)
        raise
    finally:
        if reopened:
            run.close()
    if args.json:
        say(terminal.in_json(answer, ensure_ascii=False))
    return 0


def stop(args: argparse.Namespace) -> int:
    """Ends a run's training and keeps the adapter; a worker that only waits for questions is ended too."""
    run = Run.open(args.run, args.outputs)
    if not run.history.over:
        run.stop()
        terminal.follow(run, lambda events, history: None)
        text = run.history.text
    else:
        text = f"Its training was over ({run.history.state})" + "; its worker is ended." * run.alive
    run.close()
    say(f"{run.name}: {text}")
    return 0


def _tell(error: WorkbenchError, args: argparse.Namespace) -> None:
    """Says on standard error what is wrong, in the words of the command line."""
    name = getattr(args, "run", None) or getattr(args, "name", None) or "NAME"
    print(terminal.refusal(error, name, args.outputs), file=sys.stderr)


def _train_on(run: Run, args: argparse.Namespace) -> int:
    interrupted = False

    def stop_and_keep() -> None:
        nonlocal interrupted
        interrupted = True
        print("Stopping after this step; the adapter is kept.", file=sys.stderr)
        run.stop()

    try:
        _follow(run, args, on_interrupt=stop_and_keep)
    except KeyboardInterrupt:  # a second one: do not wait for the end
        print(
            f"Run {run.name} ends by itself; workbench watch {run.name} shows it.", file=sys.stderr
        )
        return 130
    run.close()
    return 130 if interrupted else 0


def _follow(run: Run, args: argparse.Namespace, **how: Any) -> None:
    """Shows the run as the arguments ask for, and at its end what became of it."""
    if args.json:
        say(terminal.in_json({"kind": "run", "name": run.name, "folder": str(run.folder)}))
        state = terminal.follow(run, terminal.as_json(say), **how)
        adapter = str(run.adapter_path) if run.adapter_path.is_dir() else None
        say(terminal.in_json({"kind": "end", "state": state, "adapter": adapter}))
        return
    say(f"Run {run.name} in {run.folder}")
    bar, show = terminal.on_screen(Console())
    with bar:
        terminal.follow(run, show, **how)
    say(in_words(run.history))


def _answer(run: Run, prompt: str, how: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    """Asks, writes the answer as it comes if `stream`, and returns the sample event. Raises RunError."""
    asked = run.ask(prompt, **how)
    history = run.history
    shown = ""
    while True:
        alive = run.alive  # asked before the log is read: what it wrote last is then in it
        run.refresh()
        for answer in history.samples:
            if answer["sample"] == asked:
                if stream:
                    say(terminal.printable(answer["text"].removeprefix(shown)))
                return answer
        for told in history.commands:
            if told["id"] == asked and not told["taken"]:
                raise RunError([Problem("", told["text"], "")])
        if not alive:
            fact = f"The worker of run {run.name} ended before it answered."
            raise RunError([Problem("", fact, "Ask again: the model is then loaded anew.")])
        growing = history.partial.get(asked, "")
        if stream and growing.startswith(shown):
            say(terminal.printable(growing[len(shown) :]), end="")
            shown = growing
        time.sleep(terminal.POLL_SECONDS)


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="workbench", description="Fine-tune with QLoRA, without a notebook."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--outputs", type=Path, default=terminal.OUTPUTS, help="folder of runs")
    shared.add_argument("--json", action="store_true", help="for a program to read")

    def command(name: str, do: Any, *, run: bool = True) -> argparse.ArgumentParser:
        parser = commands.add_parser(
            name, parents=[shared], help=do.__doc__, description=do.__doc__
        )
        parser.set_defaults(do=do)
        if run:
            parser.add_argument("run", help="name of the run, as `workbench runs` lists it")
        return parser

    command("doctor", doctor, run=False)
    training = command("train", train, run=False)
    training.add_argument("recipe", type=Path, help="a YAML file")
    training.add_argument("--name", help="of the run; one is made up otherwise")
    training.add_argument(
        "--set", action="append", default=[], metavar="lora.rank=8", help="change a setting"
    )
    command("watch", watch)
    asking = command("sample", sample)
    asking.add_argument("prompt")
    asking.add_argument(
        "--base", action="store_true", help="ask the base model, without the adapter"
    )
    asking.add_argument("--system", help="system prompt instead of the recipe's; '' for none")
    asking.add_argument(
        "--temperature", type=float, help="0, the default, takes the likeliest token"
    )
    asking.add_argument("--top-p", type=float)
    asking.add_argument("--max-new-tokens", type=int)
    command("stop", stop)
    resuming = command("resume", resume)
    resuming.add_argument(
        "--batch-size", type=int, help="rows at once from here on; the effective batch stays"
    )
    runs_cli.add_to(command)
    data_cli.add_to(commands)
    plan_cli.add_to(commands)
    inspect_cli.add_to(commands)
    return top
