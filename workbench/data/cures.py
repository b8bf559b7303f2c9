"""What can be done about a single row: hide secrets, join turns, drop the turn that nobody answers.

Pure functions from row to row; which rows they are applied to, and what is dropped, is decided in `clean.py`.
"""

import json
import re
from collections.abc import Callable

from . import hints
from .rows import Message, Row

JOIN = "\n\n"  # between two turns that become one


def mask_secrets(row: Row) -> Row:
    """The row without what looks like a secret."""
    return _masked(row, "secret")


def mask_personal(row: Row) -> Row:
    """The row without what looks like personal data."""
    return _masked(row, "personal")


def merge_turns(row: Row) -> Row:
    """The row with neighbours of the same role joined by a blank line; not those that a tool's turn belongs between."""
    merged: list[Message] = []
    for message in row.messages:
        before = merged[-1] if merged else None
        if (
            before
            and before.role == message.role in ("user", "assistant")
            and not before.tool_calls
        ):
            merged[-1] = before._replace(
                content=_joined(before.content, message.content),
                reasoning=_joined(before.reasoning, message.reasoning),
                tool_calls=message.tool_calls,
            )
        else:
            merged.append(message)
    return row._replace(messages=tuple(merged))


def drop_last_user_turn(row: Row) -> Row:
    """The row up to its last assistant turn; unchanged where there is none."""
    places = [place for place, message in enumerate(row.messages) if message.role == "assistant"]
    return row._replace(messages=row.messages[: places[-1] + 1]) if places else row


CHANGES: dict[str, Callable[[Row], Row]] = {
    "mask_secrets": mask_secrets,
    "mask_personal": mask_personal,
    "merge_turns": merge_turns,
    "drop_last_user_turn": drop_last_user_turn,
}


def _joined(a: str, b: str) -> str:
    return JOIN.join(text for text in (a, b) if text)


def _masked(row: Row, kind: str) -> Row:
    messages = tuple(
        message._replace(
            content=hints.masked(message.content, kind),
            reasoning=hints.masked(message.reasoning, kind),
            tool_calls=_masked_json(message.tool_calls, kind),
        )
        for message in row.messages
    )
    return row._replace(messages=messages, text=hints.masked(row.text, kind))


def _masked_json(text: str, kind: str) -> str:
    """The same for JSON, which stays JSON: a bare number becomes a text."""
    masked = hints.masked(text, kind)
    if masked == text:
        return text
    parts = masked.split(hints.REMOVED)
    whole = parts[0]
    for part in parts[1:]:
        inside = re.sub(r"\\.", "", whole).count('"') % 2
        whole += (hints.REMOVED if inside else f'"{hints.REMOVED}"') + part
    json.loads(whole)
    return whole
