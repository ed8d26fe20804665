"""This project's own checkpoints: written atomically, read lazily, whole or sharded, and grown on disk."""
