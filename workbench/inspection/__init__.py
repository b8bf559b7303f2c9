"""Inspections of a model, an adapter or a method, from the kernel's side: ask a process, and hold what it found.

Loads no torch: `python -m workbench.inside` computes. Knows nothing of widgets.
"""
