"""A look inside: what a model's files say of it, and pages that show how it chose its words."""
