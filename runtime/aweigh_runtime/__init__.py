"""The runtime: serves one model over the OpenAI API. It knows nothing of Kubernetes."""
