"""What the model is asked in a run: the recipe's prompts, the held-out rows for exact match, and what a user types.

Writes answers to the log. Knows nothing of when they are asked.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from ..data.rows import Row
from ..data.template import prompt_ids
from ..data.tokenizer import ChatTokenizer
from ..events import EventLog
from ..recipe import Recipe
from .answering import Answer, Answerer, Decoding
from .copies import Copies

FROM_ROWS = 3  # rows that are asked when the recipe names no prompts

Turns = list[dict[str, Any]]


class Question(NamedTuple):
    """A conversation up to where the model is to answer, the tools it may call (JSON text), and the answer hoped for."""

    turns: Turns
    tools: str = ""
    expected: str | None = None


class Questions:
    """The prompts of a run and the model that answers them."""

    def __init__(
        self,
        log: EventLog,
        recipe: Recipe,
        answerer: Answerer,
        tokenizer: ChatTokenizer,
        *,
        heldout: list[Row],
        train: list[Row],
        copies: Copies | None,
        interrupted: Callable[[], bool],
    ) -> None:
        """`copies` knows the training rows' answers; None where no rows were read."""
        self._copies = copies
        self._log, self._answerer, self._interrupted = log, answerer, interrupted
        self._tokenizer, self._settings = tokenizer, recipe.samples
        self._heldout = [_asked(row) for row in heldout]
        self._prompts = [
            Question(conversation(system_prompt(recipe), prompt))
            for prompt in self._settings.prompts
        ] or [_asked(row) for row in (heldout or train)[:FROM_ROWS]]

    def sample(self, step: int, *, adapter: bool) -> str:
        """Answers the recipe's prompts and writes a sample event for each; returns why not, or an empty text."""
        if not self._prompts:
            return (
                "There is nothing to ask: samples.prompts is empty, and no rows that ask something were read. "
                "Give samples.prompts, or ask a question of your own."
            )
        asked = [self._ids(question) for question in self._prompts]
        settings = self._settings
        decoding = Decoding(settings.max_new_tokens, settings.temperature, settings.top_p)
        answers = self._answerer.answer_all(
            asked,
            decoding,
            adapter=adapter,
            interrupted=self._interrupted,
            passing=lambda _: None,
        )
        if answers is None:
            return "The answers were cut short: the run is to end."
        for number, told in enumerate(zip(self._prompts, asked, answers, strict=True)):
            self._write(f"step-{step}-{number}", step, *told, adapter)
        return ""

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
            [self._ids(question) for question in asked],
            greedy,
            adapter=adapter,
            interrupted=self._interrupted,
            passing=lambda done: passing(done, len(asked)),
        )
        if answers is None:
            return
        correct = sum(
            answer.text.strip() == question.expected.strip()
            for answer, question in zip(answers, asked, strict=True)
        )
        self._log.write(
            "score",
            step=step,
            correct=correct,
            rows=len(asked),
            adapter=adapter,
            seconds=time.monotonic() - started,
        )

    def try_one(self, max_new_tokens: int) -> None:
        """Answers the longest of the recipe's prompts and writes nothing."""
        asked = sorted(map(self._ids, self._prompts), key=len)[-1:]
        if asked:
            self._answerer.answer_all(
                asked,
                Decoding(max_new_tokens),
                adapter=True,
                interrupted=self._interrupted,
                passing=lambda _: None,
            )

    def ask(self, command: dict[str, Any], step: int) -> None:
        """Answers a user's prompt token by token; the command's id is the sample's.

        Raises RunError when the prompt leaves no room for an answer.
        """
        question = Question(conversation(command.get("system"), command["prompt"]))
        decoding = Decoding(
            command.get("max_new_tokens", self._settings.max_new_tokens),
            command.get("temperature", 0.0),
            command.get("top_p", 1.0),
        )
        adapter = bool(command.get("adapter", True))
        ids = self._ids(question)
        answer = self._answerer.stream(
            ids,
            decoding,
            adapter=adapter,
            passing=lambda text: self._log.write("token", sample=command["id"], text=text),
            interrupted=self._interrupted,
        )
        self._write(command["id"], step, question, ids, answer, adapter)

    def _ids(self, question: Question) -> list[int]:
        return prompt_ids(question.turns, self._tokenizer, tools=question.tools or None)

    def _write(
        self,
        sample: str,
        step: int,
        question: Question,
        ids: list[int],
        answer: Answer,
        adapter: bool,
    ) -> None:
        said = {turn["role"]: turn["content"] for turn in question.turns}
        self._log.write(
            "sample",
            sample=sample,
            step=step,
            prompt=said.get("user", ""),
            system=said.get("system"),
            expected=question.expected,
            text=answer.text,
            adapter=adapter,
            ended=answer.ended,
            tokens=answer.tokens,
            seconds=answer.seconds,
            rendered=self._tokenizer.decode(ids),
            same_as=self._copies.same_as(answer.text) if self._copies else None,
        )


def system_prompt(recipe: Recipe) -> str | None:
    """What is put before each prompt: the samples' own, or else what the rows are given."""
    return recipe.samples.system or recipe.data.system


def conversation(system: str | None, prompt: str) -> Turns:
    """A system prompt, if there is one, and what a user asks."""
    before = [{"role": "system", "content": system}] if system else []
    return [*before, {"role": "user", "content": prompt}]


def _asked(row: Row) -> Question:
    """A row's messages up to its last assistant turn, and what that turn says."""
    return Question([message.turn() for message in row.prompt], row.tools, row.answer)
