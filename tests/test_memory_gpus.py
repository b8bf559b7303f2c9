"""Cards by name: every spelling means one card or says why not, and every figure lies where such a card's can lie."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.memory import gpus
from workbench.problems import RunError

GIB = 2**30
HERE = Path(__file__).parent
TABLE = json.loads((HERE.parent / "workbench/memory/known_gpus.json").read_text(encoding="utf-8"))
ROWS = {row["name"]: row for row in TABLE["gpus"]}


def said(call, *arguments) -> str:
    """The error's text."""
    with pytest.raises(RunError) as caught:
        call(*arguments)
    return str(caught.value)


def test_every_card_is_found_by_its_own_name_in_any_spelling():
    assert len(gpus.names()) == len(set(gpus.names())) == len(ROWS) >= 35
    for name in gpus.names():
        spellings = [name, name.lower(), f" nvidia {name} ", name.replace("-", " "), f"{name} GPU"]
        assert {gpus.find(spelling).name for spelling in spellings} == {name}


def test_every_label_of_the_driver_leads_to_a_card_of_that_label():
    for row in ROWS.values():
        for label in (row["label"], *row.get("also", [])):
            gpu = gpus.for_driver_name(label)
            assert row["label"] in (gpu.label, *ROWS[gpu.name].get("also", []))
            memory = int(row.get("seen_gib", row["nominal_gib"] * gpus.SEEN) * GIB)
            assert gpus.for_driver_name(label, memory).name == row["name"]


@pytest.mark.parametrize("name", ROWS)
def test_the_figures_of_a_card_lie_where_they_can(name: str):
    gpu, row = gpus.find(name), ROWS[name]
    assert 0.9 * row["nominal_gib"] <= gpu.memory / GIB < row["nominal_gib"]
    assert (6, 0) <= gpu.capability <= (12, 1)
    assert 9 <= gpu.tflops <= 2500
    assert 250e9 <= gpu.bandwidth <= 8.1e12
    # no card does more than 700 sums on a byte that it reads, or fewer than 12
    assert 12 <= gpu.tflops * 1e12 / gpu.bandwidth <= 700
    assert row["source"] and ("seen_gib" in row) == ("seen_source" in row)


def test_newer_cards_of_a_rank_are_not_slower():
    for older, newer in [
        ("RTX3090", "RTX4090"),
        ("RTX4090", "RTX5090"),
        ("T4", "L4"),
        ("A100-80GB", "H100-SXM"),
        ("H100-PCIe", "H100-SXM"),
        ("H200", "B200"),
    ]:
        assert gpus.find(older).tflops < gpus.find(newer).tflops
    assert gpus.find("H100-SXM").bandwidth < gpus.find("H200").bandwidth


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("rtx 4090", "RTX4090"),
        ("4090", "RTX4090"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "RTX4090-Laptop"),
        ("laptop 4090", "RTX4090-Laptop"),
        ("t4", "T4"),
        ("Tesla T4 16 GB", "T4"),
        ("a100-80gb", "A100-80GB"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB"),
        ("3060 12GiB", "RTX3060"),
        ("RTX_4070_Ti_Super", "RTX4070TiSuper"),
        ("h200 141gb", "H200"),
        ("H100", "H100-PCIe"),
    ],
)
def test_people_write_names_as_they_like(written: str, name: str):
    assert gpus.find(written).name == name


def test_a_name_of_several_cards_lists_them():
    assert said(gpus.find, "A100") == (
        "'A100' is the name of 2 cards: A100-40GB, A100-80GB. Give one of these names."
    )
    for name in ("v100", "RTX 3080", "4060 Ti", "5060 ti"):
        assert "is the name of 2 cards" in said(gpus.find, name)


def test_a_card_that_is_not_known_gets_the_names_near_it_and_the_way_out():
    for name in ("rtx 4900", "RTX 6000", "3060 8gb", "A100 60GB", "foo", "", "gb", "16GiB", "\n"):
        text = said(gpus.find, name)
        assert text.startswith(f"No card is known by the name {name!r};")
        assert text.endswith("For any other card give its memory: --vram 16GiB.")
    assert "RTX4090" in said(gpus.find, "rtx 4900")
    assert "T4" in said(gpus.find, "foo")  # nothing is near: all of them


def test_the_drivers_card_is_told_by_its_memory():
    assert gpus.for_driver_name("NVIDIA GeForce RTX 3080", 12 * GIB).name == "RTX3080-12GB"
    assert gpus.for_driver_name("NVIDIA GeForce RTX 3080", 10 * GIB).name == "RTX3080-10GB"
    assert gpus.for_driver_name("NVIDIA GeForce RTX 3080").name == "RTX3080-10GB"
    # a slice of a card, another card of the name, and cards that the table does not have
    assert gpus.for_driver_name("NVIDIA A100-SXM4-40GB", 10 * GIB) is None
    assert gpus.for_driver_name("NVIDIA GeForce RTX 3060", 6 * GIB) is None
    for name in ("NVIDIA GeForce RTX 3060 Laptop GPU", "NVIDIA GH99", "A100", "", "NVIDIA"):
        assert gpus.for_driver_name(name) is None


@pytest.mark.parametrize(
    ("text", "memory"),
    [
        ("16GiB", 16 * GIB),
        ("16 GB", 16 * GIB),
        ("24g", 24 * GIB),
        ("16", 16 * GIB),
        (" 7.5 gib ", 7.5 * GIB),
        (".5g", GIB / 2),
        ("512 MiB", GIB / 2),
        ("1T", 1024 * GIB),
        ("4 TiB", 4096 * GIB),
        ("+8", 8 * GIB),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, memory: float):
    assert gpus.size(text) == memory


def test_what_is_no_size_of_memory_is_refused():
    for text in ("", "x", "GiB", "16 bytes", "1e3", "16b", "nan", "inf", "16GiB 2", "1,5g", "²"):
        assert said(gpus.size, text) == f"{text!r} is not a size of memory. Write it like 16GiB."
    for text in ("0", "-16GiB", "-0", "0.0 MiB", "0.0000000001"):
        assert "it must be above zero" in said(gpus.size, text)
    for text in ("5 TiB", "16000", "9" * 400):
        assert said(gpus.size, text).endswith(
            "is more than 4 TiB; no card has that. Write it like 16GiB."
        )


def test_sizes_come_back_from_what_they_are_printed_as():
    for name in gpus.names():
        shown = f"{gpus.find(name).memory / GIB:.2f} GiB"
        assert abs(gpus.size(shown) - gpus.find(name).memory) <= 0.005 * GIB + 1


def test_no_published_run_took_more_than_its_card_has():
    anchors = json.loads((HERE / "memory_anchors.json").read_text(encoding="utf-8"))["rows"]
    on_a_card = [row for row in anchors if "card" in row["setup"]]
    assert len(on_a_card) >= 60
    for row in on_a_card:
        memory, measured = gpus.find(row["setup"]["card"]).memory, row["measured"]
        taken = [measured.get(f"peak_{kind}_gib", 0) * GIB for kind in ("reserved", "allocated")]
        taken += [measured.get("process_mib", 0) * 2**20, measured.get("process_gb", 0) * 1e9]
        assert 0 < max([*taken, measured.get("peak_allocated_gb", 0) * 1000000000.0]) <= memory, (
            row["id"]
        )


def test_importing_reads_nothing():
    code = (
        "import builtins, io, pathlib, sys\n"
        "import workbench.problems, difflib, json, re\n"
        "seen = []\n"
        "read = pathlib.Path.read_text\n"
        "pathlib.Path.read_text = lambda self, *a, **k: seen.append(self) or read(self, *a, **k)\n"
        "from workbench.memory import gpus\n"
        "before = len(seen)\n"
        "gpus.names(); gpus.names()\n"
        "print(before, len(seen), *sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=HERE.parent
    )
    assert out.stdout.split() == ["0", "1"]  # and once only, when first asked
