"""Makes quantized weights of dense ones, offline. It serves nothing."""
