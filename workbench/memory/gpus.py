"""Cards that people have: their memory and their speed, by name. Knows nothing of the cards in this machine."""

import functools
import json
import re
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from ..problems import Problem, RunError

GIB = 2**30
# Of a card's nominal memory, what CUDA lets a program see where no published figure was found: the least share
# in `known_gpus.json` of a card without ECC is 0.95 (7.60 of 8 GiB).
SEEN = 0.95
LARGEST = 4 * 2**40  # bytes; no card has more, so a larger figure is a slip of the unit

# words that makers and drivers put around a name, and that tell no card from another
_NOISE = re.compile(r"\b(nvidia|geforce|tesla|quadro|rtx|generation|gpu|graphics|card)\b")
_MEMORY = re.compile(r"(\d+)gb")
# what may follow a name that stands for several cards
_VARIANT = re.compile(rf"({_MEMORY.pattern}|pcie|sxm)")
_SIZE = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))([kmgt]?)(i?b)?")
_UNITS = {"": GIB, "k": 2**10, "m": 2**20, "g": GIB, "t": 2**40}


class Gpu(NamedTuple):
    """A kind of card; see the fields for units."""

    name: str  # short: "T4", "RTX4090"
    label: str  # as the driver says it: "Tesla T4"
    memory: int  # bytes that torch.cuda.get_device_properties(0).total_memory reports
    capability: tuple[int, int]  # as CUDA counts it: (7, 5)
    tflops: float  # 1e12 FLOP/s of dense 16-bit matrices, summed in 32 bits
    bandwidth: float  # bytes/s of its memory
    source: str  # of the figures above


def names() -> list[str]:
    """The short names of all known cards, from small to large memory."""
    return [gpu.name for gpu in _cards()]


def find(name: str) -> Gpu:
    """The card that a person means by `name`, in any spelling: "rtx 4090", "NVIDIA GeForce RTX 4090", "a100-80gb".

    A name of several cards ("A100": 40 or 80 GB) is an error that lists them, because the smaller one might be
    a wrong "no" and the larger one a wrong "fits"; where their memory is the same ("H100": PCIe or SXM) the
    slower is taken, so that a time is never promised too short. Raises RunError for a name that is not known.
    """
    key = _key(name)
    if found := _by_key().get(key) or _with_its_memory(name):
        return found
    several = {
        gpu
        for other, gpu in _by_key().items()
        if key and other.startswith(key) and _VARIANT.fullmatch(other[len(key) :])
    }
    if several and len({gpu.memory for gpu in several}) == 1:
        return min(several, key=lambda gpu: (gpu.tflops, gpu.bandwidth))
    if several:
        which = [gpu.name for gpu in _cards() if gpu in several]
        fact = f"{name!r} is the name of {len(which)} cards: {', '.join(which)}."
        raise RunError([Problem("", fact, "Give one of these names.")])
    near = get_close_matches(key, _by_key(), n=8, cutoff=0.6 if len(key) > 2 else 0.5)
    which = list(dict.fromkeys(_by_key()[other].name for other in near))[:4] or names()
    fact = f"No card is known by the name {name!r}; {'near it are' if near else 'known are'} {', '.join(which)}."
    cure = "For any other card give its memory: --vram 16GiB."
    raise RunError([Problem("", fact, cure)])


def for_driver_name(name: str, memory: int | None = None) -> Gpu | None:
    """The card with this name of the driver, or None where the table does not have it.

    `memory` (bytes, as the driver counts them) tells cards of one name apart, and a card whose memory is more
    than a fifth away is another one. Without it the smallest is taken.
    """
    asked = _key(name)
    labelled = [gpu for gpu, labels in _labels().items() if asked in labels]
    if memory is not None:
        labelled = [gpu for gpu in labelled if abs(gpu.memory - memory) <= memory / 5]
        return min(labelled, key=lambda gpu: abs(gpu.memory - memory), default=None)
    return min(labelled, key=lambda gpu: gpu.memory, default=None)


def size(text: str) -> int:
    """Bytes of a memory size: "16GiB", "16 GB", "24g", "16" or "512 MiB".

    Without a unit it is GiB, and GB is GiB too, because that is what makers of cards mean by it. Raises
    RunError for what is no number, is not above zero, or is more than 4 TiB.
    """
    cure = "Write it like 16GiB."
    match = _SIZE.fullmatch(re.sub(r"\s+", "", text.lower()))
    if match is None or (match[3] and not match[2]):
        raise RunError([Problem("", f"{text!r} is not a size of memory.", cure)])
    found = float(match[1]) * _UNITS[match[2]]
    if found > LARGEST:
        raise RunError([Problem("", f"{text!r} is more than 4 TiB; no card has that.", cure)])
    if found < 1:
        fact = f"{text!r} is not a size of memory; it must be above zero."
        raise RunError([Problem("", fact, cure)])
    return int(found)


def _words(name: str) -> list[str]:
    """What tells a name from others: "RTX 4090 Laptop GPU" -> ["4090", "laptop"], "T4 16 GiB" -> ["t4", "16gb"]."""
    words = re.sub(r"[^a-z0-9]+", " ", name.lower())
    # "RTX4090" is one word; so is "16 GiB"
    words = re.sub(r"\brtx(?=[a-z0-9])", "rtx ", re.sub(r"(\d)\s*gi?b?\b", r"\1gb", words))
    return sorted(_NOISE.sub(" ", words).split(), key=lambda word: word in ("laptop", "mobile"))


def _key(name: str) -> str:
    return "".join(_words(name))


def _with_its_memory(name: str) -> Gpu | None:
    """The card whose name is followed by its memory ("T4 16GB"), which need not be said."""
    *words, last = _words(name) or [""]
    size_said = _MEMORY.fullmatch(last)
    gpu = _by_key().get("".join(words)) if size_said else None
    # a card with ECC shows a tenth less than its maker prints
    return gpu if gpu and 0.85 < gpu.memory / (int(size_said[1]) * GIB) <= 1 else None


@functools.cache
def _rows() -> dict[Gpu, list[str]]:
    """Each card of the table, from small to large memory, and the further names that a driver has for it."""
    table = json.loads(Path(__file__).with_name("known_gpus.json").read_text(encoding="utf-8"))
    rows = {}
    for row in table["gpus"]:
        seen = row.get("seen_gib", row["nominal_gib"] * SEEN)
        gpu = Gpu(
            name=row["name"],
            label=row["label"],
            memory=int(seen * GIB),
            capability=tuple(row["capability"]),
            tflops=row["tflops"],
            bandwidth=row["bandwidth_gb_s"] * 1e9,
            source=row["source"],
        )
        rows[gpu] = row.get("also", [])
    return dict(sorted(rows.items(), key=lambda item: (item[0].memory, item[0].name)))


def _cards() -> list[Gpu]:
    return list(_rows())


@functools.cache
def _labels() -> dict[Gpu, set[str]]:
    """The keys under which a driver may name each card."""
    return {gpu: {_key(label) for label in (gpu.label, *also)} for gpu, also in _rows().items()}


@functools.cache
def _by_key() -> dict[str, Gpu]:
    """Every spelling that means exactly one card."""
    meant: dict[str, set[Gpu]] = {}
    for gpu, labels in _labels().items():
        for key in labels | {_key(gpu.name)}:
            meant.setdefault(key, set()).add(gpu)
    return {key: cards.pop() for key, cards in meant.items() if len(cards) == 1}
