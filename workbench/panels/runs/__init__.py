"""The list of runs and its parts."""
