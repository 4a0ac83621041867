"""Checkpoint formats of quantized weights, each with its meaning. They know no kernel's layout."""
