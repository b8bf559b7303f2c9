"""One turn of a conversation, in whatever form a row says it, as a Message: roles, texts, tool calls, reasoning.

Knows neither columns nor shapes; what is wrong comes as a Fault that names the place in the row. No text is changed.
"""

import json
import reprlib
from collections.abc import Mapping
from typing import Any

from .faults import Fault
from .rows import ROLES, Message

#: Roles of the OpenAI form, as they are written there.
STRICT = {role: role for role in ROLES} | {
    "developer": "system",
    "function": "tool",
    "ipython": "tool",
}
CALL = "call"  # ShareGPT's turn that is nothing but a tool call, as JSON text
_OTHER_NAMES = {
    "system": "system_prompt",
    "user": "human prompter customer instruction input question",
    "assistant": "gpt bot chatgpt model ai chatbot output answer response",
    "tool": "observation function_response",
    CALL: "function_call",
}
#: Roles of the ShareGPT form in small letters; they are taken in any case.
ALIASES = STRICT | {other: role for role, names in _OTHER_NAMES.items() for other in names.split()}
REASONING = ("reasoning_content", "reasoning", "thinking")
TEXT_PARTS = ("text", "input_text", "output_text")
FILL = "Fill it, or remove the row."


def turns(value: Any, name: str, roles: Mapping[str, str] = STRICT) -> list[Message]:
    """The messages of a list of {role, content} or {from, value}, or of the JSON text of one. Raises Fault.

    `name` is the column's; `roles` holds what {role} may say, and {from} may say any of ALIASES.
    """
    given = as_list(value)
    if given is None:
        fact = f"{name} is {kind_of(value)}, not a list of messages"
        raise Fault(fact, "Give a list of {role, content}.")
    if not given:
        raise Fault(
            f"{name} is an empty list", "Add its turns, or remove the row.", kind="no_answer"
        )
    return [_turn(turn, f"{name}[{place}]", roles) for place, turn in enumerate(given)]


def looks_like_turns(value: Any) -> bool:
    """Whether it is a list, or the JSON text of one, that begins with a {role, ...} or {from, ...}."""
    given = as_list(value)
    if not given or not isinstance(given[0], dict):
        return False
    return any(given[0].get(key) is not None for key in ("role", "from"))


def as_list(value: Any) -> list[Any] | None:
    """The list, also where it is written as JSON text, as in a CSV; None if it is neither."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return list(value) if isinstance(value, list | tuple) else None


def text_of(value: Any, name: str, kind: str = "empty_turn") -> str:
    """The text, unchanged. Raises Fault, of the given kind if it is empty or null."""
    if not isinstance(value, str):
        fact = f"{name} is {kind_of(value)}, not a text"
        raise Fault(fact, FILL, kind=kind) if value is None else Fault(fact, "Make it a text.")
    if not value or value.isspace():
        raise Fault(f"{name} is empty", FILL, kind=kind)
    return whole(value, name)


def whole(value: str, name: str) -> str:
    """The text, unchanged. Raises Fault if half a character is in it: JSON can spell that, as in "\\ud83d"."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(value[error.start]):04x}"
            fact = f"{name} holds {half}, half of a character, at position {error.start}"
            raise Fault(fact, "Remove it, or write the whole character.") from None
    return value


def tools_of(record: Mapping[str, Any]) -> str:
    """The row's `tools`, or `functions` of the older form, as JSON text; empty if it has none. Raises Fault."""
    given = record.get("tools") or record.get("functions")
    if not given:
        return ""
    name = "tools" if record.get("tools") else "functions"
    cure = "Give a list of {name, description, parameters}."
    listed = as_list(given)
    if listed is None:
        raise Fault(f"{name} is {kind_of(given)}, not a list of functions", cure)
    tools = []
    for place, tool in enumerate(listed):
        if not isinstance(tool, dict):
            raise Fault(f"{name}[{place}] is {kind_of(tool)}, not an object", cure)
        # the older form has no wrapping; templates and servers expect one
        bare = "name" in tool and tool.get("function") is None
        tools.append({"type": "function", "function": tool} if bare else tool)
    return as_json(tools, name) if tools else ""


def as_json(value: Any, name: str) -> str:
    """The value as JSON text that keeps letters as they are. Raises Fault."""
    try:
        return whole(json.dumps(value, ensure_ascii=False), name)
    except (TypeError, ValueError, RecursionError):
        fact = f"{name} holds what cannot be written as JSON"
        raise Fault(fact, "Use only texts, numbers, lists and objects in it.") from None


def kind_of(value: Any) -> str:
    """What a value is, in words: null, the number 7, the text 'Hi', a list, an object."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return f"the number {shown(value)}"
    if isinstance(value, str):
        return f"the text {shown(value)}"
    if isinstance(value, list | tuple):
        return "a list"
    return "an object" if isinstance(value, dict) else f"of the type {type(value).__name__}"


def shown(value: Any) -> str:
    """A value as Python writes it, at most 60 characters; however deep or long it is."""
    if isinstance(value, str):
        return f"{value[:60]!r:.60}"
    try:
        return f"{reprlib.repr(value):.60}"
    except ValueError:  # Python does not write out integers of more than 4300 digits
        return "of thousands of digits"


def listing(names: Mapping[str, Any], none: str) -> str:
    """Column names in a row, at most 200 characters of them, fit for any screen."""
    text = ", ".join(map(str, names)) or none
    return f"{text:.200}".encode("utf-8", "backslashreplace").decode()


def _turn(turn: Any, place: str, roles: Mapping[str, str]) -> Message:
    if not isinstance(turn, dict):
        raise Fault(f"{place} is {kind_of(turn)}, not an object", "Give {role, content}.")
    role, said = turn.get("role"), turn.get("content")
    if role is None and "from" in turn:
        role, roles = turn["from"], ALIASES
    key = "content"
    if said is None and "value" in turn:
        key, said = "value", turn["value"]
    known = roles.get(role) if isinstance(role, str) else None
    if known is None or said is None:
        known = _known_role(turn, role, place, roles)
    if known == "assistant":
        return _answer(turn, said, place, key)
    if known == CALL:
        return Message("assistant", "", _reasoning(turn, place), _calls(said, f"{place}.{key}"))
    if turn.get("tool_calls") or turn.get("function_call"):
        fact = f"{place} has the role {shown(role)} and calls a tool"
        raise Fault(fact, "Only the assistant calls tools.", kind="role_order")
    if known != "tool":
        return Message(known, _said(said, f"{place}.{key}", "empty_turn"))
    # a tool may well answer nothing; a text that is there is checked as any other
    content = "" if said == "" else _said(said, f"{place}.{key}", "empty_turn")
    name, call_id = (_label(turn, key, place) for key in ("name", "tool_call_id"))
    return Message("tool", content, name=name, call_id=call_id)


def _known_role(turn: Mapping[str, Any], role: Any, place: str, roles: Mapping[str, str]) -> str:
    """The role of ROLES that is meant, or CALL. Raises Fault for turns without role or content, and unknown roles."""
    missing = [] if "role" in turn or "from" in turn else ["role"]
    calls = turn.get("tool_calls") or turn.get("function_call")
    if "content" not in turn and "value" not in turn and not calls:
        missing.append("content")
    if missing:
        had = listing(turn, "nothing")
        fact = f"{place} has {had:.100}, but no {' and no '.join(missing)}"
        raise Fault(fact, "Give {role, content}.")
    if isinstance(role, str):
        plain = role.strip().lower() if roles is ALIASES else role
        if known := roles.get(plain):
            return known
    fact = f"{place} has the role {'null' if role is None else shown(role)}"
    raise Fault(fact, f"Known are {', '.join(ROLES)}.", kind="unknown_role")


def _answer(turn: Mapping[str, Any], said: Any, place: str, key: str) -> Message:
    if turn.get("weight") == 0:  # OpenAI's way to say so
        fact = f"{place}.weight is 0, which asks not to learn this turn; every turn of a role is learned"
        cure = "Remove the turn or its weight, or set data.loss_on to last."
        raise Fault(fact, cure, kind="weight")
    calls = ""
    if given := turn.get("tool_calls"):
        calls = _calls(given, f"{place}.tool_calls")
    elif given := turn.get("function_call"):
        calls = _calls(given, f"{place}.function_call")
    if calls and (said is None or said == ""):
        content = ""
    else:
        content = _said(said, f"{place}.{key}", "empty_answer")
    return Message("assistant", content, _reasoning(turn, place), calls)


def _said(value: Any, name: str, kind: str) -> str:
    """A content: a text, or a list of text parts, which are put together as they are."""
    if not isinstance(value, list | tuple):
        return text_of(value, name, kind)
    texts = []
    for place, part in enumerate(value):
        if isinstance(part, dict) and part.get("type") not in (None, *TEXT_PARTS):
            fact = f"{name}[{place}] is of the type {shown(part['type'])}, not a text"
            raise Fault(fact, "Only texts can be learned from; remove the row.", kind="not_text")
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            raise Fault(f"{name}[{place}] is {kind_of(text)}, not a text", "Make it a text.")
        texts.append(text)
    return text_of("".join(texts), name, kind)


def _reasoning(turn: Mapping[str, Any], place: str) -> str:
    """What the assistant thought, if it stands in a field of its own; what stands in the content stays there."""
    found = ""
    for key in REASONING:
        given = turn.get(key)
        if given is None or given == "":
            continue
        if not isinstance(given, str):
            raise Fault(f"{place}.{key} is {kind_of(given)}, not a text", "Make it a text.")
        if found and given != found:
            fact = f"{place} has reasoning under two names, and it is not the same"
            raise Fault(fact, "Keep reasoning_content alone.")
        found = whole(given, f"{place}.{key}")
    return found


def _label(turn: Mapping[str, Any], key: str, place: str) -> str:
    """A name or an id, empty where it is not given; numbers are taken as text."""
    given = turn.get(key)
    if given is None:
        return ""
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise Fault(f"{place}.{key} is {kind_of(given)}, not a text", "Make it a text.")
    place = f"{place}.{key}"
    return whole(given, place) if isinstance(given, str) else as_json(given, place)


def _calls(value: Any, name: str) -> str:
    """Tool calls as JSON text, a list of {"name", "arguments", "id"?}; from a list, one call, or the JSON text."""
    if isinstance(value, str):
        value = _parsed(value, name)
    one = isinstance(value, dict)
    listed = [value] if one else value
    if not isinstance(listed, list | tuple) or not listed:
        fact = f"{name} is {kind_of(value)}, not a list of calls"
        raise Fault(fact, "Give a list of {name, arguments}.")
    calls = [_call(call, name if one else f"{name}[{place}]") for place, call in enumerate(listed)]
    return as_json(calls, name)


def _call(call: Any, place: str) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise Fault(f"{place} is {kind_of(call)}, not an object", "Give {name, arguments}.")
    function = call.get("function")
    if not isinstance(function, dict):
        function = call
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not name.strip():
        what = "no name" if name is None else f"the name {shown(name)}"
        raise Fault(f"{place} has {what}", "Give {name, arguments}.")
    if isinstance(arguments, str) and arguments.strip():
        # templates write an object; a text would be quoted a second time
        arguments = _parsed(arguments, f"{place}.arguments")
    if (
        arguments is None
        or arguments == ""
        or (isinstance(arguments, str) and not arguments.strip())
    ):
        arguments = {}
    if not isinstance(arguments, dict):
        fact = f"{place}.arguments is {kind_of(arguments)}, not an object"
        raise Fault(fact, "Give its arguments by name.")
    label = _label(call, "id", place)
    return {"name": name, "arguments": arguments} | ({"id": label} if label else {})


def _parsed(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        fact = f"{name} is {kind_of(text)}, which is not valid JSON"
        raise Fault(fact, "Give an object, or JSON text.") from None
