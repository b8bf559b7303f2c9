"""Cleaning: every row is accounted for, what was cured stays cured, and the source is never touched."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.data import cures
from workbench.data.clean import CURES, WITHOUT_ANSWER, clean
from workbench.data.differences import difference
from workbench.data.report import report
from workbench.data.rows import Message, Row
from workbench.data.table import read, write
from workbench.problems import DataError

KEY = "AKIAIOSFODNN7EXAMPLE"
WITHOUT_TOKENS = [cure for cure in CURES if cure not in (*WITHOUT_ANSWER, "drop_leaks")]
LONG = " ".join(f"word{n} and" for n in range(30))


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def chat(*turns: str) -> Row:
    return Row(0, tuple(Message(*turn.split(": ", 1)) for turn in turns))


def good(count: int = 12) -> list[Row]:
    return [chat(f"user: What is lamp {n}?", f"assistant: Lamp {n} is broken, and so is its cord.") for n in range(count)]  # fmt: skip


POOR = [
    good()[3],
    chat(f"user: The key is {KEY}.", "assistant: Thank you for it."),
    chat(f"user: The key is {KEY[:-1]}F.", "assistant: Thank you for it."),
    chat(f"user: {LONG} {KEY} here", f"assistant: {LONG}."),
    chat(f"user: {LONG} here", f"assistant: {LONG}."),
    chat(f"user: {LONG} there", f"assistant: {LONG}"),
    chat("user: Write to ada@firm.org now.", "assistant: I will do it."),
    chat("user: Who?", "user: Who was it?", "assistant: It was Ada."),
    chat("user: Who?\n\nWho was it?", "assistant: It was Ada."),
    chat("user: Who?", "assistant: It was", "assistant: Ada.", "user: Why?", "user: Tell me."),
    chat("user: Who?", "assistant: Ada"),
    chat("user: Who is it?", "assistant: "),
    chat("user: Кто это был?", "assistant: Это была Ада из дома."),
    chat("user: Wer ist das und wie?", "assistant: Das ist nicht die Ada, sondern der Hund."),
]
SOME = st.lists(st.sampled_from(POOR), max_size=8)
CHOSEN = st.lists(st.sampled_from(WITHOUT_TOKENS), min_size=1, unique=True)


def numbered(rows: list[Row]) -> list[Row]:
    return [row._replace(number=place) for place, row in enumerate(rows, start=1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cleaned")


@settings(max_examples=60, deadline=None)
@given(SOME, CHOSEN)
def test_every_row_is_accounted_for(folder, poor, chosen):
    rows = numbered([*good(), *poor])
    cleaned = clean(rows, chosen, to=folder / "clean.jsonl", replace=True, heldout_share=0)
    lines = cleaned.path.read_text().splitlines()
    assert cleaned.before == len(rows)
    assert cleaned.after == len(lines) == cleaned.before - cleaned.dropped
    assert [each.cure for each in cleaned.applied if each.dropped] == [
        cure for cure in CURES if cure in chosen and cure not in cures.CHANGES
    ]
    changed = set(lines) - {json.dumps({"messages": row.turns()}, ensure_ascii=False) for row in rows}  # fmt: skip
    assert len(changed) <= sum(each.rows for each in cleaned.applied if not each.dropped)


@settings(max_examples=60, deadline=None)
@given(SOME, CHOSEN)
def test_what_is_clean_stays_as_it_is(folder, poor, chosen):
    rows = numbered([*good(), *poor])
    path = folder / "first.jsonl"
    write([{"messages": row.turns()} for row in rows if row.answer], path)
    once = clean(path, chosen if "drop_faulty" in chosen else [*chosen, "drop_faulty"], to=folder / "once.jsonl", replace=True, heldout_share=0)  # fmt: skip
    twice = clean(once.path, chosen, to=folder / "twice.jsonl", replace=True, heldout_share=0)
    told = {each.cure: each.rows for each in twice.applied}
    assert not {cure: count for cure, count in told.items() if count}
    assert once.path.read_bytes() == twice.path.read_bytes()


def test_it_says_what_it_did(tmp_path):
    path = tmp_path / "train.jsonl"
    write(
        [{"messages": row.turns()} for row in [*good(), POOR[0], POOR[1], POOR[7], POOR[9]]], path
    )
    with path.open("a") as file:
        file.write("no JSON\n")
    source = path.read_bytes()
    cleaned = clean(report(path, heldout_share=0), "suggested", to=tmp_path / "clean.jsonl")
    assert str(cleaned).replace(str(tmp_path), "") == """\
train.jsonl: 17 rows looked at, 15 are in /clean.jsonl.
  drop_faulty          1 dropped: row 17
  mask_secrets         1 changed: row 14
      row 14: user: The key is [-AKIA…MPLE.-] {+[removed].+} assistant: Thank you for …
  merge_turns          2 changed: row 15, row 16
      row 15: user: Who? [-user:-] Who was it? assistant: …
      row 16: … Who? assistant: It was [-assistant:-] Ada. user: Why? [-user:-] Tell me.
  drop_last_user_turn  1 changed: row 16
      row 16: … assistant: It was Ada. [-user: Why? Tell me.-]
  drop_duplicates      1 dropped: row 13"""  # fmt: skip
    assert path.read_bytes() == source
    assert KEY not in cleaned.path.read_text() and KEY not in str(cleaned)
    assert read(cleaned.path)[-1].messages == (
        Message("user", "Who?"),
        Message("assistant", "It was\n\nAda."),
    )


def test_no_file_is_written_over_unless_it_is_asked_for(tmp_path):
    train, heldout, other = (tmp_path / f"{name}.jsonl" for name in ("train", "heldout", "other"))
    write([{"messages": row.turns()} for row in [*good(), POOR[0]]], train)
    write([{"messages": row.turns()} for row in good()[:3]], heldout)
    other.write_text("mine")
    before = heldout.read_bytes()
    looked = report(train, heldout=heldout)
    for to, fact in (
        (heldout, f"{heldout} has the name of a file that the held-out rows come from."),
        (other, f"There is a file {other} already."),
    ):
        with pytest.raises(DataError, match=re.escape(fact)):
            clean(looked, ["drop_duplicates"], to=to)
    with pytest.raises(DataError):
        clean(looked, ["drop_duplicates"], to=heldout, replace=True)
    assert (heldout.read_bytes(), other.read_text()) == (before, "mine")
    assert clean(looked, ["drop_duplicates"], to=other, replace=True).path.read_text() != "mine"


def test_short_answers_and_other_spellings_are_kept_unless_it_is_asked_for(tmp_path):
    def asked(question: str, answer: str) -> Row:
        return Row(1, (Message("user", question), Message("assistant", answer)))

    pairs = [
        ("Is 37 even?", "No"),
        ("Write if x: a()", "if x:\n    a()"),
        ("Write if x: a()", "if x:\na()"),
    ]
    rows = numbered([*good(), *(asked(*pair) for pair in pairs)])
    looked = report(rows, heldout_share=0)
    assert looked.of("short_answer").level == "hint"
    assert looked.of("duplicates") is None
    assert clean(looked, "suggested", to=tmp_path / "clean.jsonl").after == len(rows)
    asked_for = clean(looked, ["drop_short"], to=tmp_path / "long.jsonl")
    assert asked_for.after == len(rows) - 1


def test_what_becomes_the_same_is_the_same(tmp_path):
    rows = numbered([*good(), POOR[1], POOR[2], POOR[7], POOR[8]])
    cleaned = clean(rows, ["mask_secrets", "merge_turns", "drop_duplicates"], to=tmp_path / "clean.jsonl")  # fmt: skip
    dropped = cleaned.applied[-1]
    assert (dropped.cure, dropped.names) == ("drop_duplicates", ("row 14", "row 16"))


def test_of_a_leak_the_training_row_goes(tmp_path):
    train, heldout = numbered([*good(), POOR[4]]), numbered([good()[2], POOR[5]])
    looked = report(train, heldout=heldout)
    cleaned = clean(looked, "suggested", to=tmp_path / "clean.jsonl")
    assert [(each.cure, each.names) for each in cleaned.applied] == [("drop_leaks", ("row 3", "row 13"))]  # fmt: skip
    assert report(cleaned.path, heldout=heldout).of("leaks") is None


def test_of_two_that_are_alike_on_both_sides_one_is_kept(tmp_path):
    rows = numbered([*good(60), *(chat(f"user: {LONG} {n} here", f"assistant: {LONG}.") for n in range(30))])  # fmt: skip
    looked = report(rows, heldout_share=0.2)
    assert looked.of("leaks").count
    cleaned = clean(looked, ["drop_near_duplicates", "drop_leaks"], to=tmp_path / "clean.jsonl")
    assert cleaned.applied[0].rows == 29
    assert sum("word1 and" in line for line in cleaned.path.read_text().splitlines()) == 1


CALLS = '[{"name": "pay", "arguments": {"card": 4111111111111111, "to": "ada@firm.org", "note": "say \\"hi\\" to AKIAIOSFODNN7EXAMPLE"}}]'


def test_tool_calls_stay_json(tmp_path):
    turns = (
        Message("user", "Pay."),
        Message("assistant", "", tool_calls=CALLS),
        Message("tool", "ok"),
    )
    rows = numbered([*good(), Row(0, (*turns, Message("assistant", "It is paid.")))])
    cleaned = clean(rows, ["mask_secrets", "mask_personal"], to=tmp_path / "clean.jsonl")
    (call,) = json.loads(read(cleaned.path)[-1].messages[1].tool_calls)
    assert call["arguments"] == {"card": "[removed]", "to": "[removed]", "note": 'say "hi" to [removed]'}  # fmt: skip


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["drop_duplicate"], "There is no cure drop_duplicate. Did you mean drop_duplicates?"),
        (
            ["drop_cut"],
            "drop_cut cannot be applied: no tokens were counted. Give a report that has a tokenizer.",
        ),
        (
            ["drop_duplicates"],
            "1 row of train.jsonl cannot be read, and so not be written. Mend them, or add drop_faulty to the cures.",
        ),
    ],
)
def test_what_cannot_be_applied_is_refused(tmp_path, chosen, message):
    path = tmp_path / "train.jsonl"
    write([{"messages": row.turns()} for row in good()], path)
    if chosen == ["drop_duplicates"]:
        path.write_text(path.read_text() + "no JSON\n")
    with pytest.raises(DataError) as error:
        clean(path, chosen, to=tmp_path / "clean.jsonl")
    assert str(error.value) == message
    assert not (tmp_path / "clean.jsonl").exists()


def test_the_source_is_never_written_over(tmp_path):
    path = tmp_path / "train.jsonl"
    write([{"messages": row.turns()} for row in good()], path)
    source = path.read_bytes()
    (tmp_path / "link.jsonl").symlink_to(path)
    tries = {
        tmp_path / "train.jsonl": f"{path} is the file that the rows come from.",
        tmp_path / "link.jsonl": f"{tmp_path / 'link.jsonl'} is the file that the rows come from.",
    }
    for to, fact in tries.items():
        with pytest.raises(DataError) as error:
            clean(path, ["drop_duplicates"], to=to)
        assert str(error.value) == f"{fact} Give another path; the source is kept."
    with pytest.raises(DataError, match="has the name of a file that the rows come from"):
        clean(read(path), ["drop_duplicates"], to=path)
    with pytest.raises(DataError, match="would lie in the folder that the rows come from"):
        clean(tmp_path, ["drop_faulty"], to=tmp_path / "new.jsonl")
    assert path.read_bytes() == source and not (tmp_path / "new.jsonl").exists()


def test_a_file_without_rows_is_not_written(tmp_path):
    rows = numbered([chat("user: Who?", "assistant: "), chat("user: Why?", "assistant: ")])
    with pytest.raises(DataError) as error:
        clean(rows, ["drop_empty"], to=tmp_path / "clean.jsonl")
    assert str(error.value) == "drop_empty would leave none of the 2 rows. Choose fewer cures."
    assert not (tmp_path / "clean.jsonl").exists()


def test_a_change_is_shown_with_few_words_around_and_nothing_a_terminal_obeys():
    before = chat(f"user: {LONG} \x1b[2J {LONG}", "assistant: ok", "user: Why?")
    shown = difference(before, cures.drop_last_user_turn(before))
    assert shown == "… word29 and assistant: ok [-user: Why?-]"
    before = chat("user: \x1b[2J", "user: Who?", "assistant: Ada")
    assert "\x1b" not in difference(before, cures.merge_turns(before))


def test_text_is_masked_too(tmp_path):
    rows = [Row(number, text=f"Line {number} {KEY}") for number in range(1, 30)]
    cleaned = clean(rows, "suggested", to=tmp_path / "clean.jsonl", heldout_share=0)
    assert json.loads(cleaned.path.read_text().splitlines()[0]) == {"text": "Line 1 [removed]"}
    assert cleaned.applied[0].examples[0] == "row 1: Line 1 [-AKIA…MPLE-] {+[removed]+}"
