"""The process that owns the model: everything that imports torch is in this folder.

It writes what happens into the run's folder and reads there what is wanted; it knows nothing of notebooks or widgets.
"""
