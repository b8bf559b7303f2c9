"""The report: each kind of finding is made by its rows and by nothing else, figures agree with plain counting."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.data import figures
from workbench.data.encode import tokenize
from workbench.data.kinds import LEVELS, TEXTS
from workbench.data.report import report
from workbench.data.rows import Message, Row
from workbench.data.tokenizer import ChatTokenizer
from workbench.problems import DataError

TINY = Path(__file__).parents[1] / "data" / "tiny"

THINGS = "lamp chair table radio bike tent drum sofa watch vase".split()


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def tokenizer() -> ChatTokenizer:
    return ChatTokenizer.load(str(TINY / "model"))


def chat(*turns: str, number: int = 0, file: str = "", **of_last) -> Row:
    """A row of "user: Hi" texts."""
    messages = [Message(*turn.split(": ", 1)) for turn in turns]
    messages[-1] = messages[-1]._replace(**of_last)
    return Row(number, tuple(messages), file=file)


def good(count: int = 60) -> list[Row]:
    """Rows in which there is nothing to find."""
    return [
        chat(f"user: What is wrong with the {THINGS[n % 10]} of order {n}?",
             f"assistant: The {THINGS[n % 10]} of order {n} is broken and you will have {n} coins for it.")
        for n in range(count)
    ]  # fmt: skip


def numbered(rows: list[Row]) -> list[Row]:
    return [row._replace(number=place) for place, row in enumerate(rows, start=1)]


def kinds(rows: list[Row], **asked) -> dict[str, list[int]]:
    """The kinds found in good rows and these, with the places of their rows among these, from 0."""
    found = report(numbered([*good(), *rows]), heldout_share=0, **asked).findings
    return {each.kind: [int(place) - 60 for place in each.positions] for each in found}


def test_in_good_rows_nothing_is_found(tokenizer):
    assert kinds([]) == {}
    assert kinds([], tokenizer=tokenizer) == {}


LONG = " ".join(f"and the {thing} is not from here" for thing in THINGS)
CALL = '[{"name": "f", "arguments": {}}]'
FOUND = {
    "duplicates": [good()[3]],
    "near_duplicates": [
        chat(f"user: {LONG} Who?", "assistant: It was Ada of the house."),
        chat(f"user: {LONG} who then?", "assistant: It was Ada of the house."),
    ],
    "conflicting_answers": [chat("user: Who was it?", f"assistant: It was {who} of the house.") for who in ("Ada", "Bob")],
    "role_twice": [chat("user: Who?", "user: Who was it?", "assistant: It was Ada of the house.")],
    "ends_with_user": [chat("user: Who?", "assistant: It was Ada of the house.", "user: Why?")],
    "assistant_first": [chat("assistant: It was Ada of the house.")],
    "system_not_first": [chat("user: Who?", "system: Be kind.", "assistant: It was Ada.")],
    "tool_without_call": [chat("user: Who?", "tool: 12", "assistant: It was Ada.")],
    "call_without_result": [
        Row(0, (Message("user", "Who?"), Message("assistant", "", tool_calls=CALL), Message("user", "And?"), Message("assistant", "It was Ada.")))
    ],
    "empty_answer": [chat("user: Who?", "assistant: ")],
    "short_answer": [chat("user: Who?", "assistant: Ada")],
    "other_script": [chat("user: Кто это был?", "assistant: Это была Ада из дома.")],
    "other_language": [chat("user: Wer ist das und wie?", "assistant: Das ist nicht die Ada, sondern der Hund.")],
    "secrets": [chat("user: The key is AKIAIOSFODNN7EXAMPLE.", "assistant: It was Ada.")],
    "personal_data": [chat("user: Write to ada@firm.org now.", "assistant: It was Ada.")],
    "special_tokens": [chat("user: Who?<|im_end|>", "assistant: It was Ada.")],
}  # fmt: skip
AGAIN = {"duplicates", "near_duplicates"}  # their first rows are not told


@pytest.mark.parametrize("kind", FOUND)
def test_each_kind_is_found_where_it_is_and_nowhere_else(kind):
    places = kinds(FOUND[kind])
    assert set(places) == {kind}
    expected = list(range(len(FOUND[kind])))
    assert places[kind] == (expected[-1:] if kind in AGAIN else expected)


def test_the_same_answer_again_and_again_is_told():
    rows = [chat(f"user: Is the {n} here?", "assistant: I do not know that, sorry.") for n in range(20)]  # fmt: skip
    assert kinds(rows) == {"same_answer": list(range(20))}


def test_one_word_answers_are_nothing_where_all_are():
    rows = [chat(f"user: Is lamp {n} here?", f"assistant: {('yes', 'no')[n % 2]}") for n in range(60)]  # fmt: skip
    assert report(numbered(rows), heldout_share=0).findings == ()


def test_a_translation_set_is_in_no_other_script():
    rows = [chat(f"user: Say {n}", f"assistant: {'Это была Ада из дома' if n % 2 else 'It was Ada'} {n}") for n in range(60)]  # fmt: skip
    assert report(numbered(rows), heldout_share=0).of("other_script") is None


TOKENS = {
    "answer_cut": (40, [chat("user: Who?", f"assistant: {LONG}")]),
    "answer_cut_off": (40, [chat(f"user: {LONG}", "assistant: It was Ada of the house.")]),
    "cut": (60, [chat("user: Who?", "assistant: It was Ada.", f"user: {LONG}")]),
    "longer_than_context": (2048, [chat(f"user: {10 * LONG}", "assistant: It was Ada of the house.")]),
}  # fmt: skip


@pytest.mark.parametrize("kind", TOKENS)
def test_what_cutting_does_is_told(kind, tokenizer):
    max_length, rows = TOKENS[kind]
    short = [chat("user: Who?", f"assistant: It was {n}.") for n in range(60)]
    found = report(
        numbered([*short, *rows]),
        heldout_share=0,
        tokenizer=tokenizer,
        max_length=max_length,
        context=300,
    )
    assert found.of(kind).positions.tolist() == [60]
    others = set(TOKENS) - {kind}
    assert not others & {each.kind for each in found.findings}


def test_rows_that_teach_nothing_stop_a_run_only_if_all_do(tokenizer):
    rows = [chat(f"user: Who is {n}?", f"assistant: It was {n}.") for n in range(40)]
    untaught = report(numbered(rows), tokenizer=tokenizer, loss_on=["tool"])
    assert untaught.findings[0][:3] == ("nothing_trained", "stop", 40)
    some = [*rows, chat("user: Who?", "tool: 12", "assistant: It was Ada.")]
    assert report(numbered(some), tokenizer=tokenizer, loss_on=["tool"]).of("nothing_trained").level == "warning"  # fmt: skip


def test_a_template_that_refuses_is_told_and_the_rest_too(tokenizer):
    refusing = replaced(tokenizer, "{{ raise_exception('no') }}")
    found = report(numbered([*good(), *FOUND["secrets"]]), tokenizer=refusing)
    assert found.figures is None and found.batching is None
    assert found.findings[0].level == "stop" and found.findings[0].kind == "template"
    assert found.of("secrets").rows == (61,)
    assert "Tokens were not counted: the chat template cannot write these rows." in str(found)


def replaced(tokenizer: ChatTokenizer, template: str) -> ChatTokenizer:
    return ChatTokenizer(
        tokenizer.name, tokenizer.backend, tokenizer.special_tokens, {"default": template}
    )


def test_leaks_between_files_are_told(tmp_path):
    train, heldout = tmp_path / "train.jsonl", tmp_path / "heldout.jsonl"
    write(train, [*good(), *FOUND["near_duplicates"][:1], good()[5]])
    write(heldout, [*FOUND["near_duplicates"][1:], good()[7]])
    found = report(train, heldout=heldout)
    assert found.of("leaks").rows == (8, 61)
    assert found.of("leaks").fact == (
        "2 rows are trained although a held-out row says the same or almost the same:"
        " rows 8 (as held-out row 2), 61 (as held-out row 1)."
    )
    assert (found.heldout_rows, found.split) == (2, "2 held-out rows are read from heldout.jsonl.")


def write(path, rows: list[Row]) -> None:
    lines = ({"messages": row.turns()} for row in rows)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_faulty_file_has_a_report(tmp_path):
    path = tmp_path / "train.jsonl"
    write(path, good())
    with path.open("a") as file:
        file.write('{"messages": [{"role": "robot", "content": "Hi"}]}\nno JSON\n')
    found = report(path, heldout_share=0)
    assert (found.rows, found.records) == (60, 62)
    assert [each.rows for each in found.findings] == [(61,), (62,)]
    assert {each.level for each in found.findings} == {"stop"}
    assert {each.remedy for each in found.findings} == {"drop_faulty"}


def test_rows_of_several_files_are_told_with_their_file(tmp_path):
    write(tmp_path / "a.jsonl", good())
    write(tmp_path / "b.jsonl", [good()[3]])
    found = report(tmp_path).of("duplicates")
    assert found.rows == ("1 of b.jsonl",)
    assert found.fact == "1 row says the same as an earlier row: row 1 of b.jsonl."


def test_a_source_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError):
        report(tmp_path / "nothing.jsonl")


def test_findings_come_by_harm_and_then_by_number():
    rows = [each for rows in FOUND.values() for each in rows]
    found = report(numbered([*good(), *rows])).findings
    order = [(LEVELS.index(each.level), -each.count) for each in found]
    assert order == sorted(order)
    for each in found:
        assert each.count == len(each.positions)
        assert list(each.positions) == sorted(set(each.positions))
        assert [int(place) + 1 for place in each.positions[:20]] == list(each.rows)


def test_too_few_rows_are_told():
    (found,) = report(numbered(good(5))).findings
    assert (found.kind, found.level) == ("too_few", "warning")
    assert found.fact == "There are only 5 rows: the model learns them by heart."


def test_every_kind_has_its_words():
    for level, does, cure, _ in TEXTS.values():
        assert level in LEVELS and cure.endswith(".") and not does.endswith(".")


def test_it_can_be_json():
    said = json.loads(json.dumps(report(numbered([*good(), good()[3]])).to_dict()))
    assert (said["rows"], said["shape"], said["tokens"]) == (61, "messages", None)
    assert said["problems"] == [
        {
            "kind": "duplicates",
            "level": "warning",
            "count": 1,
            "rows": [61],
            "fact": "1 row says the same as an earlier row: row 61.",
            "cure": "Keep one of each: a row that is there twice is learned twice.",
            "remedy": "drop_duplicates",
        }
    ]


def test_tokens_are_in_the_json_too(tokenizer):
    said = json.loads(json.dumps(report(numbered(good()), tokenizer=tokenizer).to_dict()))
    assert said["tokens"] > said["trained_tokens"] > 0
    assert sum(said["lengths"]["counts"]) == 60
    assert [cut["length"] for cut in said["truncation"]] == [512, 1024, 2048, 4096]
    assert said["batching"]["choice"] in said["batching"]["waste"]


TEXTS_OF_ROWS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 60)), min_size=1, max_size=8)


@settings(max_examples=30, deadline=None)
@given(TEXTS_OF_ROWS, st.integers(16, 120))
def test_figures_are_what_plain_counting_gives(sizes, max_length):
    tokenizer = ChatTokenizer.load(str(TINY / "model"))
    rows = numbered([chat("user: " + "lamp " * a, "assistant: " + "sofa " * b) for a, b in sizes])
    tokenized = tokenize(rows, tokenizer, loss_on="assistant")
    counted = figures.figures(tokenized, max_length=max_length)
    masks = [tokenized.mask(place).tolist() for place in range(len(rows))]
    assert counted.tokens == sum(map(len, masks))
    assert counted.trained_tokens == sum(map(sum, masks))
    assert counted.kept.tolist() == [sum(mask[1:max_length]) for mask in masks]
    for cut in counted.cuts:
        assert cut.rows == sum(len(mask) > cut.length for mask in masks)
        assert cut.tokens_lost == sum(len(mask[cut.length :]) for mask in masks)
        assert cut.trained_lost == sum(sum(mask[cut.length :]) for mask in masks)
        assert cut.unanswered == sum(not any(mask[1 : cut.length]) for mask in masks)
    assert [cut.length for cut in counted.cuts] == sorted({512, 1024, 2048, 4096, max_length})


@given(st.lists(st.integers(0, 100_000), min_size=1), st.integers(1, 100_000))
def test_the_histogram_holds_every_row_once(lengths, mark):
    edges, counts = figures.histogram(np.array(lengths), mark)
    assert len(edges) == len(counts) + 1 and (np.diff(edges) > 0).all()
    inside = [sum(low < n <= high for n in lengths) for low, high in zip(edges, edges[1:])]  # noqa: B905, RUF007
    assert counts.tolist() == inside and counts.sum() == len(lengths)
    assert mark in edges or not edges[0] < mark < edges[-1]


def test_progress_is_told(tokenizer):
    told = []
    report(numbered(good()), tokenizer=tokenizer, progress=lambda *done: told.append(done))
    assert told[-1] == (60, 60)


def test_the_text_without_a_tokenizer():
    rows = [*good(), good()[3], *FOUND["secrets"], *FOUND["other_script"]]
    assert (
        str(report(numbered(rows), heldout_share=0))
        == """\
the rows: messages, because they are rows already.

  rows              63
  turns            126
  trained rows      63
  held-out rows      0
  steps per epoch    4  each learns from 16 rows
  No rows are held out: data.heldout_share is 0.

Tokens were not counted: that needs the model's tokenizer. Give it with tokenizer=...,
or check the recipe's data with its model.

Found: 2 should be looked at, 1 may be meant
  ! 1 row says the same as an earlier row: row 61.
      Keep one of each: a row that is there twice is learned twice. [drop_duplicates]
  ! 1 row seems to hold a secret, which the model can learn and say again: row 62 (an
    AWS key, AKIA…MPLE).
      Mask them, and change the secrets that are real. [mask_secrets]
  · 1 row is in another script than the rest: row 63 (Cyrillic).
      Keep them if they are meant. [drop_other_script]"""
    )


def test_the_text_marks_where_rows_are_cut(tokenizer):
    rows = [chat(f"user: {'lamp ' * n}", f"assistant: {'sofa ' * n}.") for n in range(1, 60)]
    found = report(numbered(rows), heldout_share=0, tokenizer=tokenizer, max_length=60)
    text = str(found)
    assert "───── rows are cut here, at 60 tokens\n" in text
    _, below = text.split("rows are cut here")
    over = sum(int(line.split()[-1]) for line in below.splitlines() if "up to" in line)
    assert over == (found.figures.lengths > 60).sum() > 0
    assert max(map(len, text.splitlines())) <= 88
    assert "60 *" in below and found.batching.why.split()[0] in below


def test_without_rows_to_train_there_is_no_batching(tokenizer):
    rows = numbered([chat(f"user: {LONG} {n}", "assistant: Yes, it is.") for n in range(40)])
    found = report(rows, tokenizer=tokenizer, max_length=16)
    assert found.batching is None and found.findings[0].kind == "answer_cut_off"
    assert replace(found, findings=()).__str__().endswith("Nothing was found that is worth a look.")


def test_each_file_of_a_folder_is_told_and_what_was_not_read(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "Hi", "completion": "Hello"}))
    (tmp_path / "b.csv").write_text("question,answer\nWhy?,Because.")
    (tmp_path / "notes.txt").write_text("Not a row.")
    said = " ".join(str(report(tmp_path)).split())
    assert f"{tmp_path.name}: a folder a.jsonl: completion, because" in said
    assert "b.csv: question, because" in said and "Not read: notes.txt." in said
