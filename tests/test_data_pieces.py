"""Pieces of rows: together they are the conversation, their fates are those of training, and nothing in them does harm."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from workbench.data import encode, pieces, table
from workbench.data.encode import Tokenized, tokenize
from workbench.data.pieces import Piece, as_text, view, visible, worst
from workbench.data.rows import Message, Row
from workbench.data.tokenizer import ChatTokenizer

ROOT = Path(__file__).parents[1]
MESSY = ROOT / "data" / "messy"
TINY = ChatTokenizer.load(str(ROOT / "data" / "tiny" / "model"))
LENGTH = 128


@pytest.fixture(scope="module")
def messy() -> Tokenized:
    return tokenize(table.look(MESSY / "messy.jsonl"), TINY, loss_on="assistant")


def chat(*contents: str) -> Row:
    roles = ("user", "assistant") * len(contents)
    return Row(7, tuple(Message(*turn) for turn in zip(roles, contents, strict=False)))


def shown(row: Row, max_length: int = LENGTH, **how: object) -> pieces.View:
    made = tokenize([row], TINY, loss_on=how.pop("loss_on", "assistant"))
    return view(row.name, made.ids(0), made.mask(0), TINY, max_length=max_length, **how)


def all_pieces(seen: pieces.View) -> list[Piece]:
    return [piece for _, part in seen.parts for piece in part]


def said(seen: pieces.View) -> str:
    return "".join(piece.text for piece in all_pieces(seen) if not piece.padding)


# The messy file


def test_the_messy_files_are_what_their_script_makes(tmp_path):
    spec = importlib.util.spec_from_file_location("make_messy", MESSY / "make.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(tmp_path)
    for name in ("messy.jsonl", "heldout.jsonl"):
        assert (tmp_path / name).read_bytes() == (MESSY / name).read_bytes(), name


def test_the_messy_file_has_a_row_of_every_kind():
    from workbench.data.report import report

    made = report(
        MESSY / "messy.jsonl",
        tokenizer=TINY,
        heldout=MESSY / "heldout.jsonl",
        max_length=LENGTH,
        context=512,
    )
    kinds = {found.kind for found in made.findings}
    assert kinds >= {
        "malformed", "no_answer", "empty_answer", "unknown_role", "short_answer", "duplicates",
        "near_duplicates", "leaks", "conflicting_answers", "role_twice", "ends_with_user",
        "assistant_first", "system_not_first", "other_script", "other_language", "secrets",
        "personal_data", "special_tokens", "answer_cut", "answer_cut_off", "longer_than_context",
    }  # fmt: skip


# Pieces


def test_pieces_together_are_the_conversation_and_their_tokens_are_the_rows(messy):
    for position, row in enumerate(messy.rows):
        ids, mask = messy.ids(position), messy.mask(position)
        made = pieces.pieces(ids, mask, TINY, max_length=LENGTH)
        assert "".join(piece.text for piece in made) == TINY.write(row.turns()), row.name
        assert [token for piece in made for token in piece.ids] == ids.tolist()
        fates = [(p.trained, p.truncated) for p in made for _ in p.ids]
        assert fates == [(bool(on), at >= LENGTH) for at, on in enumerate(mask)]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=4))
def test_any_text_comes_back_whole(contents):
    row = chat(*contents)
    assert said(shown(row)) == TINY.write(row.turns())


def test_a_character_of_several_tokens_is_one_piece_and_never_half_of_one():
    seen = shown(chat("Well 😀👩.", "小梅 is مرحبا"))
    assert "\ufffd" not in said(seen)
    face = next(piece for piece in all_pieces(seen) if piece.text == "😀")
    assert len(face.ids) > 1


def test_a_character_that_is_cut_within_is_told_with_its_first_token():
    row = chat("Well", "😀")
    whole = all_pieces(shown(row))
    face = next(piece for piece in whole if piece.text == "😀")
    start = sum(len(piece.ids) for piece in whole[: whole.index(face)])
    cut = shown(row, max_length=start + 1)
    first, rest = (p for p in all_pieces(cut) if set(p.ids) <= set(face.ids))
    assert (first.text, first.kind) == ("😀", "trained")
    assert (rest.text, rest.kind) == ("", "lost")
    assert (*first.ids, *rest.ids) == face.ids


def test_tokens_that_are_single_bytes_are_shown_as_what_they_spell():
    vocabulary = {"<unk>": 0, "\u2581a": 1} | {f"<0x{n:02X}>": 2 + n for n in range(256)}
    backend = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(steps)
    spelt = ChatTokenizer("spelt", backend, {}, {})
    ids = [1, *(2 + byte for byte in "😀é".encode()), 1]
    made = pieces.pieces(ids, [0] * len(ids), spelt, max_length=LENGTH)
    assert "".join(piece.text for piece in made) == " a😀é a"
    assert [len(piece.ids) for piece in made] == [1, 4, 2, 1]


def test_what_is_trained_truncated_and_lost_adds_up(messy):
    for position in range(len(messy)):
        ids, mask = messy.ids(position), messy.mask(position)
        counts = view("row", ids, mask, TINY, max_length=LENGTH).counts
        assert counts.tokens == len(ids)
        assert counts.kept == min(len(ids), LENGTH)
        assert counts.trained + counts.lost == mask.sum()
        assert counts.share == (counts.trained / counts.kept if counts.kept else 0)


def test_counts_are_those_of_training(messy):
    trained = encode.encode(messy, max_length=LENGTH)
    counts = [
        view("row", messy.ids(at), messy.mask(at), TINY, max_length=LENGTH).counts
        for at in trained.positions
    ]
    assert sum(count.kept for count in counts) == trained.tokens
    assert sum(count.trained for count in counts) == trained.trained_tokens


def test_special_tokens_are_marked_whatever_becomes_of_them():
    seen = all_pieces(shown(chat("Well", "Yes")))
    special = [(piece.text, piece.kind) for piece in seen if piece.special]
    assert special == [
        ("<|begin|>", "context"),
        ("<|user|>", "context"),
        ("<|end|>", "context"),
        ("<|assistant|>", "context"),
        ("<|end|>", "trained"),
    ]


def test_a_short_row_is_padded_and_a_cut_one_is_not():
    row = chat("Well", "Yes")
    length = shown(row).counts.tokens
    padded = shown(row, pad_to=length + 5)
    (last,) = (piece for piece in all_pieces(padded) if piece.padding)
    assert (last.text, last.ids, last.kind) == ("<|pad|>", (TINY.pad_id,) * 5, "padding")
    assert padded.counts.padding == 5
    assert padded.counts.share == shown(row).counts.share
    assert not shown(row, max_length=4, pad_to=4).counts.padding


# Long rows


def test_of_a_long_row_the_beginning_the_first_trained_token_and_the_cut_are_shown():
    row = chat("One two three. " * 7_000, "Yes. " * 6_000)
    first = int(np.flatnonzero(tokenize([row], TINY, loss_on="assistant").mask(0))[0])
    seen = shown(row, max_length=first + 9_000)
    kinds = [piece.kind for piece in all_pieces(seen)]
    assert {"context", "trained", "lost"} == set(kinds)
    assert kinds[: kinds.index("trained")].count("context") > pieces.BEFORE
    assert sum(len(piece.ids) for piece in all_pieces(seen)) <= pieces.MOST
    assert seen.hidden == seen.counts.tokens - sum(len(p.ids) for p in all_pieces(seen))
    assert seen.hidden > 10_000
    for start, part in seen.parts:
        assert part[0].ids[0] == tokenize([row], TINY, loss_on="all").ids(0)[start]


def test_of_a_row_in_which_all_that_matters_comes_early_the_beginning_is_shown():
    seen = shown(chat("Well", "Yes. " * 6_000), max_length=10**6)
    assert [start for start, _ in seen.parts] == [0]
    assert sum(len(piece.ids) for piece in all_pieces(seen)) == pieces.MOST


# The worst rows


def test_the_worst_rows_of_the_messy_file(messy):
    found = {
        kind: (messy.rows[ranked.positions[0]].number, ranked.count)
        for kind, ranked in worst(messy, LENGTH).items()
    }
    numbers = {
        words: next(
            number
            for number, line in enumerate((MESSY / "messy.jsonl").open(encoding="utf-8"), 1)
            if words in line
        )
        for words in ("shop in London", '"content": "ok"')
    }
    longest = max(range(len(messy)), key=lambda at: len(messy.ids(at)))
    number = messy.rows[longest].number
    assert found == {
        "nothing trained": (number, 5),
        "answer cut": (numbers["shop in London"], 1),
        "longest": (number, len(messy)),
        "least trained": (numbers['"content": "ok"'], len(messy) - 5),
    }


def random_rows(count: int) -> Tokenized:
    """Rows of up to 40 tokens with masks at random; few lengths, so that many are equal."""
    chance = np.random.default_rng(0)
    lengths = chance.integers(1, 40, count)
    ends = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    ids = chance.integers(0, 9, ends[-1]).astype(np.int32)
    mask = (chance.random(ends[-1]) < np.repeat(chance.random(count) ** 3, lengths)).astype(
        np.uint8
    )
    columns = [pa.ListArray.from_arrays(ends, values) for values in (ids, mask)]
    rows = pa.Table.from_arrays(columns, names=["input_ids", "mask"])
    return Tokenized([], rows, None, "assistant", frozenset())


@pytest.mark.parametrize("count", [1, 30, 3_000])
def test_worst_agrees_with_looking_at_every_row(count):
    made, cut = random_rows(count), 24
    masks = [made.mask(at) for at in range(count)]
    left = [int(mask[1:cut].sum()) for mask in masks]  # nothing predicts the first token
    whole = [int(mask[1:].sum()) for mask in masks]
    shares = [n / min(len(mask), cut) for n, mask in zip(left, masks, strict=True)]
    asked = {
        "nothing trained": [(-len(masks[at]), at) for at in range(count) if not left[at]],
        "answer cut": [
            (left[at] - whole[at], at) for at in range(count) if 0 < left[at] < whole[at]
        ],
        "longest": [(-len(masks[at]), at) for at in range(count)],
        "least trained": [(shares[at], at) for at in range(count) if left[at]],
    }
    expected = {
        kind: ([at for _, at in sorted(rows)][: pieces.RANKED], len(rows))
        for kind, rows in asked.items()
        if rows
    }
    assert {kind: tuple(ranked) for kind, ranked in worst(made, cut).items()} == expected


def test_no_rows_have_no_worst():
    assert worst(random_rows(0), 9) == {}


# Text


def test_a_row_as_text_word_for_word():
    assert as_text(shown(chat("Hi.\nNow", "Yes"), pad_to=16)) == (
        "row 7: 10 tokens, 3 trained (30%)\n"
        "  context | <|begin|><|user|>Hi.↵\n"
        "          | Now<|end|><|assistant|>\n"
        "  trained | Yes<|end|>\n"
        "  padding | <|pad|> 6 times"
    )


def test_a_cut_row_as_text_word_for_word():
    row = chat("Well", "Yes. No.")
    assert as_text(shown(row, max_length=10)) == (
        "row 7: 13 tokens, 3 trained (30%), 3 truncated (3 of them lost to training)\n"
        "  context | <|begin|><|user|>Well<|end|><|assistant|>\n"
        "  trained | Yes. \n"
        "     lost | No.<|end|>"
    )


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_nothing_in_a_row_can_command_a_terminal(text):
    for written in (as_text(shown(chat(text, text))), pieces.turns(chat(text, text))[0][1]):
        assert all(letter.isprintable() or letter in "\n\t" for letter in written)


def test_what_cannot_be_seen_is_named():
    assert list(visible("a\u200b\u202eb\x1b\n")) == [
        ("a", False), ("U+200B", True), ("U+202E", True), ("b", False), ("U+001B", True), ("\n", False),
    ]  # fmt: skip


def test_for_programs_pieces_have_places_ids_and_kinds():
    seen = shown(chat("Well 😀", "Yes"))
    made = json.loads(json.dumps(pieces.to_dict(seen)))
    place = 0
    for piece in made["pieces"]:
        assert piece["place"] == place
        place += len(piece["ids"])
    assert place == made["tokens"] == seen.counts.tokens
    assert {piece["kind"] for piece in made["pieces"]} == {"context", "trained"}
    assert made["share"] == seen.counts.share
