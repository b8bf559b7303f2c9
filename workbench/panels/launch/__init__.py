"""The setup panel with a Start button and the run below it."""
