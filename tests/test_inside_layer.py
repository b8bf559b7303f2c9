"""The layer by hand against PEFT's, gradients, merging, a step in parts, optimizers' states, and number formats."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.inside import layer, optimizers, precisions, steps
from workbench.memory import parts as planned
from workbench.problems import RunError
from workbench.recipe import Recipe

TINY = Path(__file__).parents[1] / "data" / "tiny"
QUERY = "layers.0.self_attn.q_proj"
# Two ways to the same float32 sums, in another order.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def filled(model: Any, size: float = 0.02) -> Any:
    """B drawn at random instead of zero, as if something had been learned."""
    random = torch.Generator().manual_seed(5)
    for one in layer.adapted(model).values():
        weight = one.lora_B["default"].weight
        weight.data = torch.randn(weight.shape, generator=random) * size
    return model


@pytest.fixture(scope="module")
def fresh(tiny: Recipe) -> Any:
    return layer.loaded(tiny)


@pytest.fixture(scope="module")
def learned(tiny: Recipe) -> Any:
    return filled(layer.loaded(tiny.replace(lora={"rank": 8, "rslora": True})).model)


@pytest.fixture(scope="module")
def plain(tiny: Recipe) -> Any:
    """The same without 4 bits."""
    return filled(layer.loaded(tiny.replace(model={"load_in_4bit": False}, lora={"rank": 8})).model)


@pytest.fixture(scope="module")
def some(tiny: Recipe, fresh: Any) -> list[steps.Batch]:
    return steps.batches(steps.pieces(tiny, fresh.tokenizer, 8), 4, fresh.tokenizer)


@pytest.fixture(scope="module")
def uneven(tiny: Recipe, fresh: Any) -> list[Any]:
    prose = {"train": str(TINY / "prose.txt"), "heldout": None, "heldout_share": 0}
    return steps.pieces(tiny.replace(data=prose), fresh.tokenizer, 4)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 5, 256, generator=torch.Generator().manual_seed(1))


class TestByHand:
    @pytest.mark.parametrize("which", ["learned", "plain"])
    def test_it_is_what_the_layer_gives(
        self, which: str, x: torch.Tensor, request: pytest.FixtureRequest
    ):
        for name, one in layer.adapted(request.getfixturevalue(which)).items():
            own = layer.parts(one)
            inputs = x if own.weight.shape[1] == 256 else x.repeat(1, 1, 3)
            with torch.no_grad():
                theirs = one(inputs)
            torch.testing.assert_close(layer.by_hand(own, inputs), theirs, msg=name, **CLOSE)
            assert not torch.allclose(theirs, layer.frozen(own, inputs), atol=1e-2)

    def test_the_scale_is_alpha_by_rank_or_by_its_root(self, learned: Any, plain: Any):
        assert layer.parts(layer.named(learned, QUERY)).scale == pytest.approx(16 / 8**0.5)
        assert layer.parts(layer.named(plain, QUERY)).scale == 2

    def test_a_fresh_adapter_changes_nothing_to_the_bit(self, fresh: Any, some: list[steps.Batch]):
        fed = {key: some[0][key] for key in ("input_ids", "attention_mask")}
        with torch.no_grad():
            with_it = fresh.model(**fed).logits
            with fresh.model.disable_adapter():
                assert torch.equal(with_it, fresh.model(**fed).logits)

    def test_the_seed_draws_a_and_leaves_torchs_random_numbers_alone(
        self, tiny: Recipe, fresh: Any
    ):
        torch.manual_seed(11)
        before = torch.get_rng_state()
        again = layer.loaded(tiny)
        assert torch.equal(before, torch.get_rng_state())
        mine, same = (layer.parts(layer.named(of.model, QUERY)).a for of in (fresh, again))
        assert torch.equal(mine, same)

    def test_dropout_falls_on_the_adapters_way_while_training(self, tiny: Recipe, x: torch.Tensor):
        one = layer.named(filled(layer.loaded(tiny.replace(lora={"dropout": 0.4})).model), QUERY)
        own = layer.parts(one)
        assert own.dropout == 0.4
        with torch.no_grad():
            torch.testing.assert_close(one(x), layer.by_hand(own, x), **CLOSE)
            one.train()
            torch.manual_seed(2)
            theirs = one(x)
            torch.manual_seed(2)
            dropped = torch.nn.functional.dropout(x, 0.4)
        ours = layer.frozen(own, x) + layer.added(own, dropped)
        torch.testing.assert_close(ours, theirs, **CLOSE)
        assert not torch.allclose(theirs, layer.by_hand(own, x), atol=1e-2)


class TestRefusals:
    def test_a_layer_without_an_adapter(self, fresh: Any):
        with pytest.raises(RunError, match=r"^The layer \(Linear4bit\) has no adapter\."):
            layer.parts(layer.named(fresh.model, QUERY).base_layer)

    def test_a_name_that_no_layer_or_more_than_one_has(self, fresh: Any):
        with pytest.raises(RunError, match="No layer called 'embed_tokens' has an adapter. 28"):
            layer.named(fresh.model, "embed_tokens")
        with pytest.raises(RunError, match="4 layers with an adapter are called 'q_proj'. Take"):
            layer.named(fresh.model, "q_proj")

    def test_a_model_without_any(self, some: list[steps.Batch]):
        for of in (lambda m: layer.named(m, QUERY), lambda m: layer.merges(m, some)):
            with pytest.raises(RunError, match=r"None of the model's layers has an adapter\. At"):
                of(torch.nn.Linear(2, 2))

    def test_a_layer_that_is_not_in_4_bits(self, plain: Any):
        one = layer.named(plain, QUERY)
        for asked in (layer.dequantized, lambda one: layer.quantized_again(one, torch.ones(2, 2))):
            with pytest.raises(RunError, match=r"not in 4 bits; it is float32\. Load the model"):
                asked(one)

    def test_an_adapter_that_is_more_than_a_and_b(self, tiny: Recipe):
        dora = layer.loaded(tiny.replace(lora={"dora": True}, model={"load_in_4bit": False})).model
        with pytest.raises(RunError, match=r"more than A and B \(DoRA, or a bias"):
            layer.parts(layer.named(dora, QUERY))

    def test_an_original_that_is_none(self, learned: Any, plain: Any, some: list[steps.Batch]):
        with pytest.raises(RunError, match=r"The original is in 4 bits itself\. Load the same"):
            layer.merges(learned, some, original=learned)
        with pytest.raises(RunError, match="The original has 0 adapted layers that are not the mo"):
            layer.merges(learned, some, original=plain.get_base_model().lm_head)


class TestMerging:
    def test_merged_is_unmerged(self, plain: Any, x: torch.Tensor):
        one = layer.named(plain, QUERY)
        merged = layer.merged(layer.parts(one))
        with torch.no_grad():
            torch.testing.assert_close(x @ merged.T, one(x), **CLOSE)
            one.merge()
            assert torch.allclose(one.get_base_layer().weight, merged, atol=1e-7)
            with pytest.raises(
                RunError, match=r"The adapter is merged: .*model\.unmerge_adapter\(\)"
            ):
                layer.parts(one)
            one.unmerge()

    def test_back_in_4_bits_is_what_peft_makes_of_it(self, tiny: Recipe):
        one = layer.named(filled(layer.loaded(tiny).model), QUERY)
        own = layer.parts(one)
        expected = layer.quantized_again(one, layer.merged(own))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Merge lora module to 4-bit")
            one.merge()
        assert torch.equal(layer.dequantized(one), expected)
        rounding = (expected - layer.merged(own)).norm() / layer.update(own).norm()
        assert 0.05 < rounding < 5

    def test_what_is_in_4_bits_already_hardly_moves(self, learned: Any):
        one = layer.named(learned, QUERY)
        weight = layer.dequantized(one)
        again = layer.quantized_again(one, weight)
        assert (again - weight).norm() / weight.norm() < 1e-3  # its scales are rounded once more

    def test_only_4_bits_cost_something(
        self, fresh: Any, learned: Any, plain: Any, some: list[steps.Batch]
    ):
        found = layer.merges(learned, some[:1], original=plain)
        assert found.float32 == pytest.approx(found.apart, rel=1e-4)
        assert found.bfloat16 == pytest.approx(found.apart, rel=2e-2)
        assert abs(found.four_bits - found.apart) > abs(found.float32 - found.apart)
        assert found.original not in (found.apart, found.four_bits)
        assert found.base == pytest.approx(steps.evaluated(fresh.model, some[:1]), rel=1e-6)
        assert steps.evaluated(learned, some[:1]) == found.apart  # the model is as it was
        alone = layer.merges(plain, some[:1])
        assert alone.four_bits is None and alone.original is None


class TestGradients:
    def test_only_a_and_b_get_any_and_a_gets_none_while_b_is_zero(
        self, fresh: Any, learned: Any, some: list[steps.Batch]
    ):
        for model, a_learns in ((fresh.model, False), (learned, True)):
            found = steps.backward(model, some[:1]).gradients
            trained = {name for name, p in model.named_parameters() if p.requires_grad}
            assert found.keys() == trained and len(trained) == 2 * 28
            norms = steps.norms(found)
            assert norms.keys() == {"A", "B"} and norms["B"] > 0
            assert (norms["A"] > 0) == a_learns

    def test_after_a_step_a_learns_too(self, tiny: Recipe, some: list[steps.Batch]):
        model = layer.loaded(tiny.replace(lora={"rank": 2})).model
        losses = steps.train(model, [some[0], some[0], some[0]], 1e-3)
        assert losses[2] < losses[0] and not model.training
        assert steps.norms(steps.backward(model, some[:1]).gradients)["A"] > 0

    def test_checkpointing_saves_memory_and_changes_no_gradient(
        self, learned: Any, some: list[steps.Batch]
    ):
        kept, again = (steps.backward(learned, some[:1], checkpointing=on) for on in (False, True))
        assert kept.loss == pytest.approx(again.loss, rel=1e-6)
        assert steps.difference(kept.gradients, again.gradients) < 1e-5
        costs = [steps.cost(learned, some[:1], checkpointing=on) for on in (False, True)]
        assert 0 < costs[1].peak_bytes < costs[0].peak_bytes / 2
        assert not learned.is_gradient_checkpointing and not learned.training

    def test_accumulation_is_the_large_batch_if_tokens_count_alike(
        self, fresh: Any, learned: Any, uneven: list[Any]
    ):
        at_once, singly = (steps.batches(uneven, size, fresh.tokenizer) for size in (4, 1))
        whole = steps.backward(learned, at_once)
        by_tokens = steps.backward(learned, singly)
        by_means = steps.backward(learned, singly, mean_of="batches")
        assert by_tokens.loss == pytest.approx(whole.loss, rel=1e-5)
        assert steps.difference(whole.gradients, by_tokens.gradients) < 1e-4
        assert steps.difference(whole.gradients, by_means.gradients) > 0.01
        tokens = list(map(steps.trained_tokens, singly))
        assert len(set(tokens)) > 1 and sum(tokens) == steps.trained_tokens(at_once[0])
        assert steps.evaluated(learned, singly) == pytest.approx(whole.loss, rel=1e-5)

    def test_gradients_of_others_cannot_be_compared(self):
        with pytest.raises(ValueError, match="other parameters"):
            steps.difference({"a": torch.ones(2)}, {"b": torch.ones(2)})

    def test_rows_that_are_not_held_out(self, tiny: Recipe, fresh: Any):
        recipe = tiny.replace(data={"heldout": None, "heldout_share": 0})
        with pytest.raises(RunError, match=r"holds no rows out\. Name a file in data\.heldout"):
            steps.pieces(recipe, fresh.tokenizer, 2, side="heldout")


class TestOptimizers:
    @pytest.mark.parametrize("name", optimizers.ADAMW)
    def test_it_is_the_trainers(self, name: str, tmp_path: Path):
        from transformers import Trainer, TrainingArguments

        asked = TrainingArguments(str(tmp_path), optim=name, use_cpu=True, report_to="none")
        kind, how = Trainer.get_optimizer_cls_and_kwargs(asked)
        made = optimizers.made(name, [torch.nn.Parameter(torch.zeros(2))])
        assert isinstance(made, kind)
        assert getattr(made, "is_paged", False) == how.get("is_paged", False)
        if hasattr(made, "args"):
            assert made.args.optim_bits == how.get("optim_bits", 32)

    @pytest.mark.parametrize("name", optimizers.ADAMW)
    def test_its_bytes_are_those_of_the_plan(self, name: str):
        sizes = [4095, 4096, 200_001]
        state = optimizers.state(sizes, name)
        assert state.bytes + state.tables == planned.optimizer(sizes, name)
        assert (state.parameters, state.tensors) == (sum(sizes), 3)
        assert state.in_8bit == (2 if "8bit" in name else 0)

    def test_an_8_bit_state_is_two_bytes_and_its_scales(self):
        assert optimizers.state([2**18], "adamw_8bit").per_parameter == 2 + 2 * 4 / 256
        assert optimizers.state([2**18], "paged_adamw_32bit").per_parameter == 8
        assert optimizers.state([4095], "adamw_8bit").per_parameter == 8

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which has pages")
    def test_on_a_cpu_nothing_is_paged_and_it_says_so(self):
        state = optimizers.state([2**18], "paged_adamw_8bit")
        assert state.paged_bytes == 0 and "not supported on CPU" in state.said
        assert optimizers.state([2**18], "adamw_8bit").said == ""
        found = optimizers.paging()
        assert found.card is None and found.moved_bytes is None
        assert str(found).startswith("Paging cannot be seen here: there is no GPU")
        assert found.as_dict()["spike_bytes"] is None

    def test_what_a_spike_shows_is_told_with_units(self):
        sizes = {"state_bytes": 2**31, "free_bytes": 2**30, "asked_bytes": 2**31}
        found = optimizers.Paging("A card", "paged_adamw_32bit", **sizes, spike_bytes=3 * 2**29)
        assert found.moved_bytes == 2**29 == found.as_dict()["moved_bytes"]
        assert "With 1,024 MiB free, a spike took 1,536 MiB of the 2,048 MiB" in str(found)
        assert "at least 512 MiB of pages gave way" in str(found)

    def test_what_has_no_moments_or_no_pages_is_refused(self):
        with pytest.raises(RunError, match=r"sgd is not a kind of AdamW.*Take one of adamw_torch"):
            optimizers.state([8], "sgd")
        with pytest.raises(RunError, match="adamw_8bit has no pages. Take paged_adamw_8bit"):
            optimizers.paging(name="adamw_8bit")


class TestPrecision:
    def test_the_formats_ranges(self):
        by = {of.name: of for of in precisions.formats()}
        assert by["float16"].largest == 65504 and by["float16"].least == 2.0**-24
        assert by["bfloat16"].largest > 1e38 and by["bfloat16"].step == 2.0**-7
        assert [of.bits for of in by.values()] == [32, 16, 16]
        for of in by.values():
            dtype = getattr(torch, of.name)
            assert precisions.rounded(of.least, dtype) == of.least
            assert precisions.rounded(1 + of.step / 4, dtype) == 1

    def test_scaling_carries_a_small_gradient_through_float16(self):
        assert precisions.rounded(1e-8, torch.float16) == 0
        assert precisions.rounded(1e-8, torch.float16, scale=2.0**16) == pytest.approx(
            1e-8, rel=1e-3
        )
        gradients = {"a": torch.tensor([0.0, 1e-9, 1.0]), "b": torch.tensor([1e-9])}
        assert precisions.lost(gradients, torch.float16).to_zero == pytest.approx(2 / 3)
        scaled = precisions.lost(gradients, torch.float16, scale=2.0**17)
        assert scaled == (0, pytest.approx(1 / 3))
        assert precisions.lost({"a": torch.zeros(3)}, torch.float16) == (0, 0)

    def test_bfloat16_swallows_small_updates(self):
        assert precisions.accumulated(1.0, 1e-3, 100, torch.bfloat16) == 1
        assert precisions.accumulated(1.0, 1e-3, 100, torch.float32) == pytest.approx(1.1, rel=1e-4)
        weights = torch.tensor([1.0, 1e-4])
        assert precisions.unmoved(weights, 2e-4, torch.bfloat16) == 0.5
        assert precisions.unmoved(weights, 2e-4, torch.float32) == 0

    def test_the_scaler_halves_until_the_step_can_be_taken(self):
        tried = precisions.scaled_steps(20.0, 7)
        assert [one.scale for one in tried[:2]] == [2.0**16, 2.0**15]
        taken = [one.taken for one in tried]
        assert taken == sorted(taken) and taken[-1]
        assert 20 * tried[taken.index(True)].scale < 65504 < 20 * tried[taken.index(True) - 1].scale

    def test_adapters_stay_in_float32_beside_bfloat16(self, tiny: Recipe, x: torch.Tensor):
        half = tiny.replace(model={"compute_dtype": "bfloat16"})
        one = layer.named(filled(layer.loaded(half).model), QUERY)
        own = layer.parts(one)
        assert (own.weight.dtype, own.a.dtype) == (torch.bfloat16, torch.float32)
        with torch.no_grad():
            theirs = one(x.bfloat16())
        ours = layer.by_hand(own, x.bfloat16())
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=2.0**-6, atol=2.0**-6)
