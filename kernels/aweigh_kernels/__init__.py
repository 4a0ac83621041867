"""Products with quantized weights: what a weight means, its reference, and the fastest way here."""
