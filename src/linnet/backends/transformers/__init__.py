"""Models that Hugging Face's transformers runs: decoders that Linnet has no family for, and encoder-decoders."""
