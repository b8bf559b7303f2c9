"""Worker processes: start one on a run's folder, keep a warm spare, tell whether one lives.

Knows processes and files. Knows nothing of what a worker does.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import psutil

from .commands import clear
from .machine import choose_backend, look

Mode = Literal["train", "resume", "reopen", "probe"]
_WORKER = [sys.executable, "-m", "workbench.worker"]
#: What `import unsloth` sets in the process that imports it; a worker must not inherit it.
_LEFT_BY_UNSLOTH = ("UNSLOTH_", "TORCHINDUCTOR_", "TRITON_", "ACCELERATE_", "PYTORCH_")


class Spare:
    """A worker that has imported its libraries and waits for a run. It ends with the process that made it."""

    def __init__(self, backend: str, staging: Path, process: subprocess.Popen) -> None:
        self.backend, self.staging, self._process = backend, staging, process

    @classmethod
    def warm(cls, backend: str = "auto") -> "Spare":
        """Begins to warm a worker up and returns at once."""
        value = choose_backend(backend, look()).value
        staging = Path(tempfile.mkdtemp(prefix="workbench-spare-"))
        command = [*_WORKER, "--spare", value, "--staging", str(staging)]
        with (staging / "worker.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environment(),
                start_new_session=True,
            )
        return cls(value, staging, process)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def assign(self, folder: Path, mode: Mode) -> int:
        """Gives the run to the spare and returns its process id; whatever it still imports is done first."""
        line = json.dumps({"folder": str(folder), "mode": mode}) + "\n"
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()
        return self._process.pid

    def close(self) -> None:
        """Ends a spare that was not used."""
        if self.alive:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self.staging, ignore_errors=True)


def start(folder: Path, *, mode: Mode, backend: str, spare: Spare | None = None) -> None:
    """Starts a worker in a session of its own, so that interrupting a cell never reaches it."""
    clear(folder / "commands.jsonl")
    pid = _assigned(spare, folder, mode, backend)
    if pid is None:
        with (folder / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [*_WORKER, str(folder), "--mode", mode],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(),
                start_new_session=True,
            )
        pid = process.pid
    _write_worker(folder, pid)


def _assigned(spare: Spare | None, folder: Path, mode: Mode, backend: str) -> int | None:
    """The process id of the spare that took the run, None where there is none that can."""
    if spare is None or not spare.alive or spare.backend != backend:
        return None
    try:
        return spare.assign(folder, mode)
    except OSError:  # it ended just now: the run starts cold
        return None


def is_alive(folder: Path) -> bool:
    """Whether the worker of the run is running."""
    return _process(folder) is not None


def wait_or_kill(folder: Path, timeout: float) -> None:
    """Waits up to `timeout` seconds for the worker to end, then kills it."""
    process = _process(folder)
    if process is None:
        return
    until = time.monotonic() + timeout
    while is_alive(folder) and time.monotonic() < until:
        time.sleep(0.05)
    if is_alive(folder):
        process.kill()
        while is_alive(folder):
            time.sleep(0.05)


def last_words(folder: Path, lines: int = 15) -> str:
    """The end of what the worker printed."""
    log = folder / "worker.log"
    if not log.is_file():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _process(folder: Path) -> psutil.Process | None:
    """The worker's process; a process id that was given to another process since does not count."""
    try:
        known = json.loads((folder / "worker.json").read_text())
        process = psutil.Process(known["pid"])
        ended = (
            process.status() == psutil.STATUS_ZOMBIE or process.create_time() != known["created"]
        )
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None
    return None if ended else process


def _write_worker(folder: Path, pid: int) -> None:
    try:
        created = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        created = 0.0
    partial = folder / "worker.json.partial"
    partial.write_text(json.dumps({"pid": pid, "created": created}))
    partial.replace(folder / "worker.json")


def environment() -> dict[str, str]:
    """What a process that imports torch is started with: this process's environment less what Unsloth set in it."""
    inherited = dict(os.environ)
    if "unsloth" in sys.modules:
        inherited = {k: v for k, v in inherited.items() if not k.startswith(_LEFT_BY_UNSLOTH)}
    inherited.pop("MPLBACKEND", None)  # a notebook's, of no use to a worker
    package = str(Path(__file__).resolve().parents[1])
    paths = [package, *filter(None, [inherited.get("PYTHONPATH")])]
    return (
        inherited
        | {
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "KINETO_LOG_LEVEL": "99",  # the profiler, by which memory is measured on a CPU, tells of each start
        }
    )
