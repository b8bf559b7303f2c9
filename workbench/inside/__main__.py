"""`python -m workbench.inside WHAT JSON`: one inspection, told on standard output as lines of JSON, each with its `kind`.

WHAT names a module beside this one that has `tell(say, hear, **arguments)`. The last line is {"kind": "done", …}, or
{"kind": "problems", "problems": [[where, fact, cure], …]}. Knows processes; nothing of what is inspected.
"""

import json
import os
import sys
import traceback
from collections.abc import Iterator
from importlib import import_module
from typing import Any, TextIO

from ..problems import WorkbenchError

#: What can be asked for, and the module that does it.
KINDS = {
    "adapter": "adapter",
    "contest": "contest",
    "mix": "mixing",
    "quantization": "quantization",
    "truncate": "truncation",
}


def main(what: str, arguments: str) -> int:
    """Does it; returns the exit code: 0, 2 where a problem was told, 1 after a failure that standard error explains."""
    out = _own_output()

    def say(kind: str, **values: Any) -> None:
        print(json.dumps({"kind": kind, **values}), file=out, flush=True)

    try:
        import_module(f".{KINDS[what]}", __package__).tell(say, _heard(), **json.loads(arguments))
    except WorkbenchError as error:
        say("problems", problems=[list(problem) for problem in error.problems])
        return 2
    except BrokenPipeError:  # whoever asked is gone
        return 1
    except Exception as error:
        traceback.print_exc()
        told = f"{type(error).__name__}: {error}".splitlines()[0][:300].rstrip(".")
        say("problems", problems=[["", f"The inspection failed: {told}.", ""]])
        return 1
    say("done")
    return 0


def _own_output() -> TextIO:
    """Standard output for our lines alone: what libraries print there goes to standard error from here on."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout.flush()
    os.dup2(2, 1)
    return out


def _heard() -> Iterator[dict[str, Any]]:
    """What is asked on standard input, until it is closed."""
    for line in sys.stdin:
        yield json.loads(line)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
