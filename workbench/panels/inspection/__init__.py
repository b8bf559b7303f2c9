"""One panel that looks into a model and its adapters: what 4 bits do, what an adapter learned, and adapters mixed."""
