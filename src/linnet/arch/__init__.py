"""What a model is: specs, and one short file for every family."""
