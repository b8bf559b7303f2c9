"""README, "What is true about QLoRA": each figure there that can be calculated is, and no row is without a verdict and a source."""

import importlib.util
import re
from pathlib import Path

import pytest

from workbench.inspection import two_backends
from workbench.memory import known, parts
from workbench.memory.estimate import estimate
from workbench.memory.habits import habits
from workbench.memory.shapes import Shapes, from_config
from workbench.memory.work import Work
from workbench.recipe import Recipe

ROOT = Path(__file__).parents[1]
SECTION = (
    (ROOT / "README.md")
    .read_text(encoding="utf-8")
    .partition("## What is true about QLoRA\n")[2]
    .partition("\n## ")[0]
)
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in SECTION.splitlines()
    if line.startswith("| ") and not line.startswith("| Said")
]
#: The shape of LLaMA-65B, as its config.json has it.
LLAMA_65B = from_config(
    {
        "model_type": "llama", "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64,
        "intermediate_size": 22016, "vocab_size": 32000, "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    },
    "LLaMA-65B",
)  # fmt: skip
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
SCALES = 8 / 64 + 32 / (64 * 256)  # bits a weight with double quantization


def llama_8b() -> Shapes:
    return known.find("meta-llama/Llama-3.1-8B")


def row(said: str) -> str:
    """What is so, by the beginning of what is said."""
    (found,) = [cells[2] for cells in ROWS if cells[0].startswith(said)]
    return found


def linear(shapes: Shapes) -> int:
    """Weights that are packed."""
    return sum(kind.in_features * kind.out_features * kind.count for kind in shapes.linears)


def beside(shapes: Shapes) -> int:
    """Bytes of what stays in 16 bits."""
    return 2 * (shapes.embedding + shapes.head + shapes.other)


def trained(shapes: Shapes, rank: int, targets: str | tuple[str, ...] = "all-linear") -> list[int]:
    return parts.trained(shapes, Work(rows=1, length=512, rank=rank, targets=targets))


def gb(count: float, digits: int = 1) -> str:
    return f"{count / 1e9:.{digits}f} GB"


def test_each_claim_has_a_verdict_and_says_where_its_figures_are_from():
    assert len(ROWS) >= 17 and all(len(cells) == 4 for cells in ROWS)
    assert {cells[1] for cells in ROWS} == {"true", "half true", "false"}
    for said, _, so, source in ROWS:
        assert said and so
        assert re.search(r"calculated|notebooks? \d\d|the paper|benchmark|tables|kernels/", source)
    assert len(SECTION.splitlines()) < 45


def test_a_65b_needs_more_than_its_weights_and_less_than_48_gb():
    weights = linear(LLAMA_65B) * (4 + SCALES) / 8
    said = row("A 65B model trains on under 16 GB")
    assert gb(weights) in said and gb(weights + beside(LLAMA_65B)) in said
    work = Work(rows=1, length=512, rank=16, optimizer="paged_adamw_32bit")
    expected = sum(estimate(LLAMA_65B, work, habits("unsloth")).parts.values())
    assert gb(expected) in row("A 65B model trains on 48 GB") and expected < 48e9


def test_attention_is_a_third_of_an_adapter_on_all_layers():
    share = sum(trained(llama_8b(), 16, ATTENTION)) / sum(trained(llama_8b(), 16))
    assert f"{100 * share:.1f} %" in row("Adapters go into the attention modules")


def test_the_bits_of_a_weight():
    said = row("4-bit weights take 4 bits")
    assert f"{4 + SCALES:.3f}" in said and f"{4 + 32 / 64:g}" in said
    whole = linear(llama_8b()) * (4 + SCALES) / 8 + beside(llama_8b())
    assert f"{8 * whole / llama_8b().parameters:.2f} bits" in said and gb(whole, 2) in said
    assert f"= {SCALES:.3f}" in row("It brings the scales from")
    assert parts.CODEBOOK == 16 * 4 and "16 numbers" in row("Double quantization compresses")


def test_what_double_quantization_saves():
    said, bits = row("It saves 0.4 to 3 %"), 32 / 64 - SCALES
    saved = linear(llama_8b()) * bits / 8
    before = linear(llama_8b()) * 4.5 / 8 + beside(llama_8b())
    for figure in (
        f"{bits:.3f} of 4.5 bits",
        f"{bits / 4.5:.1%}".replace("%", " %"),
        f"{saved / before:.1%}".replace("%", " %"),
        gb(saved, 2),
        gb(linear(LLAMA_65B) * bits / 8),
    ):
        assert figure in said, figure


def test_the_size_of_an_adapter_and_of_what_is_paged():
    sizes = trained(llama_8b(), 16)
    said, count = row("The adapter takes 1 to 2 GB"), sum(sizes)
    assert f"{count / 1e6:.1f} million" in said
    assert f"{2 * count / 1e6:.0f} MB in 16 bits, {4 * count / 1e6:.0f} MB as kept" in said
    assert gb(2 * sum(trained(LLAMA_65B, 64))) in said
    states = parts.optimizer(sizes, "paged_adamw_8bit")
    assert f"{states / 1e6:.0f} MB" in row("Paged attention keeps")


def test_alpha_over_rank():
    scale = Recipe(lora={"rank": 64, "alpha": 16}).lora_scale
    assert f"alpha 16 at rank 64, a factor of {scale:g}" in row("Alpha must be")


def test_how_much_slower_the_published_run_is():
    slow, fast = map(float, re.search(r"([\d.]+) against ([\d.]+) min", row("QLoRA is as fast")).groups())  # fmt: skip
    assert f"{slow / fast:.2f} times" in row("QLoRA is as fast")


def test_unsloths_kernels_compute_dropout():
    found = importlib.util.find_spec("unsloth")
    if found is None:
        pytest.skip("unsloth is not installed")
    assert "fused kernels compute dropout" in row("Dropout must be 0")
    source = (Path(found.origin).parent / "kernels" / "fast_lora.py").read_text(encoding="utf-8")
    assert re.search(r"UNSLOTH_FUSED_LORA_DROPOUT\"?'?, *\"?'?1", source)


def test_how_far_the_backends_are_apart():
    cpu = two_backends.recorded()[0]
    assert f"{cpu.difference:.7f} of the loss over {len(cpu.differences)} steps" in SECTION
