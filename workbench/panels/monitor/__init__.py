"""The live view of a run and its parts: state, charts, alarms, buttons that need its state."""
