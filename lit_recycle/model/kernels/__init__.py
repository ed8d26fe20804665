"""Kernels: products, norms, rotations and the loss, with gradients written by hand where torch's cost more on a CPU.

The model calls them as functions; what they compute is what its equations say.
"""
