"""Downstream tasks of lm-eval, in a run and for checkpoints."""
