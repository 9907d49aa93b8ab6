"""`linnet serve`: models over HTTP. Knows request schemas, access control and event streams; `LLM` runs the requests."""
