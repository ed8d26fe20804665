"""A report of one or several runs: read their logs, draw figures, put them on one page."""
