"""The three number formats a run computes in, and what each does to small gradients and to small updates.

What happens to real gradients and real adapter weights is counted on them, rounded to the format by torch. Knows
tensors; nothing of models. Which format a machine takes is worker/precision.py's to say.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

FORMATS = (torch.float32, torch.bfloat16, torch.float16)
START = 2.0**16  # the scale that torch's GradScaler begins with


class Format(NamedTuple):
    """A number format: bits in all; the least above 0 in full precision and at all; the largest; the step at 1."""

    name: str
    bits: int
    least_normal: float
    least: float
    largest: float
    step: float


class Lost(NamedTuple):
    """What a format does to numbers: the shares, of those that are not 0, that become 0 and that become infinite."""

    to_zero: float
    to_infinity: float


class Scaled(NamedTuple):
    """A step under torch's GradScaler: the scale it was tried with, and whether it was taken."""

    scale: float
    taken: bool


def formats() -> list[Format]:
    """float32, bfloat16 and float16 as torch.finfo has them."""
    return [
        Format(_name(dtype), of.bits, of.tiny, of.smallest_normal * of.eps, of.max, of.eps)
        for dtype in FORMATS
        if (of := torch.finfo(dtype))
    ]


def rounded(value: float, dtype: torch.dtype, *, scale: float = 1.0) -> float:
    """What a number is after the way through a format: times `scale`, rounded, and divided by it in float32."""
    return (torch.tensor(value * scale).to(dtype).float() / scale).item()


def lost(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype, *, scale: float = 1.0) -> Lost:
    """Which share of all numbers, such as a model's gradients, a format cannot hold when they are `scale` times as large."""
    numbers = torch.cat([tensor.float().flatten() for tensor in tensors.values()])
    numbers = numbers[numbers != 0]
    through = (numbers * scale).to(dtype)
    if not len(numbers):
        return Lost(0.0, 0.0)
    return Lost(*((test.float().mean().item()) for test in (through == 0, through.isinf())))


def unmoved(weights: torch.Tensor, update: float, dtype: torch.dtype) -> float:
    """The share of the weights that stay what they were in a format when `update` is added to each.

    A sum is rounded to a number that the format has; what is less than half a step is gone.
    """
    kept = weights.to(dtype)
    return (kept + update == kept).float().mean().item()


def accumulated(start: float, update: float, times: int, dtype: torch.dtype) -> float:
    """What `start` has become after `update` was added so many times, each sum rounded to the format."""
    value, step = torch.tensor(start, dtype=dtype), torch.tensor(update, dtype=dtype)
    for _ in range(times):
        value = value + step
    return value.item()


def scaled_steps(largest: float, steps: int, *, start: float = START) -> list[Scaled]:
    """How torch's GradScaler finds a scale when the largest gradient is `largest` in a float16 backward pass.

    A scaled gradient above 65,504 is infinite: the step is not taken, and the scale is halved.
    """
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer: Any = torch.optim.SGD([weight], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=start)
    tried = []
    for _ in range(steps):
        scale, before = scaler.get_scale(), weight.item()
        scaler.scale(torch.zeros(1))  # where a run scales its loss, and the scaler begins
        weight.grad = torch.tensor([largest * scale]).half().float()
        scaler.step(optimizer)
        scaler.update()
        tried.append(Scaled(scale, weight.item() != before))
    return tried


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
