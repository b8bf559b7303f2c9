"""Where a run goes: a card of this machine, one that is only named, or main memory. Knows nothing of models."""

import os
from dataclasses import dataclass, replace

from ..machine import Machine
from ..problems import Problem, RunError
from . import gpus
from .gpus import Gpu

LIMIT = "WORKBENCH_MEMORY_LIMIT"
ON_CPU = (
    571 * 2**20
)  # bytes of a worker before its weights: torch 2.13, Transformers 5.17, TRL, PEFT
CPU_FLOPS = 35e9  # a second and core: 60 to 80 GFLOP/s were usable on two cores with AVX2


@dataclass(frozen=True)
class Place:
    """Where a run goes: `total` and `free` bytes of a card's memory, or of main memory where there is no card.

    `flops` a second in 16 bits with dense tensors, `bandwidth` in bytes a second; None where they are not known.
    """

    name: str
    total: int
    free: int
    on_gpu: bool = True
    capability: tuple[int, int] = (8, 0)
    flops: float | None = None
    bandwidth: float | None = None


def limit() -> int | None:
    """Bytes that WORKBENCH_MEMORY_LIMIT leaves a run (worker/device.py heeds it), None without it. Raises RunError."""
    told = os.environ.get(LIMIT)
    if not told:
        return None
    if told.strip().isdecimal():
        return int(told)
    try:
        return gpus.size(told)
    except RunError:
        fact = f"{LIMIT} is {told!r}, which is no size."
        raise RunError([Problem("", fact, "Give bytes, or a size such as 8GiB.")]) from None


def here(machine: Machine, most: int | None = None) -> Place:
    """The first card of this machine as free as it is now, or its main memory; a run gets at most `most` bytes of it."""
    found = _here(machine)
    if most is None:
        return found
    # on a CPU what the worker's libraries take is beside the limit
    return replace(found, free=min(found.free, most if found.on_gpu else most + ON_CPU))


def _here(machine: Machine) -> Place:
    if not machine.cards:
        flops = CPU_FLOPS * machine.cpu_count
        return Place("CPU", machine.memory_total, machine.memory_free, on_gpu=False, flops=flops)
    card = machine.cards[0]
    known = gpus.for_driver_name(card.name, card.total)
    place = Place(card.name, card.total, card.free, capability=card.capability)
    if known is None:
        return place
    return replace(place, flops=known.tflops * 1e12, bandwidth=known.bandwidth)


def there(gpu: Gpu) -> Place:
    """A card by its figures, with nothing on it yet."""
    return Place(
        gpu.label,
        gpu.memory,
        gpu.memory,
        capability=gpu.capability,
        flops=gpu.tflops * 1e12,
        bandwidth=gpu.bandwidth,
    )


def of_size(size: int) -> Place:
    """Any card with so many bytes; its speed is not known."""
    return Place("a card of that size", size, size)
