"""Secrets, personal data, scripts and languages: what is found, what is not, and that no secret is shown."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.data import hints, languages

SECRETS = {
    "AKIAIOSFODNN7EXAMPLE": "an AWS key",
    "ghp_" + "a1B2" * 9: "a GitHub token",
    "github_pat_" + "a1B2c3_" * 9: "a GitHub token",
    "sk-proj-abcd1234efgh5678ijkl3f9a": "an API key",
    "hf_" + "aBcD" * 9: "a Hugging Face token",
    "xoxb-123456789012-abcdef": "a Slack token",
    "AIza" + "Sy1_-" * 7: "a Google API key",
    "sk_live_" + "4eC39HqLyjWD" * 2: "an API key",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEow+/=\n-----END RSA PRIVATE KEY-----": "a private key",
}
PERSONAL = {
    "ada.lovelace@firm.org": "an e-mail address",
    "4111 1111 1111 1111": "a card number",
    "378282246310005": "a card number",
    "DE89 3704 0044 0532 0130 00": "an account number",
    "GB82WEST12345698765432": "an account number",
    "+49 170 1234567": "a phone number",
}
# characters that secrets, addresses and numbers are made of, so that random texts come close to them
NEARLY = st.text("aZ09 .@-_:=+\"'\n\0ñ", max_size=60)
PARTS = st.lists(st.sampled_from([*SECRETS, *PERSONAL, "password: hX7!kq92Lm"]) | NEARLY)
TEXTS = st.builds(" ".join, PARTS)


@pytest.mark.parametrize(("text", "what"), [*SECRETS.items(), *PERSONAL.items()])
def test_it_is_found_where_it_stands_and_not_shown(text, what):
    kind = "secret" if text in SECRETS else "personal"
    (mark,) = hints.marks(f"See ({text}), please.")
    assert (mark.kind, mark.what) == (kind, what)
    assert (mark.start, mark.end) == (5, 5 + len(text))
    assert text not in mark.shown
    assert hints.masked(f"See ({text}), please.", kind) == "See ([removed]), please."


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # the check digit is wrong
        "DE88 3704 0044 0532 0130 00",
        "order 1234 5678, 9 August 2024, version 1.2.3",
        "3.14159265358979323846",
        "sk-learn-based-things-with-long-names",
        "password: see the other letter",
        "the token is necessary: understanding",
        "@someone wrote a@b",
        "2 + 2 = 4 and +1 more",
        "AKIA is no key",
    ],
)  # fmt: skip
def test_what_only_resembles_is_not_found(text):
    assert hints.marks(text) == []


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("password = 'hX7!kq92Lm'", "hX7!kq92Lm"),
        ('{"api_key": "9f8e7d6c5b4a"}', "9f8e7d6c5b4a"),
        ("export DB_PASSWORD=tr0ub4dor&3x", "tr0ub4dor&3x"),
        ("https://host/?access_token=a1b2c3d4e5f6", "a1b2c3d4e5f6"),
    ],
)
def test_what_a_password_is_set_to_is_found(text, secret):
    (mark,) = hints.marks(text)
    assert text[mark.start : mark.end] == secret
    assert mark.shown == f"{secret[0]}…"


def test_an_owner_knows_the_secret_again():
    assert hints.partly("sk-proj-abcd1234efgh5678ijkl3f9a") == "sk-…3f9a"
    assert hints.partly("4111 1111 1111 1111") == "…1111"
    assert hints.partly("short") == "s…"


@given(TEXTS, st.sampled_from(["secret", "personal"]))
def test_what_is_masked_holds_none_of_the_kind(text, kind):
    masked = hints.masked(text, kind)
    assert not [mark for mark in hints.marks(masked) if mark.kind == kind]
    assert hints.masked(masked, kind) == masked


@given(TEXTS)
def test_a_veiled_text_shows_no_secret(text):
    veiled = hints.veiled(text)
    assert not [secret for secret in SECRETS if secret in veiled]


@given(st.lists(TEXTS, max_size=6))
def test_many_texts_are_searched_like_each(texts):
    apart = [text.replace("\0", "") for text in texts]
    one_by_one = [(place, mark) for place, text in enumerate(apart) for mark in hints.marks(text)]
    assert list(hints.each(apart)) == one_by_one


@given(st.text("0123456789", min_size=1, max_size=30))
def test_one_digit_in_ten_completes_a_number(digits):
    assert sum(hints.luhn(digits + last) for last in "0123456789") == 1


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Hello", "Latin"),
        ("Grüße", "Latin"),
        ("Привет, world", "Cyrillic"),
        ("你好啊 ok", "Chinese or Japanese"),
        ("こんにちは", "Chinese or Japanese"),
        ("안녕하세요", "Korean"),
        ("مرحبا", "Arabic"),
        ("שלום", "Hebrew"),
        ("नमस्ते", "Devanagari"),
        ("สวัสดี", "Thai"),
        ("Γειά", "Greek"),
        ("", "none"),
        ("12 + 3 = 😀", "none"),
        ("\ud83d", "none"),
    ],
)  # fmt: skip
def test_the_script_is_that_of_most_letters(text, script):
    assert languages.script(text) == script


@given(st.lists(st.text(max_size=20)))
def test_scripts_of_many_texts_are_those_of_each(texts):
    together = [languages.SCRIPTS[place] for place in languages.scripts(texts)]
    assert together == [languages.script(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The dog is in the garden and it is not on the street.", "English"),
        ("Der Hund ist nicht im Garten und die Katze auch nicht.", "German"),
        ("Le chien est dans le jardin et les chats ne sont pas avec vous.", "French"),
        ("El perro está en el jardín y los gatos no son de la casa.", "Spanish"),
        ("De hond is niet in het huis en de kat ook niet.", "Dutch"),
        ("print(x)", "none"),
        ("Lamp, chair, table.", "none"),
    ],
)
def test_a_language_is_told_by_its_common_words_or_not_at_all(text, language):
    assert languages.language(text) == language


def test_no_texts_have_no_scripts():
    assert languages.scripts([]).shape == languages.languages([]).shape == (0,)
    assert languages.scripts(["a"]).dtype == np.uint8
