"""A JupyterLab of its own on 127.0.0.1, and a page in the system's Chromium that looks at it. Nothing is downloaded.

with Lab(folder) as lab, lab.page() as page:
    lab.open(page, "notebook.ipynb")
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},  # every cell is in the DOM
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
}
KERNEL_IS_IDLE = """() => {
    const widget = window.jupyterapp.shell.currentWidget;
    const kernel = widget?.sessionContext?.session?.kernel;
    return kernel && kernel.status === 'idle' && kernel.connectionStatus === 'connected'; }"""
# Kernel status alone says little: it is idle after every widget message, though a cell still awaits.
NO_CELL_RUNS = """() => ![...document.querySelectorAll('.jp-Notebook .jp-InputPrompt')]
    .some(prompt => prompt.innerText.includes('*'))"""
ASK_KERNEL = """async ([code]) => {
    const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    const asked = kernel.requestExecute({code: '', silent: true, user_expressions: {value: code}});
    const value = (await asked.done).content.user_expressions.value;
    return value.status === 'ok' ? value.data['text/plain'] : value.ename + ': ' + value.evalue; }"""


class Lab:
    """A server on a free port with fresh settings, whose kernels find this checkout's package and end with it."""

    def __init__(self, root: Path, *, environment: dict[str, str] | None = None) -> None:
        self.root, self.token = root, secrets.token_hex(16)
        self.console: list[tuple[str, str]] = []
        self._folder = Path(tempfile.mkdtemp(prefix="lab-"))
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._environment = {"PYTHONPATH": os.pathsep.join(paths)} | (environment or {})
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "Lab":
        (self._folder / "app").mkdir()
        (self._folder / "app" / "overrides.json").write_text(json.dumps(SETTINGS))
        names = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
        places = {f"JUPYTER_{name}": str(self._folder / name.lower()) for name in names}
        places["IPYTHONDIR"] = str(self._folder / "ipython")
        places["JUPYTERLAB_SETTINGS_DIR"] = str(self._folder / "settings")
        with (self._folder / "server.log").open("wb") as log:
            self._server = subprocess.Popen(
                self._command(),
                env={**os.environ, **places, "JUPYTER_PREFER_ENV_PATH": "1", **self._environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait_for_server()
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._server.pid, signal.SIGTERM)  # its own group: the server and its kernels
        try:
            self._server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._server.pid, signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def page(self, width: int = 1280, height: int = 1000) -> Iterator[Any]:
        """A page of a fresh browser; what it says on its console is kept in `console`."""
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            options = ["--no-sandbox", "--disable-dev-shm-usage"]
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(60_000)
            page.on("console", lambda said: self.console.append((said.type, said.text)))
            page.on("pageerror", lambda error: self.console.append(("error", str(error))))
            yield page
            browser.close()

    def open(self, page: Any, notebook: str) -> None:
        """Opens a notebook and waits for its kernel."""
        page.goto(f"{self.url}/doc/tree/{notebook}?token={self.token}&reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.wait_for_function("() => window.jupyterapp !== undefined")
        page.wait_for_function(KERNEL_IS_IDLE)

    def run_cell(self, page: Any, number: int, *, wait: bool = True) -> None:
        """Runs one cell and waits for its end, or not."""
        select = "n => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = n; }"
        page.evaluate(select, number)
        self.command(page, "notebook:run-cell", wait=wait)

    def command(self, page: Any, name: str, *, wait: bool = True) -> None:
        """Runs one of JupyterLab's commands."""
        done = "window.jupyterapp.commands.execute(name)"
        page.evaluate(
            f"name => {done}.then(() => null)" if wait else f"name => {{ {done}; }}", name
        )

    def wait_for_cells(self, page: Any, seconds: float = 120) -> None:
        page.wait_for_function(NO_CELL_RUNS, timeout=1000 * seconds)

    def ask_kernel(self, page: Any, code: str) -> str:
        """The repr of an expression in the notebook's kernel; only while no cell runs."""
        return page.evaluate(ASK_KERNEL, [code])

    def _command(self) -> list[str]:
        return [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={self.port}",
            "--ServerApp.port_retries=0", f"--ServerApp.root_dir={self.root}",
            f"--IdentityProvider.token={self.token}",
            "--LabApp.expose_app_in_browser=True",
            "--LabApp.extension_manager=readonly", "--LabApp.news_url=",
            "--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate",
            f"--LabApp.app_settings_dir={self._folder / 'app'}",
            f"--LabApp.workspaces_dir={self._folder / 'workspaces'}",
            *(["--allow-root"] if os.geteuid() == 0 else []),
        ]  # fmt: skip

    def _wait_for_server(self) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if self._server.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"{self.url}/api/status?token={self.token}", timeout=1)
            except OSError:
                time.sleep(0.1)
            else:
                return
        log = (self._folder / "server.log").read_text()[-3000:]
        raise RuntimeError(f"JupyterLab does not answer.\n{log}")
