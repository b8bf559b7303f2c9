"""What the model is asked in a run: the recipe's prompts, the held-out rows for exact match, and what a user types.

Writes answers to the log. Knows nothing of when they are asked.
"""

import time
from collections.abc import Callable
from typing import Any

from ..data.encode import prompt_ids
from ..data.rows import Row, named
from ..events import EventLog
from ..problems import Problem, RunError
from ..recipe import Recipe
from .answering import Answer, Answerer, Decoding

FROM_ROWS = 3  # rows that are asked when the recipe names no prompts


class Questions:
    """The prompts of a run and the model that answers them."""

    def __init__(
        self,
        log: EventLog,
        recipe: Recipe,
        answerer: Answerer,
        *,
        heldout: list[Row],
        train: list[Row],
        interrupted: Callable[[], bool],
    ) -> None:
        self._log, self._answerer, self._interrupted = log, answerer, interrupted
        self._settings = recipe.samples
        self._heldout = [_asked(row) for row in heldout]
        self._prompts = [
            (_conversation(self._settings.system, prompt), None)
            for prompt in self._settings.prompts
        ] or [_asked(row) for row in (heldout or train)[:FROM_ROWS]]

    def sample(self, step: int, *, adapter: bool) -> None:
        """Answers the recipe's prompts and writes a sample event for each."""
        if not self._prompts:
            return
        settings = self._settings
        decoding = Decoding(settings.max_new_tokens, settings.temperature, settings.top_p)
        conversations = [messages for messages, _ in self._prompts]
        answers = self._answerer.answer_all(
            conversations,
            decoding,
            adapter=adapter,
            interrupted=self._interrupted,
            passing=lambda _: None,
        )
        if answers is None:
            return
        for number, ((messages, expected), answer) in enumerate(
            zip(self._prompts, answers, strict=True)
        ):
            self._write(f"step-{step}-{number}", step, messages, expected, answer, adapter)

    def score(self, step: int, *, adapter: bool, passing: Callable[[int, int], None]) -> None:
        """Answers held-out rows greedily and writes how many come out letter by letter as expected.

        `passing` is told how many of how many are done. Writes nothing when an end of the run is asked for meanwhile.
        """
        asked = self._heldout[: self._settings.score_rows]
        if not asked:
            return
        started = time.monotonic()
        greedy = Decoding(self._settings.max_new_tokens)
        answers = self._answerer.answer_all(
            [messages for messages, _ in asked],
            greedy,
            adapter=adapter,
            interrupted=self._interrupted,
            passing=lambda done: passing(done, len(asked)),
        )
        if answers is None:
            return
        correct = sum(
            answer.text.strip() == expected.strip()
            for answer, (_, expected) in zip(answers, asked, strict=True)
        )
        self._log.write(
            "score",
            step=step,
            correct=correct,
            rows=len(asked),
            adapter=adapter,
            seconds=time.monotonic() - started,
        )

    def ask(self, command: dict[str, Any], step: int) -> None:
        """Answers a user's prompt token by token; the command's id is the sample's.

        Raises RunError when the prompt leaves no room for an answer.
        """
        messages = _conversation(command.get("system"), command["prompt"])
        decoding = Decoding(
            command.get("max_new_tokens", self._settings.max_new_tokens),
            command.get("temperature", 0.0),
            command.get("top_p", 1.0),
        )
        adapter = bool(command.get("adapter", True))
        answer = self._answerer.stream(
            messages,
            decoding,
            adapter=adapter,
            passing=lambda text: self._log.write("token", sample=command["id"], text=text),
            interrupted=self._interrupted,
        )
        self._write(command["id"], step, messages, None, answer, adapter)

    def _write(
        self,
        sample: str,
        step: int,
        messages: list[dict[str, str]],
        expected: str | None,
        answer: Answer,
        adapter: bool,
    ) -> None:
        said = {message["role"]: message["content"] for message in messages}
        self._log.write(
            "sample",
            sample=sample,
            step=step,
            prompt=said["user"],
            system=said.get("system"),
            expected=expected,
            text=answer.text,
            adapter=adapter,
            ended=answer.ended,
            tokens=answer.tokens,
            seconds=answer.seconds,
        )


def askable(rows: list[Row], tokenizer: Any, max_length: int, log: EventLog) -> list[Row]:
    """The rows whose question leaves room for an answer within `max_length` tokens; warns of the others by number."""
    fits = [len(prompt_ids(row.prompt, tokenizer)) < max_length for row in rows]
    others = [row.number for row, fit in zip(rows, fits, strict=True) if not fit]
    if others:
        text = f"Not asked, since their questions fill {max_length:,} tokens and leave no room for an answer: {named(others)}."
        log.write("warning", text=text, cure="Raise model.max_length.")
    return [row for row, fit in zip(rows, fits, strict=True) if fit]


def check_prompts(recipe: Recipe, tokenizer: Any) -> None:
    """Raises RunError for all of the recipe's prompts that leave no room for an answer."""
    limit, problems = recipe.model.max_length, []
    for number, prompt in enumerate(recipe.samples.prompts, 1):
        tokens = len(prompt_ids(_conversation(recipe.samples.system, prompt), tokenizer))
        if tokens >= limit:
            fact = f"Prompt {number} of samples.prompts has {tokens:,} tokens; with its answer it must fit in {limit:,}."
            cure = "Shorten it, or raise model.max_length."
            problems.append(Problem("samples.prompts", fact, cure))
    if problems:
        raise RunError(problems)


def _conversation(system: str | None, prompt: str) -> list[dict[str, str]]:
    before = [{"role": "system", "content": system}] if system else []
    return [*before, {"role": "user", "content": prompt}]


def _asked(row: Row) -> tuple[list[dict[str, str]], str]:
    """A row's messages up to its last assistant turn, and what that turn says."""
    return [message._asdict() for message in row.prompt], row.answer
