"""The router: requests for one InferenceService wait here, and go where their prefix is warm."""
