"""What is read and what is refused: files of every format, folders, the hub, lists and tables; each error word for word."""

import gzip
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workbench.data import arrow_files, csv_files, json_files, sources, table, text_files
from workbench.data.progress import Meter
from workbench.data.rows import Message
from workbench.problems import DataError

CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
PAIR = {"prompt": "Grüße, €?", "completion": "Ja."}
SHAPES = (
    "messages; conversations; prompt and completion; instruction, output and if needed input and system;"
    " question and answer; text"
)


@pytest.fixture
def write(tmp_path: Path):
    def write(*lines: object, name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_bytes("\n".join(texts).encode())
        return path

    return write


def refused(source: object, **how: object) -> str:
    with pytest.raises(DataError) as caught:
        table.read(source, **how)
    return str(caught.value)


def said(path: Path, **how: object) -> list[tuple]:
    return [(row.number, *row.messages) for row in table.read(path, **how)]


# JSON


def test_lines_an_array_and_an_object_around_it_give_the_same_rows(write) -> None:
    rows = [CHAT, CHAT, {"messages": [*CHAT["messages"], *CHAT["messages"]]}]
    expected = said(write(*rows))
    assert [number for number, *_ in expected] == [1, 2, 3]
    for name, text in {
        "lines.json": "\n".join(map(json.dumps, rows)),
        "array.json": json.dumps(rows),
        "pretty.json": json.dumps(rows, indent=2),
        "array.jsonl": json.dumps(rows),
        "object.json": json.dumps({"version": 1, "data": rows, "by": ["me"]}),
        "pretty_object.json": json.dumps({"about": {"data": [1]}, "rows": rows}, indent=1),
        "no_ending": json.dumps(rows),
    }.items():
        assert said(write(text, name=name)) == expected, name
        packed = write(name=f"{name}.gz")
        packed.write_bytes(gzip.compress(text.encode()))
        assert said(packed) == expected, name


def test_harmless_differences_are_passed_over_and_numbers_stay_those_of_the_lines(write) -> None:
    odd = json.dumps(CHAT, ensure_ascii=False).replace("Hi", "a\u2028b \u00e9")
    rows = table.read(write("\ufeff", CHAT, "", "  \r", odd, ""))
    assert [row.number for row in rows] == [2, 5]
    assert rows[1].messages[0].content == "a\u2028b \u00e9"


@pytest.mark.parametrize(
    "codec", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-16-le", "utf-32"]
)
@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_every_utf_is_read_as_it_is(tmp_path: Path, codec: str, ending: str) -> None:
    path = tmp_path / f"rows.{ending}"
    table_text = 'prompt,completion\n"Grüße, €?",Ja.\n'
    text = json.dumps(PAIR, ensure_ascii=False) if ending == "jsonl" else table_text
    path.write_bytes(text.encode(codec))
    ((_, prompt, completion),) = said(path)
    assert (prompt.content, completion.content) == (PAIR["prompt"], PAIR["completion"])


def test_text_in_another_encoding_is_read_when_it_is_said_and_guessed_when_it_is_not(
    tmp_path,
) -> None:
    path = tmp_path / "rows.csv"
    text = (
        "prompt;completion\n"
        + "Wie heißt die Straße über den Fluß?;Die Straße heißt Brücke.\n" * 20
    )
    path.write_bytes(text.encode("cp1252"))
    assert refused(path) == (
        "rows.csv is not UTF-8 text: byte 0xDF at position 25 (line 2)."
        " It looks like cp1252: set data.encoding to cp1252, or save it as UTF-8."
    )
    rows = table.read(path, encoding="cp1252")
    assert rows[19].answer == "Die Straße heißt Brücke."
    path.write_bytes(text.encode("utf-8"))
    assert refused(path, encoding="ascii") == (
        "rows.csv is not ascii text: byte 0xC3 at position 25 (line 2)."
        " Set data.encoding to what it is written in."
    )
    for unknown in ("latin-99", "rot13", "unicode_escape", "", "\0"):
        problem = refused(path, encoding=unknown)
        assert problem.startswith(f"data.encoding is {unknown!r}, which Python does not know.")


def test_a_letter_on_the_border_of_two_blocks_is_whole_and_errors_keep_their_position(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(text_files, "BLOCK", 7)
    path = tmp_path / "rows.txt"
    text = "äöü€\n" * 9
    path.write_bytes(text.encode())
    assert "".join(text_files.text(path, None, Meter(None, None))) == text
    path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"ab\xe9")
    assert "byte 0xE9 at position 95 (line 10)" in refused(path)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", f"rows.jsonl is empty (0 bytes). Give rows of a known shape: {SHAPES}."),
        (b"\xef\xbb\xbf \n", "rows.jsonl holds no rows. Give"),
        (b"[]", "rows.jsonl holds no rows. Give"),
        (b'{"data": []}', "rows.jsonl holds no rows. Give"),
        (
            b'{"a": 1}\n{"b": "caf\xe9"}\n',
            "rows.jsonl is not UTF-8 text: byte 0xE9 at position 19 (line 2).",
        ),
        (b"\xef\xbb\xbfab\xff", "rows.jsonl is not UTF-8 text: byte 0xFF at position 5 (line 1)."),
        (
            b"[{},\n {]",
            "rows.jsonl is not valid JSON: Expecting property name enclosed in double quotes at line 2, column 3,"
            " after row 1. Correct that place, or put each row on a line of its own.",
        ),
        (b'[{"a": 1}', "rows.jsonl is not valid JSON: Expecting ',' or ']' at line 1, column 10, after row 1."),
        (b"[{}]\n[{}]", "rows.jsonl is not valid JSON: Extra data at line 2, column 1, after row 1."),
        (b'{"data": [{}], "rows": [{}]}', "rows.jsonl holds two arrays of rows, data and rows. Put them"),
        (
            b'{\n"messages": []}',
            "rows.jsonl holds a single JSON object over several lines. Put each row on a line of its own,"
            " or all rows in an array: [ {...}, {...} ].",
        ),
        (b"[" * 100_000, "rows.jsonl is not valid JSON: it is nested too deeply"),
        (
            b'{"prompt": ' + b"9" * 5000 + b"}",
            "rows.jsonl, row 1: it is not valid JSON: a number in it has too many digits.",
        ),
        (b'{"a":' * 90_000, "rows.jsonl, row 1: it is not valid JSON: it is nested too deeply."),
        (
            rb'{"prompt": "x\ud83d", "completion": "y"}',
            "rows.jsonl, row 1: prompt holds \\ud83d, half of a character, at position 1. Remove it",
        ),
        (b"null", f"rows.jsonl, row 1: it is null, not an object. Known are: {SHAPES}."),
        (b"[1, 2]", "rows.jsonl, row 1: it is the number 1, not an object."),
        (
            b'{"messages": [',
            "rows.jsonl, row 1: it is not valid JSON: Expecting value at column 15."
            " Correct that line: each line is one JSON object.",
        ),
    ],
)  # fmt: skip
def test_a_json_file_that_cannot_be_used_is_named_with_place_and_cure(tmp_path, raw, says) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(raw)
    assert says in refused(path)


def test_one_broken_line_of_many_is_named_and_the_others_are_read(write) -> None:
    path = write(*[json.dumps(CHAT)] * 73_411, '{"messages": [', *[json.dumps(CHAT)] * 20)
    rows = table.look(path)
    assert (len(rows), rows.records, rows.faults.count) == (73_431, 73_432, 1)
    assert rows[73_411].number == 73_413
    assert refused(path) == (
        "rows.jsonl, row 73,412: it is not valid JSON: Expecting value at column 15."
        " Correct that line: each line is one JSON object."
    )


def test_the_shape_is_told_by_the_first_good_rows_however_many_bad_ones_come_before(write) -> None:
    rows = table.look(write(*["{"] * 1_000, *["7"] * 1_000, CHAT))
    assert (rows.shape.name, len(rows), rows.faults.count) == ("messages", 1, 2_000)


def test_elements_at_the_border_of_a_window_are_whole(write, monkeypatch) -> None:
    rows = [{"text": 'é\\"\u2028' * n + "x", "n": [n, -1.5e-7, None, True]} for n in range(1, 60)]
    path = write(json.dumps(rows, indent=1), name="a.json")
    for size in (1, 2, 3, 50, 1_000):
        monkeypatch.setattr(text_files, "BLOCK", size)
        monkeypatch.setattr(json_files, "BLOCK", size)
        got = [row for _, row in json_files.records(path, None, Meter(None, None))]
        assert got == rows, size


def test_the_place_of_an_error_in_a_long_array_is_that_in_the_file(write, monkeypatch) -> None:
    monkeypatch.setattr(text_files, "BLOCK", 64)
    monkeypatch.setattr(json_files, "BLOCK", 64)
    lines = [
        "[",
        *['  {"text": "one more row of text"},'] * 500,
        '  {"text": "broken"  "here"}',
        "]",
    ]
    says = (
        "a.json is not valid JSON: Expecting ',' delimiter at line 502, column 22, after row 500."
    )
    assert says in refused(write(*lines, name="a.json"))
    one_line = "[" + '{"text": "x"}, ' * 500 + "nonsense]"
    says = "a.json is not valid JSON: Expecting value at line 1, column 7,502, after row 500."
    assert says in refused(write(one_line, name="a.json"))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.jsonl", '{{"text": "ok"}}\n{{"text": "{long}"}}\n{{"text": "ok"}}', "a.jsonl, row 2: it is longer than"),
        ("a.json", '[{{"text": "ok"}}, {{"text": "{long}"}}]', "a.json, row 2: it is longer than"),
        ("a.csv", "text,by\nok,me\n{long},me\nok,me", "a.csv, row 2: it is longer than"),
        ("a.txt", "ok\n\n{long}\n\nok", "a.txt, row 2: it is longer than"),
        ("a.md", "{long}", "a.md, row 1: it is longer than"),
    ],
)  # fmt: skip
def test_a_row_beyond_the_bound_is_not_read_and_the_others_are(
    write, monkeypatch, name, text, says
) -> None:
    for module in (text_files, json_files, csv_files):
        monkeypatch.setattr(module, "MOST", 2**20)
    monkeypatch.setattr(text_files, "BLOCK", 2**16)
    path = write(text.format(long="x " * 2**20), name=name)
    assert says in refused(path)
    assert "1 MiB. Look for a missing line break or quotation mark" in refused(path)
    if name in ("a.jsonl", "a.csv", "a.txt"):
        assert [row.number for row in table.look(path)] == [1, 3]


def test_a_gzip_bomb_is_refused_long_before_it_is_unpacked(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(text_files, "BOMB", 2**22)
    bomb = tmp_path / "bomb.jsonl.gz"
    bomb.write_bytes(gzip.compress(b'{"text": "' + b"0" * 2**26 + b'"}'))
    assert "bomb.jsonl.gz becomes more than 200 times as large when it is unpacked:" in refused(
        bomb
    )
    assert "If that is right, unpack it and give the unpacked file." in refused(bomb)


def test_a_gzip_file_that_is_cut_off_or_damaged_says_so(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    raw = gzip.compress(os.urandom(50).hex().encode() * 99)
    path.write_bytes(raw[:-9])
    assert refused(path).startswith("rows.jsonl.gz cannot be unpacked: it ends too early, after ")
    path.write_bytes(raw[:-6] + b"oooooo")
    assert refused(path).startswith("rows.jsonl.gz cannot be unpacked: it is damaged, after ")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["array", "line"])
def test_a_file_of_a_single_very_long_line_takes_little_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "long.json"
    row = json.dumps({"text": "word " * 200})
    with path.open("w") as file:
        file.write("[" if kind == "array" else '{"text": "')
        for _ in range(250):
            file.write((row + ",") * 1_000 if kind == "array" else "x" * 10**6)
        file.write(row + "]" if kind == "array" else '"}')
    program = (
        "import re, sys; from workbench.data import table\n"
        "from workbench.problems import DataError\n"
        "try: print(len(table.read(sys.argv[1])))\n"
        "except DataError as error: print(error)\n"
        r"print(re.search(r'VmHWM:\s*(\d+)', open('/proc/self/status').read())[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True
    )
    answer, peak = done.stdout.splitlines()
    long = "long.json, row 1: it is longer than 64 MiB. Look for a missing line break or quotation mark, or cut the row into several."
    assert answer == ("250001" if kind == "array" else long)
    assert int(peak) < 500 * 1024  # KiB, of a file of 250 MB


# CSV


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_tables_with_any_separator_and_quoted_line_breaks(tmp_path, separator, ending) -> None:
    path = tmp_path / "rows.csv"
    cell = f'"She said ""no""{separator} then{ending}left; a, b | c."'
    lines = [
        "prompt" + separator + "completion",
        f"{cell}{separator}Yes",
        "",
        f"b{separator}{cell}",
    ]
    path.write_bytes(ending.join(lines).encode())
    rows = table.read(path)
    spoken = f'She said "no"{separator} then{ending}left; a, b | c.'
    if ending == "\r":
        spoken = spoken.replace("\r", "\n")  # the reader's lines end in \n
    assert [(row.number, row.prompt[0].content, row.answer) for row in rows] == [
        (1, spoken, "Yes"),
        (2, "b", spoken),
    ]


def test_a_table_of_one_column_keeps_its_commas(write) -> None:
    rows = table.read(write("text", "Hello, world; a | b", '"quoted, too"', name="a.csv"))
    assert [row.text for row in rows] == ["Hello, world; a | b", "quoted, too"]


def test_a_space_after_the_separator_is_no_part_of_a_quoted_field(write) -> None:
    path = write('"prompt", "completion"', '"a, b", "c, d"', '"e", "f"', name="a.csv")
    assert [(row.prompt[0].content, row.answer) for row in table.read(path)] == [
        ("a, b", "c, d"),
        ("e", "f"),
    ]


def test_ragged_rows_are_named_and_the_others_are_read(write) -> None:
    path = write("prompt,completion", "a,b", "c", "d,e", "f,g,h", "i,j,k", '"x"y,z', name="a.csv")
    assert [row.number for row in table.look(path)] == [1, 3]
    cure = "Put a field that holds a comma or a line break between quotation marks."
    assert refused(path).splitlines() == [
        f"a.csv, row 2: it has 1 field, and the first line names 2 columns. {cure}",
        f"a.csv, rows 4, 5: it has 3 fields, and the first line names 2 columns. {cure}",
        "a.csv, row 6: a quotation mark in it is followed by more text than a separator."
        ' Double the quotation marks inside a quoted field: "He said ""no""."',
    ]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["prompt,completion"], "a.csv holds no rows. Give"),
        (
            [",prompt,completion", "0,a,b"],
            "a.csv: in its first line column 1 has no name. Give each column a name; pandas leaves out its"
            " index with to_csv(..., index=False).",
        ),
        (
            ["prompt,prompt,completion", "a,b,c"],
            "a.csv: several of its columns are called prompt. Give each column a name of its own.",
        ),
        (
            ["prompt,completion", "a,b", 'c,"d', "e,f"],
            "a.csv, line 3: a quotation mark in this row is never closed. Close it, or double it if it belongs"
            ' to the text: ""',
        ),
    ],
)
def test_a_table_that_cannot_be_used_is_named_with_its_cure(write, lines, says) -> None:
    assert says in refused(write(*lines, name="a.csv"))


def test_a_field_longer_than_python_reads_by_itself(write) -> None:
    long = "word " * 100_000
    (row,) = table.read(write("text,by", f"{long},me", name="a.csv"))
    assert row.text == long


# Parquet and Arrow


@pytest.mark.parametrize("kind", ["parquet", "arrow", "feather", "stream"])
def test_tables_of_arrow_are_read_and_nulls_inside_a_turn_are_not_there(tmp_path, kind) -> None:
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"name": "f", "arguments": {"x": "1"}}],
    }
    other = {
        "role": "assistant",
        "content": "Hm",
        "tool_calls": [{"name": "g", "arguments": {"y": 2}}],
    }
    user = {"role": "user", "content": "Hi"}
    made = pa.Table.from_pylist([{"messages": [user, call]}, {"messages": [user, other]}, CHAT])
    path = tmp_path / f"rows.{'arrow' if kind == 'stream' else kind}"
    if kind == "parquet":
        pq.write_table(made, path, row_group_size=2)
    else:
        new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        with new(str(path), made.schema) as writer:
            writer.write_table(made)
    rows = table.read(path)
    assert [row.number for row in rows] == [1, 2, 3]
    assert json.loads(rows[0].messages[1].tool_calls) == [{"name": "f", "arguments": {"x": "1"}}]
    assert json.loads(rows[1].messages[1].tool_calls) == [{"name": "g", "arguments": {"y": 2}}]
    assert rows[2].messages == (Message("user", "Hi"), Message("assistant", "Hello"))


@pytest.mark.parametrize("start", [0, 3])
def test_nested_values_come_out_of_arrow_as_they_went_in(start) -> None:
    rows = [
        {"a": [{"b": [1, None], "c": "x"}, None, {"c": "y"}], "d": {"e": {"f": 1.5}}, "g": []},
        {"a": None, "d": None, "g": None},
        {"a": [], "d": {}, "g": [[], ["z"], None]},
        {"a": [{}], "d": {"e": {}}, "g": [["z", None]]},
        {"a": [None], "d": {"e": {"f": 0.0}}, "g": None},
    ]
    batch = pa.RecordBatch.from_pylist(rows).slice(start)
    assert [row for _, row in arrow_files.records([batch], "x")] == rows[start:]


def test_nulls_where_something_must_be_are_faults_with_their_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows = [CHAT, {"messages": None}, {"messages": [CHAT["messages"][0], None]}, CHAT]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert [row.number for row in table.look(path)] == [1, 4]
    assert refused(path).splitlines() == [
        "rows.parquet, row 2: messages is null, not a list of messages. Give a list of {role, content}.",
        "rows.parquet, row 3: messages[1] is null, not an object. Give {role, content}.",
    ]


def test_dates_and_large_strings_and_categories_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    columns = {
        "text": pa.array(["a", "b"], pa.large_string()).dictionary_encode(),
        "when": pa.array([1, 2**62], pa.timestamp("ns")),
        "far": pa.array([2**30, 0], pa.date32()),
    }
    pq.write_table(pa.table(columns), path)
    assert [row.text for row in table.read(path)] == ["a", "b"]


@pytest.mark.parametrize("name", ["rows.parquet", "rows.arrow", "rows.feather"])
def test_a_binary_table_that_is_cut_off_says_so(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    made = pa.Table.from_pylist([CHAT] * 100)
    if name.endswith("parquet"):
        pq.write_table(made, path)
    else:
        with pa.ipc.new_file(str(path), made.schema) as writer:
            writer.write_table(made)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    kind = "Parquet" if name.endswith("parquet") else "Arrow"
    assert refused(path).startswith(f"{name} cannot be read as {kind}: ")
    assert refused(path).endswith("Copy or download it again, or write it anew.")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    kind = "Parquet" if name.endswith("parquet") else "Arrow"
    assert refused(path).startswith(f"{name} (43 bytes) does not begin as a {kind} file does.")


def test_columns_of_the_same_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"]), path)
    assert refused(path) == (
        "rows.parquet: several of its columns are called text. Give each column a name of its own."
    )


# Text, and files that are none of these


def test_raw_text_by_blank_lines_and_by_files(tmp_path: Path) -> None:
    single = tmp_path / "one.txt"
    single.write_bytes(b"\r\n\r\n A first\r\nblock.\r\n \r\n\r\nA second.\r\n")
    rows = table.read(single)
    assert [(row.number, row.text) for row in rows] == [(1, " A first\nblock."), (2, "A second.")]
    assert rows.shape.why.endswith("; blank lines part the rows")
    (tmp_path / "two.md").write_text("# Title\n\nAll of it.\n")
    rows = table.read(tmp_path)
    assert [(row.name, row.text) for row in rows] == [
        ("row 1 of one.txt", "A first\r\nblock.\r\n \r\n\r\nA second."),
        ("row 1 of two.md", "# Title\n\nAll of it."),
    ]
    assert rows.shape.why.endswith("; each file is one row")


@pytest.mark.parametrize(
    ("name", "raw", "says"),
    [
        ("a.zip", b"PK\x03\x04", "a.zip is a ZIP archive (.zip, .xlsx, .docx). Unpack it, or save the table as CSV."),
        ("a.csv", b"PK\x03\x04", "a.csv is a ZIP archive (.zip, .xlsx, .docx)."),
        ("a.7z", b"7z\xbc\xaf\x27\x1c", "a.7z is a 7z archive. Unpack it"),
        ("a.pdf", b"%PDF-1.7", "a.pdf is a PDF. Take its text out and save that as .txt."),
        ("a.xls", b"\xd0\xcf\x11\xe0", "a.xls is an old Excel or Word file. Save"),
        ("a.pkl", b"\x80\x04\x95", "a.pkl is a pickle, which can run code when it is read. Save the rows as JSONL or CSV."),
        ("a.jsonl", b"\x80\x04\x95", "a.jsonl is a pickle, which can run code"),
        ("a.tar.gz", b"\x1f\x8b", "a.tar.gz is a tar archive. Unpack it"),
        ("a.parquet", b"PARE", "a.parquet is an encrypted Parquet file. Decrypt it first"),
        ("a.parquet", b"\x1f\x8b", "a.parquet is packed with gzip, which is read for text only."),
        ("a.log", b"some text", "a.log has no ending that says what it is, and does not begin as JSON does. Rename it"),
    ],
)  # fmt: skip
def test_what_is_no_data_file_is_refused_with_the_way_out(tmp_path, name, raw, says) -> None:
    path = tmp_path / name
    path.write_bytes(raw)
    assert says in refused(path)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    cure = "Give the path of a file or folder, or a name on the hub such as tatsu-lab/alpaca."
    gone = tmp_path / "gone.jsonl"
    assert (
        refused(gone) == f"The data file {gone} cannot be read: No such file or directory. {cure}"
    )
    assert refused("data/gone.jsonl") == (
        f"The data file data/gone.jsonl cannot be read: No such file or directory. {cure}"
    )
    assert refused("a\0b") == f"The data file 'a\\x00b' cannot be read: embedded null byte. {cure}"
    assert "cannot be read: File name too long." in refused("x" * 5_000)
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "pipe.jsonl is neither a file nor a folder, but a device or a pipe." in refused(
        tmp_path / "pipe.jsonl"
    )


# Folders


def test_a_folder_gives_its_data_files_by_name_and_tells_what_it_passes_over(tmp_path) -> None:
    (tmp_path / "b.jsonl").write_text(json.dumps(CHAT) + "\n" + json.dumps(CHAT))
    (tmp_path / "a.csv").write_text("prompt,completion\nq,r")
    for other in ("README.md", "notes.log", ".hidden.jsonl"):
        (tmp_path / other).write_text("{}")
    (tmp_path / "sub").mkdir()
    rows = table.read(tmp_path)
    assert rows.files == ("a.csv", "b.jsonl")
    assert rows.ignored == (".hidden.jsonl", "README.md", "notes.log", "sub/")
    assert [row.name for row in rows] == ["row 1 of a.csv", "row 1 of b.jsonl", "row 2 of b.jsonl"]
    assert list(rows.file_numbers) == [0, 1, 1]
    assert [shape.name for shape in rows.shapes] == ["completion", "messages"]


def test_a_folder_without_data_says_what_is_in_it(tmp_path: Path) -> None:
    known = "Known are .jsonl, .json, .csv, .tsv (each also .gz), .parquet, .arrow, .txt and .md."
    assert refused(tmp_path) == f"The folder {tmp_path} holds no data files, but nothing. {known}"
    (tmp_path / "train").mkdir()
    (tmp_path / "run.py").touch()
    assert refused(tmp_path) == (
        f"The folder {tmp_path} holds no data files, but run.py, train/. {known}"
    )


def test_all_broken_files_of_a_folder_are_told_with_the_rows_of_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"messages": [')
    (tmp_path / "b.json").write_text("[{]")
    (tmp_path / "c.parquet").write_bytes(b"nothing")
    (tmp_path / "d.jsonl").write_text(json.dumps(CHAT))
    (tmp_path / "e.csv").write_bytes(b"a,b\n\xff\xfe")
    facts = refused(tmp_path).splitlines()
    assert [fact.split(" ")[0].rstrip(",:") for fact in facts] == [
        "c.parquet",
        "b.json",
        "e.csv",
        "a.jsonl",
    ]


# Lists and tables


def test_a_list_and_a_table_of_pandas_are_read_like_files(write) -> None:
    records = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
    expected = said(write(*records))
    assert (
        said(records)
        == said(pd.DataFrame(records))
        == said(pd.DataFrame(records, [5, 5]))
        == expected
    )


def test_what_is_missing_in_a_table_is_none(tmp_path: Path) -> None:
    nested = tmp_path / "nested.parquet"
    pq.write_table(pa.Table.from_pylist([CHAT, CHAT]), nested)
    frame = pd.read_parquet(nested)  # its lists come as arrays of NumPy
    assert table.read(frame)[1].answer == "Hello"
    frame = pd.DataFrame(
        {
            "instruction": ["a", "b", None],
            "input": [float("nan"), "x", ""],
            "output": ["c", pd.NaT, "d"],
        }
    )
    rows = table.look(frame)
    assert rows[0].prompt[0].content == "a"
    assert refused(frame).splitlines() == [
        "the table, row 2: output is null, not a text. Fill it, or remove the row.",
        "the table, row 3: instruction is null, not a text. Fill it, or remove the row.",
    ]
    twice = pd.DataFrame([["a", "b"]], columns=["text", "text"])
    assert refused(twice) == (
        "The table has several columns that are called text. Give each column a name of its own."
    )


@pytest.mark.parametrize("source", [7, None, b"rows.jsonl", {"text": "a"}])
def test_what_is_no_source_is_refused(source) -> None:
    assert refused(source) == (
        f"The source of the rows is of the type {type(source).__name__}."
        " Give a path, a name on the hub, a list of dicts or a pandas DataFrame."
    )


def test_an_empty_list_and_an_empty_table_hold_no_rows() -> None:
    assert refused([]).startswith("the list holds no rows.")
    assert refused(pd.DataFrame({"text": []})).startswith("the table holds no rows.")


# Data sets


@pytest.mark.parametrize("several", [False, True])
def test_what_datasets_saved_to_a_folder_is_read(tmp_path: Path, several: bool) -> None:
    import datasets

    made = datasets.Dataset.from_list([CHAT] * 3)
    folder = tmp_path / "saved"
    (datasets.DatasetDict(train=made, test=made) if several else made).save_to_disk(folder)
    assert [row.answer for row in table.read(folder)] == ["Hello"] * 3
    assert table.read(folder).name == "saved"
    if several:
        assert refused(folder, split="val") == (
            "saved has no split 'val'. Set data.split to one of train, test."
        )


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does: owner/tiny is there, owner/gated is gated, everything else is not found."""

    rows = "\n".join([json.dumps(PAIR)] * 5).encode()

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path, commit = self.path.partition("?")[0], "a" * 40
        about = {"id": "owner/tiny", "sha": commit, "siblings": [{"rfilename": "train.jsonl"}]}
        if "owner/gated" in path and "resolve" in path:
            self.reply(401, {"X-Error-Code": "GatedRepo"})
        elif "owner/tiny" not in path and "owner/gated" not in path:
            self.reply(401, {"X-Error-Code": "RepoNotFound"})
        elif "nowhere" in path:
            self.reply(404, {"X-Error-Code": "RevisionNotFound"})
        elif path.endswith("train.jsonl"):
            headers = {"ETag": '"rows"', "X-Repo-Commit": commit}
            self.reply(200, headers, self.rows, body=body)
        elif "resolve" in path:
            self.reply(404, {"X-Error-Code": "EntryNotFound"})
        elif "tree" in path or "paths-info" in path:
            file = {"type": "file", "path": "train.jsonl", "size": len(self.rows), "oid": commit}
            self.reply(200, {}, json.dumps([file]).encode(), body=body)
        else:
            self.reply(200, {}, json.dumps(about).encode(), body=body)

    def reply(self, status: int, headers: dict, raw: bytes = b"", *, body: bool = True) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(raw))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def hub_says(tmp_path_factory: pytest.TempPathFactory):
    """What reading a name on a hub gives, in a process of its own: its address is fixed at import."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = tmp_path_factory.mktemp("hub")
    program = (
        "import sys, json; from workbench.data import table\n"
        "from workbench.problems import DataError\n"
        "try: rows = table.read(sys.argv[1], **json.loads(sys.argv[2])); print(len(rows), rows[0].answer)\n"
        "except DataError as error: print(error)"
    )

    def says(name: str, how: dict | None = None, **settings: str) -> str:
        environment = {
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": "",
            **settings,
        }
        command = [sys.executable, "-c", program, name, json.dumps(how or {})]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=home)
        return done.stdout.strip()

    yield says
    server.shutdown()


def test_a_data_set_on_the_hub_is_read_and_one_in_the_cache_needs_no_network(hub_says) -> None:
    assert hub_says("owner/tiny") == "5 Ja."
    assert hub_says("owner/tiny", HF_HUB_OFFLINE="1") == "5 Ja."
    pinned = hub_says("owner/tiny", {"revision": "b" * 40}, HF_HUB_OFFLINE="1")
    assert "the hub cannot be read: HF_HUB_OFFLINE is set." in pinned


@pytest.mark.parametrize(
    ("name", "how", "settings", "says"),
    [
        (
            "owner/tiny", {"split": "val"}, {},
            "owner/tiny has no split 'val'. Set data.split to one of train.",
        ),
        (
            "owner/tiny", {"revision": "nowhere"}, {},
            "owner/tiny has no revision nowhere. Choose one from https://huggingface.co/datasets/owner/tiny/commits.",
        ),
        (
            "owner/nobody", {}, {},
            "There is no file or folder owner/nobody here, and no public data set of that name on the hub."
            " Check the spelling; for a private one set HF_TOKEN or run: hf auth login.",
        ),
        (
            "owner/gated", {}, {},
            "owner/gated is gated, and no token is set. Accept its terms at"
            " https://huggingface.co/datasets/owner/gated, then set HF_TOKEN or run: hf auth login.",
        ),
        (
            "owner/gated", {}, {"HF_TOKEN": "hf_" + "x" * 34},
            "owner/gated is gated, and the token that is set may not read it. Accept its terms at"
            " https://huggingface.co/datasets/owner/gated.",
        ),
        (
            "owner/other", {}, {"HF_HUB_OFFLINE": "1"},
            "There is no file or folder owner/other here, and the hub cannot be read: HF_HUB_OFFLINE is set."
            " Unset HF_HUB_OFFLINE, or give the path of a file or folder.",
        ),
        (
            "owner/other", {}, {"HF_ENDPOINT": "http://127.0.0.1:9"},
            "There is no file or folder owner/other here, and the hub cannot be read:"
            " [Errno 111] Connection refused. Check the network, or give the path of a file or folder.",
        ),
    ],
)  # fmt: skip
def test_a_data_set_that_the_hub_does_not_give_is_explained(
    hub_says, name, how, settings, says
) -> None:
    assert hub_says(name, how, **settings) == says


def test_a_name_like_a_file_is_not_looked_for_on_the_hub() -> None:
    for name in ("owner/rows.jsonl", "./owner/rows", "a/b/c", "/a/b", "alone"):
        with pytest.raises(DataError, match="cannot be read: No such file or directory."):
            sources.find(name, split="train", revision=None, encoding=None)
