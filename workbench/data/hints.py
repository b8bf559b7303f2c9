"""What looks like a secret or like personal data in a text: found by form and checksum, shown only in part.

Hints, not proof: what has no known form is not found, and what only looks like a key is found too. Knows no rows.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

APART = "\0"  # stands between texts that are searched as one; no pattern reaches across it
REMOVED = "[removed]"
ENTROPY = 2.9  # bits a character: words stay below, and what a generator makes lies above
BEFORE = 64  # characters that are looked at before a sign such as @ or =


class Mark(NamedTuple):
    """What was found: its kind (`secret` or `personal`), what it seems to be, its characters, and how it may be shown."""

    kind: str
    what: str
    start: int
    end: int
    shown: str


class _Form(NamedTuple):
    """A form to look for, and a text without which it need not be looked for."""

    kind: str
    what: str
    needle: str
    pattern: re.Pattern[str]
    holds: Callable[[str], bool] = bool


def marks(text: str) -> list[Mark]:
    """The secrets and the personal data that a text seems to hold, in order; those of a kind do not overlap."""
    ends: dict[str, int] = {}
    kept: list[Mark] = []
    for mark in sorted(_all(text), key=lambda mark: (mark.start, -mark.end)):
        if mark.start >= ends.get(mark.kind, 0):
            kept.append(mark)
            ends[mark.kind] = mark.end
    return kept


def each(texts: Sequence[str]) -> Iterator[tuple[int, Mark]]:
    """The marks of many texts, each with the place of its text; faster than one by one."""
    ends = list(accumulate(len(text) + 1 for text in texts))
    place = 0
    for mark in marks(APART.join(texts)):
        while mark.start >= ends[place]:
            place += 1
        start = ends[place] - len(texts[place]) - 1
        yield place, mark._replace(start=mark.start - start, end=mark.end - start)


def masked(text: str, kind: str) -> str:
    """The text with REMOVED in the place of each mark of a kind."""
    found = [mark for mark in marks(text) if mark.kind == kind]
    # what is removed may have hidden what stood beside it
    return masked(_replaced(text, found, REMOVED), kind) if found else text


def veiled(text: str) -> str:
    """The text as it may be shown: each mark only in part."""
    found: list[Mark] = []
    for mark in marks(text):
        if not found or mark.start >= found[-1].end:
            found.append(mark)
        elif mark.end > found[-1].end:
            found[-1] = found[-1]._replace(end=mark.end)
    return _replaced(text, found, None)


def _replaced(text: str, found: list[Mark], by: str | None) -> str:
    parts, last = [], 0
    for mark in found:
        parts += [text[last : mark.start], by or mark.shown]
        last = mark.end
    return "".join([*parts, text[last:]])


def partly(secret: str) -> str:
    """A secret so that its owner knows it again and nobody else can use it: "sk-…3f9a"."""
    plain = secret.replace(" ", "")
    if len(plain) < 16:
        return f"{plain[:1]}…"
    prefix = re.match(r"[A-Za-z]{2,10}[_-]|[A-Z]{2,4}", plain)
    return f"{prefix[0] if prefix else ''}…{plain[-4:]}"


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit that card numbers have."""
    doubled = (int(d) * 2 if i % 2 else int(d) for i, d in enumerate(reversed(digits)))
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def iban(text: str) -> bool:
    """Whether the check digits of an account number (ISO 13616) are right."""
    plain = text.replace(" ", "")
    if not 15 <= len(plain) <= 34:
        return False
    return int("".join(str(int(sign, 36)) for sign in plain[4:] + plain[:4])) % 97 == 1


def _all(text: str) -> Iterator[Mark]:
    for form in _forms():
        if form.needle in text:
            for match in form.pattern.finditer(text):
                if form.holds(match[0]):
                    shown = partly(match[0])
                    yield Mark(form.kind, form.what, match.start(), match.end(), shown)
    if "-----BEGIN " in text:
        yield from _private_keys(text)
    yield from _assigned(text)
    if "@" in text:
        yield from _addresses(text)


def _forms() -> tuple[_Form, ...]:
    made = re.compile  # kept by re, so that it costs nothing the second time
    return (
        _Form("secret", "an AWS key", "AKIA", made(r"AKIA(?<!\w....)[0-9A-Z]{16}\b")),
        _Form("secret", "an AWS key", "ASIA", made(r"ASIA(?<!\w....)[0-9A-Z]{16}\b")),
        _Form(
            "secret", "a GitHub token", "gh", made(r"gh[oprsu]_(?<!\w....)[A-Za-z0-9]{36,255}\b")
        ),
        _Form("secret", "a GitHub token", "github_pat_", made(r"\bgithub_pat_\w{50,255}\b")),
        # words joined by hyphens, as in sk-learn-based-things, have no digit
        _Form("secret", "an API key", "sk-", made(r"\bsk-[\w-]{20,255}"), _has_digit),
        _Form("secret", "an API key", "k_live_", made(r"\b[rs]k_live_[0-9A-Za-z]{20,255}\b")),
        _Form("secret", "a Hugging Face token", "hf_", made(r"\bhf_[A-Za-z0-9]{30,255}\b")),
        _Form("secret", "a Slack token", "xox", made(r"\bxox[abeoprs]-[A-Za-z0-9-]{10,255}")),
        _Form("secret", "a Google API key", "AIza", made(r"\bAIza[\w-]{35}")),
        _Form("personal", "a card number", "", made(_CARD), _is_card),
        _Form("personal", "an account number", "", made(_IBAN), iban),
        _Form("personal", "a phone number", "+", made(_PHONE), _is_phone),
    )


# A pattern that begins with characters is searched several times as fast as one that begins with a condition on what
# stands before: so that condition comes second.
_CARD = (
    r"[2-6](?<![\w.,+/-].)"
    r"(?:\d{12,18}|\d{3}([ -])\d{4}\1\d{4}\1\d{4}|(?<=3)\d{3}([ -])\d{6}\2\d{5})(?![\w-])"
)
_IBAN = r"[A-Z][A-Z](?<!\w..)\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"
_PHONE = r"\+(?<![\w+].)[1-9]\d{0,2}(?:[ ./-]?(?:\(\d{1,5}\)|\d{1,5})){2,6}(?!\d)"


def _has_digit(text: str) -> bool:
    return any(sign.isdigit() for sign in text)


def _is_card(text: str) -> bool:
    """Begins as one of the large issuers' numbers do, and has the check digit."""
    digits = re.sub(r"[ -]", "", text)
    issued = re.match(r"4|5[1-5]|2[2-7]|3[47]|35|6(?:011|2|5)", digits)
    return bool(issued) and luhn(digits)


def _is_phone(text: str) -> bool:
    return 9 <= sum(sign.isdigit() for sign in text) <= 15


def _private_keys(text: str) -> Iterator[Mark]:
    inner = rf"(?:[^{APART}\"-]|-(?!----))*"
    block = rf"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----{inner}(?:-----END [A-Z ]*-----)?"
    for match in re.finditer(block, text):
        yield Mark("secret", "a private key", *match.span(), "-----BEGIN …")


def _assigned(text: str) -> Iterator[Mark]:
    """What looks random and is given to something that is called a password, token or key."""
    name = re.compile(
        r"(?:password|passwd|pwd|passphrase|secret|token|(?:api|access|private)[ _-]?key)\w{0,20}[\"']?[ \t]{0,3}$",
        re.I,
    )
    value = rf"(?=[ \t]{{0,3}}[\"']?([^\s\"'{APART},;<>(){{}}\[\]]{{8,200}}))"
    for sign in "=:":  # one by one: a pattern that begins with one sign is searched much faster
        for match in re.finditer(sign + value, text):
            given, start = match[1], match.start()
            if name.search(text, max(0, start - BEFORE), start) and _random(given):
                yield Mark("secret", "a password", *match.span(1), f"{given[0]}…")


def _random(value: str) -> bool:
    if not _has_digit(value) or not any(sign.isalpha() for sign in value):
        return False
    shares = [count / len(value) for count in Counter(value).values()]
    return -sum(share * math.log2(share) for share in shares) >= ENTROPY


def _addresses(text: str) -> Iterator[Mark]:
    """E-mail addresses: a name before an @, a domain after it."""
    local = re.compile(r"[A-Za-z0-9._%+-]{1,64}$")
    for match in re.finditer(r"@([A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,24})\b", text):
        before = local.search(text, max(0, match.start() - BEFORE), match.start())
        if before:
            shown = f"{before[0][0]}…@{match[1]}"
            yield Mark("personal", "an e-mail address", before.start(), match.end(), shown)
