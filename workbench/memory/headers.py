"""A model's parameters counted from the headers of its weights.

Knows nothing of configurations: sizes, and the form of layers in 4 bits, come from the shapes that are handed in.
"""

import math
import re
from collections import Counter
from dataclasses import replace

from ..folders import Tensor
from ..models import TRANSPOSED
from ..problems import Problem, RunError
from .shapes import Linear, Shapes, gathered

_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks?)\.\d+\.(?P<path>.+)\.(?P<kind>\w+)$")
#: Modules beside the language model, by a word in their names.
_TOWER = re.compile(r"(?:^|\.)\w*(?:vision|visual|multi_modal|image|audio)\w*\.")
#: Tensors that are no parameters: what bitsandbytes keeps beside its weights, and buffers of older models.
_BESIDE = re.compile(
    r"absmax$|quant_map$|quant_state\.|\.SCB$|weight_format$|inv_freq$|\.(?:attn|attention)\.(?:masked_)?bias$"
)
_QUANT_STATE = re.compile(r"\.weight\.quant_state\.bitsandbytes__(?:nf4|fp4)$")
_BYTES = {"U8": 1, "I8": 1, "BF16": 2, "F16": 2, "F32": 4}  # of an element that holds 4-bit values


def has_blocks(tensors: dict[str, Tensor]) -> bool:
    """Whether there are layers among these tensors."""
    return any(map(_BLOCK.search, tensors))


def counted(shapes: Shapes, tensors: dict[str, Tensor]) -> Shapes:
    """The same shapes with layers and parameters as the headers have them."""
    packed = {_QUANT_STATE.sub("", name) for name in tensors if _QUANT_STATE.search(name)}
    quantizes = any(kind.packed for kind in shapes.linears)
    totals: Counter[str] = Counter()
    kinds: Counter[Linear] = Counter()
    for name, tensor in tensors.items():
        if _BESIDE.search(name):
            continue
        path = name.removesuffix(".weight")
        size = math.prod(tensor.shape) * (2 * _BYTES.get(tensor.dtype, 1) if path in packed else 1)
        part = _part(name, tensor)
        totals[part] += size
        if part == "linears":
            kind = _linear(shapes, path, tensor, size, path in packed)
            bias = f"{path}.bias" in tensors
            stored = path in packed if packed else quantizes
            kinds[kind._replace(bias=bias, packed=stored)] += 1
    unknown = list(shapes.unknown)
    if totals["tower"]:
        unknown.append(
            f"the {totals['tower']:,} parameters beside the language model, which are not counted"
        )
    if packed and any(name.partition(".")[0] == "lm_head" for name in packed):
        unknown.append("the head, which is stored in 4 bits and counted as if it were in 16")
    return replace(
        shapes,
        linears=gathered(kinds),
        embedding=totals["embedding"],
        head=totals["head"] if shapes.head else 0,  # a tied head may be stored all the same
        other=totals["other"],
        experts=totals["experts"],
        unknown=tuple(unknown),
    )


def _part(name: str, tensor: Tensor) -> str:
    """What a tensor is: "linears", "embedding", "head", "experts", "tower" or "other"."""
    if _TOWER.search(name):
        return "tower"
    *path, module, kind = ("", *name.split("."))
    if "experts" in (*path, module):
        return "experts"
    if kind != "weight" or len(tensor.shape) != 2:
        return "other"
    if not _BLOCK.search(name):
        if ("embed" in module and module != "embed_out") or module in ("wte", "wpe"):
            return "embedding"
        return "head" if module in ("lm_head", "embed_out", "output") else "other"
    return "other" if module in ("gate", "router") or "norm" in module else "linears"


def _linear(shapes: Shapes, path: str, tensor: Tensor, size: int, packed: bool) -> Linear:
    """A linear layer from its header; one in 4 bits gets its form from the layer of its name and size."""
    module = path.rpartition(".")[2]
    group = "attention" if "attn" in path or "attention" in path else "mlp"
    out, inner = tensor.shape
    if shapes.model_type in TRANSPOSED:
        out, inner = inner, out
    if packed:
        like = [
            kind for kind in shapes.linears
            if kind[:2] == (module, group) and kind.in_features * kind.out_features == size
        ]  # fmt: skip
        if not like:
            fact = f"The shape of {path} in {shapes.name} cannot be told from its 4-bit weights."
            cure = "Take the model's 16-bit version; it is quantized while it loads."
            raise RunError([Problem("model.name", fact, cure)])
        _, _, inner, out, *_ = like[0]
    return Linear(module, group, inner, out, 0)
