"""The panel in which one looks at rows token by token: by number, one after the other, by a text, or the worst ones.

Only shows: it changes neither rows nor recipe. The line of Python below the buttons shows the same row without a panel.
"""

import time
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ... import looking
from ...data import pieces
from ...data.rows import Row
from ...recipe import Recipe
from .. import pages, progress
from ..banner import Banner, guarded, status_html
from ..buttons import button
from ..controls import described
from ..panel import SinglePanel
from . import tokens

if TYPE_CHECKING:
    from ...data.encode import Tokenized
    from ...data.tokenizer import ChatTokenizer

SEARCH_SECONDS = (
    5.0  # after which a search says how far it came, so that the kernel can be asked again
)
_TIPS = {
    pieces.NOTHING: "A row of which nothing is left to learn: a run leaves it out",
    pieces.CUT: "A row whose answer does not fit into the sequence length: the model learns to stop early",
    pieces.LONGEST: "The row with the most tokens",
    pieces.LEAST: "The row of which the smallest share is learned",
}


class TokenInspector(SinglePanel):
    """`inspector.row` is the number of the row that is shown, `show()` goes to another one, `page` is what is shown."""

    def __init__(
        self,
        tokenized: "Tokenized",
        tokenizer: "ChatTokenizer",
        *,
        max_length: int,
        pad_to: int | None = None,
    ) -> None:
        """`max_length` is where rows are cut, `pad_to` to where short ones are padded, both in tokens."""
        self.tokenized, self.tokenizer = tokenized, tokenizer
        self.max_length, self.pad_to = max_length, pad_to
        self.worst = pieces.worst(tokenized, max_length)
        self.position = 0
        self._setting = False
        self._turn = dict.fromkeys(self.worst, -1)
        self._found, self._found_at = "", 0.0
        self.banner = Banner()
        self._make_controls()
        self._code, self._view, self._note = (widgets.HTML() for _ in range(3))
        super().__init__(self._rows())
        self.add_class("wb-inspector")
        self._listen()
        self._draw()
        if faulty := tokenized.rows.faults.count:
            fact = f"{faulty:,} more row{'' if faulty == 1 else 's'} cannot be read."
            self.banner.show(pages.message("note", fact, "wb.data_report(recipe) says why."))

    @property
    def row(self) -> int:
        """The number of the row that is shown, counted within its file."""
        return self.tokenized.rows[self.position].number

    @property
    def page(self) -> pages.Page:
        """What is shown, as a page that stays in a saved notebook."""
        return tokens.page(self._shown())

    def show(self, row: int, *, file: str = "") -> None:
        """Goes to the row of this number. Raises DataError when there is none."""
        self._go(self.tokenized.rows.position(row, file))

    def __repr__(self) -> str:
        return f"The panel needs its kernel: run this cell again. {pieces.as_text(self._shown())}"

    def bundle(self) -> dict[str, Any]:
        """What a cell's output holds; without its kernel a saved notebook shows the row that was shown first."""
        return super().bundle() | {"text/html": self.page.html}

    def _shown(self) -> pieces.View:
        at = self.position
        return pieces.view(
            self.tokenized.rows[at].name,
            self.tokenized.ids(at),
            self.tokenized.mask(at),
            self.tokenizer,
            max_length=self.max_length,
            pad_to=self.pad_to,
        )

    def _make_controls(self) -> None:
        self.previous = button("Previous", "The row before this one", "arrow-left", "previous")
        self.next = button("Next", "The row after this one", "arrow-right", "next")
        says = "The row's number, counted from 1 within its file; Enter shows it"
        self.number = described(widgets.IntText, "Row", says, "row-number", value=self.row)
        names = self.tokenized.rows.files
        says = "Which of the files the row's number counts in"
        self.file = described(widgets.Dropdown, "File", says, "file", options=names)
        says = "Shows the next row in which this text stands, whatever its case; Enter looks for it"
        self.text = described(widgets.Text, "Find", says, "find-text", continuous_update=False)
        self.find = button("Find next", "The next row with this text", "search", "find")
        self.worst_buttons = {kind: _worst_button(kind, self.worst) for kind in _TIPS}
        for made, label, width in ((self.number, "36px", "150px"), (self.text, "36px", "260px")):
            made.style.description_width, made.layout.width = label, width
        self.file.style.description_width = "36px"
        self.file.layout.display = "" if len(names) > 1 else "none"  # one needs no choice

    def _rows(self) -> list[widgets.Widget]:
        around = [self.previous, self.number, self.next, self.file]
        bars = ([*around, self.text, self.find], list(self.worst_buttons.values()))
        layout = {"flex_flow": "row wrap", "align_items": "center"}
        lines = [widgets.HBox(bar, layout=widgets.Layout(**layout)) for bar in bars]
        about = f"{len(self.tokenized):,} rows, cut at {self.max_length:,} tokens"
        title = widgets.HTML(pages.heading("Tokens", about))
        return [title, self.banner, *lines, self._note, self._code, self._view]

    def _listen(self) -> None:
        for made, act in (
            (self.previous, lambda: self._go(self.position - 1)),
            (self.next, lambda: self._go(self.position + 1)),
            (self.find, self._find),
        ):
            made.on_click(guarded(self.banner, act))
        for kind, made in self.worst_buttons.items():
            made.on_click(guarded(self.banner, lambda kind=kind: self._go_to_worst(kind)))
        self.number.observe(guarded(self.banner, self._take_number), names="value")
        self.file.observe(guarded(self.banner, self._take_number), names="value")
        self.text.observe(guarded(self.banner, self._find), names="value")

    def _take_number(self) -> None:
        if not self._setting:
            self.show(self.number.value, file=self.file.value)

    def _go_to_worst(self, kind: str) -> None:
        """The worst row of this kind; pressed again, the next worst."""
        ranked = self.worst[kind]
        self._turn[kind] = turn = (self._turn[kind] + 1) % len(ranked.positions)
        of = f" of {ranked.count:,}" if kind in (pieces.NOTHING, pieces.CUT) else ""
        self._go(ranked.positions[turn], f"{kind.capitalize()}: number {turn + 1:,}{of}.")

    def _find(self) -> None:
        """The next row with the text, from the one after this; after the last comes the first."""
        wanted, rows, since = self.text.value.casefold(), self.tokenized.rows, time.monotonic()
        just_found, self._found_at = since - self._found_at < 0.5, since
        if not wanted or (just_found and wanted == self._found):
            return  # leaving the box for the button has found it already
        self._found = wanted
        for step in range(1, len(rows) + 1):
            at = (self.position + step) % len(rows)
            if wanted in _said(rows[at]).casefold():
                self._go(at, f"Found in {rows[at].name}.")
                self._found_at = time.monotonic()
                return
            if time.monotonic() - since > SEARCH_SECONDS:
                self._go(at, f"Not in the {step:,} rows up to this one; Find next looks further.")
                return
        self._say(f"No row has {self.text.value!r:.60} in it.")

    def _go(self, position: int, note: str = "") -> None:
        self.position = position % len(self.tokenized)
        self.banner.clear()  # what was wrong has been read by now
        self._draw()
        self._say(note)

    def _draw(self) -> None:
        row, shown = self.tokenized.rows[self.position], self._shown()
        self._setting = True
        self.number.value = row.number
        if row.file:
            self.file.value = row.file
        self._setting = False
        file = f", file={row.file!r}" if row.file else ""
        self._code.value = pages.code(f"wb.show_tokens(recipe, row={row.number}{file})")
        self._view.value = tokens.html(shown)

    def _say(self, note: str) -> None:
        self._note.value = status_html(note)


def token_inspector(recipe: Recipe, *, pad_to: int | None = None) -> TokenInspector:
    """The recipe's training rows token by token; `pad_to` is in tokens. Raises DataError."""
    with progress.bar("Reading and tokenizing the rows") as tell:
        tokenized, tokenizer = looking.tokenized(recipe, progress=tell)
    return TokenInspector(tokenized, tokenizer, max_length=recipe.model.max_length, pad_to=pad_to)


def _worst_button(kind: str, worst: dict[str, pieces.Ranked]) -> widgets.Button:
    label = kind.capitalize()
    if kind in (pieces.NOTHING, pieces.CUT):
        label += f" ({worst[kind].count if kind in worst else 0:,})"
    made = button(label, _TIPS[kind], "", "worst-" + kind.replace(" ", "-"))
    made.disabled = kind not in worst
    return made


def _said(row: Row) -> str:
    return "\n".join([row.text, *(message.content for message in row.messages)])
