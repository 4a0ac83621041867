"""Chooses the next token of every row of a step. It knows no scheduler and no text."""
