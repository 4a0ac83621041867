"""Measures servers of language models: a load client, and what `aweigh bench` asks."""
