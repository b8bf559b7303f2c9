"""The panel in which a recipe is set: rank, alpha, dropout, target modules, learning rate, steps.

Only edits a recipe: it starts nothing. Each control shows the line of Python that does the same,
muted while it says what the recipe says already.
"""

from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import traitlets

from .. import models
from ..problems import WorkbenchError
from ..recipe import Recipe
from ..summary import size
from . import pages
from .banner import Banner, guarded
from .controls import code_for, control, line, row
from .panel import Panel
from .targets import NAME, Targets

RANKS = (4, 8, 16, 32, 64, 128)
BYTES_PER_WEIGHT = 4  # adapters are trained and saved in float32


class SetupPanel(Panel):
    """Shows and changes a recipe; `panel.recipe` is the recipe as shown, `valid` whether it can be used."""

    valid = traitlets.Bool(True)

    def __init__(self, recipe: Recipe | None = None) -> None:
        self.base = recipe or Recipe()
        self.banner = Banner()
        self.layers: tuple[models.LinearLayer, ...] = ()
        self._parameters = 0
        self._unreadable: WorkbenchError | None = None
        try:
            model = models.read(self.base.model.name, self.base.model.revision)
            self.layers, self._parameters = model.linear_layers(), _parameters(model)
        except WorkbenchError as error:  # shown; the other settings can still be chosen
            self._unreadable = error
        self.controls = _controls(self.base)
        self._codes = {name: code_for(name, made.value) for name, made in self.controls.items()}
        self.targets = Targets(self.layers, self.base.lora.target_modules)
        self._at_first = self.values
        self._summary = widgets.HTML()
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
        """What the controls hold, by dotted name; valid or not."""
        values = {name: made.value for name, made in self.controls.items()}
        return values | {NAME: self.targets.value}

    @property
    def changed(self) -> bool:
        """Whether anything is set otherwise than in the recipe that the panel was given."""
        return self.values != self._at_first

    def refresh(self) -> None:
        """Brings the lines of Python, the summary and the banner in step with the controls."""
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
            return
        if self._unreadable:
            self.banner.show_error(self._unreadable)
        else:
            self.banner.clear()
        self._show_facts(self.summary(recipe))

    def summary(self, recipe: Recipe) -> list[str]:
        """What the settings amount to, one fact each."""
        training, lora = recipe.training, recipe.lora
        facts = []
        if self.layers:
            count = models.lora_parameters(
                self.layers, lora.rank, self.targets.chosen, dora=lora.dora
            )
            share = count / (self._parameters + count)
            facts.append(f"{count:,} trainable parameters, {share:.2%} of the model")
            facts.append(f"adapter of about {size(count * BYTES_PER_WEIGHT)}")
        below = "square root of rank" if lora.rslora else "rank"
        facts.append(f"effective scale {recipe.lora_scale:.3g} (alpha / {below})")
        batch = f"{training.batch_size} \N{MULTIPLICATION SIGN} {training.accumulation}"
        facts.append(f"effective batch {recipe.effective_batch} rows ({batch})")
        if training.steps:
            rows = training.steps * recipe.effective_batch
            facts.append(f"{training.steps:,} steps, {rows:,} rows in all")
        else:
            facts.append(f"{training.epochs or 1:g} passes over the rows")
        return facts

    def _show_facts(self, facts: list[str]) -> None:
        lines = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
        style = f"margin:0;padding:0 0 0 14px;list-style:none;line-height:1.7;border-left:{pages.BORDER}"
        self._summary.value = f'<ul role="status" aria-live="polite" style="{style}">{lines}</ul>'

    def _rows(self) -> list[widgets.Widget]:
        model = self.base.model
        bits = f"4-bit {model.quant_type.upper()}" if model.load_in_4bit else "16-bit"
        name = "/".join(Path(model.name).parts[-2:])
        title = widgets.HTML(pages.heading("Setup", f"{name}, {bits}"))
        rows = [row(made, self._codes[name]) for name, made in self.controls.items()]
        form = widgets.VBox([*rows, self.targets], layout=widgets.Layout(flex="0 1 680px"))
        self._summary.layout = widgets.Layout(flex="1 1 260px", padding="0 0 0 12px")
        both = widgets.HBox([form, self._summary], layout=widgets.Layout(flex_flow="row wrap"))
        return [title, self.banner, both]


def _parameters(model: models.Model) -> int:
    """Parameters of a model; 4-bit weights count as what they stand for."""
    layers = model.linear_layers()
    inside = {layer.name for layer in layers}
    rest = [name for name in model.modules if name not in inside]
    return sum(layer.in_features * layer.out_features for layer in layers) + model.parameters_of(
        rest
    )


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
    return made
