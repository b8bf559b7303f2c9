"""The two ways to load a model and attach an adapter. Only one of them may be imported in a process.

`import unsloth` rewrites transformers, peft and trl for the whole process, so `get` imports just the one that is asked for.
"""

import importlib
from types import ModuleType


def get(name: str) -> ModuleType:
    """The backend's module: `peft` or `unsloth`."""
    return importlib.import_module(f"{__name__}.{name}")
