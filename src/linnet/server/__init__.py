"""`linnet serve`: models over HTTP. Knows schemas, trust and streams of events; what runs the requests is `LLM`."""
