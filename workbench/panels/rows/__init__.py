"""Rows of data as a model meets them, and the report on all of them."""
