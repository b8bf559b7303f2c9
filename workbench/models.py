"""What is known of a model before its weights are there: its configuration and the shapes of its layers.

Knows nothing of torch: shapes come from the headers of safetensors files, a few kilobytes even of the largest model.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from . import folders
from .folders import Tensor
from .problems import Problem, RunError

#: Linear modules as most models call them, in the order in which they are shown.
USUAL = (
    "q_proj", "k_proj", "v_proj", "qkv_proj", "c_attn", "query_key_value", "o_proj", "out_proj", "dense",
    "gate_proj", "up_proj", "gate_up_proj", "down_proj",
)  # fmt: skip
#: Models whose blocks hold Conv1D layers, which store their weight as (in, out).
TRANSPOSED = ("gpt2", "openai-gpt")

_IN_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks?)\.\d+\.")
_PACKED = re.compile(r"\.quant_state\.bitsandbytes__(?:nf4|fp4)$")


class LinearLayer(NamedTuple):
    """A linear layer inside a block: "model.layers.0.self_attn.q_proj" is a "q_proj"."""

    name: str
    module: str
    in_features: int
    out_features: int


@dataclass(frozen=True)
class Model:
    """A model's configuration (config.json) and its tensors by name."""

    name: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def text_config(self) -> dict[str, Any]:
        """The part of the configuration that describes the language model."""
        return self.config.get("text_config") or self.config

    @property
    def context_length(self) -> int | None:
        """The most tokens that the model was made for, None if its configuration does not say."""
        length = self.text_config.get("max_position_embeddings") or self.text_config.get(
            "n_positions"
        )
        return length if isinstance(length, int) else None

    @property
    def quantized_by(self) -> str | None:
        """What the stored weights were quantized with ("bitsandbytes", "gptq", ...), None if they are not."""
        return (self.config.get("quantization_config") or {}).get("quant_method")

    @property
    def modules(self) -> list[str]:
        """Names of the modules that have a weight, blocks and everything else."""
        return [name.removesuffix(".weight") for name in self.tensors if name.endswith(".weight")]

    def parameters_of(self, modules: Sequence[str]) -> int:
        """Parameters in the weights of these modules, by name or the end of a dotted name."""
        weights = {name.removesuffix(".weight"): tensor for name, tensor in self.tensors.items()}
        return sum(
            math.prod(tensor.shape)
            for path, tensor in weights.items()
            if any(matches(path, module) for module in modules)
        )

    def linear_layers(self) -> tuple[LinearLayer, ...]:
        """The layers with a 2-D weight inside the blocks: no embeddings, norms or head. Raises RunError."""
        packed = {_PACKED.sub("", name) for name in self.tensors if _PACKED.search(name)}
        layers = []
        for name, tensor in self.tensors.items():
            inside = name.endswith(".weight") and _IN_BLOCK.search(name)
            if (
                not inside
                or len(tensor.shape) != 2
                or "embed" in name
                or "norm" in name.split(".")[-2]
            ):
                continue
            path = name.removesuffix(".weight")
            module = path.rpartition(".")[2]
            out_features, in_features = (
                self._unpacked(path, module, math.prod(tensor.shape))
                if name in packed
                else tensor.shape
            )
            if self.config.get("model_type") in TRANSPOSED:
                in_features, out_features = out_features, in_features
            layers.append(LinearLayer(path, module, in_features, out_features))
        return tuple(layers)

    def _unpacked(self, path: str, module: str, packed_bytes: int) -> tuple[int, int]:
        """(out, in) of a weight of which the file only tells that it holds two values in each byte."""
        config = self.text_config
        try:
            hidden, heads = config["hidden_size"], config["num_attention_heads"]
            head = config.get("head_dim") or hidden // heads
            queries, keys = heads * head, (config.get("num_key_value_heads") or heads) * head
            middle = config["intermediate_size"]
            shape = {
                "q_proj": (queries, hidden), "k_proj": (keys, hidden), "v_proj": (keys, hidden),
                "qkv_proj": (queries + 2 * keys, hidden), "o_proj": (hidden, queries),
                "gate_proj": (middle, hidden), "up_proj": (middle, hidden),
                "gate_up_proj": (2 * middle, hidden), "down_proj": (hidden, middle),
            }[module]  # fmt: skip
        except KeyError:
            shape = (0, 0)
        if math.prod(shape) != 2 * packed_bytes:
            fact = f"The shape of {path} in {self.name} cannot be told from its 4-bit weights."
            raise RunError(
                [
                    Problem(
                        "model.name",
                        fact,
                        "Take the model's 16-bit version; it is quantized while it loads.",
                    )
                ]
            )
        return shape


def read(name: str, revision: str | None = None) -> Model:
    """Reads a model's configuration and headers from a folder, the hub's cache, or the hub. Raises RunError."""
    if is_local(name):
        folder = Path(name).expanduser()
        if problems := folders.problems(folder):
            raise RunError(problems)
        return Model(name, *folders.read(folder))
    from . import hub

    cached = hub.cached_folder(name, revision)
    if cached and not folders.problems(cached):
        return Model(name, *folders.read(cached))
    return Model(name, *hub.read(name, revision))


def linear_layers(name: str, revision: str | None = None) -> tuple[LinearLayer, ...]:
    """The linear layers of a model's blocks, those that an adapter can be put beside. Raises RunError."""
    return read(name, revision).linear_layers()


def target_modules(layers: Sequence[LinearLayer]) -> list[str]:
    """The kinds of layer there are ("q_proj", ...), attention first."""
    attention = {
        layer.module: "attn" in layer.name or "attention" in layer.name for layer in layers
    }
    known = {module: place for place, module in enumerate(USUAL)}
    return sorted(
        attention, key=lambda module: (not attention[module], known.get(module, len(known)), module)
    )


def targeted(
    layers: Sequence[LinearLayer], targets: Literal["all-linear"] | Sequence[str]
) -> list[LinearLayer]:
    """The layers that `lora.target_modules` means: a name or the end of a dotted name, as PEFT matches them."""
    if targets == "all-linear":
        return list(layers)
    return [layer for layer in layers if any(matches(layer.name, target) for target in targets)]


def matches(path: str, target: str) -> bool:
    """Whether a module's dotted path is what PEFT takes `target` to mean."""
    return path == target or path.endswith("." + target)


def lora_parameters(
    layers: Sequence[LinearLayer],
    rank: int,
    targets: Literal["all-linear"] | Sequence[str] = "all-linear",
    *,
    dora: bool = False,
) -> int:
    """Parameters of an adapter: A is rank x in, B is out x rank, and DoRA adds a size for each output."""
    return sum(
        rank * (layer.in_features + layer.out_features) + (layer.out_features if dora else 0)
        for layer in targeted(layers, targets)
    )


def is_local(name: str) -> bool:
    """Whether a name means a folder: it exists, or it is written like a path and cannot be a name on the hub."""
    path_like = (
        name.startswith((".", "/", "~"))
        or name.count("/") > 1
        or "\\" in name
        or name.endswith("/")
    )
    return path_like or Path(name).exists()
