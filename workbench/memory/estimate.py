"""The estimate: what a run holds at its fullest moment, as named parts in bytes that sum to the whole.

Puts the formulas of `parts.py` together. Knows nothing of recipes, files or measurements that were made before.
"""

from dataclasses import dataclass, field

from . import parts
from .habits import Habits
from .place import ON_CPU, Place
from .shapes import Shapes
from .work import Work

GIB = 2**30
MIB = 2**20
# On a CPU, measured on the tiny lane with 4, 16 and 64 rows at once (torch 2.13, Transformers 5.17, two cores):
# the worker's peak beyond all tensors, which grows with what comes and goes, because malloc does
# not give all of it back: 85, 213 and 723 MiB beside 33, 114 and 457 of activations.
KEPT_ON_CPU, KEPT_SHARE_ON_CPU = 45 * MIB, 1.5
#: The parts in the order in which they are shown, each with its name in words.
NAMES = {
    "weights": "frozen weights",
    "scales": "their block scales",
    "kept16": "linear layers in 16 bit",
    "experts": "experts in 16 bit",
    "embeddings": "embeddings",
    "head": "output head",
    "norms": "norms and biases",
    "adapters": "adapters",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "checkpoints": "checkpointed activations",
    "layer": "activations",
    "workspace": "dequantized weights",
    "loss": "logits and loss",
    "answers": "answering and loading",
    "context": "context and libraries",
    "slack": "allocator slack",
}
STATIC = ("weights", "scales", "kept16", "experts", "embeddings", "head", "norms", "adapters", "gradients", "optimizer")  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """`parts` sum to `expected`. `floor`: with no slack. `allocated`: torch's tensors.

    `elastic` bytes come on top where they are free: Unsloth's loss works in larger pieces the more room there is.
    `host`: the bytes of main memory beside a card. `unknown`: in words what could not be told.
    """

    parts: dict[str, int]
    floor: int
    allocated: int
    elastic: int
    host: dict[str, int] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()

    @property
    def expected(self) -> int:
        return sum(self.parts.values())

    @property
    def static(self) -> int:
        """What is there all the time: weights, adapters, gradients and the optimizer's state."""
        return sum(self.parts[name] for name in STATIC)


def estimate(shapes: Shapes, work: Work, habits: Habits, place: Place | None = None) -> Estimate:
    """The parts of a run at its fullest moment, in bytes; without a place as on a card that is large enough."""
    held = static(shapes, work, habits)
    standing = sum(held.values())
    context = context_bytes(habits, place)
    kept = parts.checkpoints(shapes, work, habits)
    activations = parts.layer(shapes, work, habits)
    space = parts.workspace(shapes, work, habits)
    left = place.free - standing - context - kept if place else None
    loss = parts.loss(shapes, work, habits, left)
    least = min(loss, _least_loss(shapes, work, habits))
    moment = _fullest(work, habits, activations, space, least)
    peak = standing + kept + sum(moment.values())
    resting = standing - held["gradients"]
    others = max(
        resting + space + parts.answers(shapes, work, habits), loading(shapes, work, habits, held)
    )
    found = {**held, "checkpoints": kept, **moment, "answers": max(0, others - peak)}
    allocated = sum(found.values())
    found |= {
        "context": context,
        "slack": slack(allocated, habits, place, standing=standing),
    }
    larger = _fullest(work, habits, activations, space, loss)
    return Estimate(
        parts={name: found[name] for name in NAMES},
        floor=allocated + context,
        allocated=allocated,
        elastic=max(0, sum(larger.values()) - sum(moment.values()) - found["answers"]),
        host=host_bytes(shapes, work, habits, found, place),
        unknown=shapes.unknown,
    )


def static(shapes: Shapes, work: Work, habits: Habits) -> dict[str, int]:
    """The parts that are there from the first step to the last, in bytes; on a CPU exactly those of the tensors."""
    sizes = parts.trained(shapes, work)
    quantized = parts.quantized(shapes, work, habits)
    rotary = 4 * shapes.head_dim  # inverse frequencies, twice, in 32 bits
    trained = sum(sizes)
    return {
        **quantized,
        "experts": shapes.experts * habits.resident_bytes,
        "embeddings": shapes.embedding * habits.resident_bytes,
        "head": shapes.head * habits.resident_bytes,
        "norms": shapes.other * habits.resident_bytes + rotary,
        "adapters": trained * habits.adapter_bytes,
        "gradients": trained * habits.adapter_bytes,
        "optimizer": parts.optimizer(sizes, work.optimizer),
    }


def _fullest(work: Work, habits: Habits, activations: int, space: int, loss: int) -> dict[str, int]:
    """Which of a step's moments is the fullest: in the loss, or in a layer's backward pass.

    Without checkpointing all layers' activations are there in both.
    """
    if not work.checkpointing:
        return {"layer": activations, "workspace": space, "loss": loss}
    if loss >= activations + (0 if habits.keeps_workspace else space):
        return {"layer": 0, "workspace": space if habits.keeps_workspace else 0, "loss": loss}
    return {"layer": activations, "workspace": space, "loss": 0}


def _least_loss(shapes: Shapes, work: Work, habits: Habits) -> int:
    """The loss with the smallest pieces a backend would take: Unsloth's shrink as the memory fills."""
    if habits.loss == "fused":
        return habits.logit_bytes * shapes.vocab * min(habits.loss_tokens, work.tokens)
    return parts.loss(shapes, work, habits, None)


def loading(shapes: Shapes, work: Work, habits: Habits, held: dict[str, int]) -> int:
    """What loading holds at its end: the weights, and the largest tensor as it came, in 16 bits, and in 32 while it is quantized."""
    weights = sum(held[name] for name in STATIC[:7])
    largest = max((k.in_features * k.out_features for k in shapes.linears), default=0)
    return weights + (largest * (2 + 4) if work.load_in_4bit else 0)


def context_bytes(habits: Habits, place: Place | None) -> int:
    """Memory that is gone before the first tensor, in bytes.

    A T4's CUDA context took 140.875 MiB (FitCheck 0.3.1); newer cards take about 0.5 GB (Unsloth's published lines
    begin 0.5 GB above their tensors). On a CPU: Python with torch, Transformers, TRL and PEFT, as measured here.
    """
    if place is not None and not place.on_gpu:
        return ON_CPU
    if place is not None and place.capability < (8, 0):
        return 141 * MIB
    return 480 * MIB


def slack(allocated: int, habits: Habits, place: Place | None, *, standing: int = 0) -> int:
    """What is held beyond `allocated` tensors, in bytes: by torch's allocator, or on a CPU by malloc.

    `standing` of them are there all the time.
    """
    if place is not None and not place.on_gpu:
        return KEPT_ON_CPU + int(KEPT_SHARE_ON_CPU * (allocated - standing))
    return habits.slack + int(habits.slack_share * allocated)


def host_bytes(
    shapes: Shapes, work: Work, habits: Habits, found: dict[str, int], place: Place | None
) -> dict[str, int]:
    """Main memory beside a card, in bytes: libraries, offloaded activations, paged optimizer states at most."""
    if place is not None and not place.on_gpu:
        return {}
    paged = found["optimizer"] if "paged" in work.optimizer else 0
    return {
        "libraries": int(2.5 * GIB),
        "activations": parts.offloaded(shapes, work, habits),
        "paged optimizer": paged,
    }
