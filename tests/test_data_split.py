"""Which rows are held out: by what they say alone, so that adding rows moves no old one."""

import numpy as np
import pytest

from workbench.data.rows import Message, Row
from workbench.data.split import LEAST, MOST, split


def rows(count: int, start: int = 0, file: str = "") -> list[Row]:
    return [
        Row(n + 1, (Message("user", f"Question {n}?"), Message("assistant", f"{n}.")), file=file)
        for n in range(start, start + count)
    ]


def contents(all_rows: list[Row], positions: np.ndarray) -> set:
    return {all_rows[int(position)].messages for position in positions}


@pytest.mark.parametrize("count", [32, 40, 100, 320, 2_000])
def test_every_row_is_on_one_side(count):
    parts = split(rows(count), share=0.05)
    together = np.concatenate([parts.train, parts.heldout, parts.reserve])
    assert sorted(together) == list(range(count))
    assert len(parts.heldout) >= LEAST
    assert len(parts.train) >= count // 2


def test_the_share_is_about_what_was_asked_for():
    assert len(split(rows(8_000), share=0.05).heldout) == pytest.approx(400, rel=0.15)


def test_adding_rows_moves_no_old_row():
    old = rows(1_000)
    before = split(old, share=0.05)
    for added in (1, 500, 20_000):
        grown = [*rows(added, start=5_000), *old]  # in front, so that every position changes
        after = split(grown, share=0.05)
        trained, apart = contents(old, before.train), contents(old, before.heldout)
        assert trained <= contents(grown, after.train)
        assert not apart & contents(grown, after.train)


def test_at_most_so_many_are_measured_and_the_rest_is_told_not_trained():
    many = rows(20_000)
    parts = split(many, share=0.05)
    assert len(parts.heldout) == MOST
    assert len(parts.reserve) > 300
    assert f"{len(parts.reserve):,} more are kept apart unused" in parts.why
    assert "lower data.heldout_share" in parts.why


def test_rows_that_say_the_same_are_on_the_same_side():
    some = rows(300)
    parts = split([*some, *some], share=0.05)
    apart = {int(position) for position in parts.heldout}
    assert apart
    assert {position + 300 for position in apart if position < 300} == {
        position for position in apart if position >= 300
    }


def test_every_file_of_some_size_has_its_share():
    both = [*rows(2_000, file="a.jsonl"), *rows(25, start=9_000, file="b.jsonl")]
    held = {both[int(position)].file for position in split(both, share=0.05).heldout}
    assert held == {"a.jsonl", "b.jsonl"}


def test_nothing_is_held_out_of_too_few_rows_or_on_request():
    few = split(rows(31), share=0.05)
    assert len(few.heldout) == 0 and len(few.train) == 31
    assert few.why == "No rows are held out: 31 are too few, 32 would do."
    none = split(rows(500), share=0)
    assert len(none.heldout) == 0 and len(none.train) == 500
    assert none.why == "No rows are held out: data.heldout_share is 0."


def test_of_few_rows_a_larger_share_is_held_out_and_told():
    why = split(rows(100), share=0.05).why
    assert why == (
        "16 rows are held out, chosen by what they say: 16% instead of 5%, since fewer would measure little."
    )
