"""Speculative decoding: who drafts, how much, and for whom. The sampler judges what is drafted."""
