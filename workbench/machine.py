"""What this machine has: cards, memory, library versions; which backend follows from that, and what to mend.

Knows nothing of recipes, and never imports torch: the driver is asked directly.
"""

import os
import platform
import re
import shutil
from dataclasses import dataclass, field
from importlib import metadata
from typing import Literal, NamedTuple

import psutil

from . import cards
from .cards import Card
from .problems import Problem

GIB = 2**30
#: What can work at all, the same as in pyproject.toml (a test compares them).
NEEDED = {
    "torch": ">=2.4,<2.15",
    "transformers": ">=5.15,<=5.17.0",
    "trl": "==1.14.2",
    "peft": ">=0.20",
    "bitsandbytes": ">=0.50",
    "datasets": ">=4.7,<5",
    "accelerate": ">=1.14",
}
UNSLOTH = {"unsloth": "==2026.10.7", "unsloth_zoo": "==2026.10.7"}
SHOWN = (
    "triton",
    "torchvision",
    "huggingface_hub",
    "jupyterlab",
    "ipykernel",
    "ipywidgets",
    "matplotlib",
)
PYTHONS = ((3, 11), (3, 13))  # oldest and newest
OLDEST_DRIVER = {
    12: 525,
    13: 580,
}  # CUDA's major version -> driver, by NVIDIA's compatibility table
OLDEST_FOR_UNSLOTH = (7, 0)  # compute capability: Volta
BFLOAT16 = (8, 0)  # compute capability: Ampere

Level = Literal["ok", "warn", "stop"]


class Choice(NamedTuple):
    """A backend and the reason for it; `problem` says why it cannot be used here."""

    value: Literal["unsloth", "peft"]
    why: str
    problem: Problem | None = None


class Finding(NamedTuple):
    """One line of the report; `cure` is empty where nothing has to be done."""

    level: Level
    fact: str
    cure: str = ""


@dataclass(frozen=True)
class Machine:
    """A machine at one moment. Sizes in bytes; `versions` holds only what is installed.

    `cuda` is the CUDA major version that torch was built for, None for a CPU build. `card_fault` says why cards
    that seem to be there cannot be seen.
    """

    cards: tuple[Card, ...] = ()
    cpu_count: int = 1
    memory_total: int = 0
    memory_free: int = 0
    disk_free: int = 0
    python: tuple[int, int] = (3, 11)
    versions: dict[str, str] = field(default_factory=dict)
    cuda: int | None = None
    card_fault: str = ""
    in_colab: bool = False
    in_wsl: bool = False

    @property
    def torch_is_cpu_build(self) -> bool:
        return self.versions.get("torch", "").endswith("+cpu")


def look() -> Machine:
    """Looks at this machine: about 0.1 s, more where nvidia-smi has to be called."""
    found, fault = cards.visible()
    memory = psutil.virtual_memory()
    versions = _versions()
    return Machine(
        cards=tuple(found),
        cpu_count=os.cpu_count() or 1,
        memory_total=memory.total,
        memory_free=memory.available,
        disk_free=shutil.disk_usage(".").free,
        python=tuple(map(int, platform.python_version_tuple()[:2])),
        versions=versions,
        cuda=_cuda_of_torch(versions.get("torch")),
        card_fault=fault,
        in_colab="COLAB_RELEASE_TAG" in os.environ,
        in_wsl="microsoft" in platform.release().lower(),
    )


def choose_backend(asked: Literal["auto", "unsloth", "peft"], machine: Machine) -> Choice:
    """The backend for `asked` on this machine; `auto` always gives one that can be used."""
    lacking = _unsloth_lacks(machine)
    if asked == "peft":
        return Choice("peft", "The recipe asks for PEFT.")
    if asked == "unsloth":
        return Choice("unsloth", "The recipe asks for Unsloth.", lacking)
    if lacking:
        return Choice("peft", f"{lacking.fact} PEFT runs anyway.")
    return Choice(
        "unsloth", f"{machine.cards[0].name} is here, and Unsloth trains faster on it than PEFT."
    )


def report(machine: Machine) -> list[Finding]:
    """What is good, what will be slower or different, and what has to be mended before a run."""
    findings = [_python(machine), *_gpu(machine), *_libraries(machine), *_room(machine)]
    choice = choose_backend("auto", machine)
    findings.append(Finding("ok", f"backend: auto takes {choice.value}. {choice.why}"))
    findings.append(Finding("ok", f"compute dtype: auto takes {_dtype(machine)}."))
    return findings


def _dtype(machine: Machine) -> str:
    """What `worker/precision.py` will choose, and why, as far as it can be known without torch."""
    if not machine.cards:
        return "float32, since CPUs compute fastest in it"
    card = machine.cards[0]
    if card.capability >= BFLOAT16:
        return f"bfloat16, which {card.name} computes in and which cannot overflow as float16 does"
    return f"float16, since {card.name} has no bfloat16"


def _unsloth_lacks(machine: Machine) -> Problem | None:
    """Why Unsloth cannot run here, None if it can."""
    if not machine.cards:
        fact = f"Unsloth needs an NVIDIA GPU, and {machine.card_fault or 'none was found'}."
        return Problem("backend", fact, "Set backend to auto or peft, or use a machine with a GPU.")
    card = machine.cards[0]
    if card.capability < OLDEST_FOR_UNSLOTH:
        has, needs = (".".join(map(str, pair)) for pair in (card.capability, OLDEST_FOR_UNSLOTH))
        fact = f"{card.name} has compute capability {has}, and Unsloth needs {needs}."
        return Problem("backend", fact, "Set backend to auto or peft.")
    if machine.torch_is_cpu_build:
        fact = f"torch {machine.versions['torch']} is a CPU build, so {card.name} cannot be used."
        return Problem("backend", fact, _CUDA_TORCH)
    missing = [name for name in UNSLOTH if name not in machine.versions]
    if missing:
        fact = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed."
        return Problem(
            "backend", fact, "pip install -r requirements.txt, or set backend to auto or peft."
        )
    return None


_CUDA_TORCH = "pip uninstall torch, then pip install -r requirements.txt."


def _python(machine: Machine) -> Finding:
    has, oldest, newest = (".".join(map(str, pair)) for pair in (machine.python, *PYTHONS))
    if PYTHONS[0] <= machine.python <= PYTHONS[1]:
        return Finding("ok", f"Python {has}.")
    cure = f"Make the environment anew with Python {oldest} to {newest}."
    return Finding("stop", f"Python {has} is not supported.", cure)


def _gpu(machine: Machine) -> list[Finding]:
    if not machine.cards:
        fact = f"No NVIDIA GPU: {machine.card_fault or 'none was found'}. The tiny lane runs on the CPU; real models are too slow."
        cure = "Nothing to do for the tiny lane. For real models use a machine with an NVIDIA GPU."
        if machine.in_colab:
            cure = "For real models choose Runtime, Change runtime type, T4 GPU."
        elif machine.in_wsl:
            cure = "If Windows has an NVIDIA card, update its driver in Windows, then run wsl --update."
        return [Finding("warn", fact, cure)]
    findings = []
    for card in machine.cards:
        capability = ".".join(map(str, card.capability))
        fact = f"GPU {card.index}: {card.name}, {gib(card.free)} of {gib(card.total)} free, capability {capability}, driver {card.driver}."
        findings.append(Finding("ok", fact))
        if card.capability < BFLOAT16:
            fact = f"{card.name} has no bfloat16; runs compute in float16, which overflows sooner."
            findings.append(
                Finding(
                    "warn", fact, "Nothing to do. If the loss becomes NaN, halve the learning rate."
                )
            )
    if machine.torch_is_cpu_build:
        fact = (
            f"torch {machine.versions['torch']} is a CPU build beside a GPU, which it cannot use."
        )
        findings.append(Finding("stop", fact, _CUDA_TORCH))
    return findings + _driver(machine)


def _driver(machine: Machine) -> list[Finding]:
    needed, driver = OLDEST_DRIVER.get(machine.cuda), machine.cards[0].driver
    major = re.match(r"\d+", driver)
    if needed is None or major is None or int(major[0]) >= needed:
        return []
    fact = f"The NVIDIA driver is {driver}; torch's CUDA {machine.cuda} needs {needed} or newer."
    cure = f"Update the driver, or install a torch that is built for CUDA {machine.cuda - 1}."
    return [Finding("stop", fact, cure)]


def _libraries(machine: Machine) -> list[Finding]:
    versions = machine.versions
    wanted = {**NEEDED, **UNSLOTH} if machine.cards else NEEDED
    missing = [name for name in wanted if name not in versions]
    findings = []
    if lacking := [name for name in missing if name in NEEDED]:
        file = "requirements.txt" if machine.cards else "requirements-cpu.txt"
        findings.append(
            Finding("stop", f"Not installed: {', '.join(lacking)}.", f"pip install -r {file}.")
        )
    if lacking := [name for name in missing if name in UNSLOTH]:
        fact = f"Not installed: {', '.join(lacking)}. Runs use PEFT, which is slower."
        findings.append(Finding("warn", fact, "pip install -r requirements.txt."))
    shown = [name for name in (*wanted, *SHOWN) if name in versions]
    findings += [_version(name, versions[name], wanted.get(name)) for name in shown]
    vision = versions.get("torchvision", "")
    if machine.torch_is_cpu_build and vision and not vision.endswith("+cpu"):
        fact = f"torchvision {vision} does not load beside torch {versions['torch']}, and then transformers does not import."
        findings.append(Finding("stop", fact, "pip uninstall torchvision."))
    return findings


def _version(name: str, version: str, wanted: str | None) -> Finding:
    from packaging.specifiers import SpecifierSet

    if wanted is None or SpecifierSet(wanted).contains(version, prereleases=True):
        return Finding("ok", f"{name} {version}.")
    return Finding(
        "warn",
        f"{name} {version} is outside of what is tested: {wanted}.",
        f'pip install "{name}{wanted}".',
    )


def _room(machine: Machine) -> list[Finding]:
    memory = f"{machine.cpu_count} CPUs, {gib(machine.memory_free)} of {gib(machine.memory_total)} memory free."
    findings = [Finding("ok", memory)]
    fact = f"{gib(machine.disk_free)} of disk are free in this folder."
    if machine.disk_free < GIB // 2:
        findings.append(Finding("stop", fact, "Free at least 0.5 GiB: runs keep checkpoints here."))
    elif machine.cards and machine.disk_free < 10 * GIB:
        findings.append(
            Finding(
                "warn",
                fact,
                "An 8B model takes 5.5 GiB in 4 bits and 15 GiB in 16: free some space.",
            )
        )
    else:
        findings.append(Finding("ok", fact))
    return findings


def gib(size: int) -> str:
    """Bytes in words: "14.7 GiB"."""
    return f"{size / GIB:,.1f} GiB"


def _versions() -> dict[str, str]:
    found = {}
    for name in (*NEEDED, *UNSLOTH, *SHOWN):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cuda_of_torch(version: str | None) -> int | None:
    """CUDA's major version from torch's own version (+cu128) or, for PyPI's builds, from what it requires."""
    if version is None or version.endswith("+cpu"):
        return None
    local = re.search(r"\+cu(\d\d)\d", version)
    if local:
        return int(local[1])
    required = " ".join(metadata.requires("torch") or ())
    found = re.search(r"-cu(1\d)\b|cuda-toolkit(?:\[[^\]]*\])?==(1\d)", required)
    return int(found[1] or found[2]) if found else None
