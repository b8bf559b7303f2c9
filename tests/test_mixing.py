"""Adapters mixed on one base: an exact sum in each layer, the base alone at 0, a process that stays, and what is refused."""

import asyncio
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from workbench.inside import mixing as inside
from workbench.inspection.mixing import Mixed, Mixer, mix_adapters, title
from workbench.problems import RunError
from workbench.recipe import Recipe
from workbench.run import Run

MODEL = Path(__file__).parents[1] / "data" / "tiny" / "model"
LORA = {"r": 4, "lora_alpha": 6, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
KINDS: dict[str, dict[str, Any]] = {
    "one": {},
    "two": {"r": 8, "use_rslora": True, "target_modules": ["q_proj", "up_proj"]},
    "dora": {"use_dora": True, "target_modules": ["v_proj"]},
    "saved": {"target_modules": ["k_proj"], "modules_to_save": ["norm"]},
    "biased": {"bias": "lora_only", "target_modules": ["q_proj"]},
}


def make(folder: Path, seed: int = 0, **how: Any) -> Path:
    """An adapter that does something, of the tiny model."""
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(**LORA | how))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("adapters")
    return {name: make(place / name, seed, **how) for seed, (name, how) in enumerate(KINDS.items())}


@pytest.fixture(scope="module")
def mixture(tiny: Recipe, folders: dict[str, Path]) -> inside.Mixture:
    """Four adapters beside the tiny base in NF4, one of which can be mixed with none, and one only alone."""
    some = {name: folders[name] for name in ("one", "two", "dora", "saved")}
    return inside.load(tiny, some, folders["one"])


IDS = torch.arange(3, 40)[None]


def logits(mixture: inside.Mixture, weights: dict[str, float]) -> torch.Tensor:
    on = mixture.weigh(weights)
    with torch.no_grad():
        if on:
            return mixture.model(IDS).logits
        with mixture.model.disable_adapter():
            return mixture.model(IDS).logits


def of_layer(mixture: inside.Mixture, weights: dict[str, float], x: torch.Tensor) -> torch.Tensor:
    mixture.weigh(weights)
    with torch.no_grad():
        return mixture.model.get_submodule("base_model.model.model.layers.1.mlp.up_proj")(x)


# In one layer, and in all


def test_a_layer_adds_each_adapters_output_times_its_weight(mixture: inside.Mixture):
    x = torch.randn(5, 256)
    layer = mixture.model.get_submodule("base_model.model.model.layers.1.mlp.up_proj")
    with torch.no_grad():
        base = layer.base_layer(x)
        updates = {
            factors: scale * x @ layer.lora_A[key].weight.T @ layer.lora_B[key].weight.T
            for factors, key, scale in (
                ("one", mixture.keys["one"], 6 / 4),
                ("two", mixture.keys["two"], 6 / math.sqrt(8)),
            )
        }
    for one, two in ((1, 0), (0, 1), (1, 1), (0.5, -2), (3, 0.25)):
        mixed = of_layer(mixture, {"one": one, "two": two}, x)
        wanted = base + one * updates["one"] + two * updates["two"]
        assert torch.allclose(mixed, wanted, atol=1e-5)


def test_a_weight_of_0_and_no_weights_are_the_base_alone(mixture: inside.Mixture, tiny: Recipe):
    alone = inside.peft.load(tiny, mixture.precision).model.eval()
    with torch.no_grad():
        wanted = alone(IDS).logits
    assert torch.equal(logits(mixture, {}), wanted)
    assert torch.equal(logits(mixture, {"one": 0, "two": 0}), wanted)
    assert not torch.allclose(logits(mixture, {"one": 1}), wanted, atol=1e-2)


def test_a_mix_leaves_no_trace_in_the_next(mixture: inside.Mixture):
    before = logits(mixture, {"one": 1})
    logits(mixture, {"one": -3, "two": 2})
    logits(mixture, {"saved": 1})
    assert torch.equal(logits(mixture, {"one": 1}), before)


@pytest.mark.parametrize("name", ["dora", "saved"])
def test_what_is_no_sum_is_answered_alone_as_it_was_trained(
    mixture: inside.Mixture, folders: dict[str, Path], tiny: Recipe, name: str
):
    alone = inside.peft.load(tiny, mixture.precision).model
    alone = inside.peft.attach_saved(alone, folders[name]).eval()
    with torch.no_grad():
        assert torch.allclose(logits(mixture, {name: 1, "one": 0}), alone(IDS).logits, atol=1e-5)
    for weights in ({name: 0.5}, {name: 1, "one": 1}):
        with pytest.raises(RunError, match=f"Adapter {name} .*, so it is no sum: it cannot be"):
            mixture.weigh(weights)


def test_the_loss_of_a_mix_is_between_nothing_and_noise(mixture: inside.Mixture, tiny: Recipe):
    rows = inside.heldout_rows(tiny, mixture.chat, 8)
    base = mixture.loss(rows, {})
    assert len(rows) == 8 and mixture.loss(rows, {"one": 0}) == base
    assert mixture.loss(rows, {"one": 1e-4}) == pytest.approx(base, abs=1e-2)
    assert mixture.loss(rows, {"one": 1, "two": 1}) != base


# Refused


def test_adapters_that_do_not_fit_are_refused(
    tiny: Recipe, folders: dict[str, Path], tmp_path: Path
):
    with pytest.raises(RunError, match="Adapter b also trained the base's bias terms"):
        inside.load(tiny, {"b": folders["biased"]}, tmp_path)
    elsewhere = tiny.replace(model={"name": "nobody/nothing"})
    with pytest.raises(RunError, match="nobody/nothing are not on this machine"):
        inside.load(elsewhere, {"one": folders["one"]}, tmp_path)
    config = AutoModelForCausalLM.from_pretrained(MODEL).config
    config.intermediate_size = 320
    other = AutoModelForCausalLM.from_config(config)
    other.save_pretrained(tmp_path / "other")
    other = tiny.replace(model={"name": str(tmp_path / "other")})
    for path in MODEL.glob("*token*"):
        (tmp_path / "other" / path.name).write_bytes(path.read_bytes())
    said = "Adapter one is for another base: it changes model.layers.0.mlp.* has it as 256 x 320"
    with pytest.raises(RunError, match=said) as refused:
        inside.load(other, {"one": folders["one"]}, tmp_path)
    assert str(MODEL) in str(refused.value)


def test_adapters_of_different_bases_are_refused_at_once(folders: dict[str, Path], tmp_path: Path):
    for name, base in (("other", "o/other"), ("copy", "o/other-unsloth-bnb-4bit"), ("none", None)):
        (tmp_path / name).mkdir()
        told = {"peft_type": "LORA", "base_model_name_or_path": base}
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(told))
    with pytest.raises(RunError, match=f"{folders['one']} is for {MODEL}; .*other is for o/other"):
        Mixer([folders["one"], tmp_path / "other"])
    assert Mixer([tmp_path / "copy", tmp_path / "other"]).base == "o/other-unsloth-bnb-4bit"
    assert Mixer([tmp_path / "copy", tmp_path / "other"], base="o/mine").base == "o/mine"
    with pytest.raises(RunError, match="None of the adapters tells the base"):
        Mixer([tmp_path / "none"])
    with pytest.raises(RunError, match="No adapter is given"):
        asyncio.run(mix_adapters([{}], ["Hello."]))


# The process that stays, asked by this side


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def mixer(
    trained: Run, outputs: Path, folders: dict[str, Path], loop: asyncio.AbstractEventLoop
) -> Iterator[Mixer]:
    made = Mixer([trained.name, folders["two"]], outputs=outputs)
    loop.run_until_complete(made.__aenter__())
    yield made
    loop.run_until_complete(made.__aexit__())


PROMPT = "Hi, Ada here. I bought a lamp with order 123 and it is bent. I want a refund."


def test_a_run_alone_and_its_base_answer_as_the_run_does(
    mixer: Mixer, trained: Run, loop: asyncio.AbstractEventLoop
):
    async def both(adapter: bool) -> tuple[str, str]:
        how = {"max_new_tokens": 12, "system": mixer.system}
        asked = await trained.answer(PROMPT, adapter=adapter, **how)
        weights = {trained: 1.0} if adapter else {}
        return asked["text"], await mixer.answer(PROMPT, weights, max_new_tokens=12)

    assert mixer.system == "Write the ticket as JSON." and mixer.base == str(MODEL)
    for adapter in (True, False):
        said, mixed = loop.run_until_complete(both(adapter))
        assert said == mixed


def test_the_loss_is_the_one_that_the_run_measured(
    mixer: Mixer, trained: Run, loop: asyncio.AbstractEventLoop
):
    step = trained.history.adapter["step"]
    (measured,) = [told["loss"] for told in trained.history.evals if told["step"] == step]
    told = loop.run_until_complete(mixer.ask([], {trained: 1}, rows=320))
    assert told["loss"] == pytest.approx(measured, rel=1e-4)


def test_a_question_that_is_refused_or_given_up_leaves_the_process_in_step(
    mixer: Mixer, trained: Run, folders: dict[str, Path], loop: asyncio.AbstractEventLoop
):
    async def asked() -> tuple[str, str]:
        first = await mixer.answer(PROMPT, {}, max_new_tokens=4)
        with pytest.raises(RunError, match="it must fit in 128"):
            await mixer.answer("Ada " * 500, {})
        given_up = asyncio.create_task(mixer.answer(PROMPT, {folders["two"]: 3}))
        await asyncio.sleep(0)  # it has been sent, and nobody waits for the answer
        given_up.cancel()
        return first, await mixer.answer(PROMPT, {}, max_new_tokens=4)

    first, again = loop.run_until_complete(asked())
    assert first == again
    for weights, said in (
        ({"nobody": 1}, f"There is no adapter 'nobody' in this mix. It has {trained.name}"),
        ({trained.name: math.inf}, "The weight of trained is inf; it must be a number"),
        ({trained.name: "1"}, "The weight of trained is '1'"),
    ):
        with pytest.raises(RunError, match=said):
            loop.run_until_complete(mixer.answer(PROMPT, weights))


def test_mixes_are_asked_side_by_side(trained: Run, outputs: Path):
    words: list[str] = []
    mixes = [{}, {trained: 1}, {trained.name: 0.5}]
    found = asyncio.run(
        mix_adapters(mixes, [PROMPT], max_new_tokens=4, rows=8, outputs=outputs, told=words.append)
    )
    assert found.mixes == ({}, {"trained": 1.0}, {"trained": 0.5}) and len(set(found.losses)) == 3
    assert found.losses[1] < found.losses[0] and [len(said) for said in found.answers] == [1, 1, 1]
    assert words[-1] == "Asking mix 3 of 3: 0.5 trained."


def test_answers_are_shown_as_text_whatever_they_say():
    found = Mixed(
        ({}, {"a<b": 0.5, "c": 1}), ("Hi <i>",), (("<script>",), ("two\nlines",)), (None, 2.5)
    )
    page = found._repr_html_()
    assert "<script" not in page and "<i>" not in page and "a<b" not in page
    assert "  0.5 a<b + c (held-out loss 2.5):\n    two\n    lines" in str(found)
    assert str(found).startswith("Hi <i>\n\n  base alone:\n    <script>")
    assert json.loads(json.dumps(found.as_dict()))["mixes"] == [{}, {"a<b": 0.5, "c": 1}]
    assert title({"a": 0}) == "base alone" and title({"a": -1}) == "-1 a"


def test_what_cannot_be_meant_is_refused_before_anything_is_loaded(trained: Run, outputs: Path):
    def refused(mixes: object, **how: object) -> str:
        with pytest.raises(RunError) as caught:
            asyncio.run(mix_adapters(mixes, ["Hi."], outputs=outputs, **how))
        return str(caught.value)

    assert "it must be a list of mixes" in refused({trained.name: 1})
    assert "max_new_tokens is 0" in refused([{trained.name: 1}], max_new_tokens=0)
    assert "must be a number" in refused([{trained.name: float("nan")}])
