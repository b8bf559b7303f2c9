"""The bytes of each part of a run: one function a part, arithmetic on shapes and nothing else.

Knows nothing of cards or recipes; `estimate.py` puts the parts together. T is the tokens of a micro-batch with
padding, H the hidden width, Q = heads x head_dim, K = kv_heads x head_dim, M the MLP's width, V the vocabulary.
"""

import math
from collections.abc import Iterator, Sequence

from ..models import matches
from .habits import (
    EAGER32_PEAK,
    EAGER_PEAK,
    MLP_ADAPTED32_KEPT,
    MLP_ADAPTED32_PEAK,
    MLP_ADAPTED_KEPT,
    MLP_ADAPTED_PEAK,
    Habits,
    Widths,
)
from .shapes import Linear, Shapes
from .work import Work

BLOCK = 64  # weights that share a scale in bitsandbytes' 4-bit types
NESTED_BLOCK = 256  # scales that share a scale in double quantization
CODEBOOK = (
    16 * 4
)  # bytes of the 16 values that 4 bits stand for; bitsandbytes keeps them with each weight
NESTED_CODEBOOK = 256 * 4 + 4  # bytes of the map of 8-bit scales, and of their mean
#: By the peak of a layer with all adapters: what goes with those of the MLP, of what is kept and of the peak.
MLP_ADAPTED = {
    EAGER_PEAK: (MLP_ADAPTED_KEPT, MLP_ADAPTED_PEAK),
    EAGER32_PEAK: (MLP_ADAPTED32_KEPT, MLP_ADAPTED32_PEAK),
}
OPTIMIZER_BLOCK = 256  # 8-bit optimizer states that share a scale
OPTIMIZER_LEAST = 4096  # elements below which bitsandbytes keeps a state in 32 bits
OPTIMIZER_MAPS = 2 * 256 * 4  # bytes of the two maps of 8-bit states, held once


def quantized(shapes: Shapes, work: Work, habits: Habits) -> dict[str, int]:
    """`weights` and their `scales` in 4 bits, and `kept16`: linear layers that stay as they were computed in.

    4.127 bits a weight with double quantization, 4.5 without (QLoRA, arXiv 2305.14314), and what bitsandbytes keeps
    beside each weight. Without 4 bits all of them are `weights`.
    """
    size = habits.resident_bytes
    if not work.load_in_4bit:
        values = sum(k.in_features * k.out_features * k.count for k in shapes.linears)
        return {"weights": values * size, "scales": 0, "kept16": 0}
    packed, scales, kept = 0, 0, 0
    for kind in shapes.linears:
        values = kind.in_features * kind.out_features
        if not kind.packed:
            kept += values * kind.count * size
            continue
        blocks = -(-values // BLOCK)
        scale = blocks + 4 * -(-blocks // NESTED_BLOCK) + NESTED_CODEBOOK
        packed += -(-values // 2) * kind.count
        scales += ((scale if work.double_quant else 4 * blocks) + CODEBOOK) * kind.count
    return {"weights": packed, "scales": scales, "kept16": kept}


def targeted(shapes: Shapes, work: Work) -> list[Linear]:
    """The kinds of linear layer that get an adapter."""
    kinds = [kind for kind in shapes.linears if kind.adapted]
    if work.targets == "all-linear":
        return kinds
    return [k for k in kinds if any(matches(f"x.{k.module}", target) for target in work.targets)]


def trained(shapes: Shapes, work: Work) -> list[int]:
    """Elements of each trained tensor: A (rank x in) and B (out x rank) of each adapted layer, and what is trained whole."""
    sizes: list[int] = []
    for kind in targeted(shapes, work):
        a_layer = [work.rank * kind.in_features, work.rank * kind.out_features]
        if work.dora:
            a_layer.append(kind.out_features)
        if work.bias != "none" and kind.bias:
            a_layer.append(kind.out_features)
        sizes += a_layer * kind.count
    return sizes + list(_whole(shapes, work))


def _whole(shapes: Shapes, work: Work) -> Iterator[int]:
    """Modules trained in full: PEFT copies each one, a tied head too."""
    for module in work.modules_to_save:
        if module in ("embed_tokens", "lm_head", "wte", "embed_out"):
            yield shapes.vocab * shapes.hidden
        for kind in shapes.linears:
            if matches(f"x.{kind.module}", module):
                yield from [kind.in_features * kind.out_features] * kind.count


def optimizer(sizes: Sequence[int], name: str) -> int:
    """Bytes of the optimizer's state for trained tensors of these sizes.

    AdamW keeps two moments in 32 bits; in 8 bits with a 32-bit scale for each 256, and tensors below 4,096 elements
    in 32 bits (bitsandbytes 0.50, optim/optimizer.py). torch's own keeps a step count for each tensor.
    """
    if name == "sgd":
        return 0
    if "8bit" not in name:
        steps = 4 * len(sizes) if name == "adamw_torch" else 0
        return 8 * sum(sizes) + steps
    large = [size for size in sizes if size >= OPTIMIZER_LEAST]
    small = sum(sizes) - sum(large)
    scales = sum(2 * 4 * -(-size // OPTIMIZER_BLOCK) for size in large)
    return 2 * sum(large) + scales + 8 * small + (OPTIMIZER_MAPS if large else 0)


def checkpoints(shapes: Shapes, work: Work, habits: Habits) -> int:
    """What is kept of each layer to compute it again: its input, or with offloading two buffers of that size."""
    if not work.checkpointing:
        return 0
    kept = 2 if habits.offloads else shapes.layers
    return kept * work.tokens * shapes.hidden * habits.checkpoint_bytes


def offloaded(shapes: Shapes, work: Work, habits: Habits) -> int:
    """Bytes in main memory of the inputs that Unsloth moves there, in pinned blocks of powers of two."""
    if not (work.checkpointing and habits.offloads):
        return 0
    one = work.tokens * shapes.hidden * habits.checkpoint_bytes
    return shapes.layers * 2 ** math.ceil(math.log2(max(one, 1)))


def layer(shapes: Shapes, work: Work, habits: Habits) -> int:
    """Activations at the fullest moment of a backward pass, with attention that keeps no scores.

    With checkpointing those of the one layer that is computed again; without, what all layers keep and what the
    backward pass of one adds. T x bytes x (a H + b Q + c K + d M), the widths of `habits`.
    """
    kept, peak = _values(shapes, habits.kept), _values(shapes, habits.peak)
    adapted = {kind.group for kind in targeted(shapes, work)}
    if habits.peak in MLP_ADAPTED and "mlp" not in adapted:
        of_kept, of_peak = MLP_ADAPTED[habits.peak]
        kept -= _values(shapes, of_kept)
        peak -= _values(shapes, of_peak)
    thinned = _thinned(shapes, work, habits)
    if thinned:  # twice the widest of the inputs passes by when its adapter's gradient is made
        peak += 2 * max(kind.in_features for kind in targeted(shapes, work))
    if work.checkpointing:
        return int(work.tokens * (peak * habits.compute_bytes + thinned))
    values = shapes.layers * kept + max(0, peak - kept)
    return int(work.tokens * (values * habits.compute_bytes + shapes.layers * thinned))


def _values(shapes: Shapes, widths: Widths) -> float:
    return (
        widths.hidden * shapes.hidden
        + widths.queries * _queries(shapes)
        + widths.keys * _keys(shapes)
        + widths.mlp * shapes.mlp
    )


def _thinned(shapes: Shapes, work: Work, habits: Habits) -> int:
    """Bytes a token and layer that dropout adds in PEFT: a thinned copy of each adapted layer's input, and its mask.

    Measured with 16-bit autocast on a CPU, where the mask has the values' format; a GPU keeps a byte for each.
    """
    if not work.dropout or habits.backend == "unsloth":
        return 0
    inputs = sum(k.in_features * k.count for k in targeted(shapes, work)) // shapes.layers
    return inputs * (habits.compute_bytes + habits.mask_bytes)


def workspace(shapes: Shapes, work: Work, habits: Habits) -> int:
    """The largest weight expanded to the compute dtype, with its scales in 32 bits."""
    if not work.load_in_4bit:
        return 0
    packed = [k.in_features * k.out_features for k in shapes.linears if k.packed]
    largest = max(packed, default=0)
    return habits.compute_bytes * largest + 4 * -(-largest // BLOCK)


def loss(shapes: Shapes, work: Work, habits: Habits, free: int | None) -> int:
    """The logits and what is computed from them, at their largest. `free` is what is left of the card by then.

    Full logits: 16 bytes x T x V. TRL's chunks: 256 trained tokens at a time. Unsloth's pieces: as many as keep each
    below half of what is free, and below 4 GiB (unsloth_zoo/fused_losses/cross_entropy_loss.py).
    """
    of_a_token = habits.logit_bytes * shapes.vocab
    if habits.loss == "chunked":
        return of_a_token * min(habits.loss_tokens, work.tokens)
    whole = of_a_token * work.tokens
    if habits.loss == "full" or free is None:
        return whole
    target = min(habits.loss_share * max(free, 1), habits.loss_limit)
    if whole <= target:
        return whole
    pieces = 4 * math.ceil(whole / target / 4 - 1e-9)
    return math.ceil(whole / min(pieces, work.tokens))


def answers(shapes: Shapes, work: Work, habits: Habits) -> int:
    """What answering holds at once: keys and values of all tokens, a layer's forward pass over the prompts, last logits."""
    if not work.answer_rows:
        return 0
    tokens = work.answer_rows * (work.prompt_tokens + work.new_tokens)
    cache = 2 * shapes.layers * _keys(shapes) * tokens * habits.compute_bytes
    prompts = work.answer_rows * max(work.prompt_tokens, 1)
    width = 4 * shapes.hidden + _queries(shapes) + 2 * _keys(shapes) + 3 * shapes.mlp
    return cache + prompts * width * habits.compute_bytes + work.answer_rows * shapes.vocab * 8


def _queries(shapes: Shapes) -> int:
    return shapes.heads * shapes.head_dim


def _keys(shapes: Shapes) -> int:
    return shapes.kv_heads * shapes.head_dim
