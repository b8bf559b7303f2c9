"""Rows that are there twice, almost twice, or on both sides: what is told is so, and what is so is told."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.data import duplicates
from workbench.data.duplicates import ALIKE, Sketches, conflicting, leaks, near, repeats
from workbench.data.rows import Message, Row

WORDS = [f"word{number}" for number in range(2_000)]


def row(number: int, asked: str, answer: str, system: str = "") -> Row:
    first = (Message("system", system),) if system else ()
    return Row(number, (*first, Message("user", asked), Message("assistant", answer)))


def many(count: int, seed: int = 0, words: int = 40) -> list[Row]:
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(WORDS, k=words)) for _ in range(2 * count)]
    return [row(n + 1, *texts[2 * n : 2 * n + 2]) for n in range(count)]


def edited(some: Row, number: int) -> Row:
    asked, answer = (message.content for message in some.messages)
    words = asked.split()
    words[len(words) // 2] = "another"
    return row(number, " ".join(words).upper() + "!", answer)


@given(st.lists(st.integers(0, 12)))
def test_repeats_are_those_that_came_before(keys):
    expected = [place for place, key in enumerate(keys) if key in keys[:place]]
    assert repeats(np.array(keys, np.uint64)).tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3))))
def test_conflicting_are_those_with_one_question_and_several_answers(pairs):
    prompts, answers = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
    expected = [
        place
        for place, (asked, said) in enumerate(pairs)
        if asked and any(other[0] == asked and other[1] != said for other in pairs)
    ]
    assert conflicting(prompts, answers).tolist() == expected


def test_a_word_changed_is_almost_the_same_and_the_same_is_not_told():
    rows = many(300)
    rows += [edited(rows[place], 301 + place) for place in range(0, 300, 10)]
    rows += [rows[3], rows[7]]
    found = near(Sketches(rows))
    assert found.later.tolist() == list(range(300, 330))
    assert found.earlier.tolist() == list(range(0, 300, 10))
    assert found.looked == found.rows == 330 and not found.sampled


def test_what_is_left_without_them_has_none():
    rows = many(20)
    for place in range(60):
        rows.append(edited(rows[place], 21 + place))
    found = near(Sketches(rows))
    left = np.delete(np.arange(len(rows)), found.later)
    assert len(found.later) and not len(near(Sketches(rows, among=left)).later)


def test_what_repeats_a_near_duplicate_is_one():
    rows = many(3)
    rows += [edited(rows[1], 4), edited(rows[1], 5)]
    found = near(Sketches(rows))
    assert (found.later.tolist(), found.earlier.tolist()) == ([3, 4], [1, 1])


def test_the_overlap_is_real():
    rows = many(40, words=30)
    draw = random.Random(1)
    for place in range(40):
        words = rows[place].messages[0].content.split()
        for _ in range(place % 8):
            words[draw.randrange(len(words))] = draw.choice(WORDS)
        rows.append(row(41 + place, " ".join(words), rows[place].answer))
    groups = [set(zip(*(text.split()[k:] for k in range(3)), strict=False)) for text in map(said, rows)]  # fmt: skip
    overlap = [len(groups[n] & groups[40 + n]) / len(groups[n] | groups[40 + n]) for n in range(40)]
    same = {40 + n for n in range(40) if rows[n].content_key() == rows[40 + n].content_key()}
    expected = {40 + n for n in range(40) if overlap[n] >= ALIKE} - same
    assert set(near(Sketches(rows)).later.tolist()) == expected
    assert same and expected and len(expected | same) < 40


def said(some: Row) -> str:
    return " ".join(message.content for message in some.messages)


def test_a_long_shared_text_with_another_question_is_another_row():
    shared = " ".join(WORDS[:200])
    rows = [row(n, f"{shared} Who is number {n}?", f"That is person {n}, of house {n}.") for n in (1, 2)]  # fmt: skip
    assert not len(near(Sketches(rows)).later)


def test_a_shared_system_prompt_makes_no_duplicates():
    system = " ".join(WORDS[:300])
    rows = [row(n, f"What is {n}?", f"It is {n}.", system) for n in range(1, 30)]
    assert not len(near(Sketches(rows)).later)


def test_a_text_without_spaces_is_compared_by_its_characters():
    text = "今天天气很好我们一起去公园散步然后在湖边喝茶聊天直到太阳下山才慢慢走回家里休息"
    rows = [Row(1, text=text), Row(2, text=text[:-1] + "吧"), Row(3, text=text[::-1])]
    assert near(Sketches(rows)).later.tolist() == [1]


@pytest.mark.parametrize("texts", [[""], ["", "a"], ["   "], ["\ud83d half"], ["a b"]])
def test_short_and_broken_texts_are_compared_too(texts):
    rows = [Row(number, text=text) for number, text in enumerate(texts, start=1)]
    assert not len(near(Sketches(rows)).later)
    assert not len(near(Sketches([])).later)


def test_of_too_many_rows_a_sample_is_compared_always_the_same(monkeypatch):
    monkeypatch.setattr(duplicates, "MOST", 100)
    rows = many(300)
    rows += [edited(some, 301 + place) for place, some in enumerate(rows)]
    found = near(Sketches(rows))
    assert (found.looked, found.rows, found.sampled) == (100, 600, True)
    again = near(Sketches(list(reversed(rows))))
    pairs = {frozenset(pair) for pair in zip(found.later, found.earlier, strict=True)}
    assert pairs == {frozenset((599 - a, 599 - b)) for a, b in zip(again.later, again.earlier, strict=True)}  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 39)), st.sets(st.integers(0, 39)))
def test_leaks_are_the_trained_rows_that_are_held_out_too(same, almost):
    heldout = many(40, seed=5)
    train = many(30, seed=6)
    copies = [heldout[place] for place in sorted(same)]
    train += copies + [edited(heldout[place], 100 + place) for place in sorted(almost)]
    found = leaks(Sketches(train, heldout), np.arange(len(train)), np.arange(40))
    assert found.later.tolist() == list(range(30, len(train)))
    assert found.earlier.tolist() == [*sorted(same), *sorted(almost)]


def test_leaks_within_one_source_are_between_its_sides():
    rows = many(50)
    rows += [edited(rows[place], 51 + place) for place in (0, 1, 2)]
    rows += [rows[51]]
    train, heldout = np.array([*range(2, 50), 50, 51, 53]), np.array([0, 1, 52])
    found = leaks(Sketches(rows), train, heldout)
    # 50 and 51 are like 0 and 1, 53 repeats 51, and 2 is like 52
    assert found.later.tolist() == [2, 50, 51, 53]
    assert found.earlier.tolist() == [52, 0, 1, 1]
