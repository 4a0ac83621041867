"""Tests, by the part of the project that they look at."""
