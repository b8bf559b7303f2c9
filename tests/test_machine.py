"""What the machine is found to be, which backend follows, and what the report says; no torch is imported."""

import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from workbench import machine
from workbench.machine import GIB, Card, Machine, choose_backend, look, report

T4 = Card("Tesla T4", 0, 15 * GIB, 14 * GIB, "550.54.15", (7, 5))
H100 = Card("NVIDIA H100", 0, 80 * GIB, 79 * GIB, "580.65", (9, 0))
VERSIONS = {
    "torch": "2.13.0", "transformers": "5.17.0", "trl": "1.14.2", "peft": "0.21.2", "bitsandbytes": "0.50.2",
    "datasets": "4.8.5", "accelerate": "1.15.0", "unsloth": "2026.10.7", "unsloth_zoo": "2026.10.7",
}  # fmt: skip
GOOD = Machine(
    cards=(H100,), cpu_count=8, memory_total=64 * GIB, memory_free=60 * GIB, disk_free=200 * GIB,
    versions=VERSIONS, cuda=13,
)  # fmt: skip
CPU = replace(GOOD, cards=(), cuda=None, versions={**VERSIONS, "torch": "2.13.0+cpu"})


def without(names: str) -> Machine:
    return replace(GOOD, versions={k: v for k, v in VERSIONS.items() if k not in names.split()})


def told(found: Machine) -> list[str]:
    """What is not fine, in one line each."""
    return [f"{level}: {fact} {cure}" for level, fact, cure in report(found) if level != "ok"]


def test_looking_is_quick_and_imports_no_torch() -> None:
    program = "import sys; from workbench import machine; machine.report(machine.look()); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_this_machine_has_what_every_machine_has() -> None:
    here = look()
    assert here.cpu_count >= 1
    assert 0 < here.memory_free <= here.memory_total
    assert here.python == sys.version_info[:2]
    assert here.versions["trl"]


def test_the_ranges_are_those_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    assert {name + bounds for name, bounds in machine.NEEDED.items()} == set(extras["worker"])
    assert {name + bounds for name, bounds in machine.UNSLOTH.items()} == set(extras["unsloth"])
    oldest, newest = machine.PYTHONS
    assert project["project"]["requires-python"] == f">=3.{oldest[1]},<3.{newest[1] + 1}"


@pytest.mark.parametrize(
    ("found", "asked", "value", "why", "problem"),
    [
        (GOOD, "auto", "unsloth", "NVIDIA H100 is here, and Unsloth trains faster on it than PEFT.", ""),
        (GOOD, "peft", "peft", "The recipe asks for PEFT.", ""),
        (CPU, "auto", "peft", "Unsloth needs an NVIDIA GPU, and none was found. PEFT runs anyway.", ""),
        (CPU, "unsloth", "unsloth", "The recipe asks for Unsloth.",
         "Unsloth needs an NVIDIA GPU, and none was found."
         " Set backend to auto or peft, or use a machine with a GPU."),
        (without("unsloth"), "auto", "peft", "unsloth is not installed. PEFT runs anyway.", ""),
        (without("unsloth unsloth_zoo"), "unsloth", "unsloth", "The recipe asks for Unsloth.",
         "unsloth and unsloth_zoo are not installed."
         " pip install -r requirements.txt, or set backend to auto or peft."),
        (replace(GOOD, cards=(T4._replace(name="Tesla P100", capability=(6, 0)),)), "auto", "peft",
         "Tesla P100 has compute capability 6.0, and Unsloth needs 7.0. PEFT runs anyway.", ""),
        (replace(GOOD, versions=CPU.versions), "auto", "peft",
         "torch 2.13.0+cpu is a CPU build, so NVIDIA H100 cannot be used. PEFT runs anyway.", ""),
    ],
)  # fmt: skip
def test_the_backend_comes_with_its_reason(found, asked, value, why, problem) -> None:
    choice = choose_backend(asked, found)
    assert (choice.value, choice.why) == (value, why)
    assert str(choice.problem or "") == problem


def test_a_good_machine_has_nothing_to_mend() -> None:
    assert told(GOOD) == []


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (CPU, "warn: No NVIDIA GPU: none was found. The tiny lane runs on the CPU; real models are too slow."
              " Nothing to do for the tiny lane. For real models use a machine with an NVIDIA GPU."),
        (replace(GOOD, cards=(T4,), cuda=12),
         "warn: Tesla T4 has no bfloat16; runs compute in float16, which overflows sooner."
         " Nothing to do. If the loss becomes NaN, halve the learning rate."),
        (replace(GOOD, cards=(H100._replace(driver="550.54"),)),
         "stop: The NVIDIA driver is 550.54; torch's CUDA 13 needs 580 or newer."
         " Update the driver, or install a torch that is built for CUDA 12."),
        (replace(GOOD, python=(3, 14)),
         "stop: Python 3.14 is not supported. Make the environment anew with Python 3.11 to 3.13."),
        (replace(GOOD, versions={**VERSIONS, "trl": "1.15.0"}),
         'warn: trl 1.15.0 is outside of what is tested: ==1.14.2. pip install "trl==1.14.2".'),
        (without("unsloth unsloth_zoo"),
         "warn: Not installed: unsloth, unsloth_zoo. Runs use PEFT, which is slower."
         " pip install -r requirements.txt."),
        (without("torch peft"), "stop: Not installed: torch, peft. pip install -r requirements.txt."),
        (replace(GOOD, versions=CPU.versions),
         "stop: torch 2.13.0+cpu is a CPU build beside a GPU, which it cannot use."
         " pip uninstall torch, then pip install -r requirements.txt."),
        (replace(CPU, versions={**CPU.versions, "torchvision": "0.28.0"}),
         "stop: torchvision 0.28.0 does not load beside torch 2.13.0+cpu, and then transformers does not import."
         " pip uninstall torchvision."),
        (replace(GOOD, disk_free=GIB // 4),
         "stop: 0.2 GiB of disk are free in this folder. Free at least 0.5 GiB: runs keep checkpoints here."),
        (replace(GOOD, disk_free=5 * GIB),
         "warn: 5.0 GiB of disk are free in this folder."
         " An 8B model takes 5.5 GiB in 4 bits and 15 GiB in 16: free some space."),
    ],
)  # fmt: skip
def test_each_flaw_comes_with_its_cure(found, says) -> None:
    assert says in told(found)


def test_colab_and_windows_are_told_where_their_gpu_is() -> None:
    assert "choose Runtime, Change runtime type, T4 GPU." in told(replace(CPU, in_colab=True))[0]
    assert "update its driver in Windows" in told(replace(CPU, in_wsl=True))[0]


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a program of that name on the path that prints `lines`, as the driver's would."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def put(*lines: str, status: int = 0) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(
            "#!/bin/sh\ncat <<'END'\n" + "\n".join(lines) + f"\nEND\nexit {status}\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return put


TWO = ("0, Tesla T4, 15360, 15000, 550.54.15, 7.5", "1, NVIDIA GB10, [N/A], [N/A], 580.1, 12.1")


def test_cards_are_read_from_nvidia_smi(nvidia_smi) -> None:
    nvidia_smi(*TWO)
    first, second = look().cards
    assert first == Card("Tesla T4", 0, 15360 * 2**20, 15000 * 2**20, "550.54.15", (7, 5))
    assert (
        second.capability == (12, 1) and second.total == look().memory_total
    )  # it shares main memory


@pytest.mark.parametrize(
    ("asked", "left"),
    [("1", [1]), ("1,0", [1, 0]), ("0,7,1", [0]), ("", []), ("-1", []), ("GPU-ab", [0, 1])],
)
def test_hidden_cards_are_not_there(nvidia_smi, monkeypatch, asked, left) -> None:
    nvidia_smi(*TWO)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", asked)
    here = look()
    assert [card.index for card in here.cards] == left
    if not left:
        problem = choose_backend("unsloth", here).problem
        assert problem.fact == (
            f"Unsloth needs an NVIDIA GPU, and CUDA_VISIBLE_DEVICES={asked!r} hides what there is: Tesla T4."
        )


def test_a_driver_that_fails_is_quoted(nvidia_smi) -> None:
    nvidia_smi(
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", status=9
    )
    here = look()
    assert here.cards == ()
    assert here.card_fault == (
        "nvidia-smi says: NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver"
    )
