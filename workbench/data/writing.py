"""Writes conversations with a chat template, letter by letter as Transformers does.

Knows a template's text and the names of special tokens; nothing of tokens, models or rows.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..problems import DataError, Problem
from .faults import Fault

if TYPE_CHECKING:
    from jinja2 import Template

Turns = Sequence[Mapping[str, Any]]
Span = tuple[int, int]  # characters of a written text: first, and one past the last

Noting = Literal["not", "in place", "called"]  # whether and how marked blocks are noted
# what a template writes into a variable first, where nobody sees how far the text is
_BUFFERED = re.compile(r"\{%[-+]?\s*(macro|call|filter|set\s+\w+\s*(\|[^=]*)?-?%\})|\brecursive\b")
# what a template's render is handed to note them
_MARKS, _BEGIN, _END = "generation_marks", "generation_begins", "generation_ends"


class _Marks:
    """Where marked blocks lie in a text that is being written: `written` characters are before the running block."""

    def __init__(self) -> None:
        self.written = 0
        self.spans: list[Span] = []


class Written(NamedTuple):
    """A conversation as text, and the characters that the template's {% generation %} marks enclose."""

    text: str
    spans: list[Span]


class ChatTemplate:
    """One chat template, compiled when it is first used. `special` are the special tokens by name, as text."""

    def __init__(self, text: str, special: Mapping[str, str]) -> None:
        self.text, self._special = text, dict(special)

    @property
    def has_marks(self) -> bool:
        """Whether the template itself marks what the assistant says."""
        return re.search(r"\{%-?\s*generation\s*-?%\}", self.text) is not None

    def write(self, turns: Turns, tools: list[Any] | None, add_generation_prompt: bool) -> str:
        """The conversation as text. Raises Fault when the template refuses it, DataError when it is no template."""
        return self._run(self._writer.render, turns, tools, add_generation_prompt)

    def marked(self, turns: Turns, tools: list[Any] | None) -> Written:
        """The same with what is marked. Raises as `write`."""
        marks, begin, end = _Marks(), str(b"begin", "ascii"), str(b"end", "ascii")

        def render(**values: Any) -> str:
            pieces, started = [], 0
            noting = {_MARKS: marks, _BEGIN: begin, _END: end}
            for piece in self._marker.generate(**values, **noting):
                if piece is begin:  # this very object, whatever else says the same
                    started = marks.written
                elif piece is end:
                    marks.spans.append((started, marks.written))
                else:
                    pieces.append(piece)
                    marks.written += len(piece)
            return "".join(pieces)

        return Written(self._run(render, turns, tools, False), marks.spans)

    def _run(
        self,
        render: Callable[..., str],
        turns: Turns,
        tools: list[Any] | None,
        add_generation_prompt: bool,
    ) -> str:
        values = {
            "messages": turns,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return render(**self._special, **values)
        except DataError:
            raise
        except Exception as error:  # a template is a program of others: it can raise anything
            reason = str(error).rstrip(".! ") or type(error).__name__
            fact = f"the chat template refuses it: {reason}"
            cure = "Change the order or the roles of its turns."
            raise Fault(fact, cure, kind="template") from None

    @cached_property
    def _writer(self) -> "Template":
        return self._compiled("not")

    @cached_property
    def _marker(self) -> "Template":
        return self._compiled("called" if _BUFFERED.search(self.text) else "in place")

    def _compiled(self, noting: Noting) -> "Template":
        from jinja2 import TemplateSyntaxError

        try:
            return _environment(noting).from_string(self.text)
        except TemplateSyntaxError as error:
            reason = str(error.message or error).rstrip(".")
            fact = f"The chat template is no valid Jinja: line {error.lineno}: {reason}."
            cure = "Mend that line, or take another template with data.template."
            raise DataError([Problem("data.template", fact, cure)]) from None


def _environment(noting: Noting) -> Any:
    """Jinja as chat templates expect it: their tag, their filter, their two functions, and no way out of the sandbox."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _generation_tag(noting)]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _generation_tag(noting: Noting) -> type:
    """The tag {% generation %}: what it encloses is written as it is; where it lies is noted in `_MARKS`, if asked."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 - Jinja reads it from the class

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            if noting == "called":
                call = self.call_method("note", [nodes.ContextReference()])
                return nodes.CallBlock(call, [], [], body).set_lineno(line)
            block = [nodes.Scope(body).set_lineno(line)]
            if noting == "in place":  # takes half the time of a call
                begin, end = (
                    nodes.Output([nodes.Name(name, "load")]).set_lineno(line)
                    for name in (_BEGIN, _END)
                )
                block = [begin, *block, end]
            return block

        def note(self, context: Any, caller: Callable[[], str]) -> str:
            said, marks = caller(), context[_MARKS]
            marks.spans.append((marks.written, marks.written + len(said)))
            return said

    return Generation


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: Jinja's own filter would escape what means something in HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)
