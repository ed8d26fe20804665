"""Advice on when to grow, from a checkpoint or a configuration and a budget."""
