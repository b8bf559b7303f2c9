"""Asks the model: one prompt token by token, or many at once. Knows nothing of training beyond leaving no trace in it.

A prompt comes as the token ids that the chat template wrote, up to where the answer begins.

The random state is put back afterwards, so that a run with samples gives the same losses as one without.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from types import ModuleType
from typing import Any, NamedTuple

from ..problems import Problem, RunError

STREAM_SECONDS = 0.05  # how often a growing answer is passed on
BATCH = 32  # prompts answered at once when scoring


class Decoding(NamedTuple):
    """How an answer is chosen: temperature 0 always takes the likeliest token."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0


class Answer(NamedTuple):
    """The text without special tokens, whether the model ended it by itself, its tokens and the seconds it took."""

    text: str
    ended: bool
    tokens: int
    seconds: float


class Answerer:
    """A model with its tokenizer and backend; `adapter=False` asks the base model.

    An answer ends with one of `end_ids`, by which the chat template ends a turn, or where the model's own settings
    say so: they often know the end of a text only, and the model would go on to speak for the user.
    """

    def __init__(
        self,
        backend: ModuleType,
        model: Any,
        tokenizer: Any,
        *,
        max_length: int,
        end_ids: Collection[int],
    ) -> None:
        self.backend, self.model, self.tokenizer = backend, model, tokenizer
        self.max_length = max_length
        known = model.generation_config.eos_token_id
        known = known if isinstance(known, list) else [known]
        self._ends = sorted({*known, *end_ids} - {None})

    def stream(
        self,
        prompt: list[int],
        decoding: Decoding,
        *,
        adapter: bool,
        passing: Callable[[str], None],
        interrupted: Callable[[], bool],
    ) -> Answer:
        """Answers one prompt, hands each new piece of text to `passing`, and ends early when `interrupted`."""
        from transformers import StoppingCriteriaList

        started = time.monotonic()
        ids = self._prompts([prompt])
        options = self._options(decoding, ids)
        streamer = _streamer(self.tokenizer, passing)
        halt = StoppingCriteriaList([lambda *_, **__: interrupted()])
        with self._ready(adapter):
            output = self.model.generate(
                **ids, **options, streamer=streamer, stopping_criteria=halt
            )
        new = output[0, ids["input_ids"].shape[1] :]
        return self._answer(new, time.monotonic() - started)

    def answer_all(
        self,
        prompts: list[list[int]],
        decoding: Decoding,
        *,
        adapter: bool,
        interrupted: Callable[[], bool],
        passing: Callable[[int], None],
    ) -> list[Answer] | None:
        """Answers all prompts in batches, None when `interrupted`; `passing` is told how many are done.

        Each answer's seconds are its share of its batch's.
        """
        from transformers import StoppingCriteriaList

        halt = StoppingCriteriaList([lambda *_, **__: interrupted()])
        answers: list[Answer] = []
        with self._ready(adapter):
            for first in range(0, len(prompts), BATCH):
                batch = prompts[first : first + BATCH]
                started = time.monotonic()
                ids = self._prompts(batch)
                options = self._options(decoding, ids)
                output = self.model.generate(**ids, **options, stopping_criteria=halt)
                if interrupted():
                    return None
                seconds = (time.monotonic() - started) / len(batch)
                new = output[:, ids["input_ids"].shape[1] :]
                answers += [self._answer(row, seconds) for row in new]
                passing(len(answers))
        return answers

    def _prompts(self, rows: list[list[int]]) -> dict[str, Any]:
        """Token ids and mask `(batch, longest)`, padded on the left so that all answers begin together."""
        import torch

        longest = max(map(len, rows))
        if longest >= self.max_length:
            fact = f"The prompt has {longest} tokens; with its answer it must fit in {self.max_length}."
            raise RunError([Problem("", fact, "Shorten it, or raise model.max_length.")])
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        device = self.model.device
        return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}

    def _options(self, decoding: Decoding, ids: dict[str, Any]) -> dict[str, Any]:
        room = self.max_length - ids["input_ids"].shape[1]
        options = {
            "max_new_tokens": min(decoding.max_new_tokens, room),
            "pad_token_id": self.tokenizer.pad_token_id,
            "eos_token_id": self._ends,
            "do_sample": decoding.temperature > 0,
        }
        if decoding.temperature > 0:
            options |= {"temperature": decoding.temperature, "top_p": decoding.top_p}
        else:  # a model's generation_config may ask for sampling: unset what greedy decoding has no use for
            options |= {"temperature": None, "top_p": None, "top_k": None}
        return options

    def _answer(self, ids: Any, seconds: float) -> Answer:
        import torch

        where = torch.isin(ids, torch.tensor(self._ends, device=ids.device)).nonzero()
        ended = len(where) > 0
        tokens = int(where[0]) if ended else len(ids)
        text = self.tokenizer.decode(ids[:tokens], skip_special_tokens=True)
        return Answer(text, ended, tokens, seconds)

    @contextlib.contextmanager
    def _ready(self, adapter: bool) -> Iterator[None]:
        import torch

        devices = [self.model.device] if self.model.device.type == "cuda" else []
        base = contextlib.nullcontext() if adapter else self.model.disable_adapter()
        with torch.random.fork_rng(devices), self.backend.answering(self.model), base:
            yield


def _streamer(tokenizer: Any, passing: Callable[[str], None]) -> Any:
    from transformers import TextStreamer

    class Pieces(TextStreamer):
        """Passes text on a few times a second instead of word by word: each piece becomes a line in the log."""

        waiting, last = "", 0.0

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            self.waiting += text
            if self.waiting and (stream_end or time.monotonic() - self.last > STREAM_SECONDS):
                passing(self.waiting)
                self.waiting, self.last = "", time.monotonic()

    return Pieces(tokenizer, skip_prompt=True, skip_special_tokens=True)
