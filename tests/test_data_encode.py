"""From conversations to ids and labels: what is learned, cut and left out, with the tiny lane's own tokenizer."""

from pathlib import Path

import pytest

from workbench.data.encode import IGNORED, encode, tokenize
from workbench.data.rows import Message, Row
from workbench.data.table import read
from workbench.data.template import prompt_ids, prompt_text
from workbench.data.tokenizer import ChatTokenizer
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


def with_template(template: str | None = None) -> ChatTokenizer:
    return ChatTokenizer.load(str(TINY / "model"), template=template)


@pytest.fixture(scope="module")
def tokenizer() -> ChatTokenizer:
    return with_template()


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
    return tokenizer.decode([i for row in encoded for i in row.labels if i != IGNORED])


def assistant(rows, tokenizer, max_length=512, loss_on="assistant"):
    return encode(tokenize(rows, tokenizer, loss_on=loss_on), max_length=max_length)


def refused(rows, tokenizer, max_length=512) -> str:
    with pytest.raises(DataError) as caught:
        assistant(rows, tokenizer, max_length)
    return str(caught.value)


def test_what_is_learned_are_the_answers_with_their_end_tokens(tokenizer) -> None:
    encoded = assistant([TALK], tokenizer)
    assert learned(encoded, tokenizer) == "Hello Ben.<|end|>It is damaged.<|end|>"
    assert encoded.warnings == ()


def test_labels_are_the_ids_or_ignored_and_the_counts_add_up(tokenizer) -> None:
    rows = read(TINY / "heldout.jsonl")
    encoded = assistant(rows, tokenizer)
    assert [row.number for row in encoded] == [row.number for row in rows]
    for row_ in encoded:
        assert len(row_.input_ids) == len(row_.labels)
        assert all(
            label in (IGNORED, token)
            for label, token in zip(row_.labels, row_.input_ids, strict=True)
        )
    assert encoded.tokens == sum(len(row.input_ids) for row in encoded)
    everything = assistant(rows, tokenizer, loss_on="all")
    assert everything.tokens == encoded.tokens
    # nothing predicts the first token of a row
    assert everything.trained_tokens == everything.tokens - len(rows) > encoded.trained_tokens


def test_without_marks_the_same_is_learned(tokenizer) -> None:
    rows = [*read(TINY / "heldout.jsonl"), TALK]
    bare = with_template(unmarked(tokenizer.template))
    assert not bare.has_marks
    assert list(assistant(rows, bare)) == list(assistant(rows, tokenizer))


def test_a_prompt_is_how_its_row_begins_and_has_one_first_token(tokenizer) -> None:
    (encoded,) = assistant([TALK], tokenizer)
    ids = prompt_ids(TALK.prompt, tokenizer)
    assert encoded.input_ids[: len(ids)] == ids
    assert encoded.labels[len(ids)] != IGNORED
    assert ids.count(tokenizer.bos_id) == encoded.input_ids.count(tokenizer.bos_id) == 1
    dicts = [{"role": message.role, "content": message.content} for message in TALK.prompt]
    assert prompt_ids(dicts, tokenizer) == ids
    assert prompt_text(dicts, tokenizer).endswith("<|end|><|assistant|>")


def test_a_line_break_after_the_turn_is_not_learned(tokenizer) -> None:
    tokenizer = with_template(CHATML)
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
    assert [(row.number, len(row.labels)) for row in encoded][1:] == [(9, 64)]
    assert (encoded.cut_rows, encoded.untrained) == (2, (7,))
    longest = len(prompt_ids(long.prompt, tokenizer)) + len(
        tokenizer.encode(["Yes.<|end|>"])[0].ids
    )
    assert (encoded.longest_row, encoded.longest) == (7, longest)
    assert [str(warning) for warning in encoded.warnings] == [
        "2 of 3 rows are longer than 64 tokens and are cut: rows 7, 9."
        f" Raise model.max_length; the longest is row 7 with {longest} tokens.",
        "1 of 3 rows are left out, their answers were cut off: row 7. Raise model.max_length.",
    ]


def test_nothing_left_to_learn_names_the_cause(tokenizer) -> None:
    long = row(("user", "word " * 100), ("assistant", "Yes."), number=7)
    longest = assistant([long], tokenizer, loss_on="all").longest
    assert refused([long], tokenizer, max_length=16) == (
        "Nothing is left to learn in any of the 1 rows: 1 are longer than 16 tokens and were cut before their"
        f" answers begin. Raise model.max_length; the longest is row 7 with {longest} tokens."
    )
    marks_nothing = with_template(CHATML + "{% generation %}{% endgeneration %}")
    assert refused([TALK], marks_nothing) == (
        "Nothing is left to learn in any of the 1 rows: none of their tokens belongs to what data.loss_on names"
        " (assistant). Mend the template's {% generation %} marks, or set data.loss_on to all."
    )


def test_a_template_that_rewrites_earlier_turns_is_refused_only_where_it_does(tokenizer) -> None:
    tokenizer = with_template(FORGETFUL)
    single = row(("user", "Hi"), ("assistant", "Hello"))
    assert learned(assistant([single], tokenizer), tokenizer) == "<think></think>Hello<|im_end|>"
    both = learned(assistant([TALK], tokenizer), tokenizer)
    assert both == "Hello Ben.<|im_end|><think></think>It is damaged.<|im_end|>"


def test_a_template_that_rewrites_what_was_said_is_refused_where_it_does(tokenizer) -> None:
    tokenizer = with_template(
        CHATML.replace("m.content", "(m.content if loop.last else 'earlier')")
    )
    single = row(("user", "Hi"), ("assistant", "Hello"))
    says = refused([single, TALK._replace(number=2), TALK._replace(number=5)], tokenizer)
    assert says.startswith(
        "Rows 2, 5: the chat template writes messages[2] differently when other turns follow"
    )
    assert says.endswith(
        "so its answers cannot be told from the rest. Use a template with {% generation %} marks, give each answer"
        " a row of its own, or set data.loss_on to all."
    )
    assert assistant([TALK], tokenizer, loss_on="all").trained_tokens > 0


@pytest.mark.parametrize("marks", ["", "{% generation %}{% endgeneration %}"])
def test_rows_that_the_template_refuses_are_named(tokenizer, marks) -> None:
    tokenizer = with_template(STRICT + marks)
    single = row(("user", "Hi"), ("assistant", "Hello"))
    assert refused([single, TALK._replace(number=4)], tokenizer) == (
        "Row 4: the chat template refuses it: No system role. Change the order or the roles of its turns."
    )


def test_a_row_that_begins_with_the_assistant_needs_marks(tokenizer) -> None:
    first = row(("assistant", "Hello"), ("user", "Hi"))
    assert learned(assistant([first], tokenizer), tokenizer) == "Hello<|end|>"
    tokenizer = with_template(unmarked(tokenizer.template))
    assert refused([first], tokenizer) == (
        "Row 1: it begins with an assistant turn. Put a user turn before it."
    )


def test_a_tokenizer_without_a_template_is_refused_and_takes_a_named_one(tmp_path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_text((TINY / "model" / file).read_text())
    bare = ChatTokenizer.load(str(tmp_path))
    assert refused([TALK], bare) == (
        f"The tokenizer of {tmp_path} has no chat template. Take the model's instruct or chat version,"
        " or set data.template to plain, chatml, alpaca or a .jinja file."
    )
    with pytest.raises(DataError):
        prompt_ids(TALK.prompt, bare)
    plain = ChatTokenizer.load(str(tmp_path), template="plain")
    assert learned(assistant([TALK], plain), plain) == "Hello Ben.<|end|>It is damaged.<|end|>"
    with pytest.raises(DataError) as caught:
        ChatTokenizer.load(str(tmp_path), template="plian")
    assert str(caught.value) == (
        "data.template is 'plian', which cannot be read as a file: No such file or directory."
        " Give alpaca, chatml, plain, the path of a .jinja file, or the template itself."
    )


def test_loss_on_says_whose_words_are_learned(tokenizer) -> None:
    def said(loss_on) -> str:
        return learned(assistant([TALK], tokenizer, loss_on=loss_on), tokenizer)

    assert said("last") == "It is damaged.<|end|>"
    assert said(["user"]) == "Hi, this is Ben.<|end|>And 705?<|end|>"
    assert said(["system", "assistant"]) == "Be brief.<|end|>Hello Ben.<|end|>It is damaged.<|end|>"
    whole = assistant([TALK], tokenizer, loss_on="all")
    assert whole.trained_tokens == whole.tokens - 1


def test_raw_text_is_learned_whole_with_an_end(tokenizer) -> None:
    text = Row(1, text="The lamp is red. It is in Rome.")
    encoded = assistant([text], tokenizer)
    assert tokenizer.decode(encoded[0].input_ids) == "The lamp is red. It is in Rome.<|end|>"
    assert encoded.trained_tokens == encoded.tokens - 1
    wrapped = encode(encoded.tokenized, max_length=4, run_on=True)
    assert (wrapped.tokens, wrapped.cut_rows, wrapped.warnings) == (encoded.tokens, 0, ())


def test_what_is_kept_is_the_same_the_second_time(tokenizer) -> None:
    rows = read(TINY / "heldout.jsonl")
    first, again = (tokenize(rows, tokenizer, loss_on="assistant") for _ in range(2))
    assert first.path == again.path and first.path.is_file()
    assert list(encode(first, max_length=64)) == list(encode(again, max_length=64))
    other = tokenize(rows, tokenizer, loss_on="all")
    assert other.path != first.path


def test_positions_choose_the_rows(tokenizer) -> None:
    tokenized = tokenize(read(TINY / "heldout.jsonl"), tokenizer, loss_on="assistant")
    some = encode(tokenized, max_length=128, positions=[3, 300])
    assert [row.number for row in some] == [4, 301]
    assert some.tokens == sum(some.lengths) == sum(len(row.input_ids) for row in some)


def test_answers_that_the_template_leaves_out_are_told() -> None:
    silent = with_template(
        CHATML.replace(
            "m.content + '<|im_end|>", "(m.content if m.role == 'user' else '') + '<|end|>"
        )
    )
    single = row(("user", "Hi"), ("assistant", "Hello"))
    (warning,) = assistant([single], silent).warnings
    assert warning.fact == (
        "In 1 of 1 rows nothing but the end of the turn is learned, so the model learns to say nothing: row 1."
    )
