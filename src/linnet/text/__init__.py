"""All that turns text into tokens and back: tokenizers, chat templates, constraints, tool calls, streaming. Knows no model and no HTTP."""
