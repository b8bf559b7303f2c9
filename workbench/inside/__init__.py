"""QLoRA laid open: each of its parts as functions of tensors, and the inspectors of a model and of an adapter.

Beside `worker/` the only folder that imports torch. A notebook may call these functions in a kernel of its own, to hold
the tensors in its hands; the panels and the command line have them called by a process (`python -m workbench.inside`),
so that their own stays free. Knows nothing of run folders' logs, of widgets or of words on a screen.
"""
