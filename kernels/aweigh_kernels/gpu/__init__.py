"""Kernels in Triton. The module of the operation says what they compute, and launches them."""
