"""Text beside the engine: tokenizers, chat templates and the stream-and-stop machine. Knows no model and no HTTP."""
