"""What a notebook shows. A panel edits a recipe, reads a History or calls a Run; it decides nothing else.

Nothing is imported here: the tables in `pages.py` and `samples.py` work without ipywidgets.
"""
