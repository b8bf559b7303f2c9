"""What can be done with the picked runs: the buttons, each enabled where it can be obeyed, with the reason where not.

Knows digests. What a button does is given to it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from ...digest import UNREADABLE, Digest
from ...events import OVER
from .. import pages
from ..banner import Banner, guarded, status_html
from ..buttons import button

MOST = 6  # curves that can be told apart in one picture
# act -> what its button says, the line of Python behind it, and its icon
ACTS = {
    "open": ("Open", "run = wb.Run.open(name): shows its monitor below", "eye"),
    "resume": ("Resume", "run.resume(): goes on from the last checkpoint", "play"),
    "close": ("End worker", "run.close(): frees its memory; the run stays", "power-off"),
    "duplicate": ("Duplicate", "wb.launch_panel(run.recipe): its settings, ready to be changed and started", "copy"),
    "compare": ("Compare", "wb.compare(runs): curves over each other, and the settings that differ", "balance-scale"),
    "rename": ("Rename", "wb.rename(run, name): its folder gets the name too", "edit"),
    "trash": ("Delete...", "wb.trash(run): moves it to the trash folder; asks first", "trash"),
}  # fmt: skip
WAIT = "its worker is still there; end it first"


class RunChoice(widgets.VBox):
    """The buttons; `name` holds the new name for the one that renames."""

    def __init__(self, banner: Banner, acts: Mapping[str, Callable[[], Any]]) -> None:
        self._picked: Sequence[tuple[str, Digest]] = ()
        self._said = ""
        self.buttons = {act: button(*ACTS[act], f"runs-{act}") for act in ACTS}
        self.name = widgets.Text(placeholder="new name", layout=widgets.Layout(width="220px"))
        self.name.description, self.name.style.description_width = "New name", "70px"
        tip = "Letters, digits, '.', '-' and '_'"
        setattr(self.name, "tooltip" if self.name.has_trait("tooltip") else "description_tooltip", tip)  # fmt: skip
        self.name.add_class("wb-runs-name")
        self.yes = button("Move to the trash", ACTS["trash"][1], "trash", "runs-trash-yes", "danger")  # fmt: skip
        self.no = button("Keep", "Leaves everything as it is", "check", "runs-trash-no")
        self.back = button("Bring back", "wb.restore(name): out of the trash again", "undo", "runs-back")  # fmt: skip
        self._question, self._note, self.code = (widgets.HTML() for _ in range(3))
        self._confirm = _line(self._question, self.yes, self.no)
        first = [self.buttons[act] for act in ACTS if act not in ("rename", "trash")]
        bars = (
            _line(*first),
            _line(self.name, self.buttons["rename"], self.buttons["trash"], self.back),
        )
        super().__init__([*bars, self._confirm, self._note, self.code])
        self._confirm.layout.display = self.back.layout.display = "none"
        for act, made in self.buttons.items():
            made.on_click(guarded(banner, self._ask if act == "trash" else acts[act]))
        self.yes.on_click(guarded(banner, lambda: (self.ask(False), acts["trash"]())))
        self.no.on_click(guarded(banner, lambda: self.ask(False)))
        self.back.on_click(guarded(banner, acts["restore"]))
        self.name.observe(guarded(banner, self._follow), names="value")

    def follow(self, picked: Sequence[tuple[str, Digest]], code: str) -> None:
        """Enables what can be done with these runs, and tells why the rest cannot; `code` is their line of Python."""
        if [name for name, _ in picked] != [name for name, _ in self._picked]:
            self.ask(False)
            self._said = ""
        self._picked = picked
        self.code.value = pages.code(code)
        self._follow()

    def say(self, text: str, *, back: str = "") -> None:
        """Says what was done; with `back`, the button that brings that back is there."""
        self._said = text
        self.back.description = f"Bring back {back}"
        self.back.layout.display = "" if back else "none"
        self._follow()

    def ask(self, wanted: bool) -> None:
        """Shows or hides the question before runs go to the trash."""
        names = ", ".join(name for name, _ in self._picked)
        count = f"{len(self._picked)} runs" if len(self._picked) > 1 else "run"
        self._question.value = status_html(f"Move {count} {names} to the trash?" if wanted else "")
        self._confirm.layout.display = "" if wanted else "none"

    def _ask(self) -> None:
        self.ask(True)

    def _follow(self) -> None:
        why = reasons(self._picked, self.name.value)
        for act, made in self.buttons.items():
            made.disabled = bool(why[act])
        text = status_html(" ".join(filter(None, (self._said, told(why)))))
        self._note.value = f'<div style="line-height:1.5">{text}</div>'


def reasons(picked: Sequence[tuple[str, Digest]], new_name: str) -> dict[str, str]:
    """Why each act cannot be obeyed, "" where it can."""
    count = len(picked)
    alone = "" if count == 1 else "pick one run alone" if count else "pick one run"
    why = dict.fromkeys(ACTS, alone)
    why["compare"] = "" if 2 <= count <= MOST else f"pick 2 to {MOST} runs"
    why["trash"] = "" if count else "pick some runs"
    why["close"] = "pick some runs"
    if not count:
        return why
    alive = [name for name, told in picked if told.alive]
    training = [name for name, told in picked if told.alive and told.state not in OVER]
    if alive:
        why["trash"] = WAIT if count == 1 else f"the worker of {', '.join(alive)} is still there"
    why["close"] = "" if alive and not training else "no worker is there to end"
    if training:
        why["close"] = f"{training[0]} is not over; Open shows the button that stops it"
    if count > 1:
        return why
    ((name, told),) = picked
    unread = told.problem.rstrip(".") if told.state == UNREADABLE or told.problem else ""
    why["duplicate"] = unread
    why["resume"] = WAIT if told.alive else _nothing_left(told) or unread
    wanted = new_name.strip()
    why["rename"] = WAIT if told.alive else "" if wanted and wanted != name else "type a new name"
    return why


def told(why: Mapping[str, str]) -> str:
    """The reasons in one line, those that are the same together: "Open, Resume: pick one run alone."."""
    acts: dict[str, list[str]] = {}
    for act, reason in why.items():
        if reason:
            acts.setdefault(reason, []).append(ACTS[act][0].rstrip("."))
    return " ".join(f"{', '.join(names)}: {reason}." for reason, names in acts.items())


def _nothing_left(told: Digest) -> str:
    return f"it has done all of its {told.of:,} steps" if told.done else ""


def _line(*parts: widgets.Widget) -> widgets.HBox:
    return widgets.HBox(parts, layout=widgets.Layout(flex_flow="row wrap", align_items="center"))
