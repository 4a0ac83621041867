"""Plays traffic against modelled pods, whose number some rule decides. Nothing is served."""
