"""Arms `unsloth_on_cpu.py` when a process that has this folder on its PYTHONPATH first loads `unsloth`.

Python imports a module of this name by itself at start. Until then nothing is changed: no torch is
imported, and a process that never loads Unsloth does not notice.
"""

import importlib.util
import sys


class _Loader:
    """Unsloth's own loader, with a word before and after."""

    def __init__(self, real):
        self._real = real

    def __getattr__(self, name):
        return getattr(self._real, name)

    def create_module(self, spec):
        return self._real.create_module(spec)

    def exec_module(self, module):
        import unsloth_on_cpu

        unsloth_on_cpu.before_import()
        self._real.exec_module(module)
        unsloth_on_cpu.after_import()


class _Finder:
    """Stands before Python's finders, for the one name `unsloth`; merely looking for it arms nothing."""

    def find_spec(self, name, path=None, target=None):
        if name != "unsloth":
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None:
            spec.loader = _Loader(spec.loader)
        return spec


sys.meta_path.insert(0, _Finder())
