"""A process of `python -m workbench.inside`, and the lines of JSON that it exchanges with this side.

Knows no inspection. A process lives as long as it is read from: whoever ends early (a cell that is interrupted, a panel
that is closed) ends it too.
"""

import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from typing import Any

from ..problems import Problem, RunError
from ..spawn import environment

#: Told in words what is going on.
Told = Callable[[str], None]
_LONGEST = 2**26  # bytes of one line: a layer's figures need far less


class Inside:
    """One inspection under way. Use it in `async with`; `send` asks, and iterating gives what it tells, line by line."""

    def __init__(self, what: str, arguments: dict[str, Any]) -> None:
        self.what, self.arguments = what, arguments

    async def __aenter__(self) -> "Inside":
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __aexit__
        command = [sys.executable, "-m", "workbench.inside", self.what, json.dumps(self.arguments)]
        self._process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._errors,
            env=environment(),
            start_new_session=True,  # so that interrupting a cell does not reach it before us
            limit=_LONGEST,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()
        self._errors.close()

    async def send(self, **values: Any) -> None:
        """Asks for something. Raises RunError when the process has ended."""
        try:
            self._process.stdin.write((json.dumps(values) + "\n").encode())
            await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            raise RunError([self._lost()]) from None

    def no_more(self) -> None:
        """Says that nothing else will be asked."""
        self._process.stdin.close()

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        """Lines as they come, up to the end; not the last, "done". Raises RunError with what went wrong."""
        while (line := await self.next()) is not None:
            yield line

    async def next(self) -> dict[str, Any] | None:
        """The next line, None when all is told. Raises RunError with what went wrong."""
        line = await self._process.stdout.readline()
        if not line:
            await self._process.wait()
            raise RunError([self._lost()])
        told = json.loads(line)
        if told["kind"] == "problems":
            raise RunError([Problem(*problem) for problem in told["problems"]])
        return None if told["kind"] == "done" else told

    def _lost(self) -> Problem:
        """What there is to say of a process that ended without a word."""
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip().splitlines()
        code = self._process.returncode
        fact = f"The inspection ended without a word (exit code {code})."
        if code == -9:
            return Problem("", fact, "Something killed it, most likely for want of memory.")
        return Problem("", fact, f"It said last: {words[-1][:300]}" if words else "Try it again.")


async def gathered(
    what: str,
    arguments: dict[str, Any],
    told: Told | None = None,
    heard: Callable[[list[dict[str, Any]]], None] | None = None,
) -> list[dict[str, Any]]:
    """All lines of an inspection that is asked nothing more; those of kind "progress" go to `told` as text instead.

    `heard` is shown all lines so far whenever there is one more.
    """
    found = []
    async with Inside(what, arguments) as inside:
        inside.no_more()
        async for line in inside:
            if line["kind"] != "progress":
                found.append(line)
                if heard is not None:
                    heard(found)
            elif told is not None:
                told(line["text"])
    return found
