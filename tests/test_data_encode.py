"""From conversations to ids and labels: what is learned, cut and left out, with the tiny lane's own tokenizer."""

from pathlib import Path

import pytest

from workbench.data.encode import IGNORED, encode, prompt_ids, prompt_text
from workbench.data.rows import Message, Row, read_rows
from workbench.problems import DataError

TINY = Path(__file__).parents[1] / "data" / "tiny"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# as reasoning models do: earlier answers are written without what the last one has
FORGETFUL = CHATML.replace(
    "m.content", "('<think></think>' if loop.last and m.role == 'assistant' else '') + m.content"
)
STRICT = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('No system role.') }}{% endif %}"
    + CHATML
)


@pytest.fixture(scope="module")
def loaded():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINY / "model")


@pytest.fixture
def tokenizer(loaded):
    template = loaded.chat_template
    yield loaded
    loaded.chat_template = template


def row(*turns: tuple[str, str], number: int = 1) -> Row:
    return Row(number, tuple(Message(*turn) for turn in turns))


TALK = row(
    ("system", "Be brief."),
    ("user", "Hi, this is Ben."),
    ("assistant", "Hello Ben."),
    ("user", "And 705?"),
    ("assistant", "It is damaged."),
)


def unmarked(template: str) -> str:
    return template.replace("{% generation %}", "").replace("{% endgeneration %}", "")


def learned(encoded, tokenizer) -> str:
    labels = [label for row in encoded.rows for label in row.labels if label != IGNORED]
    return tokenizer.decode(labels)


def assistant(rows, tokenizer, max_length=512):
    return encode(rows, tokenizer, max_length=max_length, loss_on="assistant")


def refused(rows, tokenizer, max_length=512) -> str:
    with pytest.raises(DataError) as caught:
        assistant(rows, tokenizer, max_length)
    return str(caught.value)


def test_what_is_learned_are_the_answers_with_their_end_tokens(tokenizer) -> None:
    encoded = assistant([TALK], tokenizer)
    assert learned(encoded, tokenizer) == "Hello Ben.<|end|>It is damaged.<|end|>"
    assert encoded.warnings == ()


def test_labels_are_the_ids_or_ignored_and_the_counts_add_up(tokenizer) -> None:
    rows = read_rows(TINY / "heldout.jsonl")
    encoded = assistant(rows, tokenizer)
    assert [row.number for row in encoded.rows] == [row.number for row in rows]
    for row_ in encoded.rows:
        assert len(row_.input_ids) == len(row_.labels)
        assert all(
            label in (IGNORED, token)
            for label, token in zip(row_.labels, row_.input_ids, strict=True)
        )
    assert encoded.tokens == sum(len(row.input_ids) for row in encoded.rows)
    everything = encode(rows, tokenizer, max_length=512, loss_on="all")
    assert everything.tokens == everything.trained_tokens == encoded.tokens > encoded.trained_tokens


def test_without_marks_the_same_is_learned(tokenizer) -> None:
    rows = [*read_rows(TINY / "heldout.jsonl"), TALK]
    marked = assistant(rows, tokenizer)
    tokenizer.chat_template = unmarked(tokenizer.chat_template)
    assert assistant(rows, tokenizer) == marked


def test_a_prompt_is_how_its_row_begins_and_has_one_first_token(tokenizer) -> None:
    (encoded,) = assistant([TALK], tokenizer).rows
    ids = prompt_ids(TALK.prompt, tokenizer)
    assert encoded.input_ids[: len(ids)] == ids
    assert encoded.labels[len(ids)] != IGNORED
    assert ids.count(tokenizer.bos_token_id) == encoded.input_ids.count(tokenizer.bos_token_id) == 1
    dicts = [{"role": message.role, "content": message.content} for message in TALK.prompt]
    assert prompt_ids(dicts, tokenizer) == ids
    assert prompt_text(dicts, tokenizer).endswith("<|end|><|assistant|>")


def test_a_line_break_after_the_turn_is_not_learned(tokenizer) -> None:
    tokenizer.chat_template = CHATML
    encoded = assistant([TALK], tokenizer)
    assert learned(encoded, tokenizer) == "Hello Ben.<|im_end|>It is damaged.<|im_end|>"
    # this tokenizer spells <|im_end|> in pieces, so no single token would end an answer
    assert [warning.fact for warning in encoded.warnings] == [
        "In 1 of 1 rows no end-of-turn token is learned, so the model may not stop: row 1."
    ]


def test_long_rows_are_cut_and_those_without_an_answer_left_out(tokenizer) -> None:
    long = row(("user", "word " * 100), ("assistant", "Yes."), number=7)
    late = row(("user", "Hi"), ("assistant", "word " * 100), number=9)
    encoded = assistant([TALK, long, late], tokenizer, max_length=64)
    assert [(row.number, len(row.labels)) for row in encoded.rows][1:] == [(9, 64)]
    assert (encoded.cut_rows, encoded.untrained) == (2, (7,))
    longest = len(prompt_ids(long.prompt, tokenizer)) + len(tokenizer("Yes.<|end|>")["input_ids"])
    assert (encoded.longest_row, encoded.longest) == (7, longest)
    assert [str(warning) for warning in encoded.warnings] == [
        "2 of 3 rows are longer than 64 tokens and are cut: rows 7, 9."
        f" Raise model.max_length; the longest is row 7 with {longest} tokens.",
        "1 of 3 rows are left out, their answers were cut off: row 7. Raise model.max_length.",
    ]


def test_nothing_left_to_learn_names_the_cause(tokenizer) -> None:
    long = row(("user", "word " * 100), ("assistant", "Yes."), number=7)
    longest = len(encode([long], tokenizer, max_length=512, loss_on="all").rows[0].input_ids)
    assert refused([long], tokenizer, max_length=16) == (
        "Nothing is left to learn in any of the 1 rows: 1 are longer than 16 tokens and were cut before their"
        f" answers begin. Raise model.max_length; the longest is row 7 with {longest} tokens."
    )
    tokenizer.chat_template = CHATML + "{% generation %}{% endgeneration %}"
    assert refused([TALK], tokenizer) == (
        "Nothing is left to learn in any of the 1 rows: the chat template marks none of their tokens as the"
        " assistant's. Mend the template's {% generation %} marks, or set data.loss_on to all."
    )


def test_a_template_that_rewrites_earlier_turns_is_refused_only_where_it_does(tokenizer) -> None:
    tokenizer.chat_template = FORGETFUL
    single = row(("user", "Hi"), ("assistant", "Hello"))
    assert learned(assistant([single], tokenizer), tokenizer) == "<think></think>Hello<|im_end|>"
    says = refused([single, TALK._replace(number=2), TALK._replace(number=5)], tokenizer)
    assert says == (
        "Rows 2, 5: the chat template writes messages[2] differently when other turns follow"
        " ('Hello Ben.<|im_end|>' in the whole, '<think></think>Hello' by itself), so its answers cannot be told"
        " from the rest. Use a template with {% generation %} marks, give each answer a row of its own,"
        " or set data.loss_on to all."
    )
    assert encode([TALK], tokenizer, max_length=512, loss_on="all").trained_tokens > 0


@pytest.mark.parametrize("marks", ["", "{% generation %}{% endgeneration %}"])
def test_rows_that_the_template_refuses_are_named(tokenizer, marks) -> None:
    tokenizer.chat_template = STRICT + marks
    single = row(("user", "Hi"), ("assistant", "Hello"))
    assert refused([single, TALK._replace(number=4)], tokenizer) == (
        "Row 4: the chat template refuses it: No system role. Change the order or the roles of its turns."
    )


def test_a_row_that_begins_with_the_assistant_needs_marks(tokenizer) -> None:
    first = row(("assistant", "Hello"), ("user", "Hi"))
    assert learned(assistant([first], tokenizer), tokenizer) == "Hello<|end|>"
    tokenizer.chat_template = unmarked(tokenizer.chat_template)
    assert refused([first], tokenizer) == (
        "Row 1: it begins with an assistant turn. Put a user turn before it."
    )


def test_a_tokenizer_without_a_template_is_refused(tokenizer) -> None:
    tokenizer.chat_template = None
    says = refused([TALK], tokenizer)
    assert says == (
        f"The tokenizer of {TINY / 'model'} has no chat template. Take the model's instruct or chat version,"
        " or set tokenizer.chat_template and save it beside the model."
    )
    with pytest.raises(DataError):
        prompt_ids(TALK.prompt, tokenizer)
