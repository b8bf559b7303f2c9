"""What 4 bits do to each layer: the same as bitsandbytes does to the whole layer, ranked, told, and refused in words."""

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bitsandbytes import functional
from safetensors.torch import load_file, save_file

from workbench.charts.layers import error_by_block
from workbench.inside import quantization, shards
from workbench.inspection.quantization import (
    NORMAL,
    Layer,
    QuantizationErrors,
    bits,
    found,
    inspect_quantization,
)
from workbench.problems import RunError

ROOT = Path(__file__).parents[1]
TINY = ROOT / "data" / "tiny" / "model"
NAME = "model.layers.0.mlp.up_proj"


def made_model(folder: Path, tensors: dict[str, torch.Tensor], **config: object) -> Path:
    """A folder with these weights; nothing in it could be trained."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    save_file(tensors, folder / "model.safetensors")
    return folder


def told(model: Path | str, **how: object) -> list[dict]:
    """What the inspection of a model says, without a process."""
    said: list[dict] = []
    quantization.tell(
        lambda kind, **values: said.append({"kind": kind, **values}),
        iter(()),
        model=str(model),
        **how,
    )
    return json.loads(json.dumps(said, allow_nan=False))


def layers_of(said: list[dict]) -> list[dict]:
    return [line for line in said if line["kind"] == "layer"]


def refused(model: Path | str) -> str:
    with pytest.raises(RunError) as caught:
        told(model)
    return str(caught.value)


@pytest.fixture(scope="module")
def tiny_errors() -> tuple[QuantizationErrors, list[str]]:
    """The tiny model's errors, and the words of progress."""
    words: list[str] = []
    return asyncio.run(inspect_quantization(str(TINY), compare=True, told=words.append)), words


# Reading


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(100, 64), (130, 48), (7, 33), (3, 1)])
def test_pieces_are_whole_rows_and_blocks_in_their_own_dtype(tmp_path, dtype, shape):
    weights = torch.randn(shape).to(dtype)
    folder = made_model(tmp_path / "m", {"other": torch.zeros(5), f"{NAME}.weight": weights})
    stored = shards.tensors(folder)[f"{NAME}.weight"]
    pieces = list(shards.pieces(stored, most=1000))
    assert torch.equal(torch.cat(pieces), weights) and pieces[0].dtype == dtype
    assert all(piece.numel() % 64 == 0 for piece in pieces[:-1])
    assert len(pieces) > 1 or weights.numel() < 1000 or shape[1] % 64


def test_what_is_read_is_what_safetensors_reads():
    weights = load_file(TINY / "model.safetensors")
    for name, stored in shards.tensors(TINY).items():
        read = torch.cat(list(shards.flat(stored, 10_000)))
        assert torch.equal(read.view(stored.shape), weights[name])


def test_a_file_that_shrinks_while_it_is_read_is_told(tmp_path):
    folder = made_model(tmp_path / "m", {f"{NAME}.weight": torch.randn(64, 64)})
    stored = shards.tensors(folder)[f"{NAME}.weight"]
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(stored.start + 100)
    with pytest.raises(RunError, match="ended while model.layers.0.mlp.up_proj.weight was read"):
        list(shards.pieces(stored))


# Figures


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("shape", [(300, 256), (50, 130)])  # the last block of the second is short
def test_in_pieces_it_is_what_bitsandbytes_does_to_the_whole_layer(
    tmp_path, monkeypatch, shape, quant_type, double_quant
):
    monkeypatch.setattr(quantization, "PIECE", 64 * 21)  # no whole number of blocks of scales
    torch.manual_seed(0)
    weights = torch.distributions.StudentT(4.0).sample(shape)
    folder = made_model(tmp_path / "m", {f"{NAME}.weight": weights})
    (line,) = layers_of(told(folder, quant_type=quant_type, double_quant=double_quant))
    whole = functional.quantize_4bit(
        weights, quant_type=quant_type, compress_statistics=double_quant
    )
    difference = weights - functional.dequantize_4bit(*whole).view(shape)
    assert line["error"] == pytest.approx(float(difference.norm() / weights.norm()), rel=1e-5)
    largest = float(difference.abs().max() / weights.abs().max())
    assert line["largest"] == pytest.approx(largest, rel=1e-5)
    assert line["norm"] == pytest.approx(float(weights.norm()), rel=1e-5)


def test_normal_weights_lose_what_is_said_that_they_lose():
    torch.manual_seed(0)
    pieces = torch.randn(2**19).split(2**18)
    for form in ("nf4", "fp4"):
        assert quantization.damage(lambda: pieces, form).error == pytest.approx(
            NORMAL[form], abs=5e-4
        )
    norm = float(torch.cat(pieces).norm())
    others = quantization.compared(lambda: pieces)
    assert {form: total**0.5 / norm for form, total in others.items()} == pytest.approx(
        NORMAL, abs=5e-4
    )


def test_conv1d_weights_are_quantized_the_way_bitsandbytes_gets_them(tmp_path):
    torch.manual_seed(0)
    weights = torch.randn(48, 96) * torch.linspace(0.1, 3, 48)[:, None]
    name = "transformer.h.0.mlp.c_fc"
    folder = made_model(tmp_path / "m", {f"{name}.weight": weights}, model_type="gpt2")
    (line,) = layers_of(told(folder, double_quant=False))
    turned = weights.T.contiguous()
    whole = functional.dequantize_4bit(*functional.quantize_4bit(turned, quant_type="nf4"))
    expected = float((turned - whole).norm() / turned.norm())
    assert line["error"] == pytest.approx(expected, rel=1e-5)
    assert line["block"] == 0


def test_experts_and_routers_are_named_and_counted_and_not_quantized(tmp_path):
    block = "model.layers.1"
    tensors = {
        f"{block}.self_attn.q_proj.weight": torch.randn(64, 64),
        f"{block}.mlp.gate.weight": torch.randn(4, 64),
        f"{block}.mlp.experts.down_proj": torch.randn(4, 8, 64),
        f"{block}.mlp.experts.0.w1.weight": torch.randn(8, 64),
        f"{block}.conv.kernel": torch.randn(3, 2, 5),
        f"{block}.input_layernorm.weight": torch.randn(64),
    }
    said = told(made_model(tmp_path / "m", tensors))
    assert [line["name"] for line in layers_of(said)] == [f"{block}.self_attn.q_proj"]
    kept = {line["name"]: line for line in said if line["kind"] == "kept"}
    assert set(kept) == {"experts", "gate", "kernel"}
    assert (kept["experts"]["tensors"], kept["experts"]["parameters"]) == (2, 4 * 8 * 64 + 8 * 64)


def test_weights_that_are_all_zero_lose_nothing(tmp_path):
    folder = made_model(tmp_path / "m", {f"{NAME}.weight": torch.zeros(64, 64)})
    (line,) = layers_of(told(folder, compare=True))
    assert line["error"] == line["largest"] == line["norm"] == 0
    made = found(
        {"model": "m", "quant_type": "nf4", "double_quant": True, "compare": True}, [line], 1
    )
    assert made.error == made.exempt[0].removed == made.others["nf4"] == 0
    assert "no layer" in str(made).lower() and made._repr_html_()


def test_a_large_layer_takes_little_memory(tmp_path):
    """33.6 million weights take 240 to 310 MiB, and 460 where they are quantized all at once."""
    folder = made_model(tmp_path / "m", {f"{NAME}.weight": torch.randn(8192, 4096).bfloat16()})
    code = """
import sys
from workbench.inside import quantization
memory = lambda: {l.split(":")[0]: int(l.split()[1]) for l in open("/proc/self/status") if ":" in l and "kB" in l}
before = memory()["VmRSS"]
quantization.tell(lambda kind, **_: None, iter(()), model=sys.argv[1])
print((memory()["VmHWM"] - before) // 1024)
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not tell a process's peak memory")
    out = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, cwd=ROOT
    )
    assert out.returncode == 0, out.stderr
    assert int(out.stdout) < 400  # MiB


# The tiny model


def test_the_tiny_models_errors_are_those_that_were_measured(tiny_errors):
    errors, words = tiny_errors
    assert len(errors.layers) == 28
    assert errors.error == pytest.approx(0.0938, abs=2e-4)
    assert errors.others == pytest.approx({"nf4": 0.0936, "fp4": 0.1162, "int4": 0.1075}, abs=2e-4)
    assert errors.worst(1)[0].name == "model.layers.0.self_attn.o_proj"
    assert [layer.block for layer in errors.layers] == sorted(
        layer.block for layer in errors.layers
    )
    assert "layer 1 of 28: " in words[0]
    layer = errors.layers[0]
    assert layer.extra_bytes == round(layer.parameters * (16 - bits(double_quant=True)) / 8)


def test_it_is_told_as_text_html_and_json(tiny_errors):
    errors, _ = tiny_errors
    text, page = str(errors), errors._repr_html_()
    assert text.startswith(f"{TINY}: NF4 with double quantization changes the weights of its 28")
    assert "NF4 9.4 %, int4 10.7 %, FP4 11.6 %" in text
    for layer in errors.worst():
        assert layer.name in text and layer.name in page
    assert "<script" not in page and 'role="region"' in page
    kept = json.loads(json.dumps(errors.as_dict(), allow_nan=False))
    assert len(kept["layers"]) == 28 and kept["error"] == errors.error


def test_the_picture_has_a_line_for_each_module_and_names_the_worst(tiny_errors):
    (axes,) = error_by_block(tiny_errors[0]).axes
    labels = [line.get_label() for line in axes.lines]
    assert labels[:2] == ["q_proj", "k_proj"] and {"o_proj", "the worst 3"} <= set(labels)
    assert axes.texts[0].get_text() == "o_proj of block 0, 11.8 %"


# Ranking, on made errors


def made_errors(errors: list[float], **how: object) -> QuantizationErrors:
    """A model with a layer in a block for each error, all of one size."""
    layers = tuple(
        Layer(f"model.layers.{n}.mlp.<b>", "<b>", n, 1000, error, 0.1, 1484, 2.0)
        for n, error in enumerate(errors)
    )
    return QuantizationErrors("<i>m</i>", "nf4", True, layers, None, 3.0, **how)


def test_the_worst_come_first_and_what_sparing_them_removes_is_their_share():
    errors = made_errors([0.09] * 98 + [0.18, 0.36])
    assert [layer.block for layer in errors.worst(2)] == [99, 98]
    one, three, five = errors.exempt
    assert (one.layers, three.layers, five.layers) == (1, 3, 5)
    whole = 98 * 0.09**2 + 0.18**2 + 0.36**2
    assert one.removed == pytest.approx(0.36**2 / whole)
    assert three.removed == pytest.approx((0.36**2 + 0.18**2 + 0.09**2) / whole)
    assert one.bytes == 1484
    assert errors.error == pytest.approx((whole / 100) ** 0.5)
    assert errors.without(1).removed == pytest.approx(1)


def test_what_is_clearly_above_normal_weights_is_marked_and_said():
    calm, wild = made_errors([0.092, 0.093]), made_errors([0.092, 0.2])
    assert not calm.outliers and "No layer is clearly above that" in str(calm)
    assert [layer.block for layer in wild.outliers] == [1]
    assert "1 of 2 layers is clearly above that" in str(wild)
    assert "-unsloth-bnb-4bit" in str(wild) and "-unsloth-bnb-4bit" not in str(calm)
    assert wild._repr_html_().count("▲") > calm._repr_html_().count("▲")


def test_names_from_a_file_are_escaped():
    page = made_errors([0.09])._repr_html_()
    assert "<b>" not in page.replace("<b>&lt;i&gt;", "") and "<i>" not in page
    assert "&lt;b&gt;" in page
    assert error_by_block(made_errors([0.09, 0.1])).axes


# What cannot be used


def copy_of(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


def test_a_file_that_is_cut_off_is_refused(tmp_path):
    folder = copy_of(TINY, tmp_path / "cut")
    weights = folder / "model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size // 2)
    assert "model.safetensors is cut off: it has " in (text := refused(folder))
    assert text.endswith("Copy or download it again.")


def test_a_pickle_is_refused_unread(tmp_path):
    folder = copy_of(TINY, tmp_path / "pickle")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "only pytorch_model.bin, which cannot be read safely" in refused(folder)


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("Llama-3.2-1B-bnb-4bit", "Llama-3.2-1B"),
        ("Llama-3.2-1B-unsloth-bnb-4bit", "Llama-3.2-1B"),
        ("Qwen3-8B-AWQ", "Qwen3-8B"),
        ("some-4bit-thing", None),
    ],
)
def test_a_model_that_is_quantized_already_is_refused_with_its_16_bit_version(
    tmp_path, name, original
):
    packed = {"quantization_config": {"quant_method": "bitsandbytes"}}
    tensors = {f"{NAME}.weight": torch.zeros(32, 1, dtype=torch.uint8)}
    text = refused(made_model(tmp_path / name, tensors, **packed))
    assert "were quantized already, by bitsandbytes" in text
    cure = f"version in 16 bit: {tmp_path / original}." if original else "Give its 16-bit version."
    assert text.endswith(cure)


def test_an_adapter_an_empty_folder_and_no_folder_are_refused(tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
    assert refused(adapter).endswith(
        "is an adapter, not a model. Give the model that it was trained on: some/base."
    )
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in refused(tmp_path / "empty")
    with pytest.raises(RunError, match="does not exist"):
        asyncio.run(inspect_quantization(str(tmp_path / "nowhere")))
    only = made_model(tmp_path / "m", {"model.norm.weight": torch.ones(4)})
    assert "has no linear layers inside blocks" in refused(only)


def test_a_model_that_is_not_at_hand_is_told_as_the_hub_tells_it():
    assert "HF_HUB_OFFLINE is set" in refused("nobody/no-such-model")
    with pytest.raises(RunError, match="are not on this machine"):
        shards.folder("nobody/no-such-model")


def test_a_folder_without_a_tokenizer_will_do(tmp_path):
    folder = made_model(tmp_path / "m", {f"{NAME}.weight": torch.randn(64, 64)})
    assert shards.folder(str(folder)) == folder


def test_weights_that_are_no_numbers_are_named_and_the_others_are_inspected(tmp_path):
    bad = torch.randn(64, 64)
    bad[3, :2] = torch.tensor([float("nan"), float("inf")])
    tensors = {f"{NAME}.weight": torch.randn(64, 64), f"{NAME.replace('0', '1')}.weight": bad}
    how = {"model": "m", "quant_type": "nf4", "double_quant": True, "compare": False}
    lines = layers_of(told(made_model(tmp_path / "m", tensors)))
    errors = found(how, lines, 1.0)
    assert [layer.name for layer in errors.layers] == [NAME]
    assert [tuple(one) for one in errors.broken] == [("model.layers.1.mlp.up_proj", 2)]
    for shown in (str(errors), errors._repr_html_()):
        assert "model.layers.1.mlp.up_proj holds 2 weights that are no numbers" in shown
    with pytest.raises(RunError, match="All 1 linear layers of m hold weights that are no numbers"):
        found(how, lines[1:], 1.0)


def test_a_format_that_bitsandbytes_does_not_pack_is_refused():
    with pytest.raises(RunError, match="quant_type is 'int4'; bitsandbytes packs 4 bits as nf4"):
        asyncio.run(inspect_quantization(str(TINY), quant_type="int4"))
