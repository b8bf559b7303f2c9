"""How a backend holds a run in memory: number formats, the loss, where checkpointed activations go.

Knows no shapes and no recipe. What is written here was read in the sources of the versions named, or measured.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

GIB = 2**30
Loss = Literal["full", "chunked", "fused"]


class Widths(NamedTuple):
    """Values that a layer holds for each token, counted in its widths: a x H + b x Q + c x K + d x M."""

    hidden: float
    queries: float
    keys: float
    mlp: float


# Kernels that keep little (Unsloth's, or torch.compile): fitted by FitCheck on 79 runs on a T4, and within 2 % of
# torchtune's 8B and of the slopes of Unsloth's published lines for 8B and 70B. Without checkpointing a layer keeps
# the inputs of its norms and adapters, q, k, v and the attention's output, gate and up (unsloth/kernels/fast_lora.py).
LEAN, LEAN_KEPT = Widths(12, 3, 1, 3), Widths(6, 2, 2, 2)
# Of Unsloth's the two buffers for offloaded inputs are counted apart.
UNSLOTH_PEAK = LEAN._replace(hidden=10)
# Transformers' and PEFT's own operations under 16-bit autocast: what autograd keeps of a layer, and its peak in the
# backward pass. Measured on Llama blocks of eight shapes, within 4 % (bench/activations.py measures again).
EAGER_KEPT, EAGER_PEAK = Widths(9.5, 3, 2, 4.1), Widths(16, 3, 2, 7.1)
# The same in float32, where norms need no copies.
EAGER32_KEPT, EAGER32_PEAK = Widths(4.2, 2, 2, 4), Widths(6.5, 2, 2, 5.75)
# What of these is due to the adapters of the MLP, and goes with them.
MLP_ADAPTED_KEPT, MLP_ADAPTED_PEAK = Widths(2.5, 0, 0, 1), Widths(3, 0, 0, 2)
MLP_ADAPTED32_KEPT, MLP_ADAPTED32_PEAK = Widths(1, 0, 0, 1), Widths(1, 0, 0, 0)


class Habits(NamedTuple):
    """What one backend does. All `_bytes` count a value: of activations, of 16-bit weights, of a logit, ...

    `loss` is how the logits are held: all at once ("full"), `loss_tokens` at a time ("chunked"), or in pieces of at
    most `loss_share` of the memory that is free, and `loss_limit` bytes ("fused"). torch's allocator holds `slack`
    bytes and `slack_share` of the tensors beyond them.
    """

    backend: str
    compute_bytes: int = 2
    resident_bytes: int = 2
    adapter_bytes: int = 4
    checkpoint_bytes: int = 2
    mask_bytes: int = 1
    kept: Widths = LEAN_KEPT
    peak: Widths = LEAN
    loss: Loss = "full"
    logit_bytes: int = 16
    loss_tokens: int = 256
    loss_share: float = 0.5
    loss_limit: int = 4 * GIB
    offloads: bool = False
    keeps_workspace: bool = False
    slack: int = 0
    slack_share: float = 0.10


def habits(
    backend: str, versions: Mapping[str, str] | None = None, *, dtype: str = "bfloat16"
) -> Habits:
    """The habits of the workbench's own backends (worker/backends/), computing in `dtype`.

    Adapters stay in float32 in both (worker/training.py puts them back after TRL rounds them). A logit costs 16
    bytes on its way: 16-bit and 32-bit logits, softmax, and their gradient (performance of FitCheck's 79 runs on a
    T4; unsloth_zoo 2026.10.7 counts the same, `_CE_BYTES_PER_LOGIT`).
    """
    size = 4 if dtype == "float32" else 2
    if backend == "unsloth":
        return Habits(
            "unsloth",
            compute_bytes=size,
            resident_bytes=size,
            checkpoint_bytes=size,
            peak=UNSLOTH_PEAK,
            offloads=True,
            keeps_workspace=True,
            slack=int(
                0.3 * GIB
            ),  # with the share: 16 notebooks on a T4 and one on an A100, 5 % off on average
            slack_share=0.11,
            **_loss_of_unsloth(versions or {}),
        )
    exact = dtype == "float32"
    # The slack: reserved over allocated was 1.08 on an RTX 4080 and 1.10 on a T4, medians of 10 and 17 runs.
    # TRL 1.14.2, _CHUNKED_LM_HEAD_CHUNK_SIZE: 256 trained tokens at a time, each chunk checkpointed.
    return Habits(
        "peft",
        compute_bytes=size,
        resident_bytes=size,
        checkpoint_bytes=size,
        mask_bytes=4 if exact else 1,
        kept=EAGER32_KEPT if exact else EAGER_KEPT,
        peak=EAGER32_PEAK if exact else EAGER_PEAK,
        loss="chunked",
    )


def _loss_of_unsloth(versions: Mapping[str, str]) -> dict[str, Any]:
    """How Unsloth's releases hold the logits; today's where the version is not known.

    Until late 2024 all of them, 16-bit and a 32-bit copy: 6 bytes fit two runs of 2024 that differ in the vocabulary
    alone. Then cut cross-entropy, which holds next to none. From unsloth_zoo 2025.7.2 pieces sized by what is free,
    of which it counted 4 bytes a logit; 2026.10 counts all 16 and so keeps its target.
    """
    known = _release(versions.get("unsloth", "")) or _release(versions.get("unsloth_zoo", ""))
    if known and known < (2024, 12):
        return {"loss": "full", "logit_bytes": 6}
    if known and known < (2025, 7):
        return {"loss": "chunked"}
    if known and known < (2026, 10):
        return {"loss": "fused", "loss_share": 2.0, "loss_limit": 16 * GIB}
    return {"loss": "fused"}


def _release(version: str) -> tuple[int, ...]:
    numbers = version.split("+")[0].split(".")[:2]
    return tuple(int(number) for number in numbers if number.isdecimal())
