"""The colours of lines: safe for colour-blind readers, and seen on white and on nearly black alike.

Each has a contrast of at least 3 to 1 with white and with #111, which tests/test_charts.py calculates.
"""

#: Blue, vermilion and bluish green after Okabe and Ito (the green and the purple darker, for white pages), and grey.
LINES = ("#0072b2", "#d55e00", "#009e73", "#757575", "#b4589a")
#: JupyterLab's own colours, which follow its theme, for what is drawn as HTML; the fallbacks read well on both.
COLOURS = (
    "var(--jp-brand-color1, #1e88e5)",
    "var(--jp-warn-color1, #f57c00)",
    "var(--jp-success-color1, #43a047)",
    "var(--jp-ui-font-color2, #757575)",
)
