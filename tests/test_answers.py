"""Answers as text: what is wrong with one, what changed between two, how any text is made harmless, and which are shown."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_history import made, read, sample

from workbench import answers
from workbench.answers import Column
from workbench.events import EventLog

TEXTS = st.text(st.characters(), max_size=200)  # half characters and controls among them


def said(text: str, **fields: object) -> dict[str, object]:
    """A sample event with this answer."""
    known = {"sample": "step-1-0", "step": 1, "prompt": "?", "system": None, "expected": None}
    return known | {"text": text, "adapter": True, "ended": True, "tokens": 9} | fields


def kinds(text: str, **fields: object) -> list[str]:
    return [flag.kind for flag in answers.flags(said(text, **fields))]


# What is wrong with an answer


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u200b", "\x00\x1b"])
def test_what_nobody_can_see_is_empty(text: str):
    assert kinds(text) == ["empty"]


@given(
    st.text("abcdefgh ij", min_size=2, max_size=60).filter(lambda t: len(set(t.strip())) > 1),
    st.integers(0, 59),
    st.text("KLMNO ", max_size=50),
)
def test_a_phrase_over_and_over_is_found_wherever_it_breaks_off(phrase: str, cut: int, before: str):
    phrase = phrase.strip() + " "
    text = before + phrase * 40 + phrase[: cut % len(phrase)]
    assert kinds(text) == ["repeats"]


@pytest.mark.parametrize(
    ("text", "phrase", "times"),
    [
        ("no " * 30, "no", 30),
        ("=" * 40, "=", 40),
        ("So: " + "the lamp is red. " * 5, "the lamp is red.", 5),
        ("I am. " + "We are sorry. " * 9, "We are sorry.", 9),
        ("the lamp\nis red.  " * 5 + "the la", "the lamp is red.", 5),
        ("".join(f"{i}. The lamp in the hall is red.\n" for i in range(6)), "The lamp in the", 6),
        ('{"item": "lamp", "colour": "red"}\n' * 4, '{"item": "lamp"', 4),
        ("\u706f\u306f\u8d64\u3044\u3002" * 12, "\u706f\u306f\u8d64\u3044\u3002", 12),
    ],
)
def test_what_is_repeated_is_told_with_how_often(text: str, phrase: str, times: int):
    found = answers.repeated(text)
    assert found.phrase.startswith(phrase)
    assert (found.times, found.more) == (times, False)
    assert f"\u00d7{times}" in answers.flags(said(text))[0].text


def test_of_a_very_long_repetition_it_is_told_that_it_was_not_counted_to_the_end():
    assert answers.flags(said("x" * 100_000))[0].text.endswith("2,000 or more")


ROWS = [{"item": word, "colour": hue} for word in ("lamp", "desk", "radio") for hue in ("red", "")]


@pytest.mark.parametrize(
    "text",
    [
        "The lamp is red.",
        "The lamp is red. The lamp is red.",
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        "\n".join(map(json.dumps, ROWS)),
        "\n".join(json.dumps({"id": number, "ok": True}) for number in range(40)),
        json.dumps([0] * 30),
        "\n".join(f"{number}. yes" for number in range(9)),
        "| a | b | c | d |\n|---|---|---|---|",
        "A title\n" + "-" * 20,
        "A third is 0.3333333333333333333",
        "10000000000000000000",
        "item,colour\n" + "\n".join(f"lamp {number},red" for number in range(30)),
        "ha ha ha",
    ],
)
def test_lists_tables_and_numbers_are_no_repetition(text: str):
    assert kinds(text) == []


def test_a_cut_answer_says_where():
    (flag,) = answers.flags(said("The lamp", ended=False, tokens=1200))
    assert flag.kind == "cut" and flag.text == "cut at 1,200 tokens" and flag.fault


def test_the_answer_of_a_training_row_is_told_and_no_fault():
    (flag,) = answers.flags(said("red", same_as=12))
    assert flag.text == "same as the answer of training row 12"
    assert not flag.fault


def test_what_an_older_version_did_not_note_is_not_told():
    old = said("red")
    del old["tokens"], old["ended"]
    assert answers.flags(old) == []


def test_white_space_around_an_answer_does_not_make_it_wrong():
    assert answers.is_expected(said(" red\n", expected="red"))
    assert answers.is_expected(said("blue", expected="red")) is False
    assert answers.is_expected(said("red")) is None


# Any text can be shown


@given(TEXTS)
def test_what_is_shown_holds_nothing_that_acts_and_can_be_encoded(text: str):
    visible = answers.visible(text)
    visible.encode()
    for sign in visible:
        assert unicodedata.category(sign) not in ("Cc", "Cs", "Zl", "Zp") or sign in "\n\t"
        assert not "\u202a" <= sign <= "\u202e" and not "\u2066" <= sign <= "\u2069"


@given(st.text(st.characters(categories=("L", "N", "P", "S")), max_size=200))
def test_ordinary_text_is_shown_as_it_is(text: str):
    text = text.replace("\ufffe", "").replace("\uffff", "")
    assert answers.shown(text, 200) == (text, 0)


def test_controls_can_be_seen():
    assert answers.visible("\x1b[31mred\x1b[0m\x00") == "\u241b[31mred\u241b[0m\u2400"
    assert answers.visible("a\r\nb\u2028c") == "a\nb\nc"
    assert answers.visible("pay \u202e0001\u202c") == "pay \ufffd0001\ufffd"


def test_a_long_text_is_cut_and_says_by_how_much():
    assert answers.shown("x" * 100_000, 2000) == ("x" * 2000, 98_000)


# What changed


@given(TEXTS, TEXTS)
def test_marking_loses_nothing(before: str, after: str):
    left, right = answers.marked(before, after)
    assert "".join(piece.text for piece in left) == before
    assert "".join(piece.text for piece in right) == after


@given(TEXTS)
def test_the_same_text_has_no_marks(text: str):
    left, right = answers.marked(text, text + " ")
    assert not any(piece.changed for piece in [*left, *right])


def test_only_the_words_that_changed_are_marked():
    left, right = answers.marked("the lamp is red today", "the lamp is dark blue  today")
    assert changed(left) == ["red "]
    assert changed(right) == ["dark blue  "]


def changed(pieces: list[answers.Piece]) -> list[str]:
    return [piece.text for piece in pieces if piece.changed]


def test_signs_of_languages_without_spaces_are_compared_one_by_one():
    _, right = answers.marked("\u706f\u306f\u8d64\u3044", "\u706f\u306f\u9752\u3044")
    assert changed(right) == ["\u9752"]


def test_texts_too_long_to_compare_are_marked_between_what_they_share():
    before, after = ("start " + f"{word} " * 20_000 + "end" for word in ("a b", "b c a"))
    _, right = answers.marked(before, after)
    assert [piece.changed for piece in right] == [False, True, False]
    assert right[0].text == "start " and right[2].text == "end"


# The answers of a run


def test_the_same_step_again_replaces_and_what_users_asked_is_left_out(tmp_path):
    history = made(tmp_path, steps=10, state="ready")
    log = EventLog(tmp_path / "events.jsonl")
    sample(log, 10, "newer", adapter=True)
    for event in read(tmp_path).samples:
        history.absorb(event | {"sample": "0a1b"})
    history.update()
    (prompt,) = answers.prompts(history)
    assert answers.columns([prompt]) == [Column(0, False), Column(10, True)]
    assert prompt.answers[Column(10, True)]["text"] == "newer"
    (pair,) = answers.paired(history)
    assert (pair.before["text"], pair.after["text"]) == ("The radio was late.", "newer")


@pytest.mark.parametrize("count", [0, 1, 2, 5, 6, 7, 49, 1000])
@pytest.mark.parametrize("choice", ["spread", "all", "ends", "newest"])
def test_few_checkpoints_are_chosen_and_the_newest_is_always_there(count: int, choice):
    columns = [Column(step, step > 0) for step in range(count)]
    found = answers.chosen(columns, choice)
    assert found == sorted(set(found))
    assert found[-1:] == columns[-1:]
    most = {"all": answers.MOST, "ends": 2}.get(choice, answers.FEW)
    assert len(found) == min(count, most)
    if choice in ("spread", "ends"):
        assert found[:1] == columns[:1]


def test_two_answers_to_one_question_stand_together():
    told = [
        said("red", sample="a"),
        said("?", sample="b", adapter=False),
        said("blue", sample="c"),  # the same question again
        said("late", sample="d", prompt="When?", adapter=False),
        said("left out", sample="step-7-0"),
    ]
    first, again, other = answers.asked(told)
    assert (first.tuned["text"], first.base["text"]) == ("red", "?")
    assert (again.tuned["text"], again.base) == ("blue", None)
    assert (other.prompt, other.tuned, other.base["text"]) == ("When?", None, "late")
