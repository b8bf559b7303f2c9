"""What AdamW keeps beside the numbers it trains, in 32 and 8 bits, and what it means that an optimizer is paged.

States are counted after a real step, on tensors of given sizes with random gradients. bitsandbytes 0.50 takes its 8-bit
steps on a CPU as well; pages exist only on a GPU. Knows sizes and devices; nothing of models or recipes.
"""

import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch

from ..problems import Problem, RunError
from ..recipe import Optimizer

ADAMW: tuple[Optimizer, ...] = (
    "adamw_torch",
    "adamw_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
)
TABLES = ("qmap1", "qmap2")  # of 256 numbers each, which bitsandbytes shares among all tensors
PIECE = 2**24  # numbers of a trained tensor in the forced spike, at most
CHUNK = 2**26  # bytes that the spike takes at once, few beside the states
ROOM = 24  # bytes for each number trained in the spike: itself, gradient, two moments, and what a step takes beside
STEPS = 5  # timed before the spike, and after it; the middle one counts


class State(NamedTuple):
    """An optimizer's state after one step: `bytes` that grow with the `parameters`, `tables` in bytes that do not,
    the tensors kept in 8 bits and in all, the bytes that lie in pages, and what the library `said` about them."""

    name: str
    parameters: int
    bytes: int
    tables: int
    in_8bit: int
    tensors: int
    paged_bytes: int
    said: str

    @property
    def per_parameter(self) -> float:
        """Bytes for each trained number."""
        return self.bytes / self.parameters


@dataclass(frozen=True)
class Paging:
    """What a forced spike did to a paged optimizer's states; `card` is None where there is no GPU, and all else too.

    `spike_bytes` could be taken while `free_bytes` were free, of `asked_bytes`; what is above must have been freed by
    pages that moved to main memory. `unpaged_spike_bytes` is the same for an optimizer that is not paged, with
    `unpaged_free_bytes`. Seconds of a step: as usual, while the spike lasts (None if it ran out of memory), the first
    one after it, and the usual one again.
    """

    card: str | None = None
    optimizer: str | None = None
    state_bytes: int | None = None
    free_bytes: int | None = None
    asked_bytes: int | None = None
    spike_bytes: int | None = None
    unpaged_free_bytes: int | None = None
    unpaged_spike_bytes: int | None = None
    seconds_before: float | None = None
    seconds_during: float | None = None
    seconds_first_after: float | None = None
    seconds_after: float | None = None

    @property
    def moved_bytes(self) -> int | None:
        """Bytes that at least have left the card; 0 where nothing gave way, None without a GPU."""
        if self.spike_bytes is None or self.free_bytes is None:
            return None
        return max(self.spike_bytes - self.free_bytes, 0)

    def as_dict(self) -> dict[str, Any]:
        """Its fields, and `moved_bytes`, as plain data."""
        return asdict(self) | {"moved_bytes": self.moved_bytes}

    def __str__(self) -> str:
        if self.card is None:
            return (
                "Paging cannot be seen here: there is no GPU, and on a CPU bitsandbytes keeps the states of a paged "
                "optimizer like any other's. They are the same numbers, in main memory from the start."
            )
        told = [
            f"{self.card}, {self.optimizer}: {_mib(self.state_bytes)} of states.",
            f"With {_mib(self.free_bytes)} free, a spike took {_mib(self.spike_bytes)} of the {_mib(self.asked_bytes)} "
            + f"it asked for: at least {_mib(self.moved_bytes)} of pages gave way.",
            f"Not paged, it took {_mib(self.unpaged_spike_bytes)} of {_mib(self.unpaged_free_bytes)} that were free.",
            f"A step: {_ms(self.seconds_before)} before, {_ms(self.seconds_during)} during, "
            + f"{_ms(self.seconds_first_after)} the first after, then {_ms(self.seconds_after)}.",
        ]
        return "\n".join(told)


def made(name: Optimizer, tensors: Sequence[torch.nn.Parameter], rate: float = 1e-3) -> Any:
    """The optimizer of a name as Transformers' trainer makes it (trainer_optimizer.py). Raises RunError for others."""
    if name not in ADAMW:
        fact = f"{name} is not a kind of AdamW, and keeps no moments."
        raise RunError([Problem("training.optimizer", fact, f"Take one of {', '.join(ADAMW)}.")])
    if name == "adamw_torch":
        return torch.optim.AdamW(tensors, lr=rate)
    import bitsandbytes

    bits: Literal[8, 32] = 8 if "8bit" in name else 32
    return bitsandbytes.optim.AdamW(
        tensors, lr=rate, optim_bits=bits, is_paged=name.startswith("paged_")
    )


def state(sizes: Sequence[int], name: Optimizer) -> State:
    """Takes one step on tensors of these sizes, on the GPU if there is one, and counts what the optimizer keeps.

    bitsandbytes keeps tensors of less than 4,096 numbers in 32 bits, and pages none of less than 100,000.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tensors = _tensors(sizes, device)
    optimizer = made(name, tensors)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        optimizer.step()
    kept = [
        (key, value)
        for of in optimizer.state.values()
        for key, value in of.items()
        if isinstance(value, torch.Tensor)
    ]
    tables = {value.data_ptr(): value.nbytes for key, value in kept if key in TABLES}
    own = [value for key, value in kept if key not in TABLES]
    return State(
        name=name,
        parameters=sum(sizes),
        bytes=sum(value.nbytes for value in own),
        tables=sum(tables.values()),
        in_8bit=sum(key == "state1" and value.dtype == torch.uint8 for key, value in kept),
        tensors=len(tensors),
        paged_bytes=sum(value.nbytes for value in own if getattr(value, "is_paged", False)),
        said="; ".join(sorted({str(one.message) for one in told if "aged" in str(one.message)})),
    )


def paging(
    parameters: int = 2**28, *, name: Optimizer = "paged_adamw_32bit", share: float = 0.5
) -> Paging:
    """Forces a spike on a GPU and measures what the pages do; on a CPU, a result that says that it cannot be seen.

    Trains `parameters` numbers in float32 (with gradients and 32-bit states 16 bytes each: 4 GiB by default), then
    takes all memory that is free and `share` of the states' bytes above it, as a long row would. Only pages that move
    to main memory can make room for that; a step meanwhile must fetch them. The same is tried with an optimizer that
    is not paged. Takes some seconds, and main memory of the states' size. To be called in a process of its own:
    bitsandbytes gives pages back only when the process ends. Raises RunError for an optimizer that is not paged, or
    where the card has no room for the trial.
    """
    if not name.startswith("paged_"):
        fact = f"{name} has no pages."
        raise RunError([Problem("training.optimizer", fact, "Take paged_adamw_8bit or paged_adamw_32bit.")])  # fmt: skip
    if not (torch.cuda.is_available() and torch.version.cuda):
        return Paging()
    free, _ = torch.cuda.mem_get_info()
    needed = parameters * ROOM
    if needed > free:
        fact = f"The trial needs {_mib(needed)} of the card's memory; {_mib(free)} are free."
        raise RunError([Problem("", fact, "End what else uses the card, or train fewer parameters.")])  # fmt: skip
    unpaged: Optimizer = "adamw_8bit" if "8bit" in name else "adamw_torch"
    other = _spiked(parameters, unpaged, share)
    found = _spiked(parameters, name, share)
    keys = ("free_bytes", "spike_bytes")
    return Paging(
        card=torch.cuda.get_device_name(),
        optimizer=name,
        **found,
        **{f"unpaged_{key}": other[key] for key in keys},
    )


def _spiked(parameters: int, name: Optimizer, share: float) -> dict[str, Any]:
    """The fields of Paging that one optimizer gives; its tensors are gone afterwards."""
    sizes = [PIECE] * (parameters // PIECE) + [parameters % PIECE] * bool(parameters % PIECE)
    tensors = _tensors(sizes, "cuda")
    optimizer = made(name, tensors)
    _seconds(optimizer)  # makes the states
    before = statistics.median(_seconds(optimizer) for _ in range(STEPS))
    states = sum(
        value.nbytes
        for of in optimizer.state.values()
        for key, value in of.items()
        if isinstance(value, torch.Tensor) and key not in TABLES
    )
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    asked = free + int(states * share)
    spike = _taken(asked)
    taken = sum(chunk.nbytes for chunk in spike)
    try:
        during = _seconds(optimizer)
    except torch.OutOfMemoryError:
        during = None
    del spike
    torch.cuda.empty_cache()
    first, *others = [_seconds(optimizer) for _ in range(1 + STEPS)]
    del optimizer, tensors
    torch.cuda.empty_cache()
    return {
        "state_bytes": states,
        "free_bytes": free,
        "asked_bytes": asked,
        "spike_bytes": taken,
        "seconds_before": before,
        "seconds_during": during,
        "seconds_first_after": first,
        "seconds_after": statistics.median(others),
    }


def _taken(wanted: int) -> list[torch.Tensor]:
    """Memory of the card, taken chunk by chunk and written to, until `wanted` bytes are there or no more is given."""
    chunks: list[torch.Tensor] = []
    try:
        for _ in range(wanted // CHUNK):
            chunk = torch.zeros(CHUNK, dtype=torch.uint8, device="cuda")
            chunks.append(chunk)
        torch.cuda.synchronize()
    except torch.OutOfMemoryError:
        pass
    return chunks


def _seconds(optimizer: Any) -> float:
    """One step, until the card has done it."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    optimizer.step()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def _tensors(sizes: Sequence[int], device: str) -> list[torch.nn.Parameter]:
    """Random float32 numbers with random gradients, the same each time."""
    random = torch.Generator(device).manual_seed(0)
    how: dict[str, Any] = {"generator": random, "device": device}
    found = [torch.nn.Parameter(torch.randn(size, **how)) for size in sizes]
    for tensor in found:
        tensor.grad = torch.randn(tensor.shape, **how)
    return found


def _mib(size: int | None) -> str:
    return "?" if size is None else f"{size / 2**20:,.0f} MiB"


def _ms(seconds: float | None) -> str:
    return "out of memory" if seconds is None else f"{seconds * 1000:,.1f} ms"
