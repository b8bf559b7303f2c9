"""The 4-bit formats laid open: what bitsandbytes does, to the bit; bytes counted on its tensors; and what a format does to a model."""

import contextlib
import math
from pathlib import Path

import bitsandbytes.functional as bnb
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import workbench as wb
from workbench.charts.levels import drawn_errors, drawn_levels
from workbench.inside import formats, quality, storage
from workbench.problems import RunError
from workbench.worker import measure, parts

TINY = Path(__file__).parents[1] / "data" / "tiny"
SHAPES = ((64, 64), (33, 65), (7, 13), (2, 96))


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(math.prod(shape)))
    return (made / 50).to(dtype)


def refused(error: pytest.ExceptionInfo) -> tuple[str, str]:
    (problem,) = error.value.problems
    return problem.fact, problem.cure


# Levels


def test_the_levels_of_nf4_come_from_the_normal_distribution():
    assert torch.equal(formats.nf4(), bnb.get_4bit_type("nf4", device="cpu"))


def test_fp4_is_as_bitsandbytes_has_it_in_the_order_of_its_codes():
    assert torch.equal(formats.fp4(), bnb.get_4bit_type("fp4", device="cpu"))
    assert formats.fp4()[1] == pytest.approx(0.0052, abs=1e-4)
    differ = formats.fp4().sort().values - formats.e2m1().sort().values
    assert (differ.abs() > 1e-6).sum() == 2  # only the smallest, and its negative


@pytest.mark.parametrize("name", formats.FORMATS)
def test_a_format_has_at_most_16_levels_from_minus_one_to_one_and_0_among_them(name: str):
    levels = formats.levels(name)
    assert len(levels) <= 16 and levels.dtype == torch.float32
    assert (levels.min(), levels.max()) == (-1, 1) and (levels == 0).any()


def test_who_changes_levels_changes_only_their_own():
    formats.levels("nf4").zero_()
    assert formats.levels("nf4").max() == 1


# Codes


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_packed_codes_equal_those_of_bitsandbytes_bit_for_bit(name, dtype, shape):
    weight = normal(*shape, dtype=dtype)
    packed, state = bnb.quantize_4bit(weight, blocksize=64, quant_type=name)
    mine = formats.quantize(weight, name)
    assert torch.equal(formats.pack(mine), packed.flatten())
    assert torch.equal(mine.absmax, state.absmax)
    assert torch.equal(formats.unpack(packed, weight.numel()), mine.codes)
    back = bnb.dequantize_4bit(packed, state).float()
    rounding = torch.finfo(dtype).eps * weight.abs().max().item()
    assert torch.allclose(formats.dequantize(mine), back, atol=rounding, rtol=0)


def test_the_first_code_lies_in_the_upper_four_bits():
    weight = torch.tensor([1.0, -1.0])
    assert formats.pack(formats.quantize(weight, "nf4")).tolist() == [0xF0]


def test_scales_quantized_twice_are_those_of_bitsandbytes_but_for_ties():
    weight = normal(512, 512)
    _, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
    mine = formats.quantize_twice(weight)
    assert mine.offset == state.offset and torch.equal(mine.scales.absmax, state.state2.absmax)
    steps = (mine.scales.codes.int() - state.absmax.int()).abs()
    assert steps.max() <= 1 and (steps > 0).float().mean() < 0.01
    twice = formats.relative_error(weight, formats.dequantize(mine))
    once = formats.relative_error(weight, formats.round_trip(weight, "nf4"))
    assert once < twice < 1.01 * once


numbers = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None)
@given(numbers, st.sampled_from([*formats.FORMATS]), st.integers(1, 50))
def test_each_number_gets_the_nearest_level_of_its_block(values, name, block):
    tensor, levels = torch.tensor(values), formats.levels(name)
    stored = formats.quantize(tensor, name, block)
    for place, value in enumerate(formats.scaled(tensor, block)):
        got = levels[stored.codes[place].int()]
        assert abs(got - value) <= (levels - value).abs().min() + 1e-6
    assert torch.equal(formats.unpack(formats.pack(stored), len(values)), stored.codes)


@pytest.mark.parametrize("name", formats.FORMATS)
def test_what_went_through_once_goes_through_unchanged(name: str):
    once = formats.round_trip(normal(33, 65), name)
    assert once.shape == (33, 65)
    assert torch.allclose(formats.round_trip(once, name), once, atol=1e-8)
    assert not formats.round_trip(torch.zeros(3, 3), name).any()


def test_smaller_blocks_err_less_and_nf4_less_than_its_rivals():
    weight = normal(512, 512)
    by_block = list(formats.errors_by_block(weight, sizes=(4096, 1024, 256, 64, 32)).values())
    assert by_block[0] > by_block[2] > by_block[3] > by_block[4] > by_block[5] > by_block[6]
    by_format = {
        name: formats.relative_error(weight, formats.round_trip(weight, name))
        for name in formats.FORMATS
    }
    assert min(by_format, key=by_format.get) == "nf4"
    assert by_format["nf4"] == pytest.approx(0.092, abs=1e-3)
    assert by_format["e2m1"] < by_format["int4"] < by_format["fp4"] < by_format["e3m0"]


def test_an_outlier_spoils_its_block_and_no_other():
    weight = normal(8, 64)
    spoiled = weight.clone()
    spoiled[0, 0] = 100 * weight.abs().max()
    clean, spoilt = (formats.round_trip(each, "nf4") for each in (weight, spoiled))
    assert torch.equal(clean[1:], spoilt[1:])
    assert not spoilt[0, 1:].any()  # all that is left of its neighbours
    assert not formats.round_trip(spoiled, "nf4", spoiled.numel()).flatten()[1:].any()


def test_codes_are_counted_by_level():
    weight = normal(512, 512)
    nf4, int4 = (formats.quantize(weight, name) for name in ("nf4", "int4"))
    assert sum(formats.shares(nf4)) == pytest.approx(1)
    assert len(formats.shares(int4)) == 15
    assert formats.bits_used(int4) < 3.6 < 3.8 < formats.bits_used(nf4) < 4
    even = formats.Quantized(torch.arange(16).byte(), torch.ones(1), formats.nf4(), 64, (16,))
    assert formats.bits_used(even) == pytest.approx(4)


def test_a_table_made_for_a_tensor_errs_less_than_nf4_but_not_much():
    weight = normal(512, 512)
    made = formats.fitted(weight)
    assert torch.equal(made, made.sort().values) and (made[0], made[7], made[-1]) == (-1, 0, 1)
    best, nf4 = (
        formats.relative_error(weight, formats.round_trip(weight, table)) for table in (made, "nf4")
    )
    assert 0.95 * nf4 < best < 0.99 * nf4


@pytest.mark.parametrize(
    ("tensor", "name", "block", "fact"),
    [
        (torch.ones(4), "nf5", 64, "There is no 4-bit format 'nf5'."),
        (torch.ones(4), "nf4", 0, "4 numbers cannot be laid out in blocks of 0."),
        (torch.ones(0), "nf4", 64, "0 numbers cannot be laid out in blocks of 64."),
        (
            torch.tensor([1.0, math.nan]),
            "nf4",
            64,
            "The tensor holds numbers that are not finite: one of them spoils its whole block.",
        ),
    ],
)
def test_what_cannot_be_quantized_is_refused(tensor, name, block, fact):
    with pytest.raises(RunError) as error:
        formats.round_trip(tensor, name, block)
    assert refused(error)[0] == fact and refused(error)[1]


# Bytes


def test_scales_cost_half_a_bit_or_an_eighth():
    weight = normal(256, 1024)
    for double, bits in ((False, 0.5), (True, 8 / 64 + 32 / (64 * 256))):
        counted = storage.of_layer(storage.four_bit(weight, double_quant=double))
        assert counted.scale_bits == bits == storage.scale_bits(double_quant=double)
        assert counted.bits == 4 + bits
        assert counted.parameters == weight.numel() and counted.codes == weight.numel() // 2
    assert counted.constants == {"16 levels": 64, "256 levels": 1024, "offset": 4}
    assert "4.127 bits a weight, 0.127 of them for scales" in str(counted)


@pytest.mark.parametrize("double", [True, False])
def test_all_bytes_are_those_that_the_worker_counts(double: bool):
    model = small(double_quant=double)
    layers = storage.of_model(model)
    held = parts.held(model)
    assert len(layers) == 7 and sum(layer.codes for layer in layers) == held["weights"]
    apart = sum(layer.total for layer in layers) - held["weights"]
    assert apart == held["scales"]


def test_on_disk_it_is_the_file_to_the_byte(tmp_path: Path):
    layer = storage.four_bit(normal(64, 128))
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    sizes = storage.on_disk(layer)
    assert sum(sizes.values()) == (tmp_path / "layer.safetensors").stat().st_size
    assert sizes["weight"] == 64 * 128 // 2 and sizes["weight.absmax"] == 128


def test_the_second_level_gives_the_scales_back():
    weight = normal(512, 512)
    kept = storage.scales(storage.four_bit(weight))
    first = formats.quantize(weight, "nf4").absmax
    assert kept.codes.dtype == torch.uint8 and len(kept.levels) == 256
    assert kept.offset == pytest.approx(first.mean().item())
    assert formats.relative_error(first, kept.restored) < 0.005
    layer = storage.four_bit(weight)
    by_hand = formats.Quantized(
        formats.quantize(weight, "nf4").codes, kept.restored, formats.nf4(), 64, weight.shape
    )
    theirs = bnb.dequantize_4bit(layer.weight, layer.weight.quant_state)
    assert torch.allclose(formats.dequantize(by_hand), theirs, atol=1e-6)


@pytest.mark.parametrize("model", ["meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-70B"])
def test_what_double_quantization_saves_is_what_the_plan_says(model: str):
    recipes = [wb.Recipe(model={"name": model, "double_quant": on}) for on in (True, False)]
    on, off = (wb.plan(recipe, vram="80GiB").parts for recipe in recipes)
    saved = storage.saved(2 * on["weights"])
    assert off["scales"] - on["scales"] == pytest.approx(saved, rel=1e-3)


def test_what_is_not_in_four_bits_is_refused():
    with pytest.raises(RunError) as error:
        storage.of_layer(torch.nn.Linear(4, 4), "q_proj")
    assert refused(error) == (
        "The weight of q_proj is float32, not 4 bits of bitsandbytes.",
        "Load the model with load_in_4bit=True, or pass the matrix through storage.four_bit.",
    )
    with pytest.raises(RunError) as error:
        storage.of_model(torch.nn.Sequential(torch.nn.Linear(4, 4)))
    assert refused(error)[0] == "No layer of the model is in 4 bits."
    with pytest.raises(RunError) as error:
        storage.scales(storage.four_bit(normal(64, 64), double_quant=False), "q_proj")
    assert "double quantization is off" in refused(error)[0]


# Models


def small(*, double_quant: bool = True, four_bit: bool = True) -> LlamaForCausalLM:
    """A Llama of one block with random weights, its linear layers in 4 bits."""
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    linear = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    for name, module in linear.items():
        if four_bit and module is not model.lm_head:
            owner, _, last = name.rpartition(".")
            made = storage.four_bit(module.weight.data, double_quant=double_quant)
            setattr(model.get_submodule(owner), last, made)
    return model


@pytest.fixture(scope="module")
def text() -> str:
    return "\n\n".join((TINY / "prose.txt").read_text(encoding="utf-8").split("\n\n")[:8])


def test_a_round_trip_costs_what_real_4_bit_layers_cost(text: str):
    name = str(TINY / "model")
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ids = quality.rows(model, AutoTokenizer.from_pretrained(name), text)
    lines: list[str] = []
    whole, nf4 = quality.qualities(model, ids, ("fp32", "nf4+dq"), told=lines.append)
    real = measure.measure(name, text)
    assert (whole.error, whole.tokens) == (0, real["tokens"])
    assert whole.loss == pytest.approx(real["loss_fp32"], abs=1e-6)
    assert nf4.loss == pytest.approx(real["loss_nf4"], abs=1e-4) != whole.loss
    assert nf4.perplexity == math.exp(nf4.loss) and 0.09 < nf4.error < 0.1
    assert lines == [str(whole), str(nf4)]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_weights_are_put_back_after_a_failure_too():
    model = small(four_bit=False)
    before = [weight.clone() for weight in quality.linear_weights(model)]
    with contextlib.suppress(ZeroDivisionError), quality.through(model, "int4") as error:
        assert error > 0 and not torch.equal(model.model.layers[0].mlp.up_proj.weight, before[-2])
        raise ZeroDivisionError
    after = quality.linear_weights(model)
    assert len(after) == 7 and all(map(torch.equal, before, after))


def test_a_model_or_a_text_that_cannot_be_measured_is_refused():
    model = small()
    with pytest.raises(RunError) as error:
        quality.qualities(model, [[1, 2]])
    assert refused(error) == (
        "The model is in 4 bits already; what its weights were before is gone.",
        "Load it with load_in_4bit=False, from its 16-bit version.",
    )
    for name in ("nf5", "nf4+tq"):
        with pytest.raises(RunError) as error:
            quality.qualities(small(four_bit=False), [[1, 2]], (name,))
        assert name in refused(error)[0]
    tokenizer = AutoTokenizer.from_pretrained(str(TINY / "model"))
    with pytest.raises(RunError) as error:
        quality.rows(model, tokenizer, " \n\n ")
    assert "nothing to predict" in refused(error)[0]


# Pictures


def test_levels_are_drawn_over_the_weights():
    weight = load_file(TINY / "model" / "model.safetensors")["model.layers.3.mlp.up_proj.weight"]
    levels = {"NF4": formats.nf4().tolist(), "int4": formats.int4().tolist()}
    made = drawn_levels(formats.scaled(weight).numpy(), levels, "up_proj")
    above, below = made.axes
    (lines,) = above.collections
    assert len(lines.get_segments()) == 16
    rows = [line for line in below.lines if len(line.get_xdata()) > 2]
    assert [len(line.get_xdata()) for line in rows] == [16, 15]
    assert len({line.get_marker() for line in rows}) == 2  # not told by colour alone
    with pytest.raises(ValueError, match="at least one format"):
        drawn_levels([0.5], {})


def test_the_smallest_error_is_filled_and_each_has_its_number():
    (axes,) = drawn_errors({"nf4": 0.092, "int4": 0.1075}, "block 64").axes
    assert [text.get_text().strip() for text in axes.texts] == ["9.20 %", "10.75 %"]
    assert [bool(bar.get_hatch()) for bar in axes.patches] == [False, True]
    assert drawn_errors({"one": 0.0}).axes
    with pytest.raises(ValueError, match="at least one error"):
        drawn_errors({})
