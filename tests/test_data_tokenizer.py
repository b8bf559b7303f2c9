"""The light tokenizer against Transformers' own: the same files give the same texts and tokens, or a clear refusal."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import chat_templates as real
import pytest
from chat_templates import ROWS, TINY, TOOLS, row
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from workbench.data.faults import Fault
from workbench.data.tokenizer import ChatTokenizer
from workbench.problems import DataError

ROOT = Path(__file__).parents[1]
TEMPLATES = real.every()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return real.save_tokenizer(tmp_path_factory.mktemp("tokenizer"), "{{ messages[0].content }}")


@pytest.fixture(scope="module")
def theirs(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def copied(tmp_path):
    """The tiny model's tokenizer in a folder that a test may change."""
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TINY / file, tmp_path / file)
    return tmp_path


def configure(folder: Path, **settings) -> Path:
    file = folder / "tokenizer_config.json"
    said = json.loads(file.read_text()) | settings
    file.write_text(json.dumps({name: value for name, value in said.items() if value is not None}))
    return folder


# What is written is what Transformers writes


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_conversation_is_written_as_transformers_writes_it(name, theirs):
    theirs.chat_template = TEMPLATES[name]
    ours = ChatTokenizer.of(theirs)
    written = 0
    for row_ in ROWS.values():
        tools = json.loads(row_.tools) if row_.tools else None
        for asked in (False, True):
            options = {"tools": tools, "add_generation_prompt": asked}
            try:
                want = theirs.apply_chat_template(row_.turns(), tokenize=False, **options)
            except Exception:  # the template's own refusal, of any kind
                with pytest.raises(Fault):
                    ours.write(row_.turns(), **options)
                continue
            written += 1
            assert ours.write(row_.turns(), **options) == want
            assert ours.write(row_.turns(), **(options | {"tools": row_.tools})) == want
            if not asked:
                assert ours.marked(row_.turns(), tools=tools).text == want
    assert written >= 10


CORNERS = {
    "json": "{{ {'b': 'ü<&>\\'\"', 'a': [1, none, true]} | tojson }}|{{ tools | tojson(indent=2) }}",
    "json sorted": "{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':'), ensure_ascii=true) }}",
    "loop controls": "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "blocks": "  {% if true %}  \n x \n  {% endif %}\n\n{%- set a = 1 %}\n  {{ a }}\n",
    "not there": "{{ documents is none }}{{ tools is none }}{{ nothing is defined }}{{ nothing }}{{ sep_token }}",
    "special tokens": "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token }}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "year": "{{ strftime_now('%Y') }}",
    "scope in marks": "{% set a = 1 %}{% generation %}{% set a = 2 %}{{ a }}{% endgeneration %}{{ a }}",
    "trimmed marks": " x {%- generation -%} y {%- endgeneration -%} z ",
    "macro": "{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(messages[0].content) }}",
    "escapes": "{{ '<&>' }}{{ messages[0].content | e }}",
}


@pytest.mark.parametrize("name", CORNERS)
def test_the_corners_of_the_template_language_are_the_same(name, theirs):
    theirs.chat_template = CORNERS[name]
    turns = row(("user", "<b> ä"), ("assistant", "x")).turns()
    for tools in (None, TOOLS):
        want = theirs.apply_chat_template(turns, tools=tools, tokenize=False)
        ours = ChatTokenizer.of(theirs)
        assert ours.write(turns, tools=tools) == ours.marked(turns, tools=tools).text == want


def test_a_template_cannot_leave_its_sandbox(theirs):
    for escape in ("{{ ''.__class__.__mro__ }}{{ ''.__class__.__mro__[1].__subclasses__() }}",):
        theirs.chat_template = escape
        with pytest.raises(Fault, match="unsafe"):
            ChatTokenizer.of(theirs).write(ROWS["single"].turns())


def test_a_template_that_is_no_jinja_is_refused_with_its_line(theirs):
    theirs.chat_template = "{% for m in messages %}\n{{ m.content }\n{% endfor %}"
    with pytest.raises(DataError) as caught:
        ChatTokenizer.of(theirs).write(ROWS["single"].turns())
    assert str(caught.value) == (
        "The chat template is no valid Jinja: line 2: unexpected '}'."
        " Mend that line, or take another template with data.template."
    )


# The files say the same to both


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"add_bos_token": True},
        {"add_bos_token": True, "add_eos_token": True},
        {"add_bos_token": False},
        {"eos_token": {"content": "<|stop|>", "lstrip": False, "rstrip": True, "__type": "AddedToken"}},
        {"extra_special_tokens": ["<|one|>", "<|two|>"]},
        {"additional_special_tokens": ["<|one|>"], "extra_special_tokens": None},
        {"added_tokens_decoder": {"1024": {"content": "<x>", "lstrip": True, "special": False}}},
        {"unk_token": "<|pad|>", "sep_token": "<sep>"},
    ],
    ids=lambda settings: ", ".join(settings) or "as it is",
)  # fmt: skip
def test_a_folder_is_read_as_transformers_reads_it(settings, copied):
    from transformers import AutoTokenizer

    configure(copied, **settings)
    ours, theirs = ChatTokenizer.load(copied), AutoTokenizer.from_pretrained(copied)
    around = ChatTokenizer.of(theirs)
    assert ours.special_tokens == around.special_tokens
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (
        theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id,
    )  # fmt: skip
    assert ours.special_ids == around.special_ids >= set(theirs.all_special_ids)
    text = "<|begin|>Hi <|stop|> <x> <|one|>, this is Ben. 705 é🙂 <|end|>"
    assert ours.ids(text) == theirs(text, add_special_tokens=False)["input_ids"]
    (with_special,) = ours.encode([text], special=True)
    assert with_special.ids == theirs(text)["input_ids"]
    assert ours.key == around.key


def test_the_key_tells_what_changes_tokens(copied):
    one = ChatTokenizer.load(copied)
    assert one.key == ChatTokenizer.load(copied).key
    others = [ChatTokenizer.load(copied, template="plain")]
    (copied / "chat_template.jinja").write_text("{{ messages[0].content }}")
    others.append(ChatTokenizer.load(copied))
    configure(copied, eos_token="<|pad|>")
    others.append(ChatTokenizer.load(copied))
    assert len({one.key, *(other.key for other in others)}) == 4


def test_where_a_template_comes_from(copied):
    whole = (copied / "chat_template.jinja").read_text()
    configure(copied, chat_template="{{ 'of the configuration' }}")
    assert ChatTokenizer.load(copied).template == whole
    (copied / "chat_template.jinja").unlink()
    assert ChatTokenizer.load(copied).template == "{{ 'of the configuration' }}"
    several = [
        {"name": "default", "template": "{{ 'usual' }}"},
        {"name": "tool_use", "template": "{{ 'with tools' }}"},
    ]
    configure(copied, chat_template=several)
    named = ChatTokenizer.load(copied)
    turns = ROWS["single"].turns()
    assert (named.template, named.write(turns)) == ("{{ 'usual' }}", "usual")
    assert named.write(turns, tools=TOOLS) == "with tools"
    file = copied / "mine.jinja"
    file.write_text("{{ 'ä' }}", encoding="utf-8")
    assert ChatTokenizer.load(copied, template=str(file)).write(turns) == "ä"
    assert ChatTokenizer.load(copied, template="{{ 'given' }}").write(turns, tools=TOOLS) == "given"


def test_what_can_end_a_turn_is_what_the_template_writes_there(theirs):
    def ends(template: str) -> set[str]:
        theirs.chat_template = template
        made = ChatTokenizer.of(theirs)
        return {made.token(number) for number in made.end_ids}

    assert ends(real.trl("llama3_1")) == {"<|endoftext|>", "<|eot_id|>"}
    assert ends(real.trl("qwen3")) == {"<|endoftext|>", "<|im_end|>"}
    assert ends(real.trl("phi3")) == {"<|endoftext|>", "<|end|>"}
    assert ends(TEMPLATES["ours-plain"]) == ends("{{ raise_exception('no') }}") == {"<|endoftext|>"}


def test_it_needs_neither_torch_nor_transformers():
    code = (
        "import sys; from workbench.data.tokenizer import ChatTokenizer;"
        f"t = ChatTokenizer.load({str(TINY)!r}); t.ids(t.write([{{'role': 'user', 'content': 'Hi'}}]));"
        "assert t.key and t.end_ids; print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert out.stdout == "[]\n", out.stderr


# What the tokens say


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_the_texts_of_the_tokens_make_the_text(text):
    made = ChatTokenizer.load(TINY)
    ids = made.ids(f"<|user|>{text}<|end|>")
    texts = made.token_texts(ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == f"<|user|>{text}<|end|>" == made.decode(ids)


def test_a_character_of_several_tokens_is_told_with_the_first(theirs):
    theirs.chat_template = "x"
    made = ChatTokenizer.of(theirs)
    ids = made.ids("a🙂b")
    texts = made.token_texts(ids)
    assert [text for text in texts if text] == ["a", "🙂", "b"]
    assert texts[:2] == ["a", "🙂"] and set(texts[2:-1]) == {""}
    assert made.token_texts([ids[2]]) == ["\ufffd"]
    assert made.token_texts([]) == []


def test_tokens_that_begin_with_a_space_say_so():
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "▁Hi": 1, "▁there": 2}, "<unk>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made = ChatTokenizer("small", backend, {}, {})
    assert made.token_texts(made.ids("Hi there Hi")) == ["Hi", " there", " Hi"]
    assert made.bos_id is made.eos_id is made.pad_id is None


# What cannot be used


def refused(*arguments, **options) -> str:
    with pytest.raises(DataError) as caught:
        ChatTokenizer.load(*arguments, **options)
    return str(caught.value)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path, copied, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused("./modle").startswith("The model folder modle does not exist. ")
    assert refused(tmp_path / "tokenizer.json") == (
        f"{tmp_path / 'tokenizer.json'} is a file. Give the folder that holds config.json and model.safetensors."
    )
    configure(copied, eos_token=5)
    assert refused(copied).startswith(
        f"The special tokens in the tokenizer_config.json of {copied} cannot be read: "
    )
    (copied / "tokenizer_config.json").write_text("[]")
    assert refused(copied) == (
        f"{copied / 'tokenizer_config.json'} is not a JSON object. Copy or download it again."
    )
    (copied / "tokenizer.json").write_text("{}")
    (copied / "tokenizer_config.json").write_text("{}")
    assert refused(copied).startswith(
        f"{copied / 'tokenizer.json'} is no tokenizer that can be read: "
    )
    (copied / "tokenizer.json").unlink()
    assert refused(copied) == (
        f"{copied} has no tokenizer.json, which says how text becomes tokens. Take a version of the model that has it,"
        " or write it with AutoTokenizer.from_pretrained(name).save_pretrained(folder)."
    )


def test_a_name_that_is_not_here_is_refused_offline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused("nobody/nothing-at-all") == (
        "nobody/nothing-at-all is not on this machine, and the hub cannot be read: HF_HUB_OFFLINE is set."
        " Unset HF_HUB_OFFLINE, or give a folder that holds the model (./model)."
    )


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("gated", "someone/model is gated, and no Hugging Face token is set."),
        ("lost", "There is no folder someone/model here, and no public model of that name on the hub."),
        ("empty", "someone/model has no tokenizer.json, which says how text becomes tokens."),
    ],
)  # fmt: skip
def test_what_the_hub_answers_is_told(answer, says, monkeypatch, tmp_path):
    import httpx
    import huggingface_hub
    from huggingface_hub import errors

    kinds = {
        "gated": errors.GatedRepoError,
        "lost": errors.RepositoryNotFoundError,
        "empty": errors.RemoteEntryNotFoundError,
    }

    def hub(*_, **__):
        raise kinds[answer](
            "no", response=httpx.Response(404, request=httpx.Request("GET", "http://h"))
        )

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    monkeypatch.chdir(tmp_path)
    assert refused("someone/model").startswith(says)


def test_a_template_without_a_name_or_file_is_refused(copied):
    assert refused(copied, template="plian") == (
        "data.template is 'plian', which cannot be read as a file: No such file or directory."
        " Give alpaca, chatml, plain, the path of a .jinja file, or the template itself."
    )
    (copied / "bad.jinja").write_bytes(b"\xff\xfe\xff")
    assert "which cannot be read as a file: it is not UTF-8 text." in refused(
        copied, template=str(copied / "bad.jinja")
    )


def test_a_tokenizer_that_works_in_python_is_refused():
    class SlowTokenizer:
        chat_template = None

    with pytest.raises(DataError) as caught:
        ChatTokenizer.of(SlowTokenizer())
    assert str(caught.value) == (
        "SlowTokenizer cannot tell which characters a token stands for, which marks the answers."
        " Take a version of the model that has a tokenizer.json."
    )


def test_a_model_without_a_template_writes_nothing(copied):
    (copied / "chat_template.jinja").unlink()
    bare = ChatTokenizer.load(copied)
    assert (bare.template, bare.has_marks, bare.end_ids) == ("", False, {bare.eos_id})
    with pytest.raises(DataError) as caught:
        bare.write(ROWS["single"].turns())
    assert str(caught.value) == (
        f"The tokenizer of {copied} has no chat template. Take the model's instruct or chat version,"
        " or set data.template to plain, chatml, alpaca or a .jinja file."
    )
