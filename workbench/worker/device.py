"""What the device and the process hold, what software is installed, and the lock on the card that a run uses."""

import contextlib
import os
import platform
import re
import resource
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from .. import lock
from . import card_readings

PACKAGES = (
    "torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets", "tokenizers", "unsloth",
    "unsloth_zoo", "triton", "qlora-workbench",
)  # fmt: skip
MEMORY_LIMIT = "WORKBENCH_MEMORY_LIMIT"  # the variable, see `limit_memory`
CARD_HELD = "WORKBENCH_CARD_HELD"  # the descriptor of the card's lock, from a worker to the one in its place
#: The packages on which it depends how much memory a run takes.
DECIDING = ("torch", "transformers", "trl", "peft", "bitsandbytes", "unsloth", "unsloth_zoo")


def readings() -> dict[str, Any]:
    """The fields of a memory event: bytes, and what else the card says (`card_readings.read`).

    The bytes are torch's allocated and reserved, the process's resident memory, and what the card has in use and in
    all. Without a GPU the first two and the card's are 0: torch does not count its memory there.
    """
    import torch

    reading = {"process": psutil.Process().memory_info().rss}
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        device = (torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), total - free, total)
    else:
        device = (0, 0, 0, 0)
    names = ("allocated", "reserved", "device_used", "device_total")
    return reading | dict(zip(names, device, strict=True)) | card_readings.read()


def card() -> str:
    """The name of the card in use, or "CPU"."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def before_weights() -> int:
    """Bytes that the process holds before any weight: the CUDA context, or on a CPU Python and its libraries.

    Without `pynvml`, other programs on the card are counted too.
    """
    import torch

    if not torch.cuda.is_available():
        return psutil.Process().memory_info().rss
    free, total = torch.cuda.mem_get_info()  # makes the context
    used = _of_process() or total - free
    return max(used - torch.cuda.memory_reserved(), 0)


def on_card() -> bool:
    """Whether there is a GPU that torch can use."""
    import torch

    return torch.cuda.is_available()


def restart_peak() -> None:
    """Has the system count the most main memory of this process from here on; where it will not, of its whole life."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_of_process() -> int:
    """The most main memory that this process had, in bytes."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else psutil.Process().memory_info().rss


def process_memory(before: int, process: int) -> dict[str, int]:
    """Bytes beside the tensors: `process` and `context`; on a GPU also torch's peaks, `allocated` and `reserved`.

    `before` is what `before_weights` told at the start, `process` the most main memory, which counts on a CPU only.
    """
    import torch

    if not torch.cuda.is_available():
        return {"process": process, "context": before}
    reserved, of_process = torch.cuda.memory_reserved(), _of_process()
    context = max(of_process - reserved, 0) if of_process else before
    return {
        "process": context + reserved,
        "context": context,
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
    }


def versions() -> dict[str, str]:
    """The versions of what decides how much memory a run takes, as far as it is installed."""
    return {name: version for name in DECIDING if (version := _version(name))}


def _of_process() -> int | None:
    """Bytes of the card that this process holds by the driver's account; None where that cannot be asked."""
    library, card = card_readings.handle()
    try:
        running = library.nvmlDeviceGetComputeRunningProcesses(card)
    except (
        Exception
    ):  # no such library or card, not allowed, or another driver: the figure is left out
        return None
    return next((one.usedGpuMemory for one in running if one.pid == os.getpid()), None)


def hold_card(folder: Path) -> int | None:
    """One run to a card: a second one would take the memory that the first was promised. Raises RunError if it is held.

    Returns the descriptor that holds it. A worker that replaces itself hands that on, so that no other run comes between.
    """
    import torch

    if inherited := os.environ.pop(CARD_HELD, None):
        os.set_inheritable(int(inherited), False)
        return int(inherited)
    if not (torch.cuda.is_available() and torch.version.cuda):
        return None
    held = lock.hold(lock.card_lock(), folder)
    if held is None:
        lock.check_free(lock.card_lock())
    return held


def limit_memory() -> None:
    """Leaves this process no more memory than `WORKBENCH_MEMORY_LIMIT` says, in bytes or as "2GiB": a small card to
    try things on. Called once all libraries are imported, before the weights are loaded.

    On a GPU it limits what torch may reserve. On a CPU it limits what is allocated from now on, beyond what the
    process has: the system then refuses more, as it would on a small machine. Raises ValueError for what is no size.
    """
    import torch

    asked = os.environ.get(MEMORY_LIMIT)
    if not asked:
        return
    limit = in_bytes(asked)
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(limit / total, 1.0))
        return
    _start_threads()
    _give_back_at_once()
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_data_bytes() + limit, most))


def memory_limit() -> int | None:
    """The limit in bytes that the environment sets, None without one."""
    asked = os.environ.get(MEMORY_LIMIT)
    return in_bytes(asked) if asked else None


def memory_left(available: int) -> int:
    """Of the main memory that is `available`, in bytes, what this process may still take."""
    most, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return min(available, most - _data_bytes()) if most != resource.RLIM_INFINITY else available


def unlimited() -> None:
    """Takes the limit back, so that a process in this one's place can set its own."""
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def in_bytes(text: str) -> int:
    """A size such as "2GiB", "512 MiB" or "1000000". Raises ValueError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B|B)?\s*", text, re.IGNORECASE)
    if not found:
        raise ValueError(f"{MEMORY_LIMIT} is {text!r}; give bytes, or a size such as 2GiB.")
    number, unit = found.groups()
    return int(float(number) * 1024 ** " KMGT".index((unit or " ").upper()[0].replace("B", " ")))


def _data_bytes() -> int:
    """What counts against RLIMIT_DATA (man 2 getrlimit): private writable memory, VmData in proc(5)."""
    status = Path("/proc/self/status").read_text()
    lines = (line.split() for line in status.splitlines())
    return next(int(line[1]) * 1024 for line in lines if line[:1] == ["VmData:"])


def _give_back_at_once() -> None:
    """Has glibc return what is freed to the system, from 1 MiB on: kept for later, it would count as used."""
    import ctypes

    m_mmap_threshold = -3  # malloc.h
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(m_mmap_threshold, 2**20)


def _start_threads() -> None:
    """Starts the threads that compute, whose stacks need memory: a thread that cannot be started ends the process."""
    import torch

    for size in (256, 512):
        square = torch.randn(size, size, requires_grad=True)
        (torch.nn.functional.silu(square @ square)).sum().backward()


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
