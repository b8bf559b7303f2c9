"""A tokenizer with its chat template, without Transformers: the same tokens, loaded in a tenth of a second.

The notebook's side looks at rows with it; the worker wraps Transformers' own tokenizer in it (`ChatTokenizer.of`), so
that what was looked at is what is trained. Knows nothing of rows, masks or models.
"""

import codecs
import json
import re
from collections.abc import Iterable, Sequence
from datetime import date
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..problems import DataError, Problem
from . import cache, tokenizer_files
from .faults import Fault
from .tokenizer_files import TOOL_USE
from .writing import ChatTemplate, Turns, Written

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

# the special tokens that Transformers hands to templates
NAMED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
Tools = str | list[Any] | None
_HOLE = "\ue000said\ue000"  # stands for what an answer says


class ChatTokenizer:
    """A `tokenizers.Tokenizer` (`backend`) with chat templates by name, and special tokens such as {"bos_token": "<s>"}.

    `name` is the model's, for messages. `template` is the text of the chat template, empty if there is none.
    """

    def __init__(
        self, name: str, backend: "Tokenizer", special: dict[str, str], templates: dict[str, str]
    ) -> None:
        self.name, self.backend, self.special_tokens = name, backend, special
        self.template = templates.get("default", "")
        self._templates = {
            kind: ChatTemplate(text, special) for kind, text in templates.items() if text
        }

    @classmethod
    def load(
        cls, name: str, revision: str | None = None, template: str | None = None
    ) -> "ChatTokenizer":
        """From a folder or the hub; `template` is what `data.template` says. Raises DataError with reason and cure."""
        from tokenizers import Tokenizer

        name = str(name)
        files = tokenizer_files.fetch(name, revision)
        try:
            backend = Tokenizer.from_file(str(files.tokenizer))
        except Exception as error:  # the tokenizers' errors have no other class
            fact = f"{files.tokenizer} is no tokenizer that can be read: {error}."
            cure = "Copy or download it again."
            raise DataError([Problem("model.name", fact, cure)]) from None
        try:
            special = _complete(backend, files.config)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            fact = f"The special tokens in the tokenizer_config.json of {name} cannot be read: {error!r}."
            raise DataError([Problem("model.name", fact, "Copy or download it again.")]) from None
        found = {"default": tokenizer_files.template(template)} if template else files.templates
        return cls(name, backend, special, found)

    @classmethod
    def of(cls, tokenizer: Any, template: str | None = None) -> "ChatTokenizer":
        """Around one of Transformers' tokenizers. Raises DataError for one that works letter by letter in Python."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            fact = f"{type(tokenizer).__name__} cannot tell which characters a token stands for, which marks the answers."
            cure = "Take a version of the model that has a tokenizer.json."
            raise DataError([Problem("model.name", fact, cure)])
        given = {"default": tokenizer_files.template(template)} if template else None
        found = given or tokenizer_files.templates(tokenizer.chat_template)
        special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
        return cls(tokenizer.name_or_path, backend, special, found)

    @cached_property
    def key(self) -> str:
        """A fingerprint: equal for tokenizers that write and tokenize everything alike.

        A template that writes the date is another one each day.
        """
        said = json.loads(self.backend.to_str()) | {"truncation": None, "padding": None}
        texts = sorted((kind, template.text) for kind, template in self._templates.items())
        special = sorted(self.special_tokens.items())
        today = date.today() if any("strftime_now" in text for _, text in texts) else None
        return cache.key(json.dumps(said, sort_keys=True), texts, special, today)

    @property
    def bos_id(self) -> int | None:
        return self._id("bos_token")

    @property
    def eos_id(self) -> int | None:
        return self._id("eos_token")

    @property
    def pad_id(self) -> int | None:
        return self._id("pad_token")

    @cached_property
    def added(self) -> "dict[str, AddedToken]":
        """Tokens that are found in a text as they stand, by what they say; special ones and others."""
        return {token.content: token for token in self.backend.get_added_tokens_decoder().values()}

    @cached_property
    def special_ids(self) -> set[int]:
        """Ids of the tokens that mean something to the model instead of saying something."""
        tokens = self.backend.get_added_tokens_decoder().items()
        named = map(self.backend.token_to_id, self.special_tokens.values())
        return {number for number, token in tokens if token.special} | set(named) - {None}

    @cached_property
    def end_ids(self) -> set[int]:
        """Ids that may end a turn: that of the end-of-text token, and those that the template writes after an answer."""
        ends = set() if self.eos_id is None else {self.eos_id}
        asked = {"role": "user", "content": "Hi"}
        call = {"type": "function", "function": {"name": _HOLE, "arguments": {}}}
        answer = {"role": "assistant", "content": _HOLE}
        calling = {"role": "assistant", "content": "", "tool_calls": [call]}
        turns = ((answer, slice(None)), (calling, slice(-1, None))) if self.template else ()
        for turn, closing in turns:
            try:
                _, hole, after = self.write([asked, turn]).rpartition(_HOLE)
            except Fault:  # not every template knows tool calls
                continue
            if (
                hole
            ):  # of what is written after a call, the last token ends the turn: others end the call
                ends |= {self.backend.token_to_id(token) for token in self.added_in(after)[closing]}
        return ends

    def added_in(self, text: str) -> list[str]:
        """The added tokens that a text holds, in order."""
        return self._added_pattern.findall(text) if self.added else []

    @cached_property
    def _added_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.added, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)))

    @property
    def has_marks(self) -> bool:
        """Whether the template itself, and that for tools if there is one, marks what the assistant says."""
        marked = [template.has_marks for template in self._templates.values()]
        return bool(marked) and all(marked)

    def words(self, text: str) -> list[str]:
        """The text in pieces: added tokens, white space, and what is between them."""
        parts = re.split(f"({self._added_pattern.pattern})", text) if self.added else [text]
        return [
            word
            for place, part in enumerate(parts)
            for word in ([part] if place % 2 else re.findall(r"\s+|\S+", part))
        ]

    def write(
        self, turns: Turns, *, tools: Tools = None, add_generation_prompt: bool = False
    ) -> str:
        """The conversation as text, as Transformers' `apply_chat_template` writes it; `tools` may be JSON text.

        Raises Fault when the template refuses the conversation, DataError when there is no template that can be used.
        """
        tools = (json.loads(tools) if isinstance(tools, str) else tools) if tools else None
        return self._template(tools).write(turns, tools, add_generation_prompt)

    def marked(self, turns: Turns, *, tools: Tools = None) -> Written:
        """The same with the characters that the template marks as the assistant's. Raises as `write`."""
        tools = (json.loads(tools) if isinstance(tools, str) else tools) if tools else None
        return self._template(tools).marked(turns, tools)

    def ids(self, text: str) -> list[int]:
        """The token ids of a text that says all its special tokens itself."""
        return self.encode([text])[0].ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text that these tokens make, special ones told too."""
        return self.backend.decode(list(ids), skip_special_tokens=False)

    def token(self, number: int) -> str:
        """A token as the vocabulary spells it; empty for an id that it does not have."""
        return self.backend.id_to_token(number) or ""

    def encode(
        self, texts: Sequence[str], *, quick: bool = False, special: bool = False
    ) -> list[Any]:
        """The encodings of texts, uncut and not padded; on all cores, while other threads of Python run.

        Without offsets when `quick`; `special` adds what the tokenizer puts around a text by itself.
        """
        if self.backend.truncation is not None:  # Transformers leaves them set after a call
            self.backend.no_truncation()
        if self.backend.padding is not None:
            self.backend.no_padding()
        encode = self.backend.encode_batch_fast if quick else self.backend.encode_batch
        return encode(texts, add_special_tokens=special)

    @cached_property
    def byte_lengths(self) -> list[int] | None:
        """How many bytes of a text each token stands for, by id; None where tokens do not tell."""
        if "ByteLevel(" not in repr(self.backend.pre_tokenizer):
            return None
        normalizer = repr(self.backend.normalizer)
        if normalizer not in ("None", "NFC()"):
            return None
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        lengths = [0] * (max(vocabulary.values(), default=-1) + 1)
        for token, number in vocabulary.items():
            lengths[number] = len(token.encode()) if token in self.added else len(token)
        return lengths

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """What each token says; together they are the text.

        A character that is spelled by several tokens is told with its first one, and the others say nothing.
        """
        if "ByteLevel(" in repr(self.backend.decoder):
            return _whole_characters([self._bytes(number) for number in ids])
        pairs = [list(pair) for pair in pairwise(ids)]
        decode = self.backend.decode_batch
        firsts = decode([[number] for number in ids], skip_special_tokens=False)
        both = decode(pairs, skip_special_tokens=False)
        rest = [pair.removeprefix(first) for pair, first in zip(both, firsts, strict=False)]
        return [*firsts[:1], *rest]

    def _bytes(self, number: int) -> bytes:
        token = self.backend.id_to_token(number)
        if token is None:
            return b""
        if token in self.added or not all(letter in self._byte_of for letter in token):
            return token.encode()
        return bytes(self._byte_of[letter] for letter in token)

    @cached_property
    def _byte_of(self) -> dict[str, int]:
        """How byte-level vocabularies write bytes: printable ones as themselves, the others from U+0100 on."""
        printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(256) if byte not in printable]
        return {chr(byte): byte for byte in printable} | {
            chr(256 + place): byte for place, byte in enumerate(others)
        }

    def _id(self, name: str) -> int | None:
        token = self.special_tokens.get(name)
        return None if token is None else self.backend.token_to_id(token)

    def _template(self, tools: list[Any] | None) -> ChatTemplate:
        kind = TOOL_USE if tools is not None and TOOL_USE in self._templates else "default"
        if kind in self._templates:
            return self._templates[kind]
        fact = f"The tokenizer of {self.name or 'this model'} has no chat template."
        cure = (
            "Take the model's instruct or chat version,"
            " or set data.template to plain, chatml, alpaca or a .jinja file."
        )
        raise DataError([Problem("data.template", fact, cure)])


def _complete(backend: "Tokenizer", config: dict[str, Any]) -> dict[str, str]:
    """Adds what only tokenizer_config.json says, as Transformers does, and returns the named special tokens."""
    from tokenizers import AddedToken

    def token(said: Any, **more: bool) -> "AddedToken":
        if isinstance(said, str):
            return AddedToken(said, special=True, normalized=False)
        names = ("single_word", "lstrip", "rstrip", "normalized", "special")
        flags = {name: said[name] for name in names if name in said}
        return AddedToken(said["content"], **flags | more)

    names = {f"{name}_token": config.get(f"{name}_token") for name in NAMED}
    special = {
        name: said if isinstance(said, str) else said["content"]
        for name, said in names.items()
        if said
    }
    numbered = config.get("added_tokens_decoder") or {}
    older = config.get("additional_special_tokens")
    more = config.get("extra_special_tokens", older) or []
    more = more.values() if isinstance(more, dict) else more
    wanted = [token(numbered[number]) for number in sorted(numbered, key=int)]
    wanted += [token(said, special=True) for said in (*names.values(), *more) if said]
    known = {added.content for added in backend.get_added_tokens_decoder().values()}
    backend.add_tokens([one for one in wanted if one.content not in known])
    return special


def _whole_characters(pieces: Iterable[bytes]) -> list[str]:
    """UTF-8 pieces as texts: a character that goes over several pieces is told with the first of them."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    texts, first = [], 0  # the piece in which the character began that is not whole yet
    for place, piece in enumerate(pieces):
        open_before = bool(decoder.getstate()[0])
        said = decoder.decode(piece)
        texts.append("")
        texts[first if open_before else place] += said
        if not open_before or (said and decoder.getstate()[0]):
            first = place
    rest = decoder.decode(b"", final=True)
    if rest:
        texts[first] += rest
    return texts
