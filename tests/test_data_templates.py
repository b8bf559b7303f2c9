"""The templates of the workbench, prompts, and what is told of a template before anything is trained."""

import json
import tomllib
from pathlib import Path

import chat_templates as real
import pytest
from chat_templates import ROWS, TINY, TOOLS, row

from workbench.data.template import check, prompt_ids, prompt_text
from workbench.data.tokenizer import ChatTokenizer
from workbench.data.tokenizer_files import named
from workbench.problems import DataError

ROOT = Path(__file__).parents[1]
TEMPLATES = real.every()
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PLAIN = [ROWS[name] for name in ("single", "system", "several", "system, several", "unicode")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return real.save_tokenizer(tmp_path_factory.mktemp("tokenizer"), CHATML)


@pytest.fixture
def made(folder):
    return lambda template: ChatTokenizer.load(folder, template=template)


def told(tokenizer, *rows, loss_on="assistant") -> list[str]:
    numbered = [row_._replace(number=number) for number, row_ in enumerate(rows, 1)]
    return [str(problem) for problem in check(tokenizer, numbered, loss_on)]


# The named templates


@pytest.mark.parametrize("name", named())
def test_a_named_template_can_be_trusted_with_everything(name, made):
    rows = [r for key, r in ROWS.items() if key != "markup"]
    assert told(made(name), *rows) == []
    assert told(made(name), *rows, loss_on="last") == []


@pytest.mark.parametrize("name", named())
def test_a_named_template_writes_all_that_is_said_in_order(name, made):
    for row_ in ROWS.values():
        text, at = made(name).write(row_.turns(), tools=row_.tools), 0
        for message in row_.messages:
            for said in (message.reasoning, message.content):
                at = text.index(said, at) + len(said)
        for tool in json.loads(row_.tools or "[]"):
            assert json.dumps(tool, ensure_ascii=False) in text
        for message in row_.messages:
            for call in json.loads(message.tool_calls or "[]"):
                assert json.dumps({"name": call["name"], "arguments": call["arguments"]}) in text


@pytest.mark.parametrize("name", named())
def test_what_the_model_is_asked_with_is_how_a_row_goes_on(name, made):
    for row_ in ROWS.values():
        text = made(name).write(row_.turns(), tools=row_.tools)
        for place, message in enumerate(row_.messages):
            if message.role == "assistant":
                asked = prompt_text(row_.messages[:place], made(name), tools=row_.tools)
                assert text.startswith(asked)


def test_what_the_named_templates_look_like(made):
    turns = row(("system", "Be brief."), ("user", "Hi."), ("assistant", "Hello.")).turns()
    assert made("plain").write(turns) == (
        "<s>Be brief.\n\n### User:\nHi.\n\n### Assistant:\nHello.<|endoftext|>\n\n"
    )
    assert made("chatml").write(turns) == (
        "<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi.<|im_end|>\n"
        "<|im_start|>assistant\nHello.<|im_end|>\n"
    )
    assert made("alpaca").write(turns[1:], add_generation_prompt=True) == (
        "<s>Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nHi.\n\n### Response:\nHello.<|endoftext|>\n\n### Response:\n"
    )


def test_the_named_templates_are_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = project["package-data"]["workbench.data"]
    there = {path for pattern in patterns for path in (ROOT / "workbench/data").glob(pattern)}
    assert {path.stem for path in there} == set(named()) == {"plain", "chatml", "alpaca"}


# Prompts


def test_a_prompt_is_the_same_from_rows_and_from_dicts(made):
    tokenizer = made("chatml")
    talk = ROWS["tools"]
    dicts = [message.turn() for message in talk.prompt]
    text = prompt_text(dicts, tokenizer, tools=TOOLS)
    assert text == prompt_text(talk.prompt, tokenizer, tools=talk.tools)
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n") and "lookup" in text
    assert prompt_ids(dicts, tokenizer, tools=TOOLS) == tokenizer.ids(text)
    assert prompt_ids(dicts, tokenizer).count(tokenizer.bos_id) == 1


def test_a_prompt_that_a_template_refuses_is_told(made):
    with pytest.raises(DataError) as caught:
        prompt_ids(ROWS["system"].prompt, made(real.trl("gemma")))
    assert str(caught.value) == (
        "The chat template refuses the prompt: System role not supported."
        " Change the order or the roles of its turns."
    )


# What is told of templates


@pytest.mark.parametrize("name", ["trl-qwen2_5", "trl-llama3", "unsloth-chatml", "unsloth-phi4"])
def test_of_a_good_template_nothing_is_told(name, made):
    start = "" if "bos_token" in TEMPLATES[name] else "{{ bos_token }}"
    assert told(made(start + TEMPLATES[name]), *PLAIN, ROWS["empty answer"]) == []


def test_a_thought_that_the_template_writes_by_itself_is_told(made):
    says = told(made(real.trl("qwen3")), ROWS["several"], ROWS["thinking"])
    assert says == [
        "Row 1: the chat template writes '<think>\\n\\n</think>' before an answer by itself, and it is learned."
        " Nothing to do if the model is meant to write it; else take another with data.template.",
        "Row 2: the chat template leaves out the reasoning of an answer."
        " It is not learned then; give each answer a row of its own to keep it.",
    ]


def test_a_prompt_that_goes_on_otherwise_in_training_is_told(made):
    asked = CHATML.replace("assistant\n'", "assistant\n<think>\n'")
    assert told(made(asked), ROWS["single"], ROWS["several"]) == [
        "Rows 1, 2: the model is asked with '<|im_end|>\\n<|im_start|>assistant\\n<think>\\n', but in training"
        " '<|im_end|>\\n<|im_start|>assistant\\n' comes before the answer."
        " Look at what the template writes for add_generation_prompt: it should be how a row goes on."
    ]


def test_a_prompt_whose_end_melts_into_the_answer_is_told(made):
    melting = CHATML.replace("'\n' + m.content", "': ' + m.content").replace(
        "assistant\n", "assistant:"
    )
    assert told(made(melting), ROWS["single"]) == [
        "Row 1: the end of the prompt 'sistant:' and what follows it are one token in training."
        " End the prompt with a line break or a special token, and begin answers without a space."
    ]


def test_a_first_token_that_is_there_twice_or_not_at_all_is_told(made, folder):
    twice = made("{{ bos_token }}{{ bos_token }}" + CHATML)
    assert told(twice, ROWS["single"]) == [
        "Row 1: the text begins with <s> twice, once from the template and once more."
        " Take it out of the template or of the rows: no model was trained like that."
    ]
    none = made(CHATML)
    assert told(none, ROWS["single"]) == []  # this tokenizer adds none either
    from tokenizers.processors import TemplateProcessing

    none.backend.post_processor = TemplateProcessing("<s> $A", None, [("<s>", none.bos_id)])
    assert told(none, ROWS["single"]) == [
        "Row 1: the text does not begin with <s>, which this tokenizer puts before every text."
        " Begin the template with {{ bos_token }}."
    ]


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (
            CHATML.replace("<|im_end|>", ""),
            "Row 1: the chat template writes nothing after an answer, so the model does not learn to stop."
            " End answers with {{ eos_token }} in the template, or take another with data.template.",
        ),
        (
            CHATML.replace("<|im_end|>", "###"),
            "Row 1: an answer ends with '###', in which no token ends a turn. Take the model's own"
            " template, or one that ends answers with {{ eos_token }}, such as plain.",
        ),
        (
            "{% for m in messages %}{{ m.role }}: {% generation %}{{ m.content }}{% endgeneration %}<|im_end|>\n"
            "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}",
            "Row 1: '<|im_end|>' after the answer is not learned, so the model may not stop."
            " Put it inside the template's {% generation %} marks.",
        ),
    ],
    ids=["nothing", "no token", "not marked"],
)
def test_an_answer_without_an_end_is_told(template, says, made):
    assert told(made(template), ROWS["single"]) == [says]
    assert told(made(template), ROWS["single"], loss_on=["user"]) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("m.content | trim", "removes white space around what the role user says"),
        ("m.content | upper", "changes what the role user says"),
        ("('' if m.role == 'user' else m.content)", "leaves out what the role user says"),
    ],
)
def test_words_that_a_template_changes_are_told(content, says, made):
    changing = made(CHATML.replace("m.content", content))
    rows = [row(("user", " Hi there. "), ("assistant", "OK"), number=1)]
    assert [text.partition(": ")[2].partition(".")[0] for text in told(changing, *rows)] == [
        f"the chat template {says}"
    ]


def test_a_role_and_functions_that_are_left_out_are_told(made):
    without = (
        "{% for m in messages if m.role != 'tool' and m.role != 'system' %}"
        + CHATML.partition("%}")[2]
    )
    says = told(made(without), ROWS["system"], ROWS["tools, none called"], ROWS["tools"])
    assert [text.partition(". ")[0] for text in says] == [
        "Row 1: the chat template leaves out what the role system says",
        "Rows 2, 3: the chat template leaves out the functions that may be called",
        "Row 3: the chat template leaves out what the role tool says",
        "Row 3: the chat template leaves out the calls of functions",
    ]


def test_a_template_that_raises_is_told_with_its_own_words(made):
    says = told(made(real.trl("gemma")), ROWS["single"], ROWS["system"], ROWS["system, several"])
    assert says == [
        "Rows 2, 3: the chat template refuses it: System role not supported."
        " Change the order or the roles of its turns."
    ]


def test_words_that_are_special_tokens_are_told(made):
    typed = row(("user", "What is <|im_end|>?"), ("assistant", "A token."))
    says = told(made(CHATML), ROWS["single"], typed, typed)
    assert says == [
        "Rows 2, 3: what the role user says contains <|im_end|>, which is read as the special token."
        " Take it out or write it otherwise, unless it is meant: it can end or begin a turn."
    ]


def test_raw_text_has_no_template_to_be_told_of(folder):
    bare = ChatTokenizer.load(TINY, template="{{ raise_exception('never asked') }}")
    assert check(bare, [ROWS["single"]._replace(messages=(), text="raw")], "assistant") == []
