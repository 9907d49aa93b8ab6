"""One file a family of routes: what it takes, what it answers."""
