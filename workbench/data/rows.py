"""What a row is: a conversation or a piece of raw text, where it came from, and its form on disk.

Knows nothing of files (`formats.py`), of other shapes (`shapes.py`), tokens or models.
"""

import hashlib
import json
from collections.abc import Sequence
from json.encoder import encode_basestring
from typing import Any, NamedTuple

ROLES = ("system", "user", "assistant", "tool")
NAMED = 3  # row numbers that are named when many rows have the same problem


class Message(NamedTuple):
    """One turn of a conversation; `role` is one of ROLES.

    `reasoning` is what the assistant thought before it answered. `tool_calls` is JSON text, a list of
    {"name", "arguments", "id"?}; `name` and `call_id` say whose result a tool's turn is.
    """

    role: str
    content: str
    reasoning: str = ""
    tool_calls: str = ""
    name: str = ""
    call_id: str = ""

    def turn(self) -> dict[str, Any]:
        """The turn as chat templates read it; what is not there is left out."""
        turn: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.reasoning:
            turn["reasoning_content"] = self.reasoning
        if self.tool_calls:
            turn["tool_calls"] = [_call(call) for call in json.loads(self.tool_calls)]
        if self.name:
            turn["name"] = self.name
        if self.call_id:
            turn["tool_call_id"] = self.call_id
        return turn


class Row(NamedTuple):
    """One conversation, or one raw `text` where there are no messages.

    `number` counts from 1 within its file: the line in a JSONL file, the place in an array or table. `file` names the
    file where a source has several, and is empty otherwise. `tools` is JSON text: the functions that may be called.
    """

    number: int
    messages: tuple[Message, ...] = ()
    tools: str = ""
    text: str = ""
    file: str = ""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """What comes before the last assistant turn; empty for raw text."""
        return self.messages[: self._last]

    @property
    def answer(self) -> str:
        """What the last assistant turn says; empty for raw text."""
        return self.messages[self._last].content if self.messages else ""

    @property
    def name(self) -> str:
        """The row in words: "row 7", or "row 7 of b.csv" where there are several files."""
        return f"row {self.number:,}" + (f" of {self.file}" if self.file else "")

    @property
    def _last(self) -> int:
        places = (i for i, message in enumerate(self.messages) if message.role == "assistant")
        return max(places, default=0)

    def turns(self) -> list[dict[str, Any]]:
        """The messages as chat templates read them."""
        return [message.turn() for message in self.messages]

    def content_key(self) -> int:
        """64 bits that are equal for rows that say the same, letter by letter; blake2b."""
        said = "\x1f".join(
            [self.tools, self.text, *(part for message in self.messages for part in message)]
        )
        digest = hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=8)
        return int.from_bytes(digest.digest(), "little")


def to_json(row: Row) -> str:
    """A row's content as compact JSON, without number and file."""
    quoted = encode_basestring  # half as long as json.dumps takes for lists of texts
    messages = [f"[{','.join(map(quoted, _trimmed(message)))}]" for message in row.messages]
    return f"[[{','.join(messages)}],{quoted(row.tools)},{quoted(row.text)}]"


def from_json(text: str, number: int, file: str = "") -> Row:
    """The row that `to_json` wrote."""
    messages, tools, raw = json.loads(text)
    return Row(number, tuple(Message(*parts) for parts in messages), tools, raw, file)


def as_record(row: Row) -> dict[str, Any]:
    """The row as a line of a JSONL file that anybody can read: messages (and tools), or text."""
    if not row.messages:
        return {"text": row.text}
    tools = {"tools": json.loads(row.tools)} if row.tools else {}
    return {"messages": row.turns()} | tools


def named(numbers: Sequence[int], count: int | None = None) -> str:
    """Row numbers in words: "row 7" or "rows 1, 2, 3 and 17 more"; `count` when there are more than `numbers`."""
    count = len(numbers) if count is None else count
    first = ", ".join(f"{number:,}" for number in numbers[:NAMED])
    more = f" and {count - NAMED:,} more" if count > NAMED else ""
    return f"row{'s' if count > 1 else ''} {first}{more}"


def _call(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call in the form that chat templates read."""
    called = {"name": call["name"], "arguments": call["arguments"]}
    return {"type": "function", "function": called} | ({"id": call["id"]} if "id" in call else {})


def _trimmed(message: Message) -> list[str]:
    """The message's fields without the empty ones at the end."""
    fields = list(message)
    while len(fields) > 2 and not fields[-1]:
        fields.pop()
    return fields
