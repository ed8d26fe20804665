"""Reinforcement learning of reasoning under a budget, on Hugging Face folders with trl; see docs/reasoning.md."""
