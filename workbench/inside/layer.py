"""An adapted layer taken apart: the frozen weight, A, B and the scale; its output by hand; merging, exact and in 4 bits.

The models are loaded and adapted by the worker's own backend, so that what is taken apart is what a run trains. Knows
PEFT's layers and bitsandbytes' 4-bit weights; nothing of runs, files or rows.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import bitsandbytes.functional as bnb
import torch
from peft.tuners.lora import LoraLayer
from torch.nn import functional
from transformers.utils import logging

from ..models import matches
from ..problems import Problem, RunError
from ..recipe import Recipe
from ..worker import precision
from ..worker.backends import peft as backend
from .steps import Batch, evaluated

PREFIX = "base_model.model."  # what PEFT puts before a module's own name


NO_ADAPTER = Problem(
    "", "None of the model's layers has an adapter.", "Attach one: layer.loaded(recipe) does."
)


class Parts(NamedTuple):
    """What an adapted layer computes with: `weight` (out, in) with 4-bit codes expanded, `bias` (out,) or None,
    `a` (rank, in), `b` (out, rank), `scale` (alpha / rank, with rsLoRA alpha / root of rank) and `dropout`, a share."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    a: torch.Tensor
    b: torch.Tensor
    scale: float
    dropout: float


class Merges(NamedTuple):
    """Mean losses in nats per token: of the `base` alone, with the adapter `apart`, and merged into weights in
    `float32`, in `bfloat16`, in `four_bits` again, and into the `original` unquantized ones (None if not given)."""

    base: float
    apart: float
    float32: float
    bfloat16: float
    four_bits: float | None
    original: float | None


#: A weight (out, in) for a layer, by its name, itself and its parts.
WeightOf = Callable[[str, Any, Parts], torch.Tensor]


def loaded(recipe: Recipe) -> backend.Loaded:
    """The recipe's model with a fresh adapter, and its tokenizer, by the PEFT backend of the worker; in evaluation mode.

    A is drawn with the recipe's seed; torch's own random numbers stay where they were. On a CPU with bfloat16
    instructions bitsandbytes would rearrange the codes and round their scales to bfloat16 at the first evaluation
    (nn/modules.py, Linear4bit.forward); here that is off, so that the weights stay as they were stored.
    """
    showed = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        base = backend.load(recipe, precision.choose(recipe.model.compute_dtype))
    finally:
        if showed:
            logging.enable_progress_bar()
    for module in base.model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    with torch.random.fork_rng():
        torch.manual_seed(recipe.training.seed)
        model = backend.attach(base.model, recipe)
    return base._replace(model=model.eval())


def adapted(model: Any) -> dict[str, Any]:
    """The linear layers that have an adapter, by their names in the base model."""
    return {
        name.removeprefix(PREFIX): module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer) and module.lora_A
    }


def named(model: Any, name: str) -> Any:
    """The adapted layer of a name, or of its end: "layers.0.self_attn.q_proj". Raises RunError where there is not one."""
    layers = adapted(model)
    found = [path for path in layers if matches(path, name)]
    if len(found) == 1:
        return layers[found[0]]
    if not layers:
        raise RunError([NO_ADAPTER])
    if found:
        fact = f"{len(found)} layers with an adapter are called {name!r}."
        raise RunError([Problem("", fact, f"Take one of them, such as {found[0]}.")])
    fact = f"No layer called {name!r} has an adapter."
    raise RunError([Problem("", fact, f"{len(layers)} have one, such as {next(iter(layers))}.")])


def dequantized(layer: Any) -> torch.Tensor:
    """The weight (out, in) that 4-bit codes stand for, in the type that the layer computes in.

    `layer` is bitsandbytes' Linear4bit, or PEFT's around it. Raises RunError for one that is not in 4 bits.
    """
    weight = _base(layer).weight
    state = _state(layer)
    if state is None:
        fact = f"The layer's weight is not in 4 bits; it is {_type(weight)}."
        raise RunError([Problem("model.load_in_4bit", fact, "Load the model with load_in_4bit: true.")])  # fmt: skip
    if getattr(state, "packing_format_for_cpu", False):
        fact = "bitsandbytes has rearranged the layer's codes for this CPU."
        raise RunError([Problem("", fact, "Load the model by layer.loaded, which leaves them alone.")])  # fmt: skip
    return bnb.dequantize_4bit(weight.data, state)


def parts(layer: Any) -> Parts:
    """What an adapted layer computes with, detached from training; the weight in 4 bits or not.

    Raises RunError for a layer without an adapter, with several, with one that is merged, or with another kind than
    plain LoRA.
    """
    if not isinstance(layer, LoraLayer) or not layer.lora_A:
        fact = f"The layer ({type(layer).__name__}) has no adapter."
        raise RunError([Problem("", fact, "Take one of those that layer.adapted(model) lists.")])
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(active) != 1:
        fact = f"The layer has {len(active)} active adapters."
        raise RunError([Problem("", fact, "Make one active: model.set_adapter(name).")])
    name = active[0]
    if layer.merged:
        fact = "The adapter is merged: the layer's weight holds it already."
        raise RunError([Problem("", fact, "Take it out first: model.unmerge_adapter().")])
    if name in layer.lora_variant or layer.lora_bias.get(name):
        fact = "The adapter is more than A and B (DoRA, or a bias of its own)."
        raise RunError([Problem("lora.dora", fact, "Take one that was trained with dora: false.")])
    base = _base(layer)
    return Parts(
        weight=_expanded(layer),
        bias=None if base.bias is None else base.bias.detach(),
        a=layer.lora_A[name].weight.detach(),
        b=layer.lora_B[name].weight.detach(),
        scale=layer.scaling[name],
        dropout=float(getattr(layer.lora_dropout[name], "p", 0.0)),
    )


def frozen(parts: Parts, x: torch.Tensor) -> torch.Tensor:
    """The base layer's way: x Wᵀ + bias, of x (…, in)."""
    return functional.linear(x, parts.weight, parts.bias)


def added(parts: Parts, x: torch.Tensor) -> torch.Tensor:
    """The adapter's way: scale · (x Aᵀ) Bᵀ, of x (…, in); two thin products, B A is never formed.

    While training, x has gone through dropout first; here that is left to whoever calls.
    """
    return (x.to(parts.a.dtype) @ parts.a.T) @ parts.b.T * parts.scale


def by_hand(parts: Parts, x: torch.Tensor) -> torch.Tensor:
    """What the layer gives for x (…, in) when it does not drop anything: x Wᵀ + scale · (x Aᵀ) Bᵀ (arXiv 2305.14314, eq. 5)."""
    return (frozen(parts, x) + added(parts, x)).to(x.dtype)


def update(parts: Parts) -> torch.Tensor:
    """What the adapter adds to the weight (out, in): scale · B A, in float32."""
    return parts.b.float() @ parts.a.float() * parts.scale


def merged(parts: Parts, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The weight (out, in) with the update added, computed in float32 and kept in `dtype`."""
    return (parts.weight.float() + update(parts)).to(dtype)


def quantized_again(layer: Any, weight: torch.Tensor) -> torch.Tensor:
    """What is left of a weight (out, in) that goes into 4 bits as the layer's own: same type, blocks and scales.

    Raises RunError for a layer that is not in 4 bits.
    """
    own = dequantized(layer)
    state = _state(layer)
    codes, again = bnb.quantize_4bit(
        weight.to(own.dtype).contiguous(),
        blocksize=state.blocksize,
        compress_statistics=state.nested,
        quant_type=state.quant_type,
    )
    return bnb.dequantize_4bit(codes, again)


def merges(model: Any, some: Sequence[Batch], *, original: Any = None) -> Merges:
    """What merging costs: the loss on some batches with the adapter apart, and merged in several ways.

    `original` is the same model with the same adapted layers, loaded without 4 bits (`loaded` with load_in_4bit: false).
    Raises RunError for a model without an adapter, or an original that is another model or in 4 bits itself.
    """
    layers = adapted(model)
    if not layers:
        raise RunError([NO_ADAPTER])
    in_4bit = all(_state(layer) is not None for layer in layers.values())
    unquantized = _weights(original, layers) if original is not None else {}

    def with_weights(weight_of: WeightOf) -> float:
        with _replaced(model, weight_of):
            return evaluated(model, some)

    def on_original(name: str, layer: Any, own: Parts) -> torch.Tensor:
        return merged(own._replace(weight=unquantized[name]))

    with model.disable_adapter():
        base = evaluated(model, some)
    return Merges(
        base=base,
        apart=evaluated(model, some),
        float32=with_weights(lambda name, layer, own: merged(own)),
        bfloat16=with_weights(lambda name, layer, own: merged(own, torch.bfloat16)),
        four_bits=with_weights(lambda name, layer, own: quantized_again(layer, merged(own)))
        if in_4bit
        else None,
        original=with_weights(on_original) if unquantized else None,
    )


def _weights(original: Any, layers: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The frozen weights (out, in) of an unquantized model by layer. Raises RunError where they are not those of `layers`."""
    cure = "Load the same recipe with load_in_4bit: false."
    others = adapted(original)
    shapes = [{name: tuple(_shape(layer)) for name, layer in of.items()} for of in (layers, others)]
    if shapes[0] != shapes[1]:
        fact = f"The original has {len(others)} adapted layers that are not the model's {len(layers)} by name and shape."
        raise RunError([Problem("model.name", fact, cure)])
    if any(_state(layer) is not None for layer in others.values()):
        raise RunError([Problem("model.load_in_4bit", "The original is in 4 bits itself.", cure)])
    return {name: _expanded(layer) for name, layer in others.items()}


@contextlib.contextmanager
def _replaced(model: Any, weight_of: WeightOf) -> Iterator[None]:
    """Inside, plain linear layers with these weights are in the places of the adapted ones."""
    layers = adapted(model)
    try:
        for name, layer in layers.items():
            of = parts(layer)
            plain = torch.nn.Linear(*reversed(of.weight.shape), bias=False, device="meta")
            weight = weight_of(name, layer, of).to(of.weight.dtype)
            plain.weight = torch.nn.Parameter(weight, requires_grad=False)
            plain.bias = None if of.bias is None else torch.nn.Parameter(of.bias, False)
            model.set_submodule(PREFIX + name, plain)
        yield
    finally:
        for name, layer in layers.items():
            model.set_submodule(PREFIX + name, layer)


def _base(layer: Any) -> Any:
    return layer.get_base_layer() if isinstance(layer, LoraLayer) else layer


def _expanded(layer: Any) -> torch.Tensor:
    """The base layer's weight (out, in) as numbers. Raises RunError for 8-bit codes."""
    base = _base(layer)
    if _state(layer) is not None:
        return dequantized(layer)
    if not base.weight.is_floating_point():
        fact = f"The layer's weight is {_type(base.weight)}, neither 4-bit codes nor numbers."
        raise RunError([Problem("model.name", fact, "Load the model in 4 bits, or unquantized.")])
    weight = base.weight.detach()
    return weight.T if getattr(layer, "fan_in_fan_out", False) else weight


def _state(layer: Any) -> Any:
    """By what bitsandbytes expands the base layer's 4-bit codes; None for one that is not in 4 bits."""
    return getattr(_base(layer).weight, "quant_state", None)


def _shape(layer: Any) -> tuple[int, int]:
    base = _base(layer)
    return base.out_features, base.in_features


def _type(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
