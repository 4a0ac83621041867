"""Makes quantized checkpoints of dense ones. It serves nothing."""
