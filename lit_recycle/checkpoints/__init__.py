"""Checkpoints on disk: Hugging Face folders and this project's own files, read lazily, grown and converted."""
