"""From a file to what is trained: `read` and `look` read rows, `report` judges them, `clean` mends them, `write` keeps them.

    import workbench as wb
    rows = wb.data.read("train.jsonl")

Loads its parts when they are first used.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

# public name -> the module that it lives in, and its name there if it has another
_HOME = {
    "ChatTokenizer": "tokenizer",
    "check_template": "template:check",
    "clean": "clean",
    "look": "table",
    "read": "table",
    "report": "report",
    "tokenize": "encode",
    "write": "table",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"workbench.data has no {name!r}; it has {', '.join(sorted(__all__))}")
    module, _, inside = _HOME[name].partition(":")
    return getattr(import_module(f".{module}", __name__), inside or name)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Importing `workbench.data.report` would put the module of that name where the function of that name is meant."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
