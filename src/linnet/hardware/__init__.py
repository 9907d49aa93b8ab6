"""What machine this is, and how a model is best run on it."""
