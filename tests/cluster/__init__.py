"""A real one-node Kubernetes for tests and the demo, made from source, in a network of its own.

It runs with the system's Python before any environment exists, so everything but the pytest
fixtures needs the standard library alone.
"""
