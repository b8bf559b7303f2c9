"""What an adapter learned, and what is left of it at a smaller rank, as a section of the inspection panel.

Calls `inspect_adapter` and `truncate_adapter`, and shows what they find.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from ...charts import Picture
from ...charts.ranks import ranks
from ...inspection.adapter import AdapterUpdates, inspect_adapter
from ...inspection.adapter_text import SHOWN, headline
from ...inspection.truncation import Truncated, truncate_adapter
from .. import controls, pages
from ..banner import Banner, guarded
from ..buttons import button
from ..setup.settings import whole
from .section import WRAP, Subject, Underway, image, wide

WAYS = (("a rank for all modules", "rank"), ("a share of what each learned", "energy"))


class AdapterSection(widgets.VBox):
    """`result` is the last inspection and `truncated` the last smaller adapter, None before."""

    def __init__(self, outputs: Path, changed: Callable[[], Any]) -> None:
        """`changed` is called when there is a new result."""
        self.result: AdapterUpdates | None = None
        self.truncated: Truncated | None = None
        self._subject, self._outputs, self._changed = Subject(), outputs, changed
        self.banner, self.cut_banner = Banner(), Banner()
        self._code, self._shown, self._figure = (widgets.HTML() for _ in range(3))
        self._cut_code, self._cut = widgets.HTML(), widgets.HTML()
        self._make_controls()
        title = widgets.HTML(pages.heading("What the adapter learned", "how much of its rank it uses"))  # fmt: skip
        cut = widgets.HBox([self.way, self.rank, self.energy, self.to], layout=widgets.Layout(**WRAP))  # fmt: skip
        super().__init__([
            title, self._code, self.banner, self.work, self.show, self._shown, self._figure,
            controls.section("Truncate to a smaller rank"), cut, self._cut_code, self.cut_banner, self.cutting, self._cut,
        ])  # fmt: skip
        self.add_class("wb-inspect-adapter-section")
        self.show.observe(guarded(self.banner, self._draw), names="value")
        for made in (self.way, self.rank, self.energy, self.to):
            made.observe(guarded(self.cut_banner, self._say_code), names="value")
        self.follow(self._subject)

    def follow(self, subject: Subject) -> None:
        """Turns to another adapter; what was found of the one before goes."""
        for work in (self.work, self.cutting):
            work.end()
            work.allow("" if subject.adapter else "Choose a run or an adapter's folder first.")
        self._subject, self.result, self.truncated = subject, None, None
        for shown in (self._shown, self._figure, self._cut):
            shown.value = ""
        for banner in (self.banner, self.cut_banner):
            banner.clear()
        self.show.layout.display = "none"
        self._say_code()

    async def inspect(self) -> AdapterUpdates:
        """Measures the updates in a process of its own and shows them. Raises RunError."""
        where = {"outputs": self._outputs, "told": self.work.tell}
        found = await inspect_adapter(self._subject.adapter, **where)
        self.result = found
        self.show.layout.display = ""
        self._draw()
        self._changed()
        return found

    async def truncate(self) -> Truncated:
        """Writes the smaller adapter in a process of its own and shows what it costs. Raises RunError."""
        where = {"outputs": self._outputs, "told": self.cutting.tell}
        self.truncated = await truncate_adapter(self._subject.adapter, **self._how(), **where)
        self._cut.value = wide(self.truncated._repr_html_())
        self._changed()
        return self.truncated

    def __repr__(self) -> str:
        return "\n\n".join(str(found) for found in (self.result, self.truncated) if found)

    @property
    def html(self) -> str:
        """What is shown, for a saved notebook."""
        return self._shown.value + self._figure.value + self._cut.value

    def _make_controls(self) -> None:
        says = "wb.inspect_adapter(...): the size and the effective rank of each module's update"
        begin = button("Inspect the adapter", says, "search", "inspect-adapter", "primary")
        self.work = Underway(begin, self.banner, self.inspect)
        says = "wb.picture(updates, show=...): what the maps below show of each module"
        self.show = controls.described(
            widgets.Dropdown, "The maps show", says, "inspect-show",
            options=[(told.capitalize(), show) for show, told in SHOWN.items()],
            layout=controls.form_layout("460px"),
        )  # fmt: skip
        says = (
            "Whether all modules keep the same rank, or each as much as holds a share of its energy"
        )
        self.way = controls.described(widgets.Dropdown, "Keep", says, "inspect-way", options=WAYS)
        says = "Singular values that each module keeps, at least 1"
        self.rank = controls.described(widgets.FloatText, "Rank", says, "inspect-rank", value=4, step=1)  # fmt: skip
        says = "Share of the squared singular values that each module keeps, above 0, at most 1"
        self.energy = controls.described(widgets.FloatText, "Share", says, "inspect-energy", value=0.9, step=0.05)  # fmt: skip
        says = "Folder of the new adapter; empty for one beside the adapter, which stays as it is"
        self.to = controls.described(widgets.Text, "Where it goes", says, "inspect-to")
        self.to.placeholder = "beside the adapter"
        for narrow in (self.rank, self.energy):
            narrow.layout.width, narrow.style.description_width = "150px", "50px"
        self.way.layout.width, self.way.style.description_width = "290px", "50px"
        self.to.layout.width, self.to.style.description_width = "340px", "100px"
        says = "wb.truncate_adapter(...): writes it, and measures the loss before and after"
        begin = button("Truncate and measure", says, "scissors", "inspect-truncate", "primary")
        self.cutting = Underway(begin, self.cut_banner, self.truncate)

    def _how(self) -> dict[str, Any]:
        if self.way.value == "rank":
            how = {"rank": whole(self.rank.value)}
        else:
            how = {"energy": self.energy.value}
        return how | ({"to": self.to.value.strip()} if self.to.value.strip() else {})

    def _draw(self) -> None:
        if self.result is not None:
            show = self.show.value
            self._shown.value = wide(self.result.html(show))
            spoken = f"{headline(self.result)} Shown: {SHOWN[show]}."
            self._figure.value = image(Picture(ranks(self.result, show), spoken))
            self._say_code()

    def _say_code(self) -> None:
        by_rank = self.way.value == "rank"
        self.rank.disabled, self.energy.disabled = not by_rank, by_rank
        place = "" if str(self._outputs) == "outputs" else f", outputs={str(self._outputs)!r}"
        name = json.dumps(self._subject.adapter or "run", ensure_ascii=False)
        shows = "" if self.show.value == "rank90" else f", show={self.show.value!r}"
        call = f"updates = await wb.inspect_adapter({name}{place}); wb.picture(updates{shows})"
        self._code.value = pages.code(call)
        how = "".join(f", {key}={value!r}" for key, value in self._how().items())
        self._cut_code.value = pages.code(f"cut = await wb.truncate_adapter({name}{how}{place})")
