"""Training: the LightningModule, its strategies, and the growth of a model in a run."""
