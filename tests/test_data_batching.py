"""Choosing how rows come into batches: every row once, orders that can be made again, and figures with their reason."""

from collections import Counter

import numpy as np
import pytest

from workbench.data import batching

ROOM = 256


def lengths_of(kind: str, count: int = 997) -> np.ndarray:
    """Tokens of some rows: of `even`, `like` and `mixed` length, and `halves`, which pair badly."""
    chance = np.random.default_rng(5)
    drawn = {
        "even": chance.integers(60, 64, count),
        "like": chance.integers(70, 96, count),
        "mixed": chance.lognormal(4, 0.9, count),
        "halves": chance.choice([ROOM // 2 + 1, ROOM // 3, ROOM], count),
        "single tokens": np.ones(count),
    }[kind]
    return np.clip(drawn, 1, ROOM).astype(np.int64)


KINDS = ("even", "like", "mixed", "halves", "single tokens")


def planned(lengths, **how):
    settings = {"batch_size": 8, "accumulation": 2, "max_length": ROOM} | how
    return batching.plan(lengths, **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_packing_holds_every_row_once_and_no_sequence_overflows(kind: str):
    lengths = lengths_of(kind)
    packs = batching.pack(lengths, ROOM)
    assert sorted(packs.rows.tolist()) == list(range(len(lengths)))
    assert (packs.offsets[0], packs.offsets[-1]) == (0, len(lengths))
    sizes = np.add.reduceat(lengths[packs.rows], packs.offsets[:-1])
    assert (np.diff(packs.offsets) > 0).all() and sizes.max() <= ROOM


@pytest.mark.parametrize("kind", KINDS)
def test_packing_fills_sequences_as_trl_does(kind: str):
    from datasets import Dataset
    from trl import pack_dataset

    lengths = lengths_of(kind)
    rows = Dataset.from_dict({"input_ids": [[0] * length for length in lengths]})
    how = {"batch_size": None, "keep_in_memory": True}
    theirs = pack_dataset(rows, ROOM, "bfd", how)
    ours = batching.pack(lengths, ROOM)
    filled = np.add.reduceat(lengths[ours.rows], ours.offsets[:-1])
    assert Counter(map(sum, theirs["seq_lengths"])) == Counter(filled.tolist())
    assert planned(lengths).waste["packed"] == pytest.approx(
        1 - lengths.sum() / (len(theirs) * ROOM)
    )


@pytest.mark.parametrize("grouped", [False, True])
def test_an_order_holds_every_row_once_and_depends_on_seed_and_epoch_alone(grouped: bool):
    lengths = lengths_of("mixed")

    def order(seed, epoch):
        return batching.order(lengths, 8, seed=seed, epoch=epoch, grouped=grouped).tolist()

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(rows) == list(range(len(lengths))) for rows in orders)
    assert len({tuple(rows) for rows in orders}) == 4
    assert orders == [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]


def test_grouped_rows_share_a_batch_with_like_ones_while_batches_stay_mixed():
    lengths = lengths_of("mixed", 4_000)
    rows = batching.order(lengths, 8, seed=0, grouped=True)
    longest = lengths[rows].reshape(-1, 8).max(axis=1)
    assert batching.padding(lengths[rows], 8) < 0.1
    assert abs(np.corrcoef(longest[:-1], longest[1:])[0, 1]) < 0.2


def test_padding_is_counted_batch_by_batch():
    assert batching.padding(np.array([1, 3, 4, 4, 2]), 2) == pytest.approx(1 - 14 / 16)
    assert batching.padding(np.array([5, 1, 9]), 1) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 8])
def test_figures_fit_together(kind: str, batch_size: int):
    lengths = lengths_of(kind)
    plan = planned(lengths, batch_size=batch_size)
    for figures in (plan.waste, plan.rows_per_step, plan.steps_per_epoch):
        assert figures.keys() == {"padded", "grouped", "packed", "wrapped"}
    assert all(0 <= share < 1 for share in plan.waste.values())
    assert plan.waste["grouped"] <= plan.waste["padded"] + 0.01
    assert plan.rows_per_step["padded"] == plan.rows_per_step["grouped"] == batch_size * 2
    for choice, steps in plan.steps_per_epoch.items():  # a last step may be a smaller one
        assert steps - 1 < len(lengths) / plan.rows_per_step[choice] <= steps
    assert planned(lengths, batch_size=batch_size) == plan


def test_rows_that_are_cut_count_cut_but_run_on_whole():
    plan = planned([3 * ROOM] * 16)
    assert plan.waste["padded"] == plan.waste["packed"] == 0
    assert (plan.steps_per_epoch["packed"], plan.steps_per_epoch["wrapped"]) == (1, 3)


WHYS = {
    "even": "Only 2 % of a batch is padding in random order. Packing would leave 4 % of its room empty, but each step"
    " would learn from about 64 rows instead of 16.",
    "like": "In random order 11 % of a batch is padding; beside rows of like length it would be under 1 %, which is"
    " not worth a less random order. Packing would leave 8 % of its room empty, but each step would learn from about"
    " 46 rows instead of 16.",
    "mixed": "In random order 59 % of a batch would be padding; beside rows of like length it is 4 %, and each step"
    " learns from 16 rows as before. Packing would leave under 1 % of its room empty, but each step would learn from"
    " about 53 rows instead of 16.",
}


@pytest.mark.parametrize(
    ("kind", "choice"),
    [("even", "padded"), ("like", "padded"), ("mixed", "grouped")],
)
def test_auto_leaves_the_batch_as_it_is_and_says_why(kind: str, choice: str):
    plan = planned(lengths_of(kind))
    assert (plan.choice, plan.why) == (choice, WHYS[kind])


def test_auto_knows_that_a_batch_of_one_row_needs_no_padding():
    plan = planned(lengths_of("mixed"), batch_size=1)
    assert plan.choice == "padded" and plan.waste["padded"] == 0
    assert plan.why.startswith("A batch of one row needs no padding. Packing would leave ")


def test_auto_lets_long_texts_run_on_and_packs_short_ones():
    long = planned([100, 700, 300], raw_text=True)
    assert (long.choice, long.why) == (
        "wrapped",
        "2 of 3 texts are longer than 256 tokens, so texts run on from one sequence to the next: nothing is cut off,"
        " and 14 % of a batch is padding.",
    )
    short = planned([100, 200, 30], raw_text=True)
    assert (short.choice, short.why) == (
        "packed",
        "All texts fit in 256 tokens, so they are packed whole: 36 % of the room stays empty, where 45 % of a batch"
        " would be padding. Each step learns from about 3 texts.",
    )


@pytest.mark.parametrize("choice", ["padded", "grouped", "packed", "wrapped"])
def test_what_the_recipe_asks_for_is_taken_and_compared(choice: str):
    plan = planned(lengths_of("mixed"), wanted=choice)
    assert plan.choice == choice
    assert plan.why.startswith("training.batching asks for it: ")
    assert (" auto would take grouped: 4 % of a batch is padding" in plan.why) == (
        choice != "grouped"
    )
