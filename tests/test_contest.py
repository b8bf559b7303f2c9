"""LoRA against QLoRA against full fine-tuning: that a contest trains what a run trains, measures it rightly, and is told
no more surely than its seeds allow."""

import asyncio
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import workbench as wb
from workbench.charts.contest import picture, raced
from workbench.inspection.contest import Contest, Result, contest, methods, recorded
from workbench.problems import RecipeError, RunError
from workbench.worker import device

MIB = 2**20
MACHINE = {"card": "CPU", "precision": "float32", "backend": "peft", "date": "2026-11-25"}


def result(entry: str, seed: int, loss: float | None, **figures: Any) -> Result:
    known = {"losses": (3.0, 1.0 + seed / 10), "heldout_loss": loss, "exact": 0.5, "seconds": 9.0}
    counts = {
        "peak_bytes": 100 * MIB,
        "tokens_per_second": 2000.0,
        "trainable": 8,
        "kept_bytes": 99,
    }
    return Result(entry, seed, **(known | counts | figures))


def made(losses: dict[str, list[float | None]], **more: Any) -> Contest:
    """A contest that was never held: held-out losses by entry, one for each seed."""
    seeds = tuple(range(1, 1 + max(map(len, losses.values()))))
    results = [
        result(name, seed, loss)
        for name, given in losses.items()
        for seed, loss in zip(seeds, given, strict=True)
    ]
    entries = {name: {} for name in losses}
    fields = {"results": tuple(results), "machine": MACHINE, "recipe": "", "rows": 128}
    return Contest(entries, seeds, 2, **(fields | more))


# What is measured


@pytest.fixture(scope="module")
def base(tiny) -> wb.Recipe:
    return tiny.replace(training={"batch_size": 4, "learning_rate": 4e-3})


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("kept") / "contest.json"


@pytest.fixture(scope="module")
def held(base, told, kept) -> Contest:
    """Three methods with two seeds and three steps each, in a process of its own; what is kept after each is noted."""

    def hear(text: str) -> None:
        told.append(text)
        if kept.is_file():
            told.append(f"kept {len(Contest.load(kept).results)}")

    return asyncio.run(contest(base, seeds=(1, 2), steps=3, rows=8, keep=kept, told=hear))


def test_every_method_is_trained_with_every_seed_on_the_same_rows(held):
    assert list(held.entries) == ["QLoRA", "LoRA", "full fine-tuning"]
    assert [(one.entry, one.seed) for one in held.results] == [
        (name, seed) for seed in (1, 2) for name in held.entries
    ]
    assert {len(one.losses) for one in held.results} == {held.steps} == {3}
    first = {(one.entry, one.seed): one.losses[0] for one in held.results}
    for seed in (1, 2):  # B is zero: at its first step LoRA is the model itself, on the same rows
        assert first["LoRA", seed] == pytest.approx(first["full fine-tuning", seed], abs=1e-4)
    assert abs(first["LoRA", 1] - first["LoRA", 2]) > 1e-3  # other rows


def test_each_training_is_kept_as_soon_as_it_is_measured(held, told, kept):
    """Whoever ends a contest early has what was measured, in words and tables too."""
    counts = [int(text.split()[1]) for text in told if text.startswith("kept ")]
    assert counts and counts == sorted(counts) and counts[0] < len(held.results)
    assert Contest.load(kept) == held
    early = replace(held, results=held.results[:1])
    assert "QLoRA" in str(early) and early._repr_html_() and early.verdict is not None


def test_what_is_counted_is_right_to_the_byte(held):
    qlora, lora, full = (held.of(name)[0] for name in held.entries)
    assert qlora.trainable == lora.trainable == 327_680 and full.trainable == 3_803_392
    for one in (qlora, lora, full):
        assert 4 * one.trainable < one.kept_bytes < 4 * one.trainable + 64 * 1024
        assert one.heldout_loss > 0 and one.exact == 0 and one.seconds > 0 < one.tokens_per_second
    # Adam's two states of every weight; gradients come as activations go
    assert full.peak_bytes - lora.peak_bytes > 2 * 4 * (full.trainable - lora.trainable)
    assert [one.peak_bytes for one in held.of("LoRA")] == [lora.peak_bytes] * 2


def test_it_tells_how_far_it_is_and_where_it_ran(held, told):
    assert sum("of 6: " in text for text in told) == 6
    assert any(
        text.startswith("2 of 6: LoRA, seed 1: ") and "held-out loss" in text for text in told
    )
    assert held.machine["card"] == "CPU" and held.machine["backend"] == "peft"
    assert "torch" in held.machine["versions"] and held.rows == 8
    assert held.notes == ()


def test_out_of_memory_is_a_result_and_the_others_go_on(base, monkeypatch):
    monkeypatch.setenv(device.MEMORY_LIMIT, "300MiB")
    many = base.replace(training={"batch_size": 64})
    parts = {"training": {"batch_size": 4, "accumulation": 16}}
    found = asyncio.run(
        contest(many, {"at once": {}, "in parts": parts}, seeds=[1], steps=1, rows=4)
    )
    short, whole = found.results
    assert short.why.startswith("the memory ran out before the first step: ")
    assert short.heldout_loss is short.peak_bytes is None and short.losses == ()
    assert len(whole.losses) == 1 and whole.heldout_loss > 0
    assert f"at once, seed 1: {short.why}" in str(found)
    assert "At once: no held-out loss was measured" in found.verdict


# The same as a run


@pytest.fixture(scope="module")
def inside():
    from workbench.inside import contest as inside

    return inside


def prepared(inside, recipe, folder):
    return inside.prepared(recipe, folder, passing=lambda text: None)


def learned(inside, ground, recipe, *, full=False):
    """The trainer of an entry that has learned, and its losses by step."""
    from workbench.events import EventLog, History

    entry = inside.Entry("one", recipe, full)
    log = EventLog(ground.folder / "one.jsonl")
    made = inside.trained(ground, entry, recipe.training.seed, log, lambda _: None)
    history = History(log.path)
    history.update()
    return made, [step["loss"] for step in history.steps]


def test_it_trains_what_a_run_trains(inside, trained, tmp_path):
    ground = prepared(inside, trained.recipe, tmp_path)
    made, losses = learned(inside, ground, trained.recipe)
    trained.refresh()
    assert losses == pytest.approx([step["loss"] for step in trained.history.steps], abs=1e-4)
    some = inside.batches(ground.rows.heldout, 10**6, 16, ground.pad)
    found = inside.held_out(made.model, some, ground.precision)
    assert found.loss == pytest.approx(trained.history.evals[-1]["loss"], abs=1e-4)


def test_exact_match_is_what_greedy_decoding_answers(inside, tiny, tmp_path):
    from workbench.data.template import prompt_ids
    from workbench.data.tokenizer import ChatTokenizer
    from workbench.worker.answering import Answerer, Decoding
    from workbench.worker.backends import peft

    ground = prepared(inside, tiny, tmp_path)
    half = tiny.replace(
        model={"load_in_4bit": False}, training={"steps": 6, "learning_rate": 7.5e-4}
    )
    model = learned(inside, ground, half, full=True)[0].model
    count = 32
    each = inside.batches(ground.rows.heldout, count, 1, ground.pad)
    exact = sorted(
        (len(batch["input_ids"][0]), inside.held_out(model, [batch], ground.precision).exact)
        for batch in each
    )
    chat = ChatTokenizer.of(ground.tokenizer, template=None)
    asked = ground.rows.askable_heldout[:count]
    answerer = Answerer(peft, model, ground.tokenizer, max_length=128, end_ids=chat.end_ids)
    answers = answerer.answer_all(
        [prompt_ids([m.turn() for m in row.prompt], chat, tools=None) for row in asked],
        Decoding(64), adapter=True, interrupted=lambda: False, passing=lambda _: None,
    )  # fmt: skip
    lengths = ground.rows.heldout.lengths[:count].tolist()
    said = [(a.text == row.answer and a.ended) for a, row in zip(answers, asked, strict=True)]
    assert 0 < sum(said) < count  # neither is trivial
    assert exact == sorted(zip(lengths, map(float, said), strict=True))


# What is refused


def refused(recipe, entries, **how) -> list[str]:
    with pytest.raises((RecipeError, RunError)) as caught:
        asyncio.run(contest(recipe, entries, **how))
    return [problem.fact for problem in caught.value.problems]


def test_entries_that_do_not_compare_are_refused_all_at_once(tiny):
    entries = {
        "a": {"training": {"seed": 5, "steps": 3}, "data": {"heldout": None}},
        "b": {"training": {"batch_size": 8}},
        "c": {"full": True, "lora": {"rank": 4}},
        "d": {"lora": {"rank": 0}},
        "e": {"ful": True},
        "f": "rank 8",
    }
    facts = refused(tiny, entries, steps=4)
    assert facts[:3] == [
        "a: data.heldout, training.steps, training.seed must be the same in all entries, or they would not compare.",
        "b: A step learns from 8 rows, and from 16 in the recipe.",
        "c: It trains all weights, and asks for an adapter or for 4 bit too.",
    ]
    assert facts[3].startswith("d: lora.rank is 0; it must be at least 1")
    assert facts[4:] == [
        "e: ful is not a setting.",
        "f: An entry is 'rank 8'; it must be a table of changes to the recipe.",
    ]


def test_seeds_rows_and_no_entries(tiny):
    facts = refused(tiny, None, seeds=(1, 1), rows=0)
    assert facts == [
        "seeds is [1, 1]; each must be there once, and at least one.",
        "rows is 0; it must be at least 1.",
    ]
    assert refused(tiny, {}) == ["There are no entries to compare."]


def test_a_base_that_is_stored_quantized_cannot_be_trained_in_16_bit(tiny, tmp_path):
    packed = shutil.copytree(tiny.model.name, tmp_path / "packed")
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (packed / "config.json").write_text(json.dumps(config))
    facts = refused(tiny.replace(model={"name": str(packed)}), None)
    said = f"model.load_in_4bit is false, but the weights of {packed} are stored quantized."
    assert facts == [f"LoRA: {said}", f"full fine-tuning: {said}"]


def test_a_large_model_is_not_fine_tuned_in_full_unasked(tiny, monkeypatch):
    assert methods(tiny)[0]["full fine-tuning"]["training"]["learning_rate"] < 1e-3
    monkeypatch.setattr("workbench.inspection.contest.FULL_MOST", 10 * MIB)
    found, notes = methods(tiny)
    assert list(found) == ["QLoRA", "LoRA"] and notes[0].startswith("Full fine-tuning is left out")


# What is said


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [
        (
            {"QLoRA": [0.05, 0.07, 0.09], "LoRA": [0.04, 0.08, 0.07]},
            "QLoRA and LoRA differ by 0.0067 nats per token, less than their seeds do (0.04 and 0.04).",
        ),
        (
            {"QLoRA": [0.05, 0.07, 0.09], "full": [0.01, 0.02, 0.01]},
            "Full ends lower than QLoRA whatever the seed: 0.013 against 0.07 nats per token.",
        ),
        (
            {"QLoRA": [0.05, 0.07, 0.09], "LoRA": [0.051, 0.051, 0.051]},
            "QLoRA and LoRA differ by 0.019 nats per token on average, and their ranges overlap: more seeds would have to tell.",
        ),
        (
            {"QLoRA": [0.05], "LoRA": [0.051]},
            "QLoRA and LoRA differ by 0.001 nats per token; with one seed nobody can say whether that is chance.",
        ),
        (
            {"QLoRA": [0.05, 0.06], "LoRA": [None, None]},
            "LoRA: no held-out loss was measured, so QLoRA and LoRA are not compared.",
        ),
    ],
)  # fmt: skip
def test_the_verdict_says_no_more_than_the_seeds_allow(losses, verdict):
    assert made(losses).verdict == verdict


def test_the_spread_is_of_the_seeds_that_have_a_figure():
    found = made({"a": [0.1, None, 0.3]})
    assert found.spread("a", "heldout_loss") == pytest.approx((0.2, 0.1, 0.3))
    assert found.curve("a") == [pytest.approx((3.0, 3.0, 3.0)), pytest.approx((1.2, 1.1, 1.3))]
    assert made({"a": [None]}).spread("a", "heldout_loss") is None


def test_the_tables_show_mean_and_range_and_are_safe():
    found = made({"<b>&": [0.05, 0.07]}, notes=("<i>",))
    assert "0.06 (0.05 to 0.07)" in str(found) and "1 method, 2 seeds, 2 steps each" in str(found)
    page = found._repr_html_()
    assert "&lt;b&gt;&amp;" in page and "<b>" not in page and "<i>" not in page
    assert "0.05 to 0.07" in page and "not measured" in made({"a": [None]})._repr_html_()


def test_it_is_kept_and_read_again(tmp_path):
    found = made({"a": [0.1, 0.2], "b": [None, 0.2]}, notes=("n",))
    later = made({"a": [0.1]}, machine=MACHINE | {"date": "2026-12-01", "card": "T4"})
    assert recorded(tmp_path) == []
    later.save(tmp_path / "contest-a.json")
    assert Contest.load(found.save(tmp_path / "contest-b.json")) == found
    assert [one.machine["card"] for one in recorded(tmp_path)] == ["CPU", "T4"]


def test_what_is_no_contest_is_refused(tmp_path):
    place = tmp_path / "contest-a.json"
    for content in ("[1", "{}", '{"kind": "contest"}'):
        place.write_text(content)
        with pytest.raises(RunError, match=r"contest-a\.json holds no contest\."):
            Contest.load(place)
    with pytest.raises(RunError, match="cannot be read: No such file"):
        Contest.load(tmp_path / "none.json")


def test_the_figure_has_a_line_a_band_and_a_point_for_each():
    found = made({"QLoRA": [0.05, 0.07], "$x_1": [0.001, 0.002], "none": [None, None]})
    left, right = raced(found).axes
    assert [line.get_label() for line in left.lines] == ["QLoRA", r"\$x_1", "none"]
    assert len(left.collections) == 3 and left.get_yscale() == "log"
    markers = {line.get_marker() for line in left.lines}
    colours = {line.get_color() for line in left.lines}
    assert len(markers) == len(colours) == 3
    assert [text.get_text() for text in right.texts] == ["0.06", "0.0015"]
    assert raced(made({"a": [0.9, 0.8]})).axes[0].get_yscale() == "linear"
    assert raced(made({"a": [None]}, results=())).axes  # nothing came of it
    shown = picture(found)
    assert shown.image.startswith(b"\x89PNG") and repr(shown) == str(found)
