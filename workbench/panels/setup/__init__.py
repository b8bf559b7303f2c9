"""The setup panel and its parts: all of a recipe's settings, and what they amount to."""
