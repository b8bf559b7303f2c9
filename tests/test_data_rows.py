"""A row by itself: what it says, how it is named and kept, and which rows say the same."""

import json

from hypothesis import given
from hypothesis import strategies as st

from workbench.data.rows import Message, Row, as_record, from_json, named, to_json

TALK = Row(
    7,
    (
        Message("system", "Be brief."),
        Message("user", "What time is it?"),
        Message("assistant", "", "I must look.", '[{"name": "clock", "arguments": {}, "id": "1"}]'),
        Message("tool", "Noon", name="clock", call_id="1"),
        Message("assistant", "Noon."),
        Message("user", "Thanks"),
    ),
    tools='[{"type": "function", "function": {"name": "clock"}}]',
    file="b.csv",
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
messages = st.builds(Message, st.sampled_from(["user", "assistant"]), texts, texts, texts, texts)
rows = st.builds(Row, st.just(1), st.lists(messages, max_size=4).map(tuple), texts, texts)


def test_the_prompt_ends_where_the_last_answer_begins():
    assert TALK.answer == "Noon."
    assert TALK.prompt == TALK.messages[:4]
    raw = Row(1, text="Once")
    assert (raw.prompt, raw.answer) == ((), "")


def test_a_row_is_named_with_its_file_where_there_are_several():
    assert TALK.name == "row 7 of b.csv"
    assert Row(73_412).name == "row 73,412"
    assert named([7]) == "row 7"
    assert named([1, 2, 3, 4_000, 5]) == "rows 1, 2, 3 and 2 more"


@given(rows)
def test_what_is_kept_comes_back_as_it_was(row: Row):
    assert from_json(to_json(row), row.number, row.file) == row


def test_a_row_as_a_record_says_the_same_in_the_usual_form():
    assert as_record(Row(1, text="Once")) == {"text": "Once"}
    record = as_record(TALK)
    assert record["tools"] == [{"type": "function", "function": {"name": "clock"}}]
    assert record["messages"][0] == {"role": "system", "content": "Be brief."}
    assert record["messages"][2] == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "I must look.",
        "tool_calls": [
            {"type": "function", "function": {"name": "clock", "arguments": {}}, "id": "1"}
        ],
    }
    assert record["messages"][3]["tool_call_id"] == "1"
    assert json.loads(json.dumps(record)) == record


def test_rows_say_the_same_letter_by_letter_whatever_their_place():
    def said(*parts: str) -> Row:
        roles = ("user", "assistant") * 2
        return Row(1, tuple(map(Message, roles, parts)))

    key = said("Hello there", "Straße").content_key()
    assert key == said("Hello there", "Straße")._replace(number=9, file="b").content_key()
    assert 0 <= key < 2**64
    others = [
        said("hello there", "Straße"),
        said("Hello  there", "Straße"),
        said("Hello", "there Straße"),
        said("Hellothere", "Straße"),
        said("Hello there", "Strasse."),
        said("Hello there", "Straße", ""),
        Row(1, text="Hello there Straße"),
        said("Hello there", "Straße")._replace(tools="[]"),
    ]
    assert len({row.content_key() for row in others} | {key}) == len(others) + 1
