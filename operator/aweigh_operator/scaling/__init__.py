"""How many pods an InferenceService needs, from what its pods report. Pure.

reports ─► signals ─► estimates ─► law ─► guards      a decision, with its sentence
"""
