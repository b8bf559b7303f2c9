"""What a run says of itself while a worker is at it: the state, the step that was done last, and a line for each word.

Knows the run's folder and its log. Knows nothing of what is told, nor of models.
"""

import shutil
from pathlib import Path

from ..events import EventLog, State


class Telling:
    """The log of one run with its `state`, and the `step` that was done last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = EventLog(folder / "events.jsonl")
        self.state: State = "preparing"
        self.step = 0

    def phase(self, state: State, text: str) -> None:
        """Goes over to a state and says so."""
        self.state = state
        self.log.write("phase", state=state, text=text)

    def warn(self, text: str, cure: str) -> None:
        """Tells what is amiss and what to do about it."""
        self.log.write("warning", text=text, cure=cure)

    def fail(self, fact: str, cause: str, cure: str) -> None:
        """Tells why the run ends, with room on a full disk too."""
        self.log.give_up_reserve()
        self.log.write("error", text=fact, cause=cause[-4000:], cure=cure)
        self.phase("failed", fact)

    def disk_free(self) -> int:
        """Bytes free where the run writes; its folder may have been removed under it."""
        return shutil.disk_usage(self.folder if self.folder.exists() else "/").free
