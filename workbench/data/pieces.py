"""A row as the model meets it: its tokens as pieces of text, each with its fate, and which rows are worth a look.

Knows ids, masks and a tokenizer's texts. Knows neither colours nor widgets (`panels/tokens.py`) nor terminals.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from .rows import Row

if TYPE_CHECKING:
    import numpy as np

    from .encode import Tokenized
    from .tokenizer import ChatTokenizer

MOST = 4_000  # tokens of a row that are shown; a page with many more would be slow, and nobody reads them
BEFORE = 200  # of them that are shown before the first trained one, where that lies far behind
HALF = "\N{REPLACEMENT CHARACTER}"  # what a part of a character is decoded to
BYTES = 4  # of a character in UTF-8, at most
RANKED = 100  # rows of each kind of worst ones
# Lost is what is truncated and would be trained if it were not.
KINDS = ("trained", "context", "truncated", "lost", "padding")
NOTHING, CUT, LONGEST, LEAST = "nothing trained", "answer cut", "longest", "least trained"


class Piece(NamedTuple):
    """Some tokens that make a text together: one, or the several that a character is written with.

    `trained` is what the mask says; a piece that is `truncated` lies behind the sequence length, and is not trained
    whatever its mask. Where a character's tokens have different fates, the first of them has its text.
    """

    text: str
    ids: tuple[int, ...]
    trained: bool = False
    special: bool = False
    truncated: bool = False
    padding: bool = False

    @property
    def kind(self) -> str:
        """What becomes of it, one of KINDS."""
        if self.padding:
            return "padding"
        if self.truncated:
            return "lost" if self.trained else "truncated"
        return "trained" if self.trained else "context"


class Counts(NamedTuple):
    """Tokens of a row: all of them, those left after cutting, and of these the trained, special and padding ones.

    `lost` are those that would have been trained, had they not been cut off.
    """

    tokens: int
    kept: int
    trained: int
    lost: int
    special: int
    padding: int

    @property
    def share(self) -> float:
        """Trained tokens of those that are left, from 0 to 1; padding does not count."""
        return self.trained / self.kept if self.kept else 0.0

    def __str__(self) -> str:
        said = f"{_many(self.tokens, 'token')}, {self.trained:,} trained"
        said += f" ({self.share:.0%})" if self.trained else ""
        if self.tokens > self.kept:
            said += f", {self.tokens - self.kept:,} truncated"
            said += f" ({self.lost:,} of them lost to training)" if self.lost else ""
        return said


class View(NamedTuple):
    """What is shown of a row: parts of it, each with the place (from 0) of its first token, and the counts of all of it."""

    name: str
    parts: list[tuple[int, list[Piece]]]
    counts: Counts

    @property
    def hidden(self) -> int:
        """Tokens that are not shown."""
        shown = sum(len(p.ids) for _, part in self.parts for p in part if not p.padding)
        return self.counts.tokens - shown


def view(
    name: str,
    ids: Sequence[int],
    mask: Sequence[int],
    tokenizer: "ChatTokenizer",
    *,
    max_length: int,
    pad_to: int | None = None,
) -> View:
    """At most MOST tokens of a row, those around the first trained one and around the cut among them.

    `max_length` and `pad_to` are tokens: what lies behind the one is cut off, up to the other it is padded.
    """
    import numpy as np

    ids, mask = np.asarray(ids, np.int64), np.asarray(mask, np.uint8)
    parts = [
        (start, pieces(ids[start:end], mask[start:end], tokenizer, max_length=max_length - start))
        for start, end in _window(mask, max_length)
    ]
    kept = min(len(ids), max_length)
    padding = max(0, (pad_to or 0) - kept)
    if padding:
        parts.append((len(ids), [_padding(tokenizer, padding)]))
    special = np.isin(ids[:kept], list(tokenizer.special_ids))
    trained, lost = int(mask[:kept].sum()), int(mask[kept:].sum())
    return View(name, parts, Counts(len(ids), kept, trained, lost, int(special.sum()), padding))


def pieces(
    ids: Sequence[int], mask: Sequence[int], tokenizer: "ChatTokenizer", *, max_length: int
) -> list[Piece]:
    """The tokens with their texts, which together are the conversation as the template writes it."""
    ids, mask = [int(token) for token in ids], [bool(learned) for learned in mask]
    made: list[Piece] = []
    for start, end, text in _characters(ids, tokenizer):
        for place in range(start, end):
            token, fate = ids[place], (mask[place], place >= max_length)
            same = place > start and (made[-1].trained, made[-1].truncated) == fate
            if same:
                made[-1] = made[-1]._replace(ids=(*made[-1].ids, token))
                continue
            said = text if place == start else ""
            made.append(Piece(said, (token,), fate[0], token in tokenizer.special_ids, fate[1]))
    return made


class Ranked(NamedTuple):
    """Positions from 0 of the worst rows of a kind, the worst first, at most RANKED; and how many such rows there are."""

    positions: list[int]
    count: int


def worst(tokenized: "Tokenized", max_length: int) -> dict[str, Ranked]:
    """The rows that are most worth a look: NOTHING trained, the answer CUT, LONGEST, and LEAST trained.

    Cut to `max_length` tokens; the first two are missing where there are no such rows.
    """
    import numpy as np

    batches = list(tokenized.batches())
    if not len(tokenized):
        return {}
    lengths = np.concatenate([batch.lengths for batch in batches])
    # nothing predicts the first token
    left = np.concatenate([batch.trained(max_length, first=1) for batch in batches])
    whole = np.concatenate([batch.trained(first=1) for batch in batches])
    share = left / np.maximum(np.minimum(lengths, max_length), 1)
    learned = left > 0
    found = {
        NOTHING: _ranked(~learned, lengths),
        CUT: _ranked(learned & (left < whole), whole - left),
        LONGEST: _ranked(np.ones(len(lengths), bool), lengths),
        LEAST: _ranked(learned, -share),
    }
    return {kind: ranked for kind, ranked in found.items() if ranked.count}


def _ranked(rows: "np.ndarray", badness: "np.ndarray") -> Ranked:
    """The rows for which `rows` is true, the worst first; of equal ones the first in the file."""
    import numpy as np

    positions = np.flatnonzero(rows)
    count = len(positions)
    if count > RANKED:  # a million rows are not sorted for the sake of a hundred
        least = np.partition(badness[positions], count - RANKED)[count - RANKED]
        above = positions[badness[positions] > least]
        level = positions[badness[positions] == least][: RANKED - len(above)]
        positions = np.sort(np.concatenate((above, level)))
    order = np.argsort(-badness[positions], kind="stable")
    return Ranked(positions[order].tolist(), count)


def visible(text: str) -> Iterator[tuple[str, bool]]:
    """The text in parts, and whether a part is the name of a character, such as U+200B, that cannot be seen or would do harm.

    Named are control, formatting, unassigned and private characters and all spaces but the plain one. Line breaks and
    tabs stay as they are.
    """
    for fine, run in groupby(text, key=lambda c: c.isprintable() or c in "\n\t"):
        if fine:
            yield "".join(run), False
        else:
            yield from ((f"U+{ord(character):04X}", True) for character in run)


def lines(shown: View) -> Iterator[tuple[str, str]]:
    """The row for where there is no colour: runs of pieces with the same fate, as (kind, text).

    Line breaks are marked and kept, tabs are signs, characters that cannot be seen are named.
    """
    last = 0
    for start, part in shown.parts:
        if start > last:
            yield "hidden", f"{_many(start - last, 'token')} not shown"
        for kind, run in groupby(part, key=lambda piece: piece.kind):
            yield kind, "".join(_plain(piece) for piece in run)
        last = start + sum(len(piece.ids) for piece in part if not piece.padding)
    if shown.counts.tokens > last:
        yield "hidden", f"{_many(shown.counts.tokens - last, 'token')} not shown"


def as_text(shown: View) -> str:
    """The row as a text for terminals: what becomes of a run of tokens stands before it."""
    said = [f"{shown.name}: {shown.counts}"]
    for kind, text in lines(shown):
        first, *rest = text.split("\n")
        said += [f"{kind:>9} | {first}", *(f"{'':>9} | {line}" for line in rest)]
    return "\n".join(said)


def _plain(piece: Piece) -> str:
    text = _safe(piece.text)
    if piece.padding:
        return f"{text} {len(piece.ids):,} times"
    tab = "\N{RIGHTWARDS ARROW TO BAR}"
    return text.replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}\n").replace("\t", tab)


def _safe(text: str) -> str:
    """For a terminal, which would obey control characters."""
    return "".join(f"<{part}>" if named else part for part, named in visible(text))


def _window(mask: "np.ndarray", max_length: int) -> list[tuple[int, int]]:
    """First and one past the last token of each part that is shown: the beginning, the first trained one, and the cut."""
    import numpy as np

    length, places = len(mask), [int(place) for place in np.flatnonzero(mask)[:1]]
    if length > max_length:
        places.append(max_length)
    if length <= MOST or all(place + BEFORE <= MOST for place in places):
        return [(0, min(length, MOST))]
    starts = sorted({0, *(max(0, place - BEFORE) for place in places)})
    joined: list[tuple[int, int]] = []
    for start in starts:
        end = min(length, start + MOST // len(starts))
        if joined and start <= joined[-1][1]:
            start = joined.pop()[0]
        joined.append((start, end))
    return joined


def _padding(tokenizer: "ChatTokenizer", count: int) -> Piece:
    pad = tokenizer.pad_id
    text = "padding" if pad is None else tokenizer.token_texts([pad])[0]
    return Piece(text, (pad or 0,) * count, special=True, padding=True)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def turns(row: Row) -> list[tuple[str, str]]:
    """The row as it was read, before any template: (role, text) of each turn, or its raw text."""
    said = [(message.role, message.content) for message in row.messages] or [("text", row.text)]
    return [(role, _safe(text)) for role, text in said]


def to_dict(shown: View) -> dict[str, Any]:
    """The row for programs: the counts, and each piece with its place (from 0), ids, text and kind."""
    said: dict[str, Any] = {"row": shown.name, **shown.counts._asdict()}
    said["share"], said["hidden"], said["pieces"] = shown.counts.share, shown.hidden, []
    for start, part in shown.parts:
        place = start
        for piece in part:
            one = {"place": place, "ids": list(piece.ids), "text": piece.text}
            said["pieces"].append(one | {"kind": piece.kind, "special": piece.special})
            place += len(piece.ids)
    return said


def _characters(ids: list[int], tokenizer: "ChatTokenizer") -> Iterator[tuple[int, int, str]]:
    """Tokens that make whole characters together: first, one past the last, and their text."""
    texts = tokenizer.token_texts(ids)
    start = 0
    while start < len(ids):
        end, said = start + 1, texts[start]
        while end < len(ids) and not texts[end]:
            end += 1
        if HALF in said:  # spelt byte by byte; together they may be a character
            for last in range(end + 1, min(start + BYTES, len(ids)) + 1):
                whole = tokenizer.backend.decode(ids[start:last], skip_special_tokens=False)
                if HALF not in whole:
                    end, said = last, whole
                    break
        yield start, end, said
        start = end
