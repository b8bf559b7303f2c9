"""What a 4-bit layer takes, counted on the tensors that bitsandbytes keeps, in memory and in a file.

Tells what grows with the weights (codes, their scales, the scales' scales) from what is there once a layer (tables,
an offset). Knows layers of bitsandbytes; nothing of how the codes were found, and nothing of plans.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..problems import Problem, RunError
from .formats import BLOCK, SECOND_BLOCK, Quantized, dequantize

HEAD = 8  # bytes before a safetensors header, which say how long it is


@dataclass(frozen=True)
class LayerBytes:
    """Bytes of one 4-bit weight of `parameters` numbers. `constants` are there once a layer, whatever its size, by name."""

    name: str
    parameters: int
    codes: int
    scales: int
    second_scales: int
    constants: Mapping[str, int]

    @property
    def scale_bits(self) -> float:
        """Bits a parameter that its scales cost, constants apart: 0.5, or 0.127 with double quantization."""
        return 8 * (self.scales + self.second_scales) / self.parameters

    @property
    def bits(self) -> float:
        """Bits a parameter in all, constants apart."""
        return 8 * self.codes / self.parameters + self.scale_bits

    @property
    def total(self) -> int:
        """All bytes, with the constants."""
        return self.codes + self.scales + self.second_scales + sum(self.constants.values())

    def __str__(self) -> str:
        kept = ", ".join(f"{name} {size:,}" for name, size in self.constants.items())
        return (
            f"{self.name}: {self.parameters:,} weights in {self.total:,} bytes:"
            f" codes {self.codes:,}, scales {self.scales:,},"
            f" scales of scales {self.second_scales:,}; once a layer: {kept}."
            f" {self.bits:.3f} bits a weight, {self.scale_bits:.3f} of them for scales"
        )


class Scales(NamedTuple):
    """A layer's scales under double quantization: uint8 `codes` into 256 `levels`, a scale for 256 of them, and one offset.

    `restored` is levels[codes] * second + offset, float32: what bitsandbytes multiplies the 4-bit levels by.
    """

    codes: torch.Tensor
    levels: torch.Tensor
    second: torch.Tensor
    offset: float
    restored: torch.Tensor


def four_bit(
    weight: torch.Tensor, quant_type: str = "nf4", *, double_quant: bool = True
) -> torch.nn.Module:
    """A real Linear4bit of bitsandbytes without a bias that holds a matrix (out x in), quantized where the matrix is."""
    import bitsandbytes

    rows, columns = weight.shape
    layer = bitsandbytes.nn.Linear4bit(
        columns, rows, bias=False, compute_dtype=weight.dtype, quant_type=quant_type,
        compress_statistics=double_quant, device="meta",
    )  # fmt: skip
    layer.weight = bitsandbytes.nn.Params4bit(
        weight.detach().cpu(), requires_grad=False, quant_type=quant_type,
        compress_statistics=double_quant, module=layer,
    )  # fmt: skip
    return layer.to(weight.device)


def of_layer(layer: Any, name: str = "layer") -> LayerBytes:
    """Bytes of a layer's weight, counted on its tensors; an adapter beside it is left out.

    Raises RunError for a layer that is not quantized to 4 bits.
    """
    weight, state = _packed(layer, name)
    constants = {"16 levels": _bytes(state.code)}
    second = 0
    if state.nested:
        second = _bytes(state.state2.absmax)
        constants |= {"256 levels": _bytes(state.state2.code), "offset": _bytes(state.offset)}
    return LayerBytes(
        name=name,
        parameters=state.shape.numel(),
        codes=_bytes(weight),
        scales=_bytes(state.absmax),
        second_scales=second,
        constants=constants,
    )


def of_model(model: torch.nn.Module) -> list[LayerBytes]:
    """The same for each 4-bit layer of a model; raises RunError for a model that has none."""
    found = {
        name: module
        for name, module in model.named_modules()
        if type(vars(module).get("_parameters", {}).get("weight")).__name__ == "Params4bit"
    }
    if not found:
        fact = "No layer of the model is in 4 bits."
        raise RunError([Problem("model.load_in_4bit", fact, "Load it with load_in_4bit=True.")])
    return [of_layer(module, name) for name, module in found.items()]


def scales(layer: Any, name: str = "layer") -> Scales:
    """How a layer keeps its scales; raises RunError where they are plain float32, or the layer is not in 4 bits."""
    _, state = _packed(layer, name)
    if not state.nested:
        fact = f"The scales of {name} are float32, one a block: double quantization is off."
        cure = "Quantize it with double_quant=True."
        raise RunError([Problem("model.double_quant", fact, cure)])
    inner = state.state2
    codes = state.absmax.flatten()
    stored = Quantized(codes, inner.absmax, inner.code, inner.blocksize, codes.shape)
    restored = dequantize(stored) + state.offset
    return Scales(codes, inner.code, inner.absmax, state.offset.item(), restored)


def on_disk(layer: Any, name: str = "layer") -> dict[str, int]:
    """Bytes by tensor of a layer in a safetensors file, and of the file's `header`; they sum to the file.

    Raises RunError for a layer that is not in 4 bits.
    """
    from safetensors.torch import save

    _packed(layer, name)
    file = save({key: value.contiguous() for key, value in layer.state_dict().items()})
    length = int.from_bytes(file[:HEAD], "little")
    tensors = json.loads(file[HEAD : HEAD + length])
    tensors.pop("__metadata__", None)
    sizes = {key: kept["data_offsets"] for key, kept in tensors.items()}
    return {key: end - begin for key, (begin, end) in sizes.items()} | {"header": HEAD + length}


def scale_bits(*, double_quant: bool, block: int = BLOCK, second: int = SECOND_BLOCK) -> float:
    """Bits a parameter for scales: 32 / 64 = 0.5, or 8 / 64 + 32 / (64 * 256) = 0.127 (QLoRA, arXiv 2305.14314, section 3)."""
    return 8 / block + 32 / (block * second) if double_quant else 32 / block


def saved(parameters: int) -> float:
    """Bytes that double quantization saves on so many parameters: 0.373 bits each."""
    return parameters * (scale_bits(double_quant=False) - scale_bits(double_quant=True)) / 8


def _packed(layer: Any, name: str) -> tuple[torch.Tensor, Any]:
    """A layer's packed weight and its QuantState."""
    weight = getattr(layer, "weight", layer)
    state = getattr(weight, "quant_state", None)
    if state is None:
        kind = str(getattr(weight, "dtype", type(weight).__name__)).removeprefix("torch.")
        fact = f"The weight of {name} is {kind}, not 4 bits of bitsandbytes."
        cure = "Load the model with load_in_4bit=True, or pass the matrix through storage.four_bit."
        raise RunError([Problem("model.load_in_4bit", fact, cure)])
    return weight, state


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
