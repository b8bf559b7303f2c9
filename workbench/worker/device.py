"""What the device and the process hold, what software is installed, and the lock on the card that a run uses."""

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from .. import lock

PACKAGES = (
    "torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets", "tokenizers", "unsloth",
    "unsloth_zoo", "triton", "qlora-workbench",
)  # fmt: skip


def memory() -> dict[str, int]:
    """Bytes: torch's allocated and reserved, the process's resident memory, and what the card has in use and in all.

    Without a GPU the first two and the card's are 0: torch does not count its memory there.
    """
    import torch

    reading = {"process": psutil.Process().memory_info().rss}
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        device = (torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), total - free, total)
    else:
        device = (0, 0, 0, 0)
    names = ("allocated", "reserved", "device_used", "device_total")
    return reading | dict(zip(names, device, strict=True))


def hold_card(folder: Path) -> None:
    """One run to a card: a second one would take the memory that the first was promised. Raises RunError if it is held."""
    import torch

    held = torch.cuda.is_available() and torch.version.cuda
    if held and lock.hold(lock.card_lock(), folder) is None:
        lock.check_free(lock.card_lock())


def environment() -> dict[str, Any]:
    """What a reader needs to repeat the run: versions, the card, the processor's threads."""
    import torch

    cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cards": cards if torch.cuda.is_available() else [],
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "executable": sys.executable,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
