"""A training step taken apart: rows, loss, gradients, checkpointing and accumulation, each by itself and measured.

The rows are a recipe's own, written and masked by the functions that a run uses; the loss is the one that Transformers
computes for its trainer. Knows models and rows; nothing of run folders, of evaluation or of samples.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch

from ..data import sides
from ..data.encode import IGNORED, encode, tokenize
from ..data.tokenizer import ChatTokenizer
from ..problems import Problem, RunError
from ..recipe import Recipe
from ..worker import feeding, parts

Batch = dict[str, torch.Tensor]
Gradients = dict[str, torch.Tensor]
FED = ("input_ids", "labels", "attention_mask")  # what of a worker's batch the model is given


class Pass(NamedTuple):
    """What a forward and a backward pass came to: the loss in nats per trained token, and the gradient of each
    parameter that got one, by its name."""

    loss: float
    gradients: Gradients


class Cost(NamedTuple):
    """Bytes of tensors at the peak above those before, and the seconds of a pass that nothing watched."""

    peak_bytes: int
    seconds: float


def pieces(
    recipe: Recipe, tokenizer: Any, count: int, *, side: Literal["train", "heldout"] = "train"
) -> list[feeding.Piece]:
    """The first `count` rows of a side, written with the template, tokenized and masked as a run would.

    Raises DataError for rows that cannot be used, RunError where nothing is held out.
    """
    rows = getattr(sides.read(recipe.data), side)
    if rows is None:
        fact = "The recipe holds no rows out."
        raise RunError([Problem("data.heldout", fact, "Name a file in data.heldout, or give a data.heldout_share.")])  # fmt: skip
    chat = ChatTokenizer.of(tokenizer, template=recipe.data.template)
    tokens = tokenize(rows.first(count), chat, loss_on=recipe.data.loss_on)
    units = feeding.Rows(encode(tokens, max_length=recipe.model.max_length))
    return [units[place][0] for place in range(len(units.lengths))]


def batches(rows: Sequence[feeding.Piece], size: int, tokenizer: Any) -> list[Batch]:
    """Batches of `size` rows, padded on the right: `input_ids`, `labels`, `attention_mask`, `(size, longest)` each."""
    cut = (rows[first : first + size] for first in range(0, len(rows), size))
    made = (feeding.padded(some, tokenizer.pad_token_id) for some in cut)
    return [{name: batch[name] for name in FED} for batch in made]


def trained_tokens(batch: Batch) -> int:
    """How many tokens of a batch the loss counts."""
    return int((batch["labels"][:, 1:] != IGNORED).sum())


def loss(model: Any, batch: Batch, *, of: int | None = None) -> torch.Tensor:
    """The model's loss on a batch: what its tokens lose, summed and divided by `of` tokens (None: by its own).

    `of` is what Transformers calls `num_items_in_batch`: the trained tokens of the whole optimizer step.
    """
    fed = {name: tensor.to(model.device) for name, tensor in batch.items()}
    return model(**fed, num_items_in_batch=of, use_cache=False).loss


def evaluated(model: Any, some: Sequence[Batch]) -> float:
    """Mean loss in nats over all trained tokens of some batches, without dropout."""
    tokens, was_training = sum(map(trained_tokens, some)), model.training
    model.eval()
    try:
        with torch.inference_mode():
            return sum(loss(model, batch, of=tokens).item() for batch in some)
    finally:
        model.train(was_training)


def backward(
    model: Any,
    some: Sequence[Batch],
    *,
    mean_of: Literal["tokens", "batches"] = "tokens",
    checkpointing: bool = False,
) -> Pass:
    """The gradients of one optimizer step, accumulated over batches that go through one after another.

    With `mean_of="tokens"` each batch's summed loss is divided by the trained tokens of all, so that every token
    counts the same. "batches" is the mean of the batches' means, as trainers had it before October 2024
    (unsloth.ai/blog/gradient; Transformers' `num_items_in_batch`). Meanwhile the model is in training, with dropout
    where it has any, as only then it checkpoints; it is left without gradients.
    """
    tokens, total, was_training = sum(map(trained_tokens, some)), 0.0, model.training
    model.zero_grad(set_to_none=True)
    model.train()
    with _checkpointed(model, checkpointing):
        for batch in some:
            by_tokens = mean_of == "tokens"
            part = loss(model, batch, of=tokens if by_tokens else None)
            part = part if by_tokens else part / len(some)
            part.backward()
            total += part.item()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    model.train(was_training)
    return Pass(total, found)


def cost(model: Any, some: Sequence[Batch], *, checkpointing: bool = False) -> Cost:
    """What `backward` takes: watched once for the bytes, which slows it on a CPU, and timed once more without."""
    # Before its first use, or torch's profiler writes of each start to standard error, and so into a notebook.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with parts.peak() as found:
        backward(model, some, checkpointing=checkpointing)
    started = time.perf_counter()
    backward(model, some, checkpointing=checkpointing)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Cost(found.above, time.perf_counter() - started)


def difference(one: Gradients, other: Gradients) -> float:
    """How far two gradients are apart: the norm of their difference, as a share of the norm of the first.

    Raises ValueError where they are not of the same parameters.
    """
    if one.keys() != other.keys():
        raise ValueError("the gradients are of other parameters")
    squares = [((one[name] - other[name]).double().square().sum()) for name in one]
    own = [gradient.double().square().sum() for gradient in one.values()]
    return float((sum(squares) / sum(own)).sqrt())


def norms(gradients: Gradients) -> dict[str, float]:
    """The norms of the gradients of all A and of all B, under "A" and "B"; what is neither goes by its own name."""
    squares: dict[str, float] = {}
    for name, gradient in gradients.items():
        key = "A" if ".lora_A." in name else "B" if ".lora_B." in name else name
        squares[key] = squares.get(key, 0.0) + gradient.double().square().sum().item()
    return {key: square**0.5 for key, square in squares.items()}


def train(model: Any, some: Sequence[Batch], rate: float) -> list[float]:
    """One AdamW step on each batch at a constant rate, without weight decay; gives the losses before each step."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    losses, was_training = [], model.training
    model.train()
    for batch in some:
        value = loss(model, batch)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(value.item())
    model.train(was_training)
    return losses


@contextlib.contextmanager
def _checkpointed(model: Any, on: bool) -> Iterator[None]:
    """Inside, a model in training keeps only what enters each layer, and computes the rest again in the backward pass."""
    if not on:
        yield
        return
    used_cache, model.config.use_cache = model.config.use_cache, False
    model.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        model.gradient_checkpointing_disable()
        model.config.use_cache = used_cache
