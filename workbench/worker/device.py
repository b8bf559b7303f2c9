"""What the device and the process hold, and what software is installed. Reads only; changes nothing."""

import os
import platform
import sys
from importlib import metadata
from typing import Any

import psutil

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
