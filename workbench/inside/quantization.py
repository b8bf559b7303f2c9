"""What 4 bits do to a model: each linear layer read in pieces, quantized by bitsandbytes, expanded again and compared.

Knows nothing of tables or words for people. Holds a layer's 4-bit codes and scales, and one piece of its weights.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from bitsandbytes import functional

from .. import folders
from ..models import TRANSPOSED, LinearLayer, Model
from ..problems import Problem, RunError
from . import shards
from .shards import BLOCK, Stored

PIECE = 2**22  # weights at once: bitsandbytes' float32 copies of so many take about 100 MB
NESTED = 256  # scales that share a second scale (arXiv 2305.14314, section 3)
FORMATS = ("nf4", "fp4", "int4")

_BLOCK_NUMBER = re.compile(r"(?:^|\.)(?:layers|h|blocks?)\.(\d+)\.")
#: What follows a model's name in copies whose weights are packed.
_PACKED_NAME = re.compile(
    r"[-_](?:(?:unsloth-)?bnb-(?:4|8)bit|(?:gptq|awq|fp8|int4|int8|nf4|hqq|aqlm)(?:[-_].*)?)$", re.I
)
#: Beside the linear layers of blocks, by a part of the name: why QLoRA leaves it in 16 bit.
_KEPT = {
    "experts": "Transformers fuses experts into tensors that bitsandbytes does not pack",
    "gate": "it chooses the experts",
    "router": "it chooses the experts",
}
Pieces = Callable[[], Iterable[torch.Tensor]]


class Damage(NamedTuple):
    """What 4 bits do to a layer's weights: squared norms of difference and weights, and the largest of each."""

    squared_error: float
    squared: float
    largest_error: float
    largest: float

    @property
    def error(self) -> float:
        """The norm of the difference over the norm of the weights; 0 where all of them are 0."""
        return math.sqrt(self.squared_error / self.squared) if self.squared else 0.0


def damage(pieces: Pieces, quant_type: str = "nf4", double_quant: bool = True) -> Damage:
    """Quantizes a layer and compares; `pieces` gives its weights in float32, in whole blocks, each time it is called.

    The same codes and scales as bitsandbytes' quantize_4bit of the whole layer: the scales of all pieces are quantized
    together, which takes a second reading. Half a byte of codes for each weight is held meanwhile.
    """
    packed = [functional.quantize_4bit(one, quant_type=quant_type) for one in pieces()]
    scales = torch.cat([state.absmax for _, state in packed])
    if double_quant:
        scales = nested(scales)
    for (_, state), mine in zip(
        packed, scales.split([len(state.absmax) for _, state in packed]), strict=True
    ):
        state.absmax = mine
    return _compared(
        (one, functional.dequantize_4bit(*kept)) for one, kept in zip(pieces(), packed, strict=True)
    )


def nested(scales: torch.Tensor) -> torch.Tensor:
    """A layer's scales, (blocks,) in float32, after double quantization: as 8-bit codes in blocks of 256, and back."""
    offset = scales.mean()
    codes, state = functional.quantize_blockwise(scales - offset, blocksize=NESTED)
    return functional.dequantize_blockwise(codes, state) + offset


def rounded(weights: torch.Tensor, form: str) -> torch.Tensor:
    """Weights, 1-D in float32, as "nf4", "fp4" or "int4" (15 even levels) keeps them, in blocks of 64 with a scale each."""
    if form != "int4":
        return functional.dequantize_4bit(*functional.quantize_4bit(weights, quant_type=form))
    blocks = torch.nn.functional.pad(weights, (0, -len(weights) % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1, keepdim=True).clamp(min=1e-38) / 7
    return ((blocks / scales).round() * scales).view(-1)[: len(weights)]


def compared(pieces: Pieces) -> dict[str, float]:
    """Squared norm of what each format of FORMATS does to a layer, every scale in 32 bits."""
    errors = dict.fromkeys(FORMATS, 0.0)
    for piece in pieces():
        for form in FORMATS:
            errors[form] += _squared(piece - rounded(piece, form))
    return errors


def broken(pieces: Pieces) -> int:
    """How many weights are no numbers, or infinite."""
    return sum(int(one.numel() - torch.isfinite(one).sum()) for one in pieces())


def reader(stored: Stored, *, turned: bool = False) -> Pieces:
    """What reads a layer's weights in float32, flat and in whole blocks.

    `turned` is for models with Conv1D layers, all of them small: bitsandbytes gets their weights the other way round.
    """

    def pieces() -> Iterator[torch.Tensor]:
        if not turned:
            yield from (piece.float() for piece in shards.flat(stored, PIECE))
            return
        (whole,) = shards.flat(stored, math.prod(stored.shape))
        yield from whole.view(stored.shape).T.float().reshape(-1).split(PIECE)

    return pieces


def tell(
    say: Callable[..., None],
    hear: Iterator[dict[str, Any]],
    *,
    model: str,
    revision: str | None = None,
    quant_type: str = "nf4",
    double_quant: bool = True,
    compare: bool = False,
) -> None:
    """Says a "layer" for each, and "kept" for what QLoRA leaves in 16 bit. Raises RunError with what is wrong."""

    def fetching(file: str, number: int, of: int) -> None:
        text = f"fetching {file}, {number:,} of {of:,} files"
        say("progress", done=number - 1, of=of, text=text)

    folder = shards.folder(model, revision, fetch=True, told=fetching)
    found = Model(model, *folders.read(folder))
    refuse_packed(found)
    stored = shards.tensors(folder)
    layers, kept = chosen(found)
    for what in kept:
        say("kept", **what)
    if not layers:
        fact = f"{model} has no linear layers inside blocks that QLoRA would quantize."
        raise RunError([Problem("model.name", fact, "Give a language model, with its weights.")])
    turned = found.config.get("model_type") in TRANSPOSED
    weights = {layer: stored[f"{layer.name}.weight"] for layer in layers}
    in_order = sorted(layers, key=lambda one: (weights[one].file, weights[one].start))
    for number, layer in enumerate(in_order):
        text = f"layer {number + 1:,} of {len(layers):,}: {layer.name}"
        say("progress", done=number, of=len(layers), text=text)
        pieces = reader(weights[layer], turned=turned)
        say("layer", **_told(layer, pieces, quant_type, double_quant, compare))


def refuse_packed(model: Model) -> None:
    """Raises RunError for a model whose weights are quantized already: what they were is not in its files."""
    packed = any("quant_state.bitsandbytes" in name for name in model.tensors)
    if not (packed or model.quantized_by):
        return
    by = model.quantized_by or "bitsandbytes"
    fact = f"The weights of {model.name} were quantized already, by {by}: what they were before is not in its files."
    name = model.name.rstrip("/")
    original = _PACKED_NAME.sub("", name)
    cure = (
        f"Give the version in 16 bit: {original}."
        if original != name
        else "Give its 16-bit version."
    )
    raise RunError([Problem("model.name", fact, cure)])


def chosen(model: Model) -> tuple[list[LinearLayer], list[dict[str, Any]]]:
    """The layers that QLoRA quantizes, and what else is in the blocks, gathered by kind with tensors and parameters."""
    layers, tensors, parameters = [], Counter(), Counter()
    linear = {layer.name: layer for layer in model.linear_layers()}
    for name, tensor in model.tensors.items():
        path = name.removesuffix(".weight")
        parts = path.split(".")
        kind = "experts" if "experts" in parts else parts[-1]
        inside = len(tensor.shape) > 1 and _BLOCK_NUMBER.search(name)
        if path in linear and kind not in _KEPT:
            layers.append(linear[path])
        elif inside and (kind in _KEPT or len(tensor.shape) > 2):
            why = _KEPT.get(kind, f"it has {len(tensor.shape)} dimensions and is no linear layer")
            tensors[kind, why] += 1
            parameters[kind, why] += math.prod(tensor.shape)
    kept = [
        {"name": name, "why": why, "tensors": count, "parameters": parameters[name, why]}
        for (name, why), count in tensors.items()
    ]
    return layers, kept


def _told(
    layer: LinearLayer, pieces: Pieces, quant_type: str, double_quant: bool, compare: bool
) -> dict[str, Any]:
    """What is said of a layer; of one with weights that are no numbers, only how many they are."""
    number = _BLOCK_NUMBER.search(layer.name)
    said: dict[str, Any] = {
        "name": layer.name,
        "module": layer.module,
        "block": int(number[1]) if number else None,
        "parameters": layer.in_features * layer.out_features,
    }
    done = damage(pieces, quant_type, double_quant)
    if not math.isfinite(done.squared):
        return said | {"broken": broken(pieces)}
    said |= {
        "broken": 0,
        "error": done.error,
        "largest": done.largest_error / done.largest if done.largest else 0.0,
        "norm": math.sqrt(done.squared),
    }
    return said | {"others": compared(pieces) if compare else None}


def _compared(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Damage:
    sums = [0.0, 0.0, 0.0, 0.0]
    for before, after in pairs:
        difference = before - after
        sums[0] += _squared(difference)
        sums[1] += _squared(before)
        sums[2] = max(sums[2], float(difference.abs().max()))
        sums[3] = max(sums[3], float(before.abs().max()))
    return Damage(*sums)


def _squared(numbers: torch.Tensor) -> float:
    """The squared norm, summed in float64: float32 loses digits over millions of numbers."""
    return float(torch.linalg.vector_norm(numbers, dtype=torch.float64)) ** 2
