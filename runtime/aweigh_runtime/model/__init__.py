"""The decoder: configuration, weights, forward pass. It never sees a request or its text."""
