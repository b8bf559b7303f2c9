"""The setup panel with a Start button: starts the recipe as shown and watches the run.

Holds no run's state itself: that is in the run's folder.
"""

import json
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from ... import preflight, starting
from ...problems import RunError, WorkbenchError
from ...recipe import Recipe
from ...run import Run
from ...spawn import Spare
from ..banner import guarded, status_html
from ..buttons import button
from ..monitor.panel import Monitor
from ..setup.panel import SetupPanel
from ..still import LastingPanel
from .underway import differing, underway


class LaunchPanel(LastingPanel):
    """`panel.recipe` is the recipe as shown, `panel.start()` does what the Start button does, `panel.run` is the run.

    A run that goes on in `outputs` already, started by another kernel or before a restart of this one, is watched.
    """

    _open: "LaunchPanel | None" = (
        None  # widgets live until they are closed: of this one, one at a time
    )

    def __init__(
        self,
        recipe: Recipe | None = None,
        *,
        outputs: str | Path = "outputs",
        warm: bool = True,
    ) -> None:
        """With `warm`, a spare worker imports its libraries while the settings are chosen."""
        self.run: Run | None = None
        self.monitor: Monitor | None = None
        self._spare: Spare | None = None
        self.outputs = Path(outputs)
        self.setup = SetupPanel(recipe, outputs=outputs)
        self._aside = ""  # what is to be known of a run that was going on before
        self._by_hand = False
        says = "run = panel.start(): trains with these settings"
        self.button = button("Start", says, "play", "start", "primary")
        self._note = widgets.HTML()
        self._place = widgets.VBox()
        layout = widgets.Layout(align_items="center", flex_flow="row wrap", min_height="36px")
        bar = widgets.HBox([self.button, self._note], layout=layout)
        super().__init__([self.setup, bar, self._place])
        self.add_class("wb-launch")
        self.button.on_click(guarded(self.setup.banner, self._start_by_hand))
        self.setup.observe(lambda _: self._follow(), names="valid")
        earlier, LaunchPanel._open = LaunchPanel._open, self
        if earlier is not None:
            self._take_over(earlier)
        if not self._live:
            self._find()
        if warm and not self._live:
            self._spare = Spare.warm(self.setup.base.backend)

    @property
    def recipe(self) -> Recipe:
        """The recipe as shown. Raises RecipeError when it cannot be used."""
        return self.setup.recipe

    def start(self) -> Run:
        """Starts the recipe as shown and returns the run; one that is going on, or that the button started, is returned as it is.

        Raises WorkbenchError with everything that is wrong with the recipe or its data.
        """
        if self._live or self._by_hand:
            self._by_hand = False
            return self.run
        return self._start()

    def left(self) -> dict[str, Any]:
        """Once a run that is watched here is over: what became of it in words, and its charts as a picture."""
        if self.monitor is not None and self.monitor in self._place.children:
            return self.monitor.left()
        return super().left()

    def close(self) -> None:
        """Closes the panel with all that is in it, and the spare worker; a run goes on."""
        if self._spare is not None:
            self._spare.close()
        if self.monitor is not None:
            self.monitor.close()
        if LaunchPanel._open is self:
            LaunchPanel._open = None
        super().close()

    def __repr__(self) -> str:
        run = f"\n{self.monitor!r}" if self.monitor is not None else ""
        return f"The panel needs its kernel: run this cell again.\n{self.setup!r}{run}"

    @property
    def _live(self) -> bool:
        return self.run is not None and not self.run.history.over

    def _start_by_hand(self) -> None:
        self._start()
        self._by_hand = True
        self._place.children = (self.monitor,)

    def _start(self) -> Run:
        recipe = self.setup.recipe
        self._say("Checking the recipe and the rows.")
        try:
            self._make_room(recipe)
            run = starting.start(recipe, outputs=self.outputs, spare=self._spare)
        except WorkbenchError:
            self._say("Not started.")
            raise
        self._give_up_spare(run)
        self.setup.banner.clear()
        self._watch(run)
        return run

    def _make_room(self, recipe: Recipe) -> None:
        """Ends the run before, which stayed to answer prompts. Raises RunError, leaving it alive, if none could follow."""
        if self.run is None:
            return
        if problems := preflight.check(recipe, outputs=self.outputs):
            raise RunError(problems)
        self.run.close()

    def _give_up_spare(self, run: Run) -> None:
        """The spare has become the run's worker, unless it had imported another backend."""
        spare, self._spare = self._spare, None
        if spare is None:
            return
        backend = json.loads((run.folder / "backend.json").read_text())["value"]
        if spare.backend != backend:
            spare.close()

    def _watch(self, run: Run) -> None:
        self._place.children = ()
        if self.monitor is not None:
            self.monitor.close()
        self.run, self.monitor, self._aside = run, Monitor(run, own=True), ""
        self.monitor.observe(lambda _: self._turn(), names="state")
        self._follow()

    def _turn(self) -> None:
        """The run's state has changed."""
        self._follow()
        if self.run.history.over:
            self.leave()

    def _find(self) -> None:
        """Watches a run that is going on already; it counts as started by hand, so that no cell starts another."""
        if (found := underway(self.outputs)) is None:
            return
        self._watch(found)
        self._by_hand = True
        self._aside = " ".join(
            filter(None, ["It was started before.", differing(found, self.setup.base)])
        )
        self._place.children = (self.monitor,)
        self._follow()

    def _follow(self) -> None:
        if self.run is not None and self.run.history.over:
            self.setup.learn()
        self.button.disabled = self._live or not self.setup.valid
        self._say(self._standing())

    def _standing(self) -> str:
        """How things stand, for the note beside the button."""
        if self.run is None:
            return ""
        state = self.run.history.state
        if state == "preparing" and not self._aside:
            return "Starting; the worker imports its libraries, then reads the rows."
        if self._live:
            told = f"Run {self.run.name} is going on; stop it to start another."
            return f"{told} {self._aside}".strip()
        return f"Run {self.run.name} is {state}. Start trains anew with the settings above."

    def _take_over(self, earlier: "LaunchPanel") -> None:
        """Goes on watching the run of the panel before: one that goes on, or any where the same cell was run again."""
        again = (earlier.outputs, earlier.setup.base) == (self.outputs, self.setup.base)
        run = earlier.run if earlier._live or again else None
        lost = earlier.setup.changed and earlier.setup.values != self.setup.values
        earlier.close()
        if run is not None:
            self._by_hand = earlier._by_hand
            self._watch(run)
            self._place.children = (self.monitor,)
        if lost:
            self._say(f"{self._standing()} The settings are the recipe's again.".strip())

    def _say(self, text: str) -> None:
        self._note.value = status_html(text)
