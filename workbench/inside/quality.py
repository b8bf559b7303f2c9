"""What a format does to a model: its loss on a text, after its linear layers went through the format and back.

One loaded model serves for all formats: weights are copied in, measured, and put back as they were. That is what a
4-bit layer computes, without its speed or its size. Knows models and token rows; nothing of runs.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..problems import Problem, RunError
from ..worker.measure import documents, mean_loss, predicted, token_rows
from .formats import levels, round_trip

#: What is compared unless something else is asked: the model as it is, and each format in blocks of 64; "+dq" is double quantization.
COMPARED = ("fp32", "nf4", "nf4+dq", "e2m1", "fp4", "int4", "e3m0")
AS_IT_IS = "fp32"
LONGEST = 2048  # tokens of a document that are read


@dataclass(frozen=True)
class Quality:
    """Mean loss in nats over so many tokens, and the relative error of all linear layers' weights together."""

    format: str
    loss: float
    error: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """e to the mean loss."""
        return math.exp(self.loss)

    def __str__(self) -> str:
        return (
            f"{self.format:7} loss {self.loss:.4f}, perplexity {self.perplexity:.4f},"
            f" weights off by {self.error:.2%}"
        )


def rows(model: Any, tokenizer: Any, text: str, most: int | None = None) -> list[list[int]]:
    """Token ids of a text's first `most` documents, which blank lines set apart; raises RunError where there is none."""
    longest = min(model.config.max_position_embeddings, LONGEST)
    found = token_rows(documents(text)[:most], tokenizer, longest)
    if not found:
        fact = "The text has no document of two tokens or more, so there is nothing to predict."
        raise RunError([Problem("", fact, "Take a longer text; blank lines set documents apart.")])
    return found


def qualities(
    model: Any,
    token_ids: list[list[int]],
    formats: Sequence[str] = COMPARED,
    told: Callable[[str], None] | None = None,
) -> list[Quality]:
    """The model's quality in each format, in the order asked; `told` gets each as a line.

    The weights are afterwards what they were, bit for bit. Raises RunError as `through` does.
    """
    found = []
    for name in formats:
        with through(model, name) as error:
            loss = mean_loss(model, token_ids)
        found.append(Quality(name, loss, error, predicted(token_ids)))
        if told:
            told(str(found[-1]))
    return found


@contextlib.contextmanager
def through(model: Any, name: str) -> Iterator[float]:
    """Inside, the linear layers' weights are what a format leaves of them; gives their relative error, all together.

    Raises RunError for an unknown format, for a model without linear layers, and for one that is in 4 bits already.
    """
    weights = linear_weights(model)
    if name == AS_IT_IS:
        yield 0.0
        return
    table, _, second = name.partition("+")
    if second not in ("", "dq"):
        levels(name)  # refused there, by its name
    values = levels(table)
    kept = [weight.detach().clone() for weight in weights]
    off = whole = 0.0
    try:
        with torch.no_grad():
            for weight, before in zip(weights, kept, strict=True):
                weight.copy_(round_trip(before, values, double_quant=bool(second)))
                off += (weight - before).float().square().sum().item()
                whole += before.float().square().sum().item()
        yield math.sqrt(off / whole)
    finally:
        with torch.no_grad():
            for weight, before in zip(weights, kept, strict=True):
                weight.copy_(before)


def linear_weights(model: Any) -> list[torch.nn.Parameter]:
    """The weights that a 4-bit model keeps in 4 bits: of all linear layers but the head."""
    head = model.get_output_embeddings()
    modules = (m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head)
    found = [module.weight for module in modules]
    if not found:
        fact = f"{type(model).__name__} has no linear layer beside its head."
        raise RunError([Problem("model.name", fact, "Choose a model of the kind of Llama.")])
    if not all(weight.is_floating_point() for weight in found):
        fact = "The model is in 4 bits already; what its weights were before is gone."
        cure = "Load it with load_in_4bit=False, from its 16-bit version."
        raise RunError([Problem("model.load_in_4bit", fact, cure)])
    return found
