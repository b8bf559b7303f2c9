"""What a model answered, looked at as text: what is wrong with it, what changed since, and how it can be shown safely.

Reads sample events. Knows nothing of HTML, widgets or models.
"""

import difflib
import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from .events import History

Sample = Mapping[str, Any]
Columns = Literal["spread", "all", "ends", "newest"]

FEW = 5  # columns that can be read side by side at the width of a notebook
MOST = 50  # columns at all: a table of more answers no question, and takes seconds to draw
COMPARED = 400  # words of either text between what both begin and end with: it is quadratic

TAIL = 2000  # characters at an answer's end in which a repetition is looked for
# A phrase counts as repeated when it comes so often and fills so many characters: a refrain, a table's rule
# ("|---|---|") or a list of a few equal numbers stays below both.
OFTEN = ((3, 60), (8, 24))
ONE_CHARACTER = 32  # in a row: longer than a number's zeros or a line drawn under a heading
_LIST_MARK = re.compile(r"(?m)^[ \t]*(?:\d+[.):]|[-*\u2022])[ \t]+(?=.{20})")

_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_ASIAN = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # written without spaces: each sign is a word
_WORD = re.compile(rf"(?:[{_ASIAN}]|[^\W{_ASIAN}]+|[^\w\s])\s*|\s+")


class Flag(NamedTuple):
    """Something about an answer: a few words, a sentence, and whether it is a fault or only worth knowing."""

    kind: Literal["empty", "repeats", "cut", "same"]
    text: str
    says: str
    fault: bool = True


class Repetition(NamedTuple):
    """A phrase, how often it comes in a row at an answer's end, and whether it may be more often than was counted."""

    phrase: str
    times: int
    more: bool


class Piece(NamedTuple):
    """A part of a text, and whether the other text lacks it in this place."""

    text: str
    changed: bool


class Shown(NamedTuple):
    """A text that is safe to show, and how many characters of it are left out."""

    text: str
    more: int


class Column(NamedTuple):
    """When the recipe's prompts were answered: the last step, and that of the adapter which had been put back by then."""

    step: int
    adapter: bool
    kept: int | None = None

    @property
    def title(self) -> str:
        if self.kept is not None:
            return f"Step {self.kept:,}, kept (asked after step {self.step:,})"
        return f"Step {self.step:,}" + ("" if self.adapter else ", base model")


class Kept(NamedTuple):
    """The adapter that a run keeps: of which step, and between which times (seconds since 1970) it is what answers."""

    step: int
    since: float
    until: float

    def behind(self, said: Mapping[str, Any]) -> int | None:
        """The kept step if its adapter gave this sample or score though others were trained since; else None."""
        in_time = self.since < said.get("t", 0.0) < self.until
        return self.step if said["adapter"] and in_time and said["step"] != self.step else None


class Prompt(NamedTuple):
    """One of the recipe's prompts (`number` counts from 0) with its answers, in the order in which they were given."""

    number: int
    answers: dict[Column, Sample]

    @property
    def asked(self) -> str:
        return str(next(iter(self.answers.values()))["prompt"])

    @property
    def expected(self) -> str | None:
        return next(iter(self.answers.values()))["expected"]


class Pair(NamedTuple):
    """One of the recipe's prompts before and after training, as far as it was answered."""

    asked: str
    expected: str | None
    before: Sample | None
    after: Sample | None


class Asked(NamedTuple):
    """A question of a user with the answers of both models, as far as they were asked."""

    prompt: str
    system: str | None
    tuned: Sample | None
    base: Sample | None


# One answer


def flags(sample: Sample, *, fits: int | None = None) -> list[Flag]:
    """What is worth telling of an answer: empty, repeating, cut, or letter by letter that of a training row.

    `fits` is the most tokens that prompt and answer may have together, where that is what cut it.
    """
    text = str(sample["text"])
    found = []
    if is_empty(text):
        says = "There is nothing to read: the model ended its answer at once."
        found.append(Flag("empty", "empty", says))
    elif again := repeated(text):
        often = f"{again.times:,}{' or more' if again.more else ''}"
        says = f"It ends with the same {len(again.phrase):,} characters {often} times."
        told = f"repeats \u201c{_short(again.phrase)}\u201d \u00d7{often}"
        found.append(Flag("repeats", told, says))
    if sample.get("ended") is False:
        count = sample.get("tokens")
        says = "The model had not ended its answer: a longer one may be allowed, or it never ends."
        where = f"cut at {count:,} tokens" if count else "cut"
        if fits is not None:
            where += f": prompt and answer must fit in {fits:,}"
            says = "model.max_length is the recipe's; a shorter prompt leaves more room, too."
        found.append(Flag("cut", where, says))
    if (row := sample.get("same_as")) is not None:
        says = "Letter by letter: learned by heart, or the only right answer."
        found.append(Flag("same", f"same as the answer of training row {row:,}", says, fault=False))
    return found


def is_empty(text: str) -> bool:
    """Whether nothing in the text can be seen."""
    return not any(sign.isprintable() and not sign.isspace() for sign in text)


def is_expected(sample: Sample) -> bool | None:
    """Whether the answer is the one hoped for, but for white space around it; None where none is known."""
    expected = sample["expected"]
    return None if expected is None else str(sample["text"]).strip() == str(expected).strip()


def repeated(text: str) -> Repetition | None:
    """The phrase that an answer repeats up to its end; None where it does not.

    A list's marks ("1.", "-") before long items and the kind of white space between repetitions do not matter.
    """
    tail = " ".join(_LIST_MARK.sub("", text[-TAIL:]).split())
    for period in range(1, len(tail) // 2 + 1):
        phrase = tail[-period:]
        if tail[-2 * period : -period] != phrase:
            continue
        covered = _covered(tail, period)
        # The white space after the last one is gone.
        times = (covered + phrase.startswith(" ")) // period
        if len(set(phrase)) == 1:
            enough = period == 1 and times >= ONE_CHARACTER
        else:
            enough = any(times >= often and covered >= length for often, length in OFTEN)
        if enough:
            whole = _from_its_start(tail[len(tail) - covered :][:period])
            return Repetition(whole, times, more=covered == len(tail) and len(text) > TAIL)
    return None


def _from_its_start(phrase: str) -> str:
    """A phrase that was found between two others, turned so that what ends the one before stands at its end."""
    start = phrase.lstrip(" .,;:!?)")
    return (start + phrase[: len(phrase) - len(start)]).strip() if start else phrase


def _covered(text: str, period: int) -> int:
    """How many characters at the end of a text are each the one that stands `period` characters before."""
    at = len(text) - 1
    while at >= period and text[at] == text[at - period]:
        at -= 1
    return len(text) - 1 - at + period


# Text that can be shown


def shown(text: str, limit: int) -> Shown:
    """The first `limit` characters of a text, safe to show: control characters can be seen and do nothing.

    Escape becomes its picture, so that colour codes can be read; what turns the direction of writing around, and
    halves of characters, become the replacement character.
    """
    text = str(text)
    return Shown(visible(text[:limit]), max(0, len(text) - limit))


def visible(text: str) -> str:
    """A text with every control character but tab and line feed made visible; as long as it was, or shorter."""
    return _CONTROLS.sub(_picture, str(text).replace("\r\n", "\n"))


def _picture(found: re.Match[str]) -> str:
    sign = found[0]
    if sign < " ":
        return chr(0x2400 + ord(sign))
    if sign in "\u2028\u2029":
        return "\n"
    return "\u2421" if sign == "\x7f" else "\ufffd"


def _short(text: str, limit: int = 24) -> str:
    text = " ".join(visible(text).split())
    return text if len(text) <= limit else text[: limit - 1] + "\u2026"


# Two answers


def marked(before: str, after: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts in pieces, those marked whose words the other does not have in their place; white space does not count.

    Where more than `COMPARED` words differ, all between what both begin and end with is marked.
    """
    here, there = _WORD.findall(before), _WORD.findall(after)
    left, right = ([word.rstrip() for word in words] for words in (here, there))
    start = _alike(left, right)
    end = _alike(left[start:][::-1], right[start:][::-1])
    a, b = left[start : len(left) - end], right[start : len(right) - end]
    if max(len(a), len(b)) > COMPARED or not a or not b:
        codes = [("replace", 0, len(a), 0, len(b))]
    else:
        codes = difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    parts = [[(0, start, False)], [(0, start, False)]]
    for what, *bounds in codes:
        for part, (low, high) in zip(parts, (bounds[:2], bounds[2:]), strict=True):
            part.append((start + low, start + high, what != "equal"))
    for part, words in zip(parts, (here, there), strict=True):
        part.append((len(words) - end, len(words), False))
    return _pieces(here, parts[0]), _pieces(there, parts[1])


def _alike(left: Sequence[str], right: Sequence[str]) -> int:
    """How many words two texts begin with in common."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(left), len(right)))


def _pieces(words: list[str], parts: Iterable[tuple[int, int, bool]]) -> list[Piece]:
    texts = (("".join(words[low:high]), changed) for low, high, changed in parts)
    return [Piece(text, changed and not text.isspace()) for text, changed in texts if text]


# The answers of a run


def prompts(history: History) -> list[Prompt]:
    """The recipe's prompts with their answers, in the recipe's order; an answer at the same step replaces the earlier one."""
    found: dict[int, Prompt] = {}
    put_back = kept(history)
    for sample in history.samples:
        place = placed(sample["sample"])
        if place is not None:
            earlier = Column(sample["step"], bool(sample["adapter"]))
            column = earlier._replace(kept=put_back.behind(sample) if put_back else None)
            answers = found.setdefault(place[1], Prompt(place[1], {})).answers
            for same in (earlier, column):  # the newest comes last
                answers.pop(same, None)
            answers[column] = sample
    return [found[number] for number in sorted(found)]


def placed(sample: str) -> tuple[int, int] | None:
    """Step and prompt's number of an answer to one of the recipe's prompts; None for what a user asked."""
    found = re.fullmatch(r"step-(\d+)-(\d+)", str(sample))
    return (int(found[1]), int(found[2])) if found else None


def columns(rows: Iterable[Prompt]) -> list[Column]:
    """All checkpoints with answers, by their steps, the base model first."""
    found = {each for prompt in rows for each in prompt.answers}
    return sorted(found, key=lambda each: (each.step, each.adapter, each.kept or 0))


def kept(history: History) -> Kept | None:
    """The adapter that the run keeps, None before there is one; a training that goes on ends its time."""
    step, since = history.adapter.get("step"), history.adapter.get("t")
    if step is None or since is None:
        return None
    after = bisect_right(history.steps, since, key=lambda event: event.get("t", 0.0))
    until = history.steps[after]["t"] if after < len(history.steps) else math.inf
    return Kept(step, since, until)


def chosen(all_columns: Sequence[Column], choice: Columns = "spread") -> list[Column]:
    """Those that are shown: the first and the last and some between, all of them, both ends, or the newest."""
    count = len(all_columns)
    most = {"all": MOST, "ends": 2}.get(choice, FEW)
    if count <= most:
        return list(all_columns)
    if choice in ("all", "newest"):
        return list(all_columns[-most:])
    return [all_columns[round(at * (count - 1) / (most - 1))] for at in range(most)]


def paired(history: History) -> list[Pair]:
    """The newest answers to each of the recipe's prompts, of the base model and with the adapter."""
    found = []
    for prompt in prompts(history):
        newest = {column.adapter: sample for column, sample in prompt.answers.items()}
        found.append(Pair(prompt.asked, prompt.expected, newest.get(False), newest.get(True)))
    return found


def asked(samples: Iterable[Sample]) -> list[Asked]:
    """What users asked, oldest first; two answers to the same question, one of each model, stand together."""
    found: list[Asked] = []
    for sample in samples:
        if placed(sample["sample"]) is not None:
            continue
        side = "tuned" if sample["adapter"] else "base"
        same = found and found[-1][:2] == (sample["prompt"], sample["system"])
        if same and getattr(found[-1], side) is None:
            found[-1] = found[-1]._replace(**{side: sample})
        else:
            new = Asked(sample["prompt"], sample["system"], None, None)
            found.append(new._replace(**{side: sample}))
    return found
