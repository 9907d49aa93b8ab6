"""The `linnet` command: one file a command. Knows the terminal; everything it computes comes from `linnet.LLM`."""
