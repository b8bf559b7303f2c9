"""What a chat template makes of prompts, and whether it can be trusted with rows: told before anything is trained.

Knows conversations and their texts; nothing of files or labels.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..problems import DataError, Problem
from ..recipe import LossOn
from . import masks
from .faults import Fault
from .rows import Message, Row, named
from .spans import Talk
from .tokenizer import ChatTokenizer, Tools
from .writing import Written

Conversation = Sequence[Message | Mapping[str, Any]]
LONGEST = 60  # characters of a template's own text that a message shows


def prompt_text(messages: Conversation, tokenizer: ChatTokenizer, *, tools: Tools = None) -> str:
    """A conversation as the template writes it, up to where the assistant begins to answer. Raises DataError."""
    turns = [m.turn() if isinstance(m, Message) else dict(m) for m in messages]
    try:
        return tokenizer.write(turns, tools=tools, add_generation_prompt=True)
    except Fault as fault:
        fact = f"{fault.fact[0].upper()}{fault.fact[1:]}.".replace(
            "refuses it", "refuses the prompt"
        )
        raise DataError([Problem("data.template", fact, fault.cure)]) from None


def prompt_ids(
    messages: Conversation, tokenizer: ChatTokenizer, *, tools: Tools = None
) -> list[int]:
    """The token ids of `prompt_text`; the template writes the first token itself, so none is added."""
    return tokenizer.ids(prompt_text(messages, tokenizer, tools=tools))


class _Seen(NamedTuple):
    """Something odd about a row: what is told once for all rows that have it."""

    where: str
    fact: str
    cure: str


def check(tokenizer: ChatTokenizer, rows: Sequence[Row], loss_on: LossOn) -> list[Problem]:
    """What the template does to these rows that a reader would not expect; each thing once, with the rows' numbers."""
    seen: dict[_Seen, list[int]] = {}
    for row in rows:
        if row.messages:
            for one in dict.fromkeys(_oddities(row, tokenizer, loss_on)):
                seen.setdefault(one, []).append(row.number)
    problems = []
    for (where, fact, cure), numbers in seen.items():
        rows_named = named(numbers)
        problems.append(Problem(where, f"{rows_named[0].upper()}{rows_named[1:]}: {fact}.", cure))
    return problems


def _oddities(row: Row, tokenizer: ChatTokenizer, loss_on: LossOn) -> Iterator[_Seen]:
    try:
        talk = Talk(tokenizer, row)
    except Fault as fault:
        yield _Seen("data.template", fault.fact, fault.cure)
        return
    yield from _first_token(talk.text, tokenizer)
    yield from _changed(row, talk)
    yield from _functions(row, talk)
    yield from _special_words(row, tokenizer)
    try:
        yield from _answers(row, talk, tokenizer)
        if loss_on == "all" or loss_on == "last" or "assistant" in loss_on:
            yield from _ends(row, talk, tokenizer, loss_on)
    except Fault as fault:
        yield _Seen("data.template", fault.fact, fault.cure)


def _first_token(text: str, tokenizer: ChatTokenizer) -> Iterator[_Seen]:
    """The beginning of text is there once where the model knows one."""
    bos = tokenizer.special_tokens.get("bos_token", "")
    if bos and text.startswith(2 * bos):
        fact = f"the text begins with {bos} twice, once from the template and once more"
        cure = "Take it out of the template or of the rows: no model was trained like that."
        yield _Seen("data.template", fact, cure)
    elif bos and not text.startswith(bos):
        (usual,) = tokenizer.encode(["a"], special=True)
        if usual.ids[:1] == [tokenizer.bos_id]:
            fact = (
                f"the text does not begin with {bos}, which this tokenizer puts before every text"
            )
            cure = "Begin the template with {{ bos_token }}."
            yield _Seen("data.template", fact, cure)


def _changed(row: Row, talk: Talk) -> Iterator[_Seen]:
    """What is said is written as it is: nothing dropped, nothing trimmed."""
    where = "data.template"
    for place, message in enumerate(row.messages):
        content, role = message.content, message.role
        if content and talk.leaves_out(place):
            fact = f"the chat template leaves out what the role {role} says"
            cure = "Put that text into a user turn, or take another template with data.template."
            yield _Seen(where, fact, cure)
        elif content not in talk.text and json.dumps(content, ensure_ascii=False) not in talk.text:
            if content.strip() in talk.text:
                fact = f"the chat template removes white space around what the role {role} says"
                cure = "Nothing to do, unless it matters; then take another template with data.template."
            else:
                fact = f"the chat template changes what the role {role} says"
                cure = "Compare the row with how it is written, or take another template with data.template."
            yield _Seen(where, fact, cure)
        if message.reasoning and message.reasoning.strip() not in talk.text:
            fact = "the chat template leaves out the reasoning of an answer"
            cure = "It is not learned then; give each answer a row of its own to keep it."
            yield _Seen(where, fact, cure)


def _functions(row: Row, talk: Talk) -> Iterator[_Seen]:
    """The functions that may be called, and the calls, are written."""
    offered = json.loads(row.tools) if row.tools else []
    names = [tool.get("function", tool).get("name", "") for tool in offered]
    calls = [json.loads(message.tool_calls) for message in row.messages if message.tool_calls]
    called = [call["name"] for some in calls for call in some]
    for what, said in (("functions that may be called", names), ("calls of functions", called)):
        if any(name not in talk.text for name in said):
            fact = f"the chat template leaves out the {what}"
            cure = "Take a template that knows them with data.template; chatml and plain do."
            yield _Seen("data.template", fact, cure)


def _special_words(row: Row, tokenizer: ChatTokenizer) -> Iterator[_Seen]:
    """Nobody types what the tokenizer takes for a special token."""
    special = {token for token, added in tokenizer.added.items() if added.special}
    for message in row.messages:
        for token in tokenizer.added_in(message.content):
            if token in special:
                fact = f"what the role {message.role} says contains {token}, which is read as the special token"
                cure = "Take it out or write it otherwise, unless it is meant: it can end or begin a turn."
                yield _Seen("data.train", fact, cure)


def _answers(row: Row, talk: Talk, tokenizer: ChatTokenizer) -> Iterator[_Seen]:
    """An answer is trained behind the very text, and the very tokens, with which the model is asked for it."""
    for place, message in enumerate(row.messages):
        if message.role != "assistant" or place == 0:
            continue
        start, end = talk.span(place)
        header, before = talk.prompt_after_words(place), talk.text[:start]
        if header is not None and not before.endswith(header):
            after = talk.after_words(place - 1) or talk.text
            there = after[: start - len(talk.text)]
            fact = f"the model is asked with {_short(header)}, but in training {_short(there)} comes before the answer"
            cure = "Look at what the template writes for add_generation_prompt: it should be how a row goes on."
            yield _Seen("data.template", fact, cure)
        elif tokenizer.ids(before) != tokenizer.ids(talk.text)[: len(tokenizer.ids(before))]:
            fact = f"the end of the prompt {_short((header or before)[-8:])} and what follows it are one token in training"
            cure = "End the prompt with a line break or a special token, and begin answers without a space."
            yield _Seen("data.template", fact, cure)
        words, said = message.content.strip(), talk.text[start:end]
        lead = said[: said.find(words)].strip() if words in said else ""
        if words and lead and not message.reasoning:
            fact = f"the chat template writes {_short(lead)} before an answer by itself, and it is learned"
            cure = "Nothing to do if the model is meant to write it; else take another with data.template."
            yield _Seen("data.template", fact, cure)


def _ends(row: Row, talk: Talk, tokenizer: ChatTokenizer, loss_on: LossOn) -> Iterator[_Seen]:
    """A token that ends an answer is there, is one token, and is learned."""
    where, answers = (
        "data.template",
        [p for p, m in enumerate(row.messages) if m.role == "assistant"],
    )
    if not answers:
        return
    written = masks.writer(tokenizer, loss_on)(row)
    _, end = talk.span(answers[-1])
    after = talk.after_words(answers[-1])
    closing = after[: len(after) - (len(talk.text) - end)] if after is not None else ""
    if after is not None and not closing.strip():
        fact = (
            "the chat template writes nothing after an answer, so the model does not learn to stop"
        )
        cure = (
            "End answers with {{ eos_token }} in the template, or take another with data.template."
        )
        yield _Seen(where, fact, cure)
    elif closing and not tokenizer.added_in(closing):
        fact = f"an answer ends with {_short(closing.strip())}, in which no token ends a turn"
        cure = "Take the model's own template, or one that ends answers with {{ eos_token }}, such as plain."
        yield _Seen(where, fact, cure)
    elif closing and not _learns(written, end):
        fact = (
            f"{_short(closing.strip())} after the answer is not learned, so the model may not stop"
        )
        cure = "Put it inside the template's {% generation %} marks."
        yield _Seen(where, fact, cure)


def _learns(written: Written, end: int) -> bool:
    return any(start < end <= until for start, until in written.spans)


def _short(text: str) -> str:
    return repr(text if len(text) <= LONGEST else f"…{text[-LONGEST:]}")
