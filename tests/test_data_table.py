"""Rows in the cache: the same as in the source, at once the second time, whole or not there, and all faults told."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from workbench.data import cache, reading, table
from workbench.data.rows import Message, Row
from workbench.problems import DataError

HI = {"role": "user", "content": "Hi"}
CHAT = {"messages": [HI, {"role": "assistant", "content": "Hello"}]}


def numbered(count: int) -> list[dict]:
    return [{"prompt": f"What is {n}?", "completion": f"{n} and ü\u2028."} for n in range(count)]


@pytest.fixture(autouse=True)
def cached(tmp_path: Path, monkeypatch) -> Path:
    """An empty cache for each test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("WORKBENCH_CACHE", str(folder))
    return folder


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


# Rows


def test_any_row_any_stretch_and_all_rows_are_the_same(write, monkeypatch) -> None:
    monkeypatch.setattr(reading, "BATCH_ROWS", 7)
    records = numbered(50)
    rows = table.read(write(*records))
    everything = list(rows)
    assert [row.number for row in everything] == list(range(1, 51))
    assert [row.answer for row in everything] == [record["completion"] for record in records]
    assert [rows[place] for place in range(50)] == everything
    assert rows[-1] == everything[-1] and rows[np.int64(3)] == everything[3]
    for part in (slice(5, 20), slice(-3, None), slice(40, 3, -9), slice(10, 5), slice(0, 99, 7)):
        assert rows[part] == everything[part]
    assert rows.of([30, 2, 30]) == [everything[30], everything[2], everything[30]]
    assert everything[9] in rows and rows.index(everything[9]) == 9
    for outside in (50, -51):
        with pytest.raises(IndexError):
            rows[outside]


def test_the_arrays_of_all_rows_say_what_the_rows_say(write, tmp_path) -> None:
    write(*numbered(5), name="a.jsonl")
    write(*numbered(3), name="b.jsonl")
    rows = table.read(tmp_path)
    assert rows.content_keys.dtype == np.uint64 and rows.file_numbers.dtype == np.int32
    assert rows.content_keys.tolist() == [row.content_key() for row in rows]
    assert [rows.files[number] for number in rows.file_numbers] == [row.file for row in rows]
    assert rows.numbers.tolist() == [row.number for row in rows] == [1, 2, 3, 4, 5, 1, 2, 3]


def test_a_row_is_found_by_its_number_and_where_there_is_none_it_says_why(write, tmp_path) -> None:
    path = write(CHAT, "", "{", CHAT)
    rows = table.look(path)
    assert rows[rows.position(4)].number == 4
    for number, fact in {
        2: "there is no such row",
        3: "it is not valid JSON: Expecting property name enclosed in double quotes at column 2",
        99: "there is no such row",
    }.items():
        with pytest.raises(DataError) as caught:
            rows.position(number)
        assert str(caught.value) == f"rows.jsonl, row {number}: {fact}. Its rows are 1 to 4."
    write(CHAT, name="b.jsonl")
    both = table.look(tmp_path)
    assert both[both.position(1, "b.jsonl")].name == "row 1 of b.jsonl"
    with pytest.raises(
        DataError, match="c.jsonl, row 1: there is no such row. Its files are b.jsonl"
    ):
        both.position(1, "c.jsonl")


def test_a_system_prompt_and_a_column_map_are_part_of_what_is_read(write) -> None:
    path = write({"one": "T", "two": "B", "three": "R"})
    columns = {"prompt": "{one}: {two}", "completion": "{three}"}
    (row,) = table.read(path, columns=columns, system="Be brief.")
    assert row.messages == (
        Message("system", "Be brief."),
        Message("user", "T: B"),
        Message("assistant", "R"),
    )
    (row,) = table.read(path, columns=columns)
    assert row.messages[0].role == "user"
    assert refused(path).startswith("rows.jsonl: The rows have no known shape.")
    assert refused(path, columns={"text": "{gone}"}).startswith("rows.jsonl: data.columns.text")


# The cache


def test_the_second_time_comes_from_the_cache_until_source_or_settings_change(
    write, cached, monkeypatch
) -> None:
    path = write(*numbered(10))
    first = table.read(path)
    monkeypatch.setattr(table.Reading, "all", lambda *_: pytest.fail("it was read again"))
    second = table.read(path)
    assert list(second) == list(first) and second.key == first.key and second.shape == first.shape
    monkeypatch.undo()
    monkeypatch.setenv("WORKBENCH_CACHE", str(cached))
    assert table.read(path, system="Be brief.").key != first.key
    assert table.read(path, shape="completion").key != first.key
    write(*numbered(11))
    changed = table.read(path)
    assert (len(changed), len(first)) == (11, 10) and changed.key != first.key
    assert [row.answer for row in first] == [record["completion"] for record in numbered(10)]


def test_faults_are_kept_in_the_cache_with_everything_else(write, tmp_path) -> None:
    write(CHAT, "{", CHAT, "7", "{", name="a.jsonl")
    write(CHAT, name="b.jsonl")
    (tmp_path / "notes").touch()
    first, second = table.look(tmp_path), table.look(tmp_path)
    assert second.faults.problems("x") == first.faults.problems("x") != []
    assert (second.files, second.shapes, second.records, second.ignored) == (
        first.files,
        first.shapes,
        6,
        first.ignored,
    )
    assert "notes" in first.ignored


def test_nothing_stays_in_the_cache_of_what_cannot_be_read(write, cached) -> None:
    for text, name in (('[{"text": "a"}, {', "a.json"), ("", "b.jsonl"), ('text\n"', "c.csv")):
        with pytest.raises(DataError):
            table.look(write(text, name=name))
    assert list(cached.iterdir()) == []


def test_a_damaged_entry_is_made_anew(write, cached) -> None:
    path = write(*numbered(20))
    table.read(path)
    (entry,) = cached.iterdir()
    whole = entry.read_bytes()
    for damaged in (b"", b"ARROW1", whole[: len(whole) // 2], whole[:-20] + bytes(20)):
        entry.unlink()
        entry.write_bytes(damaged)
        assert len(table.read(path)) == 20
        assert entry.read_bytes() == whole


def test_rows_are_read_where_no_cache_can_be_written(write, tmp_path, monkeypatch) -> None:
    path = write(*numbered(20), "{")
    expected = list(table.look(path))
    monkeypatch.setenv("WORKBENCH_CACHE", str(path / "below a file"))
    rows = table.look(path)
    assert list(rows) == expected and rows.faults.count == 1
    monkeypatch.setattr("tempfile.tempdir", str(path))
    assert refused(path) == (
        f"The rows can be kept neither in {path}/below a file nor in {path}: Not a directory."
        " Free some space, or set WORKBENCH_CACHE to a folder on another disk."
    )


def test_lists_have_keys_by_what_they_say_and_leave_no_files(cached) -> None:
    first = table.read(numbered(9))
    assert table.read(numbered(9)).key == first.key
    shouted = [{**record, "prompt": record["prompt"].upper()} for record in numbered(9)]
    other = table.read(shouted)
    assert other.key != first.key
    assert not set(other.content_keys.tolist()) & set(first.content_keys.tolist())
    assert not cached.exists()


def test_progress_is_told_in_bytes_and_ends_at_the_whole(write, monkeypatch) -> None:
    monkeypatch.setattr("workbench.data.progress.EVERY", 0)
    path = write(*numbered(20_000))
    calls: list[tuple[int, int | None]] = []
    table.read(path, progress=lambda done, of: calls.append((done, of)))
    done = [done for done, _ in calls]
    assert {of for _, of in calls} == {path.stat().st_size}
    assert done == sorted(done) and done[-1] == path.stat().st_size and len(set(done)) > 1
    calls.clear()
    table.read(numbered(1_000), progress=lambda done, of: calls.append((done, of)))
    assert calls[-1] == (1_000, 1_000)


def test_a_large_file_takes_little_memory(write) -> None:
    path = write(*[{"text": f"{n} " + "word " * 1000} for n in range(10_000)])
    program = (
        "import re, sys; from workbench.data import table\n"
        "rows = table.look(sys.argv[1]); print(len(rows), sum(len(row.text) > 0 for row in rows))\n"
        r"print(re.search(r'VmHWM:\s*(\d+)', open('/proc/self/status').read())[1])"
    )
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=True)
    counted, peak = done.stdout.splitlines()
    assert counted == "10000 10000"
    assert int(peak) < 350 * 1024  # KiB, with the file of 50 MB mapped


def test_a_hundred_thousand_rows_take_seconds(write) -> None:
    path = write(*[json.dumps(CHAT)] * 100_000)
    began = time.perf_counter()
    assert len(table.read(path)) == 100_000
    assert time.perf_counter() - began < 60  # 4 s alone: the bound only catches a quadratic


# Faults


def test_all_problems_come_together_with_row_and_value(write) -> None:
    path = write(
        CHAT,
        {"messages": [HI]},
        '{"messages": [',
        {"messages": [{"role": "bot", "content": "x"}]},
        {"messages": [HI, {"role": "assistant", "content": " "}]},
        {"messages": [HI, {"role": "assistant", "content": 7}]},
        {"messages": "Hi"},
        {"messages": [{"role": "user"}]},
        {"label": 1},
        {"messages": []},
        [1],
    )
    assert refused(path).splitlines() == [
        "rows.jsonl, row 2: it has no assistant turn, only user. Add the answer to learn, or remove the row.",
        "rows.jsonl, row 3: it is not valid JSON: Expecting value at column 15."
        " Correct that line: each line is one JSON object.",
        "rows.jsonl, row 4: messages[0] has the role 'bot'. Known are system, user, assistant, tool.",
        "rows.jsonl, row 5: messages[1].content is empty. Fill it, or remove the row.",
        "rows.jsonl, row 6: messages[1].content is the number 7, not a text. Make it a text.",
        "rows.jsonl, row 7: messages is the text 'Hi', not a list of messages. Give a list of {role, content}.",
        "rows.jsonl, row 8: messages[0] has role, but no content. Give {role, content}.",
        "rows.jsonl, row 9: its columns are label; other rows have messages."
        " Bring it into the same shape, or remove the row.",
        "rows.jsonl, row 10: messages is an empty list. Add its turns, or remove the row.",
        "rows.jsonl, row 11: it is a list, not an object. Known are: messages; conversations; prompt and"
        " completion; instruction, output and if needed input and system; question and answer; text.",
    ]
    rows = table.look(path)
    assert (len(rows), rows.faults.count, rows.records) == (1, 10, 11)


def test_equal_problems_are_told_once_and_many_kinds_are_capped(write) -> None:
    chats = [CHAT] * 30
    empty = {"messages": [HI, {"role": "assistant", "content": ""}]}
    assert refused(write(*chats, *[empty] * 2000)) == (
        "rows.jsonl, rows 31, 32, 33 and 1,997 more: messages[1].content is empty. Fill it, or remove the row."
    )
    roles = [{"messages": [{"role": f"r{i}", "content": "x"}]} for i in range(25)]
    lines = refused(write(*chats, *roles)).splitlines()
    assert len(lines) == 21
    assert lines[-1] == (
        "rows.jsonl: 5 more rows have problems. They are shown when those above are mended."
    )


def test_a_fault_of_its_own_in_every_row_does_not_fill_the_memory_and_none_is_lost(write) -> None:
    roles = [{"messages": [{"role": f"r{i}", "content": "x"}]} for i in range(3_000)]
    rows = table.look(write(CHAT, *roles))
    assert (len(rows.faults.groups), rows.faults.others, rows.faults.count) == (1_000, 2_000, 3_000)
    assert rows.faults.problems("x")[-1].fact == "x: 2,980 more rows have problems."


def test_the_same_fault_in_two_files_is_told_for_each(write, tmp_path) -> None:
    write(CHAT, "{", name="a.jsonl")
    write("{", CHAT, name="b.jsonl")
    first, second = refused(tmp_path).splitlines()
    assert first.startswith("a.jsonl, row 2: it is not valid JSON")
    assert second.startswith("b.jsonl, row 1: it is not valid JSON")


def test_names_that_no_terminal_takes_are_spelled_out(write, tmp_path) -> None:
    assert "Their columns are: \\ud83d" in refused(write('{"\\ud83d": 1}'))
    rows = table.look(write(CHAT, CHAT, '{"\\ud83d": 1}'))
    assert rows.faults.problems("x")[0].fact.startswith("x, row 3: its columns are \\ud83d;")
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl")
    assert refused(odd).encode().endswith(b"such as tatsu-lab/alpaca.")
    Path(odd).write_text("")
    assert refused(odd).startswith("caf\\udce9.jsonl is empty (0 bytes).")


# Writing


def test_what_is_written_is_read_again_as_the_same(write, tmp_path) -> None:
    call = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": "é"}}}]
    path = write(
        CHAT,
        {
            "messages": [
                HI,
                {"role": "assistant", "content": "", "reasoning_content": "Hm", "tool_calls": call},
                {"role": "tool", "name": "f", "tool_call_id": "1", "content": "a\u2028b\x00"},
                {"role": "assistant", "content": "Hello 😀"},
            ],
            "tools": [{"type": "function", "function": {"name": "f"}}],
        },
    )
    rows = table.read(path)
    for source in (rows, list(rows)):
        again = table.read(table.write(source, tmp_path / "new" / "clean.jsonl"))
        assert list(again) == list(rows)
    text = [Row(1, text="Once upon a time"), Row(2, text="\ttwo ")]
    assert list(table.read(table.write(text, tmp_path / "text.jsonl"))) == text
    frame = pd.DataFrame({"prompt": ["a", "b"], "completion": ["c", "d"], "n": [1.5, None]})
    written = table.write(frame, tmp_path / "frame.jsonl").read_text().splitlines()
    assert json.loads(written[1]) == {"prompt": "b", "completion": "d", "n": None}
    halves = table.write([{"text": "x\ud83d"}], tmp_path / "half.jsonl")
    assert json.loads(halves.read_text()) == {"text": "x\ud83d"}


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    table.write([CHAT], path)
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"^Row 2 cannot be written as JSON: Object of type set"):
        table.write([CHAT, {"text": {1}}], path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]
    with pytest.raises(
        DataError, match=r"^Rows are written as JSONL, and rows.csv does not end in"
    ):
        table.write([CHAT], tmp_path / "rows.csv")
    with pytest.raises(DataError, match=r"cannot be written: File exists. Give another path.$"):
        table.write([CHAT], path / "below.jsonl")


def test_two_readers_at_once_make_one_entry(write, cached) -> None:
    path = write(*numbered(5_000))
    program = "import sys; from workbench.data import table; print(len(table.read(sys.argv[1])))"
    command = [sys.executable, "-c", program, str(path)]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [reader.communicate()[0].strip() for reader in readers] == ["5000", "5000"]
    assert len(list(cached.iterdir())) == 1
    assert cache.folder() == cached
