"""Which characters of a written conversation each role says, found by writing parts of it.

Knows turns and how a template writes them; nothing of tokens, labels or files.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from .faults import Fault
from .rows import Row
from .tokenizer import ChatTokenizer
from .writing import Span, Written

KEPT = 1_000  # shapes of conversations whose outlines are kept: rows of a data set have few
# characters for private use: what stands for the words of a turn, and with a number for each text of a row
_HERE = "\ue000\ue002\ue001"
_HOLE = re.compile("\ue000(\\d+)\ue001")


class Outline(NamedTuple):
    """A conversation's shape as the template writes it: what is between the holes, and what each hole stands for.

    `pieces` has one more entry than `holes`; a hole is a turn's place and the field of Message that goes there. A bound
    of a span is a piece and a character in it.
    """

    pieces: list[str]
    holes: list[tuple[int, int]]
    spans: list[tuple[tuple[int, int], tuple[int, int]]]


class Finder:
    """Finds what some roles say in the rows of a data set, `last` only their last turn.

    Most rows are alike but for their words. So the turns of each shape of conversation are looked for once, with marks
    in place of the words, and the outline is laid over the other rows: where every piece between the words fits letter
    by letter, it tells the same as looking again. Where it does not fit, the row is looked at by itself.
    """

    def __init__(self, tokenizer: ChatTokenizer, roles: Sequence[str], *, last: bool) -> None:
        self._tokenizer, self._roles, self._last = tokenizer, roles, last
        self._outlines: dict[Any, Outline | None] = {}

    def find(self, row: Row) -> Written:
        """A row's text, and the characters that are learned. Raises Fault where they cannot be told from the rest."""
        talk = Talk(self._tokenizer, row)
        if not any(message.tool_calls for message in row.messages):  # no two calls are alike
            outline = self._outline(row)
            spans = _laid_over(outline, talk.text, row) if outline else None
            if spans is not None:
                return Written(talk.text, spans)
        return Written(talk.text, self._exact(talk))

    def _exact(self, talk: "Talk") -> list[Span]:
        places = [place for place, turn in enumerate(talk.turns) if turn["role"] in self._roles]
        return [talk.span(place) for place in (places[-1:] if self._last else places)]

    def _outline(self, row: Row) -> Outline | None:
        shape = (
            row.tools,
            *(
                (m.role, bool(m.content), bool(m.reasoning), m.name, m.call_id)
                for m in row.messages
            ),
        )
        if shape not in self._outlines:
            if len(self._outlines) >= KEPT:
                self._outlines.clear()
            self._outlines[shape] = self._drawn(row)
        return self._outlines[shape]

    def _drawn(self, row: Row) -> Outline | None:
        """The row's outline; None where the template cannot write it."""
        messages = tuple(
            message._replace(
                content=message.content and f"\ue000{3 * place + 1}\ue001",
                reasoning=message.reasoning and f"\ue000{3 * place + 2}\ue001",
            )
            for place, message in enumerate(row.messages)
        )
        try:
            talk = Talk(self._tokenizer, row._replace(messages=messages))
            spans = self._exact(talk)
        except Fault:
            return None
        found = list(_HOLE.finditer(talk.text))
        starts = [0, *(hole.end() for hole in found)]
        ends = [*(hole.start() for hole in found), len(talk.text)]
        pieces = [talk.text[start:end] for start, end in zip(starts, ends, strict=True)]
        holes = [divmod(int(hole[1]), 3) for hole in found]

        def bound(at: int) -> tuple[int, int]:
            piece = next(n for n, end in enumerate(ends) if at <= end)
            return piece, at - starts[piece]

        # a bound at the far side of a hole belongs to what follows it
        return Outline(pieces, holes, [(bound(start), bound(end)) for start, end in spans])


class Talk:
    """A conversation as the template writes it. Raises Fault when it refuses to."""

    def __init__(self, tokenizer: ChatTokenizer, row: Row) -> None:
        self._tokenizer, self.turns, self._tools = tokenizer, row.turns(), row.tools
        self.text = self._write(self.turns)

    def span(self, place: int) -> Span:
        """The characters that a turn says, with its end-of-turn marker. Raises Fault where they cannot be told."""
        if self.turns[place]["role"] == "assistant":
            start = self._after_prompt(place)
        else:
            start = self._after_header(place)
            if start is None:  # the template leaves this turn out
                return 0, 0
        return _without_space(self.text, start, self._end(place, start))

    def leaves_out(self, place: int) -> bool:
        """Whether the template does not write what a turn says."""
        return _HERE not in self._write(self._with_hole(place, self.turns))

    def after_words(self, place: int) -> str | None:
        """What the template writes after the words of a turn, None where it leaves them out."""
        return self._holed(place)

    def prompt_after_words(self, place: int) -> str | None:
        """What follows the words of the turn before, up to where the model is asked for the one at `place`."""
        return self._holed(place - 1, place, prompt=True)

    def _write(self, turns: list[dict[str, Any]], *, prompt: bool = False) -> str:
        return self._tokenizer.write(turns, tools=self._tools, add_generation_prompt=prompt)

    def _after_prompt(self, place: int) -> int:
        """Where the prompt ends with which the model is asked for the answer at `place`."""
        if place == 0:
            fact, cure = "it begins with an assistant turn", "Put a user turn before it."
            raise Fault(fact, cure, kind="template")
        before = self._write(self.turns[:place], prompt=True)
        if self.text.startswith(before):
            return len(before)
        # What comes before is written otherwise in the whole: compare what follows the words of the turn before.
        whole, asked = self._holed(place - 1), self._holed(place - 1, place, prompt=True)
        closed = self._holed(place - 1, place)
        if None not in (whole, asked, closed) and self.text.endswith(whole):
            same = len(asked) if whole.startswith(asked) else self._same_words(whole, asked)
            if same == len(asked) or same > len(closed.rstrip()):
                return len(self.text) - len(whole) + same
        # Those words are not there, or told otherwise: look for the prompt before the answer's own words.
        bare = self._write(self.turns[:place])
        prompt = before[len(bare) :] if before.startswith(bare) else ""
        until, hole, _ = self._write(self._with_hole(place, self.turns)).partition(_HERE)
        if prompt.strip() and prompt in until and hole and self.text.startswith(until):
            return until.rindex(prompt) + len(prompt)
        raise self._not_stable(place, before)

    def _after_header(self, place: int) -> int | None:
        """Where the words of a turn begin; None when the template leaves them out."""
        other = self._write(self._with_hole(place, self.turns))
        before, hole, _ = other.partition(_HERE)
        if not hole:
            return None
        if self.text.startswith(before):
            return len(before)
        if not self.turns[place]["content"]:
            return None
        raise self._not_stable(place, other)

    def _end(self, place: int, start: int) -> int:
        """One past the marker that ends a turn whose words begin at `start`."""
        if place + 1 == len(self.turns):
            return len(self.text.rstrip())
        try:
            through = self._write(self.turns[: place + 1]).rstrip()
        except Fault:  # a system prompt alone, which is then a part of the turn that follows
            whole = self._holed(place)
            if self.turns[place]["role"] == "assistant" or whole is None:
                raise
            return len(self.text) - len(whole)
        if self.text.startswith(through):
            return len(through)
        whole, alone, tail = self._holed(place), self._holed(place, place + 1), None
        if whole is not None and alone is not None and self.text.endswith(whole):
            tail = alone.rstrip()
        elif not self.turns[place]["content"] and self.text.startswith(through[:start]):
            whole, tail = self.text[start:], through[start:]
        if tail is None:
            raise self._not_stable(place, through)
        same = len(tail) if whole.startswith(tail) else self._same_words(whole, tail)
        if tail and not whole[:same].strip():
            raise self._not_stable(place, through)
        return len(self.text) - len(whole) + same

    def _holed(self, place: int, until: int | None = None, *, prompt: bool = False) -> str | None:
        """What the template writes after the words of a turn, None where it leaves them out; up to a turn `until`."""
        turns = self._with_hole(place, self.turns)[:until]
        _, hole, after = self._write(turns, prompt=prompt).partition(_HERE)
        return after if hole and _HERE not in after else None

    def _with_hole(self, place: int, turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The turns, with a mark for the words of one; for the name of its last call where it only calls."""
        turn = dict(turns[place])
        if turn["content"] or not turn.get("tool_calls"):
            turn["content"] = _HERE
        else:
            *calls, call = turn["tool_calls"]
            turn["tool_calls"] = [
                *calls,
                call | {"function": call["function"] | {"name": _HERE}},
            ]
        return [*turns[:place], turn, *turns[place + 1 :]]

    def _same_words(self, a: str, b: str) -> int:
        """How many characters two texts begin with that are the same, without cutting a word or an added token."""
        same = 0
        for one, other in zip(*(self._tokenizer.words(text) for text in (a, b)), strict=False):
            if one != other:
                break
            same += len(one)
        return same

    def _not_stable(self, place: int, part: str) -> Fault:
        both = enumerate(zip(self.text, part, strict=False))
        same = next((i for i, (a, b) in both if a != b), min(len(self.text), len(part)))
        there, here = self.text[same : same + 20], part[same : same + 20]
        fact = (
            f"the chat template writes messages[{place}] differently when other turns follow"
            f" ({there!r} in the whole, {here!r} by itself), so its answers cannot be told from the rest"
        )
        cure = (
            "Use a template with {% generation %} marks, give each answer a row of its own,"
            " or set data.loss_on to all."
        )
        return Fault(fact, cure, kind="template")


def _without_space(text: str, start: int, end: int) -> Span:
    """The span without line breaks at its end; empty where it would end before it begins."""
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, max(start, end)


def _laid_over(outline: Outline, text: str, row: Row) -> list[Span] | None:
    """The outline's spans in the text of a row of its shape; None when a piece of it does not fit."""
    first, *pieces = outline.pieces
    if not text.startswith(first):
        return None
    at, starts = len(first), [0]
    for (place, field), piece in zip(outline.holes, pieces, strict=True):
        said = row.messages[place][field]
        for form in (said, said.strip(), said.strip("\n"), said.lstrip("\n")):
            if text.startswith(form, at) and text.startswith(piece, at + len(form)):
                break
        else:
            return None
        starts.append(at + len(form))
        at += len(form) + len(piece)
    if at != len(text):
        return None
    return [
        _without_space(text, starts[piece] + start, starts[other] + end)
        for (piece, start), (other, end) in outline.spans
    ]
