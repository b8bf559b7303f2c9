"""Shapes: against the real models of Transformers on torch's meta device, parameter for parameter, and bad input."""

import json
import logging
import random
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert

from workbench import models
from workbench.folders import Tensor
from workbench.memory import known
from workbench.memory.families import FAMILIES
from workbench.memory.shapes import Shapes, from_config, from_model
from workbench.models import Model
from workbench.problems import RunError

ROOT = Path(__file__).parents[1]
TINY = ROOT / "data" / "tiny"
TABLE = json.loads((ROOT / "workbench/memory/known_models.json").read_text())
#: Parameters as the models' pages on the hub give them; a tied head counts once, and a vision tower not.
PUBLISHED = {
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-70b-hf": 68_976_648_192,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-72B": 72_706_203_648,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "mistralai/Mistral-Nemo-Base-2407": 12_247_782_400,
    "mistralai/Mistral-Small-24B-Base-2501": 23_572_403_200,
    "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
    "google/gemma-2b": 2_506_172_416,
    "google/gemma-2-9b": 9_241_705_984,
    "google/gemma-3-1b-pt": 999_885_952,
    "microsoft/Phi-3.5-mini-instruct": 3_821_079_552,
    "microsoft/phi-4": 14_659_507_200,
    "openai/gpt-oss-20b": 20_914_757_184,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 1_100_048_384,
    "tiiuae/Falcon3-7B-Base": 7_455_550_464,
    "allenai/OLMo-2-1124-7B": 7_298_617_344,
    "codellama/CodeLlama-34b-hf": 33_743_970_304,
    "ibm-granite/granite-3.1-8b-instruct": 8_170_848_256,
}
SMALL = {
    "hidden_size": 64, "num_hidden_layers": 6, "vocab_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
#: What each family's own fields can be, beside the defaults.
FIELDS = {
    "llama": [{"attention_bias": True}, {"mlp_bias": True}, {"head_dim": 32}, {"tie_word_embeddings": True}],
    "qwen3": [{"attention_bias": True}, {"head_dim": 8}],
    "phi": [{"qk_layernorm": True}, {"num_key_value_heads": None}],
    "falcon": [
        {"new_decoder_architecture": True, "num_kv_heads": 2},
        {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
        {"multi_query": False, "bias": True}, {"parallel_attn": False}, {"tie_word_embeddings": False},
    ],
    "cohere": [{"use_qk_norm": True}],
    "stablelm": [{"use_qkv_bias": True, "qk_layernorm": True}, {"use_parallel_residual": True}],
    "starcoder2": [{"use_bias": False}],
    "gpt2": [{"n_inner": 80}],
    "gpt_neox": [{"attention_bias": False}],
    "mixtral": [{"num_local_experts": 4}],
    "qwen2_moe": [
        {"shared_expert_intermediate_size": 72}, {"qkv_bias": False},
        {"mlp_only_layers": [0, 3]}, {"decoder_sparse_step": 2},
    ],
    "qwen3_moe": [{"mlp_only_layers": [1]}, {"decoder_sparse_step": 3}, {"num_experts": 4, "moe_intermediate_size": 48}],
    "gpt_oss": [{"num_local_experts": 4}, {"attention_bias": False}],
    "seed_oss": [{"attention_out_bias": True}],
}  # fmt: skip
LACKS = {
    "falcon": ("intermediate_size", "num_key_value_heads"),
    "gpt2": ("intermediate_size", "num_key_value_heads"),
    "gpt_neox": ("num_key_value_heads",),
}


def small(family: str, **fields: object) -> dict:
    config = {key: value for key, value in SMALL.items() if key not in LACKS.get(family, ())}
    return config | {"model_type": family} | fields


SMALLS = [
    pytest.param(small(family, **fields), id=f"{family}-{'-'.join(fields) or 'plain'}")
    for family in FAMILIES
    for fields in ({}, *FIELDS.get(family, ()))
]


def build(config: dict) -> torch.nn.Module:
    """Transformers' model of a configuration, without memory for its weights."""
    return _build(json.dumps(config.get("text_config", config)))


@cache
def _build(text: str) -> torch.nn.Module:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    config = json.loads(text)
    config.pop("quantization_config", None)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))


def layers(model: torch.nn.Module, kinds: tuple[type, ...] = (torch.nn.Linear, Conv1D)) -> Counter:
    """(module, group, in, out, bias) of all linear layers but the head."""
    found: Counter = Counter()
    for name, module in model.named_modules():
        if isinstance(module, kinds) and module is not model.get_output_embeddings():
            sizes = (
                (module.in_features, module.out_features)
                if hasattr(module, "in_features")
                else module.weight.shape
            )
            group = "attention" if "attn" in name or "attention" in name else "mlp"
            found[name.rpartition(".")[2], group, *sizes, module.bias is not None] += 1
    return found


def listed(shapes: Shapes, *, packed: bool | None = None) -> Counter:
    found: Counter = Counter()
    for kind in shapes.linears:
        if packed is None or kind.packed == packed:
            found[*kind[:4], kind.bias] += kind.count
    return found


def agree(shapes: Shapes, model: torch.nn.Module) -> None:
    """Each part of the shapes against the model's own parameters."""
    assert listed(shapes) == layers(model)
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head.weight is table.weight
    assert shapes.head == (0 if tied else head.weight.numel())
    tables = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    assert shapes.embedding == sum(m.weight.numel() for m in tables)
    experts = [p.numel() for name, p in model.named_parameters() if ".experts." in name]
    assert shapes.experts == sum(experts)
    assert shapes.parameters == sum(p.numel() for p in model.parameters())
    assert all(kind.count > 0 for kind in shapes.linears)


# Against Transformers' models


@pytest.mark.parametrize("name", TABLE)
def test_every_known_model_is_transformers_model_parameter_for_parameter(name: str):
    shapes = from_config(TABLE[name], name)
    agree(shapes, build(TABLE[name]))
    assert shapes.parameters == PUBLISHED.get(name, shapes.parameters)
    assert not [words for words in shapes.unknown if "vision tower" not in words]


@pytest.mark.parametrize("config", SMALLS)
def test_every_family_is_transformers_model_parameter_for_parameter(config: dict):
    shapes = from_config(config)
    agree(shapes, build(config))
    assert shapes.unknown == ()


@pytest.mark.parametrize("config", SMALLS)
def test_bitsandbytes_packs_the_layers_that_the_shapes_say(config: dict):
    model = AutoModelForCausalLM.from_config  # a fresh one: replacing changes it
    with torch.device("meta"):
        model = model(AutoConfig.for_model(**config))
    kept = get_keys_to_not_convert(model)
    replace_with_bnb_linear(model, kept, BitsAndBytesConfig(load_in_4bit=True))
    assert listed(from_config(config), packed=True) == layers(model, (Linear4bit,))


@pytest.mark.parametrize("skips", [
    ["lm_head", "model.layers.0.mlp", "model.layers.3.self_attn.q_proj"],
    ["lm_head", "model.layers.1"], ["o_proj"], [r"model.layers.*.self_attn"], ["lm_head", "(unclosed"], ["gate_proj", "model.layers.2.mlp.gate_proj"],
])  # fmt: skip
def test_modules_that_a_quantization_skips_stay_in_16_bit(skips: list[str]):
    config = small("llama", num_hidden_layers=12)
    settings = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "llm_int8_skip_modules": skips,
    }
    shapes = from_config(config | {"quantization_config": settings})
    assert shapes.quantized_by == "bitsandbytes"
    assert listed(shapes) == layers(build(config))
    if "(unclosed" in skips:  # no regular expression: taken literally
        assert not listed(shapes, packed=False)
        return
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    replace_with_bnb_linear(model, ["lm_head", *skips], BitsAndBytesConfig(load_in_4bit=True))
    assert listed(shapes, packed=True) == layers(model, (Linear4bit,))


def test_skipped_modules_of_a_model_that_also_sees_are_found_one_level_down():
    text = small("gemma3_text", num_hidden_layers=6)
    for path in ("language_model.model.layers.0.mlp", "model.language_model.layers.0.mlp"):
        settings = {"quant_method": "bitsandbytes", "llm_int8_skip_modules": [path]}
        config = {
            "model_type": "gemma3",
            "text_config": text,
            "vision_config": {},
            "quantization_config": settings,
        }
        kept = listed(from_config(config), packed=False)
        assert {(kind[0], count) for kind, count in kept.items()} == {
            ("gate_proj", 1),
            ("up_proj", 1),
            ("down_proj", 1),
        }


@pytest.mark.parametrize("config", SMALLS)
def test_layers_with_a_sliding_window_are_those_of_transformers_configuration(config: dict):
    theirs, ours = AutoConfig.for_model(**config), from_config(config)
    kinds = getattr(theirs, "layer_types", None) or []
    if "sliding_attention" in kinds:
        assert ours.full_attention_layers == kinds.count("full_attention")
        assert ours.window == theirs.sliding_window
    elif kinds or not getattr(theirs, "sliding_window", None):
        assert (ours.window, ours.full_attention_layers) == (None, None)
    else:
        assert (ours.window, ours.full_attention_layers) == (theirs.sliding_window, 0)
    assert ours.layers == theirs.num_hidden_layers and ours.heads == theirs.num_attention_heads


# From the headers of weights


def stored(model: torch.nn.Module, name: str, config: dict) -> Model:
    """A model as its file's headers would tell of it."""
    tensors = {key: Tensor("BF16", tuple(p.shape)) for key, p in model.named_parameters()}
    return Model(name, config, tensors)


def test_headers_and_configuration_of_the_tiny_model_agree():
    model = models.read(str(TINY / "model"))
    assert from_model(model) == from_config(model.config, model.name)
    assert from_model(model).parameters == model.parameters_of(model.modules)


@pytest.mark.parametrize("config", SMALLS)
def test_headers_and_configuration_agree_in_every_family(config: dict):
    model = stored(build(config), "made", config)
    assert from_model(model) == from_config(config, "made")


def packed(model: Model, keep: tuple[str, ...] = ()) -> Model:
    """The same as bitsandbytes stores it: two values in a byte, in one column, with statistics beside."""
    inside = {
        f"{layer.name}.weight"
        for layer in model.linear_layers()
        if not layer.name.startswith(keep or "-")
    }
    tensors = dict(model.tensors)
    for name in inside:
        size = tensors[name].shape[0] * tensors[name].shape[1]
        tensors[name] = Tensor("U8", (size // 2, 1))
        tensors[f"{name}.absmax"] = Tensor("U8", (size // 64,))
        tensors[f"{name}.nested_absmax"] = Tensor("F32", (max(1, size // 64 // 256),))
        tensors[f"{name}.quant_map"] = Tensor("F32", (16,))
        tensors[f"{name}.nested_quant_map"] = Tensor("F32", (256,))
        tensors[f"{name}.quant_state.bitsandbytes__nf4"] = Tensor("U8", (90,))
    settings = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "llm_int8_skip_modules": ["lm_head", *keep],
    }
    return Model(model.name, model.config | {"quantization_config": settings}, tensors)


@pytest.mark.parametrize(
    "family", ["llama", "qwen2", "qwen3", "gemma3_text", "phi3", "starcoder2", "olmo2"]
)
def test_headers_of_4_bit_weights_tell_the_same_shapes(family: str):
    config = small(family)
    model = packed(
        stored(build(config), "made", config), ("model.layers.0.mlp", "model.layers.3.self_attn")
    )
    assert from_model(model) == from_config(model.config, "made")
    assert listed(from_model(model)) == layers(build(config))


def test_a_model_that_bitsandbytes_really_wrote(tmp_path):
    from transformers import AutoTokenizer

    how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=True, bnb_4bit_quant_type="nf4",
                             llm_int8_skip_modules=["lm_head", "model.layers.1.mlp"])  # fmt: skip
    source = str(TINY / "model")
    model = AutoModelForCausalLM.from_pretrained(source, quantization_config=how, device_map="cpu")
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path)
    shapes, plain = from_model(models.read(str(tmp_path))), from_model(models.read(source))
    assert listed(shapes, packed=True) == layers(model, (Linear4bit,))
    assert listed(shapes) == listed(plain) and shapes.parameters == plain.parameters
    assert shapes.quantized_by == "bitsandbytes" and shapes.unknown == ()


def test_experts_stored_one_by_one_are_counted_as_experts():
    config = small("mixtral", num_local_experts=4)
    model = stored(build(config), "made", config)
    tensors = {name: t for name, t in model.tensors.items() if ".mlp." not in name}
    for layer in range(6):
        block = f"model.layers.{layer}.block_sparse_moe"
        tensors[f"{block}.gate.weight"] = Tensor("BF16", (4, 64))
        for expert in range(4):
            for module, shape in {"w1": (96, 64), "w2": (64, 96), "w3": (96, 64)}.items():
                tensors[f"{block}.experts.{expert}.{module}.weight"] = Tensor("BF16", shape)
    assert from_model(Model("made", config, tensors)) == from_config(config, "made")


def test_what_is_beside_the_language_model_is_told_and_not_counted():
    text = small("gemma3_text")
    model = stored(
        build(text), "made", {"model_type": "gemma3", "text_config": text, "vision_config": {}}
    )
    tensors = {f"language_model.{name}": tensor for name, tensor in model.tensors.items()}
    tensors["vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight"] = Tensor(
        "BF16", (100, 10)
    )
    tensors["multi_modal_projector.mm_soft_emb_norm.weight"] = Tensor("BF16", (5,))
    shapes = from_model(Model("made", model.config, tensors))
    assert shapes.parameters == from_config(text).parameters
    assert shapes.unknown == (
        "the 1,005 parameters beside the language model, which are not counted",
    )


def test_weights_in_another_form_are_told_from_the_configuration():
    config = small("llama", quantization_config={"quant_method": "gptq", "bits": 4})
    shapes = from_model(
        Model("made", config, {"model.layers.0.mlp.up_proj.qweight": Tensor("I32", (8, 96))})
    )
    assert shapes.quantized_by == "gptq" and listed(shapes) == layers(build(small("llama")))
    assert shapes.unknown == (
        "the layers' exact figures: they follow from config.json, not from the weights' headers",
    )


def test_4_bit_weights_of_an_unknown_form_are_refused():
    model = packed(stored(build(small("llama")), "made", small("llama")))
    odd = "model.layers.0.mlp.up_proj.weight"
    tensors = model.tensors | {odd: Tensor("U8", (17, 1))}
    with pytest.raises(
        RunError, match="The shape of model.layers.0.mlp.up_proj in made cannot be told"
    ):
        from_model(Model("made", model.config, tensors))


# The table


def test_the_table_holds_the_models_that_people_tune():
    assert len(TABLE) >= 45 and known.names() == list(TABLE)
    assert all(known.find(name) == from_config(TABLE[name], name) for name in TABLE)


@pytest.mark.parametrize(("asked", "official"), [
    ("unsloth/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B"),
    ("unsloth/Meta-Llama-3.1-8B-bnb-4bit", "meta-llama/Llama-3.1-8B"),
    ("unsloth/llama-3-8b-bnb-4bit", "meta-llama/Meta-Llama-3-8B"),
    ("UNSLOTH/mistral-7b-instruct-v0.3-bnb-4bit", "mistralai/Mistral-7B-v0.3"),
    ("qwen/qwen2.5-7b-instruct", "Qwen/Qwen2.5-7B"),
    ("Qwen/Qwen3-8B-Base", "Qwen/Qwen3-8B"),
    ("google/gemma-2-9b-it", "google/gemma-2-9b"),
    ("unsloth/tinyllama-bnb-4bit", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
    ("mistralai/Mistral-Nemo-Instruct-2407", "mistralai/Mistral-Nemo-Base-2407"),
    ("Llama-3.2-1B", "meta-llama/Llama-3.2-1B"),
])  # fmt: skip
def test_a_model_is_found_by_the_names_of_its_variants(asked: str, official: str):
    found, meant = known.find(asked), known.find(official)
    assert found.name == asked
    assert (found.linears, found.parameters, found.unknown) == (meant.linears, meant.parameters, ())
    assert found.quantized_by == ("bitsandbytes" if asked.endswith("bnb-4bit") else None)


def test_a_dynamic_copy_says_that_its_kept_modules_are_not_known():
    found = known.find("unsloth/Qwen3-14B-unsloth-bnb-4bit")
    assert found.unknown == (
        "which modules this copy keeps in 16 bit (assumed: none); its config.json says",
    )


def test_unsloths_copies_of_phi_have_their_layers_apart():
    assert {kind.module for kind in known.find("unsloth/phi-4").linears} >= {"q_proj", "up_proj"}
    assert known.find("unsloth/phi-4").parameters == known.find("microsoft/phi-4").parameters
    assert "qkv_proj" in {kind.module for kind in known.find("microsoft/phi-4").linears}


@pytest.mark.parametrize(
    "name", ["", "/", "someone/Llama-3.1-8B", "unsloth/Llama-9-8B", "-unsloth-bnb-4bit", "./model"]
)
def test_other_names_are_not_known(name: str):
    assert known.find(name) is None


def test_names_that_are_nearly_right_have_near_names():
    assert known.like("meta-llama/Llama-3.1-8b-Intruct")[0] == "meta-llama/Llama-3.1-8B"
    assert known.like("Qwen/Qwen-2.5-7B")[0] == "Qwen/Qwen2.5-7B"
    assert known.like("zzz") == []


# Bad input


def test_all_needed_fields_that_are_not_there_are_told_together():
    with pytest.raises(RunError) as told:
        from_config({"model_type": "llama", "intermediate_size": 96}, "made")
    facts = [problem.fact for problem in told.value.problems]
    assert facts == [
        "made has no hidden_size.",
        "made has no num_hidden_layers.",
        "made has no vocab_size.",
    ]


@pytest.mark.parametrize(("fields", "fact"), [
    ({"num_hidden_layers": 0}, "num_hidden_layers is 0; it must be a whole number from 1 to 2,048."),
    ({"hidden_size": 10**9}, "hidden_size is 1000000000; it must be a whole number from 1 to 262,144."),
    ({"hidden_size": "64"}, "hidden_size is '64'; it must be a whole number from 1 to 262,144."),
    ({"hidden_size": 64.0}, "hidden_size is 64.0; it must be a whole number from 1 to 262,144."),
    ({"vocab_size": True}, "vocab_size is True; it must be a whole number from 1 to 8,388,608."),
    ({"vocab_size": -5}, "vocab_size is -5; it must be a whole number from 1 to 8,388,608."),
    ({"intermediate_size": [96]}, "intermediate_size is [96]; it must be a whole number from 1 to 2,097,152."),
    ({"num_attention_heads": 5}, "hidden_size 64 cannot be divided among num_attention_heads 5, and there is no head_dim."),
    ({"num_key_value_heads": 3}, "num_attention_heads 4 cannot be divided among num_key_value_heads 3."),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'; it must be true or false."),
    ({"attention_bias": "yes"}, "attention_bias is 'yes'; it must be true or false."),
    ({"text_config": 3}, "text_config is 3; it must be an object with fields."),
    ({"quantization_config": []}, "quantization_config is []; it must be an object with fields."),
    ({"layer_types": ["full_attention"]}, "layer_types must be a list with one kind for each of 6 layers."),
    ({"quantization_config": {"llm_int8_skip_modules": "lm_head"}}, "The modules that quantization_config leaves out are no list of names."),
])  # fmt: skip
def test_sizes_that_cannot_be_are_named_with_their_values(fields: dict, fact: str):
    with pytest.raises(RunError) as told:
        from_config(small("llama", **fields))
    assert [problem.fact for problem in told.value.problems] == [fact]
    assert all(problem.cure for problem in told.value.problems)


def test_an_unknown_architecture_is_estimated_and_says_so():
    config = small("gated_llama_of_tomorrow", kv_lora_rank=16)
    shapes = from_config(config)
    assert listed(shapes) == layers(build(small("llama")))
    assert shapes.unknown == (
        "whether the head shares the embeddings' weights (assumed: it does not)",
        "the architecture gated_llama_of_tomorrow: counted like Llama's, with q, k, v and o, a gated MLP and two norms in a block",
        "attention with compressed keys and values (kv_lora_rank), which have no formula here",
    )


def test_layers_of_another_kind_are_named():
    shapes = from_config(
        small("hybrid", layer_types=["full_attention"] * 4 + ["linear_attention", "mamba"])
    )
    said = "the layers of another kind (linear_attention, mamba), counted like all the others"
    assert said in shapes.unknown


def test_a_default_that_does_not_fit_is_named_as_one():
    config = small("mistral")
    del config["num_key_value_heads"]
    with pytest.raises(RunError, match=r"among num_key_value_heads 8 \(the default of mistral\)\."):
        from_config(config)


def test_an_encoder_and_a_tower_are_told():
    shapes = from_config(small("llama", is_encoder_decoder=True, vision_config={}, audio_config={}))
    assert shapes.unknown == (
        "the vision tower, which is not counted",
        "the audio tower, which is not counted",
        "the encoder, which is not counted",
    )


def test_sizes_that_are_not_there_are_assumed_and_named():
    shapes = from_config(
        {"model_type": "llama", "hidden_size": 512, "num_hidden_layers": 2, "vocab_size": 100}
    )
    assert shapes.unknown == (
        "the number of attention heads (assumed: 4)",
        "the MLP's width (assumed: 2048, 4 x hidden_size)",
    )


def test_the_headers_of_an_unknown_architecture_tell_its_layers():
    config = small("llama_of_tomorrow")
    model = stored(build(small("phi3")), "made", config)
    shapes = from_model(model)
    assert listed(shapes) == layers(build(small("phi3")))
    (told,) = shapes.unknown  # headers say nothing of what is held while it computes
    assert "hold while they compute" in told and "llama_of_tomorrow" in told


ODD = [None, True, False, 0, 1, -1, 3, 7, 64, 10**9, 10**4000, 1.5, float("nan"), float("inf"), "", "64", "\x00", [], [1], ["a"],
       [None] * 6, {}, {"a": 1}, {"llm_int8_skip_modules": ["*"]}, {"llm_int8_skip_modules": [3]}, {"quant_method": 3}]  # fmt: skip


def test_nothing_but_clear_sentences_come_out_of_spoilt_configurations():
    dice = random.Random(4)
    fields = {key for param in SMALLS for key in param.values[0]} | {
        "text_config", "vision_config", "quantization_config", "sliding_window", "sliding_window_pattern", "layer_types",
        "use_sliding_window", "max_window_layers", "max_position_embeddings", "num_experts_per_tok", "is_encoder_decoder",
    }  # fmt: skip
    for _ in range(4000):
        config = small(dice.choice([*FAMILIES, "unheard_of"]))
        for key in dice.sample(sorted(fields), dice.randint(1, 4)):
            config[key] = dice.choice(ODD)
        if dice.random() < 0.2:
            config = {"text_config": config, "model_type": dice.choice(["gemma3", None, 5])}
        try:
            shapes, problems = from_config(config), None
        except RunError as error:
            shapes, problems = None, error.problems
        if shapes:
            assert shapes.parameters > 0 and min(shapes.layers, shapes.hidden, shapes.heads) > 0
        else:
            assert problems and all(p.fact.strip() and p.cure for p in problems)


@pytest.mark.parametrize(
    "config", [None, 3, [], "llama", {}, {"model_type": None}, {"text_config": {}}]
)
def test_what_is_no_configuration_is_refused(config: object):
    with pytest.raises(RunError):
        from_config(config)


def test_headers_in_any_state_raise_nothing_else():
    dice = random.Random(5)
    whole = packed(stored(build(small("llama")), "made", small("llama")))
    for _ in range(300):
        tensors = dict(whole.tensors)
        for name in dice.sample(sorted(tensors), 5):
            tensors[name] = Tensor(
                dice.choice(["U8", "F4", "?"]),
                tuple(dice.choices([0, 1, 7, 64], k=dice.randint(0, 4))),
            )
        for name in dice.sample(sorted(tensors), 20):
            del tensors[name]
        try:
            counted = from_model(Model("made", whole.config, tensors)).parameters
        except RunError as error:
            counted = len(error.problems) - 1
        assert counted >= 0
