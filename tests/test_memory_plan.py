"""The plan: parts that sum up and equal the real tensors, advice that does what it says, and what measurements change."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.machine import Machine
from workbench.memory import advice, known, learned
from workbench.memory.estimate import GIB, MIB, STATIC
from workbench.memory.place import Place, of_size
from workbench.memory.plan import Plan
from workbench.memory.planning import plan
from workbench.memory.question import Question
from workbench.problems import RunError
from workbench.recipe import Recipe
from workbench.run import Run

LLAMA = "unsloth/Llama-3.1-8B-Instruct"
T4 = Place("Tesla T4", int(14.56 * GIB), int(14.56 * GIB), capability=(7, 5))


def asked(place: Place | None = T4, backend: str = "peft", **sections: Any) -> Question:
    sections.setdefault("model", {})
    recipe = Recipe(**sections | {"model": {"name": LLAMA} | sections["model"]})
    return Question(recipe, known.find(LLAMA), backend, place)


# The CPU lane: real tensors


def test_what_stays_equals_the_bytes_of_the_real_tensors(trained: Run, short: Recipe):
    measured = trained.history.probes[-1]["measured"]
    predicted = plan(short).question.estimate.parts
    assert {name: predicted[name] for name in STATIC} == {
        name: measured.get(name, 0) for name in STATIC
    }
    assert measured["weights"] > 0 and measured["optimizer"] > 0


def test_what_comes_and_goes_is_near_what_was_measured(trained: Run, short: Recipe):
    probe = trained.history.probes[-1]
    longest = plan(short, rows=True).question
    assert longest.work.tokens == probe["tokens"]
    found = longest.estimate
    moving = sum(found.parts[name] for name in ("checkpoints", "layer", "workspace", "loss"))
    assert moving == pytest.approx(probe["measured"]["activations"], rel=0.15)


def test_the_runs_folder_keeps_the_plan_and_the_run_what_it_measured(trained: Run):
    probe = trained.history.probes[-1]
    assert probe["predicted"] == json.loads((trained.folder / "plan.json").read_text())
    assert probe["predicted"]["longest"] * probe["batch_size"] == probe["tokens"]
    lines = learned.past(trained.folder.parent)
    mine = next(line for line in lines if line["run"] == trained.name)
    assert mine["measured"] == probe["measured"]
    assert learned.ratio(mine) == pytest.approx(1, abs=0.35)


def test_predicted_and_measured_are_compared_part_by_part(trained: Run):
    found = trained.measured()
    assert sum(pair.measured for pair in found.pairs) == found.whole.measured
    assert sum(pair.predicted for pair in found.pairs) == found.whole.predicted
    exact = [pair for pair in found.pairs if pair.predicted == pair.measured]
    assert len(exact) >= 7  # weights, scales, embeddings, norms, adapters, gradients, optimizer
    assert f"measured {found.whole.measured / GIB:.2f} GiB" in str(found)


def test_before_anything_is_measured_the_run_says_so(tmp_path, tiny: Recipe):
    folder = tmp_path / "lamp"
    folder.mkdir()
    tiny.save(folder / "recipe.yaml")
    with pytest.raises(RunError, match="Run lamp has measured nothing yet"):
        Run(folder).measured()


# Sums and order


@settings(max_examples=60, deadline=None)
@given(
    backend=st.sampled_from(["peft", "unsloth"]),
    rows=st.integers(1, 16),
    length=st.integers(16, 8192),
    rank=st.integers(1, 256),
    checkpointing=st.booleans(),
    in_4bit=st.booleans(),
    optimizer=st.sampled_from(["adamw_torch", "adamw_8bit", "paged_adamw_32bit", "sgd"]),
)
def test_parts_sum_up_and_the_bounds_are_in_order(
    backend, rows, length, rank, checkpointing, in_4bit, optimizer
):
    question = asked(
        backend=backend,
        model={"max_length": length, "load_in_4bit": in_4bit},
        lora={"rank": rank},
        training={
            "batch_size": rows,
            "gradient_checkpointing": checkpointing,
            "optimizer": optimizer,
        },
    )
    found = Plan(question)
    assert sum(found.parts.values()) == found.expected
    assert all(isinstance(size, int) and size >= 0 for size in found.parts.values())
    assert 0 < found.floor <= found.expected <= found.safe


@pytest.mark.parametrize("backend", ["peft", "unsloth"])
@pytest.mark.parametrize(
    ("setting", "small", "large"),
    [
        ("lora.rank", 8, 64),
        ("training.batch_size", 1, 4),
        ("model.max_length", 512, 4096),
        ("training.gradient_checkpointing", True, False),
        ("model.double_quant", True, False),
        ("model.load_in_4bit", True, False),
        ("training.optimizer", "adamw_8bit", "adamw_torch"),
        ("lora.modules_to_save", [], ["embed_tokens"]),
    ],
)
def test_what_costs_memory_is_said_to(backend, setting, small, large):
    question = asked(backend=backend)
    less, more = (question.with_settings({setting: value}) for value in (small, large))
    assert less.raw.expected < more.raw.expected


def test_dropout_costs_memory_in_peft_and_none_in_unsloth():
    for backend, costs in (("peft", True), ("unsloth", False)):
        plain = asked(backend=backend, training={"gradient_checkpointing": False})
        thinned = plain.with_settings({"lora.dropout": 0.1})
        assert (thinned.raw.expected > plain.raw.expected) is costs


def test_paged_states_may_lie_in_main_memory():
    host = asked(training={"optimizer": "paged_adamw_32bit"}).estimate.host
    assert host["paged optimizer"] == 8 * Plan(asked()).trainable


def test_unsloth_keeps_checkpoints_in_main_memory():
    theirs, ours = (asked(backend=b, place=None).estimate for b in ("unsloth", "peft"))
    assert theirs.parts["checkpoints"] < ours.parts["checkpoints"] / 10
    assert theirs.host["activations"] >= ours.parts["checkpoints"]


def test_without_a_place_nothing_is_said_of_fitting():
    found = Plan(asked(place=None))
    assert (found.fits, found.verdict, found.free) == (None, None, None)
    assert found.longest_that_fits is None and found.speed is None


# Advice


@pytest.mark.parametrize("backend", ["peft", "unsloth"])
@pytest.mark.parametrize("size", [8, 10, 12, 24])
def test_advice_saves_what_it_says(backend, size):
    question = asked(of_size(size * GIB), backend, training={"batch_size": 8, "accumulation": 2})
    found = advice.advise(question)
    assert found
    for one in found:
        after = question.with_settings(one.settings)
        assert question.raw.expected - after.raw.expected == one.saves > 0
        assert one.fits is (after.verdict == "fits")
        if "training.batch_size" in one.settings:
            assert after.recipe.effective_batch == question.recipe.effective_batch
            assert one.harm == advice.NOTHING


def test_unsloths_loss_takes_what_is_free_and_needs_little():
    roomy, narrow = (asked(of_size(n * GIB), "unsloth") for n in (40, 12))
    assert roomy.raw.elastic >= narrow.raw.elastic > 0
    assert roomy.bounds.expected == narrow.bounds.expected
    assert asked(of_size(40 * GIB), "peft").raw.elastic == 0
    kept = Plan(roomy).for_the_run()["raw"]
    assert sum(kept.values()) == roomy.raw.expected + roomy.raw.elastic


def test_no_setting_fills_the_list():
    question = asked(training={"batch_size": 32, "accumulation": 1})
    told = [tuple(one.settings) for one in advice.advise(question)]
    assert max(told.count(setting) for setting in told) <= 2 and len(set(told)) >= 3


def test_what_makes_it_fit_by_itself_comes_first():
    question = asked(of_size(12 * GIB), training={"batch_size": 8, "accumulation": 2})
    assert question.verdict == "does not fit"
    fits = [one.fits for one in advice.advise(question)]
    assert fits[0] and fits == sorted(fits, reverse=True)


def test_several_changes_together_where_none_is_enough():
    question = asked(
        of_size(9 * GIB),
        model={"load_in_4bit": False, "max_length": 4096},
        lora={"rank": 64},
        training={"batch_size": 8, "accumulation": 2, "gradient_checkpointing": False},
    )
    found = Plan(question)
    assert not any(one.fits for one in advice.advise(question))
    joint = found.advice[0]
    assert joint.text.startswith("Together: ") and len(joint.settings) > 2
    assert question.with_settings(joint.settings).verdict == "fits"


def test_no_advice_can_make_everything_fit():
    assert advice.together(asked(of_size(2 * GIB))) is None


def test_batches_divide_the_effective_batch_and_fit():
    question = asked(of_size(16 * GIB), training={"batch_size": 2, "accumulation": 12})
    rows = advice.batches(question)
    assert rows and all(24 % one == 0 for one in rows)
    more = {one for one in advice.divisors(24) if one not in rows}
    assert more and min(more) > max(rows)


def test_one_step_longer_than_the_longest_does_not_fit():
    question = asked(of_size(12 * GIB))
    longest = advice.longest_that_fits(question)
    assert longest and longest % 64 == 0
    there, beyond = (
        question.with_settings({"model.max_length": n}) for n in (longest, longest + 64)
    )
    assert there.verdict == "fits" and beyond.verdict != "fits"


# What was measured


def record(ratio: float, **changes: Any) -> dict[str, Any]:
    """A line of memory.jsonl of a run whose memory, beyond what is exact, was `ratio` of what was predicted."""
    parts = dict.fromkeys(STATIC, GIB) | {"layer": 2 * GIB, "slack": GIB}
    measured = dict.fromkeys(STATIC, GIB) | {
        "reserved": int(len(STATIC) * GIB + 2.5 * ratio * GIB),
        "context": int(0.5 * ratio * GIB),
    }
    same = {"card": "Tesla T4", "backend": "peft", "versions": {"torch": "2.13.0"}}
    return same | {"predicted": {"parts": parts}, "measured": measured} | changes


def with_records(tmp_path: Path, *records: Any) -> Question:
    lines = [one if isinstance(one, str) else json.dumps(one) for one in records]
    (tmp_path / learned.FILE).write_text("\n".join(lines))
    return replace(asked(), versions={"torch": "2.13.0"}, records=learned.past(tmp_path))


def test_measured_runs_correct_what_is_not_exact(tmp_path):
    plain = asked()
    told = with_records(tmp_path, *(record(r) for r in (1.2, 1.3, 1.4)))
    rest = plain.raw.expected - plain.raw.static
    assert told.learned.runs == 3 and told.learned.ratio == pytest.approx(1.3, rel=1e-6)
    assert told.bounds.expected == pytest.approx(plain.raw.static + 1.3 * rest, rel=1e-6)
    assert {n: told.estimate.parts[n] for n in STATIC} == {n: plain.raw.parts[n] for n in STATIC}
    assert told.bounds.low < told.bounds.expected < told.bounds.safe


def test_the_band_narrows_with_runs_that_agree_and_never_below_what_they_spread(tmp_path):
    def width(*ratios: float) -> int:
        bounds = with_records(tmp_path, *map(record, ratios)).bounds
        return bounds.safe - bounds.low

    assert width(1.1) > width(1.1, 1.1) > width(*[1.1] * 10) > 0
    assert width(0.7, 1.5, *[1.1] * 8) > width(*[1.1] * 10)
    assert width(0.9, 1.3) > width(1.1, 1.1)


def test_other_cards_backends_and_versions_tell_nothing(tmp_path):
    others = [
        record(2.0, card="NVIDIA L4"),
        record(2.0, backend="unsloth"),
        record(2.0, versions={"torch": "2.12.0"}),
    ]
    assert with_records(tmp_path, *others).learned is None


def test_lines_that_cannot_be_used_are_passed_over(tmp_path):
    bad = [
        "{torn",
        "17",
        "null",
        record(1.1, predicted=None),
        record(1.1, measured={}),
        record(1.1, versions=None),
        {"card": "Tesla T4"},
    ]
    assert with_records(tmp_path, *bad, record(1.25)).learned.runs == 1
    assert learned.past(tmp_path / "nowhere") == []


def test_versions_of_unsloth_do_not_matter_to_peft():
    with_it, without = {"torch": "2.13.0", "unsloth": "2026.10.7"}, {"torch": "2.13.0"}
    assert learned.key("T4", "peft", with_it) == learned.key("T4", "peft", without)
    assert learned.key("T4", "unsloth", with_it) != learned.key("T4", "unsloth", without)


# What a plan says


def test_json_has_what_programs_need():
    found = plan(Recipe(model={"name": LLAMA}), card="T4").as_dict()
    assert json.loads(json.dumps(found)) == found
    assert sum(found["parts"].values()) == found["expected"]
    for name in ("floor", "expected", "safe", "fits", "advice", "measured_runs"):
        assert name in found


def test_the_text_says_what_is_not_known():
    text = str(plan(Recipe(model={"name": LLAMA}), vram="16GiB"))
    assert "Nothing was measured on this card yet" in text
    assert "The rows were not read: each is taken to fill 2,048 tokens." in text


def test_all_problems_are_told_together():
    with pytest.raises(RunError) as error:
        plan(Recipe(model={"name": "nobody/unknown-model"}), card="T5")
    facts = " ".join(problem.fact for problem in error.value.problems)
    assert "T5" in facts and "nobody/unknown-model" in facts


def test_a_name_or_a_path_is_a_recipe_too(tmp_path):
    by_name = plan(LLAMA, card="T4")
    assert by_name.expected == plan(Recipe(model={"name": LLAMA}), card="T4").expected
    path = Recipe(model={"name": LLAMA}).save(tmp_path / "recipe.yaml")
    assert plan(path, card="T4").expected == by_name.expected
    assert plan(LLAMA, vram=16).free == plan(LLAMA, vram="16GiB").free == 16 * GIB


def test_the_memory_that_a_run_is_left_is_the_plans_too(monkeypatch, tiny: Recipe):
    monkeypatch.setenv("WORKBENCH_MEMORY_LIMIT", "60MiB")
    found = plan(tiny.replace(training={"batch_size": 64}))
    assert found.free < GIB and found.verdict == "does not fit"
    monkeypatch.setenv("WORKBENCH_MEMORY_LIMIT", "banana")
    with pytest.raises(RunError, match="WORKBENCH_MEMORY_LIMIT is 'banana', which is no size"):
        plan(tiny)


def test_what_is_assumed_is_noted():
    def notes(name: str, **settings: Any) -> str:
        return " ".join(plan(Recipe(model={"name": name} | settings), card="RTX4090").notes)

    assert "its own 4-bit copy" in notes("Qwen/Qwen3-14B")
    assert "its own 4-bit copy" not in notes("Qwen/Qwen3-14B", load_in_4bit=False)
    assert "experts are fused" in notes("Qwen/Qwen3-30B-A3B")
    assert "made for at most 40,960 tokens" in notes("Qwen/Qwen3-8B", max_length=1_000_000)


def test_targets_that_the_model_does_not_have_are_refused():
    with pytest.raises(RunError, match="holds foo, which .* does not have. It has q_proj"):
        plan(Recipe(model={"name": LLAMA}, lora={"target_modules": ["foo", "q_proj"]}))


def test_a_named_card_gets_unsloth_and_a_machine_without_cards_peft(short: Recipe):
    anywhere = short.replace(backend="auto")
    assert plan(anywhere, card="T4").question.backend == "unsloth"
    assert (
        plan(anywhere, machine=Machine(memory_total=GIB, memory_free=GIB)).question.backend
        == "peft"
    )


def test_steps_and_minutes_need_the_rows(short: Recipe):
    by_epochs = short.replace(training={"steps": None, "epochs": 2.0})
    assert plan(by_epochs).steps is None
    counted = plan(by_epochs, rows=True)
    assert counted.steps == 2 * -(-counted.question.rows // by_epochs.effective_batch)
    assert counted.seconds == pytest.approx(counted.steps * counted.speed.step)


def test_small_micro_batches_waste_the_expanded_weights():
    """Per micro-batch 41 % at 512 tokens and a tenth at 2,048 (8B on an H200)."""
    card = Place("H200", 140 * GIB, 140 * GIB, flops=790e12, bandwidth=4.3e12)

    def bound(tokens: int, *, in_4bit: bool) -> float:
        question = asked(
            card,
            training={"batch_size": 1, "accumulation": 1},
            model={"max_length": tokens, "load_in_4bit": in_4bit},
        )
        return Plan(question).speed.bound

    def waste(tokens: int) -> float:
        return bound(tokens, in_4bit=True) / bound(tokens, in_4bit=False) - 1

    assert waste(512) == pytest.approx(0.41, abs=0.03)
    assert waste(2048) == pytest.approx(0.10, abs=0.02)
    assert 2048 / bound(2048, in_4bit=False) == pytest.approx(17_000, rel=0.03)  # tokens/s


def test_disk_is_what_a_run_writes(trained: Run, short: Recipe):
    adapter = sum(f.stat().st_size for f in trained.adapter_path.glob("adapter_model*"))
    assert plan(short).disk["adapter"] == pytest.approx(adapter, abs=32 * 1024)
    assert MIB < plan(short).disk["checkpoints"] < 64 * MIB
