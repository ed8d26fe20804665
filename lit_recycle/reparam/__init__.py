"""Online re-parameterisation: matrices trained as sums of branches, and merged for good; see docs/reparam.md."""
