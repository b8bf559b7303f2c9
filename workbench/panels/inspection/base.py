"""What 4 bits do to a base model, as a section of the inspection panel. Calls `inspect_quantization` and shows what it finds."""

import json
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from ...charts import Picture
from ...charts.layers import error_by_block
from ...inspection.quantization import QuantizationErrors, inspect_quantization
from ...inspection.quantization_text import headline
from .. import controls, pages
from ..banner import Banner, guarded
from ..buttons import button
from .section import WRAP, Subject, Underway, image, wide

QUANT_TYPE, DOUBLE_QUANT = "model.quant_type", "model.double_quant"


class BaseSection(widgets.VBox):
    """`result` is the last inspection, None before; `await inspect()` does what the button does."""

    def __init__(self, changed: Callable[[], Any]) -> None:
        """`changed` is called when there is a new result."""
        self.result: QuantizationErrors | None = None
        self._subject, self._changed = Subject(), changed
        self.banner = Banner()
        types = {"options": ["nf4", "fp4"], "style": {"description_width": "80px"}}
        self.quant_type = controls.control(widgets.Dropdown, QUANT_TYPE, "nf4", **types)
        box = {"indent": False, "layout": controls.box_layout("190px")}
        self.double_quant = controls.control(widgets.Checkbox, DOUBLE_QUANT, True, **box)
        says = "Also measures NF4, FP4 and int4 on the same weights; takes about twice as long"
        box = {"indent": False, "layout": controls.box_layout("190px")}
        self.compare = controls.described(
            widgets.Checkbox, "Compare NF4, FP4, int4", says, "inspect-compare", value=False, **box
        )
        says = "wb.inspect_quantization(...): quantizes each layer and measures the error"
        begin = button("Inspect the base", says, "search", "inspect-base", "primary")
        self.work = Underway(begin, self.banner, self.inspect)
        self._code, self._shown = widgets.HTML(), widgets.HTML()
        chosen = (self.quant_type, self.double_quant, self.compare)
        title = widgets.HTML(pages.heading("What 4 bits do to the base", "layer by layer"))
        super().__init__([
            title, widgets.HBox(chosen, layout=widgets.Layout(**WRAP)), self._code, self.banner, self.work, self._shown,
        ])  # fmt: skip
        self.add_class("wb-inspect-base-section")
        for made in chosen:
            made.observe(guarded(self.banner, self._say_code), names="value")
        self.follow(self._subject)

    def follow(self, subject: Subject) -> None:
        """Turns to another base; what was found of the one before goes."""
        self.work.end()
        self._subject, self.result, self._shown.value = subject, None, ""
        if subject.recipe is not None:
            self.quant_type.value = subject.recipe.model.quant_type
            self.double_quant.value = subject.recipe.model.double_quant
        self.work.allow("" if subject.model else "Choose a run or a model first.")
        self.banner.clear()
        self._say_code()

    async def inspect(self) -> QuantizationErrors:
        """Quantizes each layer in a process of its own and shows the errors. Raises RunError."""
        found = await inspect_quantization(self._subject.model, **self._how(), told=self.work.tell)
        self.result = found
        figure = image(Picture(error_by_block(found), headline(found)))
        self._shown.value = wide(found._repr_html_()) + figure
        self._changed()
        return found

    def __repr__(self) -> str:
        return "" if self.result is None else str(self.result)

    @property
    def html(self) -> str:
        """What is shown, for a saved notebook."""
        return self._shown.value

    def _how(self) -> dict[str, Any]:
        how = {} if self._subject.revision is None else {"revision": self._subject.revision}
        how |= {"quant_type": self.quant_type.value, "double_quant": self.double_quant.value}
        return how | ({"compare": True} if self.compare.value else {})

    def _say_code(self) -> None:
        how = "".join(f", {name}={value!r}" for name, value in self._how().items())
        name = json.dumps(self._subject.model or "model", ensure_ascii=False)
        call = f"errors = await wb.inspect_quantization({name}{how}); wb.picture(errors)"
        self._code.value = pages.code(call)
