"""The shapes of a model's layers, from its config.json alone or from the headers of its weights.

Knows nothing of bytes, recipes or torch. A model is a stack of blocks, so a few traits of its family and the sizes
in its configuration give every layer.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..models import USUAL, Model
from .families import MOST, STRANGE, Family, Fields


class Linear(NamedTuple):
    """One kind of linear layer inside the blocks: `count` equal layers."""

    module: str  # "q_proj"
    group: str  # "attention" or "mlp"
    in_features: int
    out_features: int
    count: int  # layers of this kind and shape, with this `packed`, in the whole model
    bias: bool = False
    packed: bool = True  # stored in 4 bits when the recipe says so; False: kept in 16 bit
    adapted: bool = True  # a torch.nn.Linear (or Conv1D) that LoRA can be put beside


@dataclass(frozen=True)
class Shapes:
    """What a model is made of, in parameters; sizes in numbers of features or tokens."""

    name: str
    model_type: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int  # width of the MLP that one token goes through: active experts x their width, and shared
    vocab: int
    linears: tuple[Linear, ...]
    embedding: int  # all tables
    head: int  # a head stored apart; 0 when tied
    other: int  # what else stays in 16 bit: norms, biases, routers
    experts: int = 0  # fused expert tensors, no nn.Linear: they stay in 16 bit and get no adapter
    context_length: int | None = None
    window: int | None = None  # tokens that layers with a sliding window see
    full_attention_layers: int | None = None  # None: all
    quantized_by: str | None = None
    unknown: tuple[str, ...] = ()  # in words: which figures could not be told

    @property
    def parameters(self) -> int:
        """All parameters; a tied head counts once."""
        linear = sum(kind.in_features * kind.out_features * kind.count for kind in self.linears)
        return linear + self.embedding + self.head + self.other + self.experts


def from_config(config: dict[str, Any], name: str = "") -> Shapes:
    """Shapes as a config.json gives them; what it leaves open is named in `unknown`. Raises RunError."""
    shapes, guesses = _told(config, name)
    return replace(shapes, unknown=shapes.unknown + guesses)


def from_model(model: Model) -> Shapes:
    """Shapes with each layer counted from the weights' headers, also of bitsandbytes' 4 bits. Raises RunError."""
    from . import headers

    shapes, guesses = _told(model.config, model.name)
    if shapes.quantized_by not in (None, "bitsandbytes") or not headers.has_blocks(model.tensors):
        told = (
            "the layers' exact figures: they follow from config.json, not from the weights' headers"
        )
        return replace(shapes, unknown=(*shapes.unknown, *guesses, told))
    counted = headers.counted(shapes, model.tensors)
    if any(guess.startswith("the architecture") for guess in guesses):
        kind = shapes.model_type or "this architecture"
        told = f"what the layers of {kind} hold while they compute (assumed: what Llama's do)"
        return replace(counted, unknown=(*counted.unknown, told))
    return counted


def _told(config: Any, name: str) -> tuple[Shapes, tuple[str, ...]]:
    """Shapes by formula, and what of the layers is a guess (which sizes are one is in `unknown`)."""
    fields = Fields(config, name)
    family = fields.family or Family(
        qkv_bias="attention_bias", o_bias="attention_bias", mlp_bias="mlp_bias",
        experts=bool(fields.number("num_experts", 0)),
    )  # fmt: skip
    shapes = _sizes(fields, family, name)
    window, full = _windows(fields, family, shapes.layers)
    quantization = fields.part("quantization_config")
    kept = quantization.get("llm_int8_skip_modules") or quantization.get("modules_to_not_convert")
    if kept and not (isinstance(kept, list) and all(isinstance(key, str) for key in kept)):
        fields.wrong("The modules that quantization_config leaves out are no list of names.")
    tied, sparse = fields.truth("tie_word_embeddings"), _sparse(fields, family, shapes.layers)
    fields.raise_problems()
    other, experts = _beside(fields, family, shapes, sum(sparse))
    linears = _linears(fields, family, shapes, sparse, _keeper(kept or ()))
    fields.raise_problems()  # with those of fields that say which biases there are
    quantized_by = quantization.get("quant_method")
    table, extra = shapes.vocab * shapes.hidden, fields.model_type == "gpt2"  # a row for each place
    shapes = replace(
        shapes,
        linears=linears,
        embedding=table + extra * (shapes.context_length or 0) * shapes.hidden,
        head=0 if tied else table,
        other=other + sum(kind.bias * kind.out_features * kind.count for kind in linears),
        experts=experts,
        window=window,
        full_attention_layers=full,
        quantized_by=quantized_by if isinstance(quantized_by, str) else None,
        unknown=tuple(fields.unknown),
    )
    return shapes, tuple(_guesses(fields))


def _sizes(fields: Fields, family: Family, name: str) -> Shapes:
    """The sizes alone; assumptions go to `fields.unknown`, faults to `fields.problems`."""
    hidden, layers, vocab = map(fields.needed, ("hidden_size", "num_hidden_layers", "vocab_size"))
    heads, head_dim = fields.number("num_attention_heads"), fields.number("head_dim")
    if not heads:
        heads = max(1, hidden // (head_dim or 128))
        fields.unknown.append(f"the number of attention heads (assumed: {heads})")
    kv_heads = fields.number("num_key_value_heads") or heads
    if fields.model_type == "falcon" and not fields.truth("new_decoder_architecture"):
        kv_heads = heads if fields.truth("multi_query") is False else 1
    if not head_dim and hidden % heads and not fields.problems:
        fact = f"hidden_size {hidden} cannot be divided among num_attention_heads {heads}"
        fields.wrong(f"{fact}, and there is no head_dim.")
    if heads % kv_heads and not fields.problems:
        whose = fields.source("num_key_value_heads")
        fact = f"num_attention_heads {heads} cannot be divided among num_key_value_heads {kv_heads}"
        fields.wrong(f"{fact}{whose}.")
    context = fields.number("max_position_embeddings", most=2**31)
    return Shapes(
        name, fields.model_type, layers, hidden, heads, kv_heads, head_dim or max(1, hidden // heads),
        _mlp_width(fields, family, hidden), vocab, (), 0, 0, 0, context_length=context,
    )  # fmt: skip


def _mlp_width(fields: Fields, family: Family, hidden: int) -> int:
    """The width that one token goes through."""
    width = fields.number("intermediate_size", most=MOST["intermediate_size"])
    if family.experts:
        width = fields.number("moe_intermediate_size") or width
    if not width:
        width = 4 * hidden
        if fields.model_type not in ("falcon", "gpt2"):  # theirs is four times, unless it is said
            fields.unknown.append(f"the MLP's width (assumed: {width}, 4 x hidden_size)")
    if not family.experts:
        return width
    active = fields.number("num_experts_per_tok")
    if not active:
        fields.unknown.append("how many experts a token goes through (assumed: 1)")
    return width * (active or 1) + (fields.number("shared_expert_intermediate_size") or 0)


def _windows(fields: Fields, family: Family, layers: int) -> tuple[int | None, int | None]:
    """(Tokens in a sliding window, layers without one); (None, None) where no layer has one."""
    kinds = fields.find("layer_types")[1]
    if kinds is not None and not (isinstance(kinds, list) and len(kinds) == layers):
        fields.wrong(f"layer_types must be a list with one kind for each of {layers} layers.")
        return None, None
    window = fields.number("sliding_window", 0, MOST["sliding_window"])
    if not window or fields.truth("use_sliding_window") is False:
        return None, None
    if kinds:
        full = sum(kind == "full_attention" for kind in kinds)
    elif family.window == -1:
        full = min(layers, fields.number("max_window_layers", 0) or 0)
    elif family.window in (0, 1):
        full = layers * (1 - family.window)
    else:  # Gemma 3 and Command R7B say how many layers make a round; the others always have the same
        said = fields.family and fields.model_type in ("gemma3_text", "gemma3", "cohere2")
        full = layers // ((said and fields.number("sliding_window_pattern")) or family.window)
    return (window, full) if full < layers else (None, None)


def _sparse(fields: Fields, family: Family, layers: int) -> list[bool]:
    """For each layer, whether its MLP is experts (Qwen's may leave some out)."""
    if not family.experts:
        return [False] * layers
    step, dense = fields.number("decoder_sparse_step") or 1, fields.find("mlp_only_layers")[1] or []
    if not isinstance(dense, list):
        fields.wrong("mlp_only_layers must be a list of numbers.")
        dense = []
    return [layer not in dense and (layer + 1) % step == 0 for layer in range(layers)]


def _linears(
    fields: Fields, family: Family, shapes: Shapes, sparse: list[bool], kept: Callable[[str], bool]
) -> tuple[Linear, ...]:
    """All linear layers, by kind."""
    kinds: Counter[Linear] = Counter()
    blocks = {kind: _block(fields, family, shapes, kind) for kind in set(sparse)}
    for layer, kind in enumerate(sparse):
        for path, linear in blocks[kind]:
            packed = family.packs and not kept(f"{family.paths[0]}.{layer}.{path}")
            kinds[linear if packed else linear._replace(packed=False)] += 1
    return gathered(kinds)


def gathered(kinds: Counter[Linear]) -> tuple[Linear, ...]:
    """Kinds with their counts, attention first, in the order in which modules are usually shown."""

    def place(kind: Linear) -> tuple[Any, ...]:
        usual = USUAL.index(kind.module) if kind.module in USUAL else len(USUAL)
        return (kind.group, usual, *kind)

    return tuple(sorted((kind._replace(count=n) for kind, n in kinds.items()), key=place))


def _block(
    fields: Fields, family: Family, shapes: Shapes, sparse: bool
) -> list[tuple[str, Linear]]:
    """A block's linear layers by their paths in it; `count` is still 0."""
    hidden, queries = shapes.hidden, shapes.heads * shapes.head_dim
    keys = shapes.kv_heads * shapes.head_dim
    outs = (queries, keys, keys) if len(family.attention) == 4 else (queries + 2 * keys,)
    found = [
        (f"{family.paths[1]}.{module}", Linear(module, "attention", hidden, out, 0, fields.yes(family.qkv_bias)))
        for module, out in zip(family.attention[:-1], outs, strict=True)
    ]  # fmt: skip
    module = family.attention[-1]
    last = Linear(module, "attention", queries, hidden, 0, fields.yes(family.o_bias))
    found.append((f"{family.paths[1]}.{module}", last))
    shared = (fields.number("shared_expert_intermediate_size") or 0) if sparse else 0
    if sparse and not shared:
        return found
    width = (
        shared or fields.number("intermediate_size", most=MOST["intermediate_size"]) or 4 * hidden
    )
    path = f"{family.paths[2]}.shared_expert" if shared else family.paths[2]
    bias = fields.yes(family.mlp_bias)
    for module in family.mlp[:-1]:
        out = width * (2 if module == "gate_up_proj" else 1)
        found.append((f"{path}.{module}", Linear(module, "mlp", hidden, out, 0, bias)))
    module = family.mlp[-1]
    found.append((f"{path}.{module}", Linear(module, "mlp", width, hidden, 0, bias)))
    if shared:
        found.append((f"{path}_gate", Linear("shared_expert_gate", "mlp", hidden, 1, 0)))
    return found


def _beside(fields: Fields, family: Family, shapes: Shapes, sparse: int) -> tuple[int, int]:
    """Parameters of norms, routers and the head's bias; and of all experts."""
    hidden, norms = shapes.hidden, family.norms
    if fields.model_type == "falcon":
        apart = 2 if fields.truth("new_decoder_architecture") else 1
        norms = (
            2
            if fields.truth("parallel_attn") is False
            else fields.number("num_ln_in_parallel_attn") or apart
        )
    if fields.model_type == "stablelm" and fields.truth("use_parallel_residual"):
        norms = 1
    block = norms * family.norm_vectors * hidden
    if family.qk_norm == "head":
        block += 2 * shapes.head_dim
    elif fields.model_type == "phi" and fields.truth("qk_layernorm"):
        block += 4 * shapes.head_dim  # these norms have a shift too
    elif family.qk_norm == "all" or (family.qk_norm and fields.yes(family.qk_norm)):
        block += (shapes.heads + shapes.kv_heads) * shapes.head_dim
    count = (fields.number("num_experts") or 1) if sparse else 0
    width = (
        fields.number("moe_intermediate_size")
        or fields.number("intermediate_size", most=MOST["intermediate_size"])
        or 4 * hidden
    )
    router, expert = count * hidden, 3 * hidden * width
    if fields.model_type == "gpt_oss":  # biases in routers and experts, and a sink for each head
        router, expert, block = router + count, expert + 2 * width + hidden, block + shapes.heads
    head_bias = shapes.vocab if fields.model_type == "phi" else 0
    other = shapes.layers * block + sparse * router + family.norm_vectors * hidden + head_bias
    return other, sparse * count * expert


def _keeper(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Whether a module stays in 16 bit, as Transformers' quantizers_utils.should_convert_module reads the list.

    A name begins like a pattern, which may be a regular expression, or ends with one. Models that also see keep
    their language model one level further down.
    """
    patterns = tuple(patterns)
    if not patterns:
        return lambda path: False
    try:
        begins = re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
    except re.error:
        begins = re.compile("|".join(map(re.escape, patterns)))

    def keeps(path: str) -> bool:
        inner = path.removeprefix("model.")
        paths = (path, f"model.language_model.{inner}", f"language_model.{path}")
        return path.endswith(patterns) or any(map(begins.match, paths))

    return keeps


def _guesses(fields: Fields) -> list[str]:
    """What of the layers is assumed or left out, in words."""
    said = []
    if not fields.family:
        if fields.truth("tie_word_embeddings") is None:
            said.append("whether the head shares the embeddings' weights (assumed: it does not)")
        kind = fields.model_type or "(no model_type)"
        like = "counted like Llama's, with q, k, v and o, a gated MLP and two norms in a block"
        said.append(f"the architecture {kind}: {like}")
    others = {str(kind) for kind in fields.find("layer_types")[1] or ()}
    if others := sorted(
        kind for kind in others if not kind.endswith("_attention") or "linear" in kind
    ):
        said.append(
            f"the layers of another kind ({', '.join(others)}), counted like all the others"
        )
    said += [
        f"{words} ({key}), which have no formula here"
        for key, words in STRANGE.items()
        if fields.find(key)[1]
    ]
    for key in ("vision_config", "audio_config"):
        if key in fields.outer:
            said.append(f"the {key.removesuffix('_config')} tower, which is not counted")
    if fields.outer.get("is_encoder_decoder"):
        said.append("the encoder, which is not counted")
    return said
