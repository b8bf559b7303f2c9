"""How long a step takes: the card's FLOP/s give the bound, measured runs or published ones how much of it is reached.

Arithmetic on shapes; knows nothing of recipes.
"""

from typing import NamedTuple

from . import parts
from .habits import Habits
from .place import Place
from .shapes import Shapes
from .work import Work

#: Share of a card's 16-bit FLOP/s that trainings reach, recomputation counted: LLaMA-Factory's wiki, Llama-2-7B in
#: 4 bits on an A100 with 4 rows of 1,024 tokens: 2,415 tokens/s with PEFT, 3,726 with Unsloth.
REACHED = {"peft": 0.31, "unsloth": 0.48}
#: On a CPU, of the 35 GFLOP/s a core: 0.27 s for a step of the tiny lane with two cores to itself.
REACHED_ON_CPU = 1.0
BYTES_OF_4BIT = 0.516  # a weight in 4 bits with double quantization


class Speed(NamedTuple):
    """Seconds of an optimizer step, as they are likely to be and as the card's figures bound them from below.

    `share` of the bound is assumed to be reached; `measured` says whether runs on this card told it. Rates count
    tokens with padding, a second.
    """

    step: float
    bound: float
    tokens_per_second: float
    share: float
    measured: bool


def flops_per_token(shapes: Shapes, work: Work) -> float:
    """FLOP for a token of a row of `work.length`: frozen weights cost 2 forward, 2 backward, and 2 to compute again.

    The head is not computed again; attention looks at half a row on average, and costs twice as much backward.
    """
    linear = sum(k.in_features * k.out_features * k.count for k in shapes.linears)
    linear += min(shapes.experts, 3 * shapes.hidden * shapes.mlp * shapes.layers)
    head = shapes.vocab * shapes.hidden
    seen = min(work.length, shapes.window or work.length)
    attention = 2 * seen * shapes.heads * shapes.head_dim * shapes.layers
    adapters = 6 * sum(parts.trained(shapes, work))
    again = 2 * linear + attention if work.checkpointing else 0
    return 4 * (linear + head) + 3 * attention + adapters + again


def speed(
    shapes: Shapes,
    work: Work,
    habits: Habits,
    place: Place,
    *,
    accumulation: int,
    tokens: float | None = None,
    reached: float | None = None,
) -> Speed | None:
    """The time of a step of `accumulation` micro-batches of `tokens` each (None: full); None where the card's speed is unknown.

    Weights in 4 bits are expanded once for each pass of a micro-batch, however few its tokens.
    """
    if place.flops is None:
        return None
    tokens = work.tokens if tokens is None else tokens
    compute = tokens * flops_per_token(shapes, work) / place.flops
    bound = compute + _expanding(shapes, work, habits, place)
    typical = REACHED[habits.backend] if place.on_gpu else REACHED_ON_CPU
    share = typical if reached is None else reached
    step = accumulation * bound / share
    return Speed(
        step=step,
        bound=accumulation * bound,
        tokens_per_second=accumulation * tokens / step,
        share=share,
        measured=reached is not None,
    )


def _expanding(shapes: Shapes, work: Work, habits: Habits, place: Place) -> float:
    """Seconds that a micro-batch spends on expanding 4-bit weights, bound by the memory's bandwidth."""
    if not (work.load_in_4bit and place.bandwidth):
        return 0.0
    weights = sum(k.in_features * k.out_features * k.count for k in shapes.linears if k.packed)
    passes = 3 if work.checkpointing else 2
    return passes * weights * (BYTES_OF_4BIT + habits.compute_bytes) / place.bandwidth
