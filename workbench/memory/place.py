"""Where a run goes: a card of this machine, one that is only named, or main memory. Knows nothing of models."""

from dataclasses import dataclass, replace

from ..machine import Machine
from . import gpus
from .gpus import Gpu

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


def here(machine: Machine) -> Place:
    """The first card of this machine as free as it is now, or its main memory."""
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
    return Place(f"a card with {size / 2**30:g} GiB", size, size)
