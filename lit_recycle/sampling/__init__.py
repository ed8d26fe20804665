"""Text sampled from trained models."""
