"""The alarms of a run as rows of a monitor, with a button where stopping is advised. Decides nothing: alarms go in."""

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

from ...alarm import Alarm
from .. import pages
from ..banner import Banner, guarded
from ..buttons import button

QUIET = f'<div style="{pages.MUTED};line-height:1.45;margin:2px 0;padding:2px 8px">No alarms.</div>'


class AlarmList(widgets.VBox):
    """A row for each alarm; while there is none it says so, in the room of one."""

    def __init__(self, banner: Banner, stop: Callable[[], Any]) -> None:
        """`stop` is what the button of an alarm does that advises to stop and keep."""
        self._banner, self._stop = banner, stop
        self._shown: tuple[Alarm, ...] | None = None
        self._quiet = widgets.HTML(QUIET)
        self._rows: dict[str, widgets.HBox] = {}  # by kind: a row is made once, and used again
        super().__init__([self._quiet])
        self.add_class("wb-alarms")

    def follow(self, alarms: Sequence[Alarm], *, quiet: bool = True) -> None:
        """Shows these alarms; without any it says so, unless something else is told there (`quiet` is False)."""
        self._quiet.layout.display = "" if quiet and not alarms else "none"
        if tuple(alarms) == self._shown:
            return
        self._shown = tuple(alarms)
        rows = [self._row(alarm) for alarm in alarms]
        children = (self._quiet, *rows)
        if children != self.children:
            self.children = children

    @property
    def spoken(self) -> str:
        """The alarms for a screen reader."""
        return " ".join(f"{alarm.text} {alarm.cure}" for alarm in self._shown or ())

    def _row(self, alarm: Alarm) -> widgets.HBox:
        if alarm.kind not in self._rows:
            self._rows[alarm.kind] = self._made(alarm.kind)
        row = self._rows[alarm.kind]
        told, stop = row.children
        told.value = pages.message(alarm.level, alarm.text, alarm.cure)
        stop.layout.display = "" if alarm.act == "stop" else "none"
        return row

    def _made(self, kind: str) -> widgets.HBox:
        told = widgets.HTML(layout=widgets.Layout(flex="1 1 320px"))
        says = "run.stop(): ends after this step and keeps the adapter"
        stop = button("Stop and keep", says, "stop", f"alarm-stop-{kind.replace('_', '-')}")
        stop.on_click(guarded(self._banner, self._stop))
        layout = widgets.Layout(align_items="center", flex_flow="row wrap")
        made = widgets.HBox([told, stop], layout=layout)
        made.add_class(f"wb-alarm-{kind.replace('_', '-')}")
        return made
