"""`aweigh distill`: tunes a draft model to a target, for speculative decoding."""
