"""A row before and after a change, as a line that shows the change word by word.

Knows rows and nothing of cures. No secret is shown whole, and nothing that a terminal would obey.
"""

import difflib

from . import hints
from .rows import Row
from .survey import parts

AROUND = 4  # words shown on both sides of a change
SHOWN = 12  # words of a change that are shown
MOST = 2_000  # words of a row that are compared: it takes the square of them


def difference(before: Row, after: Row) -> str:
    """What changed, word by word: [-was-] {+is+}, with some words around; secrets are shown only in part."""
    old, new = (_words(row) for row in (before, after))
    said: list[str] = []
    steps = difflib.SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes()
    for place, (kind, a, b, c, d) in enumerate(steps):
        if kind == "equal":
            same = old[a:b]
            start, end = place > 0, place < len(steps) - 1
            if len(same) > AROUND * (start + end):
                same = [*(same[:AROUND] if start else []), "…", *(same[-AROUND:] if end else [])]
            said += same
            continue
        said += [f"[-{_short(old[a:b])}-]"] if b > a else []
        said += [f"{{+{_short(new[c:d])}+}}"] if d > c else []
    return " ".join(said)


def _words(row: Row) -> list[str]:
    """The row's words; each turn begins with its role, so that joined and dropped turns show."""
    if not row.messages:
        return _plain(row.text)[:MOST]
    words: list[str] = []
    for message in row.messages:
        words.append(f"{message.role}:")
        for text in parts(row._replace(messages=(message,))):
            words += _plain(text)
    return words[:MOST]


def _plain(text: str) -> list[str]:
    """The words of a text; what a terminal would obey is written as its code."""
    return [
        word if word.isprintable() else word.encode("unicode_escape").decode()
        for word in hints.veiled(text).split()
    ]


def _short(words: list[str]) -> str:
    more = f" … {len(words) - SHOWN:,} more words" if len(words) > SHOWN else ""
    return " ".join(words[:SHOWN]) + more
