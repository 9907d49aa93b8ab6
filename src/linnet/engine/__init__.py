"""When things run: requests, pages, scheduling and sampling. Knows no text and no HTTP."""
