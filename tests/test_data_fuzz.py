"""Whatever lies in a file, the reader answers or refuses in its own words: generated files of every kind."""

import gzip
import json
import struct
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from workbench.data import table
from workbench.problems import DataError, Problem

FEW, MANY = 60, 110  # generated files of each test: 790 in all
SHAPES = ("messages", "conversations", "completion", "alpaca", "question", "text")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the files of all examples, each of which overwrites the one before."""
    return tmp_path_factory.mktemp("fuzz")


def thrown(examples: int):
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


def assert_told(problems: list[Problem]) -> None:
    """Each problem has a fact and a cure that can be printed."""
    for problem in problems:
        assert problem.fact and problem.cure
        str(problem).encode()


def answers_or_refuses(path: Path, raw: bytes, **how: object) -> None:
    """Looks at a file with these bytes; what is answered can be read to the end, and nothing is lost on the way."""
    path.write_bytes(raw)
    try:
        rows = table.look(path, **how)
    except DataError as error:
        assert_told(error.problems)
        return
    assert len(rows) + rows.faults.count == rows.records > 0
    assert sum(1 for _ in rows) == len(rows.content_keys) == len(rows)
    assert_told(rows.faults.problems(rows.name))


letters = st.text(max_size=12) | st.sampled_from(
    ["\ud83d", "\x00", "\u2028", "\x85", "\ufeff", "{}", "[", '"', "\r", "1e999", "\U0001f600"]
)
numbers = (
    st.integers()
    | st.floats()
    | st.sampled_from([10**400, -(10**4000), float("nan"), float("inf"), -0.0])
)
scalars = st.none() | st.booleans() | numbers | letters
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(letters, inner, max_size=4)
)
turns = st.lists(
    st.dictionaries(
        st.sampled_from("role content from value tool_calls name thinking".split()),
        st.sampled_from(["user", "assistant", "system", "tool", "gpt", "human"]) | values,
        max_size=4,
    ),
    max_size=4,
)
names = st.sampled_from(
    "messages conversations prompt completion instruction input output system history question"
    " answer text tools chosen rejected content".split()
)
records = st.dictionaries(names | letters, turns | values, max_size=5)
codecs = st.sampled_from(
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "cp1252", "cp1251", "shift_jis"]
)


@st.composite
def encoded(draw, texts) -> bytes:
    """Text in some encoding, perhaps packed, perhaps with a few bytes gone wrong."""
    codec = draw(codecs)
    raw = draw(texts).encode(codec, "surrogatepass" if codec.startswith("utf") else "replace")
    if draw(st.integers(0, 3)) == 0:
        raw = gzip.compress(raw)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.binary(max_size=3)) + raw[at + draw(st.integers(0, 3)) :]
    return raw


@st.composite
def json_texts(draw) -> str:
    """Rows as lines, as an array or in an object; some cut off, doubled or nested deeply."""
    rows = draw(st.lists(records | values, max_size=6))
    ascii_only = draw(st.booleans())
    texts = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    text = draw(
        st.sampled_from(
            [
                "\n".join(texts),
                "\r\n".join(texts),
                f"[{', '.join(texts)}]",
                f'{{"version": 1, "data": [{",".join(texts)}]}}',
                json.dumps(rows, indent=1),
                '{"text": "a", "text": "b"}\n' + "\n".join(texts),
                "[" * draw(st.sampled_from([10, 1_200, 90_000])) + "".join(texts),
                '{"messages": ' * draw(st.sampled_from([10, 1_200, 90_000])) + "1",
                '{"text": ' + "9" * draw(st.sampled_from([10, 5_000])) + "}\n" + "\n".join(texts),
            ]
        )
    )
    if draw(st.booleans()):
        text = text[draw(st.sampled_from([0, 0, 1])) : draw(st.integers(0, max(1, len(text))))]
    return text


@st.composite
def csv_texts(draw) -> str:
    """Tables with any separator, quoted or not, ragged or not."""
    separator = draw(st.sampled_from([",", ";", "\t", "|", ",,", " "]))
    ending = draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n"]))
    width = draw(st.integers(1, 4))
    header = draw(st.lists(names | letters, min_size=width, max_size=width))
    quoted = draw(st.booleans())
    lines = [header, *draw(st.lists(st.lists(letters, max_size=5), max_size=6))]
    lines += [["a"] * width] * draw(st.integers(0, 3))
    cells = [[f'"{cell}"' if quoted else cell for cell in line] for line in lines]
    return ending.join(separator.join(line) for line in cells)


@pytest.mark.parametrize(
    "name", ["a.json", "a.jsonl.gz", "a.csv", "a.txt", "a.md", "a.parquet", "a.arrow", "a", "a.bin"]
)
def test_any_bytes(place, name):
    heads = st.sampled_from(
        [b"", b"PAR1", b"ARROW1\0\0", b"\xff\xff\xff\xff", b"\x1f\x8b\x08", b"PK"]
    )

    @thrown(20)
    @given(heads, st.binary(max_size=300), st.sampled_from([b"", b"PAR1", b"ARROW1"]))
    def throw(head: bytes, raw: bytes, tail: bytes) -> None:
        answers_or_refuses(place / name, head + raw + tail)

    throw()


def test_json_of_every_kind(place):
    @thrown(MANY)
    @given(encoded(json_texts()), st.sampled_from(["a.json", "a.jsonl", "b.jsonl.gz", "none"]))
    def throw(raw: bytes, name: str) -> None:
        answers_or_refuses(place / name, raw)

    throw()


def test_rows_that_are_almost_right(place):
    @thrown(MANY)
    @given(st.lists(records, min_size=1, max_size=5), st.sampled_from(["auto", *SHAPES]))
    def throw(rows: list, shape: str) -> None:
        raw = "\n".join(map(json.dumps, rows)).encode()
        answers_or_refuses(place / "rows.jsonl", raw, shape=shape)

    throw()


def test_tables_of_every_kind(place):
    @thrown(MANY)
    @given(encoded(csv_texts()), st.sampled_from(["a.csv", "a.tsv", "b.csv.gz"]))
    def throw(raw: bytes, name: str) -> None:
        answers_or_refuses(place / name, raw)

    throw()


def test_text_in_any_encoding_that_is_said(place):
    known = st.sampled_from(
        [None, "cp1252", "utf-16", "utf-7", "shift_jis", "hz", "rot13", "\0", ""]
    )

    @thrown(FEW)
    @given(encoded(st.text(max_size=200)), known, st.sampled_from(["a.txt", "a.csv", "a.md"]))
    def throw(raw: bytes, encoding: str | None, name: str) -> None:
        answers_or_refuses(place / name, raw, encoding=encoding)

    throw()


def arrow_files() -> dict[str, bytes]:
    """A good Parquet file, an Arrow file and a stream, as bytes."""
    turn = {"role": "user", "content": "Hi"}
    rows = [{"messages": [turn, {"role": "assistant", "content": "Hello"}]}, {"messages": None}]
    made = pa.Table.from_pylist(rows * 20)
    parquet, file, stream = (pa.BufferOutputStream() for _ in range(3))
    pq.write_table(made, parquet)
    with pa.ipc.new_file(file, made.schema) as writer:
        writer.write_table(made)
    with pa.ipc.new_stream(stream, made.schema) as writer:
        writer.write_table(made)
    outs = {"a.parquet": parquet, "a.arrow": file, "b.arrow": stream}
    return {name: out.getvalue().to_pybytes() for name, out in outs.items()}


def test_binary_tables_with_damage(place):
    good = arrow_files()

    @thrown(MANY)
    @given(
        st.sampled_from(sorted(good)),
        st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
        st.floats(0, 1),
        st.booleans(),
    )
    def throw(name: str, damage: list, length: float, cut: bool) -> None:
        raw = bytearray(good[name])
        for share, byte in damage:
            raw[int(share * (len(raw) - 1))] = byte
        answers_or_refuses(place / name, bytes(raw[: int(length * len(raw))] if cut else raw))

    throw()


def test_lists_of_anything():
    @thrown(MANY)
    @given(st.lists(records | values | st.binary(max_size=3) | st.dates(), max_size=5))
    def throw(rows: list) -> None:
        try:
            found = table.look(rows)
        except DataError as error:
            assert_told(error.problems)
            return
        assert len(found) + found.faults.count == len(rows)

    throw()


def test_a_gzip_file_with_damage_anywhere(place):
    raw = gzip.compress(b"\n".join([b'{"text": "one row"}'] * 50))
    for at in range(len(raw)):
        (place / "a.jsonl.gz").write_bytes(
            raw[:at] + struct.pack("B", raw[at] ^ 0xFF) + raw[at + 1 :]
        )
        answers_or_refuses(place / "a.jsonl.gz", (place / "a.jsonl.gz").read_bytes())
        answers_or_refuses(place / "a.jsonl.gz", raw[:at])
