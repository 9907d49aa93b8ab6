"""Makes models small: weights in GGUF's block formats."""
