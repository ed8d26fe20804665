"""Recycle trained Mixture-of-Experts checkpoints: grow them in depth and width, inside a run that goes on."""

__version__ = "0.1.0"
