"""The panel in which a recipe is set: rank, alpha, dropout, target modules, learning rate, steps, and what moves memory.

Only edits a recipe: it starts nothing. Each control shows the line of Python that does the same,
muted while it says what the recipe says already. A bar says whether it fits.
"""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any, get_args

import ipywidgets as widgets
import traitlets

from .. import models
from .. import recipe as settings
from ..memory import known, learned
from ..memory.plan import Plan
from ..memory.question import Question
from ..problems import WorkbenchError
from ..recipe import Recipe
from ..summary import size
from . import memory_bar, pages
from .banner import Banner, guarded
from .controls import code_for, control, line, row
from .memory_bar import Fold, MemoryBar
from .panel import Panel
from .targets import EVERY, NAME, Targets

RANKS = (4, 8, 16, 32, 64, 128)
#: What moves memory most, apart from the adapter; folded away while it fits.
MEMORY = (
    "training.batch_size", "training.accumulation", "training.batch", "model.max_length",
    "training.optimizer", "training.gradient_checkpointing",
)  # fmt: skip


class SetupPanel(Panel):
    """Shows and changes a recipe; `panel.recipe` is the recipe as shown, `valid` whether it can be used."""

    valid = traitlets.Bool(True)

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
        self.layers: tuple[models.LinearLayer, ...] = ()
        self._unreadable: WorkbenchError | None = None
        try:
            model = models.read(self.base.model.name, self.base.model.revision)
            self.layers = model.linear_layers()
        except WorkbenchError as error:  # shown; the other settings can still be chosen
            self._unreadable, self.layers = error, _known_layers(self.base.model.name)
        self.controls = _controls(self.base)
        self._codes = {name: code_for(name, made.value) for name, made in self.controls.items()}
        self.targets = Targets(self.layers, self.base.lora.target_modules)
        self.extra: dict[str, Any] = {}
        self._outputs = outputs
        self._setting = False
        self._at_first = self.values
        asked, why_not = self._ask(card, vram, outputs)
        self.memory = MemoryBar(asked, why_not, self._apply)
        self._summary, self._title = widgets.HTML(), widgets.HTML()
        self._summary.add_class("wb-summary")
        super().__init__(self._rows())
        self.add_class("wb-setup")
        refresh = guarded(self.banner, self.refresh)
        for made in self.controls.values():
            made.observe(refresh, names="value")
        self.targets.on_change(refresh)
        self.refresh()

    def __repr__(self) -> str:
        return "The panel needs its kernel: run this cell again."

    @property
    def recipe(self) -> Recipe:
        """The recipe as shown. Raises RecipeError with all problems when it cannot be used."""
        changes: dict[str, dict[str, Any]] = {}
        for name, value in self.values.items():
            section, _, key = name.rpartition(".")
            changes.setdefault(section, {})[key] = value
        return self.base.replace(**changes)

    @property
    def values(self) -> dict[str, Any]:
        """What the controls hold, and what was advised and has none, by dotted name; valid or not."""
        values = {name: made.value for name, made in self.controls.items()}
        return values | {NAME: self.targets.value} | self.extra

    @property
    def changed(self) -> bool:
        """Whether anything is set otherwise than in the recipe that the panel was given."""
        return self.values != self._at_first

    def learn(self) -> None:
        """Takes in what runs measured since the panel was made."""
        self.memory.learn(learned.past(self._outputs))
        self.refresh()

    def set(self, values: Mapping[str, Any]) -> None:
        """Sets these settings by dotted name: the controls move; those without one are kept in the recipe, and shown."""
        self._setting = True
        try:
            for name, value in values.items():
                if name == NAME:
                    _choose(self.targets, value)
                elif name in self.controls:
                    _put(self.controls[name], value)
                else:
                    self.extra[name] = value
        finally:
            self._setting = False
        self.refresh()

    def refresh(self) -> None:
        """Brings the lines of Python, the summary, the memory and the banner in step with the controls."""
        if self._setting:
            return
        for name, made in self.controls.items():
            quiet = made.value == self._at_first[name]
            self._codes[name].value = pages.code(line(name, made.value), quiet=quiet)
        try:
            recipe = self.recipe
            self.valid = True
        except WorkbenchError as error:
            self.valid = False
            self.banner.show_error(error)
            self._show_facts(["Not ready: see the message above."])
            self.memory.say("A setting is wrong: see the message above.")
            return
        if self._unreadable:
            self.banner.show_error(self._unreadable)
        else:
            self.banner.clear()
        self._title.value = _title(recipe)
        plan = self.memory.show(recipe, self.extra)
        if plan and plan.verdict in ("tight", "does not fit"):
            self.more.open()
        self._show_facts(_facts(recipe, plan))

    def summary(self, recipe: Recipe) -> list[str]:
        """What the settings amount to, one fact each."""
        return _facts(recipe, self.memory.plan_for(recipe))

    def _apply(self, values: Mapping[str, Any]) -> None:
        guarded(self.banner, lambda: self.set(values))()

    def _ask(
        self, card: str | None, vram: str | None, outputs: str | Path
    ) -> tuple[Question | None, str]:
        """The memory bar's question, or why there is none."""
        if self._unreadable and not known.find(self.base.model.name):
            return None, "The model cannot be read: see the message above."
        try:
            return memory_bar.question(self.base, card=card, vram=vram, outputs=outputs), ""
        except WorkbenchError as error:
            return None, str(error)

    def _show_facts(self, facts: list[str]) -> None:
        lines = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
        style = f"margin:0;padding:0 0 0 14px;list-style:none;line-height:1.7;border-left:{pages.BORDER}"
        self._summary.value = f'<ul role="status" aria-live="polite" style="{style}">{lines}</ul>'

    def _rows(self) -> list[widgets.Widget]:
        rows = {name: row(made, self._codes[name]) for name, made in self.controls.items()}
        more = widgets.VBox([rows.pop(name) for name in MEMORY])
        self.more = Fold("Memory and batch", "batch size, sequence length, optimizer", "more", more)
        folded = [self.more.button, more]
        form = widgets.VBox([*rows.values(), self.targets, *folded])
        form.layout = widgets.Layout(flex="0 1 680px")
        beside = widgets.VBox([self._summary, self.memory])
        beside.layout = widgets.Layout(flex="1 1 300px", padding="0 0 0 12px")
        both = widgets.HBox([form, beside], layout=widgets.Layout(flex_flow="row wrap"))
        return [self._title, self.banner, both]


def _known_layers(name: str) -> tuple[models.LinearLayer, ...]:
    """The layers of a model that cannot be read, where the table of known models has it."""
    shapes = known.find(name)
    return tuple(
        models.LinearLayer(f"{k.group}.{k.module}", k.module, k.in_features, k.out_features)
        for k in (shapes.linears if shapes else ())
        if k.adapted
        for _ in range(k.count)
    )


def _title(recipe: Recipe) -> str:
    model = recipe.model
    bits = f"4-bit {model.quant_type.upper()}" if model.load_in_4bit else "16-bit"
    name = "/".join(Path(model.name).parts[-2:])
    return pages.heading("Setup", f"{name}, {bits}")


def _facts(recipe: Recipe, plan: Plan | None) -> list[str]:
    training, facts = recipe.training, []
    if plan:
        share = plan.trainable / (plan.question.shapes.parameters + plan.trainable)
        facts.append(f"{plan.trainable:,} trainable parameters, {share:.2%} of the model")
        facts.append(f"adapter of about {size(plan.disk['adapter'])}")
    below = "square root of rank" if recipe.lora.rslora else "rank"
    facts.append(f"effective scale {recipe.lora_scale:.3g} (alpha / {below})")
    batch = f"{training.batch_size} \N{MULTIPLICATION SIGN} {training.accumulation}"
    if training.batch == "auto":
        batch = "the rows at once are tried at the start"
    facts.append(f"effective batch {recipe.effective_batch} rows ({batch})")
    facts.append(_length(recipe, plan))
    if plan and plan.seconds:
        by = "as measured here" if plan.speed.measured else "by formula"
        facts.append(f"about {roughly(plan.seconds)} of training, {by}")
    return facts


def _length(recipe: Recipe, plan: Plan | None) -> str:
    training = recipe.training
    if training.steps:
        rows = training.steps * recipe.effective_batch
        return f"{training.steps:,} steps, {rows:,} rows in all"
    epochs = training.epochs or 1
    passes = f"{epochs:g} pass{'es'[: 2 * (epochs != 1)]}"
    if plan is None or plan.steps is None:
        return f"{passes} over the rows"
    return f"{plan.steps:,} steps, {passes} over {plan.question.rows:,} rows"


def roughly(seconds: float) -> str:
    """Seconds as an estimate is told: "40 s", "2 min", "3.5 h"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _put(made: widgets.Widget, value: Any) -> None:
    """Sets a control; a choice that it does not offer yet is added."""
    if isinstance(made, widgets.Dropdown) and value not in made.options:
        made.options = sorted([*made.options, value])
    made.value = value


def _choose(targets: Targets, value: str | list[str]) -> None:
    """Sets the target modules: by the preset that means them, else box by box."""
    presets = (name for name, members in targets.groups.items() if members == value)
    preset = EVERY if value == "all-linear" else next(presets, None)
    if preset:
        targets.preset.value = preset
        return
    for module, box in targets.boxes.items():
        box.value = module in value


def _controls(recipe: Recipe) -> dict[str, widgets.Widget]:
    """The controls by the dotted names of their settings. What they hold is checked by the recipe, not by them."""
    lora, training = recipe.lora, recipe.training
    ranks = sorted({*RANKS, lora.rank})
    made = {
        "lora.rank": control(widgets.Dropdown, "lora.rank", lora.rank, options=ranks),
        "lora.alpha": control(widgets.FloatText, "lora.alpha", lora.alpha, step=1),
        "lora.dropout": control(widgets.FloatText, "lora.dropout", lora.dropout, step=0.05),
        "training.learning_rate": control(
            widgets.FloatText, "training.learning_rate", training.learning_rate, step=1e-4
        ),
    }
    length = "steps" if training.steps else "epochs"
    kind, value = widgets.IntText, training.steps
    if length == "epochs":
        kind, value = widgets.FloatText, training.epochs or 1.0
    made[f"training.{length}"] = control(kind, f"training.{length}", value)
    for name in ("rslora", "dora"):
        label = f"lora.{name}"
        made[label] = control(widgets.Checkbox, label, getattr(lora, name), indent=True)
    return made | {name: _memory_control(name, recipe) for name in MEMORY}


def _memory_control(name: str, recipe: Recipe) -> widgets.Widget:
    """A control by the kind of its setting: a number, a choice, a box to tick."""
    section, _, key = name.rpartition(".")
    value, kind = getattr(getattr(recipe, section), key), settings.field(name).annotation
    if kind is bool:
        made = control(widgets.Checkbox, name, value, indent=True)
    elif kind is int:
        made = control(widgets.IntText, name, value)
    else:
        made = control(widgets.Dropdown, name, value, options=list(get_args(kind)))
    made.style.description_width, made.layout.width = "175px", "330px"  # longer names
    if kind is bool:
        made.layout.width = "360px"  # whose name stands behind the box
    return made
