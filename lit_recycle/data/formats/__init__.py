"""Formats of tokenised data, one per file; `find` goes through them."""
