"""The 4-bit formats as tables of levels, and what a tensor goes through in them: blocks, codes, packing, and back.

Each step is written out, to be read; what it gives is what bitsandbytes gives, and tests/test_inside_formats.py says to
how many digits. Slower than bitsandbytes by a factor of a few. Knows tensors; nothing of models, files or layers.
"""

from collections.abc import Callable
from functools import cache
from statistics import NormalDist
from typing import NamedTuple

import torch

from ..problems import Problem, RunError

BLOCK = 64  # weights that share a scale in bitsandbytes' 4-bit layers
SECOND_BLOCK = 256  # scales that share a scale in double quantization
#: Where NF4's largest level lies in the normal distribution: halfway between 1 - 1/30 and 1 - 1/32, as bitsandbytes rounds it.
OUTERMOST = 0.9677083
LEAST = 1e-38  # bitsandbytes divides a block of zeros by this


class Quantized(NamedTuple):
    """A tensor as codes (uint8, flat, one a number) and one scale a block (float32): number = levels[code] * absmax."""

    codes: torch.Tensor
    absmax: torch.Tensor
    levels: torch.Tensor
    block: int
    shape: torch.Size


class TwiceQuantized(NamedTuple):
    """The same, with scales that are themselves codes of 8 bits: absmax = scales, expanded, + offset."""

    codes: torch.Tensor
    scales: Quantized
    offset: torch.Tensor
    levels: torch.Tensor
    block: int
    shape: torch.Size


def nf4() -> torch.Tensor:
    """The 16 levels of NormalFloat4, ascending, in -1 to 1 (QLoRA, arXiv 2305.14314, appendix E).

    Quantiles of the standard normal at places of equal distance, nine from the outermost to the middle and eight on the
    other side; 0 itself is in both. With the places in float32, they are bitsandbytes' to the last bit.
    """
    quantile = NormalDist().inv_cdf
    above = [quantile(place) for place in torch.linspace(OUTERMOST, 0.5, 9)[:-1].tolist()]
    below = [-quantile(place) for place in torch.linspace(OUTERMOST, 0.5, 8)[:-1].tolist()]
    table = torch.tensor(sorted([*above, 0.0, *below]))
    return table / table.max()


def e2m1() -> torch.Tensor:
    """Two bits of exponent, one of mantissa: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives, divided by 6 (OCP MX, 5.3.3)."""
    return _signed([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def fp4() -> torch.Tensor:
    """bitsandbytes' FP4: E2M1 with a smallest level of 0.0625 / 12 = 0.0052 in the place of 0.0833, in order of its codes."""
    return _signed([0, 0.0625, 8, 12, 4, 6, 2, 3])


def e3m0() -> torch.Tensor:
    """Three bits of exponent and no mantissa: 0 and the powers of two from 1/64 to 1."""
    return _signed([0, *(2.0**power for power in range(-6, 1))])


def int4() -> torch.Tensor:
    """Whole numbers from -7 to 7, divided by 7; the sixteenth code stays unused, as symmetric integers have it."""
    return torch.arange(-7, 8) / 7


def af4() -> torch.Tensor:
    """AbnormalFloat4 for blocks of 64: the least absolute error on normal weights (arXiv 2306.06965), as bitsandbytes has it."""
    from bitsandbytes.functional import get_4bit_type

    return get_4bit_type("af4", device="cpu").flip(0)


def dynamic8() -> torch.Tensor:
    """The 256 levels by which bitsandbytes keeps scales: finer near 0, over seven powers of ten (arXiv 1511.04561)."""
    from bitsandbytes.functional import create_dynamic_map

    return create_dynamic_map()


#: Every format by its name.
FORMATS: dict[str, Callable[[], torch.Tensor]] = {
    "nf4": nf4,
    "af4": af4,
    "e2m1": e2m1,
    "fp4": fp4,
    "int4": int4,
    "e3m0": e3m0,
}


def levels(name: str) -> torch.Tensor:
    """A format's levels in the order of its codes; raises RunError for a name that is not in FORMATS."""
    if name not in FORMATS:
        fact = f"There is no 4-bit format {name!r}."
        raise RunError([Problem("", fact, f"Choose one of {', '.join(FORMATS)}.")])
    return _levels(name).clone()


def quantize(tensor: torch.Tensor, table: str | torch.Tensor, block: int = BLOCK) -> Quantized:
    """Divides each block by its largest absolute value, and takes the nearest level for each number.

    `table` is a format's name or its levels. Blocks follow the flattened tensor, as in bitsandbytes; the last may be
    short. Works in float32 on 12 bytes a number. Raises RunError for a name, a block or numbers that cannot be used.
    """
    values = levels(table) if isinstance(table, str) else table
    order = values.argsort()
    between = (values[order[:-1]] + values[order[1:]]) / 2
    numbers, absmax = _scaled(tensor, block)
    nearest = torch.bucketize(numbers, between, out_int32=True)
    return Quantized(order[nearest].to(torch.uint8), absmax, values, block, tensor.shape)


def scaled(tensor: torch.Tensor, block: int = BLOCK) -> torch.Tensor:
    """Each number divided by the largest absolute value of its block: flat, in -1 to 1; raises RunError as `quantize` does."""
    return _scaled(tensor, block)[0]


def quantize_twice(
    tensor: torch.Tensor, table: str | torch.Tensor = "nf4", block: int = BLOCK
) -> TwiceQuantized:
    """The same with double quantization: the scales, less their mean, in blocks of 256 by the 8-bit dynamic levels.

    bitsandbytes rounds a few scales in a thousand to the level beside, where two are equally near.
    """
    first = quantize(tensor, table, block)
    offset = first.absmax.mean()
    scales = quantize(first.absmax - offset, dynamic8(), SECOND_BLOCK)
    return TwiceQuantized(first.codes, scales, offset, first.levels, block, first.shape)


def dequantize(stored: Quantized | TwiceQuantized) -> torch.Tensor:
    """The numbers that the codes stand for, float32, in the first shape."""
    if isinstance(stored, TwiceQuantized):
        absmax = dequantize(stored.scales) + stored.offset
    else:
        absmax = stored.absmax
    rows = blocks(stored.levels[stored.codes.int()], stored.block) * absmax[:, None]
    return rows.flatten()[: stored.codes.numel()].reshape(stored.shape)


def round_trip(
    tensor: torch.Tensor,
    table: str | torch.Tensor,
    block: int = BLOCK,
    *,
    double_quant: bool = False,
) -> torch.Tensor:
    """What is left of a tensor after a format: quantized and expanded, float32."""
    return dequantize((quantize_twice if double_quant else quantize)(tensor, table, block))


def fitted(tensor: torch.Tensor, block: int = BLOCK, rounds: int = 50) -> torch.Tensor:
    """16 levels made for one tensor, ascending: NF4's, each moved to the mean of what falls to it, again and again (Lloyd).

    -1, 0 and 1 stay. No table with these three has a much smaller error, so it is what any "optimal" one is held against.
    """
    numbers, absmax = _scaled(tensor, block)
    # An error counts as large as its block is.
    weight = absmax.square().repeat_interleave(block)[: len(numbers)]
    table = nf4()
    for _ in range(rounds):
        near = torch.bucketize(numbers, (table[:-1] + table[1:]) / 2)
        held = torch.zeros(len(table)).index_add_(0, near, weight)
        moved = torch.zeros(len(table)).index_add_(0, near, weight * numbers) / held
        stays = (table.abs() == 1) | (table == 0) | (held == 0)
        table = torch.where(stays, table, moved)
    return table


def relative_error(tensor: torch.Tensor, back: torch.Tensor) -> float:
    """Norm of the difference by the norm of the tensor: 0.1 is one part in ten."""
    whole = tensor.float()
    return ((whole - back).norm() / whole.norm()).item()


def errors_by_block(
    tensor: torch.Tensor, name: str = "nf4", sizes: tuple[int, ...] = (4096, 1024, 256, 64, 32)
) -> dict[str, float]:
    """Relative error with one scale for the whole tensor, for each row of a matrix, and for blocks of each size."""
    wholes = {"tensor": tensor.numel(), "row": tensor.shape[-1]}
    asked = wholes | {str(size): size for size in sizes}
    return {
        word: relative_error(tensor, round_trip(tensor, name, block))
        for word, block in asked.items()
    }


def shares(stored: Quantized | TwiceQuantized) -> list[float]:
    """The share of the numbers that has each value, ascending; they sum to 1. Two codes of one value (0 and -0) are one."""
    counts = torch.bincount(stored.codes.int(), minlength=len(stored.levels))
    values, which = stored.levels.unique(return_inverse=True)
    together = torch.zeros(len(values)).index_add_(0, which, counts / counts.sum())
    return together.tolist()


def bits_used(stored: Quantized | TwiceQuantized) -> float:
    """Entropy of the values in bits: 4 where 16 are used alike, less where some stand idle."""
    found = torch.tensor(shares(stored), dtype=torch.float64)
    return -torch.special.xlogy(found, found).sum().item() / torch.log(torch.tensor(2.0)).item()


def pack(stored: Quantized | TwiceQuantized) -> torch.Tensor:
    """Two codes to a byte, the first in the upper four bits, as bitsandbytes packs; beside an odd last one lies the code of 0.

    Returns uint8, half as many as there are numbers.
    """
    codes = stored.codes
    if codes.numel() % 2:
        codes = torch.cat((codes, stored.levels.abs().argmin()[None].to(torch.uint8)))
    return (codes[::2] << 4) | codes[1::2]


def unpack(packed: torch.Tensor, count: int) -> torch.Tensor:
    """The first `count` codes of packed bytes, whatever the shape that they are kept in."""
    flat = packed.flatten()
    return torch.stack((flat >> 4, flat & 0b1111), dim=1).flatten()[:count]


def blocks(tensor: torch.Tensor, block: int) -> torch.Tensor:
    """The flattened tensor as rows of `block` float32 numbers, the last filled up with zeros; no copy where it is whole."""
    if block < 1 or not tensor.numel():
        fact = f"{tensor.numel()} numbers cannot be laid out in blocks of {block}."
        raise RunError([Problem("", fact, "Take a tensor that is not empty, and blocks of 64.")])
    flat = tensor.detach().flatten().float()
    short = -flat.numel() % block
    return (torch.nn.functional.pad(flat, (0, short)) if short else flat).view(-1, block)


def _scaled(tensor: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The scaled numbers and the scale of each block."""
    rows = blocks(tensor, block)
    absmax = torch.linalg.vector_norm(rows, torch.inf, dim=1)
    if not bool(absmax.isfinite().all()):
        fact = "The tensor holds numbers that are not finite: one of them spoils its whole block."
        raise RunError([Problem("", fact, "Look where the weights come from.")])
    numbers = (rows * (1 / absmax.clamp(min=LEAST))[:, None]).clamp(-1, 1)
    return numbers.flatten()[: tensor.numel()], absmax


def _signed(positive: list[float]) -> torch.Tensor:
    """Codes 0 to 7 and, with the sign's bit, 8 to 15, divided by the largest."""
    table = torch.tensor([*positive, *(-value for value in positive)], dtype=torch.float32)
    return table / table.max()


@cache
def _levels(name: str) -> torch.Tensor:
    return FORMATS[name]()
