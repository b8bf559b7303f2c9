"""The panel in which a recipe is set, with what each change means: parameters, memory, steps, minutes, and warnings.

Only edits a recipe: it starts nothing. Each control shows the line of Python that does the same,
muted while it says what the recipe says already. All settings have a control; most are folded away.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import ipywidgets as widgets
import traitlets

from ... import presets
from ...caution import Caution, cautions
from ...caution import text as cautions_text
from ...memory import learned
from ...models import LinearLayer
from ...problems import WorkbenchError
from ...recipe import Recipe
from .. import pages
from ..banner import Banner, guarded
from ..controls import box_layout, cell, code_layout, described, form_layout, section, side_by_side
from ..fold import Fold
from ..panel import Panel
from . import consequences, settings
from .consequences import NOT_READY, Consequences, facts
from .keeping import Keeping
from .length import EPOCHS, STEPS, Length
from .lookup import Found, key, look_up
from .memory_bar import MemoryBar
from .model_choice import ModelChoice, short
from .preset_choice import PresetChoice
from .settings import Entry, Form
from .targets import NAME, Targets

MOST = 4  # panels of one recipe: cells are run again, and widgets live until they are closed
RANKS = tuple(2**power for power in range(9))  # 1 to 256
#: What is seen at once, apart from the model, the target modules and the length.
WEIGHTS = ("model.load_in_4bit", "model.quant_type", "model.double_quant", "model.compute_dtype")
ADAPTER = ("lora.rank", "lora.alpha", "lora.dropout", "lora.rslora", "lora.dora")
RATE = "training.learning_rate"
BATCH = ("training.batch_size", "training.accumulation", "model.max_length")
LONG = "185px"  # for labels of the folded settings
WIDE, BOX = (widgets.Text, widgets.Textarea), widgets.Checkbox


class SetupPanel(Panel):
    """Shows and changes a recipe; `panel.recipe` is the recipe as shown, `valid` whether it can be used.

    The fifth that is shown of a recipe closes the first.
    """

    valid = traitlets.Bool(True)
    _shown: ClassVar[list["SetupPanel"]] = []

    def __init__(
        self,
        recipe: Recipe | None = None,
        *,
        card: str | None = None,
        vram: str | None = None,
        outputs: str | Path = "outputs",
    ) -> None:
        """The bar is for this machine, or for a `card` by name, or one with so much memory (`vram="16GiB"`).

        `outputs` holds what earlier runs measured.
        """
        self.base = recipe or Recipe()
        self.banner = Banner()
        self.extra: dict[str, Any] = {}
        self.controls: dict[str, widgets.Widget] = {}
        self.lines: dict[str, widgets.HTML] = {}
        self.cautions: list[Caution] = []
        self._preset_set: dict[str, tuple[Any, Any]] = {}  # before and after, by dotted name
        self._where = {"card": card, "vram": vram, "outputs": outputs}
        self._given = self.base.settings
        self._entries: dict[str, Entry] = {}
        self._setting = True
        # shared by what looks alike: a layout is a widget of its own, and each takes its time
        self._codes, self._cell = code_layout(), widgets.Layout(**cell(lines=True))
        self._narrow, self._box = form_layout(), box_layout()
        self._title, self._scale = widgets.HTML(), widgets.HTML()
        self._refresh = guarded(self.banner, self.refresh)
        self._found = look_up(self.base, **self._where)
        super().__init__(self._parts())
        self.add_class("wb-setup")
        self._ask()
        for part in (self.targets, self.length):
            part.on_change(self._refresh)
        self._setting = False
        self.refresh()

    def __repr__(self) -> str:
        """The settings as code, what they amount to, and what speaks against them."""
        try:
            recipe = self.recipe
        except WorkbenchError as error:
            return f"The settings cannot be used yet.\n{error}"
        told = "".join(f"\n- {fact}" for fact in self.summary(recipe))
        warned = f"\n{cautions_text(self.cautions)}" if self.cautions else ""
        return f"recipe = {recipe.as_code()}\n{told}{warned}"

    def close(self) -> None:
        """Closes the panel with all that is in it; `recipe` stays."""
        if self in SetupPanel._shown:
            SetupPanel._shown.remove(self)
        super().close()

    def _ipython_display_(self, **how: Any) -> None:
        """Shows the panel; of those that were made of the same recipe the oldest is closed where there are too many."""
        super()._ipython_display_(**how)
        if self not in SetupPanel._shown:
            SetupPanel._shown.append(self)
        alike = [panel for panel in SetupPanel._shown if panel.base == self.base]
        for oldest in alike[:-MOST]:
            oldest.close()

    @property
    def recipe(self) -> Recipe:
        """The recipe as shown. Raises RecipeError with all problems when it cannot be used."""
        return self.base.replace(**settings.changes(self.values))

    @property
    def values(self) -> dict[str, Any]:
        """All settings by dotted name, valid or not: as the controls hold them, else as they were given or set."""
        held = {name: entry.value for name, entry in self._entries.items()}
        return self._given | self.extra | held | {NAME: self.targets.value} | self.length.values

    @property
    def changed(self) -> bool:
        """Whether anything is set otherwise than in the recipe that the panel was given."""
        return self.values != self._given

    @property
    def layers(self) -> tuple[LinearLayer, ...]:
        """The linear layers of the model that is set; none where they are not known."""
        return self._found.layers

    def learn(self) -> None:
        """Takes in what runs measured since the panel was made."""
        self.memory.learn(learned.past(self._where["outputs"]))
        self.refresh()

    def set(self, values: Mapping[str, Any]) -> None:
        """Sets these settings by dotted name: the controls move; those without one are kept in the recipe, and shown.

        Raises RecipeError, and sets nothing, where one of them cannot be used.
        """
        values = settings.by_name(values)
        checked = Recipe().replace(**settings.changes(values))
        self._setting = True
        try:
            taken = {name: checked.settings[name] for name in values}
            for name in settings.names():
                if name in taken:
                    self._put(name, taken[name])
            self.length.put(taken)
        finally:
            self._setting = False
        self.refresh()

    def refresh(self) -> None:
        """Brings the lines of Python, the summary, the memory and the banner in step with the controls."""
        if self._setting:
            return
        for entry in self._entries.values():
            entry.show_line()
        self.length.show_line()
        self.targets.tell_costs(self.controls["lora.rank"].value, self.controls["lora.dora"].value)
        try:
            recipe = self.recipe
        except WorkbenchError as error:
            self._show_fault(error)
            return
        if key(recipe) != key(self._found.recipe):
            self.model.wait()
            self._take_found(look_up(recipe, **self._where))
        self.valid = True
        if self._found.error is not None:
            self.banner.show_error(self._found.error)
        else:
            self.banner.clear()
        self._show(recipe)

    def summary(self, recipe: Recipe) -> list[str]:
        """What the settings amount to, one fact each."""
        return facts(recipe, self.memory.plan_for(recipe), self._found.rows_fault)

    def _show(self, recipe: Recipe) -> None:
        self._title.value = _title(recipe)
        self._scale.value = f'<span style="{pages.MUTED}">{consequences.scale(recipe)}</span>'
        plan = self.memory.show(recipe, self.extra)
        rows = plan.question.rows if plan else None
        self.cautions = cautions(recipe, rows=rows, modules=self.targets.groups)
        self.consequences.show(facts(recipe, plan, self._found.rows_fault), self.cautions)
        self.preset.follow(recipe)
        self.keeping.follow(recipe)

    def _show_fault(self, error: WorkbenchError) -> None:
        self.valid, self.cautions = False, []
        self.banner.show_error(error)
        self._scale.value = ""
        self.consequences.show([NOT_READY], [])
        self.memory.say("A setting is wrong: see the message above.")
        self.keeping.follow(None)

    def _apply(self, values: Mapping[str, Any]) -> None:
        guarded(self.banner, lambda: self.set(values))()

    def _take_preset(self, name: str | None) -> None:
        """Takes back what the preset before set, unless it was changed by hand since, and then sets this one's, if any."""
        now, undone = self.recipe.settings, dict(self._preset_set)
        kept = [each for each, (_, after) in undone.items() if now[each] != after]
        if {STEPS, EPOCHS} & set(kept):  # they go together
            kept += [STEPS, EPOCHS]
        back = {each: before for each, (before, _) in undone.items() if each not in kept}
        recipe = self.recipe.replace(**settings.changes(back))
        before = recipe.settings
        after = presets.preset(name, recipe).settings if name else before
        self._preset_set = {
            e: (before[e], value) for e, value in after.items() if value != before[e]
        }
        self.set({each: value for each, value in after.items() if value != now[each]})

    def _take_found(self, found: Found) -> None:
        """Shows another model's modules, as far as they are chosen, and asks the plan's question anew."""
        was, self._setting = self._setting, True
        try:
            self._found = found
            self.targets.take(found.layers, self.targets.value)
        finally:
            self._setting = was
        self._ask()

    def _ask(self) -> None:
        """Hands on what was found out about the model and the rows."""
        self.memory.ask(self._found.question, self._found.why_not)
        self.model.follow(self._found.question, here=self._found.here)

    def _put(self, name: str, value: Any) -> None:
        if name == NAME:
            self.targets.put(value)
        elif name in self._entries:
            self._entries[name].put(value)
        elif name not in (STEPS, EPOCHS):
            self.extra = {**self.extra, name: value}
            if value == self._given[name]:
                del self.extra[name]

    def _add(self, entry: Entry) -> Entry:
        """Has a setting's control watched, and its line of Python kept in step."""
        self._entries[entry.name], self.controls[entry.name] = entry, entry.control
        self.lines[entry.name] = entry.code
        entry.control.observe(self._refresh, names="value")
        return entry

    def _entry(self, name: str, **how: Any) -> Entry:
        boxed = isinstance(self._given[name], bool)
        how = {"layout": self._box if boxed else self._narrow} | how
        return self._add(Entry(name, self._given[name], codes=self._codes, **how))

    def _rows(self, names: Iterable[str]) -> list[widgets.Widget]:
        return [self._entry(name).row(self._cell) for name in names]

    def _parts(self) -> list[widgets.Widget]:
        """All that the panel holds at first; the folded settings come when they are opened."""
        self.preset = PresetChoice(self._take_preset, banner=self.banner, codes=self._codes)
        self.consequences, self.memory = Consequences(self._apply), MemoryBar(self._apply)
        self.keeping = Keeping(self.banner, codes=self._codes)
        form = widgets.VBox(self._form(), layout=widgets.Layout(flex="0 1 730px", min_width="0"))
        beside = widgets.VBox(
            [self.consequences, self.memory],
            layout=widgets.Layout(flex="1 1 300px", padding="0 0 0 12px"),
        )
        both = widgets.HBox([form, beside], layout=widgets.Layout(flex_flow="row wrap"))
        return [self._head(), self.banner, both, self.keeping]

    def _head(self) -> widgets.HBox:
        says = "Shows beside each control the line of Python that does the same"
        self.python = described(
            widgets.Checkbox, "Show the Python", says, "show-python", value=True, indent=False,
            layout=widgets.Layout(width="auto", margin="0 0 0 24px"),
        )  # fmt: skip
        self.python.observe(guarded(self.banner, self._show_python), names="value")
        head = widgets.HBox(
            [self._title, self.python],
            layout=widgets.Layout(flex_flow="row wrap", align_items="center"),
        )
        return head

    def _show_python(self) -> None:
        """All lines share a layout, and so do all rows: without lines, rows stand side by side."""
        shown = self.python.value
        self._codes.display = "" if shown else "none"
        for name, value in cell(lines=shown).items():
            setattr(self._cell, name, value)

    def _form(self) -> list[widgets.Widget]:
        how = {"banner": self.banner, "codes": self._codes}
        self.model = ModelChoice(self.base.model.name, **how)
        self._add(self.model.entry)
        self.targets = Targets(self._found.layers, self.base.lora.target_modules, **how)
        self.length = Length(self.base.training, **how)
        self.controls |= {STEPS: self.length.steps, EPOCHS: self.length.epochs}
        self.lines |= {STEPS: self.length.code, EPOCHS: self.length.code, NAME: self.targets.code}
        rank = self.base.lora.rank
        ranks = Form(widgets.Dropdown, int, int, {"options": sorted({*RANKS, rank})})
        adapter = [self._entry("lora.rank", form=ranks).row(self._cell), *self._rows(ADAPTER[1:])]
        control, code = adapter[1].children
        adapter[1].children = [control, self._scale, code]
        rest = widgets.VBox()
        says = "every other setting, in groups"
        fill = guarded(self.banner, lambda: self._fill(rest))
        self.more = Fold("All settings", says, "more", rest, fill=fill)
        return [
            self.preset,
            section(settings.title("model")), self.model, side_by_side(self._rows(WEIGHTS)),
            section(settings.title("lora")), side_by_side(adapter), self.targets,
            section(settings.title("training")), side_by_side(self._rows([RATE])), self.length,
            side_by_side(self._rows(BATCH)),
            self.more.button, rest,
        ]  # fmt: skip

    def _fill(self, rest: widgets.VBox) -> None:
        """Makes the controls of all settings that have none yet; what was set of them is what they show."""
        shown = {*self._entries, NAME, STEPS, EPOCHS}
        groups: dict[str, list[widgets.Widget]] = {}
        narrow, wide, box = form_layout("360px"), form_layout("480px"), box_layout("360px")
        extra, self.extra = self.extra, {}
        for name in (name for name in settings.names() if name not in shown):
            form = settings.form_of(name, self._given[name])
            layout = wide if form.widget in WIDE else box if form.widget is BOX else narrow
            style = {"description_width": LONG}
            entry = self._entry(name, form=form, layout=layout, style=style)
            if name in extra:
                entry.put(extra[name])
            groups.setdefault(name.rpartition(".")[0], []).append(entry.row(self._cell))
        rest.children = [
            part
            for group, rows in groups.items()
            for part in (section(settings.title(group) if group else ""), side_by_side(rows))
        ]
        self.refresh()


def _title(recipe: Recipe) -> str:
    model = recipe.model
    bits = f"4-bit {model.quant_type.upper()}" if model.load_in_4bit else "16-bit"
    return pages.heading("Setup", f"{short(model.name)}, {bits}")
