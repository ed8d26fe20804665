"""The Mixture-of-Experts transformer in plain torch."""
