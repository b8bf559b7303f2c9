"""Reading rows: what is taken, what is refused and in which words."""

import json
import time
from pathlib import Path

import pytest

from workbench.data.rows import Message, read_rows
from workbench.problems import DataError

CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}


@pytest.fixture
def write(tmp_path: Path):
    def write(*lines: object, name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("\n".join(texts), encoding="utf-8")
        return path

    return write


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_rows(path)
    return str(caught.value)


@pytest.mark.parametrize(
    "record",
    [
        CHAT,
        {"prompt": "Hi", "completion": "Hello"},
        {"prompt": CHAT["messages"][:1], "completion": CHAT["messages"][1:]},
        {"prompt": CHAT["messages"][:1], "completion": "Hello"},
        {"instruction": "Hi", "output": "Hello"},
        {"instruction": "Hi", "input": "", "output": "Hello", "system": "", "source": "extra keys"},
    ],
)
def test_every_shape_gives_the_same_conversation(write, record) -> None:
    (row,) = read_rows(write(record))
    assert row.messages == (Message("user", "Hi"), Message("assistant", "Hello"))
    assert (row.number, row.answer, row.prompt) == (1, "Hello", row.messages[:1])


def test_alpaca_input_follows_the_instruction_and_system_comes_first(write) -> None:
    record = {"instruction": "Add", "input": "1 + 1", "output": "2", "system": "Be brief."}
    (row,) = read_rows(write(record))
    assert row.prompt == (Message("system", "Be brief."), Message("user", "Add\n\n1 + 1"))


def test_an_array_gives_the_rows_of_its_lines(write) -> None:
    rows = [CHAT, {"prompt": "a", "completion": "b"}]
    lines, array = write(*rows), write(json.dumps(rows, indent=2), name="rows.json")
    assert read_rows(lines) == read_rows(array)


def test_harmless_differences_are_passed_over_and_numbers_stay_those_of_the_lines(write) -> None:
    odd = json.dumps(CHAT, ensure_ascii=False).replace("Hi", "a\u2028b \u00e9")
    path = write("\ufeff", CHAT, "", "  \r", odd, "")
    rows = read_rows(path)
    assert [row.number for row in rows] == [2, 5]
    assert rows[1].messages[0].content == "a\u2028b \u00e9"


def test_all_problems_come_together_with_row_and_value(write) -> None:
    turn = {"role": "user", "content": "Hi"}
    path = write(
        CHAT,
        {"messages": [turn]},
        '{"messages": [',
        {"messages": [{"role": "bot", "content": "x"}]},
        {"messages": [turn, {"role": "tool", "content": "x"}]},
        {"messages": [turn, {"role": "assistant", "content": " "}]},
        {"messages": [turn, {"role": "assistant", "content": 7}]},
        {"messages": "Hi"},
        {"messages": [{"role": "user"}]},
        {"text": "Hi", "label": 1},
        [1],
    )
    assert refused(path) == "\n".join(
        [
            "rows.jsonl, row 2: it has no assistant turn, only user. Add the answer to learn, or remove the row.",
            "rows.jsonl, row 3: it is not valid JSON: Expecting value at column 15."
            " Correct that line: each line is one JSON object.",
            "rows.jsonl, row 4: messages[0] has the role 'bot'. Known are system, user, assistant.",
            "rows.jsonl, row 5: messages[1] has the role 'tool', which is not supported yet."
            " Remove the rows with tools.",
            "rows.jsonl, row 6: messages[1].content is empty. Fill it, or remove the row.",
            "rows.jsonl, row 7: messages[1].content is the number 7, not a text. Make it a text.",
            "rows.jsonl, row 8: messages is the text 'Hi', not a list of messages. Give a list of {role, content}.",
            "rows.jsonl, row 9: messages[0] has role, but no content. Give {role, content}.",
            "rows.jsonl, row 10: its columns are text, label. Known are: messages; prompt and completion;"
            " instruction, output and if needed input and system. Rename the columns.",
            "rows.jsonl, row 11: it is a list, not an object. Known are: messages; prompt and completion;"
            " instruction, output and if needed input and system.",
        ]
    )


def test_equal_problems_are_told_once_and_many_kinds_are_capped(write) -> None:
    path = write(CHAT, *[{"prompt": "a", "completion": ""}] * 2000)
    assert refused(path) == (
        "rows.jsonl, rows 2, 3, 4 and 1,997 more: completion is empty. Fill it, or remove the row."
    )
    roles = [{"messages": [{"role": f"r{i}", "content": "x"}]} for i in range(25)]
    lines = refused(write(*roles)).splitlines()
    assert len(lines) == 11
    assert lines[-1] == (
        "rows.jsonl: 15 more rows have problems. They are shown when those above are mended."
    )


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "rows.jsonl is empty (0 bytes). Put one JSON object on each line: messages;"),
        (b"\xef\xbb\xbf \n", "rows.jsonl is empty (5 bytes). Put one"),
        (b"[]", "rows.jsonl holds no rows. Put one"),
        (
            b'{"a": 1}\n{"b": "caf\xe9"}\n',
            "rows.jsonl is not UTF-8 text: byte 0xE9 at position 19 (line 2). Save the file as UTF-8.",
        ),
        (
            b"\xef\xbb\xbfab\xff",
            "rows.jsonl is not UTF-8 text: byte 0xFF at position 5 (line 1). Save",
        ),
        (
            "{}".encode("utf-16"),
            "byte 0xFF at position 0 (line 1). It is UTF-16; save it as UTF-8.",
        ),
        (
            b"[{},\n {]",
            "rows.jsonl is not valid JSON: Expecting property name enclosed in double quotes at line 2, column 3.",
        ),
        (
            b'{\n"messages": []}',
            "rows.jsonl holds a single JSON object over several lines. Put each",
        ),
        (b"[" * 100_000, "rows.jsonl is not valid JSON: it is nested too deeply."),
        (
            b'{"prompt": ' + b"9" * 5000 + b"}",
            "row 1: it is not valid JSON: a number in it has too",
        ),
        (
            rb'{"prompt": "x\ud83d", "completion": "y"}',
            "row 1: prompt holds \\ud83d, half of a character, at position 1. Remove it",
        ),
        (
            b'{"messages": []}',
            "row 1: messages is an empty list. Add its turns, or remove the row.",
        ),
        (
            b'{"messages": [{"role": ["user"], "content": "x"}]}',
            "messages[0] has the role ['user'].",
        ),
        (b"{}", "row 1: its columns are none. Known are:"),
        (b"null", "row 1: it is null, not an object."),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_place_and_cure(tmp_path, raw, says) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(raw)
    assert says in refused(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone.jsonl"
    assert refused(gone) == (
        f"The data file {gone} cannot be read: No such file or directory."
        " Give the path of a .jsonl or .json file."
    )
    assert "Is a directory" in refused(tmp_path)


def test_a_hundred_thousand_rows_take_seconds(write) -> None:
    path = write(*[json.dumps(CHAT)] * 100_000)
    began = time.perf_counter()
    assert len(read_rows(path)) == 100_000
    assert time.perf_counter() - began < 30  # 1.5 s alone: the bound only catches a quadratic
