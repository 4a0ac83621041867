"""OpenAI's HTTP API: requests in, replies and events out."""
