"""Which script a text is written in, and which language it looks like, to find the rows that are unlike the rest.

Scripts come from Unicode's blocks and are sure. A language is a guess from its commonest words, for a few languages
in Latin letters only: a library that tells more brings a model of many megabytes.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

NONE = "none"  # no letters, or no language that is told
READ = 300  # characters of a text that are looked at for its language
LEAST = 3  # common words of a language below which none is told

# first and last character of the blocks; Chinese and Japanese share most of their letters and are not told apart
BLOCKS = (
    ("Latin", "0041-005A 0061-007A 00AA-00AA 00BA-00BA 00C0-024F 1E00-1EFF 2C60-2C7F A720-A7FF FF21-FF3A FF41-FF5A"),
    ("Greek", "0370-03FF 1F00-1FFF"),
    ("Cyrillic", "0400-052F 1C80-1C8F A640-A69F"),
    ("Armenian", "0531-058F"),
    ("Hebrew", "0590-05FF FB1D-FB4F"),
    ("Arabic", "0600-06FF 0750-077F 08A0-08FF FB50-FDFF FE70-FEFE"),
    ("Devanagari", "0900-097F"),
    ("Bengali", "0980-09FF"),
    ("Gurmukhi", "0A00-0A7F"),
    ("Gujarati", "0A80-0AFF"),
    ("Tamil", "0B80-0BFF"),
    ("Telugu", "0C00-0C7F"),
    ("Kannada", "0C80-0CFF"),
    ("Malayalam", "0D00-0D7F"),
    ("Sinhala", "0D80-0DFF"),
    ("Thai", "0E00-0E7F"),
    ("Lao", "0E80-0EFF"),
    ("Tibetan", "0F00-0FFF"),
    ("Burmese", "1000-109F"),
    ("Georgian", "10A0-10FF 1C90-1CBF"),
    ("Korean", "1100-11FF 3130-318F AC00-D7AF"),
    ("Ethiopic", "1200-139F"),
    ("Khmer", "1780-17FF"),
    ("Chinese or Japanese", "2E80-2FDF 3005-3007 3040-30FF 31F0-31FF 3400-4DBF 4E00-9FFF F900-FAFF FF66-FF9F 20000-323AF"),
)  # fmt: skip
SCRIPTS = (NONE, *(name for name, _ in BLOCKS))

WORDS = {
    "English": "the and of to in is that it for you with this are be have not what from which how can your was will",
    "German": "der die das und ist nicht ein eine zu mit den auf für von im dem des sich auch wie werden oder sind wird",
    "French": "le la les et est des une dans pour que qui pas vous sur avec sont plus par du au ce cette comment nous",
    "Spanish": "el la los las y es en que una para con por del se no más como su está son pero qué cómo al",
    "Italian": "il la gli e è di che una per con non sono del della nel si più come anche questo le dei ha alla",
    "Portuguese": "o a os as e é em que uma para com não do da no na são mais como por dos das ao você",
    "Dutch": "de het een en van is dat niet op te voor met zijn aan er ook maar wat hoe wordt naar bij deze je",
    "Swedish": "och att det är en ett som på av för med den inte till har kan om jag du eller från vad hur",
    "Polish": "i w nie na się że z do jest to jak co dla są od po przez czy oraz może który tego jego tym",
    "Turkish": "ve bir bu için ile da de ne olarak çok daha gibi olan var mi en değil nasıl kadar sonra ben sen",
}
LANGUAGES = (NONE, *WORDS)


def scripts(texts: Sequence[str]) -> "np.ndarray":
    """For each text the place in SCRIPTS of the script that most of its letters belong to, `(texts,)`."""
    import numpy as np

    found = np.zeros(len(texts), np.uint8)
    wide = [place for place, text in enumerate(texts) if not text.isascii()]
    letter = re.compile("[A-Za-z]")
    for place, text in enumerate(texts):
        found[place] = text.isascii() and letter.search(text) is not None
    if not wide:
        return found
    joined = "".join(texts[place] + " " for place in wide)
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    starts, ends, names = _blocks()
    block = np.searchsorted(starts, codes, "right") - 1
    script = np.where((block >= 0) & (codes <= ends[block]), names[block], 0)
    lengths = [len(texts[place]) + 1 for place in wide]
    owner = np.repeat(np.arange(len(wide)), lengths)
    counts = np.bincount(owner * len(SCRIPTS) + script, minlength=len(wide) * len(SCRIPTS))
    counts = counts.reshape(len(wide), len(SCRIPTS))
    counts[:, 0] = 0  # digits, signs and spaces say nothing, unless there is nothing else
    found[wide] = counts.argmax(axis=1)
    return found


def script(text: str) -> str:
    """The script of most of a text's letters, or NONE."""
    return SCRIPTS[int(scripts([text])[0])]


def languages(texts: Sequence[str]) -> "np.ndarray":
    """For each text the place in LANGUAGES of the language that it looks like, `(texts,)`."""
    import numpy as np

    common = _common()
    return np.fromiter((_guess(text, common) for text in texts), np.uint8, len(texts))


def language(text: str) -> str:
    """The language that a text looks like, or NONE."""
    return LANGUAGES[int(languages([text])[0])]


def _guess(text: str, common: dict[str, tuple[int, ...]]) -> int:
    """The language with the most common words, if there are enough and no other has two thirds as many."""
    counts = [0] * len(LANGUAGES)
    for word in text[:READ].lower().split():
        for place in common.get(word, ()):
            counts[place] += 1
    best = max(counts)
    if best < LEAST or sum(3 * count >= 2 * best for count in counts) > 1:
        return 0
    return counts.index(best)


def _common() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for place, words in enumerate(WORDS.values(), start=1):
        for word in words.split():
            found[word] = (*found.get(word, ()), place)
    return found


def _blocks() -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
    """First and last character of each block in order, and the place of its script in SCRIPTS."""
    import numpy as np

    table = sorted(
        (int(first, 16), int(last, 16), place)
        for place, (_, blocks) in enumerate(BLOCKS, start=1)
        for first, last in (block.split("-") for block in blocks.split())
    )
    starts, ends, places = zip(*table, strict=True)
    return np.array(starts, np.uint32), np.array(ends, np.uint32), np.array(places)
