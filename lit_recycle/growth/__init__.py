"""Growth as a source map: plans, what they do to named tensors and to optimizer state, and when. No Lightning here."""
