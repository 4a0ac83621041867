"""Text to tokens and back: tokenizer, chat template, incremental decoding. No model, no HTTP."""
