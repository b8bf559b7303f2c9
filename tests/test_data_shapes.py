"""Shapes: what is detected and why, what a record becomes, and that nothing in it is changed."""

import json
import re
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.data.faults import Fault
from workbench.data.rows import Message, Row, from_json, to_json
from workbench.data.shapes import LOOKED, Shape, detect, to_row
from workbench.problems import DataError
from workbench.recipe import Shape as RecipeShape

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
CHAT = {"messages": [USER, ANSWER]}
HI = (Message("user", "Hi"), Message("assistant", "Hello"))
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
SHAPES = (
    "messages; conversations; prompt and completion; instruction, output and if needed input and"
    " system; question and answer; text"
)


def read(record: object, *, system: str | None = None, **how: object) -> Row:
    return to_row(record, detect([record], **how), 7, file="a.jsonl", system=system)


def wrong(record: object, like: dict = CHAT, **how: object) -> tuple[str, str]:
    """The fault of a record among others like `like`: the sentence, and its kind."""
    with pytest.raises(Fault) as caught:
        to_row(record, detect([like], **how), 1)
    return f"{caught.value.fact}. {caught.value.cure}", caught.value.kind


def refused(*records: object, **how: object) -> str:
    with pytest.raises(DataError) as caught:
        detect(records, **how)
    return str(caught.value)


# What is read


@pytest.mark.parametrize(
    ("record", "shape"),
    [
        (CHAT, "messages"),
        ({"messages": json.dumps(CHAT["messages"])}, "messages"),
        ({"messages": (USER, ANSWER), "system": "", "source": "extra keys"}, "messages"),
        ({"dialogue": [USER, ANSWER], "id": "x"}, "messages"),
        (
            {"messages": [USER | {"id": 3}, ANSWER | {"weight": 1, "tool_calls": None}]},
            "messages",
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Hi"},
                    {"from": "GPT", "value": "Hello"},
                ]
            },
            "conversations",
        ),
        ({"conversations": [USER, ANSWER]}, "messages"),
        (
            {"messages": [{"from": "user", "value": "Hi"}, {"from": "bot", "value": "Hello"}]},
            "conversations",
        ),
        (
            {"turns": [{"role": "Human", "content": "Hi"}, {"role": "AI", "content": "Hello"}]},
            "conversations",
        ),
        ({"prompt": "Hi", "completion": "Hello"}, "completion"),
        ({"prompt": "Hi", "response": "Hello"}, "completion"),
        ({"Prompt": "Hi", "Answer": "Hello"}, "completion"),
        ({"input": "Hi", "output": "Hello"}, "completion"),
        ({"prompt": [USER], "completion": [ANSWER]}, "completion"),
        ({"prompt": [USER], "completion": "Hello"}, "completion"),
        ({"instruction": "Hi", "output": "Hello"}, "alpaca"),
        ({"instruction": "Hi", "input": " ", "response": "Hello", "system": None}, "alpaca"),
        ({"instruction": "Hi", "input": "", "output": "Hello", "text": "Hi Hello"}, "alpaca"),
        ({"question": "Hi", "answer": "Hello"}, "question"),
        ({"query": "Hi", "response": "Hello"}, "question"),
        ({"q": "Hi", "a": "Hello"}, "question"),
        ({"question": "Hi", "context": None, "answers": {"text": ["Hello", "Hey"]}}, "question"),
        ({"question": "Hi", "answer": ["Hello", "Hey"]}, "question"),
    ],
)
def test_every_shape_gives_the_same_conversation(record, shape):
    assert detect([record]).name == shape
    row = read(record)
    assert row == Row(7, HI, file="a.jsonl")
    assert read(record, shape=shape) == row


@pytest.mark.parametrize(
    ("names", "role"),
    [
        ("human user Prompter CUSTOMER instruction input question", "user"),
        ("gpt assistant bot chatgpt model ai chatbot output answer response", "assistant"),
        ("system system_prompt developer", "system"),
        ("tool function observation function_response", "tool"),
    ],
)
def test_roles_go_by_many_names_in_sharegpt(names, role):
    for name in names.split():
        turns = [{"from": "gpt", "value": "a"}, {"from": name, "value": "b"}]
        assert read({"conversations": turns}).messages[1] == Message(role, "b")


def test_roles_of_openai_are_four():
    turns = [{"role": "developer", "content": "s"}, USER, ANSWER]
    turns += [{"role": role, "content": "t", "name": "add"} for role in ("tool", "function")]
    assert [message.role for message in read({"messages": turns}).messages] == [
        "system", "user", "assistant", "tool", "tool",
    ]  # fmt: skip


def test_alpaca_puts_history_first_and_input_below_the_instruction():
    record = {"instruction": "Add", "input": "1 + 1", "output": "2", "system": "Be brief."}
    asked = (Message("system", "Be brief."), Message("user", "Add\n\n1 + 1"))
    assert read(record).prompt == asked
    record["history"] = [["a", "b"], ["c", "d"]]
    past = [Message("user", "a"), Message("assistant", "b")]
    past += [Message("user", "c"), Message("assistant", "d")]
    assert read(record).prompt == (asked[0], *past, asked[1])
    with_context = {"instruction": "Add", "context": "1 + 1", "response": "2"}
    assert read(with_context).prompt == asked[1:]


def test_a_context_stands_before_the_question():
    record = {"context": "It is red.", "question": "Which?", "answer": "Red"}
    assert read(record).messages[0].content == "It is red.\n\nWhich?"


def test_the_columns_system_and_the_setting_come_first_where_there_is_none():
    column, setting = Message("system", "column"), Message("system", "setting")
    for name in ("system", "system_prompt"):
        for record in (CHAT, {"prompt": "Hi", "completion": "Hello"}, {"q": "Hi", "a": "Hello"}):
            assert read(record | {name: "column"}).messages == (column, *HI)
            assert read(record | {name: "column"}, system="setting").messages == (column, *HI)
            assert read(record | {name: ""}, system="setting").messages == (setting, *HI)
    twice = {
        "system": "column",
        "messages": [{"role": "system", "content": "column"}, *CHAT["messages"]],
    }
    assert read(twice).messages == (column, *HI)
    assert wrong(twice | {"system": "other"}, like=twice) == (
        "its column system and its system turn do not say the same. Keep one of them.",
        "role_order",
    )
    assert read({"text": "Hi"}, system="setting") == Row(7, text="Hi", file="a.jsonl")


def test_content_in_parts_is_put_together():
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    assert read({"messages": [USER | {"content": parts}, ANSWER]}).messages == HI


@pytest.mark.parametrize("column", ["text", "content", "body", "story"])
def test_raw_text_is_one_column(column):
    record = {column: " Once\r\n", "number": 3}
    assert detect([record]).name == "text"
    assert read(record) == Row(7, text=" Once\r\n", file="a.jsonl")


# Tools and reasoning


@pytest.mark.parametrize(
    "said",
    [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "tool_calls": [{"id": "c1", "name": "add", "arguments": {"a": 1}}]},
        {"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])},
        {
            "role": "assistant",
            "function_call": {"name": "add", "arguments": '{"a": 1}', "id": "c1"},
        },
        {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}, "id": "c1"}'},
        {"from": "function_call", "value": json.dumps([CALL])},
    ],
)
def test_tool_calls_in_every_form_are_the_same(said):
    result = {"role": "tool", "content": "", "name": "add", "tool_call_id": "c1"}
    tool = {"name": "add", "parameters": {}}
    wrapped = {"type": "function", "function": tool}
    row = read({"messages": [USER, said, result, ANSWER], "tools": [wrapped]})
    calls = [{"name": "add", "arguments": {"a": 1}, "id": "c1"}]
    assert json.loads(row.messages[1].tool_calls) == calls
    assert row.messages[1]._replace(tool_calls="") == Message("assistant", "")
    assert row.messages[2] == Message("tool", "", name="add", call_id="c1")
    assert row.messages[3] == HI[1]
    assert from_json(to_json(row), 7, "a.jsonl") == row
    for tools in ({"tools": [tool]}, {"functions": [tool]}, {"tools": json.dumps([wrapped])}):
        other = read({"messages": [USER, said, result, ANSWER]} | tools)
        assert other == row
        assert json.loads(other.tools) == [wrapped]


@pytest.mark.parametrize("none", [None, [], "", "[]"])
def test_no_tools_are_no_tools(none):
    assert read(CHAT | {"tools": none}).messages == HI
    assert read(CHAT | {"tools": none}).tools == ""


def test_tools_stand_beside_prompts_of_turns_too_but_not_beside_texts():
    tools = [{"type": "function", "function": {"name": "add"}}]
    record = {"prompt": [USER], "completion": [ANSWER], "tools": tools}
    assert json.loads(read(record).tools) == tools
    assert read({"prompt": "Hi", "completion": "Hello", "tools": "hammer"}).tools == ""


def test_reasoning_in_a_field_is_kept_apart_and_in_the_text_it_stays():
    for key in ("reasoning_content", "reasoning", "thinking"):
        row = read({"messages": [USER, ANSWER | {key: " Well.\n"}]})
        assert row.messages[1] == Message("assistant", "Hello", reasoning=" Well.\n")
    inline = "<think>Well.</think>\n\nHello"
    assert read({"messages": [USER, ANSWER | {"content": inline}]}).answer == inline
    two = {"messages": [USER, ANSWER | {"reasoning": "a", "thinking": "b"}]}
    assert wrong(two)[0] == (
        "messages[1] has reasoning under two names, and it is not the same. Keep reasoning_content alone."
    )


# Column maps


def mapped(record: dict, **columns: str) -> tuple[str, ...]:
    return tuple(message.content for message in read(record, columns=columns).messages)


def test_a_map_makes_rows_of_any_table():
    record = {"title": "T", "body": "B", "label": 1, "ok": True, "tags": ["é"], "share": 0.5}
    assert mapped(record, prompt="{title}\n\n{body}", completion="label") == ("T\n\nB", "1")
    assert mapped(record, prompt="{ok} {share}", completion="{tags}") == ("true 0.5", '["é"]')
    assert mapped(record, prompt='{{"x": {title}}}', completion="title") == ('{"x": T}', "T")
    assert mapped(record, prompt="Say it.", completion="{title}", system="Be a {label}.") == (
        "Be a 1.", "Say it.", "T",
    )  # fmt: skip
    row = read(record, columns={"text": "# {title}\n{body}"})
    assert row == Row(7, text="# T\nB", file="a.jsonl")


@pytest.mark.parametrize(
    ("template", "made"),
    [
        ("{a}\n\n{none}", "A"),
        ("{none}\n\n{a}", "A"),
        ("{a}\n\n{none}\n\n{b}", "A\n\n\nB\n"),
        ("{a}\n{none}\n\n{b}", "A\n\n\nB\n"),
        ("{none}\n\n{empty}\n\n{a}", "A"),
        ("{a}\n\n{none}\n\n{empty}", "A"),
        ("{a}\n\n{none}\n\n{empty}\n\n{a}", "A\n\nA"),
        ("{a}\n\nInput: {none}\n\n{a}", "A\n\nInput: \n\nA"),
        ("{a}\n\n{none}\n\nAnswer:", "A\n\nAnswer:"),
        ("Task:\n{none}\n\n{a}", "Task:\n\nA"),
        ("{b}\n\n{none}\n\n{b}", "\nB\n\n\n\nB\n"),
        ("{a}{none}{a}", "AA"),
    ],
)
def test_an_empty_part_takes_its_blank_lines_along_and_no_others(template, made):
    record = {"a": "A", "b": "\nB\n", "none": None, "empty": ""}
    assert mapped(record, prompt=template, completion="a") == (made, "A")


def test_a_part_of_empty_columns_is_empty_whatever_stands_around_them():
    record = {"a": "A", "b": "B", "s": "S"}
    how = {"columns": {"prompt": "Q: {a}", "completion": "A: {b}", "system": "Be {s}."}}
    assert wrong(record | {"b": None}, record, **how) == (
        "completion is empty. Fill it, or remove the row.",
        "empty_answer",
    )
    assert wrong(record | {"a": ""}, record, **how) == (
        "prompt is empty. Fill it, or remove the row.",
        "empty_turn",
    )
    assert wrong(record | {"b": float("nan")}, record, **how)[1] == "empty_answer"
    without = to_row(record | {"s": None}, detect([record], **how), 1)
    assert [message.role for message in without.messages] == ["user", "assistant"]


def test_a_map_takes_lists_of_turns_as_they_are():
    record = {"prompt": [USER], "chosen": [ANSWER], "rejected": [ANSWER]}
    how = {"columns": {"prompt": "prompt", "completion": "{chosen}"}}
    assert read(record, **how).messages == HI


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (
            {"prompt": "{titel}", "completion": "body"},
            'data.columns.prompt names the column "titel", which the rows do not have.'
            " Did you mean title? There are title, body.",
        ),
        (
            {"prompt": "titel", "completion": "{x}"},
            'data.columns.prompt names the column "titel", which the rows do not have.'
            " Did you mean title? There are title, body.\n"
            'data.columns.completion names the column "x", which the rows do not have.'
            " There are title, body.",
        ),
        (
            {"prompt": '{"a": 1}', "completion": "body"},
            'data.columns.prompt names the column "\\"a\\": 1", which the rows do not have.'
            " Write {{ and }} for braces that are no columns. There are title, body.",
        ),
        (
            {"prompt": "{title", "completion": "body"},
            "data.columns.prompt has a { alone. Write {{ for the brace itself.",
        ),
        (
            {"prompt": " ", "completion": "body"},
            "data.columns.prompt is empty. Name a column in it: {column}.",
        ),
        (
            {"prompt": "title", "completion": "Always the same."},
            'data.columns.completion names the column "Always the same.", which the rows do not have.'
            " Write {{ and }} for braces that are no columns. There are title, body.",
        ),
        (
            {"prompt": "title", "completion": 3},
            "data.columns.completion is the number 3, not a text. Give a text with {column} names in it.",
        ),
        (
            {"prompt": "title"},
            "data.columns has prompt. Give prompt and completion (and system if wanted), or text alone.",
        ),
        (
            {"question": "title"},
            "data.columns names question. A row can be made of prompt, completion, system, text.",
        ),
    ],
)
def test_a_map_that_cannot_be_followed_is_refused(columns, says):
    assert refused({"title": "T", "body": "B"}, columns=columns) == says


def test_a_map_and_another_shape_contradict_each_other():
    assert refused({"a": "A"}, columns={"text": "a"}, shape="alpaca") == (
        "data.shape is alpaca, but data.columns makes rows of the shape text."
        " Leave data.shape at auto, or remove data.columns to read alpaca."
    )
    assert detect([{"a": "A"}], columns={"text": "a"}, shape="text").name == "text"


# Detection


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ([CHAT] * 800, "all 200 rows looked at have messages with role and content"),
        ([CHAT], "the only row has messages with role and content"),
        (
            [CHAT] * 3 + [{"prompt": "a", "completion": "b"}],
            "3 of 4 rows looked at have messages with role and content; 1 has prompt and completion",
        ),
        (
            [{"prompt": "a", "completion": "b"}] * 3 + [CHAT],
            "3 of 4 rows looked at have prompt and completion;"
            " 1 has messages with role and content",
        ),
        (
            [CHAT | {"text": "Hi Hello"}] * 2,
            "all 2 rows looked at have messages with role and content;"
            " text is there too, and not taken",
        ),
        (
            [{"instruction": "a", "input": "b", "output": "c"}] * 2,
            "all 2 rows looked at have instruction, input and output",
        ),
        (
            [{"question": "a", "answers": {"text": ["b"]}}] * 2,
            "all 2 rows looked at have question and answers (the first where there are several)",
        ),
        ([{"story": "a", "n": 1}] * 2, "all 2 rows looked at have text in story alone"),
    ],
)
def test_the_reason_is_told_in_a_sentence(records, why):
    assert detect(records).why == why


def test_rows_far_from_the_first_are_looked_at_too():
    odd = [{"prompt": "a", "completion": "b"}] * 190
    for more in (209, 210, 3_000):
        assert detect(odd + [CHAT] * more).name == "messages"
        assert detect([*odd, *odd[:more], CHAT]).name == "completion"
    assert len(seen_of(range(1, 10 * LOOKED))) <= LOOKED


def seen_of(numbers: range) -> set[str]:
    """The columns that the error names for records of one column each: those that were looked at."""
    said = refused(*({f"c{number}": number} for number in numbers))
    shown, more = re.findall(r"c\d+ \(", said), re.search(r"and (\d+) more", said)
    return {*shown, *map(str, range(int(more[1])))}


def test_the_richest_of_what_half_of_the_rows_have_is_taken():
    text = {"text": "Hi Hello"}
    assert detect([CHAT | text, CHAT | text, text, text]).name == "messages"
    assert detect([CHAT | text, text, text, text]).name == "text"
    few, many = {"a": CHAT["messages"]}, {"b": CHAT["messages"]}
    assert detect([few, many, many]).taken["messages"] == "b"
    assert detect([few | many, many]).taken["messages"] == "b"


def test_names_decide_where_no_value_fits_so_that_each_row_is_told():
    for value in ([], "Hi", None, 3):
        assert detect([{"messages": value}]).name == "messages"
    assert detect([{"prompt": None, "completion": None}]).name == "completion"
    assert detect([{"messages": [{"role": "nobody", "content": "x"}]}]).name == "messages"
    assert detect([{"messages": [USER, "Hi"]}]).name == "messages"
    assert refused({"prompt": "a"}).startswith("The rows have no known shape.")


@pytest.mark.parametrize(
    ("record", "late", "prompt"),
    [
        (CHAT, {"system": "s"}, ["s", "Hi"]),
        ({"instruction": "a", "output": "b"}, {"input": "i", "system": "s"}, ["s", "a\n\ni"]),
        ({"instruction": "a", "output": "b"}, {"history": [["q", "r"]]}, ["q", "r", "a"]),
        ({"question": "a", "answer": "b"}, {"context": "c"}, ["c\n\na"]),
        ({"prompt": "a", "completion": "b"}, {"system": "s"}, ["s", "a"]),
    ],
)
def test_optional_columns_count_although_the_rows_looked_at_have_none(record, late, prompt):
    row = to_row(record | late, detect([record]), 1)
    assert [message.content for message in row.prompt] == prompt


def test_null_columns_of_a_table_are_not_there():
    table = [CHAT | {"prompt": None, "completion": None}] + [
        {"messages": None, "prompt": "a", "completion": "b"}
    ] * 5
    assert detect(table).name == "completion"


def test_a_shape_is_plain_data():
    shape = detect([CHAT])
    assert Shape(*json.loads(json.dumps(shape))) == shape


def test_the_reason_of_a_map_and_of_a_given_shape():
    made = detect([{"a": "A", "b": "B"}], columns={"prompt": "{a} {b}", "completion": "b"})
    assert made.why == "data.columns makes prompt from a and b; completion from b"
    given = detect([CHAT | {"prompt": "a", "answer": "b"}], shape="completion")
    assert given.why == "data.shape says so, and the only row has prompt and answer"
    assert (given.taken["prompt"], given.taken["completion"]) == ("prompt", "answer")


def test_a_given_shape_that_the_rows_do_not_have_is_refused():
    assert refused({"question": "a", "answer": "b"}, shape="alpaca") == (
        "data.shape is alpaca, which needs instruction and output; the columns are question, answer."
        " Leave data.shape at auto, which would read them as question."
    )
    assert refused({"a": "b", "c": "d"}, shape="messages") == (
        "data.shape is messages, which needs a list of {role, content}; the columns are a, c."
        " Set data.columns to say which column is which."
    )


def test_a_table_of_no_known_shape_is_shown_with_a_map_for_it():
    record = {"id": 3, "title": "How to", "article": "x" * 50, "tags": ["a"], "none": None}
    assert refused(record) == (
        "The rows have no known shape. Their columns are: id (the number 3), title (the text 'How to'),"
        f" article (the text '{'x' * 40}...'), tags (a list), none (null)."
        " Say what a row is made of, such as data.columns = {'prompt': '{title}', 'completion': '{article}'}."
        f" Known without it are: {SHAPES}."
    )
    suggested = {"prompt": "{title}", "completion": "{article}"}
    assert detect([record], columns=suggested).name == "completion"
    many = {f"c{i}": i for i in range(30)}
    assert "c11 (the number 11) and 18 more." in refused(many)


def test_what_is_no_object_is_refused_as_a_whole():
    known = f"Known are: {SHAPES}."
    assert refused([1], [2]) == f"No row is an object: row 1 is a list. {known}"
    assert refused() == f"No row is an object: there are none. {known}"
    assert refused({}) == f"The rows have no known shape: their columns are none. {known}"


def test_pairs_of_answers_are_refused_with_the_way_to_use_them():
    fact = "The rows are pairs of a chosen and a rejected answer, which this training does not compare."
    texts = {"prompt": "a", "chosen": "b", "rejected": "c"}
    cure = "Learn the chosen answers: set data.columns to {'prompt': '{prompt}', 'completion': '{chosen}'}."
    assert refused(texts) == f"{fact} {cure}"
    assert mapped(texts, prompt="{prompt}", completion="{chosen}") == ("a", "b")
    chats = {"prompt": "Hi", "chosen": [USER, ANSWER], "rejected": [USER, USER]}
    assert (
        refused(chats) == f"{fact} Set data.shape to messages to learn the conversations in chosen."
    )
    assert read(chats, shape="messages").messages == HI
    assert refused(texts | {"prompt": [USER], "chosen": [ANSWER]}) == f"{fact} {cure}"
    assert read(chats | CHAT).messages == HI
    unanswered = {"conversations": [USER], "chosen": ANSWER, "rejected": ANSWER}
    assert refused(unanswered).startswith(fact)


# Faults


@pytest.mark.parametrize(
    ("turns", "says", "kind"),
    [
        ([USER], "it has no assistant turn, only user. Add the answer to learn, or remove the row.", "no_answer"),
        ([{"role": "bot", "content": "x"}], "messages[0] has the role 'bot'. Known are system, user, assistant, tool.", "unknown_role"),
        ([{"role": ["user"], "content": "x"}], "messages[0] has the role ['user']. Known are system, user, assistant, tool.", "unknown_role"),
        ([{"role": None, "content": "x"}], "messages[0] has the role null. Known are system, user, assistant, tool.", "unknown_role"),
        ([{"from": "narrator", "value": "x"}], "messages[0] has the role 'narrator'. Known are system, user, assistant, tool.", "unknown_role"),
        ([USER, {"role": "tool", "content": "x"}, ANSWER], "it has a tool's turn before any turn of the assistant. Put the call before it, or remove the row.", "role_order"),
        ([USER | {"tool_calls": [CALL]}, ANSWER], "messages[0] has the role 'user' and calls a tool. Only the assistant calls tools.", "role_order"),
        ([USER, ANSWER | {"content": " "}], "messages[1].content is empty. Fill it, or remove the row.", "empty_answer"),
        ([USER, {"from": "gpt", "value": ""}], "messages[1].value is empty. Fill it, or remove the row.", "empty_answer"),
        ([USER, ANSWER | {"content": None}], "messages[1].content is null, not a text. Fill it, or remove the row.", "empty_answer"),
        ([USER | {"content": ""}, ANSWER], "messages[0].content is empty. Fill it, or remove the row.", "empty_turn"),
        ([USER, ANSWER | {"content": 7}], "messages[1].content is the number 7, not a text. Make it a text.", "malformed"),
        ([USER, ANSWER | {"content": 10**5000}], "messages[1].content is the number of thousands of digits, not a text. Make it a text.", "malformed"),
        ([USER, ANSWER | {"content": {"a": 1}}], "messages[1].content is an object, not a text. Make it a text.", "malformed"),
        ("Hi", "messages is the text 'Hi', not a list of messages. Give a list of {role, content}.", "malformed"),
        ("[{", "messages is the text '[{', not a list of messages. Give a list of {role, content}.", "malformed"),
        (None, "messages is null, not a list of messages. Give a list of {role, content}.", "malformed"),
        ([], "messages is an empty list. Add its turns, or remove the row.", "no_answer"),
        (["Hi"], "messages[0] is the text 'Hi', not an object. Give {role, content}.", "malformed"),
        ([{"role": "user"}], "messages[0] has role, but no content. Give {role, content}.", "malformed"),
        ([{"content": "x"}], "messages[0] has content, but no role. Give {role, content}.", "malformed"),
        ([{}], "messages[0] has nothing, but no role and no content. Give {role, content}.", "malformed"),
        ([USER | {"content": [{"type": "image_url", "image_url": "x"}]}, ANSWER], "messages[0].content[0] is of the type 'image_url', not a text. Only texts can be learned from; remove the row.", "not_text"),
        ([USER | {"content": [{"type": "text", "text": None}]}, ANSWER], "messages[0].content[0] is null, not a text. Make it a text.", "malformed"),
        ([USER | {"content": []}, ANSWER], "messages[0].content is empty. Fill it, or remove the row.", "empty_turn"),
        ([USER, ANSWER | {"content": "x\ud83d"}], "messages[1].content holds \\ud83d, half of a character, at position 1. Remove it, or write the whole character.", "malformed"),
        ([USER, ANSWER | {"reasoning": ["a"]}], "messages[1].reasoning is a list, not a text. Make it a text.", "malformed"),
        ([USER, ANSWER | {"tool_calls": "{"}], "messages[1].tool_calls is the text '{', which is not valid JSON. Give an object, or JSON text.", "malformed"),
        ([USER, ANSWER | {"tool_calls": 3}], "messages[1].tool_calls is the number 3, not a list of calls. Give a list of {name, arguments}.", "malformed"),
        ([USER, ANSWER | {"tool_calls": [3]}], "messages[1].tool_calls[0] is the number 3, not an object. Give {name, arguments}.", "malformed"),
        ([USER, ANSWER | {"tool_calls": [{"name": "add", "arguments": "[1]"}]}], "messages[1].tool_calls[0].arguments is a list, not an object. Give its arguments by name.", "malformed"),
        ([USER, ANSWER | {"function_call": {"arguments": {}}}], "messages[1].function_call has no name. Give {name, arguments}.", "malformed"),
        ([USER, {"from": "function_call", "value": "add(1)"}], "messages[1].value is the text 'add(1)', which is not valid JSON. Give an object, or JSON text.", "malformed"),
        ([USER, ANSWER | {"tool_calls": [{"name": "\ud83d"}]}], "messages[1].tool_calls holds \\ud83d, half of a character, at position 11. Remove it, or write the whole character.", "malformed"),
        ([USER, ANSWER, {"role": "tool", "content": "x", "tool_call_id": [1]}], "messages[2].tool_call_id is a list, not a text. Make it a text.", "malformed"),
    ],
)  # fmt: skip
def test_a_conversation_that_is_none_is_named_with_place_and_cure(turns, says, kind):
    assert wrong({"messages": turns}) == (says, kind)


@pytest.mark.parametrize(
    ("record", "like", "says"),
    [
        ({"text": "Hi", "label": 1}, CHAT, "its columns are text, label; other rows have messages. Bring it into the same shape, or remove the row."),
        ({}, {"prompt": "a", "completion": "b"}, "its columns are none; other rows have prompt and completion. Bring it into the same shape, or remove the row."),
        ([1], CHAT, f"it is a list, not an object. Known are: {SHAPES}."),
        (None, {"text": "a"}, f"it is null, not an object. Known are: {SHAPES}."),
        ({"text": ""}, {"text": "a"}, "text is empty. Fill it, or remove the row."),
        ({"prompt": "a", "completion": 1.5}, {"prompt": "a", "completion": "b"}, "completion is the number 1.5, not a text. Make it a text."),
        ({"prompt": "x\ud83d", "completion": "b"}, {"prompt": "a", "completion": "b"}, "prompt holds \\ud83d, half of a character, at position 1. Remove it, or write the whole character."),
        ({"instruction": "a", "input": 5, "output": "b"}, {"instruction": "a", "input": "", "output": "b"}, "input is the number 5, not a text. Make it a text."),
        ({"instruction": "a", "history": [["b"]], "output": "c"}, {"instruction": "a", "history": [], "output": "b"}, "history[0] is not a pair of question and answer. Give [[question, answer], ...]."),
        ({"question": "a", "answers": {"text": []}}, {"question": "a", "answers": {}}, "answers.text is an empty list. Add the answer, or remove the row."),
        ({"question": "a", "answers": True}, {"question": "a", "answers": {}}, "answers is true, not a text. Make it a text."),
        (CHAT | {"tools": "hammer"}, CHAT, "tools is the text 'hammer', not a list of functions. Give a list of {name, description, parameters}."),
        (CHAT | {"tools": ["add"]}, CHAT, "tools[0] is the text 'add', not an object. Give a list of {name, description, parameters}."),
        (CHAT | {"tools": [{"name": b"x"}]}, CHAT, "tools holds what cannot be written as JSON. Use only texts, numbers, lists and objects in it."),
    ],
)  # fmt: skip
def test_a_record_that_is_no_row_is_named_with_place_and_cure(record, like, says):
    assert wrong(record, like)[0] == says


def test_a_value_that_no_text_can_be_made_of_is_named():
    how = {"columns": {"text": "{a}"}}
    assert (
        wrong({"a": b"x"}, {"a": 1}, **how)[0]
        == "a is of the type bytes, not a text. Make it a text."
    )
    assert wrong({"a": 10**5000}, {"a": 1}, **how)[0] == (
        "a is the number of thousands of digits. Write it as a text."
    )
    deep: list = []
    for _ in range(5_000):
        deep = [deep]
    assert wrong({"a": deep}, {"a": 1}, **how)[0].startswith(
        "a holds what cannot be written as JSON."
    )


def test_odd_orders_of_turns_are_rows():
    system = {"role": "system", "content": "s"}
    for turns in ([ANSWER, USER], [USER, USER, ANSWER, ANSWER], [USER, system, ANSWER]):
        roles = [message.role for message in read({"messages": turns}).messages]
        assert roles == [turn["role"] for turn in turns]


# Properties

TEXT = st.text(min_size=1, max_size=20).filter(lambda text: text.strip())
TEXTS = st.tuples(TEXT, TEXT, TEXT, TEXT)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_no_text_is_changed_in_any_shape(texts):
    a, b, c, d = texts
    pairs = zip(("system", "human", "gpt"), (a, b, c), strict=True)
    as_turns = [
        Message(*pair) for pair in zip(("system", "user", "assistant"), texts, strict=False)
    ]
    asked = f"{b}\n\n{d}"
    below = [as_turns[0], Message("user", asked), as_turns[2]]
    cases = [
        ({"messages": [message.turn() for message in as_turns]}, as_turns),
        ({"conversations": [{"from": who, "value": said} for who, said in pairs]}, as_turns),
        ({"system": a, "prompt": b, "completion": c}, as_turns),
        ({"system": a, "instruction": b, "input": d, "output": c}, below),
        ({"system_prompt": a, "context": b, "question": d, "answer": c}, below),
    ]
    for record, messages in cases:
        assert list(read(record).messages) == messages
    assert read({"text": a}).text == a
    columns = {"system": "{w}", "prompt": "{x}\n\n{z}", "completion": "{y}"}
    table = dict(zip("wxyz", texts, strict=True))
    assert list(read(table, columns=columns).messages) == below


KNOWN = get_args(RecipeShape)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from("role content from value name text".split()), inner)
    ),
    max_leaves=8,
)
ROLE = st.sampled_from("system user assistant human gpt tool function_call nobody".split())
SAID = TEXT | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXT})) | JSON
CALLS = st.lists(st.fixed_dictionaries({"name": TEXT}, optional={"arguments": JSON, "id": JSON}))
EXTRAS = {"tool_calls": CALLS | JSON, "thinking": TEXT, "name": JSON, "function_call": JSON}
TURN = st.fixed_dictionaries({"role": ROLE, "content": SAID}, optional=EXTRAS)
OLD_TURN = st.fixed_dictionaries({"from": ROLE, "value": SAID})
TURNS = st.lists(TURN | OLD_TURN, max_size=4).map(lambda turns: [*turns, USER, ANSWER])
NAMES = st.sampled_from(
    "messages conversations prompt completion instruction input output history question answer"
    " context text system tools chosen rejected chat other".split()
)
RECORD = st.dictionaries(NAMES, TURNS | TEXT | JSON, max_size=4)
LIKELY = st.fixed_dictionaries({"messages": TURNS}, optional={"tools": CALLS, "system": TEXT})
COLUMNS = st.sampled_from(
    [{}, {"text": "{other} {text}"}, {"prompt": "prompt", "completion": "{text}"}]
)


def told(error: Fault | DataError) -> bool:
    """Whether every word of it can be shown, and there is a next step."""
    problems = getattr(error, "problems", [error])
    return all(problem.fact.encode() and problem.cure for problem in problems)


@settings(max_examples=300, deadline=None)
@given(st.lists(LIKELY | RECORD | JSON, max_size=4), st.sampled_from(KNOWN), COLUMNS)
def test_any_records_are_rows_or_refused_with_our_own_words(records, shape, columns):
    try:
        found = detect(records, shape=shape, columns=columns)
    except DataError as error:
        refusal = error
        found = None
    if found is None:
        assert told(refusal)
        return
    assert found.name in KNOWN[1:]
    for number, record in enumerate(records, start=1):
        row = row_or_fault(record, found, number)
        if isinstance(row, Fault):
            assert told(row)
            continue
        assert from_json(to_json(row).encode().decode(), number) == row
        assert bool(row.text) != any(message.role == "assistant" for message in row.messages)


def row_or_fault(record: object, shape: Shape, number: int) -> Row | Fault:
    try:
        return to_row(record, shape, number)
    except Fault as fault:
        return fault


def test_a_turn_that_asks_not_to_be_learned_is_refused_by_name():
    record = {"messages": [USER, ANSWER | {"weight": 0}]}
    with pytest.raises(Fault) as caught:
        to_row(record, detect([record]), 1)
    assert caught.value.fact == (
        "messages[1].weight is 0, which asks not to learn this turn; every turn of a role is learned"
    )
    assert caught.value.cure == "Remove the turn or its weight, or set data.loss_on to last."


def test_a_map_is_suggested_of_texts_only():
    records = [{"Q text": "Why is it red?", "score": 0.5, "A.text": "It is hot.", "ts": None}] * 3
    with pytest.raises(
        DataError, match=re.escape("{'prompt': '{Q text}', 'completion': '{A.text}'}")
    ):
        detect(records)
