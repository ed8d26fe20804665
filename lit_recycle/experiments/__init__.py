"""Experiments: many small runs from YAML, their results as files, and a page of figures made from them."""
