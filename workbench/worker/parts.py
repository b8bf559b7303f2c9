"""What holds the memory of a run, in bytes by the names that `plan.json` uses, counted on the real tensors.

Each storage is counted once, whoever else looks at it. Knows tensors and modules; nothing of runs or of estimates.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Bytes = dict[str, int]
#: What the frozen model and its adapter are made of.
OF_THE_MODEL = (
    "weights", "scales", "kept16", "embeddings", "head", "norms", "experts", "adapters",
)  # fmt: skip


def held(model: Any, optimizer: Any = None) -> Bytes:
    """Bytes of the model's parts, of the gradients that are there, and of the optimizer's state.

    `weights` are packed 4-bit data, or all linear layers of a model without any; `scales` are what bitsandbytes keeps
    beside packed data; `kept16` are linear layers of a 4-bit model that are not packed; `experts` are frozen
    parameters of three dimensions; `norms` is what is left: norms, biases, routers and buffers.
    """
    seen: set[tuple[Any, int]] = set()
    trained = [p for p in model.parameters() if p.requires_grad]
    found = dict.fromkeys(OF_THE_MODEL, 0)
    found["adapters"] = _count(trained, seen)
    packed = [p for p in model.parameters() if type(p).__name__ == "Params4bit"]
    found["weights"] = _count(packed, seen)
    found["scales"] = _count((t for p in packed for t in _scales(p)), seen)
    found["embeddings"] = _count(_frozen(model.get_input_embeddings()), seen)
    found["head"] = _count(_frozen(model.get_output_embeddings()), seen)
    found["experts"] = _count((p for p in model.parameters() if p.dim() >= 3), seen)
    found["kept16" if packed else "weights"] += _count(_linear_weights(model), seen)
    found["norms"] = _count([*model.parameters(), *model.buffers()], seen)
    found["gradients"] = _count((p.grad for p in trained if p.grad is not None), seen)
    state = optimizer.state.values() if optimizer is not None else ()
    found["optimizer"] = _count((t for kept in state for t in _tensors(kept)), seen)
    return found


@dataclass
class Peak:
    """The most bytes of tensors that were alive above those at the start, and the seconds it all took."""

    above: int = 0
    seconds: float = 0.0


@contextlib.contextmanager
def peak() -> Iterator[Peak]:
    """Measures what happens inside: by torch's own counter on a GPU, else by adding up what the profiler saw allocated.

    torch counts no memory on a CPU by itself. The profiler tells each allocation and release of a tensor's storage
    in order, and only those of what was allocated inside. After a failure inside, it is what was alive up to then.
    """
    import torch

    found, started = Peak(), time.monotonic()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        try:
            yield found
            torch.cuda.synchronize()
        finally:
            found.seconds = time.monotonic() - started
            found.above = torch.cuda.max_memory_allocated() - before
        return
    cpu = [torch.profiler.ProfilerActivity.CPU]
    profiler = torch.profiler.profile(activities=cpu, profile_memory=True)
    try:
        with profiler:
            started = time.monotonic()
            yield found
            found.seconds = time.monotonic() - started
    finally:
        found.above = _highest(profiler.profiler)


def _highest(seen: Any) -> int:
    """The most bytes that were alive at once, of what a profiler saw allocated; 0 where it saw nothing."""
    alive = highest = 0
    for event in seen.kineto_results.events() if seen and seen.kineto_results else ():
        if event.name() == "[memory]":
            alive += event.nbytes()
            highest = max(highest, alive)
    return highest


def above(known: int) -> int:
    """Bytes by which torch's peak on a GPU exceeded what is known of; 0 on a CPU, where torch counts none."""
    import torch

    return max(torch.cuda.max_memory_allocated() - known, 0) if torch.cuda.is_available() else 0


def _frozen(module: Any) -> list[Any]:
    """Frozen parameters of a module, the original beside a copy that is trained in full among them."""
    return [p for p in module.parameters() if not p.requires_grad] if module is not None else []


def _linear_weights(model: Any) -> Iterator[Any]:
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            yield module.weight


def _scales(packed: Any) -> list[Any]:
    """The tensors by which bitsandbytes expands packed weights: block scales, their own scales, and the tables."""
    state = packed.quant_state
    inner = getattr(state, "state2", None)
    kept = [state.absmax, state.code, getattr(state, "offset", None)]
    kept += [inner.absmax, inner.code] if inner is not None else []
    return [tensor for tensor in kept if tensor is not None]


def _tensors(kept: Any) -> Iterator[Any]:
    """All tensors in an optimizer's state of one parameter, however deep."""
    import torch

    if isinstance(kept, torch.Tensor):
        yield kept
    elif isinstance(kept, dict):
        for inside in kept.values():
            yield from _tensors(inside)
    elif isinstance(kept, list | tuple):
        for inside in kept:
            yield from _tensors(inside)


def _count(tensors: Iterable[Any], seen: set[tuple[Any, int]]) -> int:
    """Bytes of those storages that were not seen yet."""
    total = 0
    for tensor in tensors:
        storage = tensor.untyped_storage()
        key = (tensor.device, storage.data_ptr())
        if key not in seen and storage.nbytes():
            seen.add(key)
            total += storage.nbytes()
    return total
