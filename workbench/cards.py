"""The NVIDIA cards of this machine, asked of the driver. Knows nothing of torch, which would take seconds and memory."""

import os
import re
import shutil
import subprocess
from importlib import util
from itertools import takewhile
from typing import NamedTuple

import psutil


class Card(NamedTuple):
    """An NVIDIA card; `total` and `free` in bytes, `capability` as CUDA counts it."""

    name: str
    index: int
    total: int
    free: int
    driver: str
    capability: tuple[int, int]


def visible() -> tuple[list[Card], str]:
    """The cards that CUDA_VISIBLE_DEVICES leaves, in its order, or none and the reason ("" if there is no sign of one).

    Names in that variable other than indices (of parts of a card) are left to CUDA to judge.
    """
    cards, fault = _all()
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None or not cards:
        return cards, fault
    parts = [part.strip() for part in asked.split(",") if part.strip()]
    if not all(re.fullmatch(r"-?\d+", part) for part in parts):
        return cards, fault
    by_index = {card.index: card for card in cards}
    # as CUDA does: the first index that does not exist ends the list
    left = [by_index[int(part)] for part in takewhile(lambda part: int(part) in by_index, parts)]
    hidden = f"CUDA_VISIBLE_DEVICES={asked!r} hides what there is: {cards[0].name}"
    return left, "" if left else hidden


def _all() -> tuple[list[Card], str]:
    """All NVIDIA cards, or none and the reason ("" where there is no sign of one)."""
    if util.find_spec("pynvml") and (found := _by_nvml()):
        return found, ""
    smi = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path="/usr/lib/wsl/lib")
    return _by_smi(smi) if smi else ([], "")


def _by_nvml() -> list[Card]:
    import pynvml

    cards = []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver: nvidia-smi, if it is there, says why in words
        return cards
    try:
        driver = pynvml.nvmlSystemGetDriverVersion()
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            name, capability = (
                pynvml.nvmlDeviceGetName(handle),
                pynvml.nvmlDeviceGetCudaComputeCapability(handle),
            )
            cards.append(Card(name, index, memory.total, memory.free, driver, tuple(capability)))
    except (
        pynvml.NVMLError
    ):  # a card that shares main memory does not tell: nvidia-smi leaves the field out
        return []
    finally:
        pynvml.nvmlShutdown()
    return cards


def _by_smi(program: str) -> tuple[list[Card], str]:
    query = "--query-gpu=index,name,memory.total,memory.free,driver_version,compute_cap"
    try:
        done = subprocess.run(
            [program, query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], f"{program} did not answer ({type(error).__name__})"
    lines = done.stdout.strip().splitlines()
    if done.returncode:
        said = lines or done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        return [], f"nvidia-smi says: {said[0].rstrip('.')}"
    return [_card(line) for line in lines], ""


def _card(line: str) -> Card:
    """A card from a line of nvidia-smi; MiB there, bytes here. A card that shares main memory has no figures."""
    index, name, total, free, driver, capability = (part.strip() for part in line.split(","))
    shared = psutil.virtual_memory()
    total_bytes = int(total) * 2**20 if total.isdecimal() else shared.total
    free_bytes = int(free) * 2**20 if free.isdecimal() else shared.available
    major, _, minor = capability.partition(".")
    return Card(name, int(index), total_bytes, free_bytes, driver, (int(major), int(minor)))
