"""Kernels to run notebooks with: this environment's own, and one with Colab's older ipykernel, IPython and ipywidgets.

The older packages lie in a folder that `make test` fills from colab_stack.txt; this environment has all the rest.
"""

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
COLAB = Path(sys.prefix) / "colab"
NAMES = ("here", "colab")


def kernelspecs(folder: Path) -> None:
    """Writes a kernelspec for each of NAMES into a folder that JUPYTER_PATH is to name."""
    inherited = filter(None, [os.environ.get("PYTHONPATH")])
    for name, first in (("here", []), ("colab", [str(COLAB)])):
        place = folder / "kernels" / name
        place.mkdir(parents=True)
        argv = [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher"]
        paths = os.pathsep.join([*first, str(ROOT), *inherited])
        spec = {
            "argv": [*argv, "-f", "{connection_file}"],
            "display_name": name,
            "language": "python",
            "env": {"PYTHONPATH": paths},
        }
        (place / "kernel.json").write_text(json.dumps(spec))
