"""Whose words are learned, on real chat templates: against TRL, against Unsloth, and by what must hold for all."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import chat_templates as real
import pytest
from chat_templates import ROWS, row
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from workbench.data import masks
from workbench.data.faults import Fault
from workbench.data.rows import Row
from workbench.data.spans import Finder, Talk
from workbench.data.tokenizer import ChatTokenizer
from workbench.problems import DataError

HERE = Path(__file__).parent
TEMPLATES = real.every()
ROLES = ("system", "user", "assistant", "tool")
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Transformers' tokenizer with the tokens of all templates."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        real.save_tokenizer(tmp_path_factory.mktemp("tokenizer"), CHATML)
    )


@pytest.fixture(scope="module")
def ours(theirs):
    """Ours around it, with a template."""
    return functools.partial(ChatTokenizer.of, theirs)


@pytest.fixture(params=TEMPLATES)
def named(request, theirs, ours):
    """A real template: its name, and ours with it."""
    theirs.eos_token = real.eos(request.param)
    yield request.param, ours(TEMPLATES[request.param])
    theirs.eos_token = "<|endoftext|>"


def one(row_: Row, tokenizer: ChatTokenizer, loss_on) -> masks.Tokens:
    (tokens,) = masks.tokens([row_], tokenizer, loss_on=loss_on)
    return tokens


def learned(tokens: masks.Tokens, tokenizer: ChatTokenizer) -> str:
    return tokenizer.decode([t for t, on in zip(tokens.ids, tokens.mask, strict=True) if on])


def writable(tokenizer: ChatTokenizer) -> list[Row]:
    """The rows that a template does not refuse."""
    found = []
    for row_ in ROWS.values():
        try:
            tokenizer.write(row_.turns(), tools=row_.tools)
        except Fault:
            continue
        found.append(row_)
    return found


def unmarked(text: str) -> str:
    """A template without its generation marks, the white space around them dealt with as they say."""
    for tag in ("generation", "endgeneration"):
        text = text.replace(f"{{%- {tag} -%}}", "{%- if true -%}{%- endif -%}")
        text = text.replace(f"{{%- {tag} %}}", "{%- if true %}{% endif %}")
        text = text.replace(f"{{% {tag} %}}", "{% if true %}{% endif %}")
    assert "generation %}" not in text
    return text


def without_breaks(
    tokens: masks.Tokens, tokenizer: ChatTokenizer, *, before: bool = False
) -> list[int]:
    """The mask, without line breaks that end a learned stretch, or begin one too."""
    mask = list(tokens.mask)
    ways = [(reversed(range(len(mask))), 1), *([(range(len(mask)), -1)] if before else [])]
    for places, beside in ways:
        for place in places:
            edge = not 0 <= place + beside < len(mask) or not mask[place + beside]
            if mask[place] and edge and not tokenizer.decode([tokens.ids[place]]).strip():
                mask[place] = 0
    return mask


# What must hold for all templates


def test_the_answers_are_learned_with_their_ends_and_nothing_else(named):
    name, tokenizer = named
    ends = {tokenizer.token(number) for number in tokenizer.end_ids}
    for row_ in writable(tokenizer):
        if row_.tools or any(m.reasoning or "think" in m.content for m in row_.messages):
            continue
        rest = learned(one(row_, tokenizer, "assistant"), tokenizer)
        for message in row_.messages:
            if message.role == "assistant":
                said = message.content.strip()
                if (
                    name == "unsloth-vicuna"
                ):  # ": " is one token here, though the prompt ends with ":"
                    rest = rest.removeprefix(":")
                rest = rest.lstrip().removeprefix("<think>\n\n</think>").lstrip()
                assert rest.startswith(said), (name, row_, rest)
                rest = rest.removeprefix(said)
                end = next((token for token in ends if rest.lstrip().startswith(token)), None)
                assert end, (name, row_, rest)
                rest = rest.lstrip().removeprefix(end)
        assert rest.strip() in ("", "<|endoftext|>"), (name, row_)


def test_the_last_answer_is_what_is_learned_last(named):
    name, tokenizer = named
    for row_ in writable(tokenizer):
        every, last = (one(row_, tokenizer, loss_on) for loss_on in ("assistant", "last"))
        assert every.ids == last.ids
        first = last.mask.find(1)
        assert first >= 0, (name, row_)
        assert last.mask[first:] == every.mask[first:], (name, row_)
        answers = sum(message.role == "assistant" for message in row_.messages)
        assert (last.mask == every.mask) == (answers == 1), (name, row_)


def test_roles_share_no_token_and_all_is_everything(named):
    name, tokenizer = named
    for row_ in writable(tokenizer):
        by_role = [one(row_, tokenizer, [role]).mask for role in ROLES]
        assert max(map(sum, zip(*by_role, strict=True))) == 1, (name, row_)
        together = one(row_, tokenizer, list(ROLES)).mask
        assert list(together) == [max(column) for column in zip(*by_role, strict=True)]
        whole = one(row_, tokenizer, "all")
        assert whole.mask == b"\1" * len(whole.ids)
        assert whole.ids == tokenizer.ids(tokenizer.write(row_.turns(), tools=row_.tools))


def test_what_a_user_says_is_learned_when_it_is_asked_for(named):
    _, tokenizer = named
    said = learned(one(ROWS["several"], tokenizer, ["user"]), tokenizer)
    for message in ROWS["several"].messages:
        assert (message.content in said) == (message.role == "user")


def test_the_quick_way_tells_the_same_as_looking_at_each_row(named):
    """The outline of a shape of conversation, laid over a row, against that row's own texts."""
    name, tokenizer = named
    for roles, last in ((["assistant"], False), (["assistant"], True), (["system", "user"], False)):
        finder = Finder(tokenizer, roles, last=last)
        for row_ in writable(tokenizer):
            talk = Talk(tokenizer, row_)
            places = [p for p, m in enumerate(row_.messages) if m.role in roles]
            exact = [talk.span(place) for place in (places[-1:] if last else places)]
            for _ in range(2):
                assert finder.find(row_) == (talk.text, exact), (name, row_)


# Against TRL and Transformers


@pytest.mark.parametrize("name", real.MARKED)
def test_marks_are_read_as_trl_reads_them(name, theirs, ours):
    """`assistant_only_loss` of TRL is `return_assistant_tokens_mask` of Transformers on these templates."""
    theirs.chat_template = real.trl(f"{name}_training")
    tokenizer = ours()
    for row_ in writable(tokenizer):
        want = theirs.apply_chat_template(
            row_.turns(),
            tools=json.loads(row_.tools) if row_.tools else None,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        got = one(row_, tokenizer, "assistant")
        assert got.ids == want["input_ids"]
        assert list(got.mask) == want["assistant_masks"], row_


@pytest.mark.parametrize(
    "marks",
    [
        "{% generation %}{{ m.content }}{% endgeneration %}",
        " {%- generation -%} {{ m.content }} {%- endgeneration -%} ",
        "{% generation %}{% if m.content %}{{ m.content }}{% endif %}{{ eos_token }}{% endgeneration %}",
        "{% generation %}{% for c in m.content %}{{ c }}{% endfor %}{% endgeneration %}{{ 'after' }}",
        "{% generation %}{% endgeneration %}{{ m.content }}",
        "{% generation %}{{ m.content }}{% endgeneration %}{% generation %}{{ eos_token }}{% endgeneration %}",
        "{% generation %}{% set x %}{{ m.content }}!{% endset %}{{ x }}{% endgeneration %}",
        "{% macro said(x) %}<{{ x }}>{% endmacro %}{% generation %}{{ said(m.content) }}{% endgeneration %}",
    ],
)
def test_marks_of_every_form_are_read_as_transformers_reads_them(marks, theirs, ours):
    theirs.chat_template = (
        "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}"
        + marks
        + "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    for row_ in (ROWS["several"], ROWS["unicode"]):
        want = theirs.apply_chat_template(
            row_.turns(), return_dict=True, return_assistant_tokens_mask=True
        )
        got = one(row_, ours(), "assistant")
        assert got.ids == want["input_ids"]
        assert list(got.mask) == want["assistant_masks"]


@pytest.mark.parametrize("name", real.MARKED)
def test_without_marks_the_same_is_learned_but_for_line_breaks_after_the_end(name, ours):
    """TRL's marks hold the line break that follows an end-of-turn token; by ourselves we leave it out.

    For Qwen 2.5 they hold the one before an answer as well, which is the end of what the model is asked with.
    """
    marked = ours(real.trl(f"{name}_training"))
    bare, original = ours(unmarked(marked.template)), ours(real.trl(name))
    assert marked.has_marks and not bare.has_marks and not original.has_marks
    compared = 0
    for row_ in writable(marked):
        want = one(row_, marked, "assistant")
        got = one(row_, bare, "assistant")
        assert got.ids == want.ids
        assert without_breaks(got, bare) == list(got.mask)
        sides = {"before": name == "qwen2_5"}
        same = without_breaks(got, bare, **sides)
        assert without_breaks(want, marked, **sides) == same, row_
        shipped = one(row_, original, "assistant")
        if shipped.ids == want.ids:  # Qwen 3's earlier answers are written without their thoughts
            compared += 1
            assert shipped.mask == got.mask
    assert compared >= 4


# Against Unsloth


UNSLOTH = {
    "unsloth-chatml": ("<|im_start|>user\n", "<|im_start|>assistant\n"),
    "unsloth-llama3": (
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "unsloth-llama31": (
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "unsloth-qwen25": ("<|im_start|>user\n", "<|im_start|>assistant\n"),
    "unsloth-qwen3": ("<|im_start|>user\n", "<|im_start|>assistant\n"),
    "unsloth-gemma": ("<start_of_turn>user\n", "<start_of_turn>model\n"),
    "unsloth-gemma3": ("<start_of_turn>user\n", "<start_of_turn>model\n"),
    "unsloth-mistral": ("[INST]", "[/INST]"),
    "unsloth-phi3": ("<|user|>\n", "<|assistant|>\n"),
    "unsloth-phi4": (
        "<|im_start|>user<|im_sep|>",
        "<|im_start|>assistant<|im_sep|>",
    ),
}
# Rows whose words are no markers themselves: Unsloth looks for those in the tokens.
COMPARED = (
    "single",
    "system",
    "several",
    "system, several",
    "unicode",
    "same words",
    "thinking in words",
)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("unsloth") is None, reason="unsloth is not installed")
def test_unsloth_trains_the_same_tokens_but_for_line_breaks_after_the_end(tmp_path, theirs):
    """`train_on_responses_only` of the real Unsloth. It learns what follows the end-of-turn token, too; we do not."""
    asked, mine = [], []
    for name, (instruction, response) in UNSLOTH.items():
        folder = real.save_tokenizer(tmp_path / name, TEMPLATES[name], real.eos(name))
        tokenizer = ChatTokenizer.load(folder)
        rows = [r for r in writable(tokenizer) if r in [ROWS[key] for key in COMPARED]]
        assert len(rows) >= 4
        tokens = [one(row_, tokenizer, "assistant") for row_ in rows]
        mine.append((name, tokenizer, rows, tokens))
        ids = [each.ids for each in tokens]
        part = {"folder": str(folder), "instruction": instruction, "response": response}
        asked.append(part | {"rows": ids})
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    paths = [str(HERE / "unsloth_on_cpu")]
    made = subprocess.run(
        [sys.executable, HERE / "unsloth_masks.py", tmp_path / "asked.json", tmp_path / "said.json"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": ""},
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr[-3000:]
    answered = json.loads((tmp_path / "said.json").read_text())
    for (name, tokenizer, rows, tokens), labels in zip(mine, answered, strict=True):
        for row_, got, row_labels in zip(rows, tokens, labels, strict=True):
            want = got._replace(mask=bytes(label != -100 for label in row_labels))
            assert without_breaks(want, tokenizer) == list(got.mask), (name, row_)


# What is tokenized, and how fast it may be done


def metaspace() -> Tokenizer:
    """A small tokenizer of the other kind: words begin with a mark for the space before them."""
    text = "Hi , this is Ben . Hello assistant user damaged It lamp The red ### : é".split()
    vocabulary = ["<unk>", "▁", *text, *(f"▁{word}" for word in text), *map(chr, range(33, 127))]
    made = Tokenizer(models.Unigram([(word, -1.0 - len(word) / 99) for word in dict.fromkeys(vocabulary)], 0))  # fmt: skip
    made.normalizer = normalizers.Replace("\u00a0", " ")
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens([AddedToken(t, normalized=False) for t in ("<s>", "<|im_start|>", "<|im_end|>")])  # fmt: skip
    return made


def test_a_tokenizer_whose_tokens_do_not_tell_their_length_is_asked_for_places():
    tokenizer = ChatTokenizer(
        "small", metaspace(), {"eos_token": "<|im_end|>"}, {"default": CHATML}
    )
    assert tokenizer.byte_lengths is None
    for row_ in (ROWS["single"], ROWS["several"]):
        said = learned(one(row_, tokenizer, "assistant"), tokenizer)
        want = " ".join(m.content + "<|im_end|>" for m in row_.messages if m.role == "assistant")
        assert (
            said.replace("<unk>", "").split("<|im_end|>")[0].strip() == want.split("<|im_end|>")[0]
        )
        assert said.count("<|im_end|>") == want.count("<|im_end|>")


@pytest.mark.parametrize("name", ["unsloth-chatml", "unsloth-llama31", "ours-plain"])
def test_lengths_and_places_tell_the_same(name, theirs, ours, monkeypatch):
    tokenizer = ours(TEMPLATES[name])
    assert tokenizer.byte_lengths is not None
    rows = writable(tokenizer)
    by_lengths = list(masks.tokens(rows, tokenizer, loss_on="assistant"))
    monkeypatch.setitem(vars(tokenizer), "byte_lengths", None)
    assert list(masks.tokens(rows, tokenizer, loss_on="assistant")) == by_lengths


def test_what_a_normalizer_changes_is_looked_up_instead(theirs):
    """NFC makes one letter of two: there lengths would be wrong, and places are asked for."""
    backend = Tokenizer.from_str(theirs.backend_tokenizer.to_str())
    backend.normalizer = normalizers.NFC()
    tokenizer = ChatTokenizer("nfc", backend, {"eos_token": "<|endoftext|>"}, {"default": CHATML})
    assert tokenizer.byte_lengths is not None
    for said in ("plain", "e\u0301te\u0301", "\u0958\u0958", "été 🙂"):
        tokens = one(row(("user", said * 3), ("assistant", said)), tokenizer, "assistant")
        normal = backend.normalizer.normalize_str(said)
        assert learned(tokens, tokenizer) == normal + "<|im_end|>"


def test_raw_text_is_learned_whole_whatever_is_asked_for(ours):
    tokenizer = ours(CHATML)
    for loss_on in ("assistant", "last", "all", ["user"]):
        tokens = one(Row(1, text="The lamp is red."), tokenizer, loss_on)
        assert learned(tokens, tokenizer) == "The lamp is red.<|endoftext|>"
        assert tokens.ids.count(tokenizer.eos_id) == 1
    ended = one(Row(1, text="The lamp.<|endoftext|>"), tokenizer, "assistant")
    assert tokenizer.decode(ended.ids) == "The lamp.<|endoftext|>"


def test_rows_come_in_order_and_as_many_as_there_are(ours):
    tokenizer = ours(CHATML)
    raw = Row(1, text="raw")
    rows = [raw if n % 7 == 0 else row(("user", "Hi"), ("assistant", f"Number {n}.")) for n in range(2 * masks.BATCH + 3)]  # fmt: skip
    said = [learned(t, tokenizer) for t in masks.tokens(iter(rows), tokenizer, loss_on="last")]
    want = [
        "raw<|endoftext|>" if n % 7 == 0 else f"Number {n}.<|im_end|>" for n in range(len(rows))
    ]
    assert said == want
    assert list(masks.tokens([], tokenizer, loss_on="last")) == []


def test_padding_and_cutting_that_transformers_left_set_change_nothing(theirs, ours):
    tokenizer = ours(CHATML)
    rows = [ROWS["single"], ROWS["several"]]
    before = list(masks.tokens(rows, tokenizer, loss_on="assistant"))
    theirs(["a", "a b c d"], padding=True, truncation=True, max_length=3)
    assert theirs.backend_tokenizer.padding and theirs.backend_tokenizer.truncation
    assert list(masks.tokens(rows, tokenizer, loss_on="assistant")) == before


# Rows that cannot be written or marked


def refused(rows, tokenizer, loss_on="assistant") -> DataError:
    with pytest.raises(DataError) as caught:
        list(masks.tokens(rows, tokenizer, loss_on=loss_on))
    return caught.value


def test_all_rows_that_a_template_refuses_are_named_however_far_apart(ours):
    strict = ours(
        "{% if messages[0].role == 'system' %}{{ raise_exception('No system role.') }}{% endif %}"
        + CHATML
    )
    rows = [ROWS["single"]._replace(number=n) for n in range(1, 3 * masks.BATCH)]
    for number in (5, 2 * masks.BATCH + 9, 2 * masks.BATCH + 10, len(rows)):
        rows[number - 1] = ROWS["system"]._replace(number=number)
    assert str(refused(rows, strict)) == (
        "Rows 5, 509, 510 and 1 more: the chat template refuses it: No system role."
        " Change the order or the roles of its turns."
    )


def test_at_most_twenty_kinds_are_told_and_the_rest_counted(ours):
    loud = ours("{{ raise_exception(messages[0].content) }}")
    rows = [row(("user", f"kind {n}"), ("assistant", "a"), number=n) for n in range(1, 26)]
    problems = refused(rows, loud).problems
    assert len(problems) == 21
    assert str(problems[-1]) == (
        "5 more rows cannot be written or marked. They are shown when those above are mended."
    )


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ messages[0].content + 1 }}", 'can only concatenate str (not "int") to str'),
        ("{{ messages[9].content }}", "list object has no element 9"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages.append(1) }}", "access to attribute 'append' of 'list' object is unsafe"),
        ("{{ undefined_thing() }}", "'undefined_thing' is undefined"),
    ],
)
def test_whatever_a_template_raises_is_the_rows_problem(template, reason, ours):
    assert str(refused([ROWS["single"]], ours(template))).startswith(
        f"Row 1: the chat template refuses it: {reason}"
    )


def test_words_that_look_like_tokens_are_tokens_as_in_transformers(theirs, ours):
    """A user who types <|im_end|> ends a turn: as with Transformers, and `check` warns of it."""
    tokenizer = ours(CHATML)
    tokens = one(ROWS["markup"], tokenizer, "assistant")
    assert tokens.ids == theirs.apply_chat_template(
        ROWS["markup"].turns(), chat_template=CHATML, return_dict=False
    )
    assert learned(tokens, tokenizer) == (
        'It is "<|im_start|>user".<|im_end|>### Assistant:\nNo.<|im_end|>'
    )


def test_a_row_with_the_words_that_stand_for_words_is_marked_all_the_same(ours):
    tokenizer = ours(CHATML)
    odd = "\ue000\ue002\ue001 \ue0001\ue001 \ue0004\ue001"
    tokens = one(row(("user", odd), ("assistant", odd)), tokenizer, "assistant")
    assert learned(tokens, tokenizer) == odd + "<|im_end|>"
